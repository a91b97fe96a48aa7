"""Text in pictures: a font that has its letters, and letters that no font here has written out.

matplotlib brings DejaVu Sans, which knows Latin, Greek and Cyrillic among others. A name in another script is drawn
with a font of this machine that has all of its letters (Noto Sans CJK, say); where there is none, each letter that is
not there becomes its escape (`\\u6771`), so that a picture never shows empty boxes.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

WITHOUT_LETTERS = ("lastresort", "last resort")
"""Fonts that have a box for every letter."""


@lru_cache(maxsize=1024)
def lettering(text: str) -> tuple[str, Path]:
    """Return the text as it can be drawn, and the file of the font to draw it with."""
    text = unicodedata.normalize("NFC", text)
    needed = {ord(letter) for letter in text}
    plain = _plain()
    if needed <= _letters(plain):
        return text, plain
    for file in _fonts_here():
        if needed <= _letters(file):
            return text, file
    known = _letters(plain)
    return "".join(letter if ord(letter) in known else _escaped(letter) for letter in text), plain


def legible(text: str) -> str:
    """Return the text as it can be drawn."""
    return lettering(text)[0]


def in_figure(text: str) -> tuple[str, Path]:
    """Return the text as matplotlib can draw it, for which $ begins a formula, and the file of the font for it."""
    shown, font = lettering(text)
    return shown.replace("$", r"\$"), font


def draw_text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    pixels: int,
    anchor: str = "la",
) -> None:
    """Draw text of a size in pixels; `anchor` says, as Pillow has it, which of its points lies at the place."""
    shown, file = lettering(text)
    draw.text(place, shown, colour, _font(file, pixels), anchor=anchor)


def text_width(text: str, pixels: int) -> int:
    """Return the width of text in pixels."""
    shown, file = lettering(text)
    return round(_font(file, pixels).getlength(shown))


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii") if ord(letter) > 127 or not letter.isprintable() else letter


@lru_cache
def _plain() -> Path:
    """Return the file of DejaVu Sans."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache
def _font(file: Path, pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, pixels)


@lru_cache
def _letters(file: Path) -> frozenset[int]:
    """Return the code points that a font has a picture for; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    with contextlib.suppress(RuntimeError, OSError):
        return frozenset(FT2Font(str(file)).get_charmap())
    return frozenset()


@lru_cache
def _fonts_here() -> tuple[Path, ...]:
    """Return the other fonts of this machine, those without serifs first."""
    return tuple(sorted(_found(), key=lambda file: ("sans" not in file.name.lower(), file.name)))


def _found() -> Iterator[Path]:
    from matplotlib import font_manager

    for entry in font_manager.fontManager.ttflist:
        if not any(name in entry.name.lower() for name in WITHOUT_LETTERS):
            yield Path(entry.fname)
