"""Frame times come from demuxing alone and equal those of decoding, in every container and codec."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numbered_frames import UNEVEN
from videos import cut_start, make_video, read_number

from deltactl.errors import SourceError
from deltactl.ingest.video.decode_av import PyAVDecoder
from deltactl.ingest.video.timestamps import Video


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("b-frames.mp4", "h264"),
        ("b-frames.mkv", "h264"),
        ("b-frames.ts", "h264"),
        ("b-frames.flv", "h264"),
        ("hevc.mp4", "hevc"),
        ("vp8.webm", "vp8"),
        ("vp9.webm", "vp9"),
        ("av1.mp4", "av1"),
        ("mpeg4.mp4", "mpeg4"),
        ("mjpeg.avi", "mjpeg"),
        ("mjpeg.mov", "mjpeg"),
    ],
)
def test_times_without_decoding_are_those_of_the_decoded_frames(tmp_path: Path, name: str, codec: str):
    path = make_video(tmp_path / name, codec)
    with av.open(str(path)) as file:
        decoded = [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]
    with Video(path) as video:
        assert not video.counted
        assert video.times == pytest.approx(decoded, abs=1e-9)


def test_variable_frame_rates_keep_their_times(tmp_path: Path):
    with Video(make_video(tmp_path / "uneven.mp4", times=UNEVEN)) as video:
        assert video.times == pytest.approx(UNEVEN, abs=1e-3)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_frames_outside_the_edit_list_do_not_count(tmp_path: Path, codec: str):
    whole = make_video(tmp_path / "whole.mp4", codec)
    with Video(cut_start(whole, tmp_path / "cut.mp4", frames=17)) as video:
        assert video.times == pytest.approx(np.arange(43) / 30, abs=1e-4)


def test_fragmented_files_have_all_their_frames(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", container_options={"movflags": "frag_keyframe+empty_moov"})
    with Video(path) as video:
        assert np.diff(video.times) == pytest.approx(np.full(59, 1 / 30), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "codec", "seconds"),
    [("a.avi", "h264", 1 / 30), ("a.h264", "h264", 1 / 25), ("a.mpg", "mpeg2video", 1 / 30)],
)
def test_containers_without_reliable_times_are_decoded_for_them(tmp_path: Path, name: str, codec: str, seconds: float):
    with Video(make_video(tmp_path / name, codec)) as video:
        assert video.counted
        assert np.diff(video.times) == pytest.approx(np.full(59, seconds), abs=1e-4)


def test_counting_by_decoding_agrees_with_the_demux(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", "hevc")
    with Video(path) as demuxed, Video(path, by_decoding=True) as decoded:
        assert decoded.times == pytest.approx(demuxed.times)


def test_a_recording_that_begins_between_keyframes_starts_at_the_first_one(tmp_path: Path):
    data = make_video(tmp_path / "whole.ts").read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[len(data) // 188 // 4 * 188 :])
    with Video(tmp_path / "cut.ts") as video:
        assert not video.counted
        assert len(video.times) == 30
        found = [read_number(image) for _, image in PyAVDecoder().frames(video, [0, 1, 15, 29])]
        assert found == [30, 31, 45, 59]


def test_a_playlist_named_as_a_video_is_refused(tmp_path: Path):
    make_video(tmp_path / "secret.ts")
    script, playlist = tmp_path / "a.mp4", tmp_path / "b.mp4"
    script.write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.ts\n")
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n")
    with av.open(str(script), options={"safe": "0"}) as followed:
        assert followed.streams.video, "FFmpeg itself follows the script"
    for path in (script, playlist):
        with pytest.raises(SourceError, match="cannot be read as video"):
            Video(path)


def test_what_holds_only_sound_or_a_cover_picture_is_refused(tmp_path: Path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        file.mux(stream.encode(sound))
        file.mux(stream.encode())
    with pytest.raises(SourceError, match="no video stream"):
        Video(tmp_path / "sound.mp4")
