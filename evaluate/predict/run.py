"""Futures of any video: takes the last frames of its past, publishes sampled features of the next ones, drawn too.

Frames go through the backbone, tokens of the context through DeltaWorld, sampled tokens through DeltaTok's decoder, as
in the evaluation (`rows`). `files` writes the results; the folder appears whole or not at all. Where the
video goes on after the context (`--at`), what happened is shown beside the futures, with their distance to it.

Costs a pass of the backbone for each frame, and one of the decoder for each sample and step.

T frames read · C context · S samples · H horizon · K frames of the horizon that the video has · P patches · D width
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deltactl.artifacts import HEADER, Identity, check_replaceable, default_location, make_provenance
from deltactl.claims import hold
from deltactl.configs.base import with_environment
from deltactl.configs.follow import is_set, with_setting
from deltactl.configs.names import root_variable
from deltactl.configs.predict import PredictConfig
from deltactl.datasets.known import labelled_names, labelled_set, says_itself
from deltactl.devices import device_of, dtype_of, ieee_convolutions
from deltactl.errors import CheckpointError, ConfigError, SourceError
from deltactl.evaluate.predict.context import ContextFrames, ReadTask, Wanted, read_context
from deltactl.evaluate.predict.files import VideoFutures, write_files
from deltactl.evaluate.protocol.futures import draw_queries, sample_futures
from deltactl.evaluate.protocol.memory import AtOnce, memory_faults
from deltactl.evaluate.protocol.networks import check_tokens, check_width, names_in_head, naming, read_rgb_head
from deltactl.evaluate.protocol.rows import sample_losses
from deltactl.evaluate.report.renderings import RGBRendering
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.store.numbers import rounded
from deltactl.locations import Location
from deltactl.progress import Say
from deltactl.removal import Consent, refuse, replaced
from deltactl.staging import publish_files
from deltactl.tasks.known import task_of
from deltactl.tasks.record import Rendering
from deltactl.train.checkpoints.loading import load, network_hash
from deltactl.train.checkpoints.trained import Steps, as_trained, mismatched_checkpoints
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTok
from deltactl.train.networks.deltaworld import WORLD, DeltaWorld
from deltactl.train.networks.known_kinds import kind_of
from deltactl.train.networks.rgb_head import RGB, RGBHead

log = logging.getLogger(__name__)

KIND = "prediction"
LIBRARIES = ("torch", "transformers", "numpy", "av", "opencv-python-headless", "pillow")
QUERIES = "predict"
"""Names the random draws. They depend on the seed alone: one seed asks every video the same."""
LONGEST_NAME = 60


@dataclass(frozen=True)
class Predictors:
    """The networks of a prediction, on their device."""

    backbone: Backbone
    tokenizer: DeltaTok
    world: DeltaWorld
    heads: Mapping[str, nn.Module]
    """By data set."""
    rgb: RGBHead | None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the classes of each segmentation head, by id, as far as they are known."""

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Return the content hash of each."""
        networks: dict[str, nn.Module] = {"tokenizer": self.tokenizer, "world": self.world, **self.heads}
        if self.rgb is not None:
            networks["rgb"] = self.rgb
        hashes = {name: network_hash(network) for name, network in networks.items()}
        return {"backbone": self.backbone.content_hash, **hashes}


def run_predict(config: PredictConfig, say: Say, consent: Consent = refuse) -> Location:
    """Predict, publish, and return the folder; `say` takes sentences for people.

    `consent` is asked before an earlier prediction of something else is overwritten. Before any long work begins:

    Raises:
        SourceError: the video cannot be read, or is too short.
        CheckpointError, HubError: the backbone or a checkpoint cannot be used.
        ArtifactError: `out` holds something other than a prediction.
        ClaimedError: another process writes there.
        ConfigError: the settings do not suit the video; later, where the memory is full even for one frame or sample.
    """
    config = with_environment(config)
    networks = [("world", config.world), ("tokenizer", config.tokenizer), *(("head", place) for place in config.heads)]
    config, steps = as_trained(config, networks, say)
    config, warnings = _with_stride(config, steps, say)
    smaller = f"--samples {max(1, config.samples // 2)} (now {config.samples}), a smaller --size (now {config.size})"
    with memory_faults(config.device, f"one frame of {config.size} px and {config.samples} samples", smaller):
        return _run(config, say, warnings, consent)


def _with_stride(config: PredictConfig, steps: Steps | None, say: Say) -> tuple[PredictConfig, list[str]]:
    """Return the settings with a stride that the networks have seen, unless it was set; then what speaks against it."""
    if steps is None:
        return config, []
    seen = steps.nearest(config.stride)
    if seen == config.stride:
        return config, []
    if not is_set(config, "stride"):
        say(f"frames {seen:g} s apart: the networks were trained on {steps.least:g} to {steps.most:g} s")
        return with_setting(config, "stride", seen), []
    return config, [
        f"--stride is {config.stride:g} s, but --world {config.world} was trained on frames {steps.least:g} to "
        f"{steps.most:g} s apart; its futures mean little"
    ]


def _run(config: PredictConfig, say: Say, warnings: Sequence[str], consent: Consent) -> Location:
    video = Location.of(config.video)
    if not video.is_local:
        raise ConfigError(f"{video} is not a local file; videos are read from disks, copy it here")
    if not video.exists():
        raise SourceError(f"{video} does not exist; expected a video, or a folder of frames")
    if config.out:
        check_replaceable(Location.of(config.out), KIND)
    device = device_of(config.device)
    backbone = Backbone.load(config.backbone, device, dtype_of(config.precision, device))
    backbone.grid(*config.size.pair)
    frames = read_context(_task(config, video.path, backbone))
    if frames.share < 1:
        part = "the square" if config.size.square else f"a part of the shape {config.size}"
        say(
            f"of its {frames.original_size[1]} × {frames.original_size[0]} pixels {part} in the middle is used, "
            f"{100 * frames.share:.0f} % of the picture; --crop whole takes all of it"
        )
    networks = _load(config, backbone)
    given = [("tokenizer", config.tokenizer), ("world", config.world), ("rgb-head", config.rgb_head)]
    given += [("head", place) for place in config.heads]
    warnings = [*warnings, *mismatched_checkpoints(given, networks.hashes, config.size)]
    for note in warnings:
        log.warning("%s", note)
    asked = {"stride_seconds": config.stride, "warnings": list(warnings)}
    identity = identity_of(config, networks, frames)
    folder = Location.of(config.out) if config.out else _default_folder(video.name, identity)
    check_replaceable(folder, KIND)
    consent(replaced(folder, identity))
    with hold(folder):
        check_replaceable(folder, KIND)
        _publish(config, networks, frames, identity, folder, asked)
    return folder


def _publish(
    config: PredictConfig,
    networks: Predictors,
    frames: ContextFrames,
    identity: Identity,
    folder: Location,
    asked: Mapping[str, Any],
) -> None:
    """Predict, and publish the results in place of an earlier prediction."""
    backbone = networks.backbone
    device = backbone.device
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=backbone.dtype == torch.bfloat16):
        futures = predict_futures(config, networks, frames)
    header = {
        "kind": KIND,
        "identity": dict(identity.values),
        "provenance": make_provenance(LIBRARIES, device=str(device), precision=str(backbone.dtype).split(".")[1]),
    }
    folders = {"rgb", *labelled_names()}
    with (
        torch.inference_mode(),
        ieee_convolutions(device),
        publish_files(
            folder, HEADER, replace=True, outdated=lambda name: name in folders or says_itself(name)
        ) as files,
    ):
        write_files(files, futures, _renderings(networks, futures), header, asked)


def predict_futures(config: PredictConfig, networks: Predictors, frames: ContextFrames) -> VideoFutures:
    """Return sampled futures of the frames that were read; call it under `torch.inference_mode()`."""
    backbone, device = networks.backbone, networks.backbone.device
    steps = torch.from_numpy(frames.steps).permute(0, 1, 4, 2, 3)
    height, width = steps.shape[3:]
    grid = backbone.grid(height, width)
    # One step at a time: its features do not depend on how many were read. Rounded, as stores have them.
    true = rounded(torch.cat([backbone(step.to(device))[:, 0] for step in steps.split(1)]))
    black = backbone.black_features(height, width)
    context = config.context
    moments = frames.moments
    start = moments.context_times[0]
    before = torch.cat([black[None].to(true.dtype), true[: context - 1]])
    pairs = AtOnce("pairs of frames", context, device)
    parts = pairs.pieces(
        context, lambda start, stop: networks.tokenizer.encode(before[start:stop], true[start:stop], grid)
    )
    tokens = torch.cat(list(parts))[None]
    queries = draw_queries(
        seed=config.seed,
        key=QUERIES,
        view=0,
        samples=config.samples,
        horizon=config.horizon,
        width=networks.world.config.width,
    )
    samples = sample_futures(
        networks.world,
        networks.tokenizer,
        tokens=tokens,
        times=torch.tensor([[time - start for time in moments.context_times]], device=device),
        target_times=torch.tensor([[time - start for time in moments.future_times]], device=device),
        last=true[None, context - 1],
        grid=grid,
        queries=queries[None],
    )[0].float()
    if not torch.isfinite(samples.sum(dtype=torch.float64)):
        raise CheckpointError(
            "a prediction is not finite: the weights have diverged, or do not belong to these features; "
            "try another checkpoint"
        )
    return VideoFutures(
        name=_title(Path(config.video)),
        frames=frames,
        grid=grid,
        true=true,
        samples=samples,
        losses=_losses(samples, true[context:]),
    )


def _losses(samples: Float[Tensor, "S H P D"], truth: Float[Tensor, "K P D"]) -> Float[Tensor, "S K"]:
    """Return the smooth-L1 of every sample at every step that the video has."""
    return (
        sample_losses(samples[None, :, : len(truth)], truth[None])[0]
        if len(truth)
        else samples.new_empty(len(samples), 0)
    )


def identity_of(config: PredictConfig, networks: Predictors, frames: ContextFrames) -> Identity:
    """Return what decides the futures: pixels, moments, weights and settings."""
    import hashlib

    names = ("horizon", "samples", "seed", "size", "crop")
    dumped = config.model_dump(mode="json", include=set(names))
    moments = frames.moments
    values = {
        "pixels_sha256": hashlib.sha256(frames.steps[: config.context].tobytes()).hexdigest(),
        "context_times": list(moments.context_times),
        "future_times": list(moments.future_times),
        "weights": networks.hashes,
    }
    return Identity(KIND, {**values, **{name: dumped[name] for name in names}})


def _task(config: PredictConfig, path: Path, backbone: Backbone) -> ReadTask:
    if config.fps is not None and path.exists() and not path.is_dir():
        raise ConfigError(f"--fps is for folders of numbered frames; {path} is a file, which has its own times")
    wanted = Wanted(config.context, config.horizon, config.stride, config.at, backbone.frames_per_step)
    return ReadTask(path, wanted, config.crop, config.size, backbone.patch_size, config.fps)


def _load(config: PredictConfig, backbone: Backbone) -> Predictors:
    """Return the networks on the backbone's device.

    Raises:
        CheckpointError: one cannot be used, or does not fit the others.
        ConfigError: there are two heads for one data set.
    """
    features = f"the backbone {config.backbone} makes features of width {backbone.dim}"
    with naming("tokenizer"):
        tokenizer = load(config.tokenizer, TOKENIZER)
    check_width("tokenizer", config.tokenizer, tokenizer.config.width, backbone.dim, features)
    with naming("world"):
        world = load(config.world, WORLD)
    check_tokens(config.world, world.config, config.tokenizer, tokenizer.config)
    heads: dict[str, nn.Module] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for place in config.heads:
        head: Any = load(place)
        kind = kind_of(head)
        dataset = kind.dataset
        if dataset is None:
            hint = "; give it with --rgb-head" if kind == RGB else ""
            raise CheckpointError(f"--head {place}: expected a segmentation or depth head, found: {kind.title}{hint}")
        if dataset in heads:
            raise ConfigError(f"--head {place} is a second {kind.title}; give one of each kind")
        check_width("head", place, head.config.dim, backbone.dim, features)
        heads[dataset] = head.to(backbone.device)
        classes[dataset] = names_in_head(place) or _class_names(dataset)
    rgb = None
    if config.rgb_head:
        rgb_head = read_rgb_head(config.rgb_head, config.backbone, backbone.family, backbone.facts).load()
        assert isinstance(rgb_head, RGBHead)
        rgb = rgb_head.to(backbone.device)
    return Predictors(backbone, tokenizer.to(backbone.device), world.to(backbone.device), heads, rgb, classes)


def _class_names(dataset: str) -> tuple[str, ...]:
    """Return the names of a set's classes, by help of its root where the environment names it."""
    root = os.environ.get(root_variable(dataset) or "")
    return labelled_set(dataset).class_names(Location.of(root) if root else None)


def _renderings(networks: Predictors, futures: VideoFutures) -> dict[str, Rendering]:
    """Return how each given head shows features, by the name of its folder."""
    size = (futures.frames.pixels.shape[1], futures.frames.pixels.shape[2])
    renderings: dict[str, Rendering] = {}
    if networks.rgb is not None:
        renderings["rgb"] = RGBRendering(networks.rgb, networks.backbone, futures.grid)
    for dataset, head in networks.heads.items():
        renderings[dataset] = task_of(dataset).rendering(
            head=head,
            dataset=dataset,
            true=futures.true,
            grid=futures.grid,
            size=size,
            labels=(),
            names=networks.classes.get(dataset, ()),
        )
    return renderings


def _title(video: Path) -> str:
    """Return what to call a video: its file's name; for a folder of frames its own and its parent's."""
    path = video.resolve()
    return "/".join(path.parts[-2:]) if path.is_dir() else path.name


def _default_folder(video: str, identity: Identity) -> Location:
    name = "".join(character if character.isalnum() or character in "-_" else "-" for character in Path(video).stem)
    return default_location("reports", f"predict-{name[:LONGEST_NAME]}-{identity.hash()[:8]}")
