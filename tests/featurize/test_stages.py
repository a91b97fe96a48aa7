"""The stages of featurize on a GPU and on a CPU: how much is read and written ahead, and with how many threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from small_shards import make_clip, training_shards, write_shards
from small_stores import contents, flip, run

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.featurize.pipeline import decode_dali, fill, pipeline
from deltactl.featurize.pipeline.background import Background
from deltactl.featurize.pipeline.decode import ClipDecoder
from deltactl.featurize.pipeline.decode_dali import DaliClipDecoder
from deltactl.featurize.pipeline.events import ClipFrames, Closed, Job, RawClip
from deltactl.featurize.pipeline.read import raw_bytes, read_clips
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.store.writer import GroupWriter, group_writer, writes_under_way
from deltactl.ingest.shards.format import Clip, ClipMeta

# --- writing ---


def test_a_gpu_has_eight_writes_under_way_within_a_gigabyte() -> None:
    base = Layout("features", 8, (1024, 768))
    assert (writes_under_way("cpu", base), writes_under_way("cuda", base)) == (2, 8)
    assert writes_under_way("cuda", Layout("features", 8, (1024, 1280))) == 6  # ViT-H+ at 512 px: 168 MB each
    assert writes_under_way("cuda", Layout("features", 16, (4096, 4096))) == 2
    assert writes_under_way("cuda", Layout("tokens", 8, (1, 768))) == 8


class SlowFiles:
    """Files whose writes end when they are let."""

    def __init__(self) -> None:
        self.under_way: list[Future[None]] = []
        self.most = 0

    def write(self, _: int, __: np.ndarray) -> Future[None]:
        future: Future[None] = Future()
        self.under_way = [each for each in self.under_way if not each.done()] + [future]
        self.most = max(self.most, len(self.under_way))
        if len(self.under_way) >= 5:  # a disk that is this far behind
            self.under_way[0].set_result(None)
        return future


@pytest.mark.parametrize(("writes", "most"), [(5, 5), (8, 5)])
def test_a_slow_disk_is_given_as_much_as_may_be_under_way(tmp_path: Path, writes: int, most: int) -> None:
    layout = Layout("features", 1, (1, 2))
    files = SlowFiles()
    keys = [str(row) for row in range(80)]
    writer = GroupWriter(tmp_path, layout, keys, keys, writes)
    writer._files = files
    for row in range(80):
        writer.put(row, 0, np.zeros((1, 1, 2), np.float16))
    assert files.most == most


def test_features_on_a_gpu_are_written_eight_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training_shards(tmp_path / "shards", units=1)
    asked: list[int] = []

    def watched(*args: Any, writes: int, **kwargs: Any) -> Any:
        asked.append(writes)
        return group_writer(*args, writes=writes, **kwargs)

    monkeypatch.setattr(fill, "group_writer", watched)
    run(tmp_path / "shards", tmp_path / "cpu")
    monkeypatch.setattr(fill, "writes_under_way", lambda kind, layout: writes_under_way("cuda", layout))
    run(tmp_path / "shards", tmp_path / "gpu")
    assert asked == [2, 8]
    assert contents(tmp_path / "cpu") == contents(tmp_path / "gpu")


# --- reading ---


def test_the_backbone_begins_before_a_tar_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltactl.ingest.shards.format.BLOCK_BYTES", 4096)
    shards = training_shards(tmp_path / "shards", units=1, clips=20)
    events = read_clips(shards, [Job(0, "000000")])
    hashed: list[str] = []
    monkeypatch.setattr("deltactl.ingest.shards.format._check_hash", lambda place, *_: hashed.append(place.name))
    next(events), next(events)
    assert hashed == []
    assert len(list(events)) == 20
    assert hashed == ["000000.tar"]


@pytest.mark.parametrize("position", [0.02, 0.5, 0.97])
def test_nothing_of_a_damaged_tar_is_published_wherever_the_damage_lies(tmp_path: Path, position: float) -> None:
    training_shards(tmp_path / "shards", units=3)
    tar = tmp_path / "shards" / "000001.tar"
    flip(tar, int(position * tar.stat().st_size))
    summary = run(tmp_path / "shards", tmp_path / "store")
    assert (summary.done, summary.quarantined) == (6, 1)
    assert FeatureStore.open(str(tmp_path / "store")).units == ("000000", "000002")
    assert not (tmp_path / "store" / "v000" / "000001").exists()
    assert not [path for path in (tmp_path / "store").rglob(".*") if path.is_dir()], "no draft is left"


def test_waiting_items_are_bounded_by_their_bytes() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for size in (40, 40, 40, 500, 1):
            drawn.append(size)
            yield size

    with Background(items(), depth=100, name="test", size=lambda item: item, most_bytes=100) as background:
        until(lambda: len(drawn) == 3)
        time.sleep(0.3)
        assert drawn == [40, 40, 40], "two of them wait, the third is held back"
        assert next(background) == 40
        until(lambda: len(drawn) == 4)
        assert list(background) == [40, 40, 500, 1]


def test_a_stage_that_waits_for_room_can_be_ended() -> None:
    with Background(iter([60, 60, 60]), depth=9, name="test", size=lambda item: item, most_bytes=100) as background:
        assert next(background) == 60
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]


def until(true: Any) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_raw_clips_count_with_their_frames() -> None:
    clip = make_clip("a")
    assert raw_bytes(RawClip(Job(0, "000000"), 0, clip)) == sum(len(frame) for frame in clip.frames)
    assert raw_bytes(Closed()) == 0
    assert pipeline.RAW_CLIPS_AHEAD["cuda"] == 256


# --- decoding ---


def test_beside_a_gpu_each_decoding_thread_has_one_core_and_the_caller_its_own_again() -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    try:
        with pipeline._one_core_a_thread("cuda"):
            assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
        with pipeline._one_core_a_thread("cpu"):
            assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def striped(height: int, width: int) -> np.ndarray:
    """Red and blue stripes of three pixels: where colours are stored at half the size, how they are enlarged shows."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, np.arange(width) % 6 < 3] = (255, 0, 0)
    image[:, np.arange(width) % 6 >= 3] = (0, 0, 255)
    return image


def test_dali_enlarges_halved_colours_as_opencv_does() -> None:
    dali: Any = pytest.importorskip("nvidia.dali")
    assert dali
    halved = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    data = cv2.imencode(".jpg", striped(61, 95), halved)[1].tobytes()
    meta = ClipMeta("a.mp4", "kinetics", (0.0,), (0,), (61, 95), "pyav")
    raw = RawClip(Job(0, "000000"), 0, Clip("a", meta, [data]))
    decoder = ClipDecoder("augment", 0, 1, pinned=False)
    (found,) = DaliClipDecoder(decoder, None).decode([raw])
    wanted = decoder.decode(raw)
    assert isinstance(found, ClipFrames)
    assert isinstance(wanted, ClipFrames)
    assert torch.equal(found.frames, wanted.frames)


def test_dali_is_asked_for_that_and_to_share_the_work_of_the_cards_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Dali:
        """A DALI that only writes down how images are decoded."""

        class types:
            UINT8, RGB = "uint8", "rgb"

        class Pipeline:
            def __init__(self, **_: Any) -> None: ...
            def __enter__(self) -> None: ...
            def __exit__(self, *_: Any) -> None: ...
            def set_outputs(self, *_: Any) -> None: ...
            def build(self) -> None: ...

        class fn:
            @staticmethod
            def external_source(**_: Any) -> None: ...

            class decoders:
                @staticmethod
                def image(_: Any, **options: Any) -> None:
                    asked.update(options)

    monkeypatch.setattr(decode_dali, "load_dali", lambda: Dali)
    DaliClipDecoder(ClipDecoder("augment", 0, 3, pinned=True, threads=4), 0)._build()
    assert asked["device"] == "mixed"
    assert asked["jpeg_fancy_upsampling"] is True
    assert asked["hw_decoder_load"] == 0.9


def test_frames_of_other_sizes_and_kinds_are_cut_as_before(tmp_path: Path) -> None:
    clips = [make_clip("jpeg"), make_clip("png", frame_format="png", height=96, width=80)]
    write_shards(tmp_path / "shards", [clips])
    assert run(tmp_path / "shards", tmp_path / "store").done == 2
    assert FeaturizeConfig().decoder == "auto"
