"""A data set told in a file: where frames and labels are, which clips there are, and what the labels mean.

`deltactl eval`, `train head` and `ingest` take such a file in place of a name: `--dataset FILE.yaml`. This is what it
may say; `datasets.told` makes a record of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from deltactl.configs.base import Config, parse
from deltactl.configs.clips import Split
from deltactl.configs.show import values_to_yaml
from deltactl.configs.values import File, Place, Size
from deltactl.configs.yaml_text import read_yaml_mapping
from deltactl.errors import ConfigError, StorageError
from deltactl.locations import Location
from deltactl.reading import SETTINGS, reason_of
from deltactl.registry import DATASETS, NETWORKS

STAGE = "dataset"
"""What the line `stage:` of such a file says, if it has one."""
FIELD = re.compile(r"\{([^{}]*)\}|\*")
"""A part of a pattern that is not to be taken as it stands."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
LARGEST_ID = 254
"""Of a class; 255 are pixels that do not count."""


def check_pattern(text: str, needed: tuple[str, ...], known: tuple[str, ...]) -> str:
    """Return a pattern of paths as it is.

    Raises:
        ValueError: it lacks a field that is needed, has one that is not known, or leads out of the root.
    """
    fields = [match[1] for match in FIELD.finditer(text) if match[1] is not None]
    shown = " and ".join(f"{{{name}}}" for name in needed)
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {{{near[0]}}}?" if near else f"known: {', '.join(f'{{{each}}}' for each in known)}"
            raise ValueError(f"expected a pattern without {{{name}}}; {hint}")
    if missing := [name for name in needed if name not in fields]:
        raise ValueError(f"expected a pattern with {shown}; it lacks {{{missing[0]}}}")
    if re.search(r"[}*][{*]", text):
        raise ValueError("expected something between two fields of the pattern, to tell where the first ends")
    for part in text.split("/"):
        inside = [match[1] for match in FIELD.finditer(part) if match[1] is not None]
        if twice := next((name for name in inside if inside.count(name) > 1), None):
            raise ValueError(f"expected {{{twice}}} once in a name; {part} has it twice")
    if text.startswith("/") or "://" in text or any(part in ("", ".", "..") for part in text.split("/")):
        raise ValueError("expected a path below the root, such as frames/{video}/{frame}.png")
    return text


def _frame_pattern(text: str) -> str:
    return check_pattern(text, ("video", "frame"), ("video", "frame", "split"))


def _video_pattern(text: str) -> str:
    return check_pattern(text, ("video",), ("video", "split"))


def _check_name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError("expected 1 to 40 small letters, digits, - and _, the first a letter or digit")
    return name


def _as_tuple(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_names(value: Any) -> Any:
    """Return names for as many classes as are asked for, and names as they are."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= LARGEST_ID + 1:
            raise ValueError(f"expected names, or how many there are, 1 to {LARGEST_ID + 1}")
        return numbered_classes(value)
    return tuple(value) if isinstance(value, list) else value


def numbered_classes(count: int) -> tuple[str, ...]:
    """Return names of classes that have none."""
    return tuple(f"class {number}" for number in range(count))


FramePattern = Annotated[str, AfterValidator(_frame_pattern)]
VideoPattern = Annotated[str, AfterValidator(_video_pattern)]
StoredId = Annotated[int, Field(ge=0, le=255)]
ClassName = Annotated[str, Field(min_length=1, max_length=100)]
Level = Annotated[int, Field(ge=0, le=255)]


class SplitConfig(Config):
    """Which videos are in a split: those that a file lists, or those whose names are like one of some patterns."""

    file: File | None = None
    """File, below the root, that lists the videos of the split, one a line."""

    videos: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Names of videos, in which * stands for any letters."""

    @model_validator(mode="after")
    def _one_of_both(self) -> SplitConfig:
        if (self.file is None) == (not self.videos):
            raise ValueError(
                "a split has either file (a list of videos) or videos (names with *); expected one of both"
            )
        return self


class DatasetConfig(Config):
    """Everything that a file tells of a data set."""

    name: Annotated[str, AfterValidator(_check_name)]
    """What the data set is called in messages, reports and the names of folders: small letters, digits, - and _."""

    title: str | None = None
    """How its owners write it. None is the name."""

    root: Place = "."
    """The folder that all else lies in, relative to this file; --root (of ingest: SOURCE) names another. What is made
    from the data does not depend on it."""

    frames: FramePattern | None = None
    """Where pictures of frames are, JPEG or PNG, below the root. {video} and {frame} stand for their names, {split} for
    train or val, * for any letters; {video} may well be a part of a file's name."""

    videos: VideoPattern | None = None
    """Where videos are, in place of frames; their frames count from first_number."""

    labels: FramePattern | None = None
    """Where label pictures are: PNG of one channel (or with a palette) of 8 bits for classes, of 16 bits for depth, as
    large as their frames."""

    splits: dict[Split, SplitConfig] = Field(default_factory=dict)
    """The videos of train (for training a head) and val (for evaluating). With {split} in the patterns it may be left
    out: each split then has all videos that are there."""

    numbers: Literal["names", "order"] = "names"
    """What numbers a frame: its name, which is a number (names), or its place among the sorted names of frames and
    labels, from 0 (order). Its time is that number over fps."""

    first_number: int = Field(default=0, ge=0)
    """Number that the name of a label has for the first frame of a video file."""

    fps: Annotated[float, Field(gt=0, le=1000)]
    """Frames a second."""

    step_seconds: Annotated[float, Field(gt=0)]
    """Seconds between two frames of a clip; truncated to whole frames."""

    clip_every: Annotated[int, Field(ge=1)] | None = None
    """Clips end on every N-th frame; None: on every labelled frame."""

    clip_first: Annotated[int, Field(ge=0)] | None = None
    """Number of the first frame that a clip may end on. None is N - 1, or 0 where clips end on labelled frames."""

    labelled: Literal["some", "all"] = "some"
    """Which frames of a clip must have a label: some (only the last, and others may) or all. A clip without one that
    it must have is quarantined."""

    task: Literal["segmentation", "depth", "none"]
    """What the labels are for: classes of pixels, depth, or none (then there are feature losses and pictures only)."""

    classes: Annotated[tuple[ClassName, ...], BeforeValidator(_as_names)] = ()
    """Names of the classes, in the order of their ids from 0; or how many there are."""

    movable: tuple[ClassName, ...] = ()
    """Those of the classes that move by themselves, such as people and vehicles; they get a mean of their own."""

    colours: dict[str, tuple[Level, Level, Level]] = Field(default_factory=dict)
    """Colours of classes in pictures, red, green and blue from 0 to 255. Classes without one share a grey; with none at
    all, colours are chosen clip by clip."""

    ids: dict[Annotated[int, Field(ge=0, le=255)], int] = Field(default_factory=dict)
    """Class id of each stored value, where these differ."""

    ignore: Annotated[tuple[StoredId, ...], BeforeValidator(_as_tuple)] = (255,)
    """Stored values of pixels that do not count."""

    other_ids: Literal["refuse", "ignore"] = "refuse"
    """What becomes of a label with other stored values: its clip is quarantined, or those pixels do not count."""

    depth_scale: Annotated[float, Field(gt=0)] | None = None
    """Stored units of a metre; 0 is not measured."""

    depth_range: tuple[float, float] | None = None
    """Metres between which depth counts. None: all above 0."""

    frame_size: Size | None = None
    """Height and width of all frames, HxW. A clip with other frames is quarantined. None: any."""

    @model_validator(mode="after")
    def _agrees(self) -> DatasetConfig:
        for said in (_places, _labels, _classes, _depth):
            if fault := said(self):
                raise ValueError(fault)
        return self


def _places(told: DatasetConfig) -> str | None:
    if told.name in (*DATASETS.names(), *NETWORKS.names()):
        return f"name is {told.name}, which deltactl or a plug-in uses itself; expected another one"
    if (told.frames is None) == (told.videos is None):
        both = "neither is there" if told.frames is None else "both are there"
        return f"expected either frames (pictures) or videos (files), and {both}"
    if told.videos is not None and told.numbers == "order":
        return "numbers is order, but frames of video files have numbers; leave it out"
    if told.frames is not None and told.first_number:
        return f"first_number is {told.first_number}, but that is for video files; leave it out"
    patterned = "{split}" in (told.frames or told.videos or "")
    if not told.splits and not patterned:
        return "splits is missing; expected it, or {split} in the pattern of frames or videos"
    if int(told.step_seconds * told.fps) < 1:
        return f"step_seconds is {told.step_seconds:g}, less than a frame at {told.fps:g} fps; expected 1 / fps or more"
    return None


def _labels(told: DatasetConfig) -> str | None:
    if told.task == "none" and told.labels is not None:
        return "task is none, but labels are told; leave them out, or say segmentation or depth"
    if told.task != "none" and told.labels is None:
        return f"task is {told.task}, but labels is missing; expected a pattern such as labels/{{video}}/{{frame}}.png"
    if told.task == "none" and told.clip_every is None:
        return "clip_every is missing; a set without labels needs it, since no labelled frame tells where a clip ends"
    if told.task == "none" and told.labelled == "all":
        return "labelled is all, but task is none; leave it out"
    return None


def _classes(told: DatasetConfig) -> str | None:
    if told.task != "segmentation":
        return _told_in_vain(told, ("classes", "movable", "colours", "ids", "ignore", "other_ids"))
    count = len(told.classes)
    if not 1 <= count <= LARGEST_ID + 1:
        return f"classes has {count} names; expected 1 to {LARGEST_ID + 1}"
    if repeated := {name for name in told.classes if told.classes.count(name) > 1}:
        return f"classes has {sorted(repeated)[0]!r} twice; expected every name once"
    if unknown := sorted(told.colours.keys() - set(told.classes)):
        return f"colours has {unknown[0]!r}, which is none of the classes"
    if unknown := sorted(set(told.movable) - set(told.classes)):
        return f"movable has {unknown[0]!r}, which is none of the classes"
    if wrong := next(((stored, each) for stored, each in told.ids.items() if not 0 <= each < count), None):
        return f"ids maps {wrong[0]} to {wrong[1]}; expected class ids from 0 to {count - 1}"
    stored_ids = told.ids or dict.fromkeys(range(count))
    default = told.ignore == (255,)
    if both := sorted(set(told.ignore) & stored_ids.keys()):
        hint = "give ignore another value" if default else "remove it from one of them"
        return f"ignore has {both[0]}, which is also the stored value of a class; {hint}"
    return None


def _told_in_vain(told: DatasetConfig, names: tuple[str, ...]) -> str | None:
    """Return that one of these settings is not at its default, though the task has no use for it."""
    usual = DatasetConfig.model_fields
    name = next(
        (each for each in names if getattr(told, each) != usual[each].get_default(call_default_factory=True)), None
    )
    return f"{name} is told, but task is {told.task}; leave it out" if name else None


def _depth(told: DatasetConfig) -> str | None:
    if told.task != "depth":
        return _told_in_vain(told, ("depth_scale", "depth_range"))
    if told.depth_scale is None:
        return "depth_scale is missing; expected the stored units of a metre, such as 256 (KITTI) or 1000 (millimetres)"
    if told.depth_range is not None and not 0 <= told.depth_range[0] < told.depth_range[1]:
        low, high = told.depth_range
        return f"depth_range is {low:g} to {high:g} m; expected two numbers of metres, the first the smaller"
    return None


def read_dataset(content: bytes, place: str) -> DatasetConfig:
    """Return what the bytes of a file tell.

    Raises:
        ConfigError: they are no such file; one line names the file, the field and what was expected.
    """
    values = read_yaml_mapping(content, place)
    values.pop("summary", None)
    if (stage := values.pop("stage", STAGE)) != STAGE:
        raise ConfigError(f"{place} is for {stage!r}; expected a data set (stage: {STAGE}), see config show {STAGE}")
    try:
        return parse(DatasetConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}; `deltactl config show {STAGE}` explains every setting") from error


def read_dataset_bytes(place: Location) -> bytes:
    """Return the bytes of a file that tells a data set.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    expected = f"expected a file that tells a data set, such as `deltactl config show {STAGE}` prints"
    try:
        return place.read_bytes(SETTINGS)
    except StorageError as error:
        raise ConfigError(f"{error}; {expected}") from error
    except OSError as error:
        raise ConfigError(f"{place} {reason_of(error)}; {expected}") from error


def example() -> str:
    """Return a file that tells of a data set, with what each setting is: what `deltactl config show dataset` prints."""
    values = DatasetConfig.model_validate(EXAMPLE).model_dump(mode="json")
    return values_to_yaml(values, DatasetConfig, STAGE, "An example; whatever stands at its default may be left out.")


EXAMPLE: Mapping[str, Any] = {
    "name": "streets",
    "title": "My streets",
    "frames": "frames/{video}/{frame}.png",
    "labels": "masks/{video}/{frame}.png",
    "splits": {"train": {"file": "train.txt"}, "val": {"videos": ["test_*"]}},
    "fps": 15.0,
    "step_seconds": 0.2,
    "task": "segmentation",
    "classes": ["road", "car", "sky"],
    "movable": ["car"],
    "colours": {"road": [128, 64, 128], "car": [0, 0, 142], "sky": [70, 130, 180]},
}
"""What `example` tells; all else stands at its default."""
