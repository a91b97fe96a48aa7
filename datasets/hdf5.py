"""HDF5 files of demonstrations, as robomimic and LIBERO lay them out: `data/DEMO/obs/CAMERA`, `mask/SPLIT`.

Each camera of each demonstration is a source, `FILE/CAMERA/DEMO`. The cameras of a file are those of its first
demonstration. Splits are the lists in `mask`: `train`, and `valid` for validation; a file without lists is all train.
Listing opens each file and reads names, in a process that a damaged file may crash. (robomimic.github.io, "Dataset
Structure"; LIBERO's create_dataset.py.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltactl.datasets.record import VideoSet
from deltactl.errors import ConfigError, SourceError
from deltactl.ingest.episodes.apart import Apart
from deltactl.ingest.episodes.hdf5 import (
    DATA,
    OBSERVATIONS,
    Hdf5Episode,
    child,
    h5py,
    hdf5_errors,
    is_camera,
    open_file,
    text_attribute,
)
from deltactl.ingest.sources import HDF5_SUFFIXES, RefusedSource, Source, VideoListing
from deltactl.progress import few

MASKS = {"train": ("train",), "val": ("valid", "val")}
"""Names of the lists of each split."""
FPS = 20.0
"""Of robosuite's environments, where the file does not tell."""
CONVENTION = "macros_image_convention"
"""How robosuite rendered; its `opengl` has the bottom row first. robomimic turns pictures and says nothing."""


def list_sources(paths: Sequence[Path], split: str | None) -> VideoListing:
    """Return the sources of a split: each camera of each demonstration in the files that are named, or lie below.

    Raises:
        ConfigError: there are no such files, no pictures in them, or no such split.
        MissingExtraError: h5py is not installed.
    """
    split = split or "train"
    root = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))
    names = sorted({each.relative_to(root).as_posix() for path in paths for each in _files(path)})
    if not names:
        raise ConfigError(f"no HDF5 files were found in {root}; expected {', '.join(sorted(HDF5_SUFFIXES))}")
    h5py()
    with Apart() as apart:
        found = [_listed(apart, root, name, split) for name in names]
    sources = [source for each in found for source in each.sources]
    if not sources:
        lacking = [each.name for each in found if each.no_split]
        what = f"no split {split} (mask/{MASKS[split][0]}) in {few(lacking)}" if lacking else "no demonstrations"
        raise ConfigError(f"{root} has {what}")
    if not any(isinstance(source, Hdf5Episode) for source in sources):
        reason = next(source.reason for source in sources if isinstance(source, RefusedSource))
        raise ConfigError(f"none of {few(names)} in {root} holds pictures: {reason}")
    notes = [
        f"{what}: {few(which)}"
        for what, which in (
            ("pictures from the bottom up (opengl), which are turned", [each.name for each in found if each.turned]),
            (
                f"no control_freq is told, so {FPS:g} frames a second",
                [each.name for each in found if each.rate_unknown],
            ),
            (f"no split {split}, and so left out", [each.name for each in found if each.no_split]),
        )
        if which
    ]
    return VideoListing("hdf5", root, tuple(sorted(sources, key=lambda each: each.name)), tuple(notes))


@dataclass(frozen=True)
class _File:
    """What one file holds."""

    name: str
    sources: tuple[Source, ...] = ()
    turned: bool = False
    rate_unknown: bool = False
    no_split: bool = False


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist; name HDF5 files, or a folder of them")
    return [
        Path(folder) / name
        for folder, _, names in os.walk(path)
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in HDF5_SUFFIXES
    ]


def _listed(apart: Apart, root: Path, name: str, split: str) -> _File:
    """Return the sources of a file; one that cannot be used where it cannot be read."""
    try:
        return apart.call(_list_file, root, name, split)
    except SourceError as error:
        return _File(name, (RefusedSource(name, str(error)),))


def _list_file(root: Path, name: str, split: str) -> _File:
    """Return the sources of a file; raises SourceError where it cannot be used."""
    with open_file(root / name) as file, hdf5_errors():
        data = child(file, DATA, "Group")
        if data is None:
            raise SourceError(f"has no group {DATA}; expected the layout of robomimic, {DATA}/DEMO/{OBSERVATIONS}")
        taken = _split(file, data, split)
        return _File(name, no_split=True) if taken is None else _sources(name, data, taken)


def _split(file: Any, data: Any, split: str) -> list[str] | None:
    """Return the demonstrations of a split; None where the file has no such split."""
    masks = child(file, "mask", "Group")
    if masks is None:
        return list(data.keys()) if split == "train" else None
    found = next((each for mask in MASKS[split] if (each := child(masks, mask, "Dataset")) is not None), None)
    if found is None:
        return None
    return [each.decode() if isinstance(each, bytes) else str(each) for each in np.asarray(found[()]).ravel().tolist()]


def _sources(name: str, data: Any, demos: Sequence[str]) -> _File:
    cameras: list[str] = []
    for demo in demos:
        group = child(data, demo, "Group")
        observations = None if group is None else child(group, OBSERVATIONS, "Group")
        if observations is not None:
            found = [(each, child(observations, each, "Dataset")) for each in observations]
            cameras = [each for each, dataset in found if dataset is not None and is_camera(dataset)]
            break
    if not cameras:
        raise SourceError(f"has no pictures: no {OBSERVATIONS}/NAME of uint8 (T, H, W, 3) in {DATA}/{few(list(demos))}")
    rate = _rate(data)
    turned = data.attrs.get(CONVENTION) in ("opengl", b"opengl")
    task = _task(data)
    sources = [
        Hdf5Episode(f"{name}/{camera}/{demo}", name, f"{name}/{demo}", camera, demo, rate or FPS, turned, task)
        for camera in cameras
        for demo in demos
    ]
    return _File(name, tuple(sources), turned=turned, rate_unknown=rate is None)


def _rate(data: Any) -> float | None:
    """Return the frames a second that a file tells."""
    settings = text_attribute(data, "env_args").get("env_kwargs")
    rate = settings.get("control_freq") if isinstance(settings, dict) else None
    return float(rate) if isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0 else None


def _task(data: Any) -> str:
    """Return the task in words that all demonstrations of a file have (LIBERO); empty where it tells none."""
    told = text_attribute(data, "problem_info").get("language_instruction")
    return "".join(map(str, told)) if isinstance(told, list) else told if isinstance(told, str) else ""


HDF5 = VideoSet(
    name="hdf5",
    title="set of HDF5 demonstrations",
    split="train",
    listing=list_sources,
    clips=1,
    single_root=False,
)
