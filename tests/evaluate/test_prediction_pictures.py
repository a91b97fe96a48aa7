"""The sheet of a prediction: what came, copy last and some futures, counted as the arrays are, and their spread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deltactl.evaluate.predict.context import ContextFrames, Moments
from deltactl.evaluate.predict.files import VideoFutures, moments_of, sheet_of, spread_scale
from deltactl.evaluate.report.pictures import draw_sheet
from deltactl.evaluate.report.renderings import ComponentRendering
from deltactl.ingest.shards.geometry import Box
from deltactl.tasks.colours import DISAGREEMENT_LEGEND, SPREAD_LEGEND, ClassColours, paint_amount
from deltactl.tasks.segmentation import ClassRendering
from deltactl.train.networks.heads import LinearHeadConfig, SegmentationHead

CONTEXT, HORIZON, PATCHES, DIM = 4, 3, 16, 8
NONE, HALF, FULL = (entry.colour for entry in SPREAD_LEGEND)


def video_futures(samples: Tensor, *, true: Tensor | None = None, name: str = "street.mp4") -> VideoFutures:
    """Return futures of a video whose true features are random, four frames of context and, by default, three more."""
    generator = torch.Generator().manual_seed(0)
    if true is None:
        true = torch.randn(CONTEXT + HORIZON, PATCHES, DIM, generator=generator)
    came = len(true) - CONTEXT
    times = tuple(5.0 + 0.2 * step for step in range(CONTEXT + HORIZON))
    moments = Moments(tuple(range(CONTEXT)), tuple(range(CONTEXT, CONTEXT + came)), times[:CONTEXT], times[CONTEXT:])
    pixels = np.full((CONTEXT + came, 32, 32, 3), 90, np.uint8)
    frames = ContextFrames(moments, pixels, (32, 32), Box(0, 0, 32, 32), "pyav")
    losses = (samples[:, :came] - true[None, CONTEXT:]).square().mean((2, 3))
    return VideoFutures(name, frames, (4, 4), true, samples, losses)


def random_samples(count: int = 20) -> Tensor:
    return torch.randn(count, HORIZON, PATCHES, DIM, generator=torch.Generator().manual_seed(1))


def sheet(futures: VideoFutures):
    return sheet_of(futures, [ComponentRendering.fit(futures.true, futures.grid)])


def spread_of(futures: VideoFutures) -> np.ndarray:
    (row,) = [row for panel in sheet(futures).panels for row in panel.rows if row.label == "spread"]
    return np.stack([picture for picture in row.pictures if picture is not None])


def test_no_column_of_a_future_is_blank() -> None:
    for futures in (video_futures(random_samples()), video_futures(random_samples(), true=torch.randn(4, 16, 8))):
        for panel in sheet(futures).panels:
            for row in panel.rows:
                assert all(picture is not None for picture in row.pictures), (panel.title, row.label)
    seen = sheet(futures).panels[0]
    assert (seen.title, len(seen.times)) == ("what was seen", CONTEXT), "nothing came, so there is no room for it"


def test_what_came_and_copy_last_stand_beside_the_futures() -> None:
    futures = video_futures(random_samples())
    panels = sheet(futures).panels
    rows = {row.label: row.pictures for row in panels[1].rows}
    assert list(rows) == ["what came", "copy last", "mean of 20", "spread"]
    true = ComponentRendering.fit(futures.true, futures.grid).pictures(futures.true)
    assert all(np.array_equal(picture, true[CONTEXT - 1]) for picture in rows["copy last"])
    assert all(np.array_equal(*pair) for pair in zip(rows["what came"], true[CONTEXT:], strict=True))
    assert panels[1].times == panels[2].times == pytest.approx([0.2, 0.4, 0.6])
    assert "copy last" in [tile.label for tile in tiles_of(futures)]


def tiles_of(futures: VideoFutures):
    """Return the tiles of the animation, by what is drawn of them."""
    seen = []

    def remember(tiles, *_):
        seen.extend(tiles)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deltactl.evaluate.predict.files.draw_moments", remember)
        moments_of(futures, ComponentRendering.fit(futures.true, futures.grid))
    return seen


def test_futures_are_numbered_as_the_arrays_are() -> None:
    samples = random_samples()
    true = torch.cat([torch.randn(CONTEXT, PATCHES, DIM), samples[11]])
    futures = video_futures(samples, true=true)
    assert futures.closest == 11
    rows = sheet(futures).panels[2].rows
    assert (rows[-1].label, rows[-1].note) == ("future 11", "closest to what came")
    rendering = ComponentRendering.fit(futures.true, futures.grid)
    for row in rows:
        pictures = rendering.pictures(samples[int(row.label.removeprefix("future "))])
        assert all(np.array_equal(*pair) for pair in zip(row.pictures, pictures, strict=True))
    assert any("future 11" in note for note in sheet(futures).notes)
    assert [tile.label for tile in tiles_of(futures)][3:5] == [row.label for row in rows[:2]]
    last = video_futures(samples, true=torch.cat([true[:CONTEXT], samples[19]]))
    assert last.closest == 19, "the last of 20"


def test_the_futures_that_are_shown_stand_for_all() -> None:
    """Four kinds of futures, 8, 6, 4 and 2 of them: one of each kind, the most usual first."""
    generator = torch.Generator().manual_seed(3)
    kinds = torch.randn(4, HORIZON, PATCHES, DIM, generator=generator)
    which = torch.tensor([0] * 8 + [1] * 6 + [2] * 4 + [3] * 2)[torch.randperm(20, generator=generator)]
    samples = kinds[which] + 0.01 * torch.randn(20, HORIZON, PATCHES, DIM, generator=generator)
    futures = video_futures(samples, true=torch.randn(CONTEXT, PATCHES, DIM, generator=generator))
    rows = sheet(futures).panels[2].rows
    shown = [int(which[int(row.label.removeprefix("future "))]) for row in rows]
    assert shown == [0, 1, 2, 3]
    assert [row.note for row in rows] == ["like 8 of 20", "like 6 of 20", "like 4 of 20", "like 2 of 20"]
    assert "futures that stand for all: the most usual first, then others that are not alone" in sheet(futures).notes


def test_the_title_says_which_video_and_when() -> None:
    assert sheet(video_futures(random_samples())).title == "street.mp4, at 5.6 s: 4 frames of context, 3 ahead"


def test_futures_that_are_all_the_same_are_dark_wherever_the_video_goes() -> None:
    one = random_samples(1).expand(20, -1, -1, -1)
    nearly = one + 1e-5 * random_samples()
    still = torch.randn(1, PATCHES, DIM).expand(CONTEXT + HORIZON, -1, -1)
    nowhere = still[:1, None].expand(20, HORIZON, -1, -1) + 1e-5 * random_samples()
    for futures in (
        video_futures(one),
        video_futures(nearly),
        video_futures(nearly, true=torch.randn(CONTEXT, PATCHES, DIM)),
        video_futures(nowhere, true=still),
        video_futures(nowhere, true=still[:CONTEXT]),
    ):
        assert (np.abs(spread_of(futures).astype(int) - NONE).max()) <= 3


def test_spread_is_measured_by_how_far_copy_last_is_from_what_came() -> None:
    true = torch.zeros(CONTEXT + HORIZON, PATCHES, DIM)
    true[:, ::2] = 4.0
    true[CONTEXT:] += 1.0
    for share, colour in ((0.5, HALF), (1.0, FULL), (3.0, FULL)):
        samples = torch.randn(4000, HORIZON, PATCHES, DIM, generator=torch.Generator().manual_seed(2)) * share
        futures = video_futures(samples + true[CONTEXT:], true=true)
        assert spread_scale(futures) == pytest.approx(1.0)
        assert np.abs(np.median(spread_of(futures), axis=(0, 1, 2)) - colour).max() <= 6, share


def test_one_future_has_no_mean_and_no_spread() -> None:
    futures = video_futures(random_samples(1))
    panels = sheet(futures).panels
    assert [row.label for row in panels[1].rows] == ["what came", "copy last"]
    assert panels[2].title == "features (PCA): 1 future"
    assert not sheet(futures).legends
    assert draw_sheet(sheet(futures)).ndim == 3


def test_classes_are_named_and_the_disagreement_about_them_is_shown() -> None:
    head = SegmentationHead(LinearHeadConfig(DIM, 124)).eval()
    names = ("background", "disc", *(f"class {number}" for number in range(2, 124)))
    colours = ClassColours("vspw", (1, 0, 7), names)
    assert [entry.name for entry in colours.legend()] == ["disc", "background", "class 7"]
    rendering = ClassRendering(head, colours, (4, 4), (32, 32))
    futures = video_futures(random_samples(4))
    shown = sheet_of(futures, [rendering, ComponentRendering.fit(futures.true, futures.grid)])
    (row,) = [row for panel in shown.panels for row in panel.rows if row.label == "disagreement"]
    maps = np.stack([rendering.classes(sample[0]) for sample in futures.samples])
    share = 1 - np.stack([(maps == maps[each]).sum(0) for each in range(4)]).max(0) / 4
    assert np.array_equal(row.pictures[0], paint_amount(share))
    agreed = video_futures(random_samples(1).expand(4, -1, -1, -1))
    assert rendering.disagreement(agreed.samples[:, 0]).max() == 0
    assert DISAGREEMENT_LEGEND in [legend.entries for legend in shown.legends]
