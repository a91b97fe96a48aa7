"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?P<mark><!-- tested: runs offline -->\n)?```(?P<kind>sh|python)\n(?P<text>.*?)```", re.DOTALL)


def blocks(page: Path, kind: str, *, marked: bool = False) -> list[str]:
    """Return the fenced blocks of a kind; with `marked` those that say that they are tested."""
    found = BLOCK.finditer(page.read_text())
    return [match["text"] for match in found if match["kind"] == kind and (match["mark"] or not marked)]
