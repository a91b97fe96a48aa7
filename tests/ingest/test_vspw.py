"""Which clips a VSPW tree has."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltactl.datasets.vspw import list_clips
from deltactl.errors import ConfigError
from deltactl.locations import Location


@pytest.fixture
def tree(trees: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trees / "VSPW", tmp_path / "VSPW"))


def make_tree(root: Path, videos: dict[str, int]) -> Location:
    for video, count in videos.items():
        for folder, suffix in (("origin", "jpg"), ("mask", "png")):
            (root / "data" / video / folder).mkdir(parents=True)
            for number in range(count):
                (root / "data" / video / folder / f"{number:08}.{suffix}").touch()
    (root / "val.txt").write_text("".join(f"{video}\n" for video in videos))
    return Location.of(root)


def test_a_clip_ends_on_every_twentieth_frame_with_a_mask_for_each_of_its_frames(trees: Path) -> None:
    listing = list_clips(Location.of(trees / "VSPW"))
    assert [clip.key for clip in listing.clips] == [
        "100_clip_00000019",
        "100_clip_00000039",
        "101_clip_00000019",
        "101_clip_00000039",
        "102_clip_00000019",
    ]
    clip = listing.clips[1]
    assert clip.indices == (21, 24, 27, 30, 33, 36, 39)
    assert clip.source == "data/100_clip/origin"
    assert clip.frames[0] == "data/100_clip/origin/00000021.jpg"
    assert [label.frame for label in clip.labels] == list(range(7))
    assert clip.labels[6].paths == ("data/100_clip/mask/00000039.png",)
    assert all(label.required for label in clip.labels)
    assert listing.unusable == ()


def test_leftovers_of_archives_are_not_frames(tree: Path) -> None:
    before = list_clips(Location.of(tree))
    for number in range(19):
        (tree / "data" / "102_clip" / "origin" / f"._{number:08}.jpg").write_bytes(b"Mac OS X")
    assert list_clips(Location.of(tree)) == before


@pytest.mark.parametrize("gone", ["origin/00000024.jpg", "mask/00000024.png", "origin/00000003.jpg"])
def test_a_missing_file_does_not_shift_the_other_frames(tree: Path, gone: str) -> None:
    before = list_clips(Location.of(tree))
    (tree / "data" / "100_clip" / gone).unlink()
    assert list_clips(Location.of(tree)) == before


def test_a_video_without_its_folder_is_named_and_keeps_its_place(tree: Path) -> None:
    shutil.rmtree(tree / "data" / "101_clip" / "mask")
    listing = list_clips(Location.of(tree))
    assert len(listing.clips) == 3
    (bad,) = listing.unusable
    assert (bad.source, bad.clips_before) == ("data/101_clip", 2)
    assert bad.reason == "data/101_clip/mask holds no masks"


def test_names_with_a_dot_are_listed_for_the_ingest_to_name(tree: Path) -> None:
    (tree / "data" / "101_clip").rename(tree / "data" / "101.clip")
    (tree / "val.txt").write_text("100_clip\n101.clip\n")
    keys = [clip.key for clip in list_clips(Location.of(tree)).clips]
    assert keys[2:] == ["101.clip_00000019", "101.clip_00000039"]


def test_other_splits_and_single_frames_are_listed_alike(tree: Path) -> None:
    (tree / "train.txt").write_text("102_clip\r\n\n")
    (clip,) = list_clips(Location.of(tree), split="train", frames=1).clips
    assert (clip.indices, len(clip.labels)) == ((19,), 1)
    other = tree / "other.txt"
    other.write_text("101_clip\n")
    assert len(list_clips(Location.of(tree), split_file=Location.of(other)).clips) == 2


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(1, 9))
def test_clips_lie_within_their_video_and_never_share_a_key(counts: list[int], frames: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        videos = {f"{number}_v": count for number, count in enumerate(counts)}
        listing = list_clips(make_tree(Path(folder), videos), frames=frames)
    assert len({clip.key for clip in listing.clips}) == len(listing.clips)
    skipped = frames > 7  # the first labelled frame has only 19 frames before it
    assert len(listing.clips) == sum(max(count // 20 - skipped, 0) for count in counts)
    for clip in listing.clips:
        assert len(clip.frames) == frames
        assert clip.indices[-1] % 20 == 19
        assert clip.indices[0] >= 0
        assert all(b - a == 3 for a, b in zip(clip.indices, clip.indices[1:], strict=False))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("100_clip\n../secret\n", r"line 2 is '../secret'; expected the name of a folder"),
        ("100_clip\n..\n", r"line 2 is '\.\.'; expected the name of a folder"),
        ("100_clip\n101_clip\n100_clip\n", r"line 3 repeats line 1 \(100_clip\)"),
    ],
)
def test_a_list_with_other_things_in_it_is_refused(tree: Path, lines: str, message: str) -> None:
    (tree / "val.txt").write_text(lines)
    with pytest.raises(ConfigError, match=message):
        list_clips(Location.of(tree))


def test_what_is_missing_is_said_with_what_was_expected(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder data; expected the VSPW root, with val\.txt"):
        list_clips(Location.of(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"train\.txt cannot be read: .* expected the list of the videos"):
        list_clips(Location.of(tree), split="train")
    (tree / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        list_clips(Location.of(tree))
