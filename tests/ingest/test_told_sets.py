"""Data sets that are told in a file: which clips they have, what their labels mean, and what is refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from told_sets import FRAMES, depth, depths, folders, frame, mask, of, tell, video_files, write

from deltactl.configs.ingest import IngestConfig
from deltactl.datasets.known import data_set, labelled_set
from deltactl.datasets.listing import Listing
from deltactl.datasets.vspw import class_ids
from deltactl.datasets.vspw import list_clips as list_vspw
from deltactl.errors import ConfigError, TooManyBadError
from deltactl.ingest.plan import identity_of, plan
from deltactl.ingest.run import run
from deltactl.ingest.settle import resolved
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.images import decode_frame, decode_label
from deltactl.ingest.units import UnitLog
from deltactl.locations import Location

VSPW = {
    "frames": "data/{video}/origin/{frame}.jpg",
    "labels": "data/{video}/mask/{frame}.png",
    "numbers": "order",
    "fps": 15,
    "step_seconds": 0.2,
    "clip_every": 20,
    "labelled": "all",
    "splits": {"val": {"file": "val.txt"}},
    "task": "segmentation",
    "classes": [f"class {number}" for number in range(124)],
    "ids": {str(number + 1): number for number in range(124)},
    "ignore": [0, 255],
}


def listing(place: Path, split: Any = "val", frames: int = 7, **values: Any) -> Listing:
    record = of(place)
    return record.listing(Location.of(place.parent), split=split, split_file=None, frames=frames, **values)


def shards(place: Path, out: Path, **values: Any) -> list[Clip]:
    """Ingest a set, and return its clips."""
    run(IngestConfig(dataset=str(place), size=64, out=str(out), workers=0, **{"max_bad": 1, **values}))
    made = ShardSet.open(str(out))
    return [clip for unit in made.units for clip in made.read(unit)]


def quarantined(out: Path) -> str:
    return (out / "quarantine.jsonl").read_text()


# --- clips -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames_per_step", [1, 2])
@pytest.mark.parametrize("frames", [1, 7])
def test_the_vspw_tree_told_in_a_file_has_the_clips_of_the_built_in_set(
    trees: Path, tmp_path: Path, frames: int, frames_per_step: int
) -> None:
    record = of(tell(tmp_path, root=str(trees / "VSPW"), **VSPW))
    steps = {"frames": frames, "frames_per_step": frames_per_step}
    root = Location.of(record.root or "")
    assert record.listing(root, split="val", split_file=None, **steps) == list_vspw(root, **steps)
    stored = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(record.target(stored), class_ids(stored))
    assert (record.fps, record.classes, record.label, record.task) == (15, 124, "mask", "segmentation")


def test_a_missing_file_leaves_the_clips_those_of_the_built_in_set(trees: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(trees / "VSPW", tmp_path / "VSPW"))
    for gone in ("origin/00000024.jpg", "mask/00000024.png", "origin/00000003.jpg", "mask/00000039.png"):
        (root / "data" / "100_clip" / gone).unlink()
    place = Location.of(root)
    told = of(tell(tmp_path, **VSPW))
    assert told.listing(place, split="val", split_file=None, frames=7) == list_vspw(place)


def test_clips_end_on_labelled_frames_with_as_many_frames_before(tmp_path: Path) -> None:
    place = folders(tmp_path)
    clips = listing(place).clips
    assert [clip.key for clip in clips] == [f"{video}_{n:04}" for video in ("a_1", "a_2", "b_1") for n in (9, 14)]
    assert clips[0].indices == tuple(range(3, 10))
    assert clips[0].frames[0] == "frames/a_1/0003.png"
    assert [(label.frame, label.paths, label.required) for label in clips[0].labels] == [
        (1, ("masks/a_1/0004.png",), False),
        (6, ("masks/a_1/0009.png",), True),
    ]
    assert {clip.video for clip in listing(place, "train").clips} == {"a_1", "a_2"}
    stepped = listing(folders(tmp_path, step_seconds=0.2), frames=4, frames_per_step=2).clips
    assert stepped[0].indices == (2, 3, 4, 5, 6, 7, 8, 9)
    assert [label.frame for label in stepped[0].labels] == [7]


def test_clips_may_end_on_every_nth_frame(tmp_path: Path) -> None:
    clips = listing(folders(tmp_path, clip_every=4, clip_first=2), frames=3).clips
    assert [clip.indices[-1] for clip in clips if clip.video == "a_1"] == [2, 6, 10, 14]
    assert [clip.indices[-1] for clip in listing(folders(tmp_path, clip_every=8), frames=3).clips][:2] == [7, 15]


def test_a_video_may_be_a_part_of_a_name_below_any_folder(tmp_path: Path) -> None:
    for city, video, number in (("x", "x_1", 3), ("x", "x_1", 4), ("y", "y_1", 3), ("y", "y_1", 4)):
        write(tmp_path / "img" / "val" / city / f"{video}_{number:06}_left.png", frame(number))
    write(tmp_path / "gt" / "val" / "x" / "x_1_000004_ids.png", mask(4))
    patterns = {"frames": "img/{split}/*/{video}_{frame}_left.png", "labels": "gt/{split}/*/{video}_{frame}_ids.png"}
    found = listing(tell(tmp_path, **patterns, splits=None, task="segmentation", classes=["a", "b"]), frames=2)
    (clip,) = found.clips
    assert clip.frames == ("img/val/x/x_1_000003_left.png", "img/val/x/x_1_000004_left.png")
    assert (clip.key, clip.video) == ("x_1_000004", "x_1")
    assert [(bad.source, bad.clips_before) for bad in found.unusable] == [("y_1", 1)]


# --- shards ----------------------------------------------------------------------------------------------------------


def test_folders_of_pictures_become_shards(tmp_path: Path) -> None:
    clips = shards(folders(tmp_path / "set"), tmp_path / "shards")
    assert len(clips) == 6
    assert np.array_equal(decode_frame(clips[0].frames[6]), frame(9)[..., ::-1])
    assert np.array_equal(decode_label(clips[0].labels[6]), mask(9))
    assert clips[0].meta.times[-1] == pytest.approx(0.9)


def test_frames_of_videos_are_those_that_their_labels_are_of(tmp_path: Path) -> None:
    clips = shards(video_files(tmp_path / "set"), tmp_path / "shards")
    assert [clip.key for clip in clips] == ["a_1_010", "a_1_015", "b_1_010", "b_1_015"]
    assert clips[0].meta.indices == tuple(range(3, 10))
    for number, data in zip(clips[0].meta.indices, clips[0].frames, strict=True):
        shown = decode_frame(data).astype(int)
        differences = [np.abs(shown - frame(each)[..., ::-1]).mean() for each in range(FRAMES)]
        assert int(np.argmin(differences)) == number
    assert np.array_equal(decode_label(clips[0].labels[6]), mask(9))


def test_a_video_that_ends_before_a_label_is_quarantined_by_name(tmp_path: Path) -> None:
    place = video_files(tmp_path / "set")
    write(tmp_path / "set" / "labels" / "b_1-040.png", mask(0))
    assert len(shards(place, tmp_path / "shards")) == 4
    assert "videos/b_1.mp4 has 16 frames, and the clip needs the one after 39 others" in quarantined(
        tmp_path / "shards"
    )


def test_a_damaged_video_is_named(tmp_path: Path) -> None:
    place = video_files(tmp_path / "set", clip_every=8)
    (tmp_path / "set" / "videos" / "b_1.mp4").write_bytes(b"no video")
    found = listing(place)
    assert {clip.video for clip in found.clips} == {"a_1"}
    assert "videos/b_1.mp4 cannot be read as video" in found.unusable[0].reason


def test_depth_is_of_sixteen_bits_in_metres_within_its_range(tmp_path: Path) -> None:
    place = depths(tmp_path / "set")
    clips = shards(place, tmp_path / "shards")
    assert [clip.key for clip in clips] == ["b_1_0007", "b_1_0012"]
    stored = decode_label(clips[0].labels[6])
    assert np.array_equal(stored, depth(7))
    assert set(np.unique(of(place).target(stored))) == {0.0, 2.0, 8.0}
    assert set(np.unique(of(depths(tmp_path / "set", depth_range=[0.5, 5])).target(stored))) == {0.0, 2.0}


def test_identity_is_what_the_file_says_not_where_it_lies(tmp_path: Path) -> None:
    place = folders(tmp_path / "set")

    def identity(file: Path) -> str:
        config = resolved(IngestConfig(dataset=str(file), source=str(tmp_path / "set"), size=64))
        return identity_of(plan(config)).hash()

    before = identity(place)
    moved = tmp_path / "elsewhere.yml"
    moved.write_text(f"# the same\nroot: {tmp_path / 'set'}\n{place.read_text()}clip_every: null\n")
    assert identity(moved) == before
    moved.write_text(f"title: Seen by people\n{place.read_text().replace('[255, 0, 0]', '[9, 9, 9]')}")
    assert identity(moved) == before
    moved.write_text(place.read_text().replace("ground", "soil"))
    assert identity(moved) != before


def test_what_was_made_knows_as_much_of_the_set_as_it_needs(tmp_path: Path) -> None:
    record = of(folders(tmp_path))
    assert record.said_as == "blocks-told.segmentation.2"
    described = labelled_set(record.said_as)
    assert (described.said_as, described.task, described.classes) == (record.said_as, "segmentation", 2)
    with pytest.raises(ConfigError, match=r"was told in a file; name it: --dataset FILE.yaml"):
        described.listing(Location.of(tmp_path), split="val", split_file=None, frames=7)


def test_the_maker_of_its_clips_goes_to_another_process_and_sees_a_changed_file(tmp_path: Path) -> None:
    place = folders(tmp_path)
    planned = plan(resolved(IngestConfig(dataset=str(place), size=64)))
    sent = pickle.dumps(planned.maker)
    again: Any = pickle.loads(sent)
    assert again._record == data_set(str(place))
    of(folders(tmp_path, other_ids="ignore"))  # read anew, as another process does
    changed: Any = pickle.loads(sent)
    with pytest.raises(ConfigError, match=r"set.yaml was changed since the clips were planned; run this again"):
        _ = changed._record


def test_a_file_that_is_edited_while_the_work_goes_on_does_not_change_it(tmp_path: Path) -> None:
    place = folders(tmp_path)
    planned = plan(resolved(IngestConfig(dataset=str(place), size=64)))
    before = data_set(str(place))
    place.write_text("no: [yaml")
    assert data_set(str(place)) == before
    assert pickle.loads(pickle.dumps(planned.maker)).dataset == str(place)
    with pytest.raises(ConfigError, match=r"set.yaml"):
        resolved(IngestConfig(dataset=str(place), size=64))


def test_a_maker_that_has_worked_goes_to_another_process(tmp_path: Path) -> None:
    planned: Any = plan(resolved(IngestConfig(dataset=str(folders(tmp_path)), size=64)))
    (unit,) = planned.units
    log = UnitLog()
    here = [clip.frames for clip in planned.maker.clips(unit, log)]
    there: Any = pickle.loads(pickle.dumps(planned.maker))
    assert [clip.frames for clip in there.clips(unit, log)] == here
    assert len(here) == 6


# --- what is wrong with the data -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.zeros((32, 96), np.uint8), "label masks/a_1/0014.png is 32 × 96 pixels but its frame is 64 × 96"),
        (np.zeros((64, 96), np.uint16), "has uint16 pixels of shape (64, 96); expected one channel of 8 bits"),
        (np.zeros((64, 96, 3), np.uint8), "one channel of 8 or 16 bits was expected"),
        (
            np.array([[7] * 96, [9] * 96, *[[0] * 96] * 62], np.uint8),
            "label masks/a_1/0014.png has other values than those of the 2 classes and what is ignored: 7 (96 pixels), "
            "9 (96 pixels); add them to ids or ignore, or say other_ids: ignore",
        ),
    ],
)
def test_a_label_that_cannot_be_used_is_quarantined_by_name(tmp_path: Path, label: np.ndarray, message: str) -> None:
    place = folders(tmp_path / "set")
    write(tmp_path / "set" / "masks" / "a_1" / "0014.png", label)
    clips = shards(place, tmp_path / "shards")
    assert [clip.key for clip in clips] == ["a_1_0009", "a_2_0009", "a_2_0014", "b_1_0009", "b_1_0014"]
    assert message in quarantined(tmp_path / "shards").encode().decode("unicode_escape").encode("latin-1").decode()


def test_other_values_may_be_ignored(tmp_path: Path) -> None:
    place = folders(tmp_path / "set", other_ids="ignore")
    write(tmp_path / "set" / "masks" / "a_1" / "0014.png", np.full((64, 96), 7, np.uint8))
    assert len(shards(place, tmp_path / "shards")) == 6
    assert (of(place).target(np.full((2, 2), 7, np.uint8)) == 255).all()


def test_a_frame_without_its_label_and_one_of_another_size_are_quarantined(tmp_path: Path) -> None:
    place = depths(tmp_path / "set", frame_size="64x96")
    (tmp_path / "set" / "val" / "depth" / "b_1_0003.png").unlink()
    cv2.imwrite(str(tmp_path / "set" / "val" / "rgb" / "b_1_0012.png"), np.zeros((48, 96, 3), np.uint8))
    with pytest.raises(TooManyBadError, match=r"2 of 2 sources cannot be read"):
        shards(place, tmp_path / "shards", max_bad=0.1)
    found = quarantined(tmp_path / "shards")
    assert "label val/depth/b_1_0003.png is missing" in found
    assert "48 \\u00d7 96" in found or "48 × 96" in found


def test_labels_of_a_video_that_is_not_there_and_frames_without_labels_are_counted(tmp_path: Path) -> None:
    place = folders(tmp_path)
    (tmp_path / "masks" / "a_1").rename(tmp_path / "masks" / "a_9")
    found = listing(place)
    assert {bad.source: bad.reason for bad in found.unusable} == {
        "a_1": "no labels by the pattern masks/{video}/{frame}.png",
        "a_9": "there are 3 labels of it, but no frames by the pattern frames/{video}/{frame}.png",
    }
    assert {clip.video for clip in found.clips} == {"a_2", "b_1"}


def test_a_label_of_a_frame_that_is_not_there_is_quarantined(tmp_path: Path) -> None:
    place = folders(tmp_path / "set")
    write(tmp_path / "set" / "masks" / "b_1" / "0029.png", mask(0))
    shards(place, tmp_path / "shards")
    assert "frame frames/b_1/0023.png is missing" in quarantined(tmp_path / "shards")


def test_videos_too_short_for_a_clip_are_named(tmp_path: Path) -> None:
    place = folders(tmp_path)
    for number in (9, 14):
        (tmp_path / "masks" / "a_2" / f"{number:04}.png").unlink()
    (bad,) = listing(place).unusable
    assert bad.source == "a_2"
    assert bad.reason == "no clip of 7 frames fits: it has 1 frame that clips may end on, the last is 4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": "frame/{video}/{frame}.png"}, r" has no frame; did you mean frames\?$"),
        ({"frames": "*/{video}.d/{frame}.png"}, r"/frames has a_1, a_2, b_1, and none is like \{video\}.d$"),
        ({"frames": "frames/{video}/{frame}.jpg"}, r"has 0000.png, 0001.png, 0002.png and 13 more, and none is like"),
        ({"frames": "frames/{frame}/{video}.png"}, r"none is like \{frame\}; \{frame\} is a number, numbers: order"),
        (
            {"frames": "frames/{video}/0000.png/{frame}.png"},
            r"0000.png is a file, and \{frame\}.png was expected in it",
        ),
        ({"splits": {"val": {"videos": ["c"]}}}, r"frames has a_1, a_2, b_1, and no video among them is of this split"),
    ],
)
def test_a_pattern_that_nothing_matches_says_how_far_it_leads(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        listing(folders(tmp_path / "set", **change))


def test_two_files_of_one_frame_are_refused(tmp_path: Path) -> None:
    place = folders(tmp_path, frames="*/{video}/{frame}.png", labels="masks/{video}/{frame}.png")
    with pytest.raises(ConfigError, match=r"frames/a_1/0004.png and masks/a_1/0004.png are both frame 0004 of video"):
        listing(place)


@pytest.mark.parametrize(
    ("change", "split", "message"),
    [
        ({"frames": "images/{video}/{frame}.png"}, "val", r"has no frames of the split val by the pattern images/"),
        ({"labels": "gt/{video}/{frame}.png"}, "val", r"has no labels of the split val by the pattern gt/"),
        ({"splits": {"val": {"videos": ["z_*"]}}}, "val", r"has no frames of the split val by the pattern frames/"),
        ({"splits": {"val": {"videos": ["*"]}}}, "train", r"has no split train; its file tells of val: add train"),
        ({"splits": {"val": {"file": "none.txt"}}}, "val", r"none.txt.*expected the list of the videos of the split"),
        ({"splits": {"val": {"file": "empty.txt"}}}, "val", r"empty.txt is empty; expected the videos of the split"),
        ({"splits": {"val": {"file": "twice.txt"}}}, "val", r"line 2 repeats line 1 \(a_1\)"),
        ({"splits": {"val": {"file": "deep.txt"}}}, "val", r"line 1 is 'a/b'; expected what \{video\} is"),
        ({"step_seconds": 0.2}, "val", r"a step of 3 frames does not fit between moments 2 frames apart"),
    ],
)
def test_a_split_that_is_not_there_is_refused(tmp_path: Path, change: dict[str, Any], split: str, message: str) -> None:
    place = folders(tmp_path, **change)
    for name, text in (("empty", "\n"), ("twice", "a_1\na_1\n"), ("deep", "a/b\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(ConfigError, match=message):
        listing(place, split, frames_per_step=3)


# --- what is wrong with the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Bad Name"}, "the setting 'name' is Bad Name; expected 1 to 40 small letters"),
        ({"name": "vspw"}, "name is vspw, which deltactl or a plug-in uses itself; expected another one"),
        ({"fps": 0}, "the setting 'fps' is 0; expected a value greater than 0"),
        ({"fps": None}, "the setting 'fps' is missing"),
        ({"step_seconds": 0.01}, "step_seconds is 0.01, less than a frame at 10 fps; expected 1 / fps or more"),
        ({"frame": "x"}, "unknown setting 'frame'; did you mean 'frames'?"),
        ({"frames": None}, "expected either frames (pictures) or videos (files), and neither is there"),
        ({"videos": "{video}.mp4"}, "expected either frames (pictures) or videos (files), and both are there"),
        ({"frames": "f/{frame}.png"}, "expected a pattern with {video} and {frame}; it lacks {video}"),
        ({"frames": "f/{vidoe}/{frame}.png"}, "expected a pattern without {vidoe}; did you mean {video}?"),
        ({"frames": "../{video}/{frame}.png"}, "expected a path below the root"),
        ({"frames": "f/{video}{frame}.png"}, "expected something between two fields of the pattern"),
        ({"splits": None}, "splits is missing; expected it, or {split} in the pattern of frames or videos"),
        ({"splits": {"test": {"videos": ["*"]}}}, "'train' or 'val'"),
        ({"splits": {"val": {}}}, "a split has either file (a list of videos) or videos (names with *)"),
        ({"task": "boxes"}, "the setting 'task' is boxes; expected 'segmentation', 'depth' or 'none'"),
        ({"labels": None}, "task is segmentation, but labels is missing"),
        ({"task": "none"}, "task is none, but labels are told"),
        ({"classes": []}, "classes has 0 names; expected 1 to 255"),
        ({"classes": ["a", "a"], "colours": None}, "classes has 'a' twice"),
        ({"colours": {"sky": [0, 0, 0]}}, "colours has 'sky', which is none of the classes"),
        ({"ids": {"7": 2}}, "ids maps 7 to 2; expected class ids from 0 to 1"),
        ({"ignore": 1}, "ignore has 1, which is also the stored value of a class"),
        ({"depth_scale": 256}, "depth_scale is told, but task is segmentation; leave it out"),
        ({"stage": "world"}, "is for 'world'; expected a data set (stage: dataset)"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    place = folders(tmp_path, **change)
    with pytest.raises(ConfigError) as caught:
        of(place)
    text = str(caught.value)
    assert text.startswith(str(place))
    assert "\n" not in text
    assert message in text


def test_classes_may_be_counted_instead_of_named(tmp_path: Path) -> None:
    assert of(folders(tmp_path, classes=3, colours=None)).told.classes == ("class 0", "class 1", "class 2")
    with pytest.raises(ConfigError, match=r"'classes' is 256; expected names, or how many there are, 1 to 255"):
        of(folders(tmp_path, classes=256, colours=None))


def test_a_file_of_depth_needs_its_scale(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"depth_scale is missing; expected the stored units of a metre"):
        of(depths(tmp_path, depth_scale=None))
    with pytest.raises(ConfigError, match=r"depth_range is 9 to 1 m; expected two numbers"):
        of(depths(tmp_path, depth_range=[9, 1]))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml.*expected a file that tells a data set"):
        of(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match=r"list.yaml"):
        of(tmp_path / "list.yaml")
