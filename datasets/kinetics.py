"""Kinetics: `SPLIT/CLASS/ID.mp4`, or `SPLIT/CLASS/ID/frame_SECONDS.jpg`, or a zip of such folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from deltactl.datasets.record import VideoSet
from deltactl.ingest.sources import Source, VideoListing, list_kinetics

CLIPS = 8
CLASS, SPLIT = "clip.class", "clip.split"


def list_sources(paths: Sequence[Path], split: str | None) -> VideoListing:
    """Return the sources of a split.

    Raises:
        ConfigError: the root is none of Kinetics.
    """
    return list_kinetics(paths[0], split or "train")


def tell_columns(root: Path, source: Source) -> dict[str, Shaped[np.ndarray, ""]]:  # noqa: ARG001
    """Return the texts that the path of a source tells: its class, which its folder is called by, and its split."""
    split, *folders = source.name.split("/")[:-1]
    texts = {CLASS: folders[-1] if folders else "", SPLIT: split}
    return {name: np.array(os.fsencode(text).decode("utf-8", "replace")) for name, text in texts.items()}


KINETICS = VideoSet(
    name="kinetics",
    title="Kinetics",
    split="train",
    listing=list_sources,
    clips=CLIPS,
    columns=tell_columns,
    own_columns=(CLASS, SPLIT),
)
