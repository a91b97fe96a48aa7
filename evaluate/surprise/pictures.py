"""Pictures of surprise: a curve under the film strip, an animation of it, and what a set of clips or pairs comes to.

Takes scores, and of a video its frames, returns or writes PNG and GIF. Distances are drawn beside copy-last's: what
merely moves fast is far from the last frame, too. `p` is drawn on a scale of powers, with the least that it can be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from deltactl.evaluate.predict.animation import write_gif
from deltactl.evaluate.surprise.pairs import Accuracy, Pair
from deltactl.evaluate.surprise.table import SPACES, UNUSUAL, Scored, space_of, values_of
from deltactl.featurize.pictures.lettering import in_figure
from deltactl.featurize.pictures.picture import save_figure
from deltactl.tasks.colours import Picture

LINES = (
    ("nearest", "nearest sample", "#d55e00"),
    ("mean", "mean of the samples", "#0072b2"),
    ("copy_last", "last frame", "#999999"),
    ("typical", "samples, to each other", "#009e73"),
)
"""Measure, what the key calls it, colour (Okabe and Ito's)."""
IN_ANIMATION = 120
PAIRS_DRAWN = 6
INCHES, STRIP_INCHES, DOTS = 9.0, 1.1, 100
FRAME_PIXELS = 220


def draw_video(
    file: Path, title: str, pictures: UInt8[np.ndarray, "T H W 3"], times: Sequence[float], scored: Scored
) -> None:
    """Write the curves of a video under its film strip; `pictures` and `times` are those of all its frames."""
    save_figure(_figure(title, pictures, times, scored)[0], file)


def animate_video(
    file: Path, title: str, pictures: UInt8[np.ndarray, "T H W 3"], times: Sequence[float], scored: Scored
) -> None:
    """Write the video with its curves below, on which a line goes along; of many frames some."""
    figure, axes = _figure(title, None, times, scored)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    curves = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    height, width = curves.shape[:2]
    boxes = [axis.get_window_extent() for axis in axes]
    chosen = np.unique(np.linspace(0, len(times) - 1, min(len(times), IN_ANIMATION)).round().astype(int)).tolist()
    scale = FRAME_PIXELS / pictures.shape[1]
    size = (max(1, min(width, round(pictures.shape[2] * scale))), FRAME_PIXELS)
    moments: list[Picture] = []
    for number in chosen:
        moment = np.full((FRAME_PIXELS + height, width, 3), 255, np.uint8)
        left = (width - size[0]) // 2
        moment[:FRAME_PIXELS, left : left + size[0]] = cv2.resize(pictures[number], size, interpolation=cv2.INTER_AREA)
        moment[FRAME_PIXELS:] = curves
        x = round(float(axes[0].transData.transform((times[number], 0))[0]))
        for box in boxes:
            moment[
                FRAME_PIXELS + height - round(box.y1) : FRAME_PIXELS + height - round(box.y0), max(0, x - 1) : x + 1
            ] = 0
        moments.append(moment)
    write_gif(file, moments)


def draw_set(file: Path, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write how the ranks of all frames are spread, which is evenly where the model is right, and how spaces agree."""
    from matplotlib.figure import Figure

    spaces = [space for space in SPACES if rows[0][f"{space}_rank"] is not None]
    both = len(spaces) == 2
    figure = Figure(figsize=(INCHES, 3.2), layout="constrained")
    _title(figure, title)
    axes = figure.subplots(1, len(spaces) + both, squeeze=False)[0]
    samples = int(rows[0]["samples"])
    for axis, space in zip(axes, spaces, strict=False):
        axis.hist(values_of(rows, f"{space}_rank"), bins=np.arange(samples + 2) - 0.5, color="#0072b2")
        axis.axhline(len(rows) / (samples + 1), color="#d55e00", linestyle="--", label="if the model is right")
        _label(axis, space, f"rank among {samples} samples", "frames")
        axis.legend(frameon=False, fontsize=7)
    if both:
        axes[2].scatter(values_of(rows, "features_nearest"), values_of(rows, "tokens_nearest"), s=5, linewidths=0)
        _label(axes[2], "nearest sample", "distance of features", "distance of tokens")
    save_figure(figure, file)


def draw_pairs(
    file: Path, title: str, pairs: Sequence[Pair], scored: Sequence[Scored], found: Sequence[Accuracy]
) -> None:
    """Write the curves of some pairs, and how often each score tells all pairs apart."""
    from matplotlib.figure import Figure

    by_name: dict[str, list[Scored]] = {}
    for each in scored:
        by_name.setdefault(each.video, []).append(each)
    shown = [pairs[place] for place in np.unique(np.linspace(0, len(pairs) - 1, PAIRS_DRAWN).round().astype(int))]
    space = "features" if scored[0].frames[0].features is not None else "tokens"
    columns = math.ceil(len(shown) / 2)
    figure = Figure(figsize=(INCHES + 3.6, 5), layout="constrained")
    _title(figure, title)
    parts: Any = figure.subfigures(1, 2, width_ratios=(INCHES, 3.6))
    axes = parts[0].subplots(2, columns, squeeze=False).flatten()
    for axis, pair in zip(axes, shown, strict=False):
        for name, what, colour in ((pair.possible, "possible", "#0072b2"), (pair.impossible, "impossible", "#d55e00")):
            for number, each in enumerate(by_name[name]):
                values = [_value(each, index, space, "nearest") for index in range(len(each.frames))]
                label = what if number == 0 else None
                axis.plot([frame.time for frame in each.frames], values, color=colour, lw=1.2, label=label)
        _label(axis, (f"{pair.set}: " if pair.set else "") + _short(pair.impossible), "s", f"nearest sample, {space}")
        axis.legend(frameon=False, fontsize=7)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    axis = parts[1].subplots()
    some = [each for each in found if not each.set and each.over == "mean"]
    places = np.arange(len(some))[::-1]
    shares = np.array([each.value for each in some])
    ends = np.array([(each.value - each.interval.low, each.interval.high - each.value) for each in some]).T
    axis.barh(places, shares, color="#56b4e9")
    axis.errorbar(shares, places, xerr=np.clip(ends, 0, None), fmt="none", color="black", capsize=3, lw=1)
    axis.set_yticks(places, [each.score.replace("_", " ") for each in some])
    axis.axvline(0.5, color="#999999", linestyle=":")
    axis.set_xlim(0, 1)
    _label(axis, f"{len(pairs)} pairs, mean of frames", "accuracy, 95 %", "")
    save_figure(figure, file)


def _figure(
    title: str, pictures: UInt8[np.ndarray, "T H W 3"] | None, times: Sequence[float], scored: Scored
) -> tuple[Any, list[Any]]:
    """Return the figure of a video, with its film strip where there are pictures, and the axes of its curves."""
    from matplotlib.figure import Figure

    spaces = [space for space in SPACES if space_of(scored.frames[0], space) is not None]
    heights = [*([STRIP_INCHES] if pictures is not None else []), *([1.6] * len(spaces)), 1.3]
    figure = Figure(figsize=(INCHES, sum(heights) + 0.6), dpi=DOTS, layout="constrained")
    _title(figure, title)
    axes = list(figure.subplots(len(heights), 1, height_ratios=heights, sharex=True))
    when = [frame.time for frame in scored.frames]
    span = (times[0], times[-1]) if times[-1] > times[0] else (times[0] - 0.5, times[0] + 0.5)
    strip = axes.pop(0) if pictures is not None else None
    for axis, space in zip(axes, spaces, strict=False):
        for name, label, colour in LINES:
            values = [_value(scored, index, space, name) for index in range(len(when))]
            if not any(map(math.isnan, values)):
                axis.plot(when, values, color=colour, marker=".", ms=4, lw=1.2, label=label)
        _label(axis, "", "", f"distance of {space}")
        axis.legend(frameon=False, fontsize=7, ncols=len(LINES), loc="lower left", bbox_to_anchor=(0, 0.97))
    last = axes[-1]
    for space, style in zip(spaces, ("-", "--"), strict=False):
        values = [_value(scored, index, space, "p") for index in range(len(when))]
        last.semilogy(when, values, style, color="black", marker=".", ms=4, lw=1, label=f"p, {space}")
    last.axhline(UNUSUAL, color="#d55e00", linestyle=":", lw=1)
    last.set_ylim(0.8 / (scored.frames[0].tokens.samples + 1), 1.2)
    last.set_xlim(*span)
    last.legend(frameon=False, fontsize=7, ncols=2, loc="lower left", bbox_to_anchor=(0, 0.97))
    last.minorticks_off()
    ticks = [tick for tick in (0.001, 0.01, 0.05, 0.2, 1) if tick > 0.8 / (scored.frames[0].tokens.samples + 1)]
    last.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    _label(last, "", "seconds from the first frame", f"p, of {scored.frames[0].tokens.samples} samples")
    if strip is not None and pictures is not None:
        strip.set_axis_off()
        figure.draw_without_rendering()  # lays the axes out, whose size the strip follows
        _draw_strip(strip, pictures, times, span)
    return figure, axes


def _draw_strip(
    axis: Any, pictures: UInt8[np.ndarray, "T H W 3"], times: Sequence[float], span: tuple[float, float]
) -> None:
    """Fill the axis with pictures in their own shape, each above its time."""
    box, length = axis.get_window_extent(), span[1] - span[0]
    shown = pictures.shape[2] / pictures.shape[1] * box.height / box.width * length
    count = max(1, min(len(pictures), int(length / (1.04 * shown))))
    for number in range(count):
        middle = span[0] + (number + 0.5) * length / count
        nearest = int(np.abs(np.asarray(times) - middle).argmin())
        axis.imshow(pictures[nearest], extent=(middle - shown / 2, middle + shown / 2, 0, 1), aspect="auto")
    axis.set_xlim(*span)
    axis.set_ylim(0, 1)


def _value(scored: Scored, index: int, space: Any, name: str) -> float:
    found = space_of(scored.frames[index], space)
    return math.nan if found is None else float(getattr(found, name))


def _short(name: str) -> str:
    return name.rpartition("/")[2][:40]


def _title(figure: Any, title: str) -> None:
    text, font = in_figure(title)
    figure.suptitle(text, font=font, fontsize=10)


def _label(axis: Any, title: str, x: str, y: str) -> None:
    if title:
        text, font = in_figure(title)
        axis.set_title(text, font=font, fontsize=8)
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
