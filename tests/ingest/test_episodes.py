"""Another data set's episodes, which bring frames and columns in a way of their own, are cut as the package's are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from videos import make_video, numbered_frame, read_number

from deltactl.configs.frame_size import FrameSize
from deltactl.errors import ConfigError, SourceError
from deltactl.ingest.episodes.episode import ArrayEpisode, HeldColumns, Pictures, VideoEpisode
from deltactl.ingest.shards.columns import Columns
from deltactl.ingest.sources import Source
from deltactl.ingest.video.columns import ColumnReader, columns_of
from deltactl.ingest.video.cutting import ClipCutter, CutClips, CutConfig, CutTask, UnusableSource

FRAMES = 20


def held(names: Collection[str]) -> dict[str, np.ndarray]:
    """Return the columns that all episodes here have, as far as they are asked for."""
    values = {"speed": np.arange(FRAMES) / 8, "clip.driver": np.array("Ada")}
    return {name: values[name] for name in names if name in values}


@dataclass(frozen=True, slots=True)
class Drive(VideoEpisode):
    """Twenty frames of a longer video."""

    def columns(self, root: Path) -> HeldColumns:
        return HeldColumns("speeds.csv", ("clip.driver", "speed"), held)


class Drawn:
    """Frames that nobody stored."""

    times = np.arange(FRAMES) / 5

    def picture(self, number: int) -> np.ndarray:
        if number > 15:
            raise SourceError(f"frame {number} is not there")
        return numbered_frame(number)


@dataclass(frozen=True, slots=True)
class Drawing(ArrayEpisode):
    """Frames that are made when they are read."""

    @property
    def reader(self) -> str:
        return "pencil"

    def columns(self, root: Path) -> HeldColumns:
        if self.episode == "none":
            raise SourceError("has no columns")
        return HeldColumns("speeds.csv", ("clip.driver", "speed"), held)

    @contextmanager
    def open(self, root: Path) -> Iterator[Pictures]:
        yield Drawn()


def cut(
    root: Path, source: Source, columns: Columns, *, dali: bool = False, **settings: object
) -> CutClips | UnusableSource:
    values = {"clips": 3, "frames": 4, "size": FrameSize(64, 64), "quality": 95, "seed": 0, "stride": (0.2, 0.2)}
    reader = ColumnReader(root, columns)
    cutter = ClipCutter(CutConfig(dataset="own", root=str(root), columns=reader, **{**values, **settings}), dali=dali)
    cutter.start(0)
    (reply,) = cutter.run(CutTask((source,))).cuts
    return reply


def check(found: CutClips | UnusableSource, first: int, decoder: str) -> None:
    assert isinstance(found, CutClips)
    for clip in found.clips:
        images = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in clip.frames)
        assert [read_number(image) - first for image in images] == list(clip.meta.indices)
        np.testing.assert_allclose(clip.meta.times, np.array(clip.meta.indices) / 5, atol=1e-9)
        np.testing.assert_array_equal(clip.columns["speed"], np.array(clip.meta.indices) / 8)
        assert str(clip.columns["clip.driver"]) == "Ada"
        assert (clip.meta.decoder, clip.source_name.rpartition("-")[0]) == (decoder, "drive")


def test_a_part_of_a_video_with_columns(tmp_path: Path) -> None:
    make_video(tmp_path / "long.mp4", frames=60, rate=5)
    source = Drive("left/drive", "long.mp4", "drive", "left", 4.0, FRAMES, 5.0)
    columns = columns_of("all", tmp_path, [source]).columns
    assert [column.name for column in columns] == ["clip.driver", "speed"]
    check(cut(tmp_path, source, columns), 20, "pyav")
    lacking = Drive("left/drive", "long.mp4", "drive", "left", 10.0, FRAMES, 5.0)
    assert cut(tmp_path, lacking, columns) == UnusableSource(
        "has 20 rows of data, but long.mp4 from 10 to 14 s has 10 frames; as many were expected"
    )


def test_dali_decodes_a_part_of_a_video(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    make_video(tmp_path / "long.mp4", "vp9", frames=60, rate=5)
    source = Drive("left/drive", "long.mp4", "drive", "left", 4.0, FRAMES, 5.0)
    found = cut(tmp_path, source, columns_of("all", tmp_path, [source]).columns, dali=True)
    assert isinstance(found, CutClips)
    assert found.left_by_dali is None
    check(found, 20, "dali")


def test_pictures_with_columns(tmp_path: Path) -> None:
    source = Drawing("left/drive", "drawn", "drive", "left")
    columns = columns_of("speed,clip.driver", tmp_path, [Drawing("a", "b", "none", "left"), source]).columns
    check(cut(tmp_path, source, columns, seed=1, clips=2, frames=2), 0, "pencil")
    assert cut(tmp_path, source, columns, frames=20) == UnusableSource("frame 16 is not there")
    assert cut(tmp_path, Drawing("a", "b", "none", "left"), columns) == UnusableSource("b: has no columns")
    with pytest.raises(ConfigError, match=r"--columns names colour, but .*speeds.csv has clip.driver, speed"):
        columns_of("colour", tmp_path, [source])
