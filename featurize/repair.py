"""Makes again what `verify` found damaged or missing in a feature store, and nothing else.

Groups are computed anew from their shards with the backbone of the store, in batches as before, so that with equal
libraries and device they come out byte for byte as they were. What is made from the groups (index, quarantine, the
metadata above them) is rebuilt; so is the header, from any group, since each carries the identity.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from deltactl.artifacts import HEADER, INDEX, QUARANTINE, Header, Identity, read_header, write_sealed
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.devices import find_devices
from deltactl.errors import ArtifactError, DamagedError, IdentityError
from deltactl.featurize.events import Job
from deltactl.featurize.finish import GroupFile, finish, published, read_group_file
from deltactl.featurize.layout import BLACK, GROUP_FILE, view_name
from deltactl.featurize.plan import crops_of
from deltactl.featurize.run import load_computer, remake, write_black
from deltactl.featurize.writer import group_metadata
from deltactl.ingest.shards import ShardSet
from deltactl.ingest.verify import Finding
from deltactl.locations import Location

log = logging.getLogger(__name__)


def repair_store(
    root: Location,
    findings: Sequence[Finding],
    *,
    shards: str | None = None,
    backbone: str | None = None,
    device: str = "auto",
) -> list[str]:
    """Repair a feature store and return what was done; for a token store, what is left to do.

    `shards` and `backbone` are where the store was made from, unless given. ArtifactError or IdentityError where they
    are not those that the store was made from.
    """
    harmful = [finding for finding in findings if finding.harmful]
    names = sorted({finding.unit for finding in harmful if finding.unit})
    paths = {finding.path for finding in harmful}
    sound = _sound_group(root)
    header = _restore_header(root, sound, damaged=HEADER in paths)
    if header.identity.kind == "tokens":
        _restore_metadata(root, paths)
        return _repair_tokens(root, names)
    if not names and not any(path.startswith(BLACK) for path in paths):
        _restore_metadata(root, paths)
        finish(root, expected=_expected(root, header, shards) if INDEX in paths else None)
        return [f"rebuilt {', '.join(sorted(paths))}"]
    config = _settings(root, header, sound, shards, backbone, device)
    source = ShardSet.open(config.shards or "")
    computer = load_computer(config, _device(header, device))
    wanted = {**header.identity.values, "backbone": computer.backbone.content_hash, "shards": source.identity.hash()}
    if differences := Identity("features", wanted).differences(header.identity):
        raise IdentityError(
            f"{root} was not made from {source.root} and {config.backbone}: {'; '.join(differences)}; name them with "
            "--shards and --backbone"
        )
    _restore_metadata(root, paths)
    done = []
    if any(path.startswith(BLACK) for path in paths):
        (root / BLACK).remove()
        write_black(root, computer)
        done.append("made the black frame again")
    if names:
        jobs = tuple(Job(int(view[1:]), unit, replace=True) for view, unit in (name.split("/") for name in names))
        failed = remake(config, root, source, computer, header.identity, jobs)
        if failed:
            raise DamagedError(
                f"{root}: {failed[0].source} cannot be used ({failed[0].reason}); verify {source.root} first"
            )
        done.append(f"made again: {', '.join(names)}")
    (root / INDEX).remove()  # the hash of the black frame's metadata is another one, with other libraries
    finish(root, expected=source.units)
    return done


def _device(header: Header, device: str) -> str:
    """Return where to compute: for `auto` on a GPU if the store was made on one and there is one here."""
    if device == "auto" and str(header.provenance.get("device", "cpu")).startswith("cpu"):
        return "cpu"
    return find_devices(device)[0]


def _sound_group(root: Location) -> GroupFile | None:
    """Return what a group says whose seal is whole."""
    for view, units in published(root).items():
        for unit in units:
            try:
                return read_group_file(root, view, unit)
            except DamagedError:
                continue
    return None


def _restore_header(root: Location, sound: GroupFile | None, *, damaged: bool) -> Header:
    if not damaged:
        return read_header(root)
    if sound is None:
        raise ArtifactError(f"{root / HEADER} is damaged and no group is left to say what the store was; remove it")
    identity, provenance = sound.identity, sound.provenance
    write_sealed(root / HEADER, {"kind": identity.kind, "identity": identity.values, "provenance": provenance})
    return read_header(root)


def _restore_metadata(root: Location, paths: set[str]) -> None:
    """Write the groups above the groups again; remove the quarantine, which `finish` makes."""
    for name in (GROUP_FILE, *(f"{view_name(view)}/{GROUP_FILE}" for view in published(root))):
        if name in paths:
            (root / name).write_bytes(group_metadata({}))
    if QUARANTINE in paths:
        (root / QUARANTINE).remove()


def _repair_tokens(root: Location, names: Sequence[str]) -> list[str]:
    for name in names:
        (root / name).remove()
    finish(root, expected=None)
    command = read_header(root).provenance.get("command", "deltactl tokenize")
    return [f"took out {', '.join(names)}; to make them again, run: {command}"] if names else []


def _expected(root: Location, header: Header, shards: str | None) -> list[str] | None:
    """Return the shards that the store should cover, now that its index does not say; None where they are gone."""
    try:
        return ShardSet.open(shards or str(header.provenance.get("shards", ""))).units
    except ArtifactError:
        log.warning("%s: its shards are gone, so that groups that are missing altogether would go unseen", root)
        return None


def _settings(
    root: Location,
    header: Header,
    sound: GroupFile | None,
    shards: str | None,
    backbone: str | None,
    device: str,
) -> FeaturizeConfig:
    """Return the settings that the store was made with."""
    facts = header.provenance
    shards, backbone = shards or facts.get("shards"), backbone or facts.get("backbone")
    if shards is None or backbone is None:
        raise ArtifactError(f"{root} no longer says what it was made from; name it with --shards and --backbone")
    identity, how = header.identity, {} if sound is None else sound.provenance
    return FeaturizeConfig(
        shards=shards,
        backbone=backbone,
        size=identity.integer("size"),
        crops=crops_of(identity),
        seed=identity.values.get("seed", 0),
        out=str(root),
        batch_size=how.get("batch_size"),
        precision=how.get("precision", "auto"),
        compile=how.get("compiled"),
        decoder=how.get("decoder", "auto"),
        device=device,
    )
