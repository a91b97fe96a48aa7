"""A shortened demo keeps the demo's promises; its trees serve the four plain commands as well."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from markupsafe import escape

from deltactl.cli import main
from deltactl.demo.datasets import DemoSizes
from deltactl.demo.page import write_page
from deltactl.demo.run import DemoResult, run_demo, steps
from deltactl.demo.table import ROWS, result_lines
from deltactl.errors import DeltactlError

README = Path(__file__).parents[2] / "README.md"
SIZES = DemoSizes(videos=24, heads_videos=6, test_videos=6, drives=1, drive_frames=24)
SHORTER = ("steps=800", "validate_every=800")


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """Leave out the shape checks, which take half as long again in a training of small networks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # six minutes alone, and more where other tests share the cores
def test_a_shortened_demo_keeps_its_promises(
    shapes_unchecked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test, since one demo serves all of it."""
    monkeypatch.setenv("WANDB_MODE", "disabled")  # its service would outlive the test in this process
    root = tmp_path / "demo"
    demo = run_demo(root, main, sizes=SIZES, settings=SHORTER)
    the_tokenizer_beats_copying_and_its_token_matters(root)
    for horizon in (1, 3):
        the_best_future_beats_copying_and_noise(demo, horizon)
    samples_come_nearer_to_what_can_happen_than_the_last_frame_or_their_mean(demo)
    it_leaves_a_report_and_futures_and_the_readme_shows_its_table(demo)
    run_again_it_does_nothing_anew(demo, root)
    with pytest.raises(DeltactlError, match="holds a demo of another seed or size"):
        run_demo(root, main, seed=7, sizes=SIZES)
    the_four_plain_commands_take_its_trees(root, tmp_path, monkeypatch)


def loss(demo: DemoResult, method: str, select: str | None, horizon: int) -> float:
    """Return the feature loss of a row at the last step of a horizon."""
    wanted = (method, select, horizon, horizon)
    (row,) = (row for row in demo.rows if (row["method"], row["select"], row["horizon"], row["step"]) == wanted)
    assert isinstance(row["loss"], float)
    return row["loss"]


def the_tokenizer_beats_copying_and_its_token_matters(root: Path) -> None:
    with (root / "workspace/runs/tokenizer/metrics.csv").open() as file:
        last = [row for row in csv.DictReader(file) if row["validation/loss"]][-1]
    assert float(last["validation/copy"]) < 0.8
    assert float(last["validation/z_swap"]) > 1.2


def the_best_future_beats_copying_and_noise(demo: DemoResult, horizon: int) -> None:
    best = loss(demo, "deltaworld", "best", horizon)
    assert best < 0.95 * loss(demo, "copy_last", None, horizon)
    assert best < 0.95 * loss(demo, "noise_null", "best", horizon)


def samples_come_nearer_to_what_can_happen_than_the_last_frame_or_their_mean(demo: DemoResult) -> None:
    coverage = demo.coverage
    assert coverage.among_truths < coverage.nearest_sample < 0.95 * coverage.copy_last
    assert coverage.nearest_sample < coverage.mean_sample


def it_leaves_a_report_and_futures_and_the_readme_shows_its_table(demo: DemoResult) -> None:
    write_page(demo)
    page = demo.report.read_text()
    for text in (*result_lines(demo), "deltactl train rgb workspace/features/kinetics"):
        assert escape(text) in page, text
    assert page.count("data:image/png;base64,") == 2
    for link in re.findall(r'href="([^"]+)"', page):
        assert "<html" in (demo.report.parent / link).read_text()
    for picture in (demo.futures, demo.surprise):
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert (demo.futures.parent / "futures.gif").is_file()
    lines = result_lines(demo)
    shown = README.read_text()
    assert lines[0] in shown  # the heading of the table
    assert demo.vanished.there > demo.vanished.typical
    assert sum(seconds for _, seconds in demo.took) <= demo.seconds
    for name, _, _ in ROWS:
        assert any(line.startswith(name) for line in lines)
        assert f"\n{name:<24}" in shown


def run_again_it_does_nothing_anew(demo: DemoResult, root: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in (root / "workspace").rglob("*") if path.suffix in (".tar", ".ckpt")
    }
    assert len(before) > 5
    again = run_demo(root, main, sizes=SIZES, settings=SHORTER)
    assert again.rows == demo.rows
    assert {path: path.stat().st_mtime_ns for path in before} == before


def the_four_plain_commands_take_its_trees(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "workspace"))
    monkeypatch.setenv("KINETICS_ROOT", str(root / "data/kinetics"))
    monkeypatch.setenv("VSPW_ROOT", str(root / "data/VSPW"))
    monkeypatch.setenv("VSPW_HEAD_PATH", str(root / "workspace/runs/vspw-head"))
    few = {"steps": 4, "last_every": 4, "validate_every": 4, "warmup_steps": 1}
    recipe = tmp_path / "short.yaml"
    recipe.write_text(
        "stage: recipe\nextends: demo\nsteps:\n"
        + "".join(f"  {step}:\n    settings: {json.dumps(few)}\n" for step in ("demo-tokenizer", "demo-world"))
    )
    view = f"--backbone {root / 'data/backbone'} --size 64"
    runs = tmp_path / "workspace/runs"
    for line in (
        "ingest --size 64 --clips 2",
        f"featurize {view}",
        f"train --recipe {recipe} --yes",
        f"eval --dataset vspw {view} --tokenizer {runs}/demo-tokenizer --world {runs}/demo-world --limit 4",
    ):
        assert main(shlex.split(line)) == 0, line
    (report,) = (tmp_path / "workspace/reports").iterdir()
    rows = json.loads((report / "metrics.json").read_text())["rows"]
    assert {"present", "copy_last", "deltatok", "deltaworld"} <= {row["method"] for row in rows}


def test_every_command_that_it_runs_is_named_in_the_readme() -> None:
    text = README.read_text()
    for step in steps(0):
        words = step.arguments[: 2 if step.arguments[0] == "train" else 1]
        assert " ".join(words) in " ".join(text.split()), words
