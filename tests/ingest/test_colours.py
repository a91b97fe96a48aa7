"""A colour is what the video means, from both decoders, to within two levels; what cannot be known is refused."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from flat_colours import GREYS, VIVID, columns, samples_of
from videos import make_flat_video

from deltactl.errors import SourceError
from deltactl.ingest.video.colours import LUMA, Colours, Recolouring, colours_of, rgb_of_frame
from deltactl.ingest.video.decode_av import PyAVDecoder
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.pieces import LABEL
from deltactl.ingest.video.timestamps import Video

SATURATED = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255]])
ALL = [Colours(space, full) for space in LUMA for full in (False, True)]


@pytest.mark.parametrize("meant", ALL, ids=str)
@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_pyav_gives_the_colours_that_are_meant(tmp_path: Path, codec: str, meant: Colours):
    if codec == "vp9" and meant.space == 4:
        pytest.skip("VP9 has no number for it")
    rgb = np.concatenate([SATURATED, VIVID, GREYS])
    path = make_flat_video(tmp_path / "a.mkv", codec, samples_of(rgb, meant), space=meant.space, full=meant.full)
    with Video(path) as video:
        assert colours_of(PyAVDecoder().first_frame(video).frame) == meant
        ((_, image),) = PyAVDecoder().frames(video, [2])
    # FFmpeg's own program gives these very levels; it cuts off fractions.
    assert np.abs(columns(image) - rgb).max() <= 3


@pytest.mark.parametrize("meant", [each for each in ALL if each.space != 4], ids=str)
def test_dali_gives_the_colours_that_pyav_gives_or_none(tmp_path: Path, meant: Colours):
    pytest.importorskip("nvidia.dali")
    decoder = DaliDecoder("cpu")
    refused = 0
    for name, rgb in {"vivid": np.concatenate([VIVID, GREYS]), "saturated": SATURATED}.items():
        for part in np.array_split(rgb, 5):
            path = tmp_path / f"{name}.webm"
            make_flat_video(path, "vp9", samples_of(part, meant), space=meant.space, full=meant.full)
            with Video(path) as video:
                ((_, expected),) = PyAVDecoder().frames(video, [2])
                try:
                    ((_, image),) = decoder.frames(video, [2])
                except SourceError as error:
                    assert "so saturated that DALI clips them" in str(error)
                    assert name == "saturated" or meant.full, "a colour of everyday is refused"
                    refused += 1
                    continue
            assert np.abs(columns(image) - columns(expected)).max() <= 2
    if LUMA[meant.space] == LUMA[5]:
        assert refused == 0


def test_dali_takes_the_colours_of_codecs_without_a_label_as_they_are(tmp_path: Path):
    pytest.importorskip("nvidia.dali")
    from videos import make_video

    for name, codec in {"a.webm": "vp8", "a.mkv": "mjpeg"}.items():
        with Video(make_video(tmp_path / name, codec, frames=4, options={"b": "4M"})) as video:
            ((_, expected),) = PyAVDecoder().frames(video, [2])
            ((_, image),) = DaliDecoder("cpu").frames(video, [2])
        for block in range(10):  # the black and white blocks of the number
            inside = (slice(4, 12), slice(16 * block + 4, 16 * block + 12))
            assert np.abs(image[inside].astype(int) - expected[inside]).max() <= 2


def swscale(samples: np.ndarray, meant: Colours) -> np.ndarray:
    """Return what PyAV makes of each of the samples (count, 3), from the middle of a flat block of it."""
    blocks = samples.reshape(-1, 1, 3).repeat(16, 1).reshape(1, -1, 3).repeat(16, 0)
    planes = [blocks[..., 0], blocks[::2, ::2, 1], blocks[::2, ::2, 2]]
    data = np.concatenate([plane.ravel() for plane in planes]).reshape(24, -1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(data), format="yuv420p")
    frame.colorspace, frame.color_range = meant.space, 2 if meant.full else 1
    return rgb_of_frame(frame, VideoReformatter())[8, 8::16]


@pytest.mark.parametrize("meant", ALL, ids=str)
def test_no_colour_is_more_than_two_levels_off_whatever_the_samples_are(meant: Colours):
    generator = np.random.default_rng(0)
    rgb = generator.integers(0, 256, (1000, 3))
    corners = np.where(generator.random((1000, 3)) < 0.5, rgb, generator.integers(0, 2, (1000, 3)) * 255)
    samples = np.concatenate(
        [samples_of(rgb, meant), samples_of(corners, meant), generator.integers(0, 256, (1000, 3)).astype(np.uint8)]
    )
    expected = swscale(samples, meant).astype(int)
    taken = np.clip(np.rint(samples @ LABEL.rgb_of_samples[:, :3].T + LABEL.rgb_of_samples[:, 3]), 0, 255)
    recolouring = Recolouring(LABEL, meant)
    refused = np.zeros(len(samples), bool)
    for number, colour in enumerate(taken.astype(np.uint8)):
        try:
            found = recolouring.apply(colour[None, None])[0, 0]
        except SourceError:
            refused[number] = True
        else:
            most = (
                2 if number < 2000 else 3
            )  # samples that stand for no colour, as between the columns of a test picture
            assert np.abs(found.astype(int) - expected[number]).max() <= most, samples[number]
    if not meant.full:
        assert refused[:1000].mean() < 0.05, "too many everyday colours are refused"


@pytest.mark.parametrize("space", [0, 3, 8, 10, 14])
def test_colours_of_an_unknown_matrix_are_an_error(space: int):
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.colorspace = space
    with pytest.raises(SourceError, match=f"colours of space {space}"):
        colours_of(frame)


def test_black_bars_and_highlights_are_not_refused():
    image = np.full((64, 64, 3), 120, np.uint8)
    image[:8], image[-8:], image[20:30, 20:30] = 0, 0, 255
    for space in LUMA:
        Recolouring(LABEL, Colours(space, full=False)).apply(image)
    image[40, 40] = [200, 0, 30]
    with pytest.raises(SourceError, match="so saturated"):
        Recolouring(LABEL, Colours(1, full=False)).apply(image)
