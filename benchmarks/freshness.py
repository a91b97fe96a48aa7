"""What a cache's repetition costs: held-out loss at equal steps for 1, 4 and 16 views, and for live training.

Run: python benchmarks/freshness.py [--videos 24] [--clips 1] [--steps 1500] [--views 1 4 16]

On the demo's world: its videos become shards once, and a store for each number of views; the demo's tokenizer trains
from each, and live from the shards, with the same seed, so that all see the same clips in the same order and differ in
the crops alone. The held-out clips, of videos that no run sees, are the same too.

Expected: with one view each sample repeats often and the held-out loss falls behind; more views close the gap to live
training, where no crop repeats. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.load import resolve
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.demo.backbone import write_backbone
from deltactl.demo.datasets import DemoSizes, write_kinetics
from deltactl.featurize.run import run as featurize
from deltactl.ingest.run import run as run_ingest
from deltactl.train.run import train

PIXELS = 64


def losses(run: Path) -> list[tuple[int, float]]:
    """Return step and held-out loss of each validation."""
    with (run / "metrics.csv").open() as file:
        return [
            (int(row["step"]), float(row["validation/loss"])) for row in csv.DictReader(file) if row["validation/loss"]
        ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4, 16])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_kinetics(root / "videos", 0, DemoSizes(videos=arguments.videos))
        write_backbone(root / "backbone")
        shards = str(root / "shards")
        run_ingest(
            IngestConfig(
                dataset="kinetics",
                source=str(root / "videos"),
                clips=arguments.clips,
                size=PIXELS,
                out=shards,
                workers=0,
            )
        )
        inputs = {"live": shards}
        for views in arguments.views:
            store = str(root / f"features-{views}")
            featurize(
                FeaturizeConfig(
                    shards=shards,
                    backbone=str(root / "backbone"),
                    size=PIXELS,
                    views=str(views),
                    out=store,
                    device="cpu",
                    workers=0,
                )
            )
            inputs[f"{views} views"] = store
        results = {}
        for label, data in inputs.items():
            out = root / f"run {label}"
            settings = {
                "data": data,
                "out": str(out),
                "backbone": str(root / "backbone"),
                "steps": arguments.steps,
                "wandb": "disabled",
                "validation_fraction": 0.25,
                "validate_every": max(1, arguments.steps // 5),
                "log_every": max(1, arguments.steps // 5),
                "checkpoint_every": arguments.steps,
                "last_every": arguments.steps,
            }
            train(resolve(TokenizerConfig, config="demo-tokenizer", flags=settings), label)
            results[label] = losses(out)
    print("held-out loss after   " + "".join(f"{step:>10,}" for step, _ in results["live"]) + " steps")
    for label in [*(f"{views} views" for views in arguments.views), "live"]:
        print(f"{label:>20}  " + "".join(f"{loss:10.5f}" for _, loss in results[label]))


if __name__ == "__main__":
    main()
