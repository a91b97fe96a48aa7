"""What a labelled data set consists of, before any file of it is read: clips that end on a labelled frame.

Each labelled set lists its tree as a `Listing`, which `ingest.evaluation` turns into shards. Listing reads the names in
folders and split files only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deltactl.errors import ConfigError, StorageError
from deltactl.locations import Location
from deltactl.progress import counted
from deltactl.reading import LIST, reason_of


@dataclass(frozen=True)
class Label:
    """The label of one frame of a clip."""

    frame: int
    """Number of the frame within the clip."""
    paths: tuple[str, ...]
    """Where its file may lie, relative to the root; the first that is there counts."""
    required: bool = True
    """Whether a clip without it is unusable."""


@dataclass(frozen=True)
class LabelledClip:
    """One clip: its frames in order, the last of which is labelled."""

    key: str
    source: str
    """Folder of the frames, relative to the root."""
    frames: tuple[str, ...]
    """Files of the frames, relative to the root."""
    indices: tuple[int, ...]
    """Number of each frame in its source; its time is this over the frames per second."""
    labels: tuple[Label, ...]
    video: str = ""
    """Name of the video that the clip is of, for clips of one video are held out together; empty: its `source`. Both
    cameras of a stereo pair are one video, since their pictures hardly differ."""
    container: str = ""
    """The video file, relative to the root, that holds the frames as those of its `indices`; empty: each frame is a
    file of its own."""

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that identifies the clip, for the hash of the sources."""
        return (self.key, *self.frames, *(path for label in self.labels for path in label.paths))


@dataclass(frozen=True)
class Unusable:
    """A source that the listing itself found unusable."""

    source: str
    reason: str
    clips_before: int
    """Clips listed before it, which tells the shard that its clips would have been in."""


@dataclass(frozen=True)
class Listing:
    """All clips of a split, in the order in which they go to shards."""

    clips: tuple[LabelledClip, ...]
    unusable: tuple[Unusable, ...] = ()


def stride(step_seconds: float, fps: float) -> int:
    """Return the step between the frames of a clip in frames, truncated as in the paper."""
    return int(step_seconds * fps)


def frames_before(frames: int, step: int, frames_per_step: int = 1) -> int:
    """Return how far before its last frame a clip begins; see `frames_until`.

    Raises:
        ConfigError: there are not so many frames between two.
    """
    if frames_per_step > step:
        raise ConfigError(
            f"a step of {frames_per_step} frames does not fit between moments {counted(step, 'frames')} apart; "
            f"{step} at most do"
        )
    return (frames - 1) * step + (frames_per_step - 1) * (step // frames_per_step)


def frames_until(last: int, frames: int, step: int, frames_per_step: int = 1) -> tuple[int, ...]:
    """Return the numbers of `frames` frames, `step` apart, that end on number `last`.

    For a backbone that makes one step of features from several frames each of them is the last of a step, whose
    frames are spread evenly over `step`: `frames` × `frames_per_step` numbers.

    Raises:
        ConfigError: there are not so many frames between two.
        ValueError: the first would be below 0.
    """
    if last < frames_before(frames, step, frames_per_step):
        steps = "" if frames_per_step == 1 else f" with the {frames_per_step - 1} before each"
        raise ValueError(f"a clip of {frames} frames, {step} apart{steps}, cannot end on frame {last}")
    ends = range(last - (frames - 1) * step, last + 1, step)
    apart = step // frames_per_step
    return tuple(end - apart * before for end in ends for before in reversed(range(frames_per_step)))


def read_lines(place: Location, what: str) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not empty, numbered from 1.

    Raises:
        ConfigError: it cannot be read; the message says `what` it should be.
    """
    try:
        text = place.read_bytes(LIST).decode("utf-8-sig")
    except StorageError as error:
        raise ConfigError(f"{error}; expected {what}") from error
    except OSError as error:
        raise ConfigError(f"{place} {reason_of(error)}; expected {what}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place} is not a text file; expected {what}") from error
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in lines if line]


def refuse_repeats(place: Location, lines: Sequence[tuple[int, str]]) -> None:
    """Refuse a split file that says the same in two lines: their clips would count twice.

    Raises:
        ConfigError: there are two such lines.
    """
    seen: dict[str, int] = {}
    for number, line in lines:
        if line in seen:
            raise ConfigError(f"{place}: line {number} repeats line {seen[line]} ({line}); remove one of them")
        seen[line] = number
