"""`deltactl compare`: reports beside each other, paired where they may be, refused where they do not compare."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import quiet, tiny

from deltactl.cli import main
from deltactl.errors import ArtifactError, ConfigError, DamagedError
from deltactl.evaluate.compare import compare
from deltactl.evaluate.protocol.figures import Figures, measures_of
from deltactl.evaluate.protocol.predictions import Row
from deltactl.evaluate.protocol.videos import VideoSums
from deltactl.evaluate.report.comparison import comparison_page, comparison_tables, cost_table
from deltactl.evaluate.run import run as run_evaluate


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three reports of the tiny KITTI: of 5 samples, of 2, and of one clip; one of Cityscapes."""
    folder, threads = tmp_path_factory.mktemp("reports"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELTACTL_HOME", str(tmp_path_factory.mktemp("workspace")))
        small: dict[str, Any] = {"extras": False, "dinoworld": None}
        run_evaluate(tiny("kitti", **small, out=str(folder / "five")), quiet)
        run_evaluate(tiny("kitti", **small, samples=2, out=str(folder / "two")), quiet)
        run_evaluate(tiny("kitti", **small, limit=1, out=str(folder / "limited")), quiet)
        run_evaluate(tiny("cityscapes", **small, out=str(folder / "other")), quiet)
    yield folder
    torch.set_num_threads(threads)


def places(folder: Path, *names: str) -> list[str]:
    return [str(folder / name) for name in names]


def changed(folder: Path, tmp_path: Path, name: str, **metrics: Any) -> Path:
    """Return a copy of a report with other entries in its metrics.json; None takes one away."""
    copy = tmp_path / f"changed-{name}"
    shutil.copytree(folder / name, copy)
    content = json.loads((copy / "metrics.json").read_text()) | metrics
    kept = {key: value for key, value in content.items() if value is not None}
    (copy / "metrics.json").write_text(json.dumps(kept))
    return copy


def test_differences_are_paired_and_those_of_the_sums(reports: Path) -> None:
    found = compare(places(reports, "five", "two"))
    assert [report.name for report in found.reports] == ["five", "two"]
    assert found.notes == ("samples differs: 5 (five), 2 (two)",)
    from deltactl.datasets.known import labelled_set

    measures = measures_of(labelled_set("kitti"), (), labelled=True)
    five, two = (
        Figures(VideoSums.from_bytes((reports / name / "videos.npz").read_bytes(), name), measures)
        for name in ("five", "two")
    )
    row = Row("rows", "deltaworld", 3, 3, "mean")
    wanted = two.difference(row, row, five)["rmse"]
    figure = found.differences["two", (3, "deltaworld", "mean")]["rmse"]
    assert figure == wanted.to_json()
    values = [report.rows[3, "deltaworld", "mean"]["value"] for report in found.reports]
    assert figure["value"] == pytest.approx(values[1] - values[0], rel=1e-9)
    unchanged = found.differences["two", (3, "copy_last", "")]["rmse"]
    assert (unchanged["value"], unchanged["low"], unchanged["high"]) == (0, 0, 0)


def test_a_report_compared_with_its_copy_is_the_same_whatever_the_order_of_videos(
    reports: Path, tmp_path: Path
) -> None:
    copy = changed(reports, tmp_path, "five")
    sums = VideoSums.from_bytes((copy / "videos.npz").read_bytes(), "videos.npz")
    (copy / "videos.npz").write_bytes(sums.of_videos(sums.videos[::-1]).to_bytes())
    found = compare([str(reports / "five"), str(copy)])
    for figures in found.differences.values():
        for figure in figures.values():
            assert (figure["value"], figure["low"], figure["high"]) == pytest.approx((0, 0, 0), abs=1e-9)


def test_reports_of_other_clips_stand_beside_each_other_without_differences(reports: Path) -> None:
    found = compare(places(reports, "five", "limited"))
    assert not found.differences
    assert "limited is of other clips (1) than five (3): no difference of both is told" in found.notes
    (table,) = comparison_tables(found)
    assert table.row_count == 10


def test_a_report_of_an_earlier_version_has_its_values(reports: Path, tmp_path: Path) -> None:
    gone = dict.fromkeys(
        ("measures", "differences", "per_class", "videos", "seeds", "frames", "clips_sha256", "networks")
    )
    rows = json.loads((reports / "five" / "metrics.json").read_text())["rows"]
    plain = [{name: value for name, value in row.items() if name != "figures"} for row in rows]
    old = changed(reports, tmp_path, "five", rows=plain, **gone)
    (old / "videos.npz").unlink()
    for order in ([str(old), str(reports / "five")], [str(reports / "five"), str(old)]):
        found = compare(order)
        assert not found.differences
        assert any("has no videos.npz, as an earlier version made it" in note for note in found.notes)
        assert not any("differs" in note for note in found.notes), "what could not be chosen is as it was"
        assert next(iter(comparison_tables(found))).row_count == 10
    assert compare([str(old), str(reports / "five")]).measures[0]["name"] == "rmse"


def test_other_backbones_leave_distances_out(reports: Path, tmp_path: Path) -> None:
    copy = changed(reports, tmp_path, "two")
    header = (copy / "artifact.json").read_text()
    weights = json.loads(header)["identity"]["weights"]["backbone"]
    from deltactl.artifacts import seal

    content = json.loads(header.replace(weights, "0" * 64))
    content.pop("seal", None)
    content.pop("sha256", None)
    (copy / "artifact.json").write_text(json.dumps(seal(content)))
    found = compare([str(reports / "five"), str(copy)])
    assert [measure["name"] for measure in found.measures] == ["rmse", "abs_rel", "delta1"]
    assert all(figures.keys() <= {"rmse", "abs_rel", "delta1"} for figures in found.differences.values())
    assert "the backbones differ" in found.notes[0]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("five",), ConfigError, "1 report is named; expected two at least"),
        (("five", "five"), ConfigError, "is named twice"),
        (("five", "other"), ConfigError, "different data sets do not compare"),
        (("five", "nothing"), ArtifactError, "is not a report: it has no metrics.json"),
    ],
)
def test_what_does_not_compare_is_refused(
    reports: Path, names: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compare(places(reports, *names))


def test_damage_is_named(reports: Path, tmp_path: Path) -> None:
    copy = changed(reports, tmp_path, "two", rows=[{"method": "present"}])
    with pytest.raises(DamagedError, match=r"metrics\.json is not what deltactl eval writes: a row is"):
        compare([str(reports / "five"), str(copy)])
    shutil.copy(reports / "two" / "metrics.json", copy)
    (copy / "videos.npz").write_bytes(b"PK")
    with pytest.raises(DamagedError, match=r"videos\.npz"):
        compare([str(reports / "five"), str(copy)])


def test_recipes_are_ranked_by_what_they_cost(reports: Path, tmp_path: Path) -> None:
    assert cost_table(compare(places(reports, "five", "two"))).row_count == 0, "published weights do not say"

    def costing(name: str, hours: float | None) -> str:
        each = {"device_hours": hours, "device": "NVIDIA H200", "devices": 8}
        return str(changed(reports, tmp_path, name, networks={"tokenizer": each, "world": each}))

    dear, cheap = costing("five", 600.0), costing("two", 1.25)
    table = cost_table(compare([dear, cheap]))
    assert list(table.columns[0].cells) == ["changed-two", "changed-five"]
    assert list(table.columns[1].cells) == ["2.5", "1,200"]
    assert set(table.columns[2].cells) == {"NVIDIA H200"}
    shown = list(table.columns[3].cells)
    value = compare([dear, cheap]).reports[1].rows[1, "deltaworld", "best"]["value"]
    assert shown[0].startswith(f"{value:.2f} [")


def test_the_command_prints_tables_json_and_a_page(
    reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "comparison.html"
    assert main(["compare", *places(reports, "five", "two"), "--page", str(page)]) == 0
    output = capsys.readouterr().out
    assert "less five, with paired 95 % intervals" in output
    text = page.read_text(encoding="utf-8")
    assert text == comparison_page(compare(places(reports, "five", "two")))
    assert 'aria-label="Differences"' in text
    assert "<script" not in text
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert main(["compare", *places(reports, "five", "two"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in content["reports"]] == ["five", "two"]
    assert len(content["differences"]) == 10
    assert content["differences"][0].keys() == {"report", "minus", "horizon", "method", "select", "figures"}
    assert main(["compare", *places(reports, "five", "other")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
