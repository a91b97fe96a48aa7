"""The benchmark of a GPU runs in small on a CPU, and its lines become the table of docs/benchmarks.md."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from programs import printed

ROOT = Path(__file__).parents[2]
BENCHMARKS, PAGE, KEPT = ROOT / "benchmarks", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "gpu.jsonl"
STAMP = {"card": "NVIDIA H200", "date": "2026-12-01", "commit": "abc1234", "command": "benchmarks/gpu.py"}
TRAINED = {"precision": "bf16-mixed", "compiled": True}


@pytest.mark.parametrize(("device", "expected"), [("cuda", 0.02), ("cpu", 0.0)])
def test_steps_on_a_gpu_are_timed_to_the_end_of_their_kernels(
    device: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "train", raising=False)
    import torch

    from train import Clock

    queued = 0.0
    waits = []

    def synchronize() -> None:
        nonlocal queued
        waits.append(trainer.global_step)
        time.sleep(queued)
        queued = 0.0

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)),
        train_dataloader=SimpleNamespace(waited_seconds=0.0),
        global_step=0,
    )
    clock = Clock(warm_up=4, steps=10)
    clock.on_fit_start(trainer, SimpleNamespace())  # type: ignore[arg-type]
    for step in range(1, 16):
        trainer.global_step = step
        trainer.train_dataloader.waited_seconds += 0.001
        queued += 0.02  # what a step's kernels take; its launches take nothing
        clock.on_train_batch_end(trainer)  # type: ignore[arg-type]
    wall, _ = clock.step
    assert wall == pytest.approx(expected, abs=0.01)
    assert waits == ([4, 14] if device == "cuda" else []), "nothing is waited for in between"
    if device == "cuda":
        assert clock.waiting == pytest.approx(0.001 / 0.02, rel=0.3)
        assert clock.launching < 0.01


@pytest.fixture
def gpu_table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_table

    return gpu_table


def smoke(*arguments: str) -> list[dict[str, Any]]:
    """Run the benchmark in small and return its lines."""
    lines = printed(BENCHMARKS / "gpu.py", "--smoke", *arguments, timeout=300)
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.slow
def test_sections_run_in_small(tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    lines = smoke("clip", "backbone", "featurize", "world", "live", "--out", str(out))
    assert not [line for line in lines if "failed" in line]
    assert [json.loads(line) for line in out.read_text().splitlines()] == lines
    found = {(line["section"], line["what"]): line for line in lines}
    assert found["backbone", "compiled"]["frames_per_second"] > 0
    assert found["featurize", "opencv"]["frames_per_second"] > 0
    for key in (
        ("clip", "tokenizer, as auto trains it"),
        ("world", "from tokens, batch 32"),
        ("live", "live, batch 32"),
    ):
        assert found[key]["ms_per_sample"] > 0
        assert 0 <= found[key]["waiting"] < 1
    for line in lines:
        assert line["card"] == "none"
        assert all(line[name] for name in ("date", "commit", "command"))


def test_a_section_that_does_not_fit_is_skipped_and_says_so() -> None:
    (line,) = smoke("backbone", "--seconds", "5")
    assert line["what"] == "skipped"
    assert "s are left; it takes about" in line["skipped"]


def line(section: str, what: str, **figures: Any) -> str:
    return json.dumps({"section": section, "what": what, **figures, **STAMP})


SAMPLE = (
    line("facts", "matrix", tflops=790),
    line("backbone", "compiled", frames_per_second=2011, tflops=431),
    line("world", "from tokens, batch 32", ms_per_sample=0.8512, waiting=0.0004, **TRAINED),
    line("live", "live, batch 32", ms_per_sample=12.5, **TRAINED),
    line("ddp", "deltaworld", failed="RuntimeError: no\nmore of it"),
    line("video", "skipped", skipped="3 of 600 s are left"),
)


def cells(table: str, what: str) -> list[str]:
    row = next(row for row in table.splitlines() if row.startswith(f"| {what} "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_lines_fill_the_table(gpu_table: Any) -> None:
    page = gpu_table.fill(PAGE.read_text(), gpu_table.read_lines(SAMPLE))
    assert "| measured, NVIDIA H200 |" in page
    assert cells(page, "bf16 product of 8192³")[3] == "790 TFLOP/s"
    assert cells(page, "backbone, compiled")[3] == "2,011 frames/s"
    assert cells(page, "its share of the matrix rate")[3] == "55 %"
    assert cells(page, "world model from tokens, a clip, batch 32")[3] == "0.8512 ms"
    assert cells(page, "world model from tokens, a clip, batch 128")[3] == ""
    assert cells(page, "tokens over live, both at the published batch of 32")[3] == "14.7 ×"
    assert "NVIDIA H200, 2026-12-01, commit abc1234: `python benchmarks/gpu.py`" in page
    assert "- failed: ddp, deltaworld: RuntimeError: no\n" in page
    assert "- skipped for want of time: video" in page
    again = gpu_table.fill(page, gpu_table.read_lines(SAMPLE))
    assert again == page, "filling twice changes nothing"
    assert gpu_table.fill(page, gpu_table.read_lines(KEPT.read_text().splitlines() if KEPT.exists() else [])) == (
        PAGE.read_text()
    ), "the rest of the page stays as it is"


def test_the_last_run_of_a_section_counts(gpu_table: Any) -> None:
    first = [line("facts", "failed", failed="RuntimeError: busy"), line("facts", "took", seconds=1)]
    second = [line("facts", "matrix", tflops=770), line("facts", "took", seconds=1)]
    table = gpu_table.table(gpu_table.read_lines([*first, *second, line("facts", "skipped", skipped="no time")]))
    assert "busy" not in table
    assert cells(table, "bf16 product of 8192³")[3] == "770 TFLOP/s"


@pytest.mark.parametrize("change", [{"precision": "32-true"}, {"compiled": False}, {"commit": "other"}])
def test_unlike_runs_make_no_ratio(gpu_table: Any, change: dict[str, Any]) -> None:
    cached = line("world", "from tokens, batch 32", ms_per_sample=1.0, **TRAINED)
    live = json.dumps({**json.loads(line("live", "live, batch 32", ms_per_sample=12.5, **TRAINED)), **change})
    table = gpu_table.table(gpu_table.read_lines([cached, live]))
    assert cells(table, "tokens over live, both at the published batch of 32")[3] == ""


def test_tries_on_a_cpu_are_left_out_and_other_lines_refused(gpu_table: Any) -> None:
    tried = json.dumps({**json.loads(SAMPLE[0]), "card": "none"})
    assert gpu_table.read_lines([tried, ""]) == []
    with pytest.raises(ValueError, match="line 2 is no result of gpu.py"):
        gpu_table.read_lines([SAMPLE[0], '{"section": "facts"}'])
    with pytest.raises(ValueError, match="the page has no place for the table"):
        gpu_table.fill("# A page\n", [])
