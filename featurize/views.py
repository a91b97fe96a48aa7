"""Views: the one crop-and-flip of a whole clip that its features show, a pure function of (seed, key, view number).

Three kinds. `augment` is a random crop, perhaps mirrored, as `Augmentation` says; by default the published one (arXiv
2604.04913): 0.6 to 1.0 of the area, aspect ratio 3/4 to 4/3 (times that of the frames it becomes, where these are no
squares), mirrored with probability 1/2. Its views are numbered without end. `square` is the evaluation protocol: view 0
is the first square crop of the stored frame, view 1 the second, which a square frame does not have. `whole` is all of
the frame, which has one view: how rectangles are evaluated.

Draws come from BLAKE2 of seed, view and key, not from a library's generator, so that a view is the same crop on any
machine, with any version, in any order.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deltactl.artifacts import UNWRITTEN, Identity, written
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.shared import AugmentationConfig
from deltactl.configs.values import check_area, check_aspect, parse_range, range_text
from deltactl.errors import ConfigError, DamagedError
from deltactl.ingest.shards.geometry import Box, square_crops, whole_frame

Crops = Literal["augment", "square", "whole"]

TRIES = 10
FIXED_VIEWS: Mapping[Crops, int] = {"square": 2, "whole": 1}
"""How many views there are of crops that draw nothing."""
SHOWN: Mapping[Crops, str] = {"augment": "random ones", "square": "square ones", "whole": "whole frames"}
"""What crops of a kind are, in messages."""


def evaluated(size: FrameSize) -> Crops:
    """Return the crops of labelled frames at a size: square ones, or whole frames where it is no square."""
    return "square" if size.square else "whole"


def crops_of(identity: Identity) -> Crops:
    """Return the crops of a store.

    Raises:
        DamagedError: its identity names others than there are.
    """
    kinds: Mapping[str, Crops] = {kind: kind for kind in SHOWN}
    if (found := identity.text("crops")) not in kinds:
        raise DamagedError(
            f"{identity.file} is damaged: identity.crops is {found!r}; expected augment, square or whole"
        )
    return kinds[found]


@dataclass(frozen=True)
class Augmentation:
    """What random views are drawn from; by default as published."""

    area: tuple[float, float] = (0.6, 1.0)
    """Least and largest share of the frame's area."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest ratio of width to height; drawn log-uniformly."""
    flip: float = 0.5
    """Probability of a mirrored view."""

    @classmethod
    def of(cls, config: AugmentationConfig) -> Augmentation:
        """Return what settings say."""
        return cls(parse_range(config.crop_area), parse_range(config.aspect), config.flip)

    @classmethod
    def of_identity(cls, identity: Identity) -> Augmentation:
        """Return what a store of random views was made with.

        Raises:
            DamagedError: its identity does not say so.
        """
        said = {name: identity.values.get(name, UNWRITTEN[name]) for name in SETTINGS}
        try:
            return cls(
                parse_range(check_area(said["crop_area"])),
                parse_range(check_aspect(said["aspect"])),
                float(said["flip"]),
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise DamagedError(f"{identity.file} is damaged: its identity says {said}") from error

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that `of` reads."""
        return {"crop_area": range_text(self.area), "aspect": range_text(self.aspect), "flip": self.flip}

    @property
    def identity(self) -> dict[str, Any]:
        """What stands in an identity: the settings that are not as published."""
        return written(**self.settings)


SETTINGS = tuple(AugmentationConfig.model_fields)
"""Names of the settings of random views."""
PUBLISHED = Augmentation()


@dataclass(frozen=True)
class View:
    """What one view shows of a clip's frames."""

    crop: Box
    flip: bool

    @property
    def of_cut(self) -> View:
        """The same view of frames that were cut to its crop."""
        return View(Box(0, 0, self.crop.height, self.crop.width), self.flip)


def view_of_clip(
    crops: Crops,
    seed: int,
    key: str,
    view: int,
    height: int,
    width: int,
    augmentation: Augmentation = PUBLISHED,
    target: float = 1.0,
) -> View | None:
    """Return the view of a clip whose stored frames are `height` × `width` pixels; None where it has no such view.

    `target` is the width of what a random crop becomes, over its height.
    """
    if crops == "augment":
        return training_view(seed, key, view, height, width, augmentation, target)
    boxes = square_crops(height, width) if crops == "square" else (whole_frame(height, width),)
    return View(boxes[view], False) if view < len(boxes) else None


def training_view(
    seed: int,
    key: str,
    view: int,
    height: int,
    width: int,
    augmentation: Augmentation = PUBLISHED,
    target: float = 1.0,
) -> View:
    """Draw a crop and a flip; the aspect ratio is relative to that of the `target`, its width over its height.

    A frame so long that no crop fits in ten tries gives its largest centre crop of an allowed aspect.
    """
    draws = _uniform(f"{seed}/{view}/{key}")
    (least, most), (narrow, wide) = augmentation.area, augmentation.aspect
    flip = next(draws) < augmentation.flip
    for _ in range(TRIES):
        area = height * width * (least + (most - least) * next(draws))
        low, high = math.log(narrow), math.log(wide)
        aspect = target * math.exp(low + (high - low) * next(draws))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= crop_width <= width and 1 <= crop_height <= height:
            top = math.floor(next(draws) * (height - crop_height + 1))
            left = math.floor(next(draws) * (width - crop_width + 1))
            return View(Box(top, left, crop_height, crop_width), flip)
    crop_width = min(width, max(1, round(height * target * wide)))
    crop_height = min(height, max(1, round(width / (target * narrow))))
    return View(Box((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width), flip)


def parse_views(text: str) -> range:
    """Return the views that `N` (the first N) or `A:B` (A up to, not including, B) names.

    Raises:
        ConfigError: the text is something else, or names no view.
    """
    match = re.fullmatch(r"(?:([0-9]{1,3}):)?([0-9]{1,3})", text)
    views = range(int(match[1] or 0), int(match[2])) if match else range(0)
    if not views:
        raise ConfigError(f"views are {text!r}; expected a number from 1 to 999, or A:B with A < B, such as 16:32")
    return views


def parse_view_numbers(text: str) -> tuple[int, ...]:
    """Return the views that a list of numbers and ranges names, such as `2`, `0:4` (0 to 3) or `0,3`; in order.

    Unlike `parse_views` a single number is that view, not so many of them.

    Raises:
        ConfigError: the text is something else.
    """
    views: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,3})(?::([0-9]{1,3}))?", part.strip())
        found = range(int(match[1]), int(match[2] or int(match[1]) + 1)) if match else range(0)
        if not found:
            raise ConfigError(
                f"views are {text!r}; expected numbers of views: one (2), a range (0:4), or several (0,3)"
            )
        views.update(found)
    return tuple(sorted(views))


def listed_views(views: Iterable[int]) -> str:
    """Return `view 2`, `views 0, 1` or `no views`."""
    numbers = [str(view) for view in views]
    return f"view{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}" if numbers else "no views"


def _uniform(name: str) -> Iterator[float]:
    """Yield numbers from [0, 1), 53 bits each, that depend on nothing but the name."""
    counter = 0
    while True:
        digest = hashlib.blake2b(f"{counter}/{name}".encode(), digest_size=64).digest()
        for start in range(0, len(digest), 8):
            yield (int.from_bytes(digest[start : start + 8], "little") >> 11) / 2**53
        counter += 1
