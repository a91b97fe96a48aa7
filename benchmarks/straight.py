"""Tokens straight from videos beside tokens through shards: time, disk, and by how much they differ.

Run: python benchmarks/straight.py [--videos 300] [--clips 2] [--views 1] [--rounds 3]

On the demo's videos, with the small backbone and tokenizer of `tests/golden`, in the published architectures. Both
ways cut the same clips with as many processes: `ingest` (workers for shards), then `tokenize` of the shards; or
`tokenize` of the videos, whose children decode while the backbone computes. Rounds take turns, the median counts.

Expected: straight is no slower for one view, needs the disk of the tokens alone, and tokens differ by what JPEG of
quality 95 takes from the frames. For several views its decoded frames are kept in memory, as far as they fit.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from deltactl.configs.clips import ClipsConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.demo.datasets import DemoSizes, write_kinetics
from deltactl.featurize.live import relative_differences
from deltactl.featurize.store.reader import TokenStore
from deltactl.ingest.run import run as run_ingest
from deltactl.locations import Location
from deltactl.progress import format_bytes
from deltactl.tokenization.run import run as tokenize

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
PIXELS = 128


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def differences(one: TokenStore, other: TokenStore) -> list[float]:
    """Return by how much each frame's tokens differ, relative to the clip's usual norm."""
    assert one.keys == other.keys, "both ways make the same clips"
    samples = range(len(one))
    for facts in ("times", "crops", "flips"):
        assert torch.equal(getattr(one, facts)(samples), getattr(other, facts)(samples)), facts
    a, b = (each.read_clips(samples).double().flatten(2).numpy() for each in (one, other))
    return [each for row in samples for each in relative_differences(a[row], b[row])]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        videos, shards, through, straight = (root / each for each in ("videos", "shards", "through", "straight"))
        write_kinetics(videos, 0, DemoSizes(videos=arguments.videos, video_seconds=4.0, video_size=(144, 192)))
        cut = {"dataset": "kinetics", "clips": arguments.clips}
        common = {
            "tokenizer": str(GOLDEN / "deltatok.bin"),
            "backbone": str(GOLDEN / "backbone"),
            "size": PIXELS,
            "views": str(arguments.views),
            "device": "cpu",
            "workers": 0,
        }

        def by_shards() -> None:
            run_ingest(
                IngestConfig(source=str(videos), size=PIXELS, out=str(shards), workers=arguments.processes, **cut)
            )
            tokenize(TokenizeConfig(data=str(shards), out=str(through), **common))

        def by_videos() -> None:
            tokenize(
                TokenizeConfig(
                    data=str(videos),
                    out=str(straight),
                    videos=ClipsConfig(**cut),
                    decode_threads=arguments.processes,
                    **common,
                )
            )

        took: dict[str, list[float]] = {"through shards": [], "straight": []}
        for _ in range(arguments.rounds):
            for place in (shards, through, straight):
                shutil.rmtree(place, ignore_errors=True)
            took["through shards"].append(seconds(by_shards))
            took["straight"].append(seconds(by_videos))
        clips = arguments.videos * arguments.clips
        print(f"{arguments.videos} videos, {clips} clips, {arguments.views} views, {PIXELS} px, two ways:")
        disk = {
            "through shards": Location.of(shards).total_bytes() + Location.of(through).total_bytes(),
            "straight": Location.of(straight).total_bytes(),
        }
        for way, rounds in took.items():
            middle = statistics.median(rounds)
            print(f"  {way}: {middle:.1f} s ({clips / middle:.3g} clips/s), {format_bytes(disk[way])} on the disk")
        ratio = statistics.median(took["through shards"]) / statistics.median(took["straight"])
        print(
            f"  straight is {ratio:.2f} × as fast and takes {disk['straight'] / disk['through shards']:.1%} of the disk"
        )
        found = differences(TokenStore.open(str(straight)), TokenStore.open(str(through)))
        mean, largest = statistics.fmean(found), max(found)
        print(f"  tokens differ by {mean:.4f} on average and {largest:.4f} at most, relative to their norm")


if __name__ == "__main__":
    main()
