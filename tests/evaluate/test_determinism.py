"""An evaluation gives the same numbers however it is run: batches, processes, order, limits, kills."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import GOLDEN, ROOTS, quiet, tiny
from hypothesis import given
from hypothesis import strategies as st

from deltactl.artifacts import Quarantined
from deltactl.configs.evaluate import EvaluateConfig
from deltactl.evaluate.clips import sources as clips_module
from deltactl.evaluate.clips.sources import ClipTask
from deltactl.evaluate.protocol.futures import clip_generator, draw_queries
from deltactl.evaluate.protocol.tally import Tally
from deltactl.evaluate.protocol.worker import Loader, TaskResult, evaluate_task
from deltactl.evaluate.run import Totals
from deltactl.evaluate.run import run as run_evaluate
from deltactl.featurize.store.reader import FeatureStore
from deltactl.progress import Summary


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As many threads in this process as each of two others has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def cached(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for the tests that do not mind finding it full."""
    monkeypatch.setenv("DELTACTL_HOME", home)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    return run_evaluate(config, quiet).metrics


def close(first: Any, second: Any, relative: float, absolute: float = 0.0) -> bool:
    """Whether two JSON values are equal but for the rounding of their numbers.

    Differences of rows round as the rows do, whose numbers are about ten.
    """
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            close(first[key], second[key], relative, 10 * relative if key == "differences" else absolute)
            for key in first
        )
    if isinstance(first, list):
        return len(first) == len(second) and all(
            close(one, two, relative, absolute) for one, two in zip(first, second, strict=True)
        )
    if isinstance(first, float):
        return bool(first == pytest.approx(second, rel=relative, abs=absolute or None))
    return bool(first == second)


# --- the draws of a clip ---------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), key=st.text(max_size=20), view=st.integers(0, 1), horizon=st.integers(1, 6))
def test_the_first_samples_are_the_same_whatever_their_number(seed: int, key: str, view: int, horizon: int) -> None:
    few, many = (
        draw_queries(seed=seed, key=key, view=view, samples=samples, horizon=horizon, width=64) for samples in (3, 8)
    )
    assert torch.equal(few, many[:3])


def test_clips_views_seeds_and_horizons_draw_their_own() -> None:
    places: list[dict[str, Any]] = [
        {"seed": 0, "key": "a", "view": 0, "horizon": 1},
        {"seed": 1, "key": "a", "view": 0, "horizon": 1},
        {"seed": 0, "key": "b", "view": 0, "horizon": 1},
        {"seed": 0, "key": "a", "view": 1, "horizon": 1},
        {"seed": 0, "key": "a", "view": 0, "horizon": 2},
    ]
    first = [draw_queries(**place, samples=1, width=64)[0, 0] for place in places]
    assert len({tuple(each.tolist()) for each in first}) == len(places)


def test_queries_are_noise_of_the_published_size() -> None:
    queries = draw_queries(seed=0, key="a", view=0, samples=50, horizon=3, width=768)
    assert queries.shape == (50, 3, 768)
    assert queries.std().item() == pytest.approx(0.02, rel=0.01)
    assert abs(queries.mean().item()) < 3e-4


def test_purposes_do_not_share_draws() -> None:
    one, other = (torch.randn(8, generator=clip_generator(0, "a", 0, purpose)) for purpose in ("futures", "noise"))
    assert not torch.equal(one, other)


# --- how it is run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["vspw", "kitti"])
def test_batches_of_one_and_four_give_the_same(dataset: str, cached: None) -> None:
    one, four = (evaluate(tiny(dataset, batch_size=size)) for size in (1, 4))
    # Matrix products round differently in other batches; in float32 that is the seventh digit.
    assert close(one, four, relative=2e-6)


def test_one_and_two_processes_give_the_same(cached: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips_module, "CLIPS_IN_A_TASK", 1)
    alone, together = (evaluate(tiny("vspw", workers=workers)) for workers in (0, 2))
    assert alone == together


def test_two_runs_from_nothing_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for name in ("first", "second"):
        monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / name))
        report = run_evaluate(tiny("cityscapes"), quiet)
        written.append((report.folder / "metrics.json").read_bytes())
    assert written[0] == written[1]


def test_streaming_gives_what_the_cache_gives(cached: None) -> None:
    kept, streamed = (evaluate(tiny("kitti", cache=cache)) for cache in (True, False))
    # The backbone sees other batches, so that float16 features may round the other way.
    assert close(kept, streamed, relative=1e-3)
    assert kept["clips"] == streamed["clips"] == 3


def test_features_in_bfloat16_have_a_cache_of_their_own_and_are_streamed_alike(cached: None, home: str) -> None:
    kept, streamed = (evaluate(tiny("kitti", dtype="bfloat16", cache=cache)) for cache in (True, False))
    assert close(kept, streamed, relative=1e-2)
    assert close(kept, evaluate(tiny("kitti")), relative=0.1)
    (own,) = Path(home, "features").glob("*-bfloat16")
    with FeatureStore.open(str(own)) as store:
        assert store.dtype == torch.bfloat16


def test_another_seed_gives_other_futures(cached: None) -> None:
    first, second = (evaluate(tiny("cityscapes", seed=seed, extras=False)) for seed in (0, 1))
    differ = {row["method"] for row, other in zip(first["rows"], second["rows"], strict=True) if row != other}
    assert differ == {"deltaworld"}


def losses_of(config: EvaluateConfig, task: ClipTask) -> Tally:
    from deltactl.evaluate.clips.cache import Cache
    from deltactl.evaluate.protocol.networks import Networks, read_networks

    cache = Cache.plan_of(config, patches=16, dim=128)
    cache.fill(quiet)
    loader = Loader(config, cache, True, 128, Networks.load(read_networks(config, 128)))
    return evaluate_task(loader.load(0), task, config).tally


def test_limit_and_order_do_not_change_a_clips_futures(cached: None) -> None:
    config = tiny("kitti")
    whole = losses_of(config, ClipTask("000000", 0, 3))
    for number in (2, 0, 1):
        alone = losses_of(config, ClipTask("000000", number, number + 1))
        for row, losses in whole.losses.items():
            assert losses[2 * number : 2 * number + 2] == alone.losses[row]
    limited = evaluate(tiny("kitti", limit=2))
    assert limited["clips"] == 2
    row = next(row for row in whole.losses if (row.table, row.method, row.select) == ("rows", "deltaworld", "best"))
    found = next(each for each in limited["rows"] if (each["method"], each["select"]) == ("deltaworld", "best"))
    assert found["loss"] == pytest.approx(sum(whole.losses[row][:4]) / 2, rel=1e-12)


@given(st.permutations(range(6)))
def test_results_are_added_in_the_order_of_the_plan(arrival: list[int]) -> None:
    tasks = [ClipTask("000000", number, number + 1) for number in range(6)]
    added: list[str] = []
    totals = Totals(tasks, 1.0, Summary(unit="clips"))
    for number in arrival:
        entry = Quarantined(f"clip {number}", "damaged", "000000")
        totals.add(TaskResult(tasks[number], Tally(clips=1), (entry,)))
        added = [each.source for each in totals.quarantined]
        assert added == [f"clip {position}" for position in range(len(added))]
    assert (len(added), totals.tally.clips) == (6, 6)


# --- killed ----------------------------------------------------------------------------------------------------------


def command(*options: str) -> list[str]:
    return [
        sys.executable, "-c", "import sys; from deltactl.cli import main; sys.exit(main())",
        "eval", "--dataset", "vspw", "--root", str(ROOTS["vspw"]), "--backbone", str(GOLDEN / "backbone"),
        "--size", "64", "--tokenizer", str(GOLDEN / "deltatok.bin"), "--world", str(GOLDEN / "deltaworld.bin"),
        "--head", str(GOLDEN / "head_vspw.bin"), "--samples", "2", "--device", "cpu", "--pictures", "0", *options,
    ]  # fmt: skip


def run(home: Path, *options: str, kill_after: float | None = None) -> float:
    """Run the command, kill it after so many seconds or let it end; return how long it took."""
    import time

    environment = {**os.environ, "DELTACTL_HOME": str(home), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    process = subprocess.Popen(
        command(*options), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, error = process.communicate(timeout=kill_after)
        assert process.returncode == 0, error.decode()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return time.monotonic() - began


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again_it_gives_the_same(tmp_path: Path) -> None:
    seconds = run(tmp_path / "whole", "--out", str(tmp_path / "whole-report"))
    moments = random.Random(5)
    killed = tmp_path / "killed"
    for _ in range(3):
        run(killed, "--out", str(tmp_path / "killed-report"), kill_after=moments.uniform(0.4, 1.0) * seconds)
    run(killed, "--out", str(tmp_path / "killed-report"))
    whole, resumed = (
        json.loads((tmp_path / f"{name}-report" / "metrics.json").read_text()) for name in ("whole", "killed")
    )
    assert whole == resumed


def test_what_was_cached_is_kept_and_what_is_missing_is_made(home: str, cached: None) -> None:
    config = tiny("cityscapes", extras=False, world=None, dinoworld=None)
    before = evaluate(config)
    view = Path(home) / "features" / "cityscapes-val-backbone-64" / "v001"
    kept = Path(home) / "features" / "cityscapes-val-backbone-64" / "v000" / "000000" / "zarr.json"
    stamp = kept.stat().st_mtime_ns
    shutil.rmtree(view / "000000")
    (view.parent / "index.json").unlink()
    assert evaluate(config) == before
    assert kept.stat().st_mtime_ns == stamp


# --- where it is run -------------------------------------------------------------------------------------------------


def test_bfloat16_networks_give_nearly_the_same(cached: None) -> None:
    exact, rounded = (evaluate(tiny("kitti", precision=precision)) for precision in ("float32", "bfloat16"))
    for one, other in zip(exact["rows"], rounded["rows"], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.02), one
        assert other["value"] == pytest.approx(one["value"], rel=0.02), one
    assert exact["rows"] != rounded["rows"]


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = []
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / device))
        metrics.append(evaluate(tiny("kitti", device=device, precision="float32")))
    assert close(*metrics, relative=1e-3)
