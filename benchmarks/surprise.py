"""Whether surprise tells the demo's impossible films from possible ones, for several seeds; and what it costs.

Run: python benchmarks/surprise.py DEMO… [--scenes 12] [--samples 20]

Each DEMO is the folder of a finished `deltactl demo --seed N`, or of its first six steps (`--train SEED…` makes such
folders under --out, without the heads). Their networks have seen possible films only. For each, films of its seed are
written, `scenes` of each kind with four films and four pairs each, and `deltactl surprise --pairs` scores them; the
table says the share told apart with its 95 % interval, for each kind and score, by the mean over frames and by the
largest. Then seconds for so many scenes and for half of them: costs grow in proportion to clips.

Expected: above one half. Both kinds of films are made of the same frames, so what tells of a frame alone is right in
half of the pairs; copy-last sees the frame before, and so jumps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from deltactl.cli import main as program
from deltactl.configs.surprise import SurpriseConfig
from deltactl.demo.datasets import DemoSizes
from deltactl.demo.impossible import write_pairs
from deltactl.demo.run import PIXELS, _inside, make_data, steps
from deltactl.evaluate.surprise.run import run_surprise
from deltactl.removal import agree

FIRST_STEPS = 6
"""Of the demo: ingest, featurize, tokenizer, decoder, tokens, world."""
STREAM = 1000
"""Added to the seed of the films, whose worlds no network has seen."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("demos", type=Path, nargs="*")
    parser.add_argument("--train", type=int, nargs="*", default=[])
    parser.add_argument("--steps", type=int, help="of both trainings, by default the demo's")
    parser.add_argument("--out", type=Path, default=Path("surprise-benchmark"))
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--samples", type=int, default=20)
    given = parser.parse_args()
    demos = [*given.demos, *(train(given.out / f"demo-{seed}", seed, given.steps) for seed in given.train)]
    for demo in demos:
        seed = json.loads((demo / "data/made.json").read_text())["seed"]
        films = given.out / f"films-{seed}"
        write_pairs(films, STREAM + seed, given.scenes)
        began = time.monotonic()
        summary = score(demo, films, given.out / f"scores-{seed}", given.samples)
        whole = time.monotonic() - began
        half = films.with_name(f"films-half-{seed}")
        write_pairs(half, STREAM + seed, given.scenes // 2)
        began = time.monotonic()
        score(demo, half, given.out / f"scores-half-{seed}", given.samples)
        halved = time.monotonic() - began
        print(f"\nseed {seed}: {summary['clips']} films in {whole:.1f} s, half of them in {halved:.1f} s")
        for space in ("features", "tokens"):
            print(f"  {space}: " + ", ".join(f"{name} {value}" for name, value in summary[space].items()))
        for each in summary["pairs"]:
            if each["set"] is None or each["over"] == "mean":
                print(
                    f"  {each['set'] or 'all':8} {each['score']:20} {each['over']:5} {each['accuracy']:.3f} "
                    f"({each['low']:.3f} to {each['high']:.3f})"
                )


def train(folder: Path, seed: int, count: int | None) -> Path:
    """Make the demo's data and networks of one seed, without heads, and return the folder."""
    make_data(folder, seed, DemoSizes())
    settings = () if count is None else (f"steps={count}",)
    with _inside(folder):
        for step, _ in zip(steps(seed, settings), range(FIRST_STEPS), strict=False):
            assert program(step.arguments) == 0, step.line
    return folder


def score(demo: Path, films: Path, out: Path, samples: int) -> dict:
    """Score the pairs of a folder and return the summary."""
    config = SurpriseConfig(
        source=str(films),
        pairs=str(films / "pairs.csv"),
        backbone=str(demo / "data/backbone"),
        size=int(PIXELS),
        stride=0.2,
        tokenizer=str(demo / "workspace/runs/tokenizer"),
        world=str(demo / "workspace/runs/world"),
        samples=samples,
        out=str(out),
    )
    return dict(run_surprise(config, print, agree).summary)


if __name__ == "__main__":
    main()
