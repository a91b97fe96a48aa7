"""Times stay right however late a video's clock runs: 26 hours into a broadcast, or counted since 1970."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from ffmpeg_program import Case, make
from small_shards import make_clip, write_shards
from small_stores import earlier_layout, run

from deltactl.configs.frame_size import FrameSize
from deltactl.configs.ingest import IngestConfig
from deltactl.featurize.convert import run as convert
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.store.verify import verify_store
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.random_access import RandomAccess
from deltactl.locations import Location
from deltactl.train.data.live import LiveClips
from deltactl.train.data.selection import select
from deltactl.train.data.sources import start_clips, start_pairs
from deltactl.train.data.validation import InOrder

LATE = [95_000.0, 1.7e9]
STEPS = (0.0, 1 / 25, 1 / 25 + 1 / 3)


def late_shards(root: Path, start: float) -> ShardSet:
    """Write one shard of clips whose frames are shown at `start` and after `STEPS`."""
    clips = []
    for number in range(3):
        clip = make_clip(f"clip{number}")
        times = tuple(start + number + step for step in STEPS)
        clips.append(dataclasses.replace(clip, meta=dataclasses.replace(clip.meta, times=times)))
    return write_shards(root, [clips])


@pytest.mark.parametrize("start", LATE)
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_shards_keep_the_containers_times(tmp_path: Path, container: str, start: float):
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "in").mkdir()
    make(tmp_path, Case("h264", container, start=start)).rename(tmp_path / "in" / f"a.{container}")
    run_ingest(IngestConfig(source=str(tmp_path / "in"), out=str(tmp_path / "out"), workers=1))
    (clip, *_) = ShardSet.open(str(tmp_path / "out")).read("000000")
    assert np.subtract(clip.meta.times, start) == pytest.approx(np.array(clip.meta.indices) / 25, abs=1.1e-3)


@pytest.mark.parametrize("start", LATE)
def test_training_from_a_store_sees_the_times_of_live_training(tmp_path: Path, start: float):
    shards = late_shards(tmp_path / "shards", start)
    run(tmp_path / "shards", tmp_path / "store")
    places = np.arange(3)
    with FeatureStore.open(str(tmp_path / "store")) as store:
        exact = np.array([clip.meta.times for clip in shards.read("000000")])
        assert np.array_equal(store.times([0, 1, 2]).numpy(), exact)
        stored = start_clips(store, [0, 1, 2], places)()
        pairs = start_pairs(store, [(0, 1), (2, 0)], places[:2])()
    assert stored.times.dtype == torch.float32
    assert stored.times.tolist() == [pytest.approx(STEPS, abs=1e-6)] * 3
    assert pairs.times.tolist() == [pytest.approx(STEPS[1:], abs=1e-6), pytest.approx(STEPS[:2], abs=1e-6)]
    live = live_times(shards, places)
    assert torch.equal(stored.times, live)


def live_times(shards: ShardSet, places: np.ndarray) -> torch.Tensor:
    selection, _ = select(shards, 0.0)
    clips = LiveClips(
        RandomAccess(shards), selection, InOrder(), take="clips", frames=3, size=FrameSize.of(64), seed=0, threads=1
    )
    return clips.start(places)().times


def old_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nested stores be written as before: times in single precision."""
    arrays = Layout.arrays

    def before(layout: Layout, clips: int) -> dict[str, Any]:
        made = dict(arrays(layout, clips))
        return {**made, "times": dataclasses.replace(made["times"], dtype="float32")}

    monkeypatch.setattr(Layout, "arrays", before)


def test_stores_with_times_in_single_precision_are_read_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    late_shards(tmp_path / "shards", 10.0)
    with earlier_layout(), monkeypatch.context() as patch:
        old_arrays(patch)
        run(tmp_path / "shards", tmp_path / "store")
    assert zarr.open_array(tmp_path / "store/v000/000000/times", mode="r").dtype == np.float32
    assert list(verify_store(Location.of(tmp_path / "store"))) == []
    run(tmp_path / "shards", tmp_path / "store", views="2")
    assert zarr.open_array(tmp_path / "store/v001/000000/times", mode="r").dtype == np.float64
    assert list(verify_store(Location.of(tmp_path / "store"))) == []
    with FeatureStore.open(str(tmp_path / "store")) as store, caplog.at_level(logging.WARNING):
        expected = np.add(np.array([10, 11, 12] * 2)[:, None], STEPS)
        assert store.times(range(6)).numpy() == pytest.approx(expected, abs=1e-6)
    assert caplog.text == ""


def test_late_times_that_were_kept_in_single_precision_are_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    late_shards(tmp_path / "shards", 95_000.0)
    with earlier_layout(), monkeypatch.context() as patch:
        old_arrays(patch)
        run(tmp_path / "shards", tmp_path / "store")
    with FeatureStore.open(str(tmp_path / "store")) as store, caplog.at_level(logging.WARNING):
        store.times([0])
        store.times([1])
    (record,) = caplog.records
    assert "95000 s were kept to the nearest 0.0078 s" in record.getMessage()
    assert "make the store again" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        convert(str(tmp_path / "store"), str(tmp_path / "converted"))
    (record,) = caplog.records
    assert "95002 s were kept to the nearest 0.0078 s by an earlier version, and stay so" in record.getMessage()
    with FeatureStore.open(str(tmp_path / "converted")) as after, FeatureStore.open(str(tmp_path / "store")) as before:
        assert torch.equal(after.times([0, 1, 2]), before.times([0, 1, 2]))
