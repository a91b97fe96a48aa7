"""`eval` and `predict` take less at once where a GPU's memory is full, say so once, and come to the same results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluations import GOLDEN, TREES, quiet, tiny

from deltactl.cli import main
from deltactl.configs.predict import PredictConfig
from deltactl.errors import ConfigError
from deltactl.evaluate.predict.run import run_predict
from deltactl.evaluate.protocol import worker
from deltactl.evaluate.protocol.memory import AtOnce
from deltactl.evaluate.run import run as run_evaluate
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.locations import Location
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.deltaworld import DeltaWorld

CPU = torch.device("cpu")
Limit = Callable[[type[Any], str, int], list[int]]


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One cache for all of them."""
    return str(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(autouse=True)
def _cached(_home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTACTL_HOME", _home)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Give a network's method a memory that is full with more than so many items; returns what it was asked for."""

    def install(network: type[Any], method: str, most: int) -> list[int]:
        whole, asked = getattr(network, method), []

        def limited(self: Any, first: torch.Tensor, *others: Any, **more: Any) -> Any:
            items = len(first)
            if method == "rollout":
                items *= others[-1].shape[1]
            asked.append(items)
            if items > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return whole(self, first, *others, **more)

        monkeypatch.setattr(network, method, limited)
        return asked

    return install


def fullness(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "is full" in record.getMessage()]


def numbers(metrics: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(row["value"], row["loss"]) for row in metrics["rows"]]


def close(some: dict[str, Any], others: dict[str, Any]) -> None:
    for one, other in zip(numbers(some), numbers(others), strict=True):
        assert other == pytest.approx(one, rel=1e-5)


def joined(parts: Iterable[list[int]]) -> list[int]:
    return [number for part in parts for number in part]


# --- the pieces ------------------------------------------------------------------------------------------------------


def test_pieces_are_halved_where_they_do_not_fit_and_stay_so(caplog: pytest.LogCaptureFixture) -> None:
    at_once, tried = AtOnce("crops", 8, CPU), []

    def do(start: int, stop: int) -> list[int]:
        tried.append(stop - start)
        if stop - start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return list(range(start, stop))

    assert joined(at_once.pieces(10, do)) == list(range(10))
    assert tried == [8, 4, 2, 2, 2, 2, 2]
    assert fullness(caplog) == [
        "the memory of cpu is full with 8 crops at once; it goes on with 4",
        "the memory of cpu is full with 4 crops at once; it goes on with 2",
    ]
    tried.clear()
    assert joined(at_once.pieces(3, do)) == [0, 1, 2]
    assert tried == [2, 1]
    assert joined(at_once.pieces(2, do, each=5)) == [0, 1], "items that are more each than fit go one by one"


def test_one_that_does_not_fit_and_other_errors_are_raised() -> None:
    def full(start: int, stop: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def wrong(start: int, stop: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(torch.OutOfMemoryError):
        list(AtOnce("crops", 8, CPU).pieces(8, full))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(AtOnce("crops", 8, CPU).pieces(8, wrong))


# --- eval ------------------------------------------------------------------------------------------------------------


def test_an_evaluation_takes_fewer_crops_and_comes_to_the_same(limit: Limit, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny("vspw", batch_size=4, extras=False)
    whole = run_evaluate(config, quiet).metrics
    asked = limit(DeltaTok, "decode", 2)
    with caplog.at_level(logging.WARNING):
        fewer = run_evaluate(config, quiet).metrics
    assert fullness(caplog) == ["the memory of cpu is full with 4 crops at once; it goes on with 2"]
    assert asked.count(4) == 1, "tried once, and remembered"
    close(whole, fewer)
    assert fewer["clips"] == whole["clips"]


def test_an_evaluation_rolls_out_fewer_samples_and_comes_to_the_same(
    limit: Limit, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny("vspw", batch_size=1, extras=False, limit=2)
    whole = run_evaluate(config, quiet).metrics
    asked = limit(DeltaWorld, "rollout", 3)
    with caplog.at_level(logging.WARNING):
        fewer = run_evaluate(config, quiet).metrics
    assert fullness(caplog) == ["the memory of cpu is full with 5 samples at once; it goes on with 2"]
    assert asked.count(5) == 1
    close(whole, fewer)


def test_a_streamed_evaluation_takes_fewer_frames(limit: Limit, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny("vspw", cache=False, limit=1, extras=False)
    whole = run_evaluate(config, quiet).metrics
    limit(Backbone, "__call__", 3)
    with caplog.at_level(logging.WARNING):
        fewer = run_evaluate(config, quiet).metrics
    assert fullness(caplog) == ["the memory of cpu is full with 7 frames at once; it goes on with 3"]
    for one, other in zip(numbers(whole), numbers(fewer), strict=True):
        assert other == pytest.approx(one, rel=1e-2)  # float16 features, from batches that round otherwise


def test_memory_that_is_full_with_one_crop_names_what_needs_less(
    limit: Limit, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    limit(DeltaTok, "decode", 0)
    config = tiny("vspw")
    words = ["eval", "--dataset", "vspw", "--root", config.root, "--size", "64", "--samples", "5", "--device", "cpu"]
    for name in ("backbone", "tokenizer", "world"):
        words += [f"--{name}", getattr(config, name)]
    assert main([*map(str, words), "--out", str(tmp_path / "report")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "is full even for one crop of 64 px and its 5 samples" in line
    assert line.endswith("what needs less: --samples 2 (now 5), a smaller --size (now 64)")


def test_a_card_that_another_process_has_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(name: str, slot: int = 0) -> torch.device:
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might …")

    monkeypatch.setattr(worker, "device_of", taken)
    with pytest.raises(ConfigError, match="--device is cpu, and the GPU is taken by another process"):
        run_evaluate(tiny("vspw"), quiet)


# --- predict ---------------------------------------------------------------------------------------------------------


def predict(out: Path, **changes: Any) -> np.ndarray[Any, Any]:
    videos = sorted((TREES / "VSPW" / "data").iterdir())
    config = PredictConfig(
        video=str(videos[0] / "origin"),
        fps=15,
        backbone=str(GOLDEN / "backbone"),
        size=64,
        tokenizer=str(GOLDEN / "deltatok.bin"),
        world=str(GOLDEN / "deltaworld.bin"),
        samples=5,
        horizon=2,
        out=str(out),
        device="cpu",
        **changes,
    )
    with np.load(Location.of(str(run_predict(config, quiet))).path / "features.npz") as content:
        return content["futures"]


def test_a_prediction_takes_fewer_samples_and_pairs_and_comes_to_the_same(
    limit: Limit, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    whole = predict(tmp_path / "whole")
    limit(DeltaWorld, "rollout", 3)
    limit(DeltaTok, "encode", 2)
    with caplog.at_level(logging.WARNING):
        fewer = predict(tmp_path / "fewer")
    assert fullness(caplog) == [
        "the memory of cpu is full with 4 pairs of frames at once; it goes on with 2",
        "the memory of cpu is full with 5 samples at once; it goes on with 2",
    ]
    np.testing.assert_allclose(fewer.astype(np.float32), whole.astype(np.float32), atol=2e-3)


def test_a_prediction_that_does_not_fit_at_all_names_what_needs_less(limit: Limit, tmp_path: Path) -> None:
    limit(DeltaWorld, "rollout", 0)
    with pytest.raises(ConfigError, match=r"is full even for one frame of 64 px and 5 samples.*--samples 2 \(now 5\)"):
        predict(tmp_path / "out")
