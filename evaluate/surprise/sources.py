"""What surprise is measured on: videos, shards, features or tokens, each clip as what its scores follow from.

Takes a configuration, finds what its SOURCE is, and says before any long work begins what does not fit it. A `Subject`
is one clip (or a whole video), read when its turn comes; a clip that is read ahead is the only one beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from deltactl.artifacts import HEADER, Identity, read_header
from deltactl.configs.surprise import SurpriseConfig
from deltactl.errors import ArtifactError, ConfigError, SourceError
from deltactl.evaluate.predict.context import ContextFrames, ReadTask, Throughout, read_context
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.pipeline.background import read_ahead
from deltactl.featurize.pipeline.crops import crop_resize
from deltactl.featurize.store.numbers import rounded
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.views import View
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.geometry import centre_crop
from deltactl.ingest.shards.images import decode_frame
from deltactl.locations import Location

SourceKind = Literal["video", "videos", "shards", "features", "tokens"]
CLIPS: Mapping[str, SourceKind] = {"shards": "shards", "features": "features", "tokens": "tokens"}
"""Artifacts that hold clips, by their kind."""
VIDEO_KEY = ""
"""Names the draws of videos: they depend on the seed and the frame alone, so that both of a pair are asked the same."""


@dataclass(frozen=True)
class Subject:
    """One clip, or a video as one."""

    video: str
    clip: str
    """Its key; of a video its name."""
    view: int
    draws: str
    """Names its draws."""
    times: tuple[float, ...]
    """Of its steps, in seconds."""
    features: Iterator[Float[Tensor, "P D"]] | None = None
    """Of each step, in order; None where there are tokens alone."""
    tokens: Float[Tensor, "T K d"] | None = None
    pixels: UInt8[np.ndarray, "T H W 3"] | None = None
    """Of a video, the last frame of each step."""
    frames: ContextFrames | None = None
    """Of a video."""


def kind_of_source(config: SurpriseConfig) -> SourceKind:
    """Return what SOURCE is.

    Raises:
        ConfigError: it is not a local file, and no artifact.
        SourceError: it is not there.
        ArtifactError: it is an artifact of another kind.
    """
    place = Location.of(config.source)
    if (place / HEADER).exists():
        kind = read_header(place).identity.kind
        if kind in CLIPS:
            return CLIPS[kind]
        raise ArtifactError(f"{place} holds a {kind}; expected a video, shards, features or tokens")
    if not place.is_local:
        raise ConfigError(f"{place} is no artifact, and not a local file; videos are read from disks, copy it here")
    if not place.exists():
        raise SourceError(f"{place} does not exist; expected a video, a folder of frames, shards, features or tokens")
    if config.pairs is None:
        return "video"
    if not place.path.is_dir():
        raise ConfigError(f"--pairs goes with a folder of videos, or with clips; {place} is one file")
    return "videos"


def video_subject(config: SurpriseConfig, path: Path, name: str, backbone: Backbone, least: int) -> Subject:
    """Return a video, read.

    Raises:
        SourceError: it cannot be read, or has fewer than `least` frames; the message names it.
    """
    folder = path.is_dir()
    if not path.exists():
        raise SourceError(f"{path} does not exist; expected a video, or a folder of frames")
    if config.fps is not None and not folder:
        raise ConfigError(f"--fps is for folders of numbered frames; {path} is a file, which has its own times")
    wanted = Throughout(config.stride, config.start or 0.0, config.end, least, backbone.frames_per_step)
    frames = read_context(ReadTask(path, wanted, config.crop, config.size, backbone.patch_size, config.fps))
    steps = torch.from_numpy(frames.steps).permute(0, 1, 4, 2, 3)
    return Subject(
        video=name,
        clip=name,
        view=0,
        draws=VIDEO_KEY,
        times=frames.moments.context_times,
        features=_features(backbone, steps),
        pixels=frames.pixels,
        frames=frames,
    )


def _features(backbone: Backbone, steps: UInt8[Tensor, "T F 3 H W"]) -> Iterator[Float[Tensor, "P D"]]:
    """Yield the features of each step, one pass of the backbone for each: they do not depend on how many there are."""
    for step in steps.split(1):
        # Rounded, as stores have them.
        yield rounded(backbone(step.to(backbone.device))[0, 0])


def shard_subjects(config: SurpriseConfig, shards: ShardSet, backbone: Backbone) -> Iterator[Subject]:
    """Yield the clips of shards, each cut to the largest part in the middle that has the shape of the size."""
    left = config.limit
    for unit in shards.units:
        for clip in shards.read(unit):
            if left == 0:
                return
            yield _shard_subject(config, clip, backbone)
            left = None if left is None else left - 1


def _shard_subject(config: SurpriseConfig, clip: Clip, backbone: Backbone) -> Subject:
    def features() -> Iterator[Float[Tensor, "P D"]]:
        frames = torch.from_numpy(np.stack([decode_frame(data) for data in clip.frames])).permute(0, 3, 1, 2)
        box = centre_crop(frames.shape[2], frames.shape[3], config.size.aspect)
        pixels = crop_resize(frames, View(box, flip=False), config.size)
        yield from _features(backbone, pixels.unflatten(0, (-1, backbone.frames_per_step)))

    times = clip.meta.times[backbone.frames_per_step - 1 :: backbone.frames_per_step]
    name = clip.meta.source if clip.source_name is None else clip.source_name
    return Subject(name, clip.key, 0, clip.key, times, features())


def store_subjects(config: SurpriseConfig, store: ClipStore) -> Iterator[Subject]:
    """Yield the clips of a store under its views, in order; the next one is read meanwhile."""
    count = len(store) if config.limit is None else min(len(store), config.limit)
    return read_ahead((_begin(store, sample) for sample in range(count)), 1)


def _begin(store: ClipStore, sample: int) -> Callable[[], Subject]:
    reading = store.start_clips([sample])
    unit, row = store.unit_of(sample), int(store.origins[2][sample])
    key, view, video = store.key_of(sample), store.view_of(sample), store.sources_of(unit)[row]

    def finish() -> Subject:
        clip = reading.result()[0].float()
        times = tuple(store.times([sample])[0].tolist())
        if isinstance(store, FeatureStore):
            return Subject(video, key, view, key, times, features=iter(clip.unbind(0)))
        return Subject(video, key, view, key, times, tokens=clip)

    return finish


def open_store(kind: SourceKind, place: Location) -> ClipStore:
    """Open a store of features or tokens."""
    return FeatureStore.open(place) if kind == "features" else TokenStore.open(place)


def check_length(frames: int, least: int, config: SurpriseConfig) -> None:
    """Raise ConfigError where clips are shorter than the context and what comes after it."""
    if frames < least:
        raise ConfigError(
            f"the clips of {config.source} have {frames} frames; a context of {config.context} and {config.horizon} "
            "after it need "
            f"{least}: use a smaller --context or --horizon"
        )


def videos_of_clips(data: ShardSet | ClipStore) -> Sequence[str]:
    """Return the names of the videos that clips were cut from, each once."""
    return list(dict.fromkeys(name for unit in data.units for name in data.sources_of(unit)))


def said_of_source(identity: Identity) -> Mapping[str, str]:
    """Return what stands in an identity for an artifact that scores are of."""
    return {"kind": identity.kind, "identity_sha256": identity.hash()}
