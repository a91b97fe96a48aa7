"""Where a stage's tasks run: what ingest, featurize and tokenize share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deltactl.configs.shared import StageConfig
from deltactl.configs.values import Form, Part, Variable


def ray_variable(engine: str) -> str | None:
    """Return the environment variable that names the address of a cluster; None for another engine than Ray."""
    return "RAY_ADDRESS" if engine == "ray" else None


class EngineConfig(StageConfig):
    """Which engine runs the tasks, what one worker on Ray asks of its node, and which tasks there are."""

    workers: int | None = Field(default=None, ge=0)
    """Worker processes; by default what the machine or the cluster has room for. 0 works in this process."""

    engine: Literal["local", "ray"] = "local"
    """Where the workers run: on this machine (local), or on a Ray cluster (ray)."""

    address: Annotated[str, Form("HOST:PORT"), Variable(ray_variable, by="engine", of=lambda: ("ray",))] | None = None
    """The Ray cluster, HOST:PORT, or auto for the one that this machine belongs to. By default Ray is started on this
    machine while the command runs."""

    worker_cpus: float | None = Field(default=None, gt=0)
    """CPU cores that a worker on Ray asks for, and decodes with; by default those that go with its share of a node's
    GPUs, or one where it has no GPU."""

    worker_gpus: float | None = Field(default=None, ge=0)
    """GPUs that a worker on Ray asks for; 0.5 lets two share one. By default one for networks where the cluster has
    GPUs, none for ingest."""

    part: Part | None = None
    """Do only the I-th of N parts of the shards, for job arrays."""

    max_bad: float = Field(default=0.05, ge=0, le=1)
    """Share of sources or clips that may be unusable before the command fails; what was written is kept."""

    @model_validator(mode="after")
    def _ray_has_workers(self) -> EngineConfig:
        if self.engine == "local" and self.address is not None:
            raise ValueError(f"address is {self.address!r}, which goes with --engine ray only")
        if self.engine == "ray" and self.workers == 0:
            raise ValueError("workers is 0 (work in this process), which does not go with --engine ray")
        return self
