"""LeRobot sets of version 3: many episodes in a parquet file and in a video file, told apart by `meta/episodes`.

    meta/info.json                                    version, rate, features, splits, how files are named
    meta/episodes/chunk-000/file-000.parquet          of each episode its rows, its tasks, its part of each video file
    data/chunk-000/file-000.parquet                   rows: actions, states …
    videos/CAMERA/chunk-000/file-000.mp4              what a camera saw

Each camera of each episode is a source, `CAMERA/episode_000000`. Listing reads `meta` alone: of 50,000 episodes some
seconds. The layout is that of the library lerobot, 0.4 (`codebase_version` v3.0).
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deltactl.datasets.record import VideoSet
from deltactl.errors import ConfigError
from deltactl.ingest.episodes.lerobot import EPISODE, LeRobotEpisode, parquet, parquet_errors
from deltactl.ingest.shards.columns import LARGEST_ROW, NUMBERS
from deltactl.ingest.sources import RefusedSource, Source, VideoListing
from deltactl.progress import counted, few
from deltactl.reading import SETTINGS, check_regular, parse_json, read_file, reason_of

INFO, EPISODES = "meta/info.json", "meta/episodes"
VERSION = 3
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
SPLIT = re.compile(r"([0-9]{1,12}):([0-9]{1,12})")
LAYOUT = "a LeRobot set, the folder with meta, data and videos (hf download --repo-type dataset NAME --local-dir DIR)"
CONVERT = "python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id NAME"
"""LeRobot's own command."""


def list_sources(paths: Sequence[Path], split: str | None) -> VideoListing:
    """Return the sources of a split: each camera of each episode.

    Raises:
        ConfigError: the root is none of a LeRobot set of version 3, has no such split, or no videos.
        MissingExtraError: PyArrow is not installed.
    """
    root = paths[0]
    split = split or "train"
    info = Info.read(root)
    first, last = info.episodes_of(split)
    sources: list[Source] = []
    for number, row in _episodes(root, info.cameras).items():
        if first <= number < last:
            sources += [_source(info, number, row, camera) for camera in info.cameras]
    if not sources:
        raise ConfigError(f"{root} has no episodes in the split {split} ({first}:{last})")
    return VideoListing("lerobot", root, tuple(sorted(sources, key=lambda each: each.name)), info.notes)


@dataclass(frozen=True)
class Info:
    """What `meta/info.json` says."""

    place: Path
    fps: float
    cameras: tuple[str, ...]
    """Features that are videos, without depth maps."""
    features: tuple[str, ...]
    """Features that are numbers, no more in a row than columns may have."""
    splits: Mapping[str, str]
    data_path: str
    video_path: str
    notes: tuple[str, ...]

    @classmethod
    def read(cls, root: Path) -> Info:
        """Read the file.

        Raises:
            ConfigError: it is not there, of another version, or tells of no videos.
        """
        place = root / INFO
        try:
            value = parse_json(read_file(place, SETTINGS))
        except OSError as error:
            raise ConfigError(f"{place} {reason_of(error)}; expected {LAYOUT}") from error
        except ValueError as error:
            raise ConfigError(f"{place} is not JSON: {error}; expected {LAYOUT}") from error
        version = value.get("codebase_version") if isinstance(value, dict) else None
        match = re.fullmatch(r"v([0-9]{1,3})(\..*)?", version) if isinstance(version, str) else None
        if match is None or int(match[1]) != VERSION:
            remedy = f"; convert it: {CONVERT}" if match is not None and int(match[1]) < VERSION else ""
            raise ConfigError(f"{place}: codebase_version is {version!r}; sets of v{VERSION}.0 are read{remedy}")
        return cls._of(place, value)

    @classmethod
    def _of(cls, place: Path, value: Mapping[str, Any]) -> Info:
        fps, features, splits = value.get("fps"), value.get("features"), value.get("splits", {})
        if not isinstance(fps, int | float) or isinstance(fps, bool) or fps <= 0:
            raise ConfigError(f"{place}: fps is {fps!r}; a number above 0 was expected")
        if not isinstance(features, dict) or not all(isinstance(each, dict) for each in features.values()):
            raise ConfigError(f"{place}: features is not an object of objects")
        if not isinstance(splits, dict):
            raise ConfigError(f"{place}: splits is {splits!r}; an object such as {{'train': '0:50'}} was expected")
        kinds = {name: str(each.get("dtype")) for name, each in features.items()}
        videos = [name for name, kind in kinds.items() if kind == "video"]
        depth = [name for name in videos if _is_depth(features[name])]
        stills = [name for name, kind in kinds.items() if kind == "image"]
        notes = [f"left out, depth maps: {few(depth)}"] if depth else []
        notes += [f"left out, pictures in parquet files: {few(stills)}"] if stills else []
        cameras = tuple(name for name in videos if name not in depth)
        if not cameras:
            reason = f" ({'; '.join(notes)})" if notes else ""
            raise ConfigError(f"{place} tells of no videos{reason}; record or convert the set with use_videos=True")
        for name in cameras:
            _check_inside(place, name)
        return cls(
            place,
            float(fps),
            cameras,
            tuple(name for name, kind in kinds.items() if kind in NUMBERS and _row(features[name]) <= LARGEST_ROW),
            splits,
            str(value.get("data_path", DATA_PATH)),
            str(value.get("video_path", VIDEO_PATH)),
            tuple(notes),
        )

    def episodes_of(self, split: str) -> tuple[int, int]:
        """Return the first episode of a split and the one after its last.

        Raises:
            ConfigError: there is no such split, or it is told otherwise.
        """
        if not self.splits and split == "train":
            return 0, sys.maxsize
        if split not in self.splits:
            raise ConfigError(f"{self.place} has no split {split}; it tells of {few(list(self.splits)) or 'none'}")
        match = SPLIT.fullmatch(str(self.splits[split]))
        if match is None:
            raise ConfigError(
                f"{self.place}: the split {split} is {self.splits[split]!r}; A:B was expected, such as 0:50"
            )
        return int(match[1]), int(match[2])

    def path(self, form: str, chunk: int, file: int, video: str = "") -> str:
        """Return the path of a file, relative to the root.

        Raises:
            ConfigError: it leads out of the set.
        """
        fields = {"chunk_index": chunk, "file_index": file, "episode_chunk": chunk}
        path = form.replace("{video_key}", video)
        path = re.sub(r"\{(\w+)(?::0?(\d)d)?\}", lambda each: _number(fields.get(each[1]), each), path)
        _check_inside(self.place, path)
        return path


def _number(value: int | None, field: re.Match[str]) -> str:
    return field[0] if value is None else str(value).zfill(int(field[2] or 0))


def _check_inside(place: Path, path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "\\" in path:
        raise ConfigError(f"{place}: {path!r} leads out of the set; a path below it was expected")


def _row(feature: Mapping[str, Any]) -> int:
    """Return how many numbers a row of a feature has; 1 where it does not tell."""
    shape = feature.get("shape")
    sides = shape if isinstance(shape, list) and all(isinstance(side, int) for side in shape) else []
    return math.prod(sides)


def _is_depth(feature: Mapping[str, Any]) -> bool:
    """Return whether a video holds depth; both keys are in use."""
    told = [each for each in (feature, feature.get("info"), feature.get("video_info")) if isinstance(each, dict)]
    return any(each.get(key) is True for each in told for key in ("video.is_depth_map", "is_depth_map"))


def _episodes(root: Path, cameras: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return what `meta/episodes` says of each episode, without statistics.

    Raises:
        ConfigError: it is not there, cannot be read, or names an episode twice.
    """
    reader = parquet()
    wanted = [EPISODE, "tasks", "length", "data/chunk_index", "data/file_index"]
    wanted += [
        f"videos/{camera}/{what}"
        for camera in cameras
        for what in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    ]
    places = sorted((root / EPISODES).glob("*/*.parquet"))
    if not places:
        raise ConfigError(f"{root / EPISODES} holds no parquet files; expected {LAYOUT}")
    found: dict[int, dict[str, Any]] = {}
    for place in places:
        try:
            check_regular(place)
            with parquet_errors(), reader.ParquetFile(place) as file:
                there = set(file.schema_arrow.names)
                if absent := [name for name in wanted if name not in there]:
                    raise ConfigError(f"{place} has no column {few(absent)}; expected {LAYOUT}")
                rows = file.read(columns=wanted, use_threads=False).to_pylist()
        except OSError as error:
            raise ConfigError(f"{place} {reason_of(error)}; expected {LAYOUT}") from error
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from error
        for row in rows:
            number = row[EPISODE]
            if not isinstance(number, int) or number < 0 or number in found:
                raise ConfigError(f"{place}: {EPISODE} is {number!r}; whole numbers, each once, were expected")
            found[number] = row
    return found


def _source(info: Info, number: int, row: Mapping[str, Any], camera: str) -> Source:
    """Return one camera of an episode; what its row lacks makes it one that cannot be used."""
    episode = f"episode_{number:06d}"
    name = f"{camera}/{episode}"
    try:
        chunk, file, data_chunk, data_file, length = (
            int(row[each])
            for each in (
                *(f"videos/{camera}/chunk_index", f"videos/{camera}/file_index"),
                *("data/chunk_index", "data/file_index", "length"),
            )
        )
        start, end = (float(row[f"videos/{camera}/{each}"]) for each in ("from_timestamp", "to_timestamp"))
    except (TypeError, ValueError):
        return RefusedSource(name, f"{EPISODES} does not tell where it lies", camera)
    if not abs((end - start) * info.fps - length) <= 0.5:
        return RefusedSource(
            name,
            f"{EPISODES} tells of {counted(length, 'frames')}, at {info.fps:g} frames a second, but of {start:.6g} to "
            f"{end:.6g} s of its video",
            camera,
        )
    return LeRobotEpisode(
        name,
        info.path(info.video_path, chunk, file, camera),
        episode,
        camera,
        start,
        length,
        info.fps,
        number,
        info.path(info.data_path, data_chunk, data_file),
        tasks if isinstance(tasks := row["tasks"] or (), str) else "; ".join(map(str, tasks)),
        info.features,
    )


LEROBOT = VideoSet(name="lerobot", title="LeRobot set", split="train", listing=list_sources, clips=1)
