"""What each clip of a store is: the labels in one of its columns, and which videos train and which are held out.

Takes an open store and the name of a column of clips, texts or whole numbers, returns the clips that have a label, each
under each view. Videos are held out as a whole, by a hash of their names.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from deltactl.errors import ConfigError
from deltactl.featurize.store.reader import ClipStore
from deltactl.featurize.store.scan import source_names
from deltactl.ingest.shards.columns import Column
from deltactl.ingest.shards.held_out import held_out_sources, share_of
from deltactl.progress import counted, cut_short, few

log = logging.getLogger(__name__)

MOST_CLASSES = 10_000
"""More are no classes but texts that tell of one clip each; the weights alone would fill the memory."""
MOST_LETTERS = 60
"""Of a class that a message names."""


@dataclass(frozen=True)
class Labelled:
    """The clips of a store that have a label, each under each view: N samples, in the order of the store."""

    samples: Int64[np.ndarray, " N"]
    """Number of each in the store."""
    labels: tuple[str, ...]
    videos: tuple[str, ...]
    """Name of the source of each."""
    unlabelled: int
    """Clips, under each view, whose label is empty."""
    left_out: int
    """Clips, under each view, that were named to be left out."""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that there are, in order: numbers by their value, then texts by their letters."""
        return tuple(sorted(set(self.labels), key=_place))


def labelled(store: ClipStore, label: str, left_out: Collection[str] = frozenset()) -> Labelled:
    """Return the clips of a store that have a label, but for those with the keys `left_out`.

    Raises:
        ConfigError: there is no such column, or it holds no labels.
        DamagedError: what a group says of its clips is not as it was written.
    """
    values = _values(store, _column(store, label))
    kept = [value != "" for value in values]
    out = [key in left_out for key in store.keys] if left_out else [False] * len(values)
    names = source_names(store)
    chosen = [number for number in range(len(values)) if kept[number] and not out[number]]
    if not chosen:
        why = "each of its clips is left out" if any(kept) else f"the column {label} is empty for each of its clips"
        raise ConfigError(f"{store.root} has no clip with a label: {why}; name another column with --label")
    found = Labelled(
        np.array(chosen, np.int64),
        tuple(values[number] for number in chosen),
        tuple(names[number] for number in chosen),
        unlabelled=len(values) - sum(kept),
        left_out=sum(out),
    )
    if found.unlabelled:
        log.warning("%s of %s have no %s and are passed over", counted(found.unlabelled, "clips"), store.root, label)
    return found


def check_classes(place: object, label: str, found: Labelled) -> None:
    """Check that there is something to tell apart.

    Raises:
        ConfigError: there is one class, or there are too many.
    """
    classes = found.classes
    if len(classes) < 2:
        raise ConfigError(
            f"{place}: {counted(len(found), 'clips')} have the one {label} {shown(classes[0])}; a probe tells two "
            "classes or more apart: name another column with --label"
        )
    if len(classes) > MOST_CLASSES:
        raise ConfigError(
            f"{place}: {label} has {len(classes):,} values, such as {shown(classes[0])}, among "
            f"{counted(len(found), 'clips')}; a probe takes up to {MOST_CLASSES:,} classes: name another column with "
            "--label"
        )


def check_known(place: object, label: str, found: Labelled, classes: Sequence[str]) -> None:
    """Check that a probe of these classes can be right about every clip.

    Raises:
        ConfigError: some are of other classes; names them.
    """
    known = set(classes)
    if unknown := [name for name in found.classes if name not in known]:
        clips = sum(each not in known for each in found.labels)
        raise ConfigError(
            f"{place}: {counted(clips, 'clips')} are of {counted(len(unknown), 'classes')} of {label} that the probe "
            f"was not trained on: {few([shown(name) for name in unknown])}; train on a store that has them, or name "
            "these clips in a file for --where, which leaves them out"
        )


def hold_out(videos: Sequence[str], labels: Sequence[str], share: float, salt: str = "") -> Bool[np.ndarray, " N"]:
    """Return which samples are held out: all those of about a share of the videos.

    Videos are drawn by a hash of `salt` and their name. Of a class that only held-out videos have, the one with the
    largest hash trains, so that every class is trained on; nothing is held out where each class has one video.
    """
    held = held_out_sources(videos, share, salt)
    of_class: dict[str, set[str]] = {}
    for video, label in zip(videos, labels, strict=True):
        of_class.setdefault(label, set()).add(video)
    for label in sorted(of_class):
        if of_class[label] <= held:
            held.remove(max(of_class[label], key=lambda video: (share_of(f"{salt}{video}"), video)))
    return np.fromiter((video in held for video in videos), bool, len(videos))


def shown(name: str) -> str:
    """Return a class for a message."""
    return repr(cut_short(name, MOST_LETTERS))


def _column(store: ClipStore, label: str) -> Column:
    """Return the column of labels; the error says which there are, and how one comes into a store."""
    there = {column.name: column for column in store.columns}
    column = there.get(label)
    if column is None:
        named = ", ".join(map(str, there.values()))
        raise ConfigError(
            f"{store.root} has no column {label!r}; it has {named or 'none'}. Columns come with the clips: deltactl "
            f"ingest VIDEOS --columns {label} (Kinetics brings clip.class by itself), then featurize and tokenize "
            "anew; straight from videos these two take --columns themselves"
        )
    if not column.of_clip or column.shape != () or column.dtype.startswith("float"):
        raise ConfigError(
            f"{store.root}: {column} is no label; a text or a whole number of each clip was expected, such as "
            "clip.class"
        )
    return column


def _values(store: ClipStore, column: Column) -> list[str]:
    """Return the label of each sample as text; empty where there is none."""
    samples = range(len(store))
    if column.is_text:
        return [value or "" for value in store.texts(samples)[column.name]]
    return [str(value) for value in store.start_columns(samples)()[column.name].tolist()]


def _place(name: str) -> tuple[bool, int, str]:
    number = name.lstrip("-").isdecimal() and name.isascii()
    return not number, int(name) if number else 0, name
