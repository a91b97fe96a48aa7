"""The report is one page that needs nothing else, says what `metrics.json` says, and works in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluations import GOLDEN, quiet, tiny

from deltactl.evaluate.protocol.paper import paper_value
from deltactl.evaluate.report.charts import FEATURE_LOSS, best_of_k_chart, draw_chart, drift_chart, line_charts
from deltactl.evaluate.report.clip_pictures import ClipPictures, SampleRow
from deltactl.evaluate.report.page import ReportContent, report_page
from deltactl.evaluate.report.pictures import Panel, PictureRow, Sheet
from deltactl.evaluate.report.table import rows_table
from deltactl.evaluate.run import run as run_evaluate

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "img", "input", "link", "br"}
SAMPLES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The report of a whole evaluation of the tiny VSPW."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELTACTL_HOME", str(tmp_path_factory.mktemp("workspace")))
        rgb_head = str(GOLDEN / "head_rgb.bin")
        yield run_evaluate(tiny("vspw", samples=SAMPLES, pictures=2, rgb_head=rgb_head), quiet).folder.path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def synthetic(**changes: Any) -> ReportContent:
    """A page of one clip, two samples and hardly any numbers."""
    picture = np.full((4, 4, 3), 90, np.uint8)
    frames = PictureRow("frames", (picture, picture, picture), photographic=True)
    features = PictureRow("true frames", (picture, picture, picture), "features (PCA)")
    seen = Panel("what was seen", (-0.2, 0.0, 0.2), 2, (frames, features))
    future = Panel("features (PCA)", (0.2,), 0, (PictureRow("copy last", (picture,)),))
    clip = ClipPictures(
        key="a",
        sheet=Sheet("a clip", (seen, future)),
        samples=(SampleRow("features (PCA)", False, ((picture,), (picture + 1,))),),
        losses=(0.5, 0.25),
    )
    metrics = {
        **{"dataset": "vspw", "size": 64, "context": 4, "samples": 2, "seed": 0, "clips": 1, "quarantined": 0},
        "rows": [{"method": "present", "horizon": 1, "step": 1, "select": None, "value": 50.0, "loss": 0.0}],
    }
    values: dict[str, Any] = {
        "metrics": metrics,
        "configuration": {"seed": 0},
        "identity": {"weights": {"head": None}},
        "provenance": {"versions": {"deltactl": "0"}, "time": "now"},
        "clips": (clip,),
    }
    return ReportContent(**{**values, **changes})


class Outline(HTMLParser):
    """Checks that elements are closed in order, and keeps attributes and the text of some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


# --- what it holds ---------------------------------------------------------------------------------------------------


def test_a_report_has_numbers_page_and_pictures(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        *("artifact.json", "metrics.json", "picture-1.png", "picture-2.png", "quarantine.jsonl", "report.html"),
        "videos.npz",
    ]
    assert (folder / "report.html").stat().st_size < 3_000_000


def test_the_page_asks_nothing_of_a_network(page: str) -> None:
    found = outline(page)
    for tag, name, value in found.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert value.startswith(("data:image/", "#")), (tag, name, value[:80])
    assert not found.tags & {"link", "iframe", "object", "embed", "base", "form"}
    assert set(re.findall(r"https?://[^\s\"'<]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!#)", page)
    policy = next(value for tag, name, value in found.attributes if tag == "meta" and "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in policy


def test_the_table_says_what_the_metrics_say(page: str, folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    cells = [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>([^<]*)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", page)
    ]
    last = [row for row in metrics["rows"] if row["step"] == row["horizon"]]
    assert len(last) == 14
    for row in last:
        wanted = [f"{row['value']:.2f}", f"{row['loss']:.4f}"]  # of small frames, so nothing published beside them
        assert any(each[0] == str(row["horizon"]) and each[2:] == wanted for each in cells if len(each) == 4), row


def test_differences_are_given_where_the_evaluation_is_the_published_one(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    last = [row for row in metrics["rows"] if row["step"] == row["horizon"]]
    table = rows_table({**metrics, "departures": []})
    for row, cell in zip(last, table.columns[4].cells, strict=True):
        published = paper_value("vspw", row["method"], row["select"] or "", row["horizon"])
        assert cell == (f"{row['value'] - published:+.2f}" if published else "")
    assert len(rows_table(metrics).columns) == len(table.columns) - 2


def test_configuration_identity_and_provenance_are_there(page: str, folder: Path) -> None:
    header = json.loads((folder / "artifact.json").read_text())
    for fact in (
        header["identity"]["weights"]["tokenizer"],
        header["identity"]["weights"]["backbone"],
        header["provenance"]["versions"]["torch"],
        "deltaworld.bin",
    ):
        assert html.escape(fact) in page
    for private in (str(GOLDEN), header["provenance"]["host"], "command"):
        assert f">{html.escape(private)}<" not in page
    assert str(GOLDEN.parent) not in page
    for name in ("weights.backbone", "versions.deltactl", "samples", "rgb_head"):
        assert f'<th scope="row">{name}</th>' in page


def test_pictures_and_controls_have_names(page: str) -> None:
    found = outline(page)
    pictures = [value for tag, name, value in found.attributes if tag == "img" and name == "alt"]
    assert len(pictures) == sum(tag == "img" and name == "src" for tag, name, _ in found.attributes)
    assert all(pictures)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "no id is there twice"
    for tag, name, value in found.attributes:
        if name in ("for", "aria-labelledby"):
            assert value in ids, (tag, name, value)
    assert ("html", "lang", "en") in found.attributes
    labelled = [value for tag, name, value in found.attributes if tag == "svg" and name == "aria-label"]
    assert labelled == ["Differences", "Best of the first k samples", "Drift of one long rollout"]


def test_times_stand_above_the_columns_that_there_are(page: str) -> None:
    heads = re.findall(r'<table class="pictures">.*?<thead>(.*?)</thead>', page, re.DOTALL)
    seen, futures = (re.findall(r"<td[^>]*>([^<]+)</td>", head) for head in heads[:2])
    minus = "\N{MINUS SIGN}"
    assert seen == [f"{minus}0.6 s", f"{minus}0.4 s", f"{minus}0.2 s", "0 s", "+0.2 s", "+0.4 s", "+0.6 s"]
    assert futures == ["+0.2 s", "+0.4 s", "+0.6 s"], "no column for what was not predicted"


def test_names_from_outside_stay_text() -> None:
    evil = "</script><img src=x onerror=alert(1)>{{title}}"
    content = synthetic(configuration={"root": evil, evil: 1}, provenance={"versions": {"deltactl": evil}})
    clip = content.clips[0]
    panels = tuple(
        replace(panel, title=evil, rows=tuple(replace(row, label=evil, note=evil) for row in panel.rows))
        for panel in clip.sheet.panels
    )
    text = report_page(replace(content, clips=(replace(clip, sheet=replace(clip.sheet, title=evil, panels=panels)),)))
    found = outline(text)
    assert not any(name == "onerror" for _, name, _ in found.attributes)
    assert html.escape(evil) in text
    assert text.count("<script") == 2, "the page's own, and the pictures of the slider"


def test_an_evaluation_without_pictures_has_a_page_too(folder: Path) -> None:
    text = report_page(synthetic(clips=()))
    outline(text)
    assert "<section data-clip" not in text
    assert '<h2 id="charts">' not in text, "nothing to draw"


def test_pictures_of_an_earlier_evaluation_go(tmp_path: Path) -> None:
    out = tmp_path / "report"
    for pictures, there in ((2, 2), (1, 1), (0, 0)):
        config = tiny("vspw", world=None, dinoworld=None, limit=2, cache=False, pictures=pictures, out=str(out))
        run_evaluate(config, quiet)
        assert len(list(out.glob("picture-*.png"))) == there
    assert (out / "report.html").is_file()


# --- charts ----------------------------------------------------------------------------------------------------------


def test_charts_draw_the_numbers(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    chart = best_of_k_chart(metrics)
    assert list(chart.panels) == ["mIoU, %", FEATURE_LOSS]
    losses = chart.panels[FEATURE_LOSS]
    assert [line.name for line in losses] == ["1 frame ahead", "3 frames ahead"]
    wanted = [(row["k"], row["loss"]) for row in metrics["best_of_k"] if row["horizon"] == 3]
    assert list(losses[1].points) == wanted
    names = [line.name for line in drift_chart(metrics).panels[FEATURE_LOSS]]
    assert names == ["copy last", "DeltaTok", "DeltaWorld, best", "DeltaWorld, mean", "DINO-world"]
    svg = draw_chart(chart)
    outline(svg)
    assert "3 frames ahead" in svg, "text stays text"
    assert svg == draw_chart(chart)


def test_without_labels_there_is_a_chart_of_losses_alone() -> None:
    row = {"horizon": 3, "metric": None, "value": None}
    metrics = {"dataset": "kitti", "best_of_k": [{**row, "k": k, "loss": 1 / k} for k in (1, 2)], "drift": []}
    (chart,) = line_charts(metrics)
    assert list(chart.panels) == [FEATURE_LOSS]
    assert chart == best_of_k_chart(metrics)
    assert FEATURE_LOSS.startswith("feature loss")


# --- in a browser ----------------------------------------------------------------------------------------------------


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """Return what a browser makes of a page: its elements as text, and what it says on its console."""
    assert CHROMIUM is not None
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    words += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    words += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_renders_without_complaint_and_its_slider_works(page: str, folder: Path, tmp_path: Path) -> None:
    text, complaints = browse(folder / "report.html", tmp_path / "profile")
    assert complaints == []
    assert '<div class="slider">' in text, "the script shows the slider"
    # A second page moves the first clip's slider, as a hand would; the policy has to let that script in.
    moved = """
      const slider = document.querySelector("section[data-clip] input");
      slider.value = 3;
      slider.dispatchEvent(new Event("input"));
    """
    open_page = re.sub(r"script-src [^\"]*", "script-src 'unsafe-inline'", page)
    (tmp_path / "moved.html").write_text(
        open_page.replace("</body>", f"<script>{moved}</script></body>"), encoding="utf-8"
    )
    text, complaints = browse(tmp_path / "moved.html", tmp_path / "profile")
    assert complaints == []
    section = re.search(r'<section data-clip="1".*?</section>', text, re.DOTALL)
    assert section is not None
    data = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', section[0])[0])
    assert f">sample 3 (of {SAMPLES}, from 0), loss" in section[0]
    rows = re.findall(r'<tr class="sample">.*?</tr>', section[0])
    assert len(rows) == len(data["pictures"]) == 3, "components, classes, RGB"
    for row, pictures in zip(rows, data["pictures"], strict=True):
        assert re.findall(r'src="([^"]*)"', row) == pictures[3]
        assert 'alt="sample 3, step 1"' in row


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_policy_stops_a_script_that_is_not_the_pages_own(page: str, tmp_path: Path) -> None:
    (tmp_path / "evil.html").write_text(
        page.replace("</body>", "<script>document.title = 'stolen'</script></body>"), encoding="utf-8"
    )
    text, complaints = browse(tmp_path / "evil.html", tmp_path / "profile")
    assert "<title>stolen</title>" not in text
    assert any("Content Security Policy" in line for line in complaints)
