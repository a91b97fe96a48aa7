"""Whether cost grows in proportion to the data: N and 4 N clips, with one worker and with two.

Run: python benchmarks/scale.py [--clips 192] [--engine local|ray] [--stages ingest,featurize,tokenize]

Makes small videos, then runs each stage (which reads the one before) in fresh processes on 32, N and 4 N clips: 32 for
the start (loading networks, starting workers). Printed are wall-clock, core seconds of all, peak memory of the
largest one (goal: flat), and the core seconds expected of 4 N: the start, then the rate between 32 and N clips (goal:
within 25 %), which is how a plan made from a small measured run expects it. Core seconds, since they hardly depend on
what else the machine does; with Ray they do not include its workers. Then what a second worker gives: the clips a
second between 32 and 4 N clips by wall-clock, with two over with one, so that starting them is left out (goal: 1.6 on
two idle cores; the process that hands out tasks takes its share). The networks are tiny ones with random weights, so
that the ways of the data are what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
CLIPS_PER_VIDEO = 4
SHARD_CLIPS = 16
SIZE = 64
START_CLIPS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=192, help="N, a multiple of 16")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--stages", default="ingest,featurize,tokenize")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(json.loads(options.one))
        return
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        root = Path(folder)
        sizes = {"start": START_CLIPS, "n": options.clips, "4n": 4 * options.clips}
        for name, clips in sizes.items():
            make_videos(root / name / "videos", clips // CLIPS_PER_VIDEO)
        print(f"{'stage':<10}{'clips':>7}{'workers':>9}{'seconds':>9}{'core s':>9}{'expected':>9}{'peak MB':>9}")
        for stage in options.stages.split(","):
            added: list[float] = []
            for workers in (1, 2):
                seconds: dict[str, float] = {}
                wall: dict[str, float] = {}
                for name, clips in sizes.items():
                    result = measure(root / name, stage, workers, options.engine)
                    seconds[name], wall[name] = result["core_seconds"], result["seconds"]
                    row = f"{stage:<10}{clips:>7}{workers:>9}{wall[name]:>9.2f}{seconds[name]:>9.2f}"
                    expected = ""
                    if name == "4n":
                        each = (seconds["n"] - seconds["start"]) / (options.clips - START_CLIPS)
                        expected = f"{seconds['start'] + each * (clips - START_CLIPS):.2f}"
                    print(f"{row}{expected:>9}{result['peak_mb']:>9.0f}", flush=True)
                added.append(wall["4n"] - wall["start"])
            rates = [(sizes["4n"] - sizes["start"]) / each for each in added]
            print(
                f"{stage}: {rates[0]:.0f} clips a second with one worker, {rates[1] / rates[0]:.2f} × with two",
                flush=True,
            )


def measure(root: Path, stage: str, workers: int, engine: str) -> dict[str, float]:
    """Run a stage in a process of its own and return what it took."""
    task = json.dumps({"root": str(root), "stage": stage, "workers": workers, "engine": engine})
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(root)}
    done = subprocess.run(
        [sys.executable, __file__, "--one", task], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_one(task: dict[str, str | int]) -> None:
    """Run a stage and print its time (without imports and loading) and the peak memory of its largest process."""
    import resource

    import torch

    from deltactl.configs.featurize import FeaturizeConfig
    from deltactl.configs.ingest import IngestConfig
    from deltactl.configs.tokenize import TokenizeConfig
    from deltactl.featurize.run import run as featurize
    from deltactl.ingest.run import run as run_ingest
    from deltactl.tokenization.run import run as tokenize

    torch.set_num_threads(1)
    root, workers = Path(str(task["root"])), int(task["workers"])
    # One worker is this process itself; Ray has none of these.
    local = task["engine"] == "local"
    how = {"engine": task["engine"], "workers": 0 if local and workers == 1 else workers}
    network = {"backbone": str(GOLDEN / "backbone"), "size": SIZE, "device": "cpu", "decode_threads": 1, **how}
    shards, features, tokens = (root / f"{name}-{workers}" for name in ("shards", "features", "tokens"))
    first = root / "shards-1"
    started = time.monotonic()
    if task["stage"] == "ingest":
        settings = {"dataset": "folder", "clips": CLIPS_PER_VIDEO, "size": SIZE, "shard_clips": SHARD_CLIPS, **how}
        run_ingest(IngestConfig(source=str(root / "videos"), out=str(shards), **settings))
    elif task["stage"] == "featurize":
        featurize(FeaturizeConfig(shards=str(first), out=str(features), **network))
    else:
        store, tokenizer = str(root / "features-1"), str(GOLDEN / "deltatok.bin")
        tokenize(TokenizeConfig(data=store, tokenizer=tokenizer, out=str(tokens), **network))
    seconds = time.monotonic() - started
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    core_seconds = sum(each.ru_utime + each.ru_stime for each in usage)
    peak = max(each.ru_maxrss for each in usage)
    print(json.dumps({"seconds": seconds, "core_seconds": core_seconds, "peak_mb": peak / 1024}))


def make_videos(folder: Path, count: int) -> None:
    """Write H.264 videos of 320 × 240 pixels and 4 s, each a moving pattern of its own."""
    import av
    import numpy as np

    folder.mkdir(parents=True)
    columns, rows = np.meshgrid(np.arange(320), np.arange(240))
    for number in range(count):
        with av.open(str(folder / f"{number:05d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            stream.options = {"preset": "ultrafast"}
            for frame in range(100):
                wave = 127 + 120 * np.sin((columns * (1 + number % 5) + rows + 7 * frame) / 25)
                picture = np.repeat(wave.astype(np.uint8)[:, :, None], 3, axis=2)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
