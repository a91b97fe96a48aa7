"""Which clips a Cityscapes tree has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deltactl.datasets.cityscapes import list_clips
from deltactl.errors import ConfigError
from deltactl.locations import Location

SEQUENCES = "leftImg8bit_sequence/val"


@pytest.fixture
def tree(trees: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trees / "cityscapes", tmp_path / "cityscapes"))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_each_labelled_frame_ends_a_clip_and_is_alone_labelled(trees: Path) -> None:
    listing = list_clips(Location.of(trees / "cityscapes"))
    assert [clip.key for clip in listing.clips] == ["frankfurt_000000_000019", "lindau_000001_000019"]
    clip = listing.clips[1]
    assert clip.indices == (1, 4, 7, 10, 13, 16, 19)
    assert clip.frames[0] == f"{SEQUENCES}/lindau/lindau_000001_000001_leftImg8bit.png"
    (label,) = clip.labels
    assert (label.frame, label.required) == (6, True)
    assert label.paths == ("gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png",)
    assert listing.unusable == ()


def test_frames_are_numbered_by_their_names(tree: Path) -> None:
    # In Frankfurt's long sequences frames are numbered on, with labels in many places.
    touch(tree, "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png")
    clip = list_clips(Location.of(tree)).clips[1]
    assert clip.key == "frankfurt_000000_000294"
    assert clip.indices == (276, 279, 282, 285, 288, 291, 294)
    assert clip.frames[-1].endswith("frankfurt_000000_000294_leftImg8bit.png")


def test_other_files_beside_the_labels_are_not_labels(tree: Path) -> None:
    before = list_clips(Location.of(tree))
    stem = "gtFine/val/lindau/lindau_000001_000019_gtFine"
    touch(tree, f"{stem}_color.png", f"{stem}_instanceIds.png", f"{stem}_polygons.json")
    touch(tree, "gtFine/val/lindau/._lindau_000001_000019_gtFine_labelIds.png")
    assert list_clips(Location.of(tree)) == before


def test_what_cannot_be_a_clip_is_named(tree: Path) -> None:
    touch(tree, "gtFine/val/lindau/lindau_000007_000004_gtFine_labelIds.png")
    touch(tree, f"{SEQUENCES}/lindau/lindau_000003_000000_leftImg8bit.png")
    (tree / "gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_labelIds.png").unlink()
    listing = list_clips(Location.of(tree))
    assert [clip.key for clip in listing.clips] == ["lindau_000001_000019"]
    assert {bad.source: bad.reason for bad in listing.unusable} == {
        f"{SEQUENCES}/frankfurt/frankfurt_000000": "no label in gtFine/val/frankfurt",
        f"{SEQUENCES}/lindau/lindau_000003": "no label in gtFine/val/lindau",
        "gtFine/val/lindau/lindau_000007_000004_gtFine_labelIds.png": (
            "a clip of 7 frames, 3 apart, cannot end on frame 4"
        ),
    }


def test_single_frames_need_no_sequences(tree: Path) -> None:
    stills = tree / "leftImg8bit" / "val"
    stills.parent.mkdir()
    (tree / "leftImg8bit_sequence" / "val").rename(stills)
    clip = list_clips(Location.of(tree), frames=1).clips[0]
    assert clip.frames == ("leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png",)
    assert [label.frame for label in clip.labels] == [0]
    with pytest.raises(ConfigError, match="leftImg8bit_sequence/val is missing"):
        list_clips(Location.of(tree))


def test_a_missing_folder_is_said_with_where_it_is_to_be_had(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/gtFine/val is missing; expected the Cityscapes root"):
        list_clips(Location.of(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"gtFine/train is missing; .*cityscapes-dataset\.com"):
        list_clips(Location.of(tree), split="train")
