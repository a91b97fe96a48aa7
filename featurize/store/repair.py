"""Makes again what `verify` found damaged or missing in a feature store, and nothing else.

Groups are computed anew from their shards with the backbone of the store, in batches as before, so that with equal
libraries and device they come out byte for byte as they were. What is made from the groups (index, quarantine, the
metadata above them) is rebuilt; so is the header, from any group, since each carries the identity.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from deltactl.artifacts import (
    HEADER,
    INDEX,
    QUARANTINE,
    UNWRITTEN,
    Header,
    Identity,
    command_of,
    how_to_end,
    read_header,
    write_sealed,
)
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.devices import find_devices
from deltactl.errors import ArtifactError, DamagedError, IdentityError
from deltactl.featurize.backbones.known import read_facts
from deltactl.featurize.loading import black_frame, load_pipeline
from deltactl.featurize.origins import origin_of_store
from deltactl.featurize.store.completeness import expected_units, lacking
from deltactl.featurize.store.finish import GroupFile, finish, readable_index, sound_group
from deltactl.featurize.store.layout import BLACK, GROUP_FILE, group_name, view_name, view_number
from deltactl.featurize.store.packing import unpack
from deltactl.featurize.store.packs import Listing, Pack, Packs
from deltactl.featurize.store.writer import group_metadata, write_root
from deltactl.featurize.views import Augmentation, crops_of
from deltactl.ingest.record import is_record
from deltactl.ingest.shards.columns import columns_of_identity
from deltactl.locations import Location
from deltactl.removal import Consent, Removal, refuse
from deltactl.verification import Finding


def repair_store(
    root: Location,
    findings: Sequence[Finding],
    *,
    shards: str | None = None,
    backbone: str | None = None,
    device: str = "auto",
    consent: Consent = refuse,
) -> list[str]:
    """Repair a feature store and return what was done; for a token store, what is left to do.

    `shards` and `backbone` are where the store was made from, unless given. `consent` is asked before damaged tokens
    are taken out. An index is made anew only where every view has a group of all shards; otherwise the stage has not
    ended, and what is returned says how to end it.

    Raises:
        ArtifactError: nothing is left to say what the store was, or what it was made from.
        IdentityError: `shards` or `backbone` are not those that it was made from.
        DamagedError: a shard that a group is made from cannot be used.
    """
    harmful = [finding for finding in findings if finding.harmful and finding.kind != "unfinished"]
    unfinished = [finding.reason for finding in findings if finding.kind == "unfinished"]
    if not harmful:
        return unfinished
    names = sorted({finding.unit for finding in harmful if finding.unit})
    paths = {finding.path for finding in harmful}
    sound = sound_group(root)
    header = _restore_header(root, sound, damaged=HEADER in paths)
    if records := sorted(filter(is_record, paths)):
        for name in records:
            (root / name).remove()
        origin_of_store(root, header, shards).begin(root)  # from the videos, if they are those of the identity
    if header.identity.kind == "tokens":
        return _repair_tokens(root, names, paths, consent)
    if not names and not any(path.startswith(BLACK) for path in paths):
        _restore_metadata(root, paths)
        told = _finish(root, shards, lost=INDEX in paths)
        rebuilt = sorted(paths - ({INDEX} if told else set()))
        return [*([f"rebuilt {', '.join(rebuilt)}"] if rebuilt else []), *told, *unfinished]
    config = settings_of(root, header, sound, backbone, device)
    source = origin_of_store(root, header, shards)
    _restore_metadata(root, paths)
    done = []
    if any(path.startswith(BLACK) for path in paths):
        (root / BLACK).remove()
        write_root(root, black_frame(config, root))
        done.append("made the black frame again")
    if names:
        groups = [(int(view[1:]), unit) for view, unit in (name.split("/") for name in names)]
        jobs = tuple(source.job(view, unit, replace=True) for view, unit in source.in_order(groups))
        reader, frames = source.reader(len({view for view, _ in groups})), source.identity.integer("frames")
        crops, place = crops_of(header.identity), device_of(header, device)
        what = (config, reader, frames, root, header.identity, crops, place)
        carried = columns_of_identity(source.identity.values, source.root)
        with contextlib.closing(load_pipeline(*what, carried=carried)) as pipeline:
            for result in pipeline.run(jobs):
                if result.failed:
                    why = result.quarantined[0]
                    raise DamagedError(
                        f"{root}: {why.source} cannot be used ({why.reason}); verify {source.root} first"
                    )
        done.append(f"made again: {', '.join(names)}")
    index = readable_index(root)
    (root / INDEX).remove()  # the hash of the black frame's metadata is another one, with other libraries
    units = source.planned(len(header.generations))
    if index is None and lacking(root, str(source.root)) != []:
        return [*done, *_told(root)]
    finish(root, expected=[unit for unit in units if unit in source.units], awaited=index.awaited if index else ())
    return [*done, *unfinished]


def device_of(header: Header, device: str) -> str:
    """Return where to compute: for `auto` on a GPU if the store was made on one and there is one here."""
    if device == "auto" and str(header.provenance.get("device", "cpu")).startswith("cpu"):
        return "cpu"
    return find_devices(device)[0]


def _restore_header(root: Location, sound: GroupFile | None, *, damaged: bool) -> Header:
    if not damaged:
        return read_header(root)
    if sound is None:
        raise ArtifactError(f"{root / HEADER} is damaged and no group is left to say what the store was; remove it")
    content: dict[str, Any] = {
        "kind": sound.identity.kind,
        "identity": sound.identity.values,
        "provenance": sound.provenance,
    }
    index = readable_index(root)
    if index is not None and index.generations:
        content["generations"] = [dict(entry) for entry in index.generations]
    write_sealed(root / HEADER, content)
    return read_header(root)


def _restore_metadata(root: Location, paths: set[str]) -> None:
    """Write the groups above the groups again; remove the quarantine, which `finish` makes."""
    for name in (GROUP_FILE, *(f"{view_name(view)}/{GROUP_FILE}" for view in Listing.of(root).units)):
        if name in paths:
            (root / name).write_bytes(group_metadata({}))
    if QUARANTINE in paths:
        (root / QUARANTINE).remove()


def _repair_tokens(root: Location, names: Sequence[str], paths: set[str], consent: Consent) -> list[str]:
    """Take damaged groups out, those in packs as well, and rebuild what is made from the others."""
    there = [name for name in names if (root / name).exists()]
    packs, damaged = Packs(root), dict[str, tuple[Pack, set[str]]]()
    for name in sorted(set(names) - set(there)):
        view, unit = view_number(name.partition("/")[0]), name.partition("/")[2]
        if view is not None and unit.isdigit():
            with contextlib.suppress(DamagedError):  # the pack is damaged as a whole
                for pack in packs.holding(view, unit):
                    if pack.path not in there:
                        damaged.setdefault(pack.path, (pack, set()))[1].add(unit)
    held = [(pack, unit) for pack, units in damaged.values() for unit in sorted(units)]
    why = "damaged, to be made again by tokenize"
    consent(
        [Removal.of(root / name, why) for name in there]
        + [
            Removal(f"{pack.folder}: shard {unit}", pack.members[unit].clips * pack.layout.clip_bytes, why)
            for pack, unit in held
        ]
    )
    for name in there:
        (root / name).remove()
    for pack, units in damaged.values():
        unpack(pack, [unit for unit in pack.members if unit not in units])
    _restore_metadata(root, paths)
    told = _finish(root, None, lost=INDEX in paths)
    if not names:
        return told
    out = sorted([*there, *(group_name(pack.view, unit) for pack, unit in held)])
    what = f"took out {', '.join(out)}" if out else f"{', '.join(names)} are not there"
    return [f"{what}; to make them again, run: {command_of(read_header(root))}"]


def _finish(root: Location, source: str | None, *, lost: bool) -> list[str]:
    """Rebuild index and quarantine; where the index is `lost`, only if the store is proven to be complete.

    Returns how to end the stage where it is not.
    """
    if not lost:
        finish(root, expected=None)
        return []
    (root / INDEX).remove()
    if lacking(root, source) != []:
        return _told(root)
    finish(root, expected=expected_units(root, source))
    return []


def _told(root: Location) -> list[str]:
    return [f"{root} is unfinished, or what it was made from is not there to tell; {how_to_end(root)}"]


def settings_of(
    root: Location, header: Header, sound: GroupFile | None, backbone: str | None, device: str
) -> FeaturizeConfig:
    """Return the settings that a store was made with, but for its origin; `backbone` is where that is now, if known.

    Raises:
        ArtifactError: it no longer says which backbone it was made with.
        IdentityError: that is another one now.
    """
    backbone = backbone or header.provenance.get("backbone")
    if backbone is None:
        raise ArtifactError(f"{root} no longer says what it was made with; name it with --backbone")
    identity, how = header.identity, {} if sound is None else sound.provenance
    wanted = Identity(identity.kind, {**identity.values, "backbone": read_facts(backbone).content_hash})
    if differences := wanted.differences(identity):
        raise IdentityError(f"{root} was not made with {backbone}: {'; '.join(differences)}; name it with --backbone")
    crops = crops_of(identity)
    return FeaturizeConfig(
        backbone=backbone,
        size=identity.size,
        crops=crops,
        dtype=identity.values.get("dtype", UNWRITTEN["dtype"]),
        seed=identity.values.get("seed", 0),
        **(Augmentation.of_identity(identity).settings if crops == "augment" else {}),
        out=str(root),
        batch_size=how.get("batch_size"),
        precision=how.get("precision", "auto"),
        compile=how.get("compiled"),
        decoder=how.get("decoder", "auto"),
        device=device,
    )
