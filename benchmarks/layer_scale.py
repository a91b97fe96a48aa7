"""From which layer scales a tokenizer comes to use its tokens: how many of five seeds, from which step on, how well.

Run: python benchmarks/layer_scale.py [--scales 1e-5 1e-3 1e-2 0.1 0.5 1] [--seeds 0 1 2 3 4] [--steps 1000]
         [--config demo-tokenizer] [--settings KEY=VALUE …] [--demo FOLDER] [--threads 1] [--out layer-scale-benchmark]

A decoder that starts as nearly the identity on the frame before may learn all that it can from that frame alone, and
never read the token (`health`: the z-swap ratio stays at 1). What it starts from is `network.layer_scale`. This trains
the same tokenizer by the training's own loop for each scale and seed, on features of the demo's world: those of a
finished `deltactl demo` (`--demo`), or of its first two steps, which are run here first. `--config` and `--settings`
say what else the runs have in common.

A line for each run, then a table (Markdown). *Escaped*: held-out clips have a z-swap ratio above 1.02, the threshold of
the training's warning, at the end; *from step*: the first reading of the training above it, every 10 steps (median,
range); then held-out loss over that of copying the frame before, and the z-swap ratio (means, ranges).

Each run keeps its folder in `--out`: given again, those that have ended are read, not trained, and one that was stopped
goes on. Started twice, two processes divide the runs; given once more, the table is of all.

Expected: the larger the scale, the more seeds escape, and the earlier; from some scale on training is less steady and
the loss higher.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from deltactl.artifacts import read_header
from deltactl.cli import main as program
from deltactl.configs.load import resolve
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.demo.datasets import DemoSizes
from deltactl.demo.run import _inside, make_data, steps
from deltactl.errors import ClaimedError, DeltactlError
from deltactl.locations import Location
from deltactl.train.run import train
from deltactl.train.steps.alarm import HEALTHY_Z_SWAP, is_sick

FIRST_STEPS = 2
"""Of the demo: ingest, featurize."""
FEATURES = "workspace/features/kinetics"
COMMON = {"log_every": "log_every=10", "wandb": "wandb=disabled", "resume": "resume=auto"}
"""Settings of all runs, unless `--settings` has others."""
SHARED = "shared.json"
"""The file that says what the runs of a folder have in common."""


@dataclass(frozen=True)
class Ended:
    """What the figures of a run say that has ended."""

    from_step: int | None
    """The first reading of the training at which tokens mattered."""
    z_swap: float
    """Of the held-out clips, at the end."""
    copy: float
    """Loss of the held-out clips over that of copying the frame before, at the end."""

    @property
    def escaped(self) -> bool:
        """Whether tokens matter at the end."""
        return not is_sick(self.z_swap)

    def line(self) -> str:
        """Return it in words."""
        when = "never" if self.from_step is None else f"from step {self.from_step:,} on"
        return f"above {HEALTHY_Z_SWAP} {when}; at the end z-swap {self.z_swap:.3f}, loss {self.copy:.3f} of copying's"


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scales", type=float, nargs="+", default=[1e-5, 1e-3, 1e-2, 0.1, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--config", default="demo-tokenizer", help="preset or file that the runs have in common")
    parser.add_argument("--settings", metavar="KEY=VALUE", nargs="+", default=[], help="over those of --config")
    parser.add_argument("--demo", type=Path, help="folder of a finished demo, whose features are used")
    parser.add_argument("--videos", type=int, default=DemoSizes.videos, help="where there is no --demo")
    parser.add_argument("--threads", type=int, default=1, help="of the processor, for each run")
    parser.add_argument("--out", type=Path, default=Path("layer-scale-benchmark"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    try:
        features = (given.demo or make_features(given.out / "demo", given.videos)) / FEATURES
        found = run_all(given, features)
    except DeltactlError as error:
        raise SystemExit(f"error: {error}") from error
    print("\n" + "\n".join(table(found)))


def make_features(demo: Path, videos: int) -> Path:
    """Make the features of the demo's world, unless they are there, and return the demo's folder."""
    make_data(demo, 0, DemoSizes(videos=videos, heads_videos=1, test_videos=1, drives=1))
    with _inside(demo):
        for step, _ in zip(steps(0), range(FIRST_STEPS), strict=False):
            if code := program(step.arguments):
                raise DeltactlError(f"`deltactl {step.line}` ended with code {code}")
    return demo


def run_all(given: argparse.Namespace, features: Path) -> dict[float, list[Ended]]:
    """Train the runs that are missing, one scale after the other for each seed; return what all found, by scale."""
    found: dict[float, list[Ended]] = {scale: [] for scale in given.scales}
    for seed in given.seeds:
        for scale in given.scales:
            name, run = f"layer scale {scale:g}, seed {seed}", given.out / f"scale-{scale:g}-seed-{seed}"
            config = config_of(given, features, run, scale, seed)
            check_shared(given.out, config, features)
            began = time.monotonic()
            try:
                if read_run(run, given.steps) is None and train(config, name).stopped:
                    raise SystemExit(f"{name} was stopped; run the same command again to go on")
            except ClaimedError as error:
                print(f"{name}: {error}", flush=True)
                continue
            ended = read_run(run, given.steps)
            if ended is None:
                raise SystemExit(
                    f"{run} has no validation: no clip was held out; add --settings validation_fraction=0.2"
                )
            found[scale].append(ended)
            print(f"{name}: {ended.line()}; {time.monotonic() - began:.0f} s", flush=True)
    return found


def config_of(given: argparse.Namespace, features: Path, run: Path, scale: float, seed: int) -> TokenizerConfig:
    """Return the settings of a run, which validates and writes a checkpoint at its end alone."""
    values = {
        "data": str(features),
        "out": str(run),
        "seed": seed,
        "steps": given.steps,
        "validate_every": given.steps,
        "checkpoint_every": given.steps,
        "network.layer_scale": scale,
    }
    asked = {**COMMON, **{each.partition("=")[0]: each for each in given.settings}}
    return resolve(TokenizerConfig, config=given.config, flags=values, assignments=list(asked.values()))


def check_shared(out: Path, config: TokenizerConfig, features: Path) -> None:
    """Note in the folder of the runs what they have in common; end where those in it have something else."""
    own = {"seed": True, "out": True, "data": True, "network": {"layer_scale"}}
    here: dict[str, Any] = json.loads(config.model_dump_json(exclude=own))
    here["features"] = json.loads(json.dumps(read_header(Location.of(features)).identity.values))
    out.mkdir(parents=True, exist_ok=True)
    kept = out / SHARED
    if not kept.exists():
        kept.write_text(json.dumps(here, indent=1))
    there = json.loads(kept.read_text())
    differ = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if differ:
        raise SystemExit(
            f"{out} holds runs with other settings ({', '.join(differ)}); choose another --out, or remove it"
        )


def read_run(run: Path, last: int) -> Ended | None:
    """Return what the figures of a run say, None where it has not ended."""
    if not (run / "metrics.csv").exists():
        return None
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    ends = [row for row in rows if row["step"] == str(last) and row.get("validation/copy")]
    if not ends:
        return None
    readings = [(int(row["step"]), float(row["health/z_swap"])) for row in rows if row["health/z_swap"]]
    from_step = min((step for step, z_swap in readings if not is_sick(z_swap)), default=None)
    return Ended(from_step, float(ends[0]["validation/z_swap"]), float(ends[0]["validation/copy"]))


def table(found: dict[float, list[Ended]]) -> list[str]:
    """Return the lines of the table."""
    lines = [
        f"| layer scale | escaped | above {HEALTHY_Z_SWAP} from step | loss over copying's | z-swap at the end |",
        "|---|---|---|---|---|",
    ]
    for scale, runs in found.items():
        if runs:
            at = [run.from_step for run in runs if run.from_step is not None]
            never = f", {len(runs) - len(at)} never" if len(at) < len(runs) else ""
            cells = [
                f"{scale:g}",
                f"{sum(run.escaped for run in runs)} of {len(runs)}",
                f"{median(at):g} ({min(at)} to {max(at)}){never}" if at else "never",
                _spread([run.copy for run in runs]),
                _spread([run.z_swap for run in runs]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
