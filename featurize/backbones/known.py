"""The backbones that are known: which family a folder or a Hub name is of, and what it says of its features.

A name is a folder, `owner/name` on the Hub, or either behind `FAMILY:`; behind it may stand which layers are meant (see
`configs/backbone_name.py`). Without `FAMILY:` the family is the one that knows the `model_type` of the folder's
config.json. Families of this package are asked before those of others, so that a
broken plug-in stands in the way of its own folders alone.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from deltactl.configs.backbone_name import BackboneName
from deltactl.configs.shared import DEFAULT_BACKBONE
from deltactl.errors import CheckpointError, ConfigError
from deltactl.featurize.backbones.family import BackboneFacts, Family, Outline
from deltactl.featurize.backbones.model_folder import ModelFolder
from deltactl.registry import BACKBONES


def find(name: str) -> tuple[Family, ModelFolder]:
    """Return the family and the folder of a backbone by its name.

    Raises:
        CheckpointError: there is no such folder, or no family knows its `model_type`.
        ConfigError: there is no such family, the plug-in that brings it cannot be used, or the name has options that
            are none, or that its family does not know.
        HubError: the Hub does not hand the model out.
    """
    parts = split(name)
    if parts.family:
        BACKBONES.check(parts.family)  # before anything is fetched
    folder = ModelFolder.find(parts.place, parts.choice)
    family = BACKBONES.get(parts.family, Family) if parts.family else _family_of(folder)
    _check_choice(name, parts, family)
    return family, folder


def split(name: str) -> BackboneName:
    """Return the parts of a name.

    Raises:
        ConfigError: it has options that are none.
    """
    try:
        return BackboneName.parse(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def read_facts(name: str) -> BackboneFacts:
    """Return what the files of a backbone say of its features; no network is loaded. Errors as `find`.

    Raises:
        CheckpointError: the folder is not whole.
    """
    family, folder = find(name)
    return family.facts(folder)


def outline_of(name: str, dim: int | None = None) -> Outline:
    """Return what the name of a backbone says of its sizes; nothing is fetched.

    Where neither name nor folder says anything, that of the default backbone, a DINOv3 ViT-B, as wide as `dim` where
    it is given; what is printed of it has to say so. Errors as `known_outline`.
    """
    if (outline := known_outline(name)) is not None:
        return outline
    usual = DEFAULT_BACKBONE.rpartition("/")[2]
    outline = BACKBONES.get("dinov3", Family).outline(usual, {} if dim is None else {"hidden_size": dim})
    assert outline is not None, "a DINOv3 is known by its name"
    return outline


def known_outline(name: str) -> Outline | None:
    """Return what the name of a backbone, or its folder where it is here, says of its sizes; None if nothing.

    Raises:
        ConfigError: there is no such family, or the layers that the name chooses are not there.
    """
    parts = split(name)
    folder = Path(parts.place).expanduser()
    config = ModelFolder(folder).config if (folder / "config.json").is_file() else {}
    last = parts.place.rstrip("/").rpartition("/")[2].lower()
    for family in [BACKBONES.get(parts.family, Family)] if parts.family else BACKBONES.each(Family):
        fits = parts.family or not config or family.knows(config)
        if fits and (outline := family.outline(last, config)) is not None:
            _check_choice(name, parts, family)
            return outline.choosing(parts.choice, name)
    return None


def _check_choice(name: str, parts: BackboneName, family: Family) -> None:
    """Refuse, by a ConfigError, layers or norm of a family that has no choice of them."""
    if parts.choice and not family.chooses_layers:
        raise ConfigError(
            f"backbone {name}: the family {family.title} has no choice of layers or norm; leave out ?{parts.choice}"
        )


def _family_of(folder: ModelFolder) -> Family:
    """Return the family that knows a folder's `model_type`; raises CheckpointError if none does."""
    found, known = folder.config.get("model_type"), dict[str, str]()
    for family in BACKBONES.each(Family):
        if family.knows(folder.config):
            return family
        known |= dict.fromkeys(family.model_types, family.title)
    if "auto_map" in folder.config:
        raise CheckpointError(
            f"backbone {folder} comes with code of its own (auto_map in config.json, model_type {found!r}), which is "
            "never run; take a version of the model for a class of transformers, or write a family for it"
        )
    near = difflib.get_close_matches(str(found), known, n=1)
    raise CheckpointError(
        f"backbone {folder} has model_type {found!r} in its config.json, which no family knows; "
        + (f"did you mean {near[0]!r}? " if near else "")
        + f"expected {', '.join(f'{each} ({title})' for each, title in known.items())}"
    )
