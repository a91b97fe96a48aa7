"""How surprising what came is: takes videos or clips and a world model, publishes scores, pictures and a summary.

    scores.csv       a line for each frame (`table`); scores.parquet, too, where pyarrow is installed
    summary.json     means, the spread of the ranks, how far both spaces agree; of pairs, accuracies with intervals
    surprise.png     of a video its curves under the film strip; else the spread of the ranks, or the pairs
    surprise.gif     of a video, the curves as it plays
    artifact.json    identity and provenance

The folder appears whole or not at all. Until then finished clips are kept in a file beside it, which the same command
goes on from. Costs what `measure` says for each frame, and a pass of the backbone for each that has no features yet; so
it grows in proportion to the clips.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deltactl.artifacts import HEADER, Identity, check_replaceable, default_location, make_provenance, seal
from deltactl.claims import hold
from deltactl.configs.surprise import SurpriseConfig
from deltactl.devices import dtype_of
from deltactl.errors import ArtifactError
from deltactl.evaluate.protocol.memory import memory_faults
from deltactl.evaluate.surprise.kept import KeptScores
from deltactl.evaluate.surprise.measure import Decoder, score_features, score_tokens
from deltactl.evaluate.surprise.pairs import accuracies, check_names, read_pairs, videos_of
from deltactl.evaluate.surprise.prepare import Work, check_uses, follow_training, prepare
from deltactl.evaluate.surprise.sources import (
    SourceKind,
    Subject,
    kind_of_source,
    said_of_source,
    shard_subjects,
    store_subjects,
    video_subject,
)
from deltactl.evaluate.surprise.table import Scored, by_video, rows_of, summary_of, write_tables
from deltactl.featurize.store.reader import FeatureStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.progress import Progress, Say
from deltactl.removal import Consent, refuse, replaced
from deltactl.staging import publish_files
from deltactl.train.checkpoints.trained import mismatched_checkpoints

log = logging.getLogger(__name__)

KIND = "surprise"
LIBRARIES = ("torch", "transformers", "numpy", "av", "opencv-python-headless", "pillow", "matplotlib")
LONGEST_NAME = 60


@dataclass(frozen=True)
class SurpriseResult:
    """Where the scores are, and what they come to."""

    folder: Location
    summary: Mapping[str, Any]


def run_surprise(config: SurpriseConfig, say: Say, consent: Consent = refuse) -> SurpriseResult:
    """Score, publish, and return the folder and the summary; `say` takes sentences for people.

    `consent` is asked before earlier scores of something else are overwritten. Before any long work begins:

    Raises:
        SourceError: a video cannot be read, or is too short.
        CheckpointError, HubError: the backbone or a checkpoint cannot be used, or does not fit the others.
        ArtifactError: SOURCE or `out` holds something else.
        ClaimedError: another process writes there.
        ConfigError: the settings do not suit the source, or the pairs are not those of the videos.
    """
    kind = kind_of_source(config)
    check_uses(config, kind)
    smaller = f"--samples {max(1, config.samples // 2)} (now {config.samples}), a smaller --size (now {config.size})"
    with memory_faults(config.device, f"one frame and {config.samples} samples", smaller):
        return _run(config, kind, say, consent)


def _run(config: SurpriseConfig, kind: SourceKind, say: Say, consent: Consent) -> SurpriseResult:
    place = Location.of(config.source)
    pairs = None if config.pairs is None else read_pairs(Location.of(config.pairs))
    if config.out:
        check_replaceable(Location.of(config.out), KIND)
    if kind in ("video", "videos", "shards"):
        config = follow_training(config, kind, place, say)
    work = prepare(config, kind, place, pairs)
    given = [("tokenizer", config.tokenizer), ("world", config.world)]
    size = config.size if work.backbone is not None else None
    for note in mismatched_checkpoints(given, work.hashes, size):
        log.warning("%s", note)
    identity = _identity(work, place)
    folder = Location.of(config.out) if config.out else _default_folder(place, identity)
    check_replaceable(folder, KIND)
    consent(replaced(folder, identity))
    with hold(folder):
        check_replaceable(folder, KIND)
        kept = KeptScores(folder, identity)
        with torch.inference_mode(), work.autocast:
            scored, shown = _score(work, place, kept)
        summary = _publish(work, identity, folder, scored, shown)
        kept.remove()
    return SurpriseResult(folder, summary)


def _subjects(work: Work, place: Location, kept: KeptScores) -> Iterator[Subject]:
    config, data = work.config, work.data
    if work.kind == "video":
        assert work.backbone is not None
        yield video_subject(config, place.path, place.name, work.backbone, work.sampler.least)
    elif work.kind == "videos":
        assert work.backbone is not None
        assert work.pairs is not None
        for name in videos_of(work.pairs):
            if (name, 0) not in kept.scores:
                yield video_subject(config, place.path / name, name, work.backbone, work.sampler.least)
    elif isinstance(data, ShardSet):
        assert work.backbone is not None
        yield from shard_subjects(config, data, work.backbone)
    else:
        assert data is not None
        yield from store_subjects(config, data)


def _score(work: Work, place: Location, kept: KeptScores) -> tuple[list[Scored], Subject | None]:
    """Return the scores of every clip, in order, and a single video itself."""
    decoder: Decoder | None = None
    shown = None
    names = [] if work.pairs is None else videos_of(work.pairs)
    wanted = None if work.pairs is None else set(names)
    order = [(name, 0) for name in names] if work.kind == "videos" else []
    with Progress(None, unit="clips", label="surprise") as progress:
        for subject in _subjects(work, place, kept):
            if work.kind == "video":
                shown = subject
            if wanted is not None and subject.video not in wanted:
                continue
            if work.kind != "videos":
                order.append((subject.clip, subject.view))
            if (subject.clip, subject.view) in kept.scores:
                continue
            if subject.tokens is not None:
                made = score_tokens(work.sampler, subject.tokens, subject.times, subject.draws, subject.view)
            else:
                assert subject.features is not None
                decoder = _decoder(work, subject, decoder)
                made = score_features(
                    work.sampler, decoder, subject.features, subject.times, subject.draws, subject.view
                )
            kept.add(Scored(subject.video, subject.clip, subject.view, tuple(made)))
            progress.advance()
    scored = [kept.scores[each] for each in order]
    if not scored:
        raise ArtifactError(f"{place} has no clip that can be read")
    if wanted is not None:
        # Those of a store may be unreadable.
        check_names(work.pairs or [], [each.video for each in scored], Location.of(str(work.config.pairs)), place)
    return scored, shown


def _decoder(work: Work, subject: Subject, before: Decoder | None) -> Decoder:
    """Return the decoder for the frames of a clip, the one before where they have one size."""
    assert work.tokenizer is not None
    if isinstance(work.data, FeatureStore):
        return before or Decoder(work.tokenizer, work.data.black.to(work.sampler.device), work.data.grid)
    assert work.backbone is not None
    height, width = work.config.size.pair if subject.pixels is None else subject.pixels.shape[1:3]
    grid = work.backbone.grid(height, width)
    if before is not None and before.grid == grid:
        return before
    return Decoder(work.tokenizer, work.backbone.black_features(height, width), grid)


def _identity(work: Work, place: Location) -> Identity:
    """Return what decides the scores: the source, the weights and the settings."""
    config = work.config
    names = ["context", "horizon", "samples", "seed", "limit"]
    names += ["size", "crop"] if work.kind != "features" and work.kind != "tokens" else []
    names += ["stride", "start", "end", "fps"] if work.kind in ("video", "videos") else []
    if work.data is not None:
        source: Mapping[str, Any] = said_of_source(work.data.identity)
    else:
        names_of = [""] if work.pairs is None else videos_of(work.pairs)
        source = {"kind": work.kind, "files_sha256": _files_hash([place.path / name for name in names_of])}
    pairs = (
        {}
        if work.pairs is None
        else {"pairs": [[each.possible, each.impossible, each.set, each.group] for each in work.pairs]}
    )
    dumped = config.model_dump(mode="json", include=set(names))
    return Identity(KIND, {"source": dict(source), "weights": dict(work.hashes), **pairs, **dumped})


def _files_hash(paths: list[Path]) -> str:
    """Return the SHA-256 of what videos hold, those of folders file by file, in order."""
    whole = hashlib.sha256()
    for path in paths:
        for file in sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]:
            with file.open("rb") as opened:
                whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()


def _publish(
    work: Work, identity: Identity, folder: Location, scored: list[Scored], shown: Subject | None
) -> dict[str, Any]:
    from deltactl.evaluate.surprise.pictures import animate_video, draw_pairs, draw_set, draw_video

    config, rows = work.config, rows_of(scored)
    summary: dict[str, Any] = {
        "source": work.kind,
        "context": config.context,
        "horizon": config.horizon,
        "samples": config.samples,
        "seed": config.seed,
        **summary_of(rows),
    }
    found = [] if work.pairs is None else accuracies(work.pairs, by_video(scored))
    if work.pairs is not None:
        summary["pairs"] = [each.to_json() for each in found]
    device = work.sampler.device
    precision = str(dtype_of(config.precision, device)).removeprefix("torch.")
    header = {
        "kind": KIND,
        "identity": dict(identity.values),
        "provenance": make_provenance(LIBRARIES, device=str(device), precision=precision),
    }
    title = f"{Location.of(config.source).name}: {config.context} frames of context, {config.horizon} ahead"
    names = {"scores.parquet", "surprise.gif"}
    with publish_files(folder, HEADER, replace=True, outdated=lambda name: name in names) as files:
        write_tables(files, rows)
        if work.pairs is not None:
            draw_pairs(files / "surprise.png", title, work.pairs, scored, found)
        elif shown is not None and shown.pixels is not None:
            pixels: np.ndarray = shown.pixels
            draw_video(files / "surprise.png", title, pixels, shown.times, scored[0])
            animate_video(files / "surprise.gif", title, pixels, shown.times, scored[0])
        else:
            draw_set(files / "surprise.png", title, rows)
        (files / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        (files / HEADER).write_text(json.dumps(seal(header), indent=1) + "\n")
    return summary


def _default_folder(place: Location, identity: Identity) -> Location:
    stem = Path(place.name).stem
    name = "".join(character if character.isalnum() or character in "-_" else "-" for character in stem)
    return default_location("reports", f"surprise-{name[:LONGEST_NAME]}-{identity.hash()[:8]}")
