"""Long work says how far it is, and ends with what was done and what set the pace."""

from __future__ import annotations

import pytest

from deltactl import progress
from deltactl.progress import Progress, Summary, counted, format_bytes, format_number, format_seconds


def test_a_summary_adds_up_and_names_what_set_the_pace() -> None:
    summary = Summary(unit="clips")
    summary.add(done=100, quarantined=1, bytes=2_500_000, parts={"decode": 3.0, "encode": 1.0})
    summary.add(done=20, skipped=4, parts={"decode": 3.0, "write": 0.5})
    summary.seconds = 6.0
    first, second, third = summary.lines()
    assert first == "120 clips done, 4 skipped, 1 quarantined"
    assert second == "2.5 MB in 6 s, 20 clips/s"
    assert third == "decode set the pace (decode 6 s, encode 1 s, write 0.5 s)"


def test_nothing_done_is_no_division_by_zero() -> None:
    assert Summary().lines() == ["0 clips done, 0 skipped, 0 quarantined", "0 B in 0 s, 0 clips/s"]


def test_without_a_terminal_progress_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    with Progress(100, unit="clips", label="ingest") as shown:
        for _ in range(5):
            shown.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["ingest: 30 of 100 clips, 2.5/s, 28 s left"]


def test_on_a_terminal_progress_is_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(10, label="featurize") as shown:
        shown.advance(10)
    assert "featurize" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1700e9, "1.7 TB"),
        (22e9, "22 GB"),
        (3e18, "3,000 PB"),
        (999_900, "1 MB"),
        (999.6e3, "1 MB"),
    ],
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.5, "0.5 s"), (59, "59 s"), (150, "2 min"), (11_520, "3 h 12 min"), (7200, "2 h")),
        *((316 * 3600, "13 days 4 h"), (200 * 86_400, "200 days"), (2_845_993 * 3600, "325 years")),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1100, "1,100"), (1234567.0, "1,230,000"), (12.34, "12.3"), (0.0042, "0.0042"), (9.9996, "10")],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert format_number(value) == text


def test_one_of_something_is_not_many() -> None:
    assert [counted(1, "GPUs"), counted(2, "GPUs"), counted(1200, "clips × views")] == [
        *("1 GPU", "2 GPUs", "1,200 clips × views"),
    ]
    assert counted(1, "clips × views") == "1 clip × views"
    assert [counted(1, name) for name in ("entries", "batches", "px")] == ["1 entry", "1 batch", "1 px"]


def test_fast_work_is_told_without_an_exponent() -> None:
    summary = Summary(done=5500, seconds=5.0)
    assert summary.lines()[1] == "0 B in 5 s, 1,100 clips/s"
    assert Summary(done=1).lines()[0] == "1 clip done, 0 skipped, 0 quarantined"


def test_progress_before_the_first_item_has_no_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    with Progress(100, unit="steps", label="train") as shown:
        shown.advance(0)
    assert capsys.readouterr().err == "train: 0 of 100 steps, 0/s\n"
