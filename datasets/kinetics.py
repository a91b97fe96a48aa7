"""Kinetics: `SPLIT/CLASS/ID.mp4`, or `SPLIT/CLASS/ID/frame_SECONDS.jpg`, or a zip of such folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from deltactl.datasets.record import VideoSet
from deltactl.ingest.sources import VideoListing, list_kinetics

CLIPS = 8


def list_sources(paths: Sequence[Path], split: str | None) -> VideoListing:
    """Return the sources of a split.

    Raises:
        ConfigError: the root is none of Kinetics.
    """
    return list_kinetics(paths[0], split or "train")


def class_and_split(path: str) -> dict[str, str]:
    """Return the class of a source, which its folder is called by, and its split."""
    split, *folders = os.fsencode(path).decode("utf-8", "replace").split("/")[:-1]
    return {"clip.class": folders[-1] if folders else "", "clip.split": split}


KINETICS = VideoSet(
    name="kinetics",
    title="Kinetics",
    split="train",
    listing=list_sources,
    clips=CLIPS,
    path_texts=class_and_split,
)
