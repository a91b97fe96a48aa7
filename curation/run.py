"""Looks through a store for cuts, stills and copies, and publishes what it found.

    CURATION/clips.txt        keys of the clips to leave out, for train --where
    CURATION/sources.txt      paths of videos of which no clip is left, for ingest --exclude
    CURATION/report.html      histograms and pictures, on one page that needs nothing else
    CURATION/curation.json    thresholds, counts, and what was found of each clip; the marker, written last
    CURATION/artifact.json    identity and provenance

Reads every byte of one view once; nothing depends on how many threads read. Comparing all clips with each other costs
the square of their number; `sample` compares some of them with all earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from deltactl.artifacts import (
    HEADER,
    Identity,
    check_replaceable,
    make_provenance,
    seal,
    workspace,
)
from deltactl.curation.findings import Findings, Thresholds, find
from deltactl.curation.frames import Frames, source_paths
from deltactl.curation.lists import KINDS, LEFT_OUT, TITLES, clip_lines, source_lines, whole_sources
from deltactl.curation.page import curation_page
from deltactl.curation.read import Measured, measure, open_store, scratch_folder
from deltactl.featurize.store.reader import ClipStore
from deltactl.featurize.store.scan import source_names
from deltactl.ingest.shards.held_out import share_of
from deltactl.locations import Location
from deltactl.removal import Consent, refuse, replaced
from deltactl.staging import publish_files

KIND = "curation"
FACTS, CLIPS, SOURCES, PAGE = "curation.json", "clips.txt", "sources.txt", "report.html"


@dataclass(frozen=True)
class Settings:
    """What to look for, and what is to be left out of it."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    left_out: tuple[str, ...] = LEFT_OUT
    view: int | None = None
    """By default the store's first."""
    sample: int | None = None
    """How many clips are compared with all earlier ones; None: all of them."""
    shards: str | None = None
    """Where the frames for the pictures are, where that is not where the store was made from."""
    device: str = "cpu"
    """Where clips are compared."""


@dataclass(frozen=True)
class Curation:
    """What was found, and where it lies."""

    folder: Location
    facts: Mapping[str, Any]


def curate(place: str, settings: Settings = Settings(), out: str | None = None, consent: Consent = refuse) -> Curation:
    """Look through the store at a place and publish what was found in `out`, by default in the workspace.

    Raises:
        ArtifactError: there is no whole store, or something else lies in `out`.
        ConfigError: its clips have one frame.
        DamagedError: bytes of it are damaged.
    """
    with open_store(place, settings.view) as store, scratch_folder() as scratch:
        folder = Location.of(out) if out is not None else workspace() / KIND / store.root.name
        identity = identity_of(store, settings)
        check_replaceable(folder, KIND)
        consent(replaced(folder, identity))
        frames = Frames.of(store, settings.shards)
        measured = measure(store, Path(scratch))
        rows = rows_of(store, settings.sample)
        findings = find(measured, settings.thresholds, rows=rows, device=settings.device)
        facts = facts_of(store, settings, measured, findings, rows)
        publish(folder, store, settings, identity, measured, findings, frames, facts)
    return Curation(folder, facts)


def identity_of(store: ClipStore, settings: Settings) -> Identity:
    """Return what a curation depends on."""
    values = {
        "store": store.identity.hash(),
        "view": store.views[0],
        "cut": settings.thresholds.cut,
        "still": settings.thresholds.still,
        "alike": settings.thresholds.alike,
        "sample": settings.sample,
        "left_out": list(settings.left_out),
    }
    return Identity(KIND, values)


def rows_of(store: ClipStore, sample: int | None) -> Bool[np.ndarray, " N"] | None:
    """Return which clips are compared with all others: those whose keys have the least hashes; None: all."""
    if sample is None or sample >= len(store):
        return None
    shares = np.array([share_of(key) for key in store.keys])
    chosen = np.zeros(len(store), bool)
    chosen[np.argsort(shares, kind="stable")[:sample]] = True
    return chosen


def out_of(findings: Findings, kinds: Sequence[str]) -> Bool[np.ndarray, " N"]:
    """Return the clips that are of one of these kinds."""
    return np.asarray(np.any([findings.masks[kind] for kind in kinds], axis=0))


def facts_of(
    store: ClipStore,
    settings: Settings,
    measured: Measured,
    findings: Findings,
    rows: Bool[np.ndarray, " N"] | None,
) -> dict[str, Any]:
    """Return the thresholds and how many were found, as `curation.json` has them."""
    out, sources = out_of(findings, settings.left_out), source_names(store)
    usual = float(np.median(measured.movement))
    judged = bool(np.isfinite(measured.movement).all())
    return {
        "clips": len(measured),
        "videos": len(set(sources)),
        "view": store.views[0],
        "compared": None if rows is None else int(rows.sum()),
        "found": {kind: int(findings.masks[kind].sum()) for kind in KINDS},
        "titles": TITLES,
        "thresholds": {"cut": findings.cut, "still": findings.still if judged else None, "alike": findings.alike},
        "thresholds_in_words": {
            "cut": f"a step {findings.cut:g} robust standard deviations above the others of its clip"
            + ("" if store.kind == "features" else "; tokens tell fewer than features do"),
            "still": (
                f"at most {findings.still:.3g}, {settings.thresholds.still:g} of the median movement {usual:.3g}"
                if judged
                else "not told from one frame after the first"
            ),
            "copy": f"a distance of at most {findings.alike:.3g} ({findings.alike_by})",
        },
        "left_out": {
            "kinds": list(settings.left_out),
            "clips": int(out.sum()),
            "videos": len(whole_sources(out, sources)),
        },
    }


def entries(store: ClipStore, measured: Measured, findings: Findings) -> list[dict[str, Any]]:
    """Return what was found of each clip of any kind, and how sure."""
    times = measured.samples[out_of(findings, KINDS)].tolist()
    found = []
    for clip in times:
        entry: dict[str, Any] = {"key": store.key_of(clip)}
        entry["found"] = [kind for kind in KINDS if findings.masks[kind][clip]]
        if findings.cuts[clip]:
            step = int(findings.scores[clip].argmax())
            seconds = store.times([clip])[0].tolist()
            entry["cut"] = {
                "score": round(float(findings.scores[clip, step]), 3),
                "between_seconds": [seconds[step], seconds[step + 1]],
            }
        for kind, earlier in (("copy", findings.elsewhere), ("repeat", findings.within)):
            if findings.masks[kind][clip]:
                distance = max(0.0, 1 - float(earlier.cosine[clip]))
                entry[kind] = {"of": store.key_of(int(earlier.number[clip])), "distance": round(distance, 6)}
        if findings.stills[clip]:
            entry["still"] = {"movement": round(float(measured.movement[clip]), 6)}
        found.append(entry)
    return found


def publish(
    folder: Location,
    store: ClipStore,
    settings: Settings,
    identity: Identity,
    measured: Measured,
    findings: Findings,
    frames: Frames,
    facts: Mapping[str, Any],
) -> None:
    """Write the files, `curation.json` last; those of an earlier curation are replaced."""
    provenance = make_provenance(("torch", "numpy"), data=str(store.root))
    header = {"kind": KIND, "identity": dict(identity.values), "provenance": provenance}
    made_by = f"made by deltactl {provenance['versions']['deltactl']} from {store.root.name}"
    keys = [store.key_of(int(sample)) for sample in measured.samples]
    names, paths = source_names(store), source_paths(store)
    masks, out = findings.masks, out_of(findings, settings.left_out)
    lines = {
        CLIPS: clip_lines(masks, keys, settings.left_out, made_by),
        SOURCES: source_lines(out, names, paths, made_by),
    }
    content = {**facts, "clips_found": entries(store, measured, findings)}
    page = curation_page(store, measured, findings, frames, facts, made_by)
    with publish_files(folder, FACTS, replace=True) as files:
        for name, texts in lines.items():
            (files / name).write_bytes("".join(f"{text}\n" for text in texts).encode("utf-8", "surrogateescape"))
        (files / PAGE).write_text(page, encoding="utf-8")
        (files / HEADER).write_text(json.dumps(seal(header), indent=1) + "\n")
        (files / FACTS).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
