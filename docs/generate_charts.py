"""Draws the charts of the documentation from the tables in it: python docs/generate_charts.py."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent
COLOURS = {"1": "#d55e00", "4": "#e69f00", "16": "#009e73", "live": "#0072b2"}


def repetition() -> dict[str, list[float]]:
    """Return held-out losses by the number of views, and the steps they were measured at, under an empty name."""
    section = (DOCS / "benchmarks.md").read_text().partition("## What repetition costs")[2]
    head, _, *rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    steps = [float(re.sub(r"\D", "", cell)) for cell in head[1:]]
    return {"": steps, **{row[0]: [float(cell) for cell in row[1:]] for row in rows}}


def draw() -> None:
    """Write `repetition.svg`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "deltactl", "svg.fonttype": "none", "font.size": 10})
    table = repetition()
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, losses in table.items():
        if name:
            label = "live: a new crop at every visit" if name == "live" else f"{name} view{'s' if name != '1' else ''}"
            axes.plot(table[""], losses, marker="o", markersize=4, label=label, color=COLOURS[name])
    axes.set(xlabel="step", ylabel="held-out loss of the tokenizer", ylim=(0.1, 0.19), xticks=table[""])
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(DOCS / "repetition.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw()
