"""What is told from numbers alone: cuts, stills and copies among features and tokens, and their thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deltactl.curation.alike import NONE, NearestSearch, most_alike_before
from deltactl.curation.findings import CUT, Thresholds, alike_threshold, cut_scores, find
from deltactl.curation.measures import Usual, measure_features, measure_tokens
from deltactl.curation.read import Measured

CLIPS, FRAMES, PATCHES, DIM = 200, 8, 16, 32


def scenes(count: int, seed: int = 0) -> Tensor:
    """Return (clip, patch, width): what each clip shows."""
    return torch.randn(count, PATCHES, DIM, generator=torch.Generator().manual_seed(seed)) + 1.5


def moving(scene: Tensor, seed: int = 1) -> Tensor:
    """Return features of clips whose patches drift, each at a speed of its own, from (clip, patch, width)."""
    generator = torch.Generator().manual_seed(seed)
    speed = torch.empty(len(scene), 1, 1, 1).log_normal_(-2, 0.4, generator=generator)
    steps = torch.randn(len(scene), FRAMES, PATCHES, DIM, generator=generator) * speed
    return scene[:, None] + steps.cumsum(1)


def measured(features: Tensor, videos: np.ndarray | None = None) -> Measured:
    found = measure_features(features, Usual.of_features(features[:64]))
    count = len(features)
    return Measured(
        np.arange(count),
        np.arange(count) if videos is None else videos,
        found.changes.numpy(),
        found.movement.numpy(),
        found.looks.numpy(),
    )


def test_what_is_spliced_held_and_copied_is_found_and_nothing_else() -> None:
    features = moving(scenes(CLIPS))
    other = moving(scenes(CLIPS, 5), 6)
    cut_at = {10: 1, 50: 4, 90: 7}
    for clip, frame in cut_at.items():
        features[clip, frame:] = other[clip, frame:]
    for clip in (20, 60):
        features[clip] = features[clip, :1] + 1e-3 * torch.randn(FRAMES, PATCHES, DIM)
    for clip, original in ((130, 30), (170, 40)):
        features[clip] = features[original] + 0.02 * torch.randn(FRAMES, PATCHES, DIM)
    videos = np.arange(CLIPS)
    videos[41] = 40  # of the same video as 40
    features[41] = features[40] + 0.02 * torch.randn(FRAMES, PATCHES, DIM)
    found = find(measured(features, videos))
    assert np.flatnonzero(found.cuts).tolist() == [10, 50, 90]
    assert [int(found.scores[clip].argmax()) + 1 for clip in cut_at] == list(cut_at.values())
    assert np.flatnonzero(found.stills).tolist() == [20, 60]
    assert np.flatnonzero(found.copies).tolist() == [130, 170]
    assert found.elsewhere.number[130] == 30
    assert found.elsewhere.number[170] in (40, 41)
    assert np.flatnonzero(found.repeats).tolist() == [41]
    assert found.within.number[41] == 40
    assert 0.005 < found.alike < 0.5


def test_a_store_without_any_yields_none() -> None:
    found = find(measured(moving(scenes(CLIPS))))
    assert {kind: int(mask.sum()) for kind, mask in found.masks.items()} == dict.fromkeys(found.masks, 0)


def test_what_pans_fast_all_along_is_no_cut() -> None:
    features = moving(scenes(CLIPS))
    direction = torch.randn(DIM, generator=torch.Generator().manual_seed(7))
    features[7] += 2 * torch.arange(FRAMES)[:, None, None] * direction
    assert not find(measured(features)).cuts[7]


def test_tokens_tell_the_same() -> None:
    """Tokens of one sort for what moves and of another for what is new, and equal ones for what stands still."""
    generator = torch.Generator().manual_seed(2)
    usual, new = torch.randn(2, DIM, generator=generator)
    tokens = usual + 0.2 * torch.randn(CLIPS, FRAMES, 1, DIM, generator=generator)
    looks = new + torch.randn(CLIPS, 1, DIM, generator=generator)
    tokens[:, 0] = looks
    tokens[33, 5] = new + torch.randn(1, DIM, generator=generator)
    tokens[44, 1:] = tokens[44, 1:2] + 1e-3 * torch.randn(FRAMES - 1, 1, DIM, generator=generator)
    tokens[55] = tokens[5] + 0.02 * torch.randn(FRAMES, 1, DIM, generator=generator)
    found = measure_tokens(tokens, Usual.of_tokens(tokens))
    everything = Measured(
        np.arange(CLIPS), np.arange(CLIPS), found.changes.numpy(), found.movement.numpy(), found.looks.numpy()
    )
    result = find(everything)
    assert np.flatnonzero(result.cuts).tolist() == [33]
    assert result.scores[33].argmax() == 4
    assert np.flatnonzero(result.stills).tolist() == [44]
    assert np.flatnonzero(result.copies).tolist() == [55]
    assert result.elsewhere.number[55] == 5


def test_one_token_after_the_first_tells_no_still() -> None:
    tokens = torch.randn(CLIPS, 2, 1, DIM)
    found = measure_tokens(tokens, Usual.of_tokens(tokens))
    assert found.movement.isnan().all()
    everything = Measured(
        np.arange(CLIPS), np.arange(CLIPS), found.changes.numpy(), found.movement.numpy(), found.looks.numpy()
    )
    assert not find(everything).stills.any()


def test_clips_of_one_step_are_judged_by_the_store_alone() -> None:
    changes = np.exp(0.1 * np.random.default_rng(0).standard_normal((500, 1))).astype(np.float32)
    changes[3] = 20
    assert np.flatnonzero(cut_scores(changes)[:, 0] >= CUT).tolist() == [3]


def test_scores_do_not_depend_on_the_scale_of_the_numbers() -> None:
    features = moving(scenes(CLIPS))
    one, other = measured(features), measured(features * 64)
    np.testing.assert_allclose(one.movement, other.movement, rtol=1e-4)
    np.testing.assert_allclose(cut_scores(one.changes), cut_scores(other.changes), rtol=1e-3, atol=1e-3)


def test_thresholds_that_are_set_are_kept() -> None:
    everything = measured(moving(scenes(CLIPS)))
    found = find(everything, Thresholds(cut=1.0, still=1.0, alike=0.9))
    assert found.stills.sum() == CLIPS // 2, "half lie at or below the median"
    assert (found.cut, found.alike, found.alike_by) == (1.0, 0.9, "set")
    assert (found.cuts == ((found.scores >= 1.0).any(1) & ~found.stills)).all()


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_the_most_similar_earlier_clip_is_exact_for_every_block(block: int) -> None:
    draw = np.random.default_rng(3)
    looks = draw.standard_normal((300, 16)).astype(np.float32)
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    videos = draw.integers(0, 40, 300)
    among = np.sort(draw.choice(300, 250, replace=False))
    rows = draw.random(300) < 0.7
    elsewhere, within = most_alike_before(looks, videos, among=among, rows=rows, block=block)
    for clip in range(300):
        for found, same in ((elsewhere, False), (within, True)):
            others = [each for each in among if each < clip and (videos[each] == videos[clip]) == same]
            if clip not in among or not rows[clip] or not others:
                assert found.number[clip] == NONE
                assert found.cosine[clip] == -np.inf
                continue
            cosines = looks[others] @ looks[clip]
            assert found.number[clip] == others[int(cosines.argmax())]
            assert found.cosine[clip] == pytest.approx(cosines.max(), abs=1e-5)


def test_no_two_clips_that_stay_look_the_same() -> None:
    """What is left out has an earlier one like it; of a row of copies the first stays."""
    base = torch.nn.functional.normalize(torch.randn(60, DIM, generator=torch.Generator().manual_seed(4)), dim=1)
    looks = base[torch.arange(180) % 60] + 0.01 * torch.randn(180, DIM, generator=torch.Generator().manual_seed(5))
    looks = torch.nn.functional.normalize(looks, dim=1).numpy()
    steps = np.exp(0.1 * np.random.default_rng(0).standard_normal((180, 3))).astype(np.float32)
    everything = Measured(np.arange(180), np.arange(180), steps, steps.max(1), looks)
    found = find(everything, Thresholds(alike=0.1))
    assert np.flatnonzero(~found.copies).tolist() == list(range(60))


def test_the_threshold_of_likeness_is_that_of_the_clips_of_one_video_and_below_the_usual() -> None:
    draw = np.random.default_rng(0)
    others = np.exp(draw.normal(np.log(0.6), 1.0, 2000))
    within = draw.uniform(0.05, 0.15, 200)
    threshold, said = alike_threshold(others, within)
    assert threshold == pytest.approx(np.quantile(within, 0.25))
    assert said == "as near as the nearest quarter of the clips of one video"
    threshold, said = alike_threshold(others, np.full(200, 0.9))
    assert threshold == pytest.approx(0.6 * np.exp(-1.5), rel=0.1)
    assert said.startswith("well below the usual distance")
    threshold, said = alike_threshold(others, within[:15])
    assert threshold == pytest.approx(0.6 * np.exp(-2.5), rel=0.1)
    assert said.startswith("far below the usual distance")
    threshold, _ = alike_threshold(np.linspace(0.5, 0.52, 100), within[:0])
    assert threshold == pytest.approx(0.51 / 4)
    assert alike_threshold(np.array([]), within) == (0.0, "there is nothing to compare")


@pytest.mark.parametrize("sizes", [[300], [1, 299], [100, 100, 100]])
def test_the_nearest_are_exact_and_in_order_for_every_block(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(6)
    looks = torch.nn.functional.normalize(torch.randn(300, 16, generator=generator), dim=1)
    looks[200] = looks[17]
    search, first = NearestSearch(looks[[17, 40]], 5), 0
    for size in sizes:
        numbers = torch.arange(first, first + size)
        banned = numbers[None] == torch.tensor([[17], [40]])
        search.add(looks[first : first + size], numbers, banned)
        first += size
    found = search.result()
    for row, query in enumerate((17, 40)):
        cosines = looks @ looks[query]
        cosines[query] = -1
        assert found.numbers[row].tolist() == cosines.argsort(descending=True)[:5].tolist()
    assert found.numbers[0, 0] == 200
    few = NearestSearch(looks[:1], 4)
    few.add(looks[:2], torch.arange(2))
    assert few.result().numbers[0].tolist()[2:] == [NONE, NONE]
    with pytest.raises(ValueError, match="k is 0; expected at least 1"):
        NearestSearch(looks[:1], 0)
