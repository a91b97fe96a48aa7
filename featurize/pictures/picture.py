"""Draws clips of a feature store: the pixels that each view shows, and under them the features as colours.

Takes an open store and, where they are still there, the shards it was made from; writes a picture file (PNG, PDF, SVG
by its ending). The colours are three principal components fitted on each clip (`deltactl.featurize.pictures.pca`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from deltactl.errors import ConfigError
from deltactl.featurize.pictures.clip_frames import clip_frames, shards_of
from deltactl.featurize.pictures.lettering import in_figure
from deltactl.featurize.pictures.pca import FeatureColours
from deltactl.featurize.store.reader import FeatureStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.locations import storage_errors

INCHES = 1.6
"""Side of one frame in the picture."""
CLIPS = 4


def draw_store(store: FeatureStore, file: Path, *, clips: int = CLIPS, shards: str | None = None) -> list[str]:
    """Write a picture of clips spread evenly over the store; return the keys of those that are in it.

    `shards`: where the frames are, by default where the store was made from; without them features are drawn alone.

    Raises:
        ArtifactError: there are no shards where they were said to be.
        ConfigError: the file's ending names no picture format.
    """
    from matplotlib.figure import Figure

    samples = np.unique(np.linspace(0, len(store) - 1, min(clips, len(store))).astype(int)).tolist()
    source = shards_of(store.root) if shards is None else ShardSet.open(shards)
    access = None if source is None else RandomAccess(source)
    found = [None if access is None else clip_frames(store, access, sample) for sample in samples]
    frames = [None if clip is None else clip[1] for clip in found]
    rows = sum(1 if shown is None else 2 for shown in frames)
    figure = Figure(figsize=(INCHES * store.frames, (INCHES + 0.15) * max(rows, 1)), layout="constrained")
    axes = figure.subplots(max(rows, 1), store.frames, squeeze=False)
    row = 0
    for sample, clip, shown in zip(samples, found, frames, strict=True):
        times: Sequence[float] = store.times([sample])[0].tolist()
        name = title_of(store.keys[sample] if clip is None else clip[0].source, times, store.view_of(sample))
        if shown is not None:
            _draw_row(axes[row], shown, name)
            row, name = row + 1, "features"
        features = store.read_clips([sample])[0].float()
        colours = FeatureColours.fit(features).rgb(features).reshape(store.frames, *store.grid, 3).numpy()
        _draw_row(axes[row], list(colours), name)
        row += 1
    save_figure(figure, file)
    return [store.keys[sample] for sample in samples]


def save_figure(figure: Any, file: Path) -> None:
    """Write a matplotlib `Figure` to a picture file.

    Raises:
        ConfigError: the file's ending names no picture format, or its folder is not there.
    """
    try:
        with storage_errors(file, "write"):
            figure.savefig(file, dpi=120)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(
            f"{file} cannot be written ({error.strerror}); name a file in a folder that is there"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{file} names no picture format; end it in .png, .pdf or .svg ({error})") from error


def title_of(source: str, times: Sequence[float], view: int) -> str:
    """Return which clip this is: its source, from when to when it goes, in seconds, and the view of it."""
    return f"{source}, {times[0]:.4g} to {times[-1]:.4g} s, view {view}"


def _draw_row(axes: Any, images: Sequence[UInt8[np.ndarray, "h w 3"]], name: str) -> None:
    for number, (axis, image) in enumerate(zip(axes, images, strict=True)):
        axis.imshow(image, aspect="auto", interpolation="nearest")
        axis.set_axis_off()
        if number == 0:
            text, font = in_figure(name)
            axis.set_title(text, font=font, fontsize=7, loc="left")
