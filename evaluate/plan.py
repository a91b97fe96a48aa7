"""Plans an evaluation: what goes in, which rows are left out, what the cache has, where the report goes.

Takes settings, returns a plan. The lists of the data set and the checkpoints are read, the backbone's files hashed; no
network is loaded, no frame decoded, nothing written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from deltactl.artifacts import Identity, check_replaceable, default_location, written
from deltactl.configs.base import with_environment
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.datasets.known import labelled_set, read_again
from deltactl.evaluate.clips.cache import Cache
from deltactl.evaluate.protocol.networks import (
    OPTIONS,
    Given,
    GivenNetwork,
    check_uses,
    left_out,
    other_classes,
    read_networks,
    read_rgb_head,
)
from deltactl.evaluate.protocol.paper import ComparedSettings
from deltactl.evaluate.report.files import KIND
from deltactl.featurize.backbones.family import BackboneFacts
from deltactl.featurize.backbones.known import find
from deltactl.locations import Location
from deltactl.progress import Say
from deltactl.train.checkpoints.trained import as_trained, mismatched_checkpoints

PREDICTORS = ("world", "tokenizer", "dinoworld", "head")
"""The networks whose training says what size frames have, the first that knows."""


@dataclass(frozen=True)
class Plan:
    """What one `deltactl eval` computes."""

    config: EvaluateConfig
    """The settings, with the size and the backbone that follow the networks."""
    backbone: BackboneFacts
    family: str
    """The name of the backbone's family."""
    networks: Given
    """Those that the numbers come from."""
    rgb_head: GivenNetwork | None
    """What draws pictures of features; None where there are no pictures."""
    cache: Cache
    cached: bool
    """Whether the clips come from the cache, which is filled first; else they are streamed and nothing is kept."""
    identity: Identity
    """Of the report: data, weights and settings, all that decides its numbers."""
    report: Location
    """The folder of the report."""
    costs: Mapping[str, Mapping[str, Any]]
    """What the training of each network with a checkpoint cost; see `train.checkpoints.cost`."""
    notes: tuple[str, ...]
    """What is left out, and why, in sentences for people."""
    warnings: tuple[str, ...]
    """How networks were trained unlike they are used here, in sentences."""

    def departures(self, clips: int, quarantined: int) -> list[str]:
        """Return in what the evaluation of so many clips is not the paper's; see `ComparedSettings.departures`."""
        return ComparedSettings(
            dataset=self.config.dataset,
            size=self.config.size,
            context=self.config.context,
            samples=self.config.samples,
            encoding=self.config.encoding,
            frames=self.config.frames,
            clips=clips,
            quarantined=quarantined,
            backbone_width=self.backbone.dim,
            backbone_family=self.family,
            backbone_choice=" and ".join(
                f"{name} {self.backbone.settings[name]}"
                for name in ("layers", "norm")
                if name in self.backbone.settings
            ),
            networks={name: network.kind.differences(network.config) for name, network in self.networks.items()},
        ).departures()


def settle(config: EvaluateConfig, in_memory: Mapping[str, nn.Module], say: Say) -> EvaluateConfig:
    """Return settings with what the environment says, and with the size and the backbone that the networks know.

    `say` is told which size was taken. Raises as `check_uses` and `as_trained`.
    """
    check_uses(config)
    read_again(config.dataset)
    config = with_environment(config)
    return as_trained(config, checkpoints_of(config, PREDICTORS, in_memory), say)[0]


def plan(config: EvaluateConfig, in_memory: Mapping[str, nn.Module]) -> Plan:
    """Return the plan of settled settings.

    `in_memory`: networks by the name of their option; they stand in for checkpoints.

    Raises:
        ArtifactError: `out` holds something other than a report.
        ConfigError: the data set is not there, or the backbone does not take frames of this size.
        CheckpointError: the backbone or a checkpoint cannot be used; see `networks.read_networks`.
        HubError: the Hub does not hand one of them out.
    """
    if config.out:
        check_replaceable(Location.of(config.out), KIND)
    family, folder = find(config.backbone)
    backbone = family.facts(folder)
    rows, columns = backbone.grid(*config.size.pair)
    networks = read_networks(config, backbone.dim, in_memory)
    rgb_head = None
    if config.rgb_head and config.pictures:
        rgb_head = read_rgb_head(config.rgb_head, config.backbone, family, backbone)
    cache = Cache.plan_of(config, patches=rows * columns, dim=backbone.dim, frames_per_step=backbone.frames_per_step)
    cached = config.cache and (config.limit is None or cache.complete)
    notes = left_out(config)
    if not config.size.square:
        notes.append(f"whole frames at {config.size} px: not the paper's protocol of two square crops a frame")
    if config.cache and not cached:
        notes.append(f"the cache is not complete: the first {config.limit} clips are streamed, and nothing is kept")
    hashes = {name: networks[name].content_hash if name in networks else None for name in OPTIONS}
    weights = {"backbone": backbone.content_hash, **hashes}
    identity = Identity(KIND, {"clips": cache.plan.identity, "weights": weights, **_settings_that_count(config)})
    name = f"{cache.features.name}-{identity.hash()[:8]}"
    return Plan(
        config=config,
        backbone=backbone,
        family=family.name,
        networks=networks,
        rgb_head=rgb_head,
        cache=cache,
        cached=cached,
        identity=identity,
        costs={name: network.cost for name, network in networks.items() if network.cost},
        report=Location.of(config.out) if config.out else default_location("reports", name),
        notes=tuple(notes),
        warnings=(
            *mismatched_checkpoints(checkpoints_of(config, (*OPTIONS, "rgb_head"), in_memory), weights, config.size),
            *([] if "head" in in_memory else other_classes(config)),
        ),
    )


def checkpoints_of(
    config: EvaluateConfig, names: Sequence[str], in_memory: Mapping[str, nn.Module]
) -> list[tuple[str, str | None]]:
    """Return options and the checkpoints that they name; networks in memory have none."""
    return [(name.replace("_", "-"), getattr(config, name)) for name in names if name not in in_memory]


def _settings_that_count(config: EvaluateConfig) -> Mapping[str, object]:
    names = ("horizons", "context", "samples", "encoding", "seed", "extras", "limit")
    values = config.model_dump(mode="json", include=set(names))
    seeds = {} if config.seeds is None else {"seeds": list(config.sampler_seeds)}
    record = labelled_set(config.dataset)
    # What a file tells may change, and shards do not depend on it.
    movable = {"movable": list(record.movable)} if record.identity and record.movable else {}
    return {**{name: values[name] for name in names}, **seeds, **movable, **written(dtype=config.dtype)}
