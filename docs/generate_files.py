"""Writes `docs/files.md` from the first lines of the files: python docs/generate_files.py > docs/files.md."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("", "commands", "configs", "engine", "ingest", "featurize", "train", "evaluate", "demo", "benchmarks")
HEAD = """\
# The files

Made by `make docs` from the first line of each file; a test keeps it up to date. Read these first:
[`errors.py`](../errors.py), [`artifacts.py`](../artifacts.py), [`featurize/store.py`](../featurize/store.py),
[`train/deltatok.py`](../train/deltatok.py), [`train/deltaworld.py`](../train/deltaworld.py) and
[`evaluate/rows.py`](../evaluate/rows.py).
"""


def reference() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for room in ROOMS:
        files = [path for path in sorted((ROOT / room).glob("*.py")) if phrase(path)]
        lines.append(f"## {room or 'The root'}\n\n| file | what it is |\n|---|---|")
        lines += [f"| [`{path.name}`](../{path.relative_to(ROOT)}) | {phrase(path)} |" for path in files]
        lines.append("")
    return "\n".join(lines)


def phrase(path: Path) -> str:
    """Return the first sentence of a file's docstring, as a table cell; nothing where it has none."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = " ".join(text.split("\n\n", 1)[0].split()).split(". ", 1)[0]
    return first.rstrip(".").replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
