"""Records by name: those of this package, and those that other packages bring as entry points.

A record says what one thing is that a user may add, such as a kind of network. The names are known without importing a
module of any record: configs can be checked and `--help` stays quick. `get` imports one record, `each` all.
Another package brings a record by an entry point of the registry's group, under the record's own name:

    [project.entry-points."deltactl.losses"]
    huber = "their_package.huber:HUBER"

A plug-in that cannot be used (its module cannot be imported, holds something else, or takes the name of another) stands
in nobody's way: it is named in a warning, once, and asking for its name is an error. Looking for plug-ins takes some
milliseconds, once for each process and group.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

from deltactl.errors import ConfigError
from deltactl.redaction import one_line

log = logging.getLogger(__name__)


RecordT = TypeVar("RecordT")


class Registry:
    """The records of one kind, by name; each has it as `name`."""

    def __init__(self, group: str, noun: str, built_in: tuple[tuple[str, str], ...]) -> None:
        """Take the group of the entry points, what messages call a record, and the package's own records.

        `built_in` are names with the place of each, as entry points write it: `package.module:ATTRIBUTE`.
        """
        self.group = group
        self.noun = noun
        self._built_in = built_in
        self._faults: dict[str, str] = {}
        """Why the plug-ins of these names cannot be used."""
        self._warned: set[str] = set()

    def names(self) -> tuple[str, ...]:
        """Return all names, the package's own first, then those of plug-ins by the alphabet."""
        return tuple(self._entries)

    def check(self, name: str) -> None:
        """Check that there is a record of this name; imports nothing.

        Raises:
            ConfigError: there is none; the message has the nearest name and all others.
        """
        if name in self._entries:
            return
        near = difflib.get_close_matches(name, self._entries, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"there is no {self.noun} {name!r}; {hint}known: {', '.join(self._entries)}")

    def get(self, name: str, record_type: type[RecordT]) -> RecordT:
        """Return the record of this name, whose module is imported.

        Raises:
            ConfigError: there is no such name, or the plug-in that brings it cannot be used.
        """
        self.check(name)
        entry = self._entries[name]
        if name not in self._faults:
            record = self._load(entry, record_type)
            if record is not None:
                return record
        raise ConfigError(self._sentence(name))

    def each(self, record_type: type[RecordT]) -> Iterator[RecordT]:
        """Yield every record that can be used, those of the package first; each plug-in is imported when it is due."""
        for name, entry in self._entries.items():
            record = None if name in self._faults else self._load(entry, record_type)
            if record is not None:
                yield record
            elif name not in self._warned:
                self._warned.add(name)
                log.warning("%s", self._sentence(name))

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        """Where each record lies; a name that two plug-ins want counts as broken, one of the package stays its own."""
        own = {name: EntryPoint(name, place, self.group) for name, place in self._built_in}
        entries = dict(own)
        for entry in sorted(
            importlib.metadata.entry_points(group=self.group), key=lambda each: (each.name, _package(each))
        ):
            other = entries.setdefault(entry.name, entry)
            if entry.name in own:
                log.warning(
                    "the package %s brings a %s %r, which is a name of deltactl's own; that one is used",
                    _package(entry),
                    self.noun,
                    entry.name,
                )
            elif other.value != entry.value:
                self._faults[entry.name] = f"the package {_package(entry)} brings one of this name, too"
        return entries

    def _load(self, entry: EntryPoint, record_type: type[RecordT]) -> RecordT | None:
        """Import a record; of a plug-in that cannot be used return None, and keep the reason."""
        try:
            record: Any = entry.load()
        except (Exception, SystemExit) as error:  # whatever a module of others does while it is imported
            if entry.dist is None:  # the package's own
                raise
            fault = f"{entry.value} cannot be imported ({type(error).__name__}: {error})"
        else:
            name = getattr(record, "name", None)
            if not isinstance(record, record_type):
                fault = f"{entry.value} is of type {type(record).__name__}, expected {record_type.__name__}"
            elif name != entry.name:
                fault = f"{entry.value} calls itself {name!r}; both names must agree"
            else:
                return record
        self._faults[entry.name] = fault
        return None

    def _sentence(self, name: str) -> str:
        """Return one line about a plug-in that cannot be used."""
        package = _package(self._entries[name])
        return one_line(
            f"the {self.noun} {name!r} of the package {package} cannot be used: {self._faults[name]}; "
            f"mend or uninstall {package}"
        )


def attribute(place: str) -> Any:
    """Return what lies at `package.module:ATTRIBUTE` of this package, whose module is imported now.

    For a method of a lower room whose work is done by a higher one, such as a network that writes itself to a file.
    """
    return EntryPoint("", place, "").load()


def _package(entry: EntryPoint) -> str:
    return "deltactl" if entry.dist is None else entry.dist.name


NETWORKS = Registry(
    "deltactl.networks",
    "kind of network",
    (
        ("tokenizer", "deltactl.train.networks.deltatok:TOKENIZER"),
        ("world", "deltactl.train.networks.deltaworld:WORLD"),
        ("dinoworld", "deltactl.train.networks.dinoworld:DINOWORLD"),
        ("rgb", "deltactl.train.networks.rgb_head:RGB"),
    ),
)
"""What checkpoints may hold besides the heads of data sets: records of `train.networks.kinds.Kind`."""

DATASETS = Registry(
    "deltactl.datasets",
    "data set",
    (
        ("kinetics", "deltactl.datasets.kinetics:KINETICS"),
        ("folder", "deltactl.datasets.folder:FOLDER"),
        ("lerobot", "deltactl.datasets.lerobot:LEROBOT"),
        ("hdf5", "deltactl.datasets.hdf5:HDF5"),
        ("vspw", "deltactl.datasets.vspw:VSPW"),
        ("cityscapes", "deltactl.datasets.cityscapes:CITYSCAPES"),
        ("kitti", "deltactl.datasets.kitti:KITTI"),
    ),
)
"""What is ingested and evaluated: records of `datasets.record.DataSet`."""

TASKS = Registry(
    "deltactl.tasks",
    "task",
    (
        ("segmentation", "deltactl.tasks.segmentation:SEGMENTATION"),
        ("depth", "deltactl.tasks.depth:DEPTH"),
        ("none", "deltactl.tasks.none:NONE"),
    ),
)
"""What the labels of data sets are for: records of `tasks.record.Task`."""

LOSSES = Registry(
    "deltactl.losses", "loss of the tokenizer", (("log_cosh", "deltactl.train.networks.losses:LOG_COSH"),)
)
"""What the tokenizer may minimise: records of `train.networks.losses.Loss`."""

BACKBONES = Registry(
    "deltactl.backbones",
    "family of backbones",
    (
        ("dinov3", "deltactl.featurize.backbones.dinov3:DINOV3"),
        ("dinov3-convnext", "deltactl.featurize.backbones.dinov3_convnext:DINOV3_CONVNEXT"),
        ("dinov2", "deltactl.featurize.backbones.dinov2:DINOV2"),
        ("dinov2-with-registers", "deltactl.featurize.backbones.dinov2:DINOV2_WITH_REGISTERS"),
        ("siglip", "deltactl.featurize.backbones.siglip:SIGLIP"),
        ("ijepa", "deltactl.featurize.backbones.ijepa:IJEPA"),
        ("mae", "deltactl.featurize.backbones.mae:VIT_MAE"),
        ("aimv2", "deltactl.featurize.backbones.aimv2:AIMV2"),
        ("radio", "deltactl.featurize.backbones.radio:RADIO"),
        ("vjepa2", "deltactl.featurize.backbones.vjepa2:VJEPA2_FAMILY"),
        ("timm", "deltactl.featurize.backbones.timm_models:TIMM"),
    ),
)
"""What frozen backbones may be: records of `featurize.backbones.family.Family`."""
