"""Sources are listed without touching them: sorted, complete, and with what was passed over said so."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from deltactl.errors import ConfigError
from deltactl.ingest.sources import (
    FrameFolder,
    VideoFile,
    list_folder,
    list_kinetics,
    select,
)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(listing) -> list[str]:
    return [source.name for source in listing.sources]


def test_a_folder_is_listed_with_all_below_it_sorted_by_path(tmp_path: Path):
    touch(tmp_path / "b" / "deep" / "x.MP4", tmp_path / "a.webm", tmp_path / "b.mkv", tmp_path / "ü ä.b.c.mov")
    touch(tmp_path / "notes.txt", tmp_path / "b" / "Makefile", tmp_path / "._a.webm", tmp_path / ".cache" / "y.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.avi").mkdir()
    listing = list_folder(tmp_path)
    assert names(listing) == ["a.webm", "b.mkv", "b/deep/x.MP4", "folder.avi", "gone.mp4", "ü ä.b.c.mov"]
    assert "without a suffix (1)" in listing.notes[0]
    assert ".txt (1)" in listing.notes[0]


def test_links_to_folders_are_not_followed_and_said_so(tmp_path: Path):
    touch(tmp_path / "in" / "a.mp4", tmp_path / "out" / "b.mp4")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "away").symlink_to(tmp_path / "out")
    listing = list_folder(tmp_path / "in")
    assert names(listing) == ["a.mp4"]
    assert "links to folders (2)" in listing.notes[0]


def test_kinetics_holds_files_and_folders_of_frames(tmp_path: Path):
    touch(tmp_path / "train" / "playing guitar" / "abc_000001_000011.mp4", tmp_path / "val" / "surfing" / "v.mp4")
    touch(tmp_path / "train" / "abseiling" / "xyz_000001_000011" / "frame_0.033.jpg", tmp_path / "train" / "list.csv")
    listing = list_kinetics(tmp_path, "train")
    assert listing.sources == (
        FrameFolder("train/abseiling/xyz_000001_000011"),
        VideoFile("train/playing guitar/abc_000001_000011.mp4"),
    )
    assert names(list_kinetics(tmp_path, "val")) == ["val/surfing/v.mp4"]


@pytest.mark.parametrize(
    "line", ["train/c/b.mp4", "c/b.mp4", "b.mp4", "b", "c/b", "  c/b.mp4  ", "# a comment\nb", "train/c/b"]
)
def test_a_list_names_a_source_in_any_of_the_usual_ways(tmp_path: Path, line: str):
    touch(*(tmp_path / "root" / "train" / "c" / f"{name}.mp4" for name in ("a", "b", "bb")))
    listing = list_kinetics(tmp_path / "root", "train")
    (tmp_path / "list").write_text(f"{line}\n\nnot-there\n")
    assert names(select(listing, tmp_path / "list", None)) == ["train/c/b.mp4"]
    left = select(listing, None, tmp_path / "list")
    assert names(left) == ["train/c/a.mp4", "train/c/bb.mp4"]
    assert any("1 source left out" in note for note in left.notes)


def test_lists_that_cannot_be_used_are_refused(tmp_path: Path):
    touch(tmp_path / "root" / "a.mp4")
    listing = list_folder(tmp_path / "root")
    with pytest.raises(ConfigError, match="--exclude .*nowhere cannot be read"):
        select(listing, None, tmp_path / "nowhere")
    (tmp_path / "list").write_text("b.mp4\n")
    with pytest.raises(ConfigError, match="names none of the 1 sources"):
        select(listing, tmp_path / "list", None)
    (tmp_path / "list").write_text("a.mp4\n")
    with pytest.raises(ConfigError, match="no sources are left"):
        select(listing, None, tmp_path / "list")


def test_a_root_without_videos_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="is not a folder"):
        list_folder(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no videos were found"):
        list_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"neither a folder 'train' nor train\.zip"):
        list_kinetics(tmp_path, "train")
    with pytest.raises(ConfigError, match="does not exist"):
        list_kinetics(tmp_path / "nowhere", "train")


def test_names_that_are_not_text_are_listed_too(tmp_path: Path):
    with open(os.fsencode(tmp_path) + b"/bad\xff.mp4", "w"):  # noqa: PTH123
        pass
    assert names(list_folder(tmp_path)) == ["bad\udcff.mp4"]


def test_listing_opens_nothing_and_is_quick(tmp_path: Path):
    folder = tmp_path / "train" / "class"
    folder.mkdir(parents=True)
    for number in range(20_000):
        (folder / f"{number:06d}.mp4").symlink_to("nowhere")  # opening or asking for the size of any would fail
    started = time.perf_counter()
    listing = list_kinetics(tmp_path, "train")
    assert len(listing.sources) == 20_000
    assert time.perf_counter() - started < 2
