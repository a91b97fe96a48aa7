"""Any folder of videos, several, or videos by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deltactl.datasets.record import VideoSet
from deltactl.ingest.sources import Listing, list_folder, list_paths


def list_sources(paths: Sequence[Path], split: str | None) -> Listing:  # noqa: ARG001 (a folder has no splits)
    """Return the videos.

    Raises:
        ConfigError: there are none, or a path is neither a video nor a folder.
    """
    return list_folder(paths[0]) if len(paths) == 1 and not paths[0].is_file() else list_paths(paths)


FOLDER = VideoSet(
    name="folder",
    title="plain folder",
    split=None,
    listing=list_sources,
    clips=1,
    single_root=False,
)
