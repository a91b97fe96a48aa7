"""Reads every checkpoint of a run against its checksums, and names what is damaged or left over.

Checkpoints are zip archives with a CRC-32 of every member. Costs one read of the run, at the rate of the disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from deltactl.configs.training import RUN_CONFIG
from deltactl.configs.yaml_text import read_yaml
from deltactl.errors import CheckpointError, ConfigError
from deltactl.locations import Location, storage_errors
from deltactl.train.checkpoints.files import WEIGHT_FILES, as_file, load_torch
from deltactl.train.checkpoints.resume_point import FOLDER
from deltactl.verification import Check, Finding

CHECKPOINT = re.compile(r"step-\d{7,}\.ckpt|best\.ckpt|last\.ckpt")


def verify_run(root: Location, advance: Callable[[int], None] | None = None) -> list[Finding]:
    """Return what is wrong with a run; `advance` hears of each checkpoint that was read."""
    check = Check(root, advance)
    settings = root / RUN_CONFIG
    check.read(
        RUN_CONFIG,
        lambda: read_yaml(settings.read_bytes().decode(errors="replace"), str(settings)),
        absent="the settings of the run",
        faults=ConfigError,
    )
    names = (root / FOLDER).list(hidden=True)
    checkpoints = [name for name in names if CHECKPOINT.fullmatch(name)]
    weights = [name for name in WEIGHT_FILES if (root / name).exists()]
    for path in [*(f"{FOLDER}/{name}" for name in checkpoints), *weights]:
        check.read(path, partial(_read_checkpoint, root / path), faults=CheckpointError)
        check.advance(1)
    check.left_over(set(names) - set(checkpoints), "no part of a run", within=f"{FOLDER}/")
    return check.end()


def _read_checkpoint(place: Location) -> None:
    with storage_errors(place, "read"), as_file(place) as path:
        load_torch(path, str(place), mmap=True)
