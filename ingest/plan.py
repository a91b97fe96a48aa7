"""What an ingest will make, and where: the plan of a configuration, for training video and evaluation sets."""

from __future__ import annotations

import os

from deltactl.artifacts import Identity, default_location
from deltactl.configs.ingest import IngestConfig
from deltactl.datasets.known import data_set
from deltactl.datasets.record import VideoSet
from deltactl.ingest.evaluation import plan_evaluation
from deltactl.ingest.growth import MadeShards
from deltactl.ingest.settle import default_name
from deltactl.ingest.shards.format import DATA_FORMAT, KIND
from deltactl.ingest.training import plan_training
from deltactl.ingest.units import Plan
from deltactl.ingest.video.decode_dali import gpu_count
from deltactl.locations import Location

PIPELINES_PER_GPU = 7
"""Processes that decode on one GPU: as many as the largest cards have decoding engines."""


def plan(config: IngestConfig) -> Plan:
    """Return the plan of a resolved config.

    Raises:
        ConfigError: its sources cannot be used.
    """
    assert config.dataset is not None
    if isinstance(data_set(config.dataset), VideoSet):
        return plan_training(config, worker_count(config), MadeShards(output_of(config)))
    return plan_evaluation(config)


def output_of(config: IngestConfig) -> Location:
    """Return where the shards of a resolved configuration go."""
    return Location.of(config.out) if config.out else default_location("shards", default_name(config))


def identity_of(plan: Plan) -> Identity:
    """Return the identity of the shards that a plan makes."""
    return Identity(KIND, {"format": DATA_FORMAT, **plan.identity})


def worker_count(config: IngestConfig) -> int:
    """Return how many processes work at once, unless given: as many as this process may use cores.

    Where DALI decodes on GPUs, no more than their decoding engines: each process has a CUDA context of its own, and
    these take turns.
    """
    if config.workers is not None:
        return config.workers
    cores = len(os.sched_getaffinity(0))
    gpus = gpu_count() if config.decoder == "dali" and config.engine == "local" else 0
    return min(cores, PIPELINES_PER_GPU * gpus) if gpus else cores
