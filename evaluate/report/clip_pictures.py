"""Pictures of some clips of an evaluation: what was there, and what every row of the table made of it.

Takes the networks and some clips, returns sheets: frames, labels, and the features of the truth and of each row, as
components, through the head and through the RGB head; and every sample, for the report's slider. Features come from the
same code and the same seed as the numbers (`rows.predictions`). A clip is shown by its first square crop, or whole
where it was evaluated whole. Costs the evaluation of each clip, and a pass of the RGB head for each picture.

S samples · H horizon · P patches · D feature width
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from deltactl.configs.evaluate import EvaluateConfig
from deltactl.devices import ieee_convolutions
from deltactl.evaluate.clips.sources import ClipTask, Crop, CropBatch
from deltactl.evaluate.protocol.predictions import Batch, Prediction
from deltactl.evaluate.protocol.rows import context_pairs, forecast_horizons, predictions, sample_horizon, sample_losses
from deltactl.evaluate.protocol.tokens import PairTokens
from deltactl.evaluate.protocol.worker import Loaded, batch_of
from deltactl.evaluate.report.pictures import Legend, Panel, PictureRow, Sheet, format_span
from deltactl.evaluate.report.renderings import ComponentRendering, RGBRendering
from deltactl.evaluate.report.table import METHOD_NAMES
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.ingest.shards.geometry import Box, cut
from deltactl.ingest.shards.images import decode_frame, decode_label
from deltactl.progress import counted
from deltactl.tasks.colours import UNLABELLED, Picture
from deltactl.tasks.known import task_of
from deltactl.tasks.record import LabelRendering, Rendering
from deltactl.train.networks.rgb_head import RGBHead

MAP_PIXELS = 160
"""Short side of class and depth maps in pictures."""


@dataclass(frozen=True)
class SampleRow:
    """One rendering of every sample."""

    rendering: str
    photographic: bool
    pictures: tuple[tuple[Picture, ...], ...]
    """By sample, then by step."""


@dataclass(frozen=True)
class ClipPictures:
    """What the report shows of one clip."""

    key: str
    sheet: Sheet
    samples: tuple[SampleRow, ...]
    losses: tuple[float, ...]
    """Smooth-L1 of each sample at the last frame."""

    @property
    def best(self) -> int:
        """The sample with the least loss; 0 where there are none."""
        return self.losses.index(min(self.losses)) if self.losses else 0

    @property
    def captions(self) -> list[str]:
        """What is said of each sample."""
        return [
            f"sample {number} (of {len(self.losses)}, from 0), loss {loss:.4f}"
            + (", the best" if number == self.best else "")
            for number, loss in enumerate(self.losses)
        ]


def spread_clips(tasks: Sequence[ClipTask], count: int) -> list[ClipTask]:
    """Return tasks of one clip each, `count` of them spread evenly over all clips."""
    places = [(task.unit, number) for task in tasks for number in range(task.first, task.last)]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int))
    return [ClipTask(places[place][0], places[place][1], places[place][1] + 1) for place in chosen]


def draw_clips(
    config: EvaluateConfig,
    loaded: Loaded,
    tasks: Sequence[ClipTask],
    rgb: tuple[RGBHead, Backbone] | None,
    names: tuple[str, ...] = (),
) -> Iterator[ClipPictures]:
    """Yield the pictures of the one clip of each task; clips that cannot be used are passed over.

    `names` are those of the head's classes, by id, as far as they are known.
    """
    for task in tasks:
        for crops in loaded.source.batches(task, 1):
            with torch.inference_mode(), ieee_convolutions(loaded.device):
                yield _draw_clip(config, loaded, crops, rgb, names)
            break  # the first crop of two


def _draw_clip(
    config: EvaluateConfig,
    loaded: Loaded,
    crops: CropBatch,
    rgb: tuple[RGBHead, Backbone] | None,
    names: tuple[str, ...],
) -> ClipPictures:
    (crop,) = crops.crops
    horizon = max(forecast_horizons(config), default=config.frames - config.context)
    config = config.model_copy(update={"horizons": (horizon,), "extras": False, "seeds": None})
    batch = batch_of(loaded, crops)
    autocast = torch.autocast(
        loaded.device.type, torch.bfloat16, enabled=loaded.dtype == torch.bfloat16, cache_enabled=False
    )
    predicted: dict[str, list[Float[Tensor, "P D"]]] = {}
    with autocast:
        for each in predictions(batch, loaded.models, config, loaded.samples):
            assert isinstance(each, Prediction)
            row = each.rows[0]
            if row.method != "present":
                name = METHOD_NAMES[row.method] + (f", {row.select}" if row.select else "")
                predicted.setdefault(name, []).append(each.features[0].float())
        samples = _samples(batch, loaded, config, horizon)
    start = config.frames - horizon - config.context
    true = batch.features[0, start:]
    labels = [_label(crop, frame) for frame in range(start, config.frames)]
    renderings = _renderings(config, loaded, true, labels, _map_size(crop), rgb, names)
    present = crop.clip.times[config.frames - horizon - 1]
    meta, times = crop.clip.record.meta, crop.clip.times
    ahead = f"{counted(config.context, 'frames')} of context, {horizon} ahead"
    sheet = Sheet(
        title=f"{meta.source}, {format_span(times[start], times[-1])}: {ahead}",
        panels=_panels(
            config, crop, tuple(time - present for time in times[start:]), true, predicted, labels, renderings
        ),
        legends=tuple(_legends(renderings, labels)),
        notes=() if crop.crops == 1 else ("the first of the two square crops of each frame",),
    )
    drawn = tuple(
        SampleRow(each.name, each.photographic, tuple(tuple(each.pictures(sample)) for sample in samples))
        for each in renderings
    )
    losses = sample_losses(samples[None, :, -1:], batch.features[:, -1:])[0, :, 0].tolist() if len(samples) else []
    return ClipPictures(crop.clip.key, sheet, drawn if len(samples) else (), tuple(losses))


def _samples(batch: Batch, loaded: Loaded, config: EvaluateConfig, horizon: int) -> Float[Tensor, "S {horizon} P D"]:
    """Return every sample of DeltaWorld, none where it is not given."""
    models = loaded.models
    if models.world is None or models.tokenizer is None:
        return batch.features.new_empty(0, horizon, *batch.features.shape[2:])
    tokens = PairTokens(models.tokenizer, batch, context_pairs(config))
    return sample_horizon(batch, models.world, models.tokenizer, tokens, config, horizon, loaded.samples)[0].float()


def _renderings(
    config: EvaluateConfig,
    loaded: Loaded,
    true: Float[Tensor, "T P D"],
    labels: Sequence[Shaped[np.ndarray, "_ _"] | None],
    size: tuple[int, int],
    rgb: tuple[RGBHead, Backbone] | None,
    names: tuple[str, ...],
) -> list[Rendering]:
    renderings: list[Rendering] = [ComponentRendering.fit(true, loaded.grid)]
    if loaded.head is not None:
        there = [label for label in labels if label is not None]
        renderings.append(
            task_of(config.dataset).rendering(
                head=loaded.head,
                dataset=config.dataset,
                true=true,
                grid=loaded.grid,
                size=size,
                labels=there,
                names=names,
            )
        )
    if rgb is not None:
        renderings.append(RGBRendering(*rgb, loaded.grid))
    return renderings


def _panels(
    config: EvaluateConfig,
    crop: Crop,
    times: tuple[float, ...],
    true: Float[Tensor, "T P D"],
    predicted: dict[str, list[Float[Tensor, "P D"]]],
    labels: Sequence[Shaped[np.ndarray, "_ _"] | None],
    renderings: Sequence[Rendering],
) -> tuple[Panel, ...]:
    """Return what was there, with all moments, and a panel of each rendering with what was made of the future."""
    context, first = config.context, config.frames - len(times)
    seen = [
        PictureRow("frames", tuple(_frame(crop, frame) for frame in range(first, config.frames)), photographic=True)
    ]
    futures = []
    for rendering in renderings:
        known = tuple(rendering.pictures(true))
        if isinstance(rendering, LabelRendering) and any(label is not None for label in labels):
            painted = (None if label is None else rendering.paint(label) for label in labels)
            seen.append(PictureRow("labels", tuple(painted), rendering.name))
        seen.append(PictureRow("true frames", known, rendering.name, rendering.photographic))
        rows = [PictureRow("what came", known[context:], "the truth", rendering.photographic)]
        rows += [
            PictureRow(name, tuple(rendering.pictures(torch.stack(features))), "", rendering.photographic)
            for name, features in predicted.items()
        ]
        futures.append(Panel(rendering.name, times[context:], 0, tuple(rows)))
    return Panel("what was seen, and what came", times, context, tuple(seen)), *futures


def _legends(renderings: Sequence[Rendering], labels: Sequence[Shaped[np.ndarray, "_ _"] | None]) -> Iterator[Legend]:
    for rendering in renderings:
        if entries := rendering.legend():
            labelled = any(label is not None for label in labels)
            yield Legend(rendering.name, (*entries, UNLABELLED) if labelled else entries)


def _frame(crop: Crop, frame: int) -> Picture:
    """Return a frame's square, or all of it, at the size of its shard."""
    picture = decode_frame(crop.clip.record.frames[crop.clip.stored(frame)])
    return np.ascontiguousarray(cut(picture, crop.box))


def _label(crop: Crop, frame: int) -> Shaped[np.ndarray, "_ _"] | None:
    """Return the target of a frame's whole crop, classes or metres; None where it has no label.

    (A crop's own part of the target, which is scored, is half a square where the two crops overlap.)
    """
    record, stored = crop.clip.record, crop.clip.stored(frame)
    if stored not in record.labels:
        return None
    target = crop.clip.dataset.target(decode_label(record.labels[stored]))
    box = crop.box
    rows, columns = (side / length for side, length in zip(target.shape, crop.frame_size, strict=True))
    top, left = round(box.top * rows), round(box.left * columns)
    shown = cut(target, Box(top, left, round(box.height * rows), round(box.width * columns)))
    if shown.dtype == np.float32:
        # Depth is sparse: its points are made larger, or a small picture would lose them.
        shown = cv2.dilate(shown, np.ones((max(1, min(shown.shape) // MAP_PIXELS) + 2,) * 2, np.uint8))
    return np.asarray(cv2.resize(shown, _map_size(crop)[::-1], interpolation=cv2.INTER_NEAREST))


def _map_size(crop: Crop) -> tuple[int, int]:
    """Return height and width of a crop's maps."""
    scale = MAP_PIXELS / min(crop.box.height, crop.box.width)
    return round(crop.box.height * scale), round(crop.box.width * scale)
