"""A packet that cannot be decoded costs the clips that it damages and no others, and the reason names the second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from videos import make_video, read_number

from deltactl.artifacts import read_quarantine
from deltactl.configs.ingest import IngestConfig
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.images import decode_frame
from deltactl.ingest.video.decode_av import DamagedFramesError, PyAVDecoder
from deltactl.ingest.video.decode_dali import DaliDecoder
from deltactl.ingest.video.timestamps import Video
from deltactl.locations import Location

H264_FILLER, H264_SEI = b"\x0c" + 50 * b"\xff" + b"\x80", b"\x06\x05\x10" + 16 * b"a" + b"\x80"
HEVC_FILLER, HEVC_SEI = b"\x4c\x01" + 50 * b"\xff" + b"\x80", b"\x4e\x01\x05\x10" + 16 * b"a" + b"\x80"
NO_PICTURE = {
    "h264 filler": ("h264", H264_FILLER),
    "h264 messages": ("h264", H264_SEI),
    "hevc filler": ("hevc", HEVC_FILLER),
    "hevc messages": ("hevc", HEVC_SEI),
}
H264 = {"bf": "3", "g": "20", "x264-params": "scenecut=0"}


def rewrite(source: Path, target: Path, change: Callable[[int, bytes], list[bytes]]) -> Path:
    """Copy a video, its packets changed; where a packet becomes several, the others are shown after all frames."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in before.demux(stream) if packet.size):
            for place, data in enumerate(change(number, bytes(packet))):
                made = av.Packet(data)
                made.pts, made.dts, made.duration = packet.pts + place, packet.dts + place, packet.duration
                made.time_base, made.is_keyframe, made.stream = packet.time_base, packet.is_keyframe, copy
                after.mux(made)
    return target


def unit(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def spoiled(data: bytes) -> bytes:
    """Return as many bytes that mean nothing."""
    return np.random.default_rng(0).bytes(len(data))


def packet_of(path: Path, frame: int) -> int:
    with Video(path) as video:
        return int(video.packet_of[frame])


def cut(source: Path, out: Path, clips: int = 8) -> tuple[list[Clip], dict[str, str]]:
    """Return the clips of a video, and what was quarantined of it."""
    folder = out.with_name(f"{out.name}-in")
    folder.mkdir()
    source.rename(folder / source.name)
    run_ingest(IngestConfig(source=str(folder), out=str(out), clips=clips, max_bad=1, workers=1))
    found = {entry.source: entry.reason for entry in read_quarantine(Location.of(out))}
    return list(ShardSet.open(str(out)).read("000000")), found


def check_numbers(clips: list[Clip], rate: int = 30) -> None:
    """Every frame is the one that its time says."""
    for clip in clips:
        numbers = [read_number(decode_frame(frame)) for frame in clip.frames]
        assert numbers == [round(time * rate) for time in clip.meta.times]


@pytest.mark.parametrize("name", NO_PICTURE)
@pytest.mark.parametrize("at", [7, 29], ids=["between", "last"])
def test_packets_without_a_picture_between_the_others_are_no_frames(tmp_path: Path, name: str, at: int):
    codec, extra = NO_PICTURE[name]
    source = make_video(tmp_path / "whole.mp4", codec, frames=30)
    path = rewrite(source, tmp_path / "a.mp4", lambda n, data: [data, unit(extra)] if n == at else [data])
    with av.open(str(path)) as file:
        assert sum(bool(packet.size) for packet in file.demux(video=0)) == 31
    with Video(path) as video:
        assert len(video.times) == 30
        assert "packets that hold no picture" in str(DaliDecoder("gpu").refusal(video))
        assert [read_number(image) for _, image in PyAVDecoder().frames(video, range(30))] == list(range(30))
    clips, quarantined = cut(path, tmp_path / "out")
    assert len(clips) == 8
    assert quarantined == {}
    check_numbers(clips)


@pytest.mark.parametrize("name", NO_PICTURE)
def test_where_a_picture_is_lost_that_no_other_needs_the_rest_is_used(tmp_path: Path, name: str):
    codec, extra = NO_PICTURE[name]
    source = make_video(tmp_path / "whole.mp4", codec, frames=30)
    lost = packet_of(source, 29)  # nothing comes after it
    path = rewrite(source, tmp_path / "a.mp4", lambda n, data: [unit(extra)] if n == lost else [data])
    with Video(path) as video:
        assert len(video.times) == 29
        assert [read_number(image) for _, image in PyAVDecoder().frames(video, range(29))] == list(range(29))
    clips, quarantined = cut(path, tmp_path / "out")
    assert (len(clips), quarantined) == (8, {})
    check_numbers(clips)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "h264", H264),
        ("a.mkv", "h264", {**H264, "bf": "0"}),
        ("a.mp4", "mpeg4", {"bf": "2", "g": "20"}),
        ("a.webm", "vp8", {"g": "20", "deadline": "realtime", "cpu-used": "8"}),
        ("a.ts", "mpeg2video", {"bf": "2", "g": "20"}),
        ("a.avi", "h264", H264),
    ],
)
def test_a_packet_that_others_build_on_costs_what_follows_up_to_the_next_keyframe(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
):
    source = make_video(tmp_path / f"whole-{name}", codec, frames=60, options=options)
    decoder = PyAVDecoder()
    with Video(source) as video:
        whole = dict(decoder.frames(video, range(60)))
        packets = list(video.packets())
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    lost = keys[1] + 1  # the first picture after a keyframe: those that follow are built on it
    path = rewrite(source, tmp_path / name, lambda n, data: [spoiled(data)] if n == lost else [data])
    with Video(path, by_decoding=True) as video:
        found, times = {}, video.times
        with pytest.raises(DamagedFramesError) as error:
            found.update(decoder.frames(video, range(len(video.times))))
    damaged = error.value.reasons
    assert all(times[keys[1]] - 0.2 < times[number] < times[-1] - 0.5 for number in damaged)
    assert all(
        " s cannot be decoded whole: the picture at " in each and " s is damaged" in each for each in damaged.values()
    )
    assert found.keys() | damaged.keys() == set(range(len(times)))
    for number, image in found.items():
        assert any(np.array_equal(image, each) for each in whole.values()), number
    assert len(found) >= 36


def test_clips_whose_frames_are_whole_are_kept_and_the_others_named_with_the_second(tmp_path: Path):
    source = make_video(tmp_path / "whole.mp4", frames=300, options={"bf": "0", "g": "30", "x264-params": "scenecut=0"})
    path = rewrite(source, tmp_path / "a.mp4", lambda n, data: [spoiled(data)] if n == 151 else [data])
    clips, quarantined = cut(path, tmp_path / "out", clips=12)
    check_numbers(clips)
    assert 3 <= len(clips) < 12
    assert all(not 5.03 <= time < 5.99 for clip in clips for time in clip.meta.times)
    assert quarantined.keys() == {"a.mp4"}
    assert quarantined["a.mp4"].startswith(f"{12 - len(clips)} of 12 clips are left out: the frame at 5.")
    assert "the picture at 5.03333 s is damaged" in quarantined["a.mp4"]


def test_a_bad_picture_of_mjpeg_costs_itself_alone(tmp_path: Path):
    source = make_video(tmp_path / "whole.avi", "mjpeg", frames=30)
    path = rewrite(source, tmp_path / "a.avi", lambda n, data: [spoiled(data)] if n == 11 else [data])
    clips, quarantined = cut(path, tmp_path / "out")
    assert (len(clips), quarantined) == (8, {})
    check_numbers(clips)


def test_a_video_of_which_nothing_can_be_decoded_says_why(tmp_path: Path):
    source = make_video(tmp_path / "whole.mp4", frames=30)
    path = rewrite(source, tmp_path / "a.mp4", lambda n, data: [spoiled(data)])
    clips, quarantined = cut(path, tmp_path / "out")
    assert clips == []
    damage = "the picture at 0 s is damaged"
    assert quarantined == {"a.mp4": f"the frame at 0 s cannot be decoded whole: {damage}"}
