"""Whether a run may begin in its folder, and where it goes on: the claim, the checks, the checkpoint.

Takes settings that fit the data (`settle`); writes `config.yaml`, all settings as a file for --config.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from deltactl.claims import Claim, hold
from deltactl.configs.show import to_yaml
from deltactl.configs.training import RUN_CONFIG, TrainingConfig
from deltactl.configs.yaml_text import read_yaml_mapping
from deltactl.errors import ArtifactError, ConfigError
from deltactl.locations import Location
from deltactl.train.checkpoints.resume_point import FOLDER, ResumePoint, read_resume_point
from deltactl.train.processes import check_devices, check_processes, devices_per_node, is_first_process

log = logging.getLogger(__name__)


@contextlib.contextmanager
def claim_run(run: Location) -> Iterator[Claim | None]:
    """Be the only training that writes to a run.

    All processes of a training are one holder: the first claims, the others get None.

    Raises:
        ClaimedError: another training writes to it.
    """
    if not is_first_process():
        yield None
        return
    with hold(run) as claim:
        yield claim


def begin(config: TrainingConfig, run: Location, stage: str) -> ResumePoint | None:
    """Check that a run may begin in its folder, and return the checkpoint it goes on from, if any.

    Raises:
        ArtifactError: another run is there.
        CheckpointError: the checkpoint to resume is not there, or has no full state.
        ConfigError: devices are not here, or the stage needs a checkpoint that was not given.
    """
    check_devices(config.trainer)
    check_processes(config.trainer, devices_per_node(config.trainer))
    point = _resume_point(config, run)
    check_start(config, weights=config.init is not None, state=point is not None)
    if is_first_process():
        goes_on = point is not None and point.lies_in(run)
        if not goes_on and config.resume != "auto" and (run / FOLDER).list():
            raise ArtifactError(f"{run} holds a run already; go on with --resume auto, or choose another --out")
        if run.is_local:
            # Half checkpoints that bear no process: earlier versions left them when they were killed.
            for draft in (run / FOLDER).path.glob(".*.ckpt.partial"):
                draft.unlink(missing_ok=True)
        (run / RUN_CONFIG).write_bytes(to_yaml(config, stage).encode())
    return point


def check_start(config: TrainingConfig, *, weights: bool, state: bool) -> None:
    """Check that a stage that starts from an earlier run is given what it needs of it.

    Raises:
        ConfigError: neither the weights nor the state that it starts from are given.
    """
    if config.start == "weights" and not (weights or state):
        raise ConfigError("this stage starts from the weights of an earlier run; name its checkpoint: --init CKPT")
    if config.start == "state" and not state:
        raise ConfigError(
            "this stage goes on from the full state of an earlier run; name its checkpoint: --resume CKPT"
        )


def _resume_point(config: TrainingConfig, run: Location) -> ResumePoint | None:
    """Return the checkpoint to go on from; a run that began from the one that is named goes on from its own last.

    So the command of a stage that starts from another run's state can be given again after it was stopped.
    """
    if config.resume is None:
        return None
    if config.resume != "auto" and (run / RUN_CONFIG).exists():
        before = read_yaml_mapping((run / RUN_CONFIG).read_whole(), str(run / RUN_CONFIG))
        if before.get("resume") == config.resume:
            own = read_resume_point("auto", run)
            if own is not None:
                log.info("%s began from %s; it goes on from its own last checkpoint", run, config.resume)
                return own
    return read_resume_point(config.resume, run)
