"""The notebook of the tour runs from its first cell to its last, and is kept with small outputs that name no place."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"
MOST_BYTES = 1_000_000


def cells(notebook: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def kinds(notebook: dict[str, Any]) -> list[list[str]]:
    """Return what each cell printed and drew."""
    return [
        ["picture" if "image/png" in each.get("data", {}) else each["output_type"] for each in cell["outputs"]]
        for cell in cells(notebook, "code")
    ]


def printed(notebook: dict[str, Any]) -> str:
    outputs = [each for cell in cells(notebook, "code") for each in cell["outputs"]]
    return "".join("".join(each.get("text") or each["data"]["text/plain"]) for each in outputs)


def test_the_saved_outputs_are_small_whole_and_name_no_place() -> None:
    text = TOUR.read_text()
    notebook = json.loads(text)
    assert len(text) < MOST_BYTES
    assert notebook["nbformat"] == 4
    assert all(cell["execution_count"] for cell in cells(notebook, "code")), "run: make tour"
    assert sum(each.count("picture") for each in kinds(notebook)) >= 7
    said = printed(notebook)
    for secret in (str(ROOT), str(Path.home()), "/tmp", socket.gethostname(), "Traceback"):
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", said), f"an output names {secret}"


def test_every_cell_is_explained_before_it() -> None:
    before = ""
    for cell in json.loads(TOUR.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert before == "markdown"
            ast.parse("".join(cell["source"]))
        before = cell["cell_type"]


def test_pages_that_the_tour_links_to_are_there() -> None:
    text = "".join("".join(cell["source"]) for cell in cells(json.loads(TOUR.read_text()), "markdown"))
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert targets
    for target in targets:
        assert (TOUR.parent / target).exists(), target


@pytest.mark.slow
def test_the_tour_runs_and_its_networks_learn(tmp_path: Path) -> None:
    environment = {**os.environ, "JAXTYPING_DISABLE": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(ROOT / "docs" / "generate_tour.py"), "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    now, saved = json.loads(done.stdout), json.loads(TOUR.read_text())
    assert [cell["source"] for cell in now["cells"]] == [cell["source"] for cell in saved["cells"]]
    assert kinds(now) == kinds(saved), "run: make tour"
    match = re.search(r"(\d+)% of the true futures are nearer to a sample than to the last frame", printed(now))
    assert match is not None
    assert int(match[1]) >= 60
    assert list(tmp_path.iterdir()) == [], "the tour leaves nothing"
