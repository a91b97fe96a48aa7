"""How well `deltactl probe` tells the classes of the demo's world, by pooling; and what it costs for two sizes.

Run: python benchmarks/probe.py [DEMO] [--seeds 12] [--clips 4096] [--classes 20] [--dir DIR]

DEMO is the folder of a finished `deltactl demo`, whose Kinetics has videos in folders by the kind of the nearest shape.
Features and tokens are probed with every pooling, each time with other videos held out (`--seed 0`, 1 …): one set of
held-out videos is small. The accuracy is that of all of them together; since a video is held out several times, its
interval would be about as wide as that of all videos once, which is printed beside it.

The cost is measured on stores of random numbers that are made here, of `--clips` clips and of four times as many, 8
frames of 64 patches of width 384 and a token of width 384, with classes around points: processor seconds, the
starting of the program left out, and the peak of memory of a process each. Reading is warm. A few minutes.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from deltactl.artifacts import Identity, open_artifact
from deltactl.evaluate.probe import run as probe_run
from deltactl.evaluate.probe.plan import Settings
from deltactl.evaluate.probe.run import run_probe
from deltactl.evaluate.probe.vectors import POOLINGS
from deltactl.evaluate.protocol.intervals import wilson
from deltactl.featurize.store.finish import finish
from deltactl.featurize.store.layout import Layout, StoreKind
from deltactl.featurize.store.packing import pack_store
from deltactl.featurize.store.writer import group_writer, write_root
from deltactl.ingest.shards.columns import Column
from deltactl.locations import Location
from deltactl.removal import agree

FRAMES, PATCHES, DIM, SHARD_CLIPS, VIDEO_CLIPS = 8, 64, 384, 256, 4
KINDS: tuple[StoreKind, ...] = ("features", "tokens")


# --- how well --------------------------------------------------------------------------------------------------------


def compare(demo: Path, seeds: int) -> None:
    """Print the accuracy from features and tokens of a demo, by pooling, over several draws of held-out videos."""
    logging.disable(logging.WARNING)  # each draw alone is small
    for kind in KINDS:
        store = str(demo / "workspace" / kind / "kinetics")
        for pooling in POOLINGS:
            found = []
            with tempfile.TemporaryDirectory() as folder:
                for seed in range(seeds):
                    settings = Settings(seed=seed, pooling=pooling, device="cpu")
                    found.append(run_probe(store, settings, f"{folder}/out", agree).facts)
            print(f"{kind:8} {pooling:10} {words_of(found)}", flush=True)


def words_of(found: list[Any]) -> str:
    """Return what several probes come to together."""
    said = []
    for what in ("by_video", "by_clip"):
        counts = np.array([facts["accuracy"][what]["count"] for facts in found])
        for name, values in {
            what: [facts["accuracy"][what]["top1"]["accuracy"] for facts in found],
            "commonest": [facts["accuracy"][what]["majority"] for facts in found],
        }.items():
            said.append(f"{name} {100 * (np.array(values) * counts).sum() / counts.sum():.1f} %")
    videos = found[0]["trained"]["videos"] + found[0]["told"]["videos"]
    share = np.mean([facts["accuracy"]["by_video"]["top1"]["accuracy"] for facts in found])
    ends = wilson(float(share), videos)
    strengths = sorted({facts["l2"]["value"] for facts in found})
    chance = 100 / len(found[0]["classes"])
    return (
        f"width {found[0]['width']:5}  {', '.join(said)}; chance {chance:.1f} %; {videos} videos once: "
        f"{100 * ends.low:.0f} to {100 * ends.high:.0f}; L2 {strengths[0]:g} to {strengths[-1]:g}"
    )


# --- what it costs ---------------------------------------------------------------------------------------------------


def make_store(root: Location, kind: StoreKind, clips: int, classes: int) -> None:
    """Write a store of clips around a point for each class, `VIDEO_CLIPS` clips a video."""
    layout = Layout(
        kind, FRAMES, (PATCHES if kind == "features" else 1, DIM), carried=(Column("clip.class", "text", ()),)
    )
    identity = Identity(kind, {"backbone": "b" * 64, "tokenizer": "t" * 64, "size": 128, "clips": clips})
    open_artifact(root, identity, {})
    write_root(root, np.zeros(layout.frame_shape, np.float32) if kind == "features" else None)
    centres = np.random.default_rng(0).standard_normal((classes, DIM)).astype(np.float32)
    units = [f"{number:06d}" for number in range(-(-clips // SHARD_CLIPS))]
    for number, unit in enumerate(units):
        draw = np.random.default_rng([1, number])
        places = np.arange(number * SHARD_CLIPS, min((number + 1) * SHARD_CLIPS, clips))
        videos = places // VIDEO_CLIPS
        of_video = np.random.default_rng(2).standard_normal((int(videos.max()) + 1, DIM)).astype(np.float32)
        keys, sources = [f"clip{place}" for place in places], [f"video{video}" for video in videos]
        with group_writer(root, 0, unit, layout, keys, sources) as writer:
            for row, video in enumerate(videos.tolist()):
                noise = draw.standard_normal((FRAMES, *layout.frame_shape), np.float32)
                writer.put(row, 0, (0.3 * centres[video % classes] + of_video[video] + noise).astype(np.float16))
            zeros = np.zeros((len(places), FRAMES)), np.zeros((len(places), 4)), np.zeros(len(places))
            attributes = {
                "texts": {"clip.class": [f"class {video % classes}" for video in videos.tolist()]},
                "identity": {"kind": kind, "values": dict(identity.values)},
                **{"quarantined": [], "view": 0, "shard": unit, "shard_sha256": unit},
            }
            small = dict(zip(("times", "crop", "flip"), zeros, strict=True))
            writer.close(grid=(1, layout.frame_shape[0]), small=small, attributes=attributes)
    index = finish(root, expected=units)
    if kind == "tokens" and index is not None:
        pack_store(root, index)


def measure(store: str) -> dict[str, float]:
    """Return processor seconds of reading and of the fit, the peak of memory in bytes, and the accuracy."""
    seconds: dict[str, float] = {}

    def timed(name: str, real: Any) -> Any:
        def call(*values: Any) -> Any:
            start = time.process_time()
            found = real(*values)
            seconds[name] = seconds.get(name, 0) + time.process_time() - start
            return found

        return call

    probe_run.vectors_of = timed("read", probe_run.vectors_of)
    probe_run.fit_probe = timed("fit", probe_run.fit_probe)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        facts = run_probe(store, Settings(device="cpu"), f"{folder}/out", agree).facts
        seconds["whole"] = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    evaluations = sum(each["evaluations"] for each in facts["l2"]["tried"])
    accuracy = facts["accuracy"]["by_video"]["top1"]["accuracy"]
    return {**seconds, "added": 1024.0 * (peak - before), "evaluations": evaluations, "accuracy": accuracy}


def measure_cost(folder: Path, clips: int, classes: int) -> None:
    """Print what two sizes cost."""
    for kind in KINDS:
        found = []
        for count in (clips, 4 * clips):
            place = folder / f"{kind}-{count}"
            if not place.exists():
                make_store(Location.of(place), kind, count, classes)
            words = [sys.executable, __file__, "--measure", str(place)]
            subprocess.run(words, check=True, capture_output=True)  # pages are warm afterwards
            done = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            found.append(done)
            print(
                f"{kind:8} {count:7,} clips: {done['whole']:.1f} s, of it reading {done['read']:.2f} s and the fit "
                f"{done['fit']:.2f} s ({done['evaluations']} evaluations to choose the strength); memory "
                f"+{done['added'] / 1e6:.0f} MB; {100 * done['accuracy']:.0f} % of held-out videos",
                flush=True,
            )
        one, four = found
        each = [done["fit"] / done["evaluations"] for done in found]
        print(
            f"{kind:8} four times the clips: reading {four['read'] / one['read']:.1f} ×, an evaluation "
            f"{each[1] / each[0]:.1f} ×, all {four['whole'] / one['whole']:.1f} ×"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("demo", nargs="?", type=Path, help="the folder of a finished demo")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--clips", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--dir", type=Path, help="keep the stores here; those that are there are used again")
    parser.add_argument("--measure", metavar="STORE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        logging.disable(logging.WARNING)
        print(json.dumps(measure(arguments.measure)))
        return
    if arguments.demo is not None:
        compare(arguments.demo, arguments.seeds)
    with tempfile.TemporaryDirectory() as folder:
        measure_cost(arguments.dir or Path(folder), arguments.clips, arguments.classes)


if __name__ == "__main__":
    main()
