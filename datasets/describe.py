"""What a file that tells of a data set leads to: its splits with their videos and clips, as they lie there now.

Takes the file, returns facts by name. Names in folders are read, and of video files the times of frames: of the first,
and of all where clips end on every N-th frame. Whether a file can be used is seen when it is ingested.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

from deltactl.configs.clips import Split
from deltactl.configs.dataset import DatasetConfig, numbered_classes
from deltactl.datasets.listing import Listing, stride
from deltactl.datasets.told import FoundFiles, ToldSet, found_files, told_set
from deltactl.errors import ConfigError, SourceError
from deltactl.ingest.settle import EVALUATION_FRAMES
from deltactl.ingest.shards.labels import by
from deltactl.ingest.video.timestamps import Video
from deltactl.locations import Location
from deltactl.progress import counted

SHOWN = 5
"""Reasons that are told of a split's unusable videos."""
RATE_TOLERANCE = 0.01
"""By which the rate of a video may differ from what the file says."""


def describe(file: str) -> dict[str, dict[str, Any]]:
    """Return headings with facts by name.

    Raises:
        ConfigError: the file tells of no data set, or none of its splits has a clip.
    """
    record = told_set(file)
    told = record.told
    facts: dict[str, Any] = {
        "name": record.name,
        "title": record.title,
        "task": record.task,
        **({"classes": len(told.classes)} if told.classes else {}),
        "root": record.root,
        "frames per second": record.fps,
        "frames from one of a clip to the next": stride(told.step_seconds, told.fps),
        "clips end on": _ends(told),
        **({"size of frames": by(record.frame_size)} if record.frame_size else {}),
        **({"depth": f"{told.depth_scale:g} units a metre"} if told.depth_scale else {}),
        "sha256 of what it tells": record.told_hash,
    }
    sections = {"data set": facts}
    faults = []
    for split in splits_of(record):
        try:
            sections[split] = _split(record, split)
        except ConfigError as error:
            faults.append(str(error))
            sections[split] = {"clips": 0, "reason": str(error)}
    if len(faults) == len(sections) - 1:
        raise ConfigError(f"{file}: {'; '.join(faults)}")
    if told.classes and told.classes != numbered_classes(len(told.classes)):
        sections["classes"] = {str(number): name for number, name in enumerate(told.classes)}
    return sections


def _ends(told: DatasetConfig) -> str:
    """Return on which frames clips end."""
    first = "" if told.clip_first is None else f", from number {told.clip_first} on"
    if told.clip_every is None:
        return f"labelled frames{first}"
    return f"{'every frame' if told.clip_every == 1 else f'one in {told.clip_every} frames'}{first}"


def splits_of(record: ToldSet) -> tuple[Split, ...]:
    """Return the splits that a set may have."""
    return tuple(each for each in get_args(Split) if not record.told.splits or each in record.told.splits)


def clips_of(record: ToldSet, split: Split) -> Listing:
    """Return the clips of a split, as an ingest of evaluation clips would list them.

    Raises:
        ConfigError: there are none.
    """
    assert record.root is not None
    root = Location.of(record.root)
    return _clips(found_files(record.told, root, split), split)


def _clips(found: FoundFiles, split: Split) -> Listing:
    listing = found.clips(EVALUATION_FRAMES)
    if not listing.clips:
        raise ConfigError(f"{found.root} has no clips of the split {split} ({_reasons(listing)})")
    return listing


def _split(record: ToldSet, split: Split) -> dict[str, Any]:
    assert record.root is not None
    found = found_files(record.told, Location.of(record.root), split)
    listing = _clips(found, split)
    facts: dict[str, Any] = {"videos": len(found.videos)}
    if record.told.videos:
        facts |= _rate(found)
    if record.told.frames:
        facts["frames"] = sum(len(each.files) for each in found.videos.values())
    if record.told.labels:
        facts["labels"] = sum(len(each.files) for each in found.labels.values())
    facts["clips"] = len(listing.clips)
    if record.told.labels:
        facts["labels in clips"] = len({path for clip in listing.clips for each in clip.labels for path in each.paths})
    if listing.unusable:
        facts |= {"unusable videos": len(listing.unusable), "reasons": _reasons(listing)}
    return facts


def _rate(found: FoundFiles) -> dict[str, Any]:
    """Return the frames a second of the first video, to be compared with `fps`; nothing where it cannot be read."""
    first = next(iter(next(iter(found.videos.values())).files.values()))
    try:
        with Video((found.root / first).path) as video:
            seconds = float(video.times[-1] - video.times[0])
            rate = (len(video.times) - 1) / seconds if seconds > 0 else 0.0
    except (SourceError, ValueError):  # it is no video, or lies in an object store: the listing says so
        return {}
    says = "" if abs(rate - found.told.fps) < RATE_TOLERANCE * found.told.fps else f", and fps is {found.told.fps:g}"
    return {"frames per second": f"{rate:.3g} in {first}{says}"}


def _reasons(listing: Listing) -> str:
    """Return why videos are unusable, the same reason once, with the first video that it is of."""
    counts = Counter(each.reason for each in listing.unusable)
    first = {each.reason: each.source for each in reversed(listing.unusable)}
    shown = [
        f"{first[reason]}: {reason}" + (f" (and {counted(count - 1, 'others')})" if count > 1 else "")
        for reason, count in counts.most_common(SHOWN)
    ]
    more = f"; {len(counts) - SHOWN} other reasons" if len(counts) > SHOWN else ""
    return "; ".join(shown) + more
