"""What the configurations of the tokenizer's, the world model's and the heads' training have in common.

Defaults are the published recipe's (DeltaTok, arXiv 2604.04913); the stages differ in their presets. The settings hold
on any number of devices: `effective_batch` stays what it is, and the steps over which gradients add up follow from it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deltactl.configs.base import FOLLOWS, Config
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.mixture import Sets
from deltactl.configs.names import EvaluationSet
from deltactl.configs.shared import BackboneConfig, StageConfig
from deltactl.configs.values import Checkpoint, File, Form, Precision, Size
from deltactl.errors import ConfigError

RUN_CONFIG = "config.yaml"
"""The file in a run's folder that holds its settings."""
METRICS = "metrics.csv"
"""The file in a run's folder that holds its figures."""
EVALUATIONS = "evaluations"
"""The folder in a run's that holds the reports of evaluations during training, as STEP-SET."""
HEAD_WIDTH = 64
"""Width of an attention head; widths of networks are multiples of it."""


class TrainerConfig(Config):
    """Where and how Lightning runs the training; the names are those of `lightning.Trainer`."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda"] = "auto"
    """Kind of device; auto takes GPUs where there are any."""

    devices: int | tuple[int, ...] | Literal["auto"] = "auto"
    """Number of devices in each node, a list of their indices, or auto for all of them (one process on a CPU)."""

    num_nodes: int = Field(default=1, ge=1)
    """Number of machines."""

    strategy: str = "auto"
    """How devices work together, such as ddp; auto is ddp where there is more than one process."""

    deterministic: bool | Literal["warn"] = False
    """Whether operations without a repeatable algorithm are refused (true), named (warn) or used (false)."""

    detect_anomaly: bool = False
    """Whether to look for the operation that first made a gradient NaN; slow."""

    max_time: str | None = Field(default=None, pattern=r"^\d{2}:\d{2}:\d{2}:\d{2}$")
    """Longest time that one start trains, as DD:HH:MM:SS, those before it not counted; then `last` is written, and the
    run can be resumed. None is no limit."""

    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    """Lightning's profiler, whose report ends the run."""

    @model_validator(mode="after")
    def _some_device(self) -> TrainerConfig:
        counts = [self.devices] if isinstance(self.devices, int) else []
        if self.devices == () or any(count < 1 for count in counts):
            raise ValueError(f"trainer.devices is {self.devices}; expected at least 1 device, or auto")
        return self

    @property
    def most_seconds(self) -> float | None:
        """Return `max_time` in seconds."""
        if self.max_time is None:
            return None
        days, hours, minutes, seconds = map(int, self.max_time.split(":"))
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


class TrainingConfig(BackboneConfig, StageConfig):
    """Settings of any training run; each stage adds its own."""

    data: Sets | None = None
    """What to train from: a feature store, tokens, or shards (live); by default the only fitting one in the workspace.
    Several are a list, each with its weight: [features/a=0.7, features/b=0.3], or a YAML or JSON file of places and
    weights."""

    start: Literal["scratch", "weights", "state"] = "scratch"
    """What the recipe starts this stage from: nothing, the weights of an earlier run (`init`; optimizer and step
    begin anew), or its full state (`resume`; the step counter goes on, learning rate and weight decay are the ones
    set here)."""

    init: Checkpoint | None = None
    """Checkpoint whose weights to start from (a file, a run, or a name on the Hub); optimizer and step begin anew."""

    resume: Annotated[str, Form("CKPT|auto")] | None = None
    """Checkpoint whose full state to go on from: a file, a run, or auto for the last one of this run itself."""

    size: Size = Field(default=FrameSize(512, 512), json_schema_extra=FOLLOWS)
    """Training frames, in pixels: N for squares, HxW (height first) for others. What live training crops to, and what
    a store must hold. Where it is not set, that of the store or tokens; live, that of the checkpoints at hand, or of
    the shards where these hold other shapes or smaller frames."""

    steps: int = Field(default=300_000, ge=1)
    """Optimizer steps at which the run ends, those before a resume included."""

    batch_size: int = Field(default=32, ge=1)
    """Samples on each device at a time; fewer where all devices together would take more than `effective_batch`."""

    effective_batch: int = Field(default=1024, ge=1)
    """Samples in an optimizer step, over all devices, nodes and accumulated batches. The recipe was tuned for 1024."""

    accumulate: int | Literal["auto"] = "auto"
    """Batches whose gradients are added up for a step; auto is as many as `effective_batch` needs. A number overrides
    `effective_batch`."""

    lr: float = Field(default=1e-4, gt=0)
    """Learning rate of AdamW after the warm-up."""

    warmup_steps: int = Field(default=5_000, ge=0)
    """Steps over which the learning rate rises from 0 in a straight line; after it, it is constant."""

    cooldown_steps: int = Field(default=0, ge=0)
    """Last steps of the run, over which the learning rate falls to 0 in a straight line. The paper's cool-downs are
    stages of their own, at constant rates."""

    weight_decay: float = Field(default=0.4, ge=0)
    """Weight decay of AdamW, on the weights of Linear and Conv layers only."""

    clip_norm: float | None = Field(default=None, gt=0)
    """Norm that gradients are clipped to; None clips nothing."""

    precision: Literal["auto", "bf16-mixed", "16-mixed", "32-true"] = "auto"
    """Lightning's precision; auto is bf16-mixed on a GPU and 32-true on a CPU."""

    frozen_precision: Precision = "auto"
    """Type of the matrix products of the frozen networks in live training; auto is bfloat16 on a GPU (float32 where
    `precision` is 32-true) and float32 on a CPU. CPUs with AMX or AVX512-BF16 are two to three times as fast in
    bfloat16."""

    compile: bool | Literal["auto", "graphs"] = "auto"
    """Whether to run the networks through torch.compile, the frozen ones of live training too; auto is on a GPU only.
    graphs also replays the step as a CUDA graph, which saves the launches of small batches (one GPU whose batch is a
    whole step)."""

    shuffle: Literal["global", "blocks"] = "global"
    """Order of samples: drawn over the whole set, or over blocks of shards in turn, for storage that is slow at
    random reads."""

    block_shards: int = Field(default=16, ge=1)
    """Shards in a block of `shuffle: blocks`."""

    validation_fraction: float = Field(default=0.005, ge=0, lt=1)
    """Share of the clips that is held out for validation, chosen by the hash of their source."""

    validate_every: int = Field(default=5_000, ge=1)
    """Steps between validations; there is one at the end of the run, too."""

    evaluate: tuple[EvaluationSet, ...] = ()
    """Evaluation sets whose metrics, losses and pictures each validation computes, with the roots and heads that the
    environment names. The mean of their losses then decides which checkpoint is best; else the held-out clips do."""

    evaluate_clips: int | None = Field(default=None, ge=1)
    """Only the first so many clips of each of those sets; None is all of them, as published."""

    kitti_split_file: File | None = None
    """Where kitti is among those sets, the Eigen split file."""

    checkpoint_every: int = Field(default=50_000, ge=1)
    """Steps between checkpoints that are all kept; the best validation loss is kept besides."""

    # Writing 1 GB takes a second: 0.2 % of ten minutes, and 2 to 8 % where it came every 500 steps.
    last_minutes: float = Field(default=10.0, ge=0)
    """Minutes between writes of the checkpoint `last`, the one that `resume: auto` goes on from. All devices wait
    while it is written."""

    last_every: int | None = Field(default=None, ge=1)
    """Steps between writes of `last`, in place of `last_minutes`."""

    log_every: int = Field(default=50, ge=1)
    """Steps between lines of metrics.csv and of the tracker; the last step has one, too."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases; auto is online where this machine is logged in, offline elsewhere."""

    project: str = "deltactl"
    """Project of the run in Weights & Biases."""

    trainer: TrainerConfig = TrainerConfig()
    """Where and how Lightning runs the training."""

    @model_validator(mode="after")
    def _one_start(self) -> TrainingConfig:
        if self.init is not None and self.resume not in (None, "auto"):
            raise ValueError(
                f"init is {self.init!r} and resume is {self.resume!r}; a run starts from one of them, "
                "the weights or the full state"
            )
        if self.accumulate != "auto" and self.accumulate < 1:
            raise ValueError(f"accumulate is {self.accumulate}; expected at least 1, or auto")
        return self

    def at_once(self, processes: int) -> int:
        """Return the most samples that each of so many devices takes at a time: no more than its share of a step."""
        return max(1, min(self.batch_size, self.effective_batch // processes))

    def batches(self, processes: int) -> tuple[int, int]:
        """Return how many samples each of so many devices (over all nodes) takes at a time, and how often for a step.

        Raises:
            ConfigError: no whole number of batches makes `effective_batch`.
        """
        if self.accumulate != "auto":
            return self.batch_size, self.accumulate
        share, batch = self.effective_batch // processes, self.at_once(processes)
        if self.effective_batch % processes or share % batch:
            raise ConfigError(
                f"batch_size {self.batch_size} on {processes} devices does not divide effective_batch "
                f"{self.effective_batch}; change batch_size, effective_batch, accumulate or trainer.devices"
            )
        return batch, share // batch
