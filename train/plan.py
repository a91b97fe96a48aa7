"""What a recipe costs before it runs: bytes, GPU-hours, wall-clock, reads, repeats, and whether a cache pays.

In come a recipe, a data set's size and a machine; out comes a `Cost` for each stage. Pure arithmetic on the layouts
that the stages write (`featurize.layout`), the work of their networks (`train.work`) and rates (`train.rates`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from deltactl.configs.load import assignments_of, resolve, stage_model
from deltactl.configs.recipe import RecipeConfig, StepConfig
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import TrainingConfig
from deltactl.configs.world import WorldConfig
from deltactl.errors import ConfigError
from deltactl.featurize.layout import Layout
from deltactl.progress import counted
from deltactl.train.rates import (
    DECODED_FRAMES_PER_CORE_SECOND,
    INGESTED_CLIPS_PER_CORE_SECOND,
    READ_BYTES_PER_SECOND,
    SHARD_BYTES_PER_PIXEL,
    Rates,
)
from deltactl.train.work import NetworkSizes, backbone_sizes

KINETICS_VIDEOS = 536_000
STORED_SIZE = 1.3
"""Frames are stored with a short side of so many times the size that they serve."""
ASPECT = 16 / 9


@dataclass(frozen=True)
class DataSize:
    """How much there is to learn from."""

    videos: int = KINETICS_VIDEOS
    clips: int = 8
    """Clips of each video."""
    views: int = 1
    """Crops of each clip."""
    frames: int = 8
    """Frames of each clip."""
    views_at: Mapping[int, int] = field(default_factory=dict)
    """Crops of each clip at some sizes in pixels, where they are not `views`."""

    @property
    def samples(self) -> int:
        """Clips, under all views."""
        return self.videos * self.clips * self.views

    def at(self, size: int) -> DataSize:
        """Return the same data with the views of this size."""
        return replace(self, views=self.views_at.get(size, self.views), views_at={})


@dataclass(frozen=True)
class Machine:
    """What works on it: so many GPUs, or CPUs where `rates` are those of one."""

    rates: Rates
    gpus: int = 8
    cores_per_gpu: int = 16
    gpus_per_node: int = 8
    read_bytes_per_second: float = READ_BYTES_PER_SECOND
    """What each node reads."""

    @property
    def cores(self) -> int:
        """CPU cores of all nodes."""
        return self.gpus * self.cores_per_gpu

    @property
    def nodes(self) -> int:
        """Machines, each with a network or disks of its own to read through."""
        return -(-self.gpus // self.gpus_per_node)


@dataclass(frozen=True)
class Cost:
    """What one stage takes."""

    name: str
    what: str
    gpu_seconds: float = 0.0
    core_seconds: float = 0.0
    written_bytes: float = 0.0
    read_bytes: float = 0.0
    repeats: float | None = None
    """How often training sees each sample; None where nothing is trained."""
    fresh_crops: bool = False
    """Whether each sample is a new crop, so that `repeats` counts clips."""
    break_even_steps: float | None = None
    """Steps of training from which on a cache has taken less work than training live."""

    def parts(self, machine: Machine) -> dict[str, float]:
        """Return the seconds that each part would take alone; networks on a CPU and decoding share its cores."""
        reading = self.read_bytes / (machine.read_bytes_per_second * machine.nodes)
        networks, decoding = self.gpu_seconds / machine.gpus, self.core_seconds / machine.cores
        if machine.rates.device == "CPU":
            return {"CPU": networks + decoding, "reading": reading}
        return {"GPU": networks, "decoding": decoding, "reading": reading}

    def device_seconds(self, machine: Machine) -> float:
        """Return what it takes of one GPU, or of one CPU, all its cores: decoding, too, is that one's work."""
        on_cpu = machine.rates.device == "CPU"
        return self.gpu_seconds + (self.core_seconds / machine.cores_per_gpu if on_cpu else 0.0)

    def seconds(self, machine: Machine) -> float:
        """Return the wall-clock: that of the slowest part, since they overlap."""
        return max(self.parts(machine).values())

    def bottleneck(self, machine: Machine) -> str:
        """Return the part that sets the pace."""
        parts = self.parts(machine)
        return max(parts, key=lambda name: parts[name])


def repeats(samples: int, clips: int, views: int, pairs: int = 1) -> float:
    """Return how often training that draws so many samples sees each of them."""
    return samples / max(clips * views * pairs, 1)


def frame_shard_bytes(size: int) -> float:
    """Return the bytes of one stored training frame (assumed, of video larger than that)."""
    return SHARD_BYTES_PER_PIXEL * (STORED_SIZE * size) ** 2 * ASPECT


Source = Literal["tokens", "features", "shards"]


def plan_costs(recipe: RecipeConfig, data: DataSize, rates: Rates, *, live: bool = False, gpus: int = 8) -> list[Cost]:
    """Return the cost of ingest, of each cache that the recipe reads, and of each of its steps.

    A step trains live where its `data` names shards; with `live` all do. Where `data` names nothing, a step reads the
    tokens or features that the stages before it make. `gpus` share an effective batch, so with many of them each takes
    smaller ones.
    """
    steps = {name: _settings(step) for name, step in recipe.steps.items()}
    trained = [settings for settings in steps.values() if settings is not None]
    largest = max((settings.size for settings in trained), default=512)
    clips = data.videos * data.clips
    costs = [
        Cost(
            "ingest",
            f"{counted(clips, 'clips')} of {counted(data.frames, 'frames')} for {largest} px",
            core_seconds=clips / INGESTED_CLIPS_PER_CORE_SECOND,
            written_bytes=clips * data.frames * frame_shard_bytes(largest),
        )
    ]
    made: set[int] = set()

    def need(size: int, sizes: NetworkSizes) -> None:
        if size not in made:
            made.add(size)
            costs.append(_featurize(data.at(size), replace(sizes, size=size), largest, rates))

    sizes: NetworkSizes | None = None  # of the recipe's last tokenizer
    has_tokens = False
    for name, step in recipe.steps.items():
        settings = steps[name]
        if isinstance(settings, TokenizerConfig):
            source = _source(step, "features", live)
            sizes = _tokenizer_sizes(settings)
            if source == "features":
                need(settings.size, sizes)
            sized = data.at(settings.size)
            costs.append(_tokenizer(name, settings, _steps(name, recipe), sized, sizes, largest, rates, source))
        elif step.run == "tokenize" and not live:
            has_tokens = True
            sizes = sizes or NetworkSizes(largest)
            if "views" in step.settings:
                data = replace(data, views_at={**data.views_at, sizes.size: int(step.settings["views"])})
            source = _source(step, "features" if sizes.size in made else "shards", live)
            if source == "features":
                need(sizes.size, sizes)
            costs.append(_tokenize(name, data.at(sizes.size), sizes, largest, rates, source))
        elif isinstance(settings, WorldConfig):
            dino = settings.network.kind == "dinoworld"
            source = _source(step, "features" if dino or not has_tokens else "tokens", live)
            world = _world_sizes(settings, sizes)
            if source == "features":
                need(settings.size, world)
            sized = data.at(settings.size)
            batch = settings.at_once(gpus)
            costs.append(_world(name, settings, _steps(name, recipe), sized, world, largest, rates, source, batch))
    return costs


def _source(step: StepConfig, usual: Source, live: bool) -> Source:
    """Return what a step reads."""
    kinds: tuple[Source, ...] = ("tokens", "features", "shards")
    *folders, name = (step.data or "").split("/")
    named = [*folders, name] if folders else []
    return "shards" if live else next((part for part in named if part in kinds), usual)


def _tokenizer_sizes(settings: TokenizerConfig) -> NetworkSizes:
    network = settings.network
    return replace(_frozen(settings), width=network.width, tokenizer_depth=network.depth, swiglu=network.swiglu)


def _world_sizes(settings: WorldConfig, tokenizer: NetworkSizes | None) -> NetworkSizes:
    network = settings.network
    return replace(
        tokenizer or _frozen(settings), size=settings.size, world_width=network.width, world_depth=network.depth
    )


def _frozen(settings: TrainingConfig) -> NetworkSizes:
    """Return the sizes of the backbone, and of a published tokenizer on it."""
    backbone = backbone_sizes(settings.backbone)
    return NetworkSizes(settings.size, backbone.width, backbone_depth=backbone.depth, backbone_mlp=backbone.mlp)


def features(data: DataSize, sizes: NetworkSizes) -> Layout:
    """Return the layout of the features of such clips."""
    return Layout("features", data.frames, (sizes.patches, sizes.width))


def tokens(data: DataSize, sizes: NetworkSizes) -> Layout:
    """Return the layout of the tokens of such clips."""
    return Layout("tokens", data.frames, (sizes.width,))


def _featurize(data: DataSize, sizes: NetworkSizes, stored: int, rates: Rates) -> Cost:
    frames = data.samples * data.frames
    return Cost(
        f"featurize {sizes.size}",
        f"{_samples(data)} at {sizes.size} px",
        gpu_seconds=frames * sizes.backbone() / rates.forward,
        core_seconds=frames / DECODED_FRAMES_PER_CORE_SECOND,
        written_bytes=data.samples * features(data, sizes).clip_bytes,
        read_bytes=frames * frame_shard_bytes(stored),
    )


def _tokenize(name: str, data: DataSize, sizes: NetworkSizes, stored: int, rates: Rates, source: Source) -> Cost:
    frames = data.samples * data.frames
    live = source == "shards"
    return Cost(
        name,
        f"tokens of {_samples(data)}, from {source}",
        gpu_seconds=frames * (sizes.encode() + (sizes.backbone() if live else 0.0)) / rates.forward,
        core_seconds=frames / DECODED_FRAMES_PER_CORE_SECOND if live else 0.0,
        written_bytes=data.samples * tokens(data, sizes).clip_bytes,
        read_bytes=frames * _frame_bytes(source, data, sizes, stored),
    )


def _tokenizer(
    name: str,
    settings: TokenizerConfig,
    steps: int,
    data: DataSize,
    sizes: NetworkSizes,
    stored: int,
    rates: Rates,
    source: Source,
) -> Cost:
    pairs = steps * settings.effective_batch
    seconds = pairs * sizes.tokenizer_step() / rates.training
    live = source == "shards"
    return Cost(
        name,
        f"{counted(steps, 'steps')} of {counted(settings.effective_batch, 'pairs')} at {sizes.size} px, {_how(source)}",
        gpu_seconds=seconds + (pairs * 2 * sizes.backbone() / rates.forward if live else 0.0),
        core_seconds=pairs * 2 / DECODED_FRAMES_PER_CORE_SECOND if live else 0.0,
        read_bytes=pairs * 2 * _frame_bytes(source, data, sizes, stored),
        repeats=repeats(pairs, data.videos * data.clips, 1 if live else data.views, data.frames - 1),
        fresh_crops=live,
        break_even_steps=data.samples * data.frames / 2 / settings.effective_batch,
    )


def _world(
    name: str,
    settings: WorldConfig,
    steps: int,
    data: DataSize,
    sizes: NetworkSizes,
    stored: int,
    rates: Rates,
    source: Source,
    batch: int,
) -> Cost:
    clips = steps * settings.effective_batch
    live = source == "shards"
    if settings.network.kind == "dinoworld":
        frozen = sizes.backbone() if live else 0.0
        seconds = sizes.dinoworld_step(settings.frames) / rates.training
    else:
        frozen = {"tokens": 0.0, "features": sizes.encode(), "shards": sizes.backbone() + sizes.encode()}[source]
        seconds = rates.world_seconds(sizes, frames=settings.frames, queries=settings.queries, batch=batch)
    return Cost(
        name,
        f"{counted(steps, 'steps')} of {counted(settings.effective_batch, 'clips')} at {sizes.size} px, {_how(source)}",
        gpu_seconds=clips * (seconds + settings.frames * frozen / rates.forward),
        core_seconds=clips * settings.frames / DECODED_FRAMES_PER_CORE_SECOND if live else 0.0,
        read_bytes=clips * settings.frames * _frame_bytes(source, data, sizes, stored),
        repeats=repeats(clips, data.videos * data.clips, 1 if live else data.views),
        fresh_crops=live,
        break_even_steps=data.samples / settings.effective_batch,
    )


def _samples(data: DataSize) -> str:
    return f"{counted(data.videos * data.clips, 'clips')} × {counted(data.views, 'views')}"


def _how(source: Source) -> str:
    return "live" if source == "shards" else f"from {source}"


def _frame_bytes(source: Source, data: DataSize, sizes: NetworkSizes, stored: int) -> float:
    """Return the bytes that are read for one frame."""
    if source == "shards":
        return frame_shard_bytes(stored)
    return (features if source == "features" else tokens)(data, sizes).frame_bytes


def _settings(step: StepConfig) -> TrainingConfig | None:
    if step.run not in ("tokenizer", "world"):
        return None
    settings = resolve(stage_model(step.run), config=step.config, assignments=assignments_of(step.settings))
    assert isinstance(settings, TrainingConfig)
    return settings


def _steps(name: str, recipe: RecipeConfig) -> int:
    """Return the steps that a step of the recipe adds to the one whose full state it goes on from."""
    step = recipe.steps[name]
    settings = _settings(step)
    assert settings is not None
    before = _settings(recipe.steps[step.resume]) if step.resume in recipe.steps else None
    steps = settings.steps - (before.steps if before is not None else 0)
    if steps < 0:
        raise ConfigError(f"the step {name!r} ends at step {settings.steps:,}, before the one that it goes on from")
    return steps
