"""The mathematics of a probe: the optimum, the strength, who is held out, what is told of clips and of videos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from labelled_stores import separable, write_store

from deltactl.commands.probe import POOLINGS as OFFERED
from deltactl.errors import ArtifactError, ConfigError
from deltactl.evaluate.probe import logistic, outcomes, strength, vectors
from deltactl.evaluate.probe.fitting import Training, fit_probe
from deltactl.evaluate.probe.labels import hold_out
from deltactl.evaluate.probe.logistic import Rows, Standard, Weights, fit
from deltactl.evaluate.probe.outcomes import Outcomes, Samples, accuracies, confusions, outcomes_of
from deltactl.evaluate.probe.vectors import POOLINGS, vectors_of, vectors_of_clips
from deltactl.evaluate.protocol.intervals import wilson
from deltactl.featurize.store.scan import open_whole
from deltactl.ingest.shards.held_out import held_out_sources

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
COUNT, WIDTH, CLASSES = 300, 12, 4


def problem(seed: int = 0, separation: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of overlapping classes whose entries depend on each other, one of them constant."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, CLASSES, COUNT)
    mixed = draw.standard_normal((WIDTH, WIDTH)) @ np.diag(np.logspace(0, -3, WIDTH))
    found = (separation * draw.standard_normal((CLASSES, WIDTH))[truth] + draw.standard_normal((COUNT, WIDTH))) @ mixed
    found[:, 3] = 7.25
    return (found + 5).astype(np.float32), truth


def fitted(found: np.ndarray, truth: np.ndarray, l2: float, numbers: np.ndarray | None = None) -> Weights:
    numbers = np.arange(len(found)) if numbers is None else numbers
    rows = Rows(found, numbers, Standard.of(found, numbers), CPU)
    start = Weights.zeros(CLASSES, found.shape[1], CPU)
    done = fit(rows, torch.from_numpy(truth[numbers]), l2, start)
    assert done.converged
    return done.weights


@pytest.mark.parametrize("l2", [10.0, 1e-1, 1e-3, 1e-5])
def test_the_gradient_of_the_loss_is_nothing_at_the_result(l2: float) -> None:
    found, truth = problem()
    weights = fitted(found, truth, l2)
    standardised = torch.from_numpy(found).double()
    deviation, mean = torch.std_mean(standardised, 0, correction=0)
    standardised = (standardised - mean) / torch.where(deviation > 0, deviation, 1.0)
    free = [weights.weight.clone().requires_grad_(), weights.bias.clone().requires_grad_()]
    loss = torch.nn.functional.cross_entropy(standardised @ free[0].T + free[1], torch.from_numpy(truth))
    (loss + l2 / 2 * free[0].square().sum()).backward()
    for each in free:
        assert each.grad is not None
        assert each.grad.abs().max() < 1e-6
    assert weights.weight[:, 3].abs().max() < 1e-12, "a constant says nothing"


@pytest.mark.parametrize("separation", [0.7, 8.0])
@pytest.mark.parametrize("l2", [1.0, 1e-3, 1e-5])
def test_dozens_of_evaluations_are_enough_though_entries_depend_on_each_other(
    separation: float, l2: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, truth = problem(1, separation)
    numbers = np.arange(COUNT)
    rows = Rows(found, numbers, Standard.of(found, numbers), CPU)
    targets, start = torch.from_numpy(truth), Weights.zeros(CLASSES, WIDTH, CPU)
    done = fit(rows, targets, l2, start)
    assert done.converged
    assert done.evaluations < 150
    monkeypatch.setattr(logistic, "ROUND", 10)
    again = fit(rows, targets, l2, start)
    torch.testing.assert_close(again.weights.weight, done.weights.weight, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(logistic, "MOST_ROUNDS", 1)
    assert not fit(rows, targets, l2, start).converged


def test_neither_order_nor_blocks_nor_threads_nor_memory_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    found, truth = problem(2)
    first = fitted(found, truth, 1e-3)
    order = np.random.default_rng(5).permutation(COUNT)
    others = [fitted(found, truth, 1e-3, order)]
    monkeypatch.setattr(logistic, "BLOCK", 17)
    others.append(fitted(found, truth, 1e-3))
    monkeypatch.setattr(logistic, "KEPT_BYTES", 0)
    others.append(fitted(found, truth, 1e-3))
    torch.set_num_threads(2)
    try:
        others.append(fitted(found, truth, 1e-3, order))
    finally:
        torch.set_num_threads(1)
    for other in others:
        torch.testing.assert_close(other.weight, first.weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(other.bias, first.bias, rtol=0, atol=1e-6)


def test_the_strength_is_the_one_that_others_are_told_best_with() -> None:
    found, truth = problem(3)
    fits, others = np.arange(60), np.arange(60, COUNT)
    standard = Standard.of(found, fits)

    def part(numbers: np.ndarray) -> tuple[Rows, torch.Tensor]:
        return Rows(found, numbers, standard, CPU), torch.from_numpy(truth[numbers])

    tried = strength.try_strengths(part(fits), part(others), CLASSES)
    best = strength.best_of(tried)
    assert 1e-5 < best.l2 < 10
    assert len(tried) == [each.l2 for each in tried].index(best.l2) + 1 + strength.PATIENCE
    for each in tried:
        weights = fitted(found, truth, each.l2, fits)
        scores = standard.apply(found[others], CPU) @ weights.weight.T + weights.bias
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(truth[others])).item()
        assert each.cross_entropy == pytest.approx(loss, abs=1e-4)
        assert each.right == pytest.approx((scores.argmax(1).numpy() == truth[others]).mean())
        assert each.cross_entropy >= best.cross_entropy


def test_a_strength_that_is_set_is_kept_and_one_video_a_class_spares_none_to_choose_on() -> None:
    found, truth = problem(4)
    videos = tuple(f"video{number}" for number in range(COUNT))
    done = fit_probe(found, Training(np.arange(COUNT), truth, videos, CLASSES), 0, 0.03, CPU)
    assert (done.l2, done.tried) == (0.03, ())
    torch.testing.assert_close(done.weights.weight, fitted(found, truth, 0.03).weight)
    alone = tuple(f"video{number}" for number in truth)
    done = fit_probe(found, Training(np.arange(COUNT), truth, alone, CLASSES), 0, None, CPU)
    assert (done.l2, done.tried) == (strength.WITHOUT_CHOICE, ())


# --- who is held out -------------------------------------------------------------------------------------------------


@given(
    pairs=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), min_size=2, max_size=80),
    share=st.floats(0.01, 0.99),
    salt=st.sampled_from(["", "1:", "2:"]),
)
def test_videos_are_held_out_whole_and_every_class_is_trained_on(
    pairs: list[tuple[int, int]], share: float, salt: str
) -> None:
    videos, labels = [f"video{video}" for video, _ in pairs], [f"class{label}" for _, label in pairs]
    held = hold_out(videos, labels, share, salt)
    out = {video for video, each in zip(videos, held, strict=True) if each}
    trains = {video for video, each in zip(videos, held, strict=True) if not each}
    assert not out & trains
    assert {label for label, each in zip(labels, held, strict=True) if not each} == set(labels)
    assert out <= held_out_sources(videos, share, salt)


def test_without_a_seed_those_are_held_out_that_training_holds_out() -> None:
    videos = [f"video{number}" for number in range(200)]
    labels = [f"class{number % 2}" for number in range(200)]
    held = hold_out(videos, labels, 0.2)
    assert {video for video, each in zip(videos, held, strict=True) if each} == held_out_sources(videos, 0.2)
    other = hold_out(videos, labels, 0.2, "1:")
    assert 20 < held.sum() < 60
    assert 20 < other.sum() < 60
    assert (held != other).any()


# --- what is told ----------------------------------------------------------------------------------------------------


def told(block: int = 4096, seed: int = 0) -> tuple[Outcomes, Samples, np.ndarray]:
    """Return what random weights say of 9 videos of 2 to 4 clips under two views, and the probabilities themselves."""
    draw = np.random.default_rng(seed)
    videos, clips, views, truth = [], [], [], []
    for view in range(2):
        for video in range(9):
            for clip in range(2 + video % 3):
                videos.append(f"video{video}")
                clips.append(f"video{video}-{clip}")
                views.append(view)
                truth.append(video % 7)
    samples = Samples(np.array(truth), tuple(videos), tuple(clips), np.array(views))
    found = draw.standard_normal((len(truth) + 5, WIDTH)).astype(np.float32)
    numbers = draw.permutation(len(found))[: len(truth)]
    standard = Standard.of(found, numbers)
    weights = Weights(torch.from_numpy(draw.standard_normal((7, WIDTH))), torch.from_numpy(draw.standard_normal(7)))
    scores = (found[numbers] - standard.mean.numpy()) / standard.scale.numpy() @ weights.weight.numpy().T
    probabilities = torch.softmax(torch.from_numpy(scores) + weights.bias, 1).numpy()
    return outcomes_of(weights, standard, found, numbers, samples, block), samples, probabilities


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_accuracies_are_those_of_a_direct_computation(block: int) -> None:
    found, samples, probabilities = told(block)
    accuracy = accuracies(found, samples, np.array([1, 2, 3, 9, 1, 1, 1]))
    truth = samples.truth
    for outcome, names in ((found.videos, samples.videos), (found.clips, samples.clips)):
        means = {name: probabilities[[each == name for each in names]].mean(0) for name in set(names)}
        assert len(outcome) == len(means)
        for first, predicted, probability, rank in zip(
            outcome.first, outcome.predicted, outcome.probability, outcome.rank, strict=True
        ):
            mean = means[names[first]]
            assert predicted == mean.argmax()
            assert probability == pytest.approx(mean.max())
            assert rank == 1 + (mean > mean[truth[first]]).sum()
        entry = accuracy["by_video" if outcome is found.videos else "by_clip"]
        of_name = dict(zip(names, truth, strict=True))
        for places, name in ((1, "top1"), (5, "top5")):
            right = [of_name[each] in np.argsort(-mean)[:places] for each, mean in means.items()]
            assert entry[name]["accuracy"] == pytest.approx(np.mean(right))
        assert entry["chance"] == {"top1": 1 / 7, "top5": 5 / 7}
        assert entry["majority"] == pytest.approx(np.mean([each == 3 for each in of_name.values()]))
        assert entry["count"] == len(means)
    np.testing.assert_array_equal(np.sort(found.samples.first), np.arange(len(truth)))
    singly = {int(first): int(place) for first, place in zip(found.samples.first, found.samples.predicted, strict=True)}
    assert [singly[number] for number in range(len(truth))] == probabilities.argmax(1).tolist()
    assert sum(count for _, _, count in confusions(found, samples)) == 9
    right = sum(count for true, predicted, count in confusions(found, samples) if true == predicted)
    assert right / 9 == pytest.approx(accuracy["by_video"]["top1"]["accuracy"])


def test_videos_have_wilsons_interval_and_clips_one_over_videos() -> None:
    """Clips that are copies of each other say no more than their video does."""
    count, copies = 60, 10
    draw = np.random.default_rng(1)
    right = draw.random(count) < 0.7
    truth = np.zeros(count * copies, np.int64)
    names = tuple(f"video{number // copies}" for number in range(count * copies))
    keys = tuple(map(str, range(count * copies)))
    samples = Samples(truth, names, keys, np.zeros(count * copies, np.int64))
    vectors_ = np.where(np.repeat(right, copies), 1.0, -1.0)[:, None].astype(np.float32)
    weights = Weights(torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    plain = Standard(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    found = outcomes_of(weights, plain, vectors_, np.arange(count * copies), samples)
    accuracy = accuracies(found, samples, np.array([5, 1]))
    by_video, by_clip = accuracy["by_video"], accuracy["by_clip"]
    wanted = wilson(float(right.mean()), count)
    assert by_video["top1"] == {"accuracy": right.mean(), "low": wanted.low, "high": wanted.high}
    assert "top5" not in by_video
    assert by_clip["count"] == count * copies
    width = by_clip["top1"]["high"] - by_clip["top1"]["low"]
    assert width == pytest.approx(wanted.high - wanted.low, rel=0.15)
    assert by_video["mean_over_classes"] == right.mean()


def test_many_videos_are_drawn_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    found, samples, _ = told()
    single = accuracies(found, samples, np.ones(7, np.int64))["by_clip"]["top1"]
    monkeypatch.setattr(outcomes, "MOST_CLUSTERS", 5)
    grouped = accuracies(found, samples, np.ones(7, np.int64))["by_clip"]["top1"]
    assert grouped["accuracy"] == single["accuracy"]
    assert grouped != single


# --- vectors ---------------------------------------------------------------------------------------------------------


def test_poolings_are_what_they_are_called() -> None:
    clips = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).half()
    exact = clips.double().numpy()
    features, tokens = exact.mean(2), exact.reshape(3, 4, 30)
    for kind, frames in (("features", features), ("tokens", tokens)):
        wanted = {
            "mean": frames.mean(1),
            "first-rest": np.concatenate((frames[:, 0], frames[:, 1:].mean(1)), 1),
            "moments": np.concatenate((frames.mean(1), frames.std(1)), 1),
            "frames": frames.reshape(3, -1),
        }
        assert wanted.keys() == POOLINGS.keys()
        for name, values in wanted.items():
            np.testing.assert_allclose(vectors_of_clips(clips, name, kind), values, rtol=1e-6, atol=1e-7)
            one = vectors_of_clips(clips[:, :1], name, kind)
            np.testing.assert_allclose(one, frames[:, 0], rtol=1e-6, err_msg="one frame is its own mean")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_store(tmp_path_factory.mktemp("store") / "features", separable())


def test_blocks_of_any_size_give_the_same_bytes(store: str, tmp_path: Path) -> None:
    with open_whole(store) as opened:
        samples = np.arange(len(opened))[::3]
        found = [vectors_of(opened, samples, "mean", tmp_path / str(block), block).tobytes() for block in (1, 7, None)]
        assert found[0] == found[1] == found[2]
        direct = opened.read_clips(samples.tolist()).double().mean((1, 2)).float().numpy()
        np.testing.assert_allclose(np.frombuffer(found[0], np.float32).reshape(direct.shape), direct, rtol=1e-6)


def test_what_was_read_is_not_read_again(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = vectors.blocks_of

    def stopped(opened: object, block: int, samples: list[int]) -> Iterator[tuple[int, torch.Tensor]]:
        for number, (start, clips) in enumerate(real(opened, block, samples)):  # type: ignore[arg-type]
            read.append(len(clips))
            if number == stop:
                raise KeyboardInterrupt
            yield start, clips

    monkeypatch.setattr(vectors, "blocks_of", stopped)
    with open_whole(store) as opened:
        samples, stop = np.arange(len(opened)), 3
        with pytest.raises(KeyboardInterrupt):
            vectors_of(opened, samples, "mean", tmp_path / "part", 10)
        read.clear()
        stop = -1
        whole = np.array(vectors_of(opened, samples, "mean", tmp_path / "part", 10))
        assert sum(read) == len(samples) - 30
        read.clear()
        assert np.array_equal(vectors_of(opened, samples, "mean", tmp_path / "part", 10), whole)
        assert not read
        file = tmp_path / "part.npy"
        data = bytearray(file.read_bytes())
        data[128 + 25 * whole.shape[1] * 4] ^= 1  # in the third block
        file.write_bytes(data)
        assert np.array_equal(vectors_of(opened, samples, "mean", tmp_path / "part", 10), whole)
        assert sum(read) == len(samples) - 20
        read.clear()
        (tmp_path / "part.blocks").write_text("nonsense\n")
        assert np.array_equal(vectors_of(opened, samples, "mean", tmp_path / "part", 10), whole)
        assert sum(read) == len(samples)
        assert vectors_of(opened, samples[:5], "moments", tmp_path / "part", 10).shape == (5, 12)


def test_numbers_that_are_not_finite_name_their_clip(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vectors.blocks_of

    def with_nan(opened: object, block: int, samples: list[int]) -> Iterator[tuple[int, torch.Tensor]]:
        for start, clips in real(opened, block, samples):  # type: ignore[arg-type]
            if start == 14:
                clips[6, 2, 0, 3] = torch.nan
            yield start, clips

    monkeypatch.setattr(vectors, "blocks_of", with_nan)
    with open_whole(store) as opened:
        samples = np.arange(len(opened))
        with pytest.raises(ArtifactError, match=rf"the clip {opened.key_of(20)} holds numbers that are not finite"):
            vectors_of(opened, samples, "mean", tmp_path / "part", 7)
        with pytest.raises(ConfigError, match="--pool is 'median'; expected mean, first-rest, moments, frames"):
            vectors_of(opened, samples, "median", tmp_path / "part")


def test_the_command_offers_every_pooling() -> None:
    assert tuple(POOLINGS) == OFFERED
