"""Where a stage's tasks run: the settings that ingest, featurize and tokenize share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from deltactl.configs.base import Config


class EngineConfig(Config):
    """Which engine runs the tasks, and what one worker on Ray asks of its node."""

    workers: int | None = Field(default=None, ge=0)
    """Workers; what the machine or the cluster has room for where it is None."""

    engine: Literal["local", "ray"] = "local"
    """Where the work is done: in processes of this machine (local), or on a Ray cluster (ray)."""

    address: str | None = None
    """The Ray cluster: auto for the one that this machine belongs to, or HOST:PORT. Where it is None, RAY_ADDRESS
    counts, and without it Ray is started on this machine while the command runs."""

    worker_cpus: float | None = Field(default=None, gt=0)
    """CPU cores that a worker on Ray asks for, and decodes with. Where it is None, those that go with its share of a
    node's GPUs, or one where it has no GPU."""

    worker_gpus: float | None = Field(default=None, ge=0)
    """GPUs that a worker on Ray asks for; 0.5 lets two share one. Where it is None, one for networks where the cluster
    has GPUs, none for ingest."""

    @model_validator(mode="after")
    def _ray_has_workers(self) -> EngineConfig:
        if self.engine == "local" and self.address is not None:
            raise ValueError(f"address is {self.address!r}, which goes with --engine ray only")
        if self.engine == "ray" and self.workers == 0:
            raise ValueError("workers is 0 (work in this process), which does not go with --engine ray")
        return self
