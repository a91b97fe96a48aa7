"""Draws samples of a data set that a file tells: the last frames of two clips, with their labels beside them.

They are read as an ingest reads them, so that what is drawn is what would be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from deltactl.configs.frame_size import FrameSize
from deltactl.datasets.describe import clips_of, splits_of
from deltactl.datasets.listing import LabelledClip
from deltactl.datasets.told import ToldSet, told_set
from deltactl.errors import ConfigError, SourceError
from deltactl.featurize.pictures.lettering import legible
from deltactl.featurize.pictures.picture import save_figure
from deltactl.ingest.evaluation import EvaluationClips
from deltactl.ingest.shards.format import Clip
from deltactl.ingest.shards.images import decode_frame, decode_label
from deltactl.ingest.units import UnitLog
from deltactl.locations import Location
from deltactl.tasks.colours import UNLABELLED, ClassColours, Colour, LegendEntry, Picture, depth_legend, paint_depth

SAMPLES = 2
SIZE = FrameSize(256, 256)
INCHES = 4.0


def draw_samples(file: str, picture: Path) -> list[str]:
    """Write a picture of samples, and return the keys of their clips.

    Raises:
        ConfigError: the file tells of no set with clips, none of the samples can be used, or the picture's ending is
            that of no picture format.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    record = told_set(file)
    clips = _chosen(record)
    labels = [_label(record, clip) for clip in clips]
    drawing = _Drawing.of(record, [label for label in labels if label is not None])
    figure = Figure(figsize=(2 * INCHES, INCHES * 0.7 * len(clips) + 0.5), layout="constrained")
    axes = figure.subplots(len(clips), 2, squeeze=False)
    for (left, right), clip, label in zip(axes, clips, labels, strict=True):
        left.axis("off")
        right.axis("off")
        _show(left, decode_frame(clip.frames[-1]), clip, clip.key)
        if label is None:
            _show(right, decode_frame(clip.frames[0]), clip, "its first frame")
        else:
            _show(right, drawing.paint(label), clip, "its label")
    if drawing.legend:
        patches = [
            Patch(facecolor=_web(each.colour), edgecolor="grey", label=legible(each.name)) for each in drawing.legend
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, picture)
    return [clip.key for clip in clips]


def _show(axes: Any, picture: Picture, clip: Clip, title: str) -> None:
    """Draw a picture in the shape of the source's frames: stored frames may be squeezed, labels are not."""
    height, width = clip.meta.original_size
    axes.imshow(picture, interpolation="nearest", aspect=height / width * picture.shape[1] / picture.shape[0])
    axes.set_title(legible(title), fontsize=8)


def _web(colour: Colour) -> str:
    """Return a colour as matplotlib takes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _chosen(record: ToldSet) -> list[Clip]:
    """Return clips from the middle of the thirds of the set, or after those, in their place, what can be used."""
    items: list[LabelledClip] = []
    for split in reversed(splits_of(record)):
        try:
            items += clips_of(record, split).clips
        except ConfigError:  # which `describe` tells of
            continue
    if not items:
        raise ConfigError(f"{record.place} has no clips to draw")
    assert record.root is not None
    maker = EvaluationClips(Location.of(record.root), str(record.place), SIZE, record.identity)
    starts = np.linspace(0, len(items), SAMPLES, endpoint=False).astype(int) + len(items) // (2 * SAMPLES)
    found: dict[str, Clip] = {}
    faults = []
    for start in starts.tolist():
        for item in (*items[start:], *items[:start])[:8]:
            if item.key in found:
                continue
            try:
                found[item.key] = maker.make(item, UnitLog())
                break
            except SourceError as error:
                faults.append(str(error))
    if not found:
        raise ConfigError(f"{record.place}: none of the samples can be used: {faults[0]}")
    return list(found.values())


def _label(record: ToldSet, clip: Clip) -> Shaped[np.ndarray, "h w"] | None:
    """Return the target of a clip's last frame: class ids or metres."""
    stored = clip.labels.get(len(clip.frames) - 1)
    return None if stored is None else record.target(decode_label(stored))


@dataclass(frozen=True)
class _Drawing:
    """How the labels of all samples are drawn, in the same colours."""

    paint: Callable[[Any], Picture]
    legend: tuple[LegendEntry, ...]

    @classmethod
    def of(cls, record: ToldSet, labels: Sequence[Shaped[np.ndarray, "_ _"]]) -> _Drawing:
        if record.task == "depth":
            return cls(paint_depth, (*depth_legend(), UNLABELLED))
        colours = ClassColours.of(record.said_as, labels, record.class_names(None), record.colours)
        return cls(colours.paint, (*colours.legend(), UNLABELLED) if labels else ())
