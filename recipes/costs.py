"""What a recipe costs before it runs: bytes, GPU-hours, wall-clock, reads, repeats, and whether a cache pays.

Takes a recipe and a data set's size, returns the stages that they come to (`stages_of`) and the `Cost` of each
(`cost_of`), from the layouts that stages write (`featurize.store.layout`), the work of their networks (`recipes.work`)
and how fast devices are (`recipes.rates`). A `Machine` then says how long that takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from deltactl.configs.follow import is_set
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.load import assignments_of, resolve, stage_model
from deltactl.configs.recipe import RecipeConfig, StepConfig
from deltactl.configs.shared import DEFAULT_BACKBONE
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import HEAD_WIDTH, TrainingConfig
from deltactl.configs.world import WorldConfig
from deltactl.errors import ConfigError
from deltactl.featurize.backbones.known import known_outline, outline_of
from deltactl.featurize.store.layout import Layout
from deltactl.ingest.shards.geometry import SHRINK_MARGIN
from deltactl.progress import counted
from deltactl.recipes.rates import (
    DECODED_FRAMES_PER_CORE_SECOND,
    INGESTED_CLIPS_PER_CORE_SECOND,
    READ_BYTES_PER_SECOND,
    SHARD_BYTES_PER_PIXEL,
    Rates,
)
from deltactl.recipes.work import NetworkSizes
from deltactl.train.networks.deltatok import DeltaTokConfig, check_fewer_tokens
from deltactl.train.networks.deltaworld import DeltaWorldConfig
from deltactl.train.networks.dinoworld import DinoWorldConfig

KINETICS_VIDEOS = 536_000
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
    """Frames of each clip; steps of features, where a backbone makes one from several frames."""
    views_at: Mapping[FrameSize, int] = field(default_factory=dict)
    """Crops of each clip at some sizes, if they are not `views`."""

    @property
    def samples(self) -> int:
        """Clips, under all views."""
        return self.videos * self.clips * self.views

    def at(self, size: FrameSize) -> DataSize:
        """Return the same data with the views of this size."""
        return replace(self, views=self.views_at.get(size, self.views), views_at={})


@dataclass(frozen=True)
class Machine:
    """What works on it: so many GPUs, or CPUs if `rates` are those of one."""

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
    """How often training sees each sample; None if nothing is trained."""
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


def frame_shard_bytes(size: FrameSize) -> float:
    """Return the bytes of one stored training frame (assumed, of video larger than that)."""
    # The side that is shrunk to the margin, and the other one by the video's aspect.
    height = SHRINK_MARGIN * max(size.height, size.width / ASPECT)
    return SHARD_BYTES_PER_PIXEL * height**2 * ASPECT


StageInput = Literal["tokens", "features", "shards"]


@dataclass(frozen=True)
class Training:
    """How a training stage goes through its data."""

    steps: int
    batch: int
    """Samples that a step learns from, on all devices together."""
    at_once: int
    """Samples that a device takes at a time."""
    frames: int
    """Frames (steps) of a sample: those of a clip, or a pair of them."""
    queries: int = 1
    """Queries tried for each frame, by DeltaWorld."""


@dataclass(frozen=True)
class StageWork:
    """What one stage that has networks does, before it is known how fast anything is."""

    name: str
    kind: Literal["featurize", "tokenize", "tokenizer", "deltaworld", "dinoworld"]
    networks: NetworkSizes
    data: DataSize
    """With the views of its size."""
    reads: StageInput
    """What it reads."""
    stored_size: FrameSize
    """The size that the frames of the shards serve."""
    training: Training | None = None
    """None if nothing learns: each sample of the data is read once."""

    @property
    def what(self) -> str:
        """What it does, in words."""
        data, training, how = self.data, self.training, "live" if self.reads == "shards" else f"from {self.reads}"
        if training is not None:
            each = counted(training.batch, "pairs" if self.kind == "tokenizer" else "clips")
            return f"{counted(training.steps, 'steps')} of {each} at {self.networks.size} px, {how}"
        samples = f"{counted(data.videos * data.clips, 'clips')} × {counted(data.views, 'views')}"
        if self.kind == "featurize":
            return f"{samples} at {self.networks.size} px"
        return f"tokens of {samples}, from {self.reads}"

    @property
    def frozen_flops(self) -> int:
        """FLOPs of what is frozen, for each frame (step) that is read."""
        encodes = self.kind == "tokenize" or (self.kind == "deltaworld" and self.reads != "tokens")
        backbone = self.networks.backbone_flops() if self.reads == "shards" else 0
        return backbone + (self.networks.encode_flops() if encodes else 0)

    def learning_seconds(self, rates: Rates) -> float:
        """Return what a device takes to learn from one sample, once features or tokens are there."""
        networks, training = self.networks, self.training
        if training is None:
            return 0.0
        if self.kind == "deltaworld":
            return rates.world_seconds(
                networks, frames=training.frames, queries=training.queries, batch=training.at_once
            )
        if self.kind == "dinoworld":
            return networks.world_step_flops(training.frames) / rates.training
        return networks.tokenizer_step_flops() / rates.training

    @property
    def decoded_frames(self) -> int:
        """Frames that are decoded for each frame (step) that is read."""
        return self.networks.backbone.frames_per_step if self.reads == "shards" else 0

    @property
    def frame_bytes(self) -> float:
        """Bytes that are read for one frame (step)."""
        if self.reads == "shards":
            return self.decoded_frames * frame_shard_bytes(self.stored_size)
        return (feature_layout if self.reads == "features" else token_layout)(self.data, self.networks).frame_bytes


def recipe_costs(
    recipe: RecipeConfig,
    data: DataSize,
    rates: Rates,
    *,
    live: bool = False,
    gpus: int = 8,
    tokens: Mapping[str, Any] | None = None,
) -> list[Cost]:
    """Return the cost of ingest, of each cache that the recipe reads, and of each of its steps; see `stages_of`."""
    largest = _largest_size(recipe)
    stages = list(stages_of(recipe, data, live=live, gpus=gpus, tokens=tokens))
    clips = data.videos * data.clips
    frames = data.frames * max((stage.networks.backbone.frames_per_step for stage in stages), default=1)
    ingest = Cost(
        "ingest",
        f"{counted(clips, 'clips')} of {counted(frames, 'frames')} for {largest} px",
        core_seconds=clips / INGESTED_CLIPS_PER_CORE_SECOND,
        written_bytes=clips * frames * frame_shard_bytes(largest),
    )
    return [ingest, *(cost_of(stage, rates) for stage in stages)]


def cost_of(stage: StageWork, rates: Rates) -> Cost:
    """Return what a stage takes on devices of such rates."""
    data, training = stage.data, stage.training
    samples = data.samples if training is None else training.steps * training.batch
    frames = samples * (data.frames if training is None else training.frames)
    live = stage.reads == "shards"
    cost = Cost(
        stage.name,
        stage.what,
        gpu_seconds=samples * stage.learning_seconds(rates) + frames * stage.frozen_flops / rates.forward,
        core_seconds=frames * stage.decoded_frames / DECODED_FRAMES_PER_CORE_SECOND,
        read_bytes=frames * stage.frame_bytes,
    )
    if training is None:
        layout = (feature_layout if stage.kind == "featurize" else token_layout)(data, stage.networks)
        return replace(cost, written_bytes=data.samples * layout.clip_bytes)
    pairs = stage.kind == "tokenizer"
    views = 1 if live else data.views
    return replace(
        cost,
        repeats=repeats(samples, data.videos * data.clips, views, data.frames - 1 if pairs else 1),
        fresh_crops=live,
        break_even_steps=data.samples * (data.frames / training.frames if pairs else 1) / training.batch,
    )


def stages_of(
    recipe: RecipeConfig,
    data: DataSize,
    *,
    live: bool = False,
    gpus: int = 8,
    tokens: Mapping[str, Any] | None = None,
) -> Iterator[StageWork]:
    """Yield the stages after ingest: each step of the recipe, and before it the features that it is the first to read.

    A step trains live if its `data` names shards; with `live` all do. If `data` names nothing, a step reads the
    tokens or features that the stages before it make. `gpus` share an effective batch, so with many of them each takes
    smaller ones. `tokens`: settings of all tokenizers (`tokens_per_frame`, `token_dim`) that are not the recipe's.
    """

    def sized(networks: NetworkSizes) -> NetworkSizes:
        made = replace(networks, tokenizer=replace(networks.tokenizer, **(tokens or {})))
        check_fewer_tokens(made.tokenizer.tokens_per_frame, made.size, made.grid)
        return made

    stored = _largest_size(recipe)
    networks: NetworkSizes | None = None  # of the recipe's last tokenizer
    made: set[FrameSize] = set()  # sizes of features
    has_tokens = False
    for name, step in recipe.steps.items():
        config = _config(step)
        kind: Literal["tokenize", "tokenizer", "deltaworld", "dinoworld"]
        usual: StageInput
        training: Training | None = None
        if isinstance(config, TokenizerConfig):
            kind, usual = "tokenizer", "features"
            stage_networks = networks = sized(_with_tokenizer(config))
            training = Training(_steps(name, recipe), config.effective_batch, config.at_once(gpus), frames=2)
        elif isinstance(config, WorldConfig):
            kind = config.network.kind
            usual = "tokens" if has_tokens and kind == "deltaworld" else "features"
            stage_networks = _with_world(config, networks or sized(_frozen(config)))
            batch = config.effective_batch, config.at_once(gpus)
            training = Training(_steps(name, recipe), *batch, config.frames, config.queries)
        elif step.run == "tokenize" and not live:
            kind = "tokenize"
            stage_networks = networks = networks or sized(_before(recipe, stored))
            has_tokens, usual = True, "features" if networks.size in made else "shards"
            if "views" in step.settings:
                data = replace(data, views_at={**data.views_at, networks.size: int(step.settings["views"])})
        else:  # a head of any kind, or tokens that nothing reads
            continue
        reads, at_size = _input(step, usual, live), data.at(stage_networks.size)
        if reads == "features" and stage_networks.size not in made:
            made.add(stage_networks.size)
            name_of = f"featurize {stage_networks.size}"
            yield StageWork(name_of, "featurize", stage_networks, at_size, "shards", stored)
        yield StageWork(name, kind, stage_networks, at_size, reads, stored, training)


def with_networks(recipe: RecipeConfig, *, size: FrameSize | None, backbone: str | None) -> RecipeConfig:
    """Return the recipe with another size of frames, or another backbone, in every step that trains on features.

    Raises:
        ConfigError: neither the backbone's name nor a folder here says how large it is.
    """
    if backbone is not None and known_outline(backbone) is None:
        raise ConfigError(
            f"nothing is known of the size of --backbone {backbone}; name a published model of a known family, or a "
            "folder that is here"
        )
    given = {"size": None if size is None else size.value, "backbone": backbone}
    settings = {name: value for name, value in given.items() if value is not None}
    steps = {
        name: step.model_copy(update={"settings": {**step.settings, **settings}})
        if step.run in ("tokenizer", "world")
        else step
        for name, step in recipe.steps.items()
    }
    return recipe.model_copy(update={"steps": steps})


def networks_told(recipe: RecipeConfig) -> list[str]:
    """Return which backbones were counted, how their sizes are known, and what they make of frames; a line for each.

    Raises:
        ConfigError: frames are not of whole patches.
    """
    lines: dict[str, None] = {}
    for config in filter(None, map(_config, recipe.steps.values())):
        networks = _with_tokenizer(config) if isinstance(config, TokenizerConfig) else _frozen(config)
        outline, (rows, columns) = networks.backbone, networks.grid
        known = known_outline(config.backbone) is not None
        how = "by its name or folder" if known else f"nothing is known of its size, so like {DEFAULT_BACKBONE}"
        blocks = f", {counted(outline.depth, 'blocks')}" if outline.depth > 1 else ""
        step = f", a step of {outline.frames_per_step} frames" if outline.frames_per_step > 1 else ""
        lines[
            f"{'counted' if known else 'assumed'}: backbone {config.backbone}, {how}: patches of {outline.patch_size} "
            f"px, {outline.dim} wide{blocks}{step}; a frame of {config.size} px is {rows} × {columns} patches"
        ] = None
    return list(lines)


def feature_layout(data: DataSize, networks: NetworkSizes) -> Layout:
    """Return the layout of the features of such clips."""
    return Layout("features", data.frames, (networks.patches, networks.width))


def token_layout(data: DataSize, networks: NetworkSizes) -> Layout:
    """Return the layout of the tokens of such clips."""
    tokenizer = networks.tokenizer
    return Layout("tokens", data.frames, (tokenizer.tokens_per_frame, tokenizer.token_width))


def _largest_size(recipe: RecipeConfig) -> FrameSize:
    """Return the size that shards are made for: each side as long as any step that trains needs it."""
    sizes = [config.size for step in recipe.steps.values() if (config := _config(step))] or [FrameSize(512, 512)]
    return FrameSize(max(size.height for size in sizes), max(size.width for size in sizes))


def _input(step: StepConfig, usual: StageInput, live: bool) -> StageInput:
    """Return what a step reads."""
    kinds: tuple[StageInput, ...] = ("tokens", "features", "shards")
    *folders, name = (step.data or "").split("/")
    named = [*folders, name] if folders else []
    return "shards" if live else next((part for part in named if part in kinds), usual)


def _frozen(config: TrainingConfig) -> NetworkSizes:
    """Return the backbone that a config names, and the paper's tokenizer on it."""
    backbone = outline_of(config.backbone)
    return NetworkSizes(config.size, backbone, DeltaTokConfig(width=backbone.dim))


def _before(recipe: RecipeConfig, size: FrameSize) -> NetworkSizes:
    """Return what makes tokens that no step trains a tokenizer for: the backbone of the step that trains on them."""
    first = next((config for step in recipe.steps.values() if (config := _config(step))), None)
    return NetworkSizes(size) if first is None else replace(_frozen(first), size=size)


def _with_tokenizer(config: TokenizerConfig) -> NetworkSizes:
    """Return the backbone and the tokenizer of a config; without a width of its own it has the backbone's."""
    width = config.network.width if is_set(config, "network.width") else None
    backbone = outline_of(config.backbone, width)
    switches = config.network.model_dump(exclude={"layer_scale", "width"})
    return NetworkSizes(config.size, backbone, DeltaTokConfig(width=backbone.dim, **switches))


def _with_world(config: WorldConfig, networks: NetworkSizes) -> NetworkSizes:
    """Return the networks with the world model of a config, at its size."""
    network = config.network
    sizes = {"width": network.width, "depth": network.depth, "heads": network.width // HEAD_WIDTH}
    if network.kind == "dinoworld":
        return replace(networks, size=config.size, world=DinoWorldConfig(feature_dim=networks.width, **sizes))
    made = {"token_dim": networks.tokenizer.token_width, "tokens_per_frame": networks.tokenizer.tokens_per_frame}
    return replace(networks, size=config.size, world=DeltaWorldConfig(**made, **sizes))


def _config(step: StepConfig) -> TrainingConfig | None:
    """Return the config of a step that trains a tokenizer or a world model; None for any other."""
    if step.run not in ("tokenizer", "world"):
        return None
    config = resolve(stage_model(step.run), config=step.config, assignments=assignments_of(step.settings))
    assert isinstance(config, TrainingConfig)
    return config


def _steps(name: str, recipe: RecipeConfig) -> int:
    """Return the steps that a step of the recipe adds to the one whose full state it goes on from."""
    step = recipe.steps[name]
    config = _config(step)
    assert config is not None
    before = _config(recipe.steps[step.resume]) if step.resume in recipe.steps else None
    steps = config.steps - (before.steps if before is not None else 0)
    if steps < 0:
        raise ConfigError(f"the step {name!r} ends at step {config.steps:,}, before the one that it goes on from")
    return steps
