"""Runs the whole pipeline on the demo's world by the real commands, each printed first: the demo is the manual.

Takes an empty folder, leaves in it videos, shards, features, tokens, runs, a table, a report, and pictures of futures.
The commands run in this process, one after the other, through the function that the program itself calls; what they
need and what they leave is on the disk, and any of them can be repeated by hand. Run again, each goes on from there.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deltactl.claims import hold
from deltactl.demo.backbone import write_backbone
from deltactl.demo.coverage import Coverage, measure_coverage
from deltactl.demo.datasets import DemoSizes, write_kinetics, write_kitti, write_vspw
from deltactl.demo.impossible import FRAMES_PER_SECOND, Scene, make_scene, write_film
from deltactl.errors import STOPPED_CODE, DeltactlError, StoppedError
from deltactl.fields import Fields
from deltactl.locations import Location, storage_errors
from deltactl.reading import SETTINGS, leads_to_file, read_file

PIXELS = "64"
EVENT = "vanish"
"""What happens in the film that cannot be."""
Program = Callable[[Sequence[str]], int]
"""What the command line calls: arguments in, exit code out."""


@dataclass(frozen=True)
class Step:
    """One command, and what it is for."""

    why: str
    line: str
    """What is typed after `deltactl`."""

    @property
    def arguments(self) -> list[str]:
        """The words of the line."""
        return shlex.split(self.line)


@dataclass(frozen=True)
class Vanished:
    """How surprising the film is in which a shape vanishes: the excess of each frame, in the space of features."""

    seconds: float
    """When the first frame without the shape is looked at."""
    there: float
    """Of that frame."""
    others: float
    """The largest of the frames before it."""
    typical: float
    """The median of those."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, and where."""

    report: Path
    """The page that shows all of it."""
    futures: Path
    surprise: Path
    coverage: Coverage
    vanished: Vanished
    rows: list[dict[str, object]]
    """The rows of VSPW's `metrics.json`."""
    took: tuple[tuple[Step, float], ...]
    """The commands in order, and the seconds of each."""
    seconds: float


def run_demo(
    root: Path,
    program: Program,
    *,
    seed: int = 0,
    sizes: DemoSizes | None = None,
    settings: Sequence[str] = (),
    yes: bool = False,
) -> DemoResult:
    """Make the world's data under `root` and run every step.

    `settings` are `KEY=VALUE` settings of the first three trainings, to shorten them. `yes`: overwrite reports of
    earlier settings without asking.

    Raises:
        ClaimedError: another process makes a demo there.
        DeltactlError: a command fails, or the folder holds something else.
        StoppedError: a command was stopped by a signal.
    """
    with hold(Location.of(root)):
        return _run(root, program, seed, sizes or DemoSizes(), settings, yes)


def _run(root: Path, program: Program, seed: int, sizes: DemoSizes, settings: Sequence[str], yes: bool) -> DemoResult:
    started = time.monotonic()
    print(f"A world of moving shapes, seed {seed}: making its videos and data sets in {root / 'data'}", flush=True)
    make_data(root, seed, sizes)
    took: list[tuple[Step, float]] = []
    # Paths in the commands are relative: they can be typed again in that folder.
    with _inside(root):
        for step in steps(seed, settings, yes=yes):
            begun = time.monotonic()
            command = shlex.join(["deltactl", *step.arguments])
            print(f"\n# {step.why}\n$ {command}", flush=True)
            code = program(step.arguments)
            if code > STOPPED_CODE:
                raise StoppedError(code - STOPPED_CODE)
            if code:
                raise DeltactlError(f"the demo stopped: `{command}` ended with code {code}")
            took.append((step, time.monotonic() - begun))
    metrics = Location.of(root) / "workspace/reports/vspw/metrics.json"
    return DemoResult(
        report=root / "report.html",
        futures=root / "workspace/reports/futures/futures.png",
        surprise=root / "workspace/reports/surprise/surprise.png",
        coverage=coverage_of(root, seed, sizes),
        vanished=vanished(root, seed, sizes),
        took=tuple(took),
        rows=Fields(metrics.read_json(), metrics).array("rows"),
        seconds=time.monotonic() - started,
    )


def make_data(root: Path, seed: int, sizes: DemoSizes) -> None:
    """Write the data sets, one video of another world to predict from, and the backbone, unless they are there."""
    marker, begun = root / "data" / "made.json", root / "data" / "making.json"
    description = json.dumps({"seed": seed, "sizes": repr(sizes)})
    if leads_to_file(marker) and read_file(marker, SETTINGS) == description.encode():
        return
    if marker.exists():
        raise DeltactlError(f"{root} holds a demo of another seed or size; choose another --out, or remove it")
    there = sorted(path.name for path in marker.parent.iterdir()) if marker.parent.is_dir() else []
    if there and not begun.is_file():
        raise DeltactlError(
            f"{marker.parent} holds {there[0]!r} and no demo; nothing is overwritten: choose another --out"
        )
    with storage_errors(root / "data", "write"):
        marker.parent.mkdir(parents=True, exist_ok=True)
        begun.write_text(description)
        write_kinetics(root / "data/kinetics", seed, sizes)
        write_vspw(root / "data/VSPW", seed, sizes)
        write_kitti(root / "data/kitti", seed, sizes)
        write_film(root / "data/impossible", _scene(seed, sizes).impossible[0], sizes.test_size)
        write_backbone(root / "data/backbone")
        marker.write_text(description)
        begun.unlink()


def steps(seed: int, settings: Sequence[str] = (), *, yes: bool = False) -> Iterator[Step]:
    """Yield the commands, from videos to futures."""
    shards, features, tokens = (f"workspace/{kind}/kinetics" for kind in ("shards", "features", "tokens"))
    tokenizer, world, rgb = (f"workspace/runs/{name}" for name in ("tokenizer", "world", "rgb"))
    view = f"--backbone data/backbone --size {PIXELS}"
    training = " ".join(["--resume auto", f"--seed {seed}", *(f"--set {shlex.quote(setting)}" for setting in settings)])
    yield Step(
        "Videos become shards: 16 clips of 8 frames from each, 0.2 s apart",
        f"ingest data/kinetics --clips 16 --stride 0.2 --size {PIXELS} --seed {seed} --out {shards}",
    )
    yield Step(
        "The frozen backbone runs once, over whole frames, of which half are mirrored",
        f"featurize {shards} {view} --crop-area 1:1 --aspect 1:1 --seed {seed} --out {features}",
    )
    yield Step(
        "DeltaTok learns to put the change between two frames into one token",
        f"train tokenizer {features} --config demo-tokenizer {training} --out {tokenizer}",
    )
    yield Step(
        "A small decoder learns to paint what features stand for",
        f"train rgb {features} --shards {shards} --config demo-rgb {training} --out {rgb}",
    )
    yield Step(
        "Features become tokens, a small fraction of their size",
        f"tokenize {features} --tokenizer {tokenizer} --out {tokens}",
    )
    yield Step(
        "DeltaWorld learns which tokens may come next",
        f"train world {tokens} --config demo-world {training} --out {world}",
    )
    agreed = " --yes" if yes else ""
    networks = f"{view} --tokenizer {tokenizer} --world {world}"
    sets = (("vspw", "data/VSPW", "classes", 300), ("kitti", "data/kitti", "depths", 100))
    for dataset, tree, what, head_steps in sets:
        lists = [f"--split-file {tree}/eigen_{split}.txt" if dataset == "kitti" else "" for split in ("train", "test")]
        head = f"workspace/runs/{dataset}-head"
        there = f"workspace/shards/{dataset}-train", f"workspace/features/{dataset}-train"
        yield Step(
            f"A linear head reads {what} off features: first the frames to learn it from",
            f"ingest {tree} --dataset {dataset} --split train {lists[0]} --frames 1 --size {PIXELS} --out {there[0]}",
        )
        yield Step("… their features", f"featurize {there[0]} {view} --out {there[1]}")
        yield Step(
            "… and the head",
            f"train head --dataset {dataset} --shards {there[0]} --store {there[1]} --config demo-head --resume auto "
            f"--set steps={head_steps} --seed {seed} --out {head}",
        )
        yield Step(
            "The published table, on worlds that no network has seen",
            f"eval --dataset {dataset} --root {tree} {lists[1]} {networks} --head {head} --rgb-head {rgb} "
            f"--seed {seed} --out workspace/reports/{dataset}{agreed}",
        )
    yield Step(
        "Futures of one video from its second 2 on, beside what came",
        f"predict data/VSPW/data/val0000/origin --fps 15 --at 2 {networks} --rgb-head {rgb} "
        f"--head workspace/runs/vspw-head --seed {seed} --out workspace/reports/futures{agreed}",
    )
    yield Step(
        "How surprising each frame of a film is in which something vanishes",
        f"surprise data/impossible {networks} --seed {seed} --out workspace/reports/surprise{agreed}",
    )


def coverage_of(root: Path, seed: int, sizes: DemoSizes) -> Coverage:
    """Measure how well the trained networks' samples cover the futures that really can happen."""
    from deltactl.featurize.backbones.backbone import Backbone
    from deltactl.train.checkpoints.loading import load
    from deltactl.train.networks.deltatok import TOKENIZER
    from deltactl.train.networks.deltaworld import WORLD

    return measure_coverage(
        Backbone.load(str(root / "data/backbone")),
        load(str(root / "workspace/runs/tokenizer"), TOKENIZER),
        load(str(root / "workspace/runs/world"), WORLD),
        seed=seed,
        sizes=sizes,
    )


def vanished(root: Path, seed: int, sizes: DemoSizes) -> Vanished:
    """Return how surprising the film of the impossible was, from the scores that were written."""
    event = _scene(seed, sizes).event / FRAMES_PER_SECOND
    with (root / "workspace/reports/surprise/scores.csv").open(newline="") as file:
        excess = {float(row["time"]): float(row["features_excess"]) for row in csv.DictReader(file)}
    after = min(seconds for seconds in excess if seconds > event - 1e-6)
    before = [value for seconds, value in excess.items() if seconds < after]
    return Vanished(after, excess[after], max(before), statistics.median(before))


def _scene(seed: int, sizes: DemoSizes) -> Scene:
    """Return the scene of the film that cannot be."""
    height, width = sizes.test_size
    return make_scene(EVENT, seed, 0, width / height)


@contextmanager
def _inside(root: Path) -> Iterator[None]:
    """Work in `root`, with its workspace, and come back."""
    before, home = Path.cwd(), os.environ.get("DELTACTL_HOME")
    os.chdir(root)
    os.environ["DELTACTL_HOME"] = "workspace"
    try:
        yield
    finally:
        os.chdir(before)
        if home is None:
            del os.environ["DELTACTL_HOME"]
        else:
            os.environ["DELTACTL_HOME"] = home
