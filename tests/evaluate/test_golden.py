"""The whole of `deltactl eval` over the tiny trees against the reference's numbers, every one of them."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest
from evaluations import DATASETS, GOLDEN, quiet, tiny

from deltactl.evaluate.run import run as run_evaluate

pytestmark = pytest.mark.usefixtures("one_thread", "shared_cache")

REFERENCE: dict[str, dict[str, float]] = json.loads((GOLDEN / "eval.json").read_text())
EXACT = ("present", "copy_last", "deltatok", "dinoworld")
MIOU_POINTS, RELATIVE = 0.02, 5e-4
SEEDS = range(8)


@pytest.fixture(scope="module")
def evaluated() -> dict[str, dict[str, Any]]:
    """The metrics of each set, filled as tests ask for them."""
    return {}


def metrics_of(dataset: str, evaluated: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if dataset not in evaluated:
        evaluated[dataset] = run_evaluate(tiny(dataset, extras=False), quiet).metrics
    return evaluated[dataset]


def in_reference_keys(metrics: dict[str, Any], method: str) -> dict[str, float]:
    """Return the numbers of a method under the names that the reference has for them."""
    dataset = metrics["dataset"]
    kind, scale = ("depth_rmse", 1) if dataset == "kitti" else ("seg_miou", 100)
    context = 4 if method in ("copy_last", "deltaworld", "dinoworld") else 1
    numbers: dict[str, float] = {}
    steps: dict[tuple[int, str], list[float]] = {}
    for row in metrics["rows"]:
        if row["method"] == method:
            select = f"_{row['select'] or 'mean'}" if context == 4 else ""
            at = f"val_{dataset}_c{context}_h{row['horizon']}_t{row['step'] - 1}"
            numbers[f"losses/{at}{select}"] = row["loss"]
            steps.setdefault((row["horizon"], select), []).append(row["loss"])
            if row["value"] is not None:
                numbers[f"metrics/{at}_{kind}{select}"] = row["value"] / scale
    for (horizon, select), losses in steps.items():
        numbers[f"losses/val_{dataset}_c{context}_h{horizon}{select}"] = statistics.mean(losses)
    horizons = [statistics.mean(losses) for (_, select), losses in steps.items() if select != "_best"]
    numbers[f"losses/val_{dataset}"] = statistics.mean(horizons)
    return numbers


def all_numbers(method: str, evaluated: dict[str, dict[str, Any]]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for dataset in DATASETS:
        numbers |= in_reference_keys(metrics_of(dataset, evaluated), method)
    numbers["losses/val"] = statistics.mean(numbers[f"losses/val_{dataset}"] for dataset in DATASETS)
    return numbers


@pytest.mark.parametrize("method", EXACT)
def test_every_number_of_the_reference_is_met(method: str, evaluated: dict[str, dict[str, Any]]) -> None:
    found, wanted = all_numbers(method, evaluated), REFERENCE[method]
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        tolerance = MIOU_POINTS / 100 if "miou" in key else RELATIVE * value
        assert found[key] == pytest.approx(value, rel=0, abs=tolerance), key


def test_deltaworld_meets_the_reference_within_the_noise_of_its_queries() -> None:
    runs: list[dict[str, float]] = []
    for seed in SEEDS:
        of_seed = {
            dataset: run_evaluate(tiny(dataset, seed=seed, extras=False, dinoworld=None), quiet).metrics
            for dataset in DATASETS
        }
        runs.append(all_numbers("deltaworld", of_seed))
    wanted = REFERENCE["deltaworld"]
    assert runs[0].keys() == wanted.keys()
    for key, value in wanted.items():
        found = [run[key] for run in runs]
        noise = statistics.stdev(found)
        # The futures of these tiny weights differ in the fifth digit, which float16 features reach too.
        assert statistics.mean(found) == pytest.approx(value, rel=0, abs=5 * noise + 2e-5 * value), key
        assert noise < (2e-3 if "miou" in key else 3e-4 * value), key


def test_the_labelled_last_frame_is_the_present_at_every_horizon(evaluated: dict[str, dict[str, Any]]) -> None:
    present = {
        (row["horizon"], row["step"]): row["value"]
        for row in metrics_of("vspw", evaluated)["rows"]
        if row["method"] == "present"
    }
    assert present[1, 1] == present[3, 3]
    assert present[3, 1] != present[3, 2]


def test_frames_without_labels_have_no_value(evaluated: dict[str, dict[str, Any]]) -> None:
    values = {
        (row["horizon"], row["step"]): (row["metric"], row["value"] is None)
        for row in metrics_of("cityscapes", evaluated)["rows"]
        if row["method"] == "copy_last"
    }
    assert values == {(1, 1): ("miou", False), (3, 1): (None, True), (3, 2): (None, True), (3, 3): ("miou", False)}
