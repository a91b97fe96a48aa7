"""Colours of labels and numbers in pictures, which the colour-blind can tell apart.

Takes class ids, metres or any non-negative amounts, returns uint8 RGB pictures of the same size. Classes get Okabe and
Ito's palette (jfly.uni-koeln.de/color), the most frequent first; dark lines along their borders part neighbours of one
colour. Numbers get cividis (Nuñez et al., 2018), which runs from dark blue to bright yellow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from deltactl.ingest.shards.labels import IGNORED

Colour = tuple[int, int, int]
Picture = UInt8[np.ndarray, "_ _ 3"]
"""RGB of any size."""

PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (86, 180, 233),  # sky blue
    (213, 94, 0),  # vermillion
    (240, 228, 66),  # yellow
    (0, 0, 0),
)
OTHERS: Colour = (190, 190, 190)
"""Classes beyond the palette."""
NOTHING: Colour = (255, 255, 255)
"""Pixels without a label."""
BORDER: Colour = (40, 40, 40)

NEAREST_METRES, FARTHEST_METRES = 1.0, 80.0
"""What depth is shown from bright to dark, in equal steps of its logarithm."""


@dataclass(frozen=True)
class LegendEntry:
    """A colour and what it stands for."""

    name: str
    colour: Colour


UNLABELLED = LegendEntry("no label", NOTHING)


@dataclass(frozen=True)
class ClassColours:
    """Which class has which colour in the pictures of a clip."""

    dataset: str
    classes: tuple[int, ...]
    """Those with a colour of their own, in the order of the palette."""
    names: tuple[str, ...] = ()
    """Of the classes by id, as far as they are known; the others are shown by number."""
    palette: tuple[Colour, ...] = PALETTE
    """The colours of `classes`, or more."""
    others: bool = False
    """Whether there are classes beyond those of a palette of one's own."""

    @classmethod
    def of(
        cls,
        dataset: str,
        maps: Iterable[UInt8[np.ndarray, "..."]],
        names: tuple[str, ...] = (),
        own: Sequence[Colour | None] = (),
    ) -> ClassColours:
        """Return the colours for maps of class ids: the classes that fill most pixels come first.

        `own` are the colours that the data set gives its classes by id, None for one without; empty: those of the
        palette are taken.
        """
        counts = np.zeros(256, np.int64)
        for each in maps:
            counts += np.bincount(each.ravel(), minlength=256)
        counts[IGNORED] = 0
        order = np.argsort(-counts, kind="stable")
        if own:
            there = [int(number) for number in order if counts[number]]
            coloured = {number: colour for number in there if number < len(own) and (colour := own[number]) is not None}
            return cls(dataset, tuple(coloured), names, tuple(coloured.values()), others=len(coloured) < len(there))
        return cls(dataset, tuple(int(number) for number in order[: len(PALETTE)] if counts[number]), names)

    def paint(self, ids: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
        """Return the picture of a map of class ids, 255 for unlabelled."""
        table = np.tile(np.array(OTHERS, np.uint8), (256, 1))
        table[IGNORED] = NOTHING
        for number, colour in zip(self.classes, self.palette, strict=False):
            table[number] = colour
        painted = np.asarray(table[ids])
        painted[_borders(ids)] = BORDER
        return painted

    def legend(self) -> tuple[LegendEntry, ...]:
        """Return what the colours stand for."""
        own = zip(self.classes, self.palette, strict=False)
        known = dict(enumerate(self.names))
        entries = [LegendEntry(known.get(number, f"class {number}"), colour) for number, colour in own]
        if self.others or (self.palette is PALETTE and len(self.classes) == len(PALETTE)):
            entries.append(LegendEntry("other classes", OTHERS))
        return tuple(entries)


def paint_depth(metres: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture of a depth map: near is bright, far is dark, 0 (not measured) white."""
    clipped = np.clip(metres, NEAREST_METRES, FARTHEST_METRES)
    share = np.log(clipped / NEAREST_METRES) / math.log(FARTHEST_METRES / NEAREST_METRES)
    painted = paint_amount(1 - share)
    painted[metres == 0] = NOTHING
    return painted


def depth_legend() -> tuple[LegendEntry, ...]:
    """Return what the colours of a depth map stand for."""
    metres = (NEAREST_METRES, 3.0, 9.0, 27.0, FARTHEST_METRES)
    colours = paint_depth(np.array([metres]))[0]
    return tuple(
        LegendEntry(f"{each:g} m", (int(red), int(green), int(blue)))
        for each, (red, green, blue) in zip(metres, colours, strict=True)
    )


def paint_amount(share: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture of amounts from 0 (dark blue) to 1 (bright yellow)."""
    import cv2  # here, since training heads comes by without painting

    levels = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS)[..., ::-1])


def _amount_entry(name: str, share: float) -> LegendEntry:
    red, green, blue = paint_amount(np.array([[share]]))[0, 0].tolist()
    return LegendEntry(name, (red, green, blue))


SPREAD_LEGEND = (
    _amount_entry("none", 0.0),
    _amount_entry("half as far", 0.5),
    _amount_entry("as far as copy last is from what comes, or farther", 1.0),
)
"""What the colours of the spread of futures stand for."""
DISAGREEMENT_LEGEND = (
    _amount_entry("all futures agree", 0.0),
    _amount_entry("half have another class", 0.5),
    _amount_entry("all differ", 1.0),
)
"""What the colours of the disagreement of futures about a class stand for."""


def _borders(ids: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels whose right or lower neighbour is of another class."""
    border = np.zeros(ids.shape, bool)
    border[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    border[:-1] |= ids[:-1] != ids[1:]
    return border
