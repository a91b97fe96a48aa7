"""What a prediction leaves behind: pictures to look at, arrays and maps to go on with.

futures.png         what was seen and what came; then, in each rendering, copy last and some futures beside what came
futures.gif         every future as a film, side by side
features.npz        context, futures, truth (float16; float32 beyond its range), times, grid, losses, identity; plain
                    `numpy.load` opens it
prediction.json     times, files, and the distance of each future to the truth where the video goes on
vspw/ cityscapes/   class ids (8 bit) as the given head sees each frame: contextC.png, sampleS_stepH.png
kitti/              depth, 16 bit, metres × 256 (KITTI's convention)
rgb/                the RGB head's pictures
artifact.json       identity and provenance

Futures are numbered from 0, as in the arrays, everywhere: in pictures, `closest`, and names of files. Steps are frames
ahead, and so begin with 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from PIL import Image
from torch import Tensor

from deltactl.artifacts import HEADER, seal
from deltactl.errors import CheckpointError
from deltactl.evaluate.predict.animation import Tile, draw_moments, write_gif
from deltactl.evaluate.predict.context import ContextFrames
from deltactl.evaluate.report.pictures import Legend, Panel, PictureRow, Sheet, draw_sheet, format_time, write_png
from deltactl.evaluate.report.renderings import ComponentRendering
from deltactl.featurize.store.layout import LARGEST
from deltactl.progress import Progress, counted
from deltactl.tasks.colours import DISAGREEMENT_LEGEND, SPREAD_LEGEND, Picture, paint_amount
from deltactl.tasks.record import LabelRendering, Rendering
from deltactl.tasks.segmentation import ClassRendering

SAMPLES_IN_SHEET = 4
"""Futures on the sheet in each rendering: as many rows as stand beside them."""
LEAST_SPREAD_SCALE = 0.05
"""The scale of the spread is at least this share of how far the features of patches differ from each other."""
SAMPLES_IN_ANIMATION = 24


@dataclass(frozen=True)
class VideoFutures:
    """What was predicted."""

    name: str
    """Of the video."""
    frames: ContextFrames
    grid: tuple[int, int]
    true: Float[Tensor, "T P D"]
    """Features of the context, then of the truth as far as the video goes."""
    samples: Float[Tensor, "S H P D"]
    losses: Float[Tensor, "S K"]
    """Smooth-L1 of every sample at every step that the video has; empty where it has none."""

    @property
    def context(self) -> int:
        """Context frames."""
        return len(self.frames.moments.context)

    @property
    def horizon(self) -> int:
        """Predicted frames."""
        return int(self.samples.shape[1])

    @property
    def relative_times(self) -> tuple[float, ...]:
        """Times of context and future, in seconds from the last context frame."""
        moments = self.frames.moments
        present = moments.context_times[-1]
        return tuple(time - present for time in (*moments.context_times, *moments.future_times))

    @property
    def closest(self) -> int | None:
        """The sample closest to the truth at its last frame; None where the video has no truth."""
        return int(self.losses[:, -1].argmin()) if self.losses.numel() else None

    @cached_property
    def apart(self) -> Float32[np.ndarray, "S S"]:
        """Euclidean distances of the samples to each other, between their features at the last step."""
        ends = self.samples[:, -1].flatten(1).float()
        return torch.cdist(ends, ends).cpu().numpy()


def write_files(
    folder: Path,
    futures: VideoFutures,
    renderings: Mapping[str, Rendering],
    header: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> None:
    """Write everything into an empty folder.

    `renderings` are those of the given heads, by the name of their folder; `asked` goes into the description.
    """
    features = ComponentRendering.fit(futures.true, futures.grid)
    # What people read at once comes first; components are there where no pictures are.
    shown: list[Rendering] = [*renderings.values(), *([] if "rgb" in renderings else [features])]
    with Progress(1 + len(renderings), unit="files", label="write") as progress:
        write_png(folder / "futures.png", draw_sheet(sheet_of(futures, shown)))
        write_gif(folder / "futures.gif", moments_of(futures, shown[0]))
        _write_features(folder / "features.npz", futures, header)
        progress.advance()
        for name, rendering in renderings.items():
            (folder / name).mkdir()
            for stem, frame in _named_frames(futures):
                _write_output(folder / name / f"{stem}.png", rendering, frame)
            progress.advance()
    (folder / "prediction.json").write_text(json.dumps({**_description(futures, renderings), **asked}, indent=1) + "\n")
    (folder / HEADER).write_text(json.dumps(seal(header), indent=1) + "\n")


def sheet_of(futures: VideoFutures, renderings: list[Rendering]) -> Sheet:
    """Return the sheet of all renderings: what was seen and came; then what came, bounds, and some futures."""
    context, horizon, drawn = futures.context, futures.horizon, len(futures.samples)
    came = len(futures.true) - context
    times = futures.relative_times
    seen = [PictureRow("frames", tuple(futures.frames.pixels), photographic=True)]
    seen += [
        PictureRow(each.name, tuple(each.pictures(futures.true)), "of true frames", each.photographic)
        for each in renderings
    ]
    panels = [
        Panel(
            "what was seen, and what came" if came else "what was seen", times[: context + came], context, tuple(seen)
        )
    ]
    shown, disagrees = _shown(futures, SAMPLES_IN_SHEET), False
    part = f"{len(shown)} of " if len(shown) < drawn else ""
    for rendering in renderings:
        known = rendering.pictures(futures.true)
        bounds = [PictureRow("what came", (*known[context:], *(None,) * (horizon - came)), "the truth")] if came else []
        bounds.append(PictureRow("copy last", (known[context - 1],) * horizon, "nothing changes"))
        if drawn > 1:
            mean = rendering.pictures(futures.samples.mean(dim=0))
            bounds.append(PictureRow(f"mean of {drawn}", tuple(mean), "of the futures"))
        if drawn > 1 and rendering is renderings[-1]:
            bounds.append(PictureRow("spread", tuple(_spread(futures)), "of their features"))
        elif drawn > 1 and isinstance(rendering, ClassRendering):
            disagreement = [rendering.disagreement(futures.samples[:, step]) for step in range(horizon)]
            bounds.append(PictureRow("disagreement", tuple(map(paint_amount, disagreement)), "of the futures"))
            disagrees = True
        rows = []
        for sample in shown:
            note = "closest to what came" if sample == futures.closest else f"like {shown[sample]} of {drawn}"
            rows.append(PictureRow(f"future {sample}", tuple(rendering.pictures(futures.samples[sample])), note))
        panels.append(Panel(f"{rendering.name}: to compare with", times[context:], 0, tuple(bounds)))
        panels.append(Panel(f"{rendering.name}: {part}{counted(drawn, 'futures')}", times[context:], 0, tuple(rows)))
    legends = [Legend(rendering.name, rendering.legend()) for rendering in renderings]
    legends += [Legend("spread", SPREAD_LEGEND)] if drawn > 1 else []
    legends += [Legend("disagreement", DISAGREEMENT_LEGEND)] if disagrees else []
    present = futures.frames.moments.context_times[-1]
    title = f"{futures.name}, at {present:.4g} s: {counted(context, 'frames')} of context, {horizon} ahead"
    notes = [f"at {format_time(0.0)}: {present:.4g} s after the first frame of the video"]
    if len(shown) < drawn:
        notes.append("futures that stand for all: the most usual first, then others that are not alone")
    if futures.closest is not None:
        notes.append(f"closest to what came, by the distance of features: future {futures.closest}")
    return Sheet(title, tuple(panels), tuple(each for each in legends if each.entries), tuple(notes))


def _shown(futures: VideoFutures, most: int) -> dict[int, int]:
    """Return samples that stand for all, and how many each stands for; last comes the closest one to what came.

    They are chosen one by one, each so that the samples' distances to the nearest chosen one sum to the least (the
    first phase of k-medoids): the most usual future comes first, then those that differ from it and are not alone.
    """
    apart = futures.apart
    chosen: list[int] = []
    nearest = np.full(len(apart), np.inf)
    wanted = min(len(apart), most)
    while len(chosen) < wanted:
        sums = np.minimum(apart, nearest).sum(axis=1)
        sums[chosen] = np.inf
        chosen.append(int(sums.argmin()))
        nearest = np.minimum(nearest, apart[chosen[-1]])
    if (closest := futures.closest) is not None:
        others = [sample for sample in chosen if sample != closest]
        chosen = [*others[: wanted - 1], closest]
    stands = np.array(chosen)[apart[chosen].argmin(axis=0)]
    return {sample: int((stands == sample).sum()) for sample in chosen}


def moments_of(futures: VideoFutures, rendering: Rendering) -> list[Picture]:
    """Return the pictures of the animation: the video beside its futures in one rendering."""
    context, columns = futures.context, futures.context + futures.horizon
    video: list[Picture | None] = list(futures.frames.pixels)
    tiles = [Tile("video", (*video, *(None,) * (columns - len(video))), seen=len(video))]
    true = rendering.pictures(futures.true)
    if len(true) > context:
        tiles.append(Tile("what came", (*true, *(None,) * (columns - len(true))), seen=len(true)))
    tiles.append(Tile("copy last", (*true[:context], *(true[context - 1],) * futures.horizon), seen=context))
    for number in _shown(futures, SAMPLES_IN_ANIMATION):
        pictures = (*true[:context], *rendering.pictures(futures.samples[number]))
        tiles.append(Tile(f"future {number}", pictures, seen=context))
    return draw_moments(tiles, futures.relative_times, f"{rendering.name} · {futures.name}")


def _spread(futures: VideoFutures) -> list[Picture]:
    """Return, for each step, how far the samples spread at each patch, from none (0) to the scale of the spread (1)."""
    spread = futures.samples.std(dim=0).square().mean(dim=-1).sqrt().unflatten(-1, futures.grid).cpu().numpy()
    return [paint_amount(each / spread_scale(futures)) for each in spread]


def spread_scale(futures: VideoFutures) -> float:
    """Return what counts as a large spread: how far copy last is from what came, or from the futures where none came.

    A root mean square over features and patches, at the last step. Where nothing moves that is next to nothing, so the
    scale is never below a small share of how far patches differ: futures that are all the same stay dark.
    """
    last = futures.true[futures.context - 1]
    ends = futures.true[-1:] if len(futures.true) > futures.context else futures.samples[:, -1]
    apart = (ends - last).square().mean().sqrt()
    return float(torch.maximum(apart, LEAST_SPREAD_SCALE * futures.true.std(dim=1).square().mean().sqrt())) or 1.0


def _named_frames(futures: VideoFutures) -> Iterator[tuple[str, Float[Tensor, "P D"]]]:
    """Yield every frame's features with the stem of its file's name; samples count from 0, context and steps from 1."""
    digits = len(str(len(futures.samples) - 1))
    for number, frame in enumerate(futures.true):
        known = number - futures.context
        yield f"context{number + 1}" if known < 0 else f"truth_step{known + 1}", frame
    for sample, steps in enumerate(futures.samples):
        for step, frame in enumerate(steps):
            yield f"sample{sample:0{digits}}_step{step + 1}", frame


def _write_output(path: Path, rendering: Rendering, frame: Float[Tensor, "P D"]) -> None:
    """Write what a head says of one frame: values where it has them, else the picture."""
    if not isinstance(rendering, LabelRendering):
        write_png(path, rendering.pictures(frame[None])[0])
    elif (values := rendering.values(frame)).dtype == np.uint16:
        Image.fromarray(values).save(path, format="PNG")
    else:
        write_png(path, values)


def _write_features(path: Path, futures: VideoFutures, header: Mapping[str, Any]) -> None:
    context = futures.context
    arrays = {"context": futures.true[:context], "futures": futures.samples, "truth": futures.true[context:]}
    if not all(torch.isfinite(array).all() for array in arrays.values()):
        raise CheckpointError("features are not finite: the weights of the backbone are damaged; try another copy")
    fit = all(array.abs().amax() <= LARGEST["float16"] for array in arrays.values() if array.numel())
    features = {name: (array.half() if fit else array).cpu().numpy() for name, array in arrays.items()}
    moments = futures.frames.moments
    np.savez(
        path,
        context=features["context"],
        futures=features["futures"],
        truth=features["truth"],
        context_times=np.array(moments.context_times),
        future_times=np.array(moments.future_times),
        grid=np.array(futures.grid),
        losses=futures.losses.cpu().numpy(),
        identity=np.array(json.dumps(header["identity"])),
    )


def _description(futures: VideoFutures, renderings: Mapping[str, Rendering]) -> dict[str, Any]:
    frames, moments = futures.frames, futures.frames.moments
    return {
        "video": futures.name,
        "original_size": list(frames.original_size),
        "box": {"top": frames.box.top, "left": frames.box.left, "height": frames.box.height, "width": frames.box.width},
        "size": list(frames.pixels.shape[1:3]),
        "decoder": frames.decoder,
        "context_frames": list(moments.context),
        "context_times": list(moments.context_times),
        "future_times": list(moments.future_times),
        "truth_frames": list(moments.truth),
        "samples": len(futures.samples),
        "losses": futures.losses.tolist(),
        "closest": futures.closest,
        "heads": sorted(renderings),
    }
