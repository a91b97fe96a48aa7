"""Reads every checkpoint of a run against its checksums, and names what is damaged or left over.

Checkpoints are zip archives with a CRC-32 of every member. Costs one read of the run, at the rate of the disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from deltactl.configs.training import RUN_SETTINGS
from deltactl.configs.yaml_text import read_yaml
from deltactl.errors import CheckpointError, ConfigError
from deltactl.ingest.verify import Finding, find_staging, is_in_use
from deltactl.locations import Location, storage_errors
from deltactl.train.checkpoint_files import WEIGHT_FILES, as_file, load_torch
from deltactl.train.resume_point import FOLDER

CHECKPOINT = re.compile(r"step-\d{7,}\.ckpt|best\.ckpt|last\.ckpt")


def verify_run(root: Location, advance: Callable[[int], None] | None = None) -> Iterator[Finding]:
    """Yield what is wrong with a run; `advance` hears of each checkpoint that was read."""
    try:
        read_yaml((root / RUN_SETTINGS).read_bytes().decode(errors="replace"), str(root / RUN_SETTINGS))
    except FileNotFoundError:
        yield Finding("missing", RUN_SETTINGS, "the settings of the run")
    except ConfigError as error:
        yield Finding.of(error, root, RUN_SETTINGS)
    names = [f"{FOLDER}/{name}" for name in (root / FOLDER).list(hidden=True)]
    for name in [*names, *(name for name in WEIGHT_FILES if (root / name).exists())]:
        file = name.removeprefix(f"{FOLDER}/")
        if name == file or CHECKPOINT.fullmatch(file):
            yield from _verify_checkpoint(root, name)
            if advance is not None:
                advance(1)
        elif not is_in_use(file):
            yield Finding("left over", name, "no part of a run")
    yield from find_staging(root)


def _verify_checkpoint(root: Location, name: str) -> Iterator[Finding]:
    place = root / name
    try:
        with storage_errors(place, "read"), as_file(place) as path:
            load_torch(path, str(place), mmap=True)
    except CheckpointError as error:
        yield Finding.of(error, root, name)
