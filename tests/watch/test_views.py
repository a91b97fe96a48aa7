"""How a run is shown: in a terminal of 80 columns, in plain text, and as a page."""

from __future__ import annotations

import html.parser
import io
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from small_training import tokenizer_config

from deltactl.claims import hold
from deltactl.cli import main
from deltactl.configs.show import to_yaml
from deltactl.locations import Location
from deltactl.train.callbacks.tracking import MetricsLogger
from deltactl.watch.charts import Axis, charts_of
from deltactl.watch.page import MARK, Page, is_page
from deltactl.watch.state import Watch
from deltactl.watch.terminal import LARGE, chart_lines, view


@pytest.fixture
def run(tmp_path: Path) -> Location:
    """A stopped run with all kinds of figures, and pictures of two evaluations."""
    run = Location.of(tmp_path / "a run")
    settings = {"steps": 1000, "effective_batch": 8, "warmup_steps": 0, "log_every": 10}
    (run / "config.yaml").write_bytes(to_yaml(tokenizer_config("features", run.path, **settings), "tokenizer").encode())
    file = MetricsLogger(run / "metrics.csv")
    for step in range(10, 501, 10):
        names = ("train/lr", "train/gradient_norm", "health/copy", "health/token_rank", "train/samples_per_second")
        figures = {"train/loss": 50.0 / step, "train/waiting": 0.01, "health/z_swap": 1 + step / 900}
        file.log_metrics({**figures, **dict.fromkeys(names, 0.5 + step % 70 / 300)}, step)
        if step % 100 == 0:
            file.log_metrics({"validation/loss": 60.0 / step, "evaluation/vspw/deltatok/1/miou": step / 20}, step)
    for step, level in ((100, 50), (500, 200)):
        folder = run.path / "evaluations" / f"{step:07d}-vspw"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((60, 2000, 3), level, np.uint8)).save(folder / "picture-0.png")
    return run


def shown(run: Location, width: int = 80, rows: int | None = None, **settings: object) -> list[str]:
    """Return the lines on a console."""
    console = Console(file=io.StringIO(), width=width, **settings)  # type: ignore[arg-type]
    console.print(*view(Watch(run).look(), console, rows=rows), sep="\n")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_everything_fits_80_columns(run: Location) -> None:
    lines = shown(run)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "step 500 of 1,000, 50.0 %" in text
    assert re.search(r"health/z_swap +1\.56 +500 +above 1\.02 +ok", text)
    assert "loss  ─ train 0.1  × validation 0.12" in text
    assert "0000500-vspw/picture-0.png" in text.replace("\n", "")
    assert "\x1b" not in text, "colours, where there are none"


def test_a_chart_has_its_curve_and_marks_where_they_belong(run: Location) -> None:
    chart = charts_of(Watch(run).look().curves.by_name)[0]
    lines = [line.plain for line in chart_lines(chart, 80, LARGE, plain=False)]
    assert len(lines) == LARGE + 3
    assert lines[0].endswith("log")
    field = [line.partition("│")[2].ljust(70) for line in lines[1:-2]]
    assert field[0][:3].strip(), "50 / 10 is the greatest"
    assert field[-1][-1].strip(), "50 / 500 is the least"
    for column in range(2, 70):
        assert any(row[column].strip() for row in field), "the line has no holes"
    assert sum(row.count("×") for row in field) == 5
    assert lines[1].split("│")[0].strip() == "5"


def test_charts_take_the_rows_that_there_are(run: Location) -> None:
    for rows in (23, 30, 40, 60, 80):
        lines = shown(run, rows=rows)
        assert LARGE + 3 < len(lines) <= rows
        assert any("train 0.1 " in line for line in lines), "the loss comes first"
        assert any("healthy" in line for line in lines) == (rows >= 60), rows


def test_a_terminal_that_lacks_the_characters_gets_plain_ones(run: Location) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=file, width=80)
    console.print(*view(Watch(run).look(), console), sep="\n")
    file.flush()
    text = file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert "loss  * train 0.1  x validation 0.12" in text
    assert text.count("*") > 60


def test_the_newest_picture_is_drawn_where_there_are_colours(run: Location) -> None:
    lines = shown(run, force_terminal=True, color_system="truecolor")
    blocks = [line for line in lines if "▀" in line]
    assert blocks
    assert all(line.count("▀") == 80 and "200;200;200" in line for line in blocks)


@pytest.mark.parametrize(
    ("values", "low", "high", "is_log"),
    [([1.0, 2.0], 1, 2, False), ([0.01, 5.0], 0.01, 5, True), ([-1.0, 5.0], -1, 5, False), ([0.0], 0, 1, False)],
)
def test_axes(values: list[float], low: float, high: float, is_log: bool) -> None:
    axis = Axis.over(values)
    assert (axis.low, axis.high, axis.is_log) == (low, high, is_log)
    assert axis.place(low) == 0
    assert axis.place(high) == axis.place(high + 1) == 1
    assert axis.at(axis.place((low + high) / 2)) == pytest.approx((low + high) / 2)


# --- the page ---


class Elements(html.parser.HTMLParser):
    """Collects elements and checks that they are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_needs_nothing_else_and_asks_for_itself_again(run: Location) -> None:
    moment = Watch(run).look()
    text = Page(5).of(moment, refresh=True)
    elements = Elements(text)
    assert {"http-equiv": "refresh", "content": "5"} in elements.of("meta")
    assert elements.of("script") == elements.of("link") == []
    assert "http://" not in text
    assert "https://" not in text
    assert len(elements.of("svg")) == len(charts_of(moment.curves.by_name))
    (picture,) = elements.of("img")
    assert str(picture["src"]).startswith("data:image/png;base64,")
    assert 'content="5"' not in Page(5).of(moment, refresh=False)
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 200_000


def test_the_curve_of_the_page_runs_from_the_first_step_to_the_last(run: Location) -> None:
    text = Page(5).of(Watch(run).look(), refresh=False)
    curve = next(each["d"] for each in Elements(text).of("path") if each.get("class") == "curve")
    places = [tuple(map(float, each.split())) for each in str(curve)[1:].split("L")]
    assert len(places) == 50
    assert [place[0] for place in places] == sorted(place[0] for place in places)
    assert (places[0][1], places[-1]) == (8, (410, 168))


def test_names_do_no_harm(tmp_path: Path) -> None:
    run = Location.of(tmp_path / "<script>alert(1)<script>")
    (run / "metrics.csv").write_bytes(b"step,train/<b>x\n10,1\n20,2\n")
    text = Page(5).of(Watch(run).look(), refresh=False)
    assert "<script" not in text
    assert "<b>x" not in text
    assert "train/&lt;b&gt;x" in text


def test_a_picture_that_is_half_written_is_left_out(run: Location) -> None:
    file = run.path / "evaluations" / "0000500-vspw" / "picture-0.png"
    file.write_bytes(file.read_bytes()[:40])
    assert Elements(Page(5).of(Watch(run).look(), refresh=False)).of("img") == []
    assert not [line for line in shown(run, force_terminal=True, color_system="truecolor") if "▀" in line]


# --- the command ---


def test_a_pipe_gets_plain_text_once_though_the_run_goes_on(run: Location, capsys: pytest.CaptureFixture[str]) -> None:
    with hold(run):
        assert main(["watch", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a run: tokenizer, running\nstep 500 of 1,000, 50.0 %")
    assert "\x1b" not in out


def test_the_page_is_written_until_the_run_ends(
    run: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    refreshed = []

    def training() -> None:
        with hold(run):
            begun.set()
            while not page.exists():
                time.sleep(0.01)
            refreshed.append('http-equiv="refresh"' in page.read_text())

    begun = threading.Event()
    thread = threading.Thread(target=training)
    thread.start()
    begun.wait(60)
    assert main(["watch", str(run), "--page", str(page), "--every", "0.5"]) == 0
    thread.join()
    assert refreshed == [True]
    assert 'http-equiv="refresh"' not in page.read_text()
    assert is_page(Location.of(page))
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"page: {page}, written anew every 0.5 s until the run ends"
    assert out[1] == "a run: tokenizer, stopped; step 500 of 1,000, 50.0 %"
    assert main(["watch", str(run), "--page", str(page), "--once"]) == 0, "a page of ours is written anew unasked"


def test_another_file_is_not_overwritten_unasked(
    run: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "thesis.html"
    page.write_text("mine")
    assert main(["watch", str(run), "--page", str(page)]) == 1
    assert "nothing was removed or overwritten" in capsys.readouterr().err
    assert page.read_text() == "mine"
    assert main(["watch", str(run), "--page", str(page), "--yes"]) == 0
    assert MARK in page.read_text()


def test_what_is_no_run_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"error: {tmp_path} is no run")
