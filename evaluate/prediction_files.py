"""What a prediction leaves behind: pictures to look at, arrays and maps to go on with.

futures.png         rows of frames: the video, then the truth and some futures in each rendering, times underneath
futures.gif         every future as a film, side by side
features.npz        context, futures, truth (float16), times, grid, losses, identity; plain `numpy.load` opens it
prediction.json     times, files, and the distance of each future to the truth where the video goes on
vspw/ cityscapes/   class ids (8 bit) as the given head sees each frame: contextC.png, sampleS_stepH.png
kitti/              depth, 16 bit, metres × 256 (KITTI's convention)
rgb/                the RGB head's pictures
artifact.json       identity and provenance
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from deltactl.artifacts import HEADER, seal
from deltactl.errors import CheckpointError
from deltactl.evaluate.animation import Tile, draw_moments, write_gif
from deltactl.evaluate.colours import paint_amount
from deltactl.evaluate.context import ContextFrames
from deltactl.evaluate.pictures import Legend, Picture, Row, Sheet, draw_sheet, write_png
from deltactl.evaluate.renderings import ClassRendering, ComponentRendering, DepthRendering, Rendering
from deltactl.progress import Progress

NAMES = (
    *("futures.png", "futures.gif", "features.npz", "prediction.json", HEADER),
    *("vspw", "cityscapes", "kitti", "rgb"),
)
"""Everything that a prediction may hold."""
SAMPLES_IN_SHEET, SAMPLES_BESIDE_OTHERS = 6, 4
"""Futures on the sheet in one rendering, and in each of several."""
SAMPLES_IN_ANIMATION = 24
DEPTH_SCALE = 256
MOST_METRES = 65535 / DEPTH_SCALE


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
    shown: list[Rendering] = [*renderings.values()] if "rgb" in renderings else [features, *renderings.values()]
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
    """Return the sheet of all renderings: the video, then the truth, some futures and their mean."""
    context, horizon, known = futures.context, futures.horizon, len(futures.true)
    columns = context + horizon
    empty: tuple[None, ...] = (None,) * context

    def padded(pictures: list[Picture]) -> tuple[Picture | None, ...]:
        return (*pictures, *(None,) * (columns - len(pictures)))

    drawn = len(futures.samples)
    shown = _shown(futures, SAMPLES_IN_SHEET if len(renderings) == 1 else SAMPLES_BESIDE_OTHERS)
    note = "video, and what came" if known > context else "video"
    rows = [Row("frames", padded(list(futures.frames.pixels)), note)]
    for rendering in renderings:
        rows.append(Row(rendering.name, padded(rendering.pictures(futures.true)), "of true frames"))
        for sample in shown:
            closest = " (closest)" if sample == futures.closest else ""
            pictures = rendering.pictures(futures.samples[sample])
            rows.append(Row(f"future {sample + 1}", (*empty, *pictures), f"{rendering.name}{closest}"))
        if drawn > 1:
            mean = rendering.pictures(futures.samples.mean(dim=0))
            rows.append(Row(f"mean of {drawn}", (*empty, *mean), rendering.name))
    notes = [f"{len(shown)} of {drawn} futures"] if len(shown) < drawn else []
    if drawn > 1:
        rows.append(Row("spread", (*empty, *_spread(futures)), "bright: futures differ"))
    if futures.closest is not None:
        notes.append(f"closest to what came: future {futures.closest + 1}, by the distance of features")
    legends = tuple(Legend(rendering.name, rendering.legend()) for rendering in renderings)
    return Sheet(futures.name, futures.relative_times, context, tuple(rows), legends, tuple(notes))


def _shown(futures: VideoFutures, most: int) -> list[int]:
    """Return the first samples, and the closest one to what came where there is one."""
    first = list(range(min(len(futures.samples), most)))
    closest = futures.closest
    return first if closest is None or closest in first else [*first[:-1], closest]


def moments_of(futures: VideoFutures, rendering: Rendering) -> list[Picture]:
    """Return the pictures of the animation: the video beside its futures in one rendering."""
    context, columns = futures.context, futures.context + futures.horizon
    video: list[Picture | None] = list(futures.frames.pixels)
    tiles = [Tile("video", (*video, *(None,) * (columns - len(video))), seen=len(video))]
    true = rendering.pictures(futures.true)
    if len(true) > context:
        tiles.append(Tile("what came", (*true, *(None,) * (columns - len(true))), seen=len(true)))
    for number, sample in enumerate(futures.samples[:SAMPLES_IN_ANIMATION]):
        pictures = (*true[:context], *rendering.pictures(sample))
        tiles.append(Tile(f"future {number + 1}", pictures, seen=context))
    return draw_moments(tiles, futures.relative_times, f"{rendering.name} · {futures.name}")


def _spread(futures: VideoFutures) -> list[Picture]:
    """Return, for each step, how far the samples spread at each patch, as a share of the most there is."""
    spread = futures.samples.std(dim=0).square().mean(dim=-1).sqrt().unflatten(-1, futures.grid).cpu().numpy()
    most = float(spread.max())
    return [paint_amount(each / most if most > 0 else each) for each in spread]


def _named_frames(futures: VideoFutures) -> Iterator[tuple[str, Float[Tensor, "P D"]]]:
    """Yield every frame's features with the stem of its file's name; samples and steps count from 1."""
    digits = len(str(len(futures.samples)))
    for number, frame in enumerate(futures.true):
        known = number - futures.context
        yield f"context{number + 1}" if known < 0 else f"truth_step{known + 1}", frame
    for sample, steps in enumerate(futures.samples):
        for step, frame in enumerate(steps):
            yield f"sample{sample + 1:0{digits}}_step{step + 1}", frame


def _write_output(path: Path, rendering: Rendering, frame: Float[Tensor, "P D"]) -> None:
    """Write what a head says of one frame: values where it has them, else the picture."""
    match rendering:
        case ClassRendering():
            write_png(path, rendering.classes(frame))
        case DepthRendering():
            metres = np.clip(rendering.metres(frame), 0, MOST_METRES)
            Image.fromarray(np.rint(metres * DEPTH_SCALE).astype(np.uint16)).save(path, format="PNG")
        case _:
            write_png(path, rendering.pictures(frame[None])[0])


def _write_features(path: Path, futures: VideoFutures, header: Mapping[str, Any]) -> None:
    context = futures.context
    arrays = {"context": futures.true[:context], "futures": futures.samples, "truth": futures.true[context:]}
    halves = {name: array.cpu().half() for name, array in arrays.items()}
    if not all(torch.isfinite(array).all() for array in halves.values()):
        raise CheckpointError("predicted features exceed float16 (65504): the weights do not belong to these features")
    moments = futures.frames.moments
    np.savez(
        path,
        context=halves["context"].numpy(),
        futures=halves["futures"].numpy(),
        truth=halves["truth"].numpy(),
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
        "closest": None if futures.closest is None else futures.closest + 1,
        "heads": sorted(renderings),
    }
