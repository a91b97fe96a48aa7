"""Installs small packages beside deltactl: a folder with the modules, and the metadata that an installer writes."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from deltactl.registry import BACKBONES, DATASETS, LOSSES, NETWORKS, TASKS
from deltactl.train.networks.known_kinds import head_named

TOYS = Path(__file__).parents[1] / "toy_package"


def write_metadata(folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Write the `.dist-info` of a package to a folder of `sys.path`."""
    info = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    lines = [
        line
        for group, entries in entry_points.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), "")
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def install(package: Path, folder: Path) -> None:
    """Install a package of plain modules to a folder of `sys.path`."""
    project = tomllib.loads((package / "pyproject.toml").read_text())
    write_metadata(folder, project["project"]["name"], project["project"]["entry-points"])
    for module in project["tool"]["setuptools"]["py-modules"]:
        shutil.copy(package / f"{module}.py", folder)


@contextmanager
def beside_deltactl(folder: Path) -> Iterator[None]:
    """Put a folder on `sys.path`, and have plug-ins looked for anew, now and afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        _look_again()
        try:
            yield
        finally:
            _look_again()


def _look_again() -> None:
    head_named.cache_clear()
    for registry in (BACKBONES, DATASETS, LOSSES, NETWORKS, TASKS):
        vars(registry).pop("_entries", None)
        vars(registry)["_faults"].clear()
        vars(registry)["_warned"].clear()
