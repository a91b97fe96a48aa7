"""Which clips the Eigen split of KITTI has."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltactl.datasets.kitti import list_clips
from deltactl.errors import ConfigError
from deltactl.locations import Location

DRIVE = "2011_09_26_drive_0002_sync"
IMAGES = f"2011_09_26/{DRIVE}/image_02/data"


def split(tmp_path: Path, *lines: str) -> Location:
    path = tmp_path / "split.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return Location.of(path)


def line(frame: int, depth: str = f"{DRIVE}/proj_depth/groundtruth/image_02/x.png") -> str:
    return f"{IMAGES}/{frame:010}.png {depth} 721.5377"


def test_lines_with_depth_and_a_frame_number_from_nineteen_on_are_clips(trees: Path) -> None:
    split_file = Location.of(trees / "kitti" / "eigen_test.txt")
    listing = list_clips(Location.of(trees / "kitti"), split_file=split_file)
    assert [clip.key for clip in listing.clips] == [
        "2011_09_26_drive_0002_sync_image_02_0000000030",
        "2011_09_26_drive_0002_sync_image_02_0000000022",
        "2011_09_28_drive_0002_sync_image_02_0000000019",
    ]
    clip = listing.clips[0]
    assert clip.indices == (18, 20, 22, 24, 26, 28, 30)
    assert clip.frames[0] == f"{IMAGES}/0000000018.png"
    folder = f"{DRIVE}/proj_depth/groundtruth/image_02"
    assert clip.labels[0].paths == (f"val/{folder}/0000000018.png", f"train/{folder}/0000000018.png")
    assert [label.required for label in clip.labels] == [False] * 6 + [True]


def test_frames_before_nineteen_count_only_in_training(trees: Path, tmp_path: Path) -> None:
    root, lines = (
        Location.of(trees / "kitti"),
        split(tmp_path, line(18), line(12), line(11), line(19), line(20, "None")),
    )
    assert [clip.indices[-1] for clip in list_clips(root, split_file=lines).clips] == [19]
    assert [clip.indices[-1] for clip in list_clips(root, split_file=lines, split="train").clips] == [18, 12, 19]
    ones = list_clips(root, split_file=lines, split="train", frames=1)
    assert [clip.indices for clip in ones.clips] == [(18,), (12,), (11,), (19,)]


def test_a_missing_split_file_is_said_with_where_it_is_to_be_had(trees: Path, tmp_path: Path) -> None:
    root = Location.of(trees / "kitti")
    with pytest.raises(ConfigError, match=r"--split-file FILE.*697.*eigen_test_files_with_gt\.txt.*AdaBins"):
        list_clips(root, split_file=None)
    with pytest.raises(ConfigError, match=r"absent\.txt cannot be read.*697"):
        list_clips(root, split_file=Location.of(tmp_path / "absent.txt"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (f"{IMAGES}/0000000030.png", r"line 2 is '.*0030\.png'; expected the Eigen split"),
        ("../../etc/passwd None 1", r"line 2 is '\.\./\.\./etc/passwd None 1'"),
        ("../../image_02/data/0000000030.png x 1", r"line 2 is '\.\./\.\./image_02"),
        (line(22), "line 2 repeats line 1"),
        ("\x00" * 500, "line 2 is"),
    ],
)
def test_another_kind_of_list_is_refused(trees: Path, tmp_path: Path, bad: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list_clips(Location.of(trees / "kitti"), split_file=split(tmp_path, line(22), bad))


def test_a_root_without_the_drives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds none of the drives in .*split.txt; expected the KITTI root"):
        list_clips(Location.of(tmp_path), split_file=split(tmp_path, line(22)))
