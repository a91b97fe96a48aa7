"""How much of a label can be read off frozen features or tokens: takes a store, publishes accuracies of a linear probe.

    probe.json           figures with intervals, settings, stores and their hashes; the marker, written last
    probe.safetensors    the probe (`saved`); absent where another one was applied
    predictions.csv      a line for each clip under each view; videos.csv for each video
    confusion.csv        true class, predicted class, videos; confusion.png the same as a picture
    artifact.json        identity and provenance

Each clip is read once (`vectors`); a run that was stopped goes on from what it had read, which lies beside the output
until then. Costs a pass over the store, and a fit (`logistic`): both grow in proportion to the clips.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from deltactl.artifacts import (
    HEADER,
    Identity,
    canonical_json,
    check_replaceable,
    default_location,
    make_provenance,
    seal,
)
from deltactl.claims import hold
from deltactl.devices import device_title, use_device
from deltactl.evaluate.probe.fitting import Fitted, Training, fit_probe
from deltactl.evaluate.probe.outcomes import Outcomes, Samples, accuracies, by_class, confusions, outcomes_of
from deltactl.evaluate.probe.pictures import draw_confusions
from deltactl.evaluate.probe.plan import KIND, Clips, Plan, Settings, plan, said_of
from deltactl.evaluate.probe.saved import FILE, Probe, facts_for
from deltactl.evaluate.probe.tables import write_tables
from deltactl.evaluate.probe.vectors import vectors_of
from deltactl.featurize.store.scan import open_whole
from deltactl.locations import Location, make_folder, storage_errors
from deltactl.redaction import redact
from deltactl.removal import Consent, refuse, replaced
from deltactl.staging import publish_files

log = logging.getLogger(__name__)

FACTS, PICTURE = "probe.json", "confusion.png"
LIBRARIES = ("torch", "numpy", "matplotlib")


@dataclass(frozen=True)
class Probed:
    """Where the figures are, and what they are."""

    folder: Location
    facts: Mapping[str, Any]


def run_probe(place: str, settings: Settings, out: str | None = None, consent: Consent = refuse) -> Probed:
    """Probe the store at a place and publish what was found in `out`, by default in the workspace.

    `consent` is asked before earlier figures of something else are overwritten. Before any clip is read:

    Raises:
        ArtifactError: there is no whole store, or something else lies in `out`.
        CheckpointError: there is no such probe.
        ClaimedError: another process writes there.
        ConfigError: the stores have no such labels, or do not fit each other, or no video can be held out.
        DamagedError: bytes of them are damaged.
    """
    device = use_device(settings.device)
    views = None if settings.view is None else [settings.view]
    with contextlib.ExitStack() as opened:
        places = [each for each in (place, settings.test) if each is not None]
        stores = [opened.enter_context(open_whole(each, views)) for each in places]
        planned = plan(stores, settings)
        folder = Location.of(out) if out is not None else _default_folder(stores[0].root, planned.identity)
        check_replaceable(folder, KIND)
        consent(replaced(folder, planned.identity))
        with hold(folder), _vectors_folder(folder) as scratch:
            check_replaceable(folder, KIND)
            facts = _run(planned, settings, folder, scratch, device)
    return Probed(folder, facts)


def _run(planned: Plan, settings: Settings, folder: Location, scratch: Path, device: torch.device) -> dict[str, Any]:
    tests, trains = planned.tests, planned.trains
    vectors = _vectors(tests, planned.pooling, scratch)
    fitted, probe = None, planned.probe
    if trains is not None:
        same = trains.store is tests.store
        ours = vectors if same else _vectors(trains, planned.pooling, scratch)
        training = Training(trains.numbers, trains.truth, trains.videos, len(trains.classes))
        fitted = fit_probe(ours, training, settings.seed, settings.l2, device)
        if not fitted.fit.converged:
            log.warning("the fit ended before the optimum, after %d evaluations", fitted.fit.evaluations)
        probe = _probe(planned, trains, fitted)
    assert probe is not None
    samples = Samples(tests.truth, tests.videos, tests.keys, tests.views)
    outcomes = outcomes_of(probe.weights.to(device), probe.standard, vectors, tests.numbers, samples)
    facts = _facts(planned, settings, probe, fitted, outcomes, samples)
    _publish(planned, folder, probe, facts, outcomes, samples, device)
    return facts


def _probe(planned: Plan, trains: Clips, fitted: Fitted) -> Probe:
    return Probe(
        fitted.weights.to(torch.device("cpu")),
        fitted.standard,
        trains.classes,
        tuple(trains.videos_of_classes().tolist()),
        label=planned.label,
        pooling=planned.pooling,
        l2=fitted.l2,
        facts=facts_for(trains.store, planned.pooling),
        store=trains.store.identity.hash(),
    )


def _vectors(clips: Clips, pooling: str, scratch: Path) -> Float32[np.ndarray, "N L"]:
    """Return the vectors of all labelled clips of a store, in a file that only the same ones have the name of."""
    samples = hashlib.sha256(clips.found.samples.tobytes()).hexdigest()
    said = {**said_of(clips.store), "samples": samples, "pooling": pooling}
    return vectors_of(
        clips.store, clips.found.samples, pooling, scratch / hashlib.sha256(canonical_json(said)).hexdigest()[:16]
    )


@contextlib.contextmanager
def _vectors_folder(folder: Location) -> Iterator[Path]:
    """Yield where vectors lie: beside the output, where they stay if the body fails; else a temporary folder."""
    if not folder.is_local:
        with tempfile.TemporaryDirectory(prefix="deltactl-probe-") as name:
            yield Path(name)
        return
    beside = folder.path.with_name(f".{folder.name}.probe")
    with storage_errors(beside, "write"):
        make_folder(beside)
    yield beside
    shutil.rmtree(beside, ignore_errors=True)


def _default_folder(store: Location, identity: Identity) -> Location:
    return default_location("reports", f"probe-{store.name}-{identity.hash()[:8]}")


# --- what is published -----------------------------------------------------------------------------------------------


def _facts(
    planned: Plan, settings: Settings, probe: Probe, fitted: Fitted | None, outcomes: Outcomes, samples: Samples
) -> dict[str, Any]:
    """Return what `probe.json` holds."""
    tests, trains = planned.tests, planned.trains
    training = np.array(probe.training_videos)
    stores = {"store": (trains or tests).store}
    if settings.test is not None:
        stores["test"] = tests.store
    classes = by_class(outcomes, samples, training)
    return {
        "label": probe.label,
        "inputs": tests.store.kind,
        "pooling": probe.pooling,
        "width": len(probe.standard.mean),
        "seed": settings.seed,
        "held_out": settings.held_out if trains is not None and settings.test is None else None,
        "l2": {"value": probe.l2, "tried": [each.to_json() for each in fitted.tried] if fitted is not None else []},
        "converged": fitted is None or fitted.fit.converged,
        "probe_sha256": probe.content_hash,
        **{name: {"place": redact(str(store.root)), **said_of(store)} for name, store in stores.items()},
        "trained": None if trains is None else trains.to_json(),
        "told": tests.to_json(),
        "unlabelled": tests.found.unlabelled,
        "left_out": tests.found.left_out,
        "accuracy": accuracies(outcomes, samples, training),
        "classes": [{"class": name, **each} for name, each in zip(probe.classes, classes, strict=True)],
    }


def _publish(
    planned: Plan,
    folder: Location,
    probe: Probe,
    facts: Mapping[str, Any],
    outcomes: Outcomes,
    samples: Samples,
    device: torch.device,
) -> None:
    """Write the files, `probe.json` last; those of earlier figures are replaced."""
    identity, confused = planned.identity, confusions(outcomes, samples)
    provenance = make_provenance(LIBRARIES, device=device_title(device), data=facts["store"]["place"])
    header = {"kind": KIND, "identity": dict(identity.values), "provenance": provenance}
    with publish_files(folder, FACTS, replace=True, outdated=lambda name: name == FILE) as files:
        write_tables(files, outcomes, samples, probe.classes, confused)
        draw_confusions(files / PICTURE, _title(facts), facts["classes"], confused)
        (files / HEADER).write_text(json.dumps(seal(header), indent=1) + "\n")
        if planned.probe is None:
            probe.save(files / FILE)
            # safetensors lets nobody but the owner read what it writes.
            (files / FILE).chmod((files / HEADER).stat().st_mode)
        (files / FACTS).write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n")


def _title(facts: Mapping[str, Any]) -> str:
    top1 = facts["accuracy"]["by_video"]["top1"]
    share = f"{100 * top1['accuracy']:.1f} % ({100 * top1['low']:.1f} to {100 * top1['high']:.1f})"
    return f"{facts['label']} from {facts['inputs']}: {share} of {facts['accuracy']['by_video']['count']} videos right"
