"""What the name of a backbone says: its family, its place, and which of its layers the features are.

    facebook/dinov2-base                        the last layer, normed, of a network on the Hub
    /models/mine                                of a folder
    timm:/models/mine                           of the family timm, whatever its config.json says
    facebook/dinov2-base?layers=8,11&norm=off   the outputs of blocks 8 and 11 side by side, without the final norm

Options stand in the name, so that whatever carries the name (a configuration, a store, the header of a checkpoint)
carries them, and what follows a store or a checkpoint follows them. A path that exists is a path, whatever is in it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace

_FAMILY = re.compile(r"([\w.-]+):(?!//)(.+)")
_OPTIONS = re.compile(r"(.+)\?([^?/]*)")
_NUMBERS = re.compile(r"[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*")
_NORM = {"on": True, "off": False}
EXAMPLE = "?layers=8,11&norm=off"


@dataclass(frozen=True)
class LayerChoice:
    """Which outputs of a network's blocks the features are."""

    layers: tuple[int, ...] | None = None
    """Blocks, counted from 1, in the order in which their outputs stand side by side; None is the last."""
    norm: bool = True
    """Whether the final norm is applied to the output of each."""

    def __post_init__(self) -> None:
        if self.layers is not None and (not self.layers or min(self.layers) < 1):
            raise ValueError(f"layers are {list(self.layers)}; expected numbers of blocks, counted from 1")
        if self.layers is not None and len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers are {list(self.layers)}; each may be named once")

    def __bool__(self) -> bool:
        """Whether it is another one than the usual."""
        return self != LayerChoice()

    def __str__(self) -> str:
        parts = [] if self.layers is None else [f"layers={','.join(map(str, self.layers))}"]
        return "&".join([*parts, *([] if self.norm else ["norm=off"])])


@dataclass(frozen=True)
class BackboneName:
    """The parts of a backbone's name."""

    family: str | None
    """The family that it begins with; None: the folder tells it."""
    place: str
    """A folder, or a name on the Hub."""
    choice: LayerChoice = field(default_factory=LayerChoice)

    @classmethod
    def parse(cls, text: str) -> BackboneName:
        """Return the parts of a name.

        Raises:
            ValueError: an option behind `?` is unknown, given twice, or makes no sense.
        """
        if _exists(text):
            return cls(None, text)
        match = _FAMILY.fullmatch(text)
        family, place = (match[1], match[2]) if match else (None, text)
        options = None if _exists(place) else _OPTIONS.fullmatch(place)
        return cls(family, options[1], _choice(options[2])) if options else cls(family, place)

    def __str__(self) -> str:
        family = "" if self.family is None else f"{self.family}:"
        return f"{family}{self.place}{f'?{self.choice}' if self.choice else ''}"

    def choosing(self, layers: tuple[int, ...] | None, norm: bool | None) -> BackboneName:
        """Return the name with these options; None is not said.

        Raises:
            ValueError: the name says something else already.
        """
        said, wanted = self.choice, LayerChoice(layers, norm is not False)
        if layers is not None and said.layers not in (None, layers):
            raise ValueError(f"backbone {self} and layers {','.join(map(str, layers))} contradict each other; give one")
        if norm is True and not said.norm:
            raise ValueError(f"backbone {self} is without the final norm, and norm is on; give one of both")
        return replace(self, choice=LayerChoice(wanted.layers or said.layers, wanted.norm and said.norm))


def _choice(options: str) -> LayerChoice:
    found: dict[str, str] = {}
    for option in options.split("&"):
        name, _, value = option.partition("=")
        right = (name == "layers" and _NUMBERS.fullmatch(value)) or (name == "norm" and value in _NORM)
        if not right or name in found:
            raise ValueError(f"the option {option!r} of a backbone is no such; expected the like of {EXAMPLE}")
        found[name] = value
    layers = tuple(map(int, found["layers"].split(","))) if "layers" in found else None
    return LayerChoice(layers, _NORM[found.get("norm", "on")])


def _exists(place: str) -> bool:
    return os.path.exists(os.path.expanduser(place))  # noqa: PTH110, PTH111 (no name is too long for these)
