"""`deltactl eval` from the command line: what it makes, says, prints and leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluations import DATASETS, GOLDEN, ROOTS, SPLIT_FILE

from deltactl.artifacts import read_header
from deltactl.cli import main
from deltactl.configs.frame_size import FrameSize
from deltactl.evaluate.protocol.paper import ComparedSettings, paper_value
from deltactl.evaluate.report.table import rows_table
from deltactl.locations import Location

TINY = ["--backbone", str(GOLDEN / "backbone"), "--size", "64", "--device", "cpu", "--pictures", "0"]
NETWORKS = [
    "--tokenizer", str(GOLDEN / "deltatok.bin"),
    "--world", str(GOLDEN / "deltaworld.bin"),
    "--dinoworld", str(GOLDEN / "dinoworld.bin"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _roots(monkeypatch: pytest.MonkeyPatch) -> None:
    for dataset in DATASETS:
        monkeypatch.setenv(f"{dataset.upper()}_ROOT", str(ROOTS[dataset]))
        monkeypatch.setenv(f"{dataset.upper()}_HEAD_PATH", str(GOLDEN / f"head_{dataset}.bin"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def metrics_in(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


def report_in(home: Path) -> Path:
    (report,) = [path for path in (home / "reports").iterdir() if not path.name.startswith(".")]
    return report


def test_with_a_root_and_a_head_alone_it_makes_everything(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--dataset", "vspw", *TINY]) == 0
    output, said = capsys.readouterr()
    assert (home / "shards" / "vspw-val-64" / "index.json").is_file()
    assert (home / "features" / "vspw-val-backbone-64" / "index.json").is_file()
    assert "present" in output
    assert "published" not in output.partition("not the published evaluation")[0], "five small clips compare to nothing"
    assert "the cache takes up to" in said.splitlines()[3]
    for name in ("--tokenizer: the rows of DeltaTok", "--tokenizer and --world", "--dinoworld"):
        assert f"no {name}" in said
    metrics = metrics_in(report_in(home))
    assert {row["method"] for row in metrics["rows"]} == {"present", "copy_last"}
    assert metrics["clips"] == 5


def test_a_second_call_reuses_the_cache(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--dataset", "cityscapes", *TINY]) == 0
    files = [path for part in ("shards", "features") for path in (home / part).rglob("*.tar")]
    files += (home / "features").rglob("zarr.json")
    stamps = {path: path.stat().st_mtime_ns for path in files}
    capsys.readouterr()
    assert main(["eval", "--dataset", "cityscapes", *TINY]) == 0
    _, said = capsys.readouterr()
    assert "cache takes" not in said
    assert "featurize:" not in said
    assert {path: path.stat().st_mtime_ns for path in files} == stamps


def test_the_metrics_have_the_documented_form(tmp_path: Path) -> None:
    out = tmp_path / "report"
    options = ["--samples", "3", "--seed", "7", "--horizons", "3,1", "--context", "3", "--out", str(out)]
    assert main(["eval", "--dataset", "kitti", "--split-file", str(SPLIT_FILE), *TINY, *NETWORKS, *options]) == 0
    metrics = metrics_in(out)
    head = {key: metrics[key] for key in ("dataset", "size", "context", "samples", "seed", "clips", "quarantined")}
    assert head == {
        "dataset": "kitti", "size": 64, "context": 3, "samples": 3, "seed": 7, "clips": 3, "quarantined": 0
    }  # fmt: skip
    for row in metrics["rows"]:
        assert row.keys() == {"method", "horizon", "step", "select", "metric", "value", "loss", "figures"}
        assert row["metric"] == "rmse"
        assert 0 <= row["loss"] < 10 < 1000 > row["value"] > 0
    named = [(row["method"], row["horizon"], row["step"], row["select"]) for row in metrics["rows"]]
    steps = [(horizon, step) for horizon in (1, 3) for step in range(1, horizon + 1)]
    selects = {"deltaworld": ("best", "mean"), "noise_null": ("best",)}
    assert sorted(named, key=str) == sorted(
        (
            (method, *at, select)
            for method in ("present", "copy_last", "deltatok", "deltaworld", "dinoworld", "noise_null")
            for at in steps
            for select in selects.get(method, (None,))
        ),
        key=str,
    )
    assert [(row["horizon"], row["k"]) for row in metrics["best_of_k"]] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert [(row["horizon"], row["step"]) for row in metrics["diversity"]] == steps
    assert max(row["step"] for row in metrics["drift"] if row["method"] == "deltaworld") == 4


def test_a_report_says_what_it_was_made_from(home: Path) -> None:
    assert main(["eval", "--dataset", "cityscapes", *TINY, *NETWORKS, "--samples", "2"]) == 0
    header = read_header(Location.of(report_in(home)))
    assert header.identity.kind == "report"
    weights = header.identity.values["weights"]
    assert weights.keys() == {"backbone", "tokenizer", "world", "dinoworld", "head"}
    assert all(len(digest) == 64 for digest in weights.values())
    assert header.identity.values["samples"] == 2
    assert "torch" in header.provenance["versions"]


def test_other_weights_or_settings_make_another_report(home: Path) -> None:
    for options in (["--seed", "1"], ["--seed", "2"], ["--seed", "2"]):
        assert main(["eval", "--dataset", "cityscapes", *TINY, *NETWORKS, "--samples", "2", *options]) == 0
    assert len([path for path in (home / "reports").iterdir() if not path.name.startswith(".")]) == 2


def test_a_report_replaces_an_earlier_one_and_nothing_else(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = ["eval", "--dataset", "cityscapes", *TINY, "--out"]
    for _ in range(2):
        assert main([*evaluate, str(tmp_path / "report")]) == 0
    (shards,) = (path for path in (home / "shards").iterdir() if not path.name.startswith("."))
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    for place in (shards, tmp_path):
        capsys.readouterr()
        assert main([*evaluate, str(place)]) != 0
        assert f"error: {place} holds something other than a report; choose another --out" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def test_no_cache_keeps_nothing_but_the_report(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--dataset", "cityscapes", *TINY, "--no-cache"]) == 0
    assert not (home / "shards").exists()
    assert not (home / "features").exists()
    assert metrics_in(report_in(home))["clips"] == 2
    assert "cache" not in capsys.readouterr().err


def test_a_limit_without_a_cache_streams_and_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--dataset", "vspw", *TINY, "--limit", "2"]) == 0
    assert metrics_in(report_in(home))["clips"] == 2
    assert "the first 2 clips are streamed" in capsys.readouterr().err
    assert not (home / "features").exists()


def test_what_does_not_fit_on_the_disk_is_refused_before_work_begins(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Location, "free_bytes", lambda self: 200_000)
    assert main(["eval", "--dataset", "vspw", *TINY]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: the cache of vspw at 64 px takes up to 700 kB")
    assert "--no-cache" in last
    assert not (home / "shards").exists()


def test_without_a_head_there_are_losses_alone(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CITYSCAPES_HEAD_PATH")
    assert main(["eval", "--dataset", "cityscapes", *TINY]) == 0
    rows = metrics_in(report_in(home))["rows"]
    assert {(row["metric"], row["value"]) for row in rows} == {(None, None)}
    assert all(row["loss"] is not None for row in rows)
    assert "no --head (nor CITYSCAPES_HEAD_PATH)" in capsys.readouterr().err


def test_parallel_encoding_changes_reconstructions_after_the_first(tmp_path: Path) -> None:
    losses = {}
    for encoding in ("sequential", "parallel"):
        options = ["--tokenizer", str(GOLDEN / "deltatok.bin"), "--encoding", encoding, "--out", str(tmp_path), "--yes"]
        assert main(["eval", "--dataset", "cityscapes", *TINY, *options]) == 0
        losses[encoding] = {
            (row["horizon"], row["step"]): row["loss"]
            for row in metrics_in(tmp_path)["rows"]
            if row["method"] == "deltatok"
        }
    sequential, parallel = losses["sequential"], losses["parallel"]
    same = {at for at in sequential if sequential[at] == pytest.approx(parallel[at], rel=1e-6)}
    assert same == {(1, 1), (3, 1)}


WHOLE = ComparedSettings(
    "vspw", FrameSize.of(512), 4, 20, "sequential", 1000, 0, 768, {"head": (), "tokenizer": (), "world": ()}
)


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"clips": 1}, "1 clip, where VSPW has at least 343"),
        ({"dataset": "cityscapes", "clips": 499}, "499 clips, where Cityscapes has at least 500"),
        ({"quarantined": 2}, "2 clips could not be used"),
        ({"networks": {"tokenizer": ()}}, "no head, so there are no values of the metric"),
        ({"size": FrameSize.of(256)}, "256 px (published: 512)"),
        ({"size": FrameSize(266, 518)}, "whole frames at 266x518 px (published: square crops of 512 px)"),
        ({"context": 2}, "2 frames of context (published: 4)"),
        ({"samples": 1}, "1 sample (published: 20)"),
        ({"encoding": "parallel"}, "parallel encoding (published: sequential)"),
        ({"backbone_width": 384}, "features of width 384 (published: 768, of DINOv3 ViT-B)"),
        ({"backbone_choice": "layers [6]"}, "features of layers [6] (published: the last layer, normed)"),
        ({"backbone_family": "toy"}, "a backbone of the family toy (published: dinov3)"),
        ({"networks": {"head": (), "world": ("depth 2 (published: 12)",)}}, "another world: depth 2 (published: 12)"),
    ],
)
def test_numbers_of_another_evaluation_do_not_stand_beside_the_papers(changes: dict[str, Any], phrase: str) -> None:
    assert WHOLE.departures() == []
    departures = replace(WHOLE, **changes).departures()
    assert departures == [phrase]
    row = {"method": "present", "horizon": 1, "step": 1, "select": None, "value": 60.0, "loss": 0.0}
    metrics = {"dataset": "vspw", "clips": 1000, "size": 512, "context": 4, "rows": [row]}

    def columns(**more: Any) -> list[str]:
        return [str(column.header) for column in rows_table({**metrics, **more}).columns]

    beside = ["published", "difference"]
    assert [name for name in columns(departures=[]) if name in beside] == beside
    assert [name for name in columns(departures=departures, against="paper") if name in beside] == beside
    assert not set(beside) & set(columns(departures=departures))
    assert phrase in str(rows_table({**metrics, "departures": departures}).caption)
    assert "--against paper" in str(rows_table({**metrics, "departures": departures}).caption)
    assert not set(beside) & set(columns()), "an evaluation that does not say how it was made compares to nothing"


def test_the_comparison_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert main(["eval", "--dataset", "vspw", *TINY, "--against", "paper", "--out", str(out)]) == 0
    assert "58.40" in capsys.readouterr().out
    metrics = metrics_in(out)
    assert metrics["against"] == "paper"
    assert "5 clips, where VSPW has at least 343" in metrics["departures"]
    assert "64 px (published: 512)" in metrics["departures"]
    others = ["--backbone", f"{GOLDEN / 'backbone'}?layers=1", "--out", str(tmp_path / "layers")]
    assert main(["eval", "--dataset", "vspw", *TINY, *others]) == 0
    assert "features of layers [1] (published: the last layer, normed)" in metrics_in(tmp_path / "layers")["departures"]


def test_published_numbers_are_those_of_the_paper() -> None:
    assert paper_value("vspw", "deltaworld", "best", 3) == 51.5
    assert paper_value("kitti", "deltaworld", "mean", 1) == 3.32
    assert paper_value("cityscapes", "present", "", 3) == 70.5
    assert paper_value("vspw", "dinoworld", "", 1) is None
