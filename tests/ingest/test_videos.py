"""From videos to shards: the right frames at the right times, the same bytes every time, readable by anyone."""

from __future__ import annotations

import gc
import re
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from videos import make_video, numbered_frame, read_number

from deltactl.configs.ingest import IngestConfig
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.images import decode_frame
from deltactl.ingest.shards.keys import clip_key, source_name
from deltactl.ingest.shards.old_keys import guess_sources
from deltactl.ingest.video.sampling import sample_clips
from deltactl.ingest.video.timestamps import Video

UNEVEN = np.cumsum(np.random.default_rng(0).integers(10, 300, 60) / 1000).tolist()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of every codec, shape and name that ought to work."""
    root = tmp_path_factory.mktemp("videos")
    make_video(root / "h264.mp4", "h264")
    make_video(root / "hevc.mkv", "hevc")
    make_video(root / "sub" / "vp9.webm", "vp9")
    make_video(root / "av1.mp4", "av1")
    make_video(root / "mpeg4.avi", "mpeg4")
    make_video(root / "mjpeg.mov", "mjpeg")
    make_video(root / "with spaces, ünïcode and.many.dots.mp4", times=UNEVEN)
    make_video(root / "ten-bit.mp4", "hevc", pixel_format="yuv420p10le")
    make_video(root / "grey.mkv", "ffv1", pixel_format="gray")
    make_video(root / "odd.mkv", "ffv1", pixel_format="yuv444p", width=161, height=97)
    make_video(root / "short.mp4", frames=4)
    return root


def ingest(source: Path, out: Path, **settings) -> ShardSet:
    defaults = {"dataset": "folder", "clips": 3, "shard_clips": 12, "workers": 1}
    run_ingest(IngestConfig(source=str(source), out=str(out), **{**defaults, **settings}))
    return ShardSet.open(str(out))


def clips_of(shards: ShardSet) -> list[Clip]:
    return [clip for unit in shards.units for clip in shards.read(unit)]


@pytest.fixture(scope="module")
def shards(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ingest(videos, tmp_path_factory.mktemp("out") / "shards")


def test_every_source_has_its_clips_in_sorted_order(videos: Path, shards: ShardSet):
    clips = clips_of(shards)
    names = sorted(str(path.relative_to(videos)) for path in videos.rglob("*") if path.is_file())
    assert [clip.meta.source for clip in clips] == [name for name in names for _ in range(3)]
    assert shards.complete
    assert [len(shards.keys(unit)) for unit in shards.units] == [12, 12, 9]
    assert len({clip.key for clip in clips}) == len(clips)


def test_each_frame_is_the_one_its_description_names(videos: Path, shards: ShardSet):
    for clip in clips_of(shards):
        found = [read_number(decode_frame(frame)) for frame in clip.frames]
        assert found == list(clip.meta.indices), clip.meta.source


def test_times_are_the_containers_own_and_drawn_by_the_seed(videos: Path, shards: ShardSet):
    for number, clip in enumerate(clips_of(shards)):
        with Video(videos / clip.meta.source) as video:
            drawn = sample_clips(video.times, source=clip.meta.source, seed=0, clips=3, frames=8)[number % 3]
        assert (clip.meta.indices, clip.meta.times) == (drawn.indices, drawn.times)


def test_sizes_are_kept_and_recorded(shards: ShardSet):
    for clip in clips_of(shards):
        expected = (97, 161) if clip.meta.source == "odd.mkv" else (96, 160)
        assert clip.meta.original_size == expected
        assert decode_frame(clip.frames[0]).shape == (*expected, 3)
        assert (clip.meta.decoder, clip.meta.dataset) == ("pyav", "folder")


def test_files_of_discs_studios_and_the_web_are_sources(tmp_path: Path):
    root = tmp_path / "in"
    for number, name in enumerate(("film.vob", "film.ps", "film.mxf", "film.m2p")):
        container = {"ps": "vob", "m2p": "vob"}.get(name.rpartition(".")[2])
        make_video(root / name, "mpeg2video", container=container, frames=48 + number)  # none is another's copy
    make_video(root / "flash.F4V", "h264", container="f4v")
    make_video(root / "moving.gif", "gif", pixel_format="rgb8", rate=25)
    make_video(root / "raw.y4m", "rawvideo", container="yuv4mpegpipe")
    make_video(root / "any.nut", "mpeg4")
    names = sorted(path.name for path in root.iterdir())
    clips = clips_of(ingest(root, tmp_path / "out", clips=1))
    assert [clip.meta.source for clip in clips] == names
    for clip in clips:
        assert [read_number(decode_frame(frame)) for frame in clip.frames] == list(clip.meta.indices), clip.meta.source


def test_a_short_video_repeats_its_frames(shards: ShardSet):
    clip = next(clip for clip in clips_of(shards) if clip.meta.source == "short.mp4")
    assert clip.meta.indices[0] == 0
    assert clip.meta.indices[-4:] == (3, 3, 3, 3)
    assert len(clip.frames) == 8


# webdataset leaves closing its files to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_every_shard(shards: ShardSet):
    count = 0
    for unit in shards.units:
        url = str(shards.root / f"{unit}.tar")
        for sample in webdataset.WebDataset(url, shardshuffle=False).decode("rgb8"):
            assert sample["000.jpg"].dtype == np.uint8
            assert len([name for name in sample if name.endswith(".jpg")]) == 8
            assert len(sample["json"]["times"]) == 8
            count += 1
    assert count == shards.count == 33
    gc.collect()


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir()) if path.name != "artifact.json"}


def test_any_number_of_workers_makes_the_same_bytes(videos: Path, shards: ShardSet, tmp_path: Path):
    ingest(videos, tmp_path / "here", workers=0)
    ingest(videos, tmp_path / "three", workers=3)
    assert files(tmp_path / "here") == files(shards.root.path)
    assert files(tmp_path / "three") == files(shards.root.path)


def test_another_seed_takes_other_frames(videos: Path, shards: ShardSet, tmp_path: Path):
    (tmp_path / "in").mkdir()
    shutil.copy(videos / "h264.mp4", tmp_path / "in")
    first, second = (clips_of(ingest(tmp_path / "in", tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert [clip.key for clip in first] == [clip.key for clip in second]
    assert all(one.meta.indices != two.meta.indices for one, two in zip(first, second, strict=True))


def test_large_frames_are_shrunk_and_rotation_is_applied(tmp_path: Path):
    make_video(tmp_path / "in" / "large.mp4", width=320, height=192, rotation=90, frames=30)
    for clip in clips_of(ingest(tmp_path / "in", tmp_path / "out", size=100, quality=80)):
        assert clip.meta.original_size == (320, 192)
        images = [decode_frame(frame) for frame in clip.frames]
        assert {image.shape for image in images} == {(217, 130, 3)}
        assert [read_number(np.rot90(image, -1)) for image in images] == list(clip.meta.indices)


def make_frames(folder: Path, count: int = 40) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        data = cv2.imencode(".jpg", numbered_frame(number)[..., ::-1])[1].tobytes()
        (folder / f"frame_{number * 0.04:.3f}.jpg").write_bytes(data)


def test_frame_folders_and_zips_of_them_give_the_same_clips(tmp_path: Path):
    root = tmp_path / "kinetics"
    make_frames(root / "train" / "a class" / "one_000001_000011")
    make_frames(root / "train" / "b" / "two_000001_000011", 60)
    (root / "train" / "b" / "two_000001_000011" / "._frame_0.000.jpg").write_bytes(b"")
    data = shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    for number, start in enumerate(range(0, Path(data).stat().st_size, 50_000)):
        part = Path(data).read_bytes()[start : start + 50_000]
        (tmp_path / "split" / f"train.zip.part{number:03d}").parent.mkdir(exist_ok=True)
        (tmp_path / "split" / f"train.zip.part{number:03d}").write_bytes(part)
    settings = {"dataset": "kinetics", "clips": 2}
    folders = ingest(root, tmp_path / "from-folders", **settings)
    ingest(Path(data), tmp_path / "from-zip", **settings)
    ingest(tmp_path / "split", tmp_path / "from-parts", **settings)
    assert files(tmp_path / "from-folders") == files(tmp_path / "from-zip") == files(tmp_path / "from-parts")
    for clip in clips_of(folders):
        assert clip.meta.decoder == "opencv"
        assert clip.meta.times == tuple(round(index * 0.04, 3) for index in clip.meta.indices)
        for index, frame in zip(clip.meta.indices, clip.frames, strict=True):
            assert frame == (root / clip.meta.source / f"frame_{index * 0.04:.3f}.jpg").read_bytes()


def test_a_zip_with_a_path_that_leads_out_keeps_the_rest(tmp_path: Path):
    make_frames(tmp_path / "frames")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for path in sorted((tmp_path / "frames").iterdir()):
            file.write(path, f"train/c/good/{path.name}")
            file.write(path, f"train/c/../../../evil/{path.name}")
    shards = ingest(tmp_path / "a.zip", tmp_path / "out", dataset="kinetics", max_bad=0.5)
    assert {clip.meta.source for clip in clips_of(shards)} == {"train/c/good"}
    (entry,) = shards.sidecar("000000").quarantined
    assert "leads out of the archive" in entry.reason
    assert not (tmp_path.parent / "evil").exists()


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=120)


@given(st.lists(names, min_size=2, max_size=8, unique=True), st.integers(1, 20))
def test_keys_are_unique_and_safe(sources: list[str], clips: int):
    keys = [clip_key(source, number, clips) for source in sources for number in range(clips)]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", key)
        assert len(f"{key}.000.jpg") <= 100


def test_keys_can_be_read():
    key = clip_key("train/playing guitar/-abc_000001_000011.mp4", 3, 8)
    assert re.fullmatch(r"train__playing_guitar__-abc_000001_000011-[0-9a-f]{12}-3", key)


@given(st.lists(names, min_size=1, max_size=8, unique=True), st.integers(1, 200))
def test_names_tell_sources_apart_and_begin_the_keys_of_their_clips(sources: list[str], clips: int):
    assert len({source_name(source) for source in sources}) == len(sources)
    keys = [clip_key(source, number, clips) for source in sources for number in (0, clips - 1)]
    names = [source_name(source) for source in sources for _ in range(2)]
    assert all(key.rpartition("-")[0] == name for key, name in zip(keys, names, strict=True))
    assert guess_sources(keys, evaluation=False) == guess_sources(keys, evaluation=True) == tuple(names)
