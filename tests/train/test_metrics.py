"""mIoU and RMSE: equal to the reference definitions, and exact however the set is divided."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from deltactl.datasets.known import labelled_set
from deltactl.errors import CheckpointError
from deltactl.tasks.depth import DEPTH, DepthErrors
from deltactl.tasks.segmentation import ClassOverlaps

METRES = st.floats(-1e3, 1e3, width=32)


def random_batch(seed: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, 9, 7, generator=generator)
    scores[:, classes // 2] -= 100  # a class that is never predicted
    target = torch.randint(0, classes - 2, (2, 9, 7), generator=generator).to(torch.uint8)
    target[torch.rand(2, 9, 7, generator=generator) < 0.2] = 255
    return scores, target


@pytest.mark.parametrize("classes", [4, 19, 124])
def test_miou_equals_torchmetrics_with_absent_classes_left_out(classes: int) -> None:
    reference = MulticlassJaccardIndex(classes, ignore_index=255, average="macro")
    matrix = ClassOverlaps.empty(classes)
    for seed in range(3):
        scores, target = random_batch(seed, classes)
        matrix += ClassOverlaps.of(scores, target)
        reference.update(scores, target.long())
    assert matrix.value() == pytest.approx(100 * float(reference.compute()), rel=1e-6)


def test_a_batch_counts_as_its_items_do_one_by_one() -> None:
    scores, target = random_batch(7, 19)
    together = ClassOverlaps.of(scores, target)
    apart = ClassOverlaps.of(scores[1:], target[1:]) + ClassOverlaps.of(scores[:1], target[:1])
    assert np.array_equal(together.sums(), apart.sums())
    wrong = int(((scores.argmax(1) != target) & (target != 255)).sum())
    assert together.union.sum() == together.intersection.sum() + 2 * wrong


def test_no_labelled_pixel_gives_no_number() -> None:
    scores, target = random_batch(0, 5)
    assert ClassOverlaps.of(scores, torch.full_like(target, 255)).value() is None
    assert DepthErrors.of(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2)).value() is None
    assert DepthErrors().value() is None


def test_a_target_of_more_classes_than_the_head_is_refused() -> None:
    with pytest.raises(ValueError, match="holds class 18, but the scores are of 4 classes"):
        ClassOverlaps.of(torch.zeros(1, 4, 1, 1), torch.tensor([[[18]]], dtype=torch.uint8))


def test_rmse_counts_only_pixels_with_depth() -> None:
    depth = torch.tensor([[[[3.0, math.nan], [10.0, 7.0]]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 6.0]]])
    assert DepthErrors.of(depth, target).value() == pytest.approx(math.sqrt((4 + 1) / 2))


def test_the_other_scores_of_depth_are_over_the_same_pixels() -> None:
    depth = torch.tensor([[[[3.0, math.nan], [10.0, 7.0]]], [[[1.2, 2.6], [0.5, -2.0]]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 6.0]], [[1.0, 2.0], [0.0, 2.0]]])
    errors = DepthErrors.of(depth, target)
    found = {score.name: float(score.of(errors.sums())[0]) for score in DEPTH.scores(labelled_set("kitti"), ())}
    assert found["rmse"] == pytest.approx(errors.value(), rel=1e-12)
    assert found["abs_rel"] == pytest.approx((2 + 1 / 6 + 0.2 + 0.3 + 2) / 5)
    assert found["delta1"] == pytest.approx(100 * 2 / 5), "7 of 6 m and 1.2 of 1 m are within a factor of 1.25"
    assert all(
        math.isnan(float(score.of(DepthErrors().sums())[0])) for score in DEPTH.scores(labelled_set("kitti"), ())
    )


def test_predictions_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        DepthErrors.of(torch.full((1, 1, 1, 1), math.nan), torch.ones(1, 1, 1))
    with pytest.raises(CheckpointError, match="not finite"):
        DepthErrors.of(torch.full((1, 1, 1, 1), math.inf), torch.ones(1, 1, 1))


@given(st.lists(METRES, min_size=1, max_size=30), st.randoms())
def test_sums_have_the_same_bits_in_any_order_and_any_division(values: list[float], random: object) -> None:
    def errors(some: list[float]) -> DepthErrors:
        return DepthErrors.of(torch.tensor(some).reshape(-1, 1, 1, 1), torch.ones(len(some), 1, 1))

    together = errors(values)
    shuffled = sorted(values, key=lambda _: random.random())  # type: ignore[attr-defined]
    third = len(values) // 3
    assert errors(shuffled[third:]) + errors(shuffled[:third]) == together
    squares = [(float(torch.tensor(value)) - 1) ** 2 for value in values]
    assert together.value() == pytest.approx(math.sqrt(math.fsum(squares) / len(values)), rel=1e-6, abs=1e-12)
