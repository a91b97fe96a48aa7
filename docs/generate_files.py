"""Writes `docs/files.md` from the first lines of the files: python docs/generate_files.py > docs/files.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = (
    "",
    "commands",
    "configs",
    "engine",
    "datasets",
    "tasks",
    "ingest",
    "featurize",
    "tokenization",
    "train",
    "evaluate",
    "curation",
    "recipes",
    "share",
    "watch",
    "demo",
    "benchmarks",
)
"""In this order; the folders inside a room come after it."""
HEAD = """\
# The files

Made by `make docs` from the first line of each file; a test keeps it up to date. Read these first:
[`errors.py`](../errors.py), [`artifacts.py`](../artifacts.py),
[`featurize/store/reader.py`](../featurize/store/reader.py),
[`train/networks/deltatok.py`](../train/networks/deltatok.py),
[`train/networks/deltaworld.py`](../train/networks/deltaworld.py) and
[`evaluate/protocol/rows.py`](../evaluate/protocol/rows.py).
"""


def reference() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for folder in folders():
        files = [path for path in sorted(folder.glob("*.py")) if phrase(path)]
        name = "The root" if folder == ROOT else folder.relative_to(ROOT).as_posix()
        lines.append(f"## {name}\n\n| file | what it is |\n|---|---|")
        lines += [f"| [`{path.name}`](../{path.relative_to(ROOT)}) | {phrase(path)} |" for path in files]
        lines.append("")
    return "\n".join(lines)


def folders() -> Iterator[Path]:
    """Yield the rooms and what lies inside them, each with files of Python that say what they are."""
    for room in ROOMS:
        yield ROOT / room
        inner = sorted((ROOT / room).glob("*/__init__.py")) if room else []
        yield from (path.parent for path in inner if any(map(phrase, path.parent.glob("[!_]*.py"))))


def phrase(path: Path) -> str:
    """Return the first sentence of a file's docstring, as a table cell; nothing where it has none."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = " ".join(text.split("\n\n", 1)[0].split()).split(". ", 1)[0]
    return first.rstrip(".").replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
