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
from deltactl.configs.follow import Fact, default_size, follow, is_set, refuse_unused, with_setting
from deltactl.configs.surprise import SurpriseConfig
from deltactl.devices import device_of, dtype_of
from deltactl.errors import ArtifactError, CheckpointError, ConfigError
from deltactl.evaluate.protocol.memory import memory_faults
from deltactl.evaluate.protocol.networks import check_tokens, check_width, naming
from deltactl.evaluate.surprise.kept import KeptScores
from deltactl.evaluate.surprise.measure import Decoder, Sampler, score_features, score_tokens
from deltactl.evaluate.surprise.pairs import Pair, accuracies, check_inside, check_names, read_pairs, videos_of
from deltactl.evaluate.surprise.sources import (
    SourceKind,
    Subject,
    check_length,
    kind_of_source,
    open_store,
    said_of_source,
    shard_subjects,
    store_subjects,
    video_subject,
    videos_of_clips,
)
from deltactl.evaluate.surprise.table import Scored, by_video, rows_of, summary_of, write_tables
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.store.reader import ClipStore, FeatureStore
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.progress import Progress, Say
from deltactl.removal import Consent, refuse, replaced
from deltactl.staging import publish_files
from deltactl.train.checkpoints.loading import load, network_hash
from deltactl.train.checkpoints.trained import as_trained, mismatched_checkpoints, trained_of
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTok
from deltactl.train.networks.deltaworld import WORLD, DeltaWorld

log = logging.getLogger(__name__)

KIND = "surprise"
LIBRARIES = ("torch", "transformers", "numpy", "av", "opencv-python-headless", "pillow", "matplotlib")
LONGEST_NAME = 60


@dataclass(frozen=True)
class SurpriseResult:
    """Where the scores are, and what they come to."""

    folder: Location
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class _Work:
    """What a run works with."""

    config: SurpriseConfig
    kind: SourceKind
    sampler: Sampler
    backbone: Backbone | None
    tokenizer: DeltaTok | None
    data: ShardSet | ClipStore | None
    pairs: list[Pair] | None
    hashes: Mapping[str, str]

    @property
    def autocast(self) -> torch.autocast:
        device = self.sampler.device
        half = dtype_of(self.config.precision, device) == torch.bfloat16
        return torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False)


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
    _check_uses(config, kind)
    smaller = f"--samples {max(1, config.samples // 2)} (now {config.samples}), a smaller --size (now {config.size})"
    with memory_faults(config.device, f"one frame and {config.samples} samples", smaller):
        return _run(config, kind, say, consent)


def _check_uses(config: SurpriseConfig, kind: SourceKind) -> None:
    pixels, videos = kind in ("video", "videos", "shards"), kind in ("video", "videos")
    refuse_unused(
        config,
        ("--backbone", pixels, f"goes with videos and shards, and {config.source} holds {kind}"),
        ("--size", pixels, f"goes with videos and shards, and {config.source} holds {kind}"),
        *((f"--{name}", videos, "goes with videos") for name in ("fps", "stride", "start", "end", "crop")),
        ("--limit", not videos, "goes with clips"),
    )
    if kind != "tokens" and config.tokenizer is None:
        raise ConfigError(f"--tokenizer is missing: {config.source} is {_called(kind)}, whose tokens have to be made")


def _called(kind: SourceKind) -> str:
    return {"video": "a video", "videos": "a folder of videos", "features": "a store of features"}.get(kind, kind)


def _run(config: SurpriseConfig, kind: SourceKind, say: Say, consent: Consent) -> SurpriseResult:
    place = Location.of(config.source)
    pairs = None if config.pairs is None else read_pairs(Location.of(config.pairs))
    if config.out:
        check_replaceable(Location.of(config.out), KIND)
    if kind in ("video", "videos", "shards"):
        config = _as_trained(config, kind, place, say)
    work = _prepare(config, kind, place, pairs)
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


def _as_trained(config: SurpriseConfig, kind: SourceKind, place: Location, say: Say) -> SurpriseConfig:
    """Return the settings with the size, the backbone and the stride of the networks' training, where not set.

    Where no network says at which size it was trained, shards are taken at theirs.
    """
    networks: list[tuple[str, str | None]] = [("world", config.world), ("tokenizer", config.tokenizer)]
    if kind == "shards" and all(trained_of(each).size is None for _, each in networks if each):
        identity = ShardSet.open(place).identity
        if "size" in identity.values:
            config, _ = follow(config, [Fact("size", default_size(config.size, identity.size), str(place))])
    config, steps = as_trained(config, networks, say)
    if kind == "shards" or steps is None:
        return config
    seen = steps.nearest(config.stride)
    if seen == config.stride:
        return config
    if not is_set(config, "stride"):
        say(f"frames {seen:g} s apart: the networks were trained on {steps.least:g} to {steps.most:g} s")
        return with_setting(config, "stride", seen)
    log.warning(
        "--stride is %g s, but --world %s was trained on frames %g to %g s apart; its samples mean little",
        *(config.stride, config.world, steps.least, steps.most),
    )
    return config


def _prepare(config: SurpriseConfig, kind: SourceKind, place: Location, pairs: list[Pair] | None) -> _Work:
    """Open what is there, load the networks, and check that all of it fits."""
    device = device_of(config.device)
    data: ShardSet | ClipStore | None = None
    backbone: Backbone | None = None
    hashes: dict[str, str] = {}
    least = config.context + config.horizon
    if kind == "shards":
        data = ShardSet.open(place)
    elif kind in ("features", "tokens"):
        data = open_store(kind, place)
        check_length(data.frames, least, config)
        hashes = {
            name: data.identity.values[name] for name in ("backbone", "tokenizer") if name in data.identity.values
        }
        if not len(data):
            raise ArtifactError(f"{place} has no clip that can be read")
    if kind in ("video", "videos", "shards"):
        backbone = Backbone.load(config.backbone, device, dtype_of(config.precision, device))
        backbone.grid(*config.size.pair)
        hashes["backbone"] = backbone.content_hash
        if isinstance(data, ShardSet):
            check_length(data.identity.integer("frames") // backbone.frames_per_step, least, config)
    tokenizer = _tokenizer(config, kind, backbone, data, hashes, device)
    with naming("world"):
        world = load(config.world, WORLD)
    _check_world(config, world, tokenizer, data)
    hashes["world"] = network_hash(world)
    if pairs is not None:
        listing = Location.of(str(config.pairs))
        if data is None:
            check_inside(pairs, listing)
            there = [name for name in videos_of(pairs) if (place.path / name).exists()]
        else:
            there = list(videos_of_clips(data))
        check_names(pairs, there, listing, place)
    sampler = Sampler(world.to(device), config.context, config.horizon, config.samples, config.seed, device)
    return _Work(config, kind, sampler, backbone, tokenizer, data, pairs, hashes)


def _tokenizer(
    config: SurpriseConfig,
    kind: SourceKind,
    backbone: Backbone | None,
    data: ShardSet | ClipStore | None,
    hashes: dict[str, str],
    device: torch.device,
) -> DeltaTok | None:
    """Return the tokenizer on the device; of tokens only its hash is compared with theirs."""
    if config.tokenizer is None:
        return None
    with naming("tokenizer"):
        tokenizer = load(config.tokenizer, TOKENIZER)
    found = network_hash(tokenizer)
    if kind == "tokens":
        if hashes.get("tokenizer") not in (None, found):
            raise CheckpointError(
                f"--tokenizer {config.tokenizer} (content hash {found[:12]}…) did not make the tokens of "
                f"{config.source} ({hashes['tokenizer'][:12]}…); name the one that did, or leave it out"
            )
        return None
    hashes["tokenizer"] = found
    if backbone is not None:
        what = f"the backbone {config.backbone} makes features of width {backbone.dim}"
        check_width("tokenizer", config.tokenizer, tokenizer.config.width, backbone.dim, what)
    else:
        assert isinstance(data, FeatureStore)
        what = f"{config.source} has features of width {data.dim}"
        check_width("tokenizer", config.tokenizer, tokenizer.config.width, data.dim, what)
    return tokenizer.to(device)


def _check_world(
    config: SurpriseConfig, world: DeltaWorld, tokenizer: DeltaTok | None, data: ShardSet | ClipStore | None
) -> None:
    if tokenizer is not None:
        check_tokens(config.world, world.config, config.tokenizer, tokenizer.config)
        return
    assert data is not None
    assert not isinstance(data, ShardSet)
    found, wanted = data.frame_shape, (world.config.tokens_per_frame, world.config.token_dim)
    if found != wanted:
        raise CheckpointError(
            f"--world {config.world} is for {wanted[0]} tokens of width {wanted[1]} a frame, but {config.source} has "
            f"{found[0]} of width {found[1]}; name the one that belongs to them"
        )


def _subjects(work: _Work, place: Location, kept: KeptScores) -> Iterator[Subject]:
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


def _score(work: _Work, place: Location, kept: KeptScores) -> tuple[list[Scored], Subject | None]:
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


def _decoder(work: _Work, subject: Subject, before: Decoder | None) -> Decoder:
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


def _identity(work: _Work, place: Location) -> Identity:
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
    work: _Work, identity: Identity, folder: Location, scored: list[Scored], shown: Subject | None
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
