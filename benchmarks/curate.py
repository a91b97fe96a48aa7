"""What `deltactl curate` finds among videos that are known: cuts, stills, copies; for cuts beside PySceneDetect.

Run: python benchmarks/curate.py [--videos 60] [--steps 600] [--seed 1] [--tokenizer CKPT] [--dir DIR]
                               [--scenedetect PYTHON]

Videos of the demo's world, each in a light of its own, are written in known kinds: plain ones; films of four worlds
spliced; one frame held still, with a camera's noise; copies of plain ones in another codec, size or quality, under
another name; and three that look like these and are not: fast, almost still, and fading to dark. They go through
ingest (two clips a video), featurize (the demo's backbone, random weights) and tokenize (the demo's tokenizer,
trained here for `--steps`, or one that is named), and `curate` looks at features and tokens with its own thresholds.
The truth of a clip is told from its times: a splice lies between two of its frames, or it does not. A copy is right
where an earlier clip is of the same film. PySceneDetect, where a Python that has it is named, looks at all frames of
the videos themselves with its own thresholds; a cut that it finds counts for the clips that span it. A quarter of an
hour on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pickle
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.load import resolve
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.curation.lists import KINDS as KINDS_FOUND
from deltactl.curation.run import curate
from deltactl.demo.backbone import write_backbone
from deltactl.demo.world import film, new_world, picture
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.tokenization.run import run as tokenize
from deltactl.train.run import train

HEIGHT, WIDTH, RATE, SECONDS, PIXELS = 96, 128, 25, 6, 64
KINDS = ("plain", "cut", "still", "copy", "fast", "slow", "fade")
DETECTORS = ("ContentDetector", "AdaptiveDetector", "HistogramDetector")
LOOK = """
import json, sys
import scenedetect
found = {}
for path in sys.argv[2:]:
    scenes = scenedetect.detect(path, getattr(scenedetect, sys.argv[1])())
    found[path] = [float(start.get_seconds()) for start, _ in scenes[1:]]
print(json.dumps(found))
"""
"""What the other Python is asked."""


@dataclass(frozen=True)
class Video:
    """One video of the set, and what is known of it."""

    kind: str
    number: int
    cuts: tuple[float, ...] = ()
    """Times of the first frames after the splices, in seconds."""

    @property
    def name(self) -> str:
        """Its file."""
        return f"{self.kind}{self.number:03d}.mp4"


def light(images: np.ndarray, seed: int) -> np.ndarray:
    """Return frames in the light of one video: a gain for each colour."""
    gain = np.random.default_rng([seed, 7]).uniform(0.5, 1.3, 3)
    return np.clip(images * gain, 0, 255)


def frames_of(seed: int, speed: float = 1.0) -> np.ndarray:
    """Return the frames of a world (frame, height, width, 3), as float."""
    world = new_world((seed, 11), WIDTH / HEIGHT)
    world = replace(
        world, shapes=tuple(replace(each, speed=each.speed * speed, spin=each.spin * speed) for each in world.shapes)
    )
    states = film(world, SECONDS * RATE, RATE, np.random.default_rng([seed, 12]))
    return light(np.stack([picture(state, HEIGHT, WIDTH) for state in states]).astype(np.float32), seed)


def encode(path: Path, images: np.ndarray, codec: str = "libx264", scale: float = 1.0, crf: int = 20) -> None:
    """Write frames as a video."""
    height, width = (round(side * scale / 2) * 2 for side in images.shape[1:3])
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(crf)} if codec == "libx264" else {"qscale": "6"}
        for image in np.rint(images).astype(np.uint8):
            sized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(sized, format="rgb24")))
        file.mux(stream.encode())


def write_videos(root: Path, videos: int, first_seed: int) -> list[Video]:
    """Write the set, and return what is known: `videos` plain ones, and a quarter as many of each other kind."""
    root.mkdir(parents=True)
    known = []
    for kind in KINDS:
        for number in range(videos if kind == "plain" else videos // 4):
            seed = 100_000 * first_seed + 5000 * KINDS.index(kind) + number
            chance = np.random.default_rng([seed, 13])
            video = Video(kind, number)
            speed = {"fast": 4.0, "slow": 0.05}.get(kind, 1.0)
            images = frames_of(100_000 * first_seed + number if kind == "copy" else seed, speed)
            settings: dict[str, object] = {}
            if kind == "cut":
                places = np.sort(np.array([38, 75, 112]) + chance.integers(-8, 9, 3)).tolist()
                parts = [images, *(frames_of(seed + 1000 * part) for part in (1, 2, 3))]
                ends = [0, *places, len(images)]
                images = np.concatenate(
                    [part[start:end] for part, (start, end) in zip(parts, itertools.pairwise(ends), strict=True)]
                )
                video = replace(video, cuts=tuple(place / RATE for place in places))
            elif kind == "still":
                noise = chance.normal(0, 1.5, images.shape).astype(np.float32)  # a camera's, on a tripod
                images = np.clip(images[:1] + noise, 0, 255)
            elif kind == "copy":
                settings = [{"crf": 32}, {"scale": 0.75, "crf": 26}, {"codec": "mpeg4"}][number % 3]
            elif kind == "fade":
                images = images * np.linspace(1, 0.15, len(images), dtype=np.float32)[:, None, None, None]
            encode(root / video.name, images, **settings)  # type: ignore[arg-type]
            known.append(video)
    return known


@dataclass(frozen=True)
class Known:
    """A clip, and what is true of it."""

    key: str
    kind: str
    number: int
    path: str
    times: tuple[float, float]
    cut: bool
    """Whether a splice lies between its first and its last frame."""


def known_clips(shards: Path, videos: Sequence[Video]) -> dict[str, Known]:
    """Return what is true of each clip, by key."""
    by_name, opened = {video.name: video for video in videos}, ShardSet.open(str(shards))
    known = {}
    for unit in opened.units:
        for clip in opened.read(unit):
            video, (first, *_, last) = by_name[Path(clip.meta.source).name], clip.meta.times
            spliced = any(first + 1e-6 < cut <= last + 1e-6 for cut in video.cuts)
            known[clip.key] = Known(clip.key, video.kind, video.number, video.name, (first, last), spliced)
    return known


def copies_of(keys: Sequence[str], known: Mapping[str, Known], out: set[str]) -> set[str]:
    """Return the clips before which one of the same film stands, under another name; those in `out` do not count."""
    seen: dict[int, set[str]] = {}
    found = set()
    for clip in (known[key] for key in keys if key not in out and known[key].kind in ("plain", "copy")):
        before = seen.setdefault(clip.number, set())
        if before - {clip.kind}:
            found.add(clip.key)
        before.add(clip.kind)
    return found


def scenedetect_clips(python: str, detector: str, root: Path, known: Mapping[str, Known]) -> set[str]:
    """Return the clips that span a cut that a detector of PySceneDetect finds."""
    paths = sorted({str(root / clip.path) for clip in known.values()})
    said = subprocess.run([python, "-c", LOOK, detector, *paths], check=True, capture_output=True, text=True).stdout
    cuts = {Path(path).name: times for path, times in json.loads(said.splitlines()[-1]).items()}
    return {
        clip.key
        for clip in known.values()
        if any(clip.times[0] + 1e-6 < cut <= clip.times[1] + 1e-6 for cut in cuts[clip.path])
    }


def row(name: str, found: set[str], true: set[str], kind_of: Callable[[str], str]) -> str:
    """Return precision and recall in words, and what was found wrongly."""
    right = len(found & true)
    wrong = sorted(kind_of(key) for key in found - true)
    said = ", ".join(f"{wrong.count(kind)} {kind}" for kind in dict.fromkeys(wrong)) or "none"
    precision = f"{right / len(found):.2f}" if found else "-"
    recall = f"{right / len(true):.2f} of {len(true):3}"
    return f"{name:26} {len(found):4} found  precision {precision:>4}  recall {recall}  wrong: {said}"


def prepare(root: Path, videos: int, steps: int, seed: int, tokenizer: str | None) -> list[Video]:
    """Write videos, shards, features and tokens, and return what is known of the videos."""
    known = write_videos(root / "videos", videos, seed)
    write_backbone(root / "backbone")
    shards = {"source": str(root / "videos"), "clips": 2, "size": PIXELS, "workers": 0, "out": str(root / "shards")}
    run_ingest(IngestConfig(**shards))
    here = {"size": PIXELS, "device": "cpu", "workers": 0}
    backbone, features = str(root / "backbone"), str(root / "features")
    featurize(FeaturizeConfig(shards=str(root / "shards"), backbone=backbone, views="1", out=features, **here))
    settings: dict[str, object] = {
        "data": features,
        "out": str(root / "run"),
        "steps": steps,
        "wandb": "disabled",
        "validate_every": steps,
        "checkpoint_every": steps,
        "log_every": steps,
    }
    if tokenizer is None:
        train(resolve(TokenizerConfig, config="demo-tokenizer", flags=settings), "curate")
    tokenizer = tokenizer or str(root / "run")
    tokenize(TokenizeConfig(data=features, tokenizer=tokenizer, out=str(root / "tokens"), **here))
    return known


def report(root: Path, videos: Sequence[Video], python: str | None) -> None:
    """Print precision and recall of each kind."""
    known = known_clips(root / "shards", videos)
    cuts = {key for key, clip in known.items() if clip.cut}
    stills = {key for key, clip in known.items() if clip.kind == "still"}
    span = np.mean([clip.times[1] - clip.times[0] for clip in known.values()])
    print(f"{len(videos)} videos, {len(known)} clips of {span:.1f} s on average")
    for kind in ("features", "tokens"):
        done = curate(str(root / kind), out=str(root / f"curation-{kind}"), consent=lambda _: None)
        found = json.loads((done.folder / "curation.json").read_bytes())["clips_found"]
        by_kind = {name: {entry["key"] for entry in found if name in entry["found"]} for name in KINDS_FOUND}
        opener = FeatureStore if kind == "features" else TokenStore
        with opener.open(str(root / kind)) as store:
            copies = copies_of(store.keys, known, by_kind["cut"] | by_kind["still"])
        for name, true in (("cut", cuts), ("still", stills), ("copy", copies)):
            print(row(f"{name}, curate on {kind}", by_kind[name], true, lambda key: known[key].kind))
    for detector in DETECTORS if python else ():
        assert python is not None
        found_here = scenedetect_clips(python, detector, root / "videos", known)
        print(row(f"cut, {detector}", found_here, cuts, lambda key: known[key].kind))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokenizer", metavar="CKPT", help="take this one, in place of training one")
    parser.add_argument("--dir", help="keep the set here; one that is there is used again")
    parser.add_argument("--scenedetect", metavar="PYTHON", help="a Python that has scenedetect")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(arguments.dir or name)
        file = root / "known.pickle"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(
                pickle.dumps(prepare(root, arguments.videos, arguments.steps, arguments.seed, arguments.tokenizer))
            )
        report(root, pickle.loads(file.read_bytes()), arguments.scenedetect)


if __name__ == "__main__":
    main()
