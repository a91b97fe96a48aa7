"""Runs the cells of `tour.ipynb` in order and saves what they print and draw in it: `make tour`.

Needs no Jupyter: a cell's value and what it prints become text, the figures that it leaves open become small PNGs. The
tour works in a folder of its own, which is removed. With `--check` nothing is saved; the notebook goes to stdout.

    python docs/generate_tour.py [--check]
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TOUR = Path(__file__).with_name("tour.ipynb")
DOTS_PER_INCH = 84
COLOURS = 192
"""Of a picture's palette; pictures are then a third as large."""


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """Run the cells of a notebook and return it with their outputs."""
    import matplotlib

    matplotlib.use("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            began = time.monotonic()
            count = sum(each["cell_type"] == "code" for each in notebook["cells"][: number + 1])
            cell = {**cell, "execution_count": count, "outputs": outputs_of("".join(cell["source"]), names, count)}
            print(f"cell {count}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        cells.append(cell)
    return {**notebook, "cells": cells}


def outputs_of(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Run a cell's source and return its outputs as a notebook has them."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {count}>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"<cell {count}>", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        outputs.append(
            {
                "output_type": "execute_result",
                "execution_count": count,
                "metadata": {},
                "data": {"text/plain": repr(value).splitlines(keepends=True)},
            }
        )
    return outputs + [
        {"output_type": "display_data", "metadata": {}, "data": {"image/png": picture, "text/plain": ["<Figure>"]}}
        for picture in pictures()
    ]


def pictures() -> list[str]:
    """Return the open figures as PNGs in base64, and close them."""
    from matplotlib import pyplot
    from PIL import Image

    found = []
    for number in pyplot.get_fignums():
        drawn, small = io.BytesIO(), io.BytesIO()
        pyplot.figure(number).savefig(drawn, dpi=DOTS_PER_INCH, bbox_inches="tight", facecolor="white")
        image = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        image.save(small, format="PNG", optimize=True)
        found.append(base64.b64encode(small.getvalue()).decode())
    pyplot.close("all")
    return found


def main(words: list[str]) -> None:
    """Run the tour in a folder that is removed afterwards."""
    before = Path.cwd()
    # Such small networks gain nothing by more threads, which wait for each other for long on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DELTACTL_HOME"] = f"{folder}/workspace"
        os.chdir(folder)
        try:
            done = run(json.loads(TOUR.read_text()))
        finally:
            os.chdir(before)
    if "--check" in words:
        json.dump(done, sys.stdout)
    else:
        TOUR.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
