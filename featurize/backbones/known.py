"""The backbones that are known: which family a folder or a Hub name is of, and what it says of its features.

A name is a folder, `owner/name` on the Hub, or either behind `FAMILY:`. Without that the family is the one that knows
the `model_type` of the folder's config.json. Families of this package are asked before those of others, so that a
broken plug-in stands in the way of its own folders alone.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from deltactl.configs.shared import DEFAULT_BACKBONE
from deltactl.errors import CheckpointError, ConfigError
from deltactl.featurize.backbones.family import BackboneFacts, Family, Outline
from deltactl.featurize.backbones.model_folder import ModelFolder
from deltactl.registry import BACKBONES

_EXPLICIT = re.compile(r"([\w.-]+):(?!//)(.+)")


def find(name: str) -> tuple[Family, ModelFolder]:
    """Return the family and the folder of a backbone by its name.

    Raises:
        CheckpointError: there is no such folder, or no family knows its `model_type`.
        ConfigError: there is no such family, or the plug-in that brings it cannot be used.
        HubError: the Hub does not hand the model out.
    """
    family, place = split(name)
    if family:
        BACKBONES.check(family)  # before anything is fetched
    folder = ModelFolder.find(place)
    return BACKBONES.get(family, Family) if family else _family_of(folder), folder


def split(name: str) -> tuple[str | None, str]:
    """Return the family that a name begins with (None: the folder tells it), and the folder or Hub name."""
    match = None if Path(name).expanduser().exists() else _EXPLICIT.fullmatch(name)
    return (match[1], match[2]) if match else (None, name)


def read_facts(name: str) -> BackboneFacts:
    """Return what the files of a backbone say of its features; no network is loaded. Errors as `find`.

    Raises:
        CheckpointError: the folder is not whole.
    """
    family, folder = find(name)
    return family.facts(folder)


def refuse_several_frames(name: str, facts: BackboneFacts, task: str) -> None:
    """Refuse a backbone that makes a step from several frames, for a `task` that takes frames one by one.

    Raises:
        ConfigError: it does.
    """
    if facts.frames_per_step > 1:
        raise ConfigError(
            f"backbone {name} makes one step of features from {facts.frames_per_step} frames; {task} takes only "
            "backbones that make one from each frame"
        )


def outline_of(name: str, dim: int | None = None) -> Outline:
    """Return what the name of a backbone says of its sizes; nothing is fetched.

    Where neither name nor folder says anything, that of a DINOv3 ViT-B, as wide as `dim` where it is given.
    """
    chosen, place = split(name)
    folder = Path(place).expanduser()
    config = ModelFolder(folder).config if (folder / "config.json").is_file() else {}
    last = place.rstrip("/").rpartition("/")[2].lower()
    for family in [BACKBONES.get(chosen, Family)] if chosen else BACKBONES.each(Family):
        fits = chosen or not config or config.get("model_type") in family.model_types
        if fits and (outline := family.outline(last, config)) is not None:
            return outline
    usual = DEFAULT_BACKBONE.rpartition("/")[2]
    outline = BACKBONES.get("dinov3", Family).outline(usual, {} if dim is None else {"hidden_size": dim})
    assert outline is not None, "a DINOv3 is known by its name"
    return outline


def _family_of(folder: ModelFolder) -> Family:
    """Return the family that knows a folder's `model_type`; raises CheckpointError if none does."""
    found, known = folder.config.get("model_type"), dict[str, str]()
    for family in BACKBONES.each(Family):
        if found in family.model_types:
            return family
        known |= dict.fromkeys(family.model_types, family.title)
    near = difflib.get_close_matches(str(found), known, n=1)
    raise CheckpointError(
        f"backbone {folder} has model_type {found!r} in its config.json, which no family knows; "
        + (f"did you mean {near[0]!r}? " if near else "")
        + f"expected {', '.join(f'{each} ({title})' for each, title in known.items())}"
    )
