"""Cityscapes: `leftImg8bit_sequence/SPLIT/CITY/*.png`, `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`, 16 frames a second.

A file is named CITY_SEQUENCE_FRAME_…; each labelled frame ends a clip of frames of its sequence, and is the only
labelled one in it. A sequence with frames and no label at all is reported as such.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from deltactl.datasets.listing import Label, LabelledClip, Listing, Unusable, frames_until, stride
from deltactl.datasets.record import LabelledSet, PaperFigures
from deltactl.errors import ConfigError
from deltactl.ingest.shards.labels import IGNORED
from deltactl.locations import Location

FPS = 16.0
STEP_SECONDS = 0.1875
LAYOUT = (
    "the Cityscapes root, with leftImg8bit_sequence and gtFine (leftImg8bit_sequence_trainvaltest.zip and "
    "gtFine_trainvaltest.zip from cityscapes-dataset.com)"
)
NAME = re.compile(r"(?P<city>[^/]+)_(?P<sequence>\d{6})_(?P<frame>\d{6})_(?P<kind>[^.]+)\.png")
SEQUENCES, STILLS = "leftImg8bit_sequence", "leftImg8bit"

# The official label ids in the order of their train ids, 0 to 18 (github.com/mcordts/cityscapesScripts,
# helpers/labels.py); the others are ignored.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
"""By class id."""
MOVABLE = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
"""Those of its owners' categories human and vehicle."""


def list_clips(
    root: Location,
    *,
    split: Literal["train", "val"] = "val",
    split_file: Location | None = None,
    frames: int = 7,
    frames_per_step: int = 1,
) -> Listing:
    """Return the clips of a split.

    Clips of a single frame (for training heads) need only `leftImg8bit`, the labelled frames without their sequences.

    Raises:
        ConfigError: the tree is not Cityscapes, or a split file is named.
    """
    if split_file is not None:
        raise ConfigError(f"--split-file is {split_file}, but cityscapes has its split in folders; leave it out")
    labels_folder = root / "gtFine" / split
    folder = SEQUENCES if frames * frames_per_step > 1 or (root / SEQUENCES / split).exists() else STILLS
    for place in (labels_folder, root / folder / split):
        if not place.exists():
            raise ConfigError(f"{place} is missing; expected {LAYOUT}")
    clips: list[LabelledClip] = []
    unusable: list[Unusable] = []
    cities = sorted({*labels_folder.list(), *(root / folder / split).list()})
    for city in cities:
        source = f"{folder}/{split}/{city}"
        labelled = _named((labels_folder / city).list(), "gtFine_labelIds")
        for match in labelled:
            sequence = f"{match['city']}_{match['sequence']}"
            key = f"{sequence}_{match['frame']}"
            try:
                indices = frames_until(int(match["frame"]), frames, stride(STEP_SECONDS, FPS), frames_per_step)
            except ValueError as error:
                unusable.append(Unusable(f"gtFine/{split}/{city}/{match[0]}", str(error), len(clips)))
                continue
            paths = tuple(f"{source}/{sequence}_{index:06}_leftImg8bit.png" for index in indices)
            label = Label(len(indices) - 1, (f"gtFine/{split}/{city}/{match[0]}",))
            clips.append(LabelledClip(key, source, paths, indices, (label,), video=sequence))
        with_label = {match["sequence"] for match in labelled}
        sequences = {match["sequence"] for match in _named((root / source).list(), "leftImg8bit")}
        unusable += [
            Unusable(f"{source}/{city}_{sequence}", f"no label in gtFine/{split}/{city}", len(clips))
            for sequence in sorted(sequences - with_label)
        ]
    return Listing(tuple(clips), tuple(unusable))


def _named(names: list[str], kind: str) -> list[re.Match[str]]:
    matches = (NAME.fullmatch(name) for name in names if not name.startswith("."))
    return [match for match in matches if match and match["kind"] == kind]


def class_ids(label: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Return the train ids, 0 to 18, of official label ids, or 255 where the pixel is ignored."""
    table = np.full(256, IGNORED, np.uint8)
    table[list(LABEL_IDS)] = np.arange(len(LABEL_IDS))
    return np.asarray(table[label])


CITYSCAPES = LabelledSet(
    name="cityscapes",
    title="Cityscapes",
    split="val",
    listing=list_clips,
    fps=FPS,
    task="segmentation",
    label="mask",
    target=class_ids,
    classes=len(NAMES),
    movable=tuple(map(NAMES.index, MOVABLE)),
    class_names=lambda root: NAMES,  # noqa: ARG005
    paper=PaperFigures(
        {
            ("present", "", 1): 70.5,
            ("present", "", 3): 70.5,
            ("deltatok", "", 1): 69.6,
            ("deltatok", "", 3): 67.9,
            ("copy_last", "", 1): 53.5,
            ("copy_last", "", 3): 39.6,
            ("deltaworld", "best", 1): 66.2,
            ("deltaworld", "mean", 1): 64.2,
            ("deltaworld", "best", 3): 55.3,
            ("deltaworld", "mean", 3): 49.5,
        },
        least_clips=500,
    ),
)
