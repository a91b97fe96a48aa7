"""A checkpoint that a run can go on from: where the checkpoints of a run lie, and reading one with the full state.

Takes a file, a run's folder or `auto`; returns a `ResumePoint`, after a check of every part that is restored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deltactl.errors import CheckpointError
from deltactl.fields import Fields
from deltactl.locations import Location, storage_errors
from deltactl.train.checkpoints.files import as_file, load_torch
from deltactl.train.data.records import RunRecord

FOLDER = "checkpoints"
"""The folder of a run that holds its checkpoints."""
LAST, BEST = "last.ckpt", "best.ckpt"
RUN = "run"
"""The entry of a checkpoint that says what it was trained on, and whether its step was validated."""


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint to go on from."""

    location: Location
    step: int
    data: RunRecord
    validated: bool
    """Whether the validation of this step, where one is due, is done."""

    def lies_in(self, folder: Location) -> bool:
        """Whether the checkpoint lies in a folder, such as that of a run, or below it."""
        return str(self.location).startswith(f"{folder}/")


def read_resume_point(place: str, run: Location) -> ResumePoint | None:
    """Return what `--resume` names: a file, a run (its `last`), or `auto`, the `last` of this run (None without one).

    Raises:
        CheckpointError: it is not there, or not a checkpoint with a full state.
    """
    if place == "auto":
        location = run / FOLDER / LAST
        if not location.exists():
            return None
    else:
        location = Location.of(place)
        if (location / FOLDER).exists():
            location = location / FOLDER / LAST
        if not location.exists():
            raise CheckpointError(
                f"there is no checkpoint {location} to resume; expected a .ckpt file, or a run's folder"
            )
    content = load_state(location)
    if not {"optimizer_states", "global_step", "loops", RUN} <= content.keys():
        raise CheckpointError(
            f"{location} holds weights only, not the full state of a run; use --init to start from its weights"
        )
    return _check_state(Fields(content, location))


def _check_state(state: Fields) -> ResumePoint:
    """Return the point that a full state describes.

    Raises:
        DamagedError: a part that is restored is of another form.
    """
    steps = state.nested("loops").nested("fit_loop").nested("epoch_loop.automatic_optimization.optim_progress")
    for part in ("total", "current"):
        steps.nested("optimizer").nested("step").nested(part).integer("completed")
    for optimizer in state.items("optimizer_states"):
        for group in optimizer.items("param_groups"):
            group.array("params")
    state.nested("callbacks")
    run = state.nested(RUN)
    validated = bool(run.values.get("validated", True))
    return ResumePoint(
        Location.of(state.place), state.integer("global_step"), RunRecord.of(run.nested("data")), validated
    )


def load_state(location: Location) -> dict[str, Any]:
    """Return a checkpoint's content, once its bytes match their checksums; its tensors stay on a local disk.

    Raises:
        CheckpointError: the file is damaged, or holds something other than a checkpoint.
    """
    with storage_errors(location, "read"), as_file(location) as path:
        content = load_torch(path, str(location), mmap=True)
    if not isinstance(content, dict):
        raise CheckpointError(f"{location} holds a {type(content).__name__}; expected the checkpoint of a run")
    return content
