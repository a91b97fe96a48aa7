"""A store made with whatever backbone, and read."""

from __future__ import annotations

from pathlib import Path

import torch
from small_training import make_shards

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.frame_size import FrameSize
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.pipeline.decode import ClipDecoder
from deltactl.featurize.pipeline.events import ClipFrames, RawClip
from deltactl.featurize.plan import plan
from deltactl.featurize.run import run as featurize
from deltactl.featurize.store.reader import FeatureStore


def store_reads_back(folder: Path, size: tuple[int, int], place: Path) -> None:
    """Featurize a shard with a backbone at this height and width, and compare what is read with what it computes."""
    shards, store = make_shards(place / "shards", units=1), str(place / "features")
    config = FeaturizeConfig(
        shards=shards, backbone=str(folder), size=FrameSize(*size), out=store, device="cpu", workers=0
    )
    planned = plan(config)
    featurize(config)

    job, backbone = planned.jobs[0], Backbone.load(folder, "cpu")
    frames_of_clip = planned.layout.frames * backbone.frames_per_step
    decoder = ClipDecoder(planned.crops, config.seed, frames_of_clip, pinned=False, aspect=config.size.aspect)
    clip = decoder.decode(RawClip(job, 0, next(planned.data.shards.stream(job.unit))))
    assert isinstance(clip, ClipFrames)
    frames = crop_resize(clip.frames.permute(0, 3, 1, 2), clip.view.of_cut, config.size)
    rows, columns = backbone.grid(*size)
    with FeatureStore.open(store) as reader:
        assert (reader.dim, reader.grid) == (backbone.dim, (rows, columns))
        assert reader.frames == len(frames) // backbone.frames_per_step
        assert reader.identity.text("backbone") == backbone.content_hash
        assert relative_error(reader[0].float(), backbone(frames[None])[0]) < 1e-3
        assert relative_error(reader.black, backbone.black_features(*size)) < 1e-5


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference between two tensors, over the largest number expected."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()
