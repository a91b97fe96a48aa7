"""All eight orientations of a display matrix come out as FFmpeg's own program shows them, from both decoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from videos import make_video, with_display_matrix

from deltactl.ingest.video.decode_av import PyAVDecoder
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.orientation import UPRIGHT, orientation_of_matrix
from deltactl.ingest.video.timestamps import Video

# What `ffmpeg -i FILE` (versions 7 and 9) made of a file with each matrix, in terms of the file with the first one.
SHOWN: dict[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]] = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, 3),
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: np.rot90(image[:, ::-1], 1),
    (0, -1, -1, 0): lambda image: np.rot90(image[:, ::-1], 3),
}


@pytest.mark.parametrize("matrix", SHOWN, ids=str)
def test_pyav_shows_what_the_matrix_says(tmp_path: Path, matrix: tuple[int, int, int, int]):
    upright = make_video(tmp_path / "upright.mp4", frames=12)
    with Video(upright) as video:
        ((_, image),) = PyAVDecoder().frames(video, [7])
    with Video(with_display_matrix(upright, tmp_path / "turned.mp4", *matrix)) as video:
        ((_, turned),) = PyAVDecoder().frames(video, [7])
    assert np.array_equal(turned, SHOWN[matrix](image))
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("matrix", SHOWN, ids=str)
def test_dali_shows_what_the_matrix_says(tmp_path: Path, matrix: tuple[int, int, int, int]):
    pytest.importorskip("nvidia.dali")
    upright = make_video(tmp_path / "upright.mp4", "vp9", frames=12)
    with Video(upright) as video:
        ((_, image),) = DaliDecoder("cpu").frames(video, [7])
    with Video(with_display_matrix(upright, tmp_path / "turned.mp4", *matrix)) as video:
        ((_, turned),) = DaliDecoder("cpu").frames(video, [7])
    assert np.array_equal(turned, SHOWN[matrix](image))


@pytest.mark.parametrize("degrees", range(-180, 180, 15))
@pytest.mark.parametrize("scale", [1, 65536, 100_000])
def test_other_angles_count_as_the_nearest_quarter(degrees: int, scale: int):
    if degrees % 90 in (45,):
        return
    angle = np.radians(degrees)
    cosine, sine = round(scale * np.cos(angle) * 10), round(scale * np.sin(angle) * 10)
    quarter = round(degrees / 90) * 90
    exact = [round(np.cos(np.radians(quarter))), round(np.sin(np.radians(quarter)))]
    expected = orientation_of_matrix(exact[0], exact[1], -exact[1], exact[0])
    assert orientation_of_matrix(cosine, sine, -sine, cosine) == expected


def test_a_matrix_of_zeros_leaves_the_picture_alone():
    assert orientation_of_matrix(0, 0, 0, 0) == UPRIGHT
