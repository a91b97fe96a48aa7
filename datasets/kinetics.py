"""Kinetics: `SPLIT/CLASS/ID.mp4`, or `SPLIT/CLASS/ID/frame_SECONDS.jpg`, or a zip of such folders."""

from __future__ import annotations

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


KINETICS = VideoSet(
    name="kinetics",
    title="Kinetics",
    split="train",
    listing=list_sources,
    clips=CLIPS,
    named_class=True,
)
