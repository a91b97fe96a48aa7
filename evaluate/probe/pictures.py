"""Which classes a probe takes for which, as a picture: a matrix of a few classes, the worst of many.

Takes confusions and figures of classes, writes a PNG. Up to `MATRIX` classes are a matrix, each row the share of the
videos of a class by what they were taken for. Of more, whose names no matrix has room for, the accuracies of all
classes are a curve, and the commonest confusions are bars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deltactl.featurize.pictures.lettering import in_figure
from deltactl.featurize.pictures.picture import save_figure
from deltactl.progress import counted, cut_short

MATRIX = 24
BARS = 24
LONGEST = 32
"""Letters of a name."""
CELL_INCHES, LINE_INCHES, LETTER_INCHES = 0.42, 0.24, 0.075
DARK = 0.6
"""Share from which a cell's number is white."""


def draw_confusions(
    file: Path, title: str, classes: Sequence[Mapping[str, Any]], confused: Sequence[tuple[int, int, int]]
) -> None:
    """Write the picture; `classes` are those of the report, `confused` true and predicted class and count."""
    figure = _matrix(classes, confused) if len(classes) <= MATRIX else _worst(classes, confused)
    text, font = in_figure(title)
    figure.suptitle(text, font=font, fontsize=10)
    save_figure(figure, file)


def _matrix(classes: Sequence[Mapping[str, Any]], confused: Sequence[tuple[int, int, int]]) -> Any:
    from matplotlib.figure import Figure

    count = len(classes)
    counts = np.zeros((count, count), int)
    for true, predicted, videos in confused:
        counts[true, predicted] = videos
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [cut_short(each["class"], LONGEST) for each in classes]
    rows = [f"{name} ({each['videos']})" for name, each in zip(names, classes, strict=True)]
    side, longest = max(2.4, CELL_INCHES * count), LETTER_INCHES * max(map(len, rows))
    figure = Figure(figsize=(side + longest + 1.4, side + 0.75 * longest + 0.9), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for true, predicted, videos in confused:
        colour = "white" if shares[true, predicted] > DARK else "black"
        axes.text(predicted, true, str(videos), ha="center", va="center", fontsize=8, color=colour)
    _ticks(axes, "x", names, rotation=45, ha="right", rotation_mode="anchor")
    _ticks(axes, "y", rows)
    axes.set_xlabel("taken for", fontsize=9)
    axes.set_ylabel("class (its held-out videos)", fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("share of the class's videos", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _worst(classes: Sequence[Mapping[str, Any]], confused: Sequence[tuple[int, int, int]]) -> Any:
    from matplotlib.figure import Figure

    wrong = sorted((each for each in confused if each[0] != each[1]), key=lambda each: (-each[2], each[:2]))[:BARS]
    figure = Figure(figsize=(12, max(3.2, LINE_INCHES * len(wrong) + 1.4)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    there = sorted(each["accuracy"] for each in classes if each["accuracy"] is not None)
    left.plot(np.arange(1, len(there) + 1), there, color="#0072b2", drawstyle="steps-mid")
    left.axhline(float(np.mean(there)), color="#d55e00", linestyle="--", lw=1, label="mean over classes")
    left.set_ylim(-0.02, 1.02)
    left.set_xlabel(f"{counted(len(there), 'classes')}, from the least to the most often right", fontsize=9)
    left.set_ylabel("share of a class's held-out videos told right", fontsize=9)
    left.legend(frameon=False, fontsize=8, loc="upper left")
    places = np.arange(len(wrong))[::-1]
    right.barh(places, [each[2] for each in wrong], color="#d55e00", height=0.7)
    names = [cut_short(each["class"], LONGEST) for each in classes]
    _ticks(right, "y", [f"{names[true]} → {names[to]}" for true, to, _ in wrong], places)
    for place, (true, _, videos) in zip(places, wrong, strict=True):
        right.text(videos, place, f" {videos} of {classes[true]['videos']}", va="center", fontsize=7)
    right.margins(x=0.15)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set_xlabel("videos" if wrong else "no video was told wrong", fontsize=9)
    right.set_title("taken for another class most often", fontsize=9)
    for axes in (left, right):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _ticks(axes: Any, side: str, names: Sequence[str], places: Any = None, **words: Any) -> None:
    """Name the places of an axis, each in a font that has its letters."""
    drawn = [in_figure(name) for name in names]
    setter = axes.set_xticks if side == "x" else axes.set_yticks
    setter(np.arange(len(names)) if places is None else places, [text for text, _ in drawn])
    axis = axes.xaxis if side == "x" else axes.yaxis
    for tick, (_, font) in zip(axis.get_ticklabels(), drawn, strict=True):
        tick.set(font=font, fontsize=8, **words)
