"""Columns from a file beside a video to the clips of a shard: the right rows, sound files only, the same bytes."""

from __future__ import annotations

import gc
import io
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import webdataset
from sidecars import FRAMES, beside, make_robots, states
from small_shards import encode, picture
from videos import make_video

from deltactl.artifacts import read_quarantine
from deltactl.cli import main
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import ConfigError, DamagedError
from deltactl.fields import Fields
from deltactl.ingest.plan import identity_of, plan
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.settle import resolved
from deltactl.ingest.shards.columns import (
    Column,
    checked_clip,
    columns_from,
    columns_to_json,
    decode_columns,
    encode_columns,
    names_in,
)
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.progress import Summary


def config(source: Path, out: Path, columns: str | None = "all", **settings) -> IngestConfig:
    defaults = {"dataset": "folder", "clips": 2, "frames": 4, "shard_clips": 4, "workers": 1, "max_bad": 1.0}
    return IngestConfig(source=str(source), out=str(out), columns=columns, **{**defaults, **settings})


def ingest(source: Path, out: Path, columns: str | None = "all", **settings) -> tuple[ShardSet, Summary]:
    summary = run_ingest(config(source, out, columns, **settings))
    return ShardSet.open(str(out)), summary


def clips_of(shards: ShardSet) -> list[Clip]:
    return [clip for unit in shards.units for clip in shards.read(unit)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos with columns of every kind."""
    folder = tmp_path_factory.mktemp("columns")
    make_robots(folder / "robots")
    return folder


def test_without_times_a_frame_has_the_row_of_its_number(root: Path, tmp_path: Path):
    shards, summary = ingest(root, tmp_path / "shards")
    assert (summary.done, summary.quarantined) == (6, 0)
    assert shards.identity.values["columns"] == {
        "actions": {"dtype": "float32", "shape": [7]},
        "clip.camera": {"dtype": "float16", "shape": [3, 3]},
        "clip.text": {"dtype": "text", "shape": []},
        "gripper": {"dtype": "bool", "shape": []},
        "number": {"dtype": "int64", "shape": []},
        "pose": {"dtype": "float64", "shape": [2, 3]},
    }
    for clip in clips_of(shards):
        told = states("abc".index(clip.meta.source[-5]))
        rows = list(clip.meta.indices)
        assert checked_clip(clip.columns, shards.columns, 4) is None
        for name, values in told.items():
            expected = values if name.startswith("clip") else values[rows]
            np.testing.assert_array_equal(clip.columns[name.replace("__", ".")], expected)


def test_with_times_a_frame_has_the_row_nearest_to_its_time(tmp_path: Path):
    late = [5.0 + 0.1 * number for number in range(FRAMES)]
    make_video(tmp_path / "in" / "late.mp4", times=late, frames=FRAMES)
    slow = np.array([4.9, 5.33, 5.61, 6.2, 6.95])
    beside(tmp_path / "in" / "late.mp4", times=slow, speed=np.arange(5, dtype=np.uint8) * 10)
    shards, _ = ingest(tmp_path / "in", tmp_path / "shards", clips=4)
    for clip in clips_of(shards):
        nearest = [int(np.abs(slow - time).argmin()) for time in clip.meta.times]
        assert clip.columns["speed"].tolist() == [10 * row for row in nearest]
        assert clip.columns["speed"].dtype == np.uint8
    assert "times" not in shards.identity.values["columns"]


def test_columns_are_chosen_by_name_and_stand_in_the_identity(root: Path, tmp_path: Path):
    shards, _ = ingest(root, tmp_path / "shards", "number, actions")
    assert {tuple(clip.columns) for clip in clips_of(shards)} == {("actions", "number")}
    assert list(shards.identity.values["columns"]) == ["actions", "number"]
    with pytest.raises(ConfigError, match=r"--columns names speed, but .*a\.columns\.npz has actions, clip\.camera"):
        ingest(root, tmp_path / "other", "speed,actions")
    everything, some = (identity_of(plan(resolved(config(root, tmp_path / "new", each)))) for each in ("all", "pose"))
    assert any("columns.actions.dtype" in line for line in everything.differences(some))


def test_without_the_option_nothing_changes_and_the_plan_says_that_columns_are_there(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bare = tmp_path / "bare"
    shutil.copytree(root, bare, ignore=shutil.ignore_patterns("*.npz"))
    with_columns, _ = ingest(root, tmp_path / "one", None)
    without, _ = ingest(bare, tmp_path / "two", None)
    assert with_columns.identity == without.identity
    assert "columns" not in without.identity.values
    for unit in without.units:
        assert (tmp_path / "one" / f"{unit}.tar").read_bytes() == (tmp_path / "two" / f"{unit}.tar").read_bytes()
    assert main(["ingest", str(root), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "3 × NAME.columns.npz" in told.out + told.err
    assert "--columns all takes them" in told.out + told.err
    assert "passed over" not in told.out + told.err
    assert main(["ingest", str(bare), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "columns" not in told.out + told.err


def test_shards_have_the_same_bytes_whatever_wrote_the_files(root: Path, tmp_path: Path):
    again = tmp_path / "again"
    shutil.copytree(root, again)
    for place in again.rglob("*.npz"):
        with np.load(place) as arrays:  # in another order, compressed, of another byte order, with other times
            values = {name: arrays[name] for name in reversed(arrays.files)}
        values["actions"] = np.asfortranarray(values["actions"].astype(">f4"))
        np.savez_compressed(place, **values)
    for source, out in ((root, "one"), (again, "two")):
        ingest(source, tmp_path / out)
    for unit in ("000000", "000001"):
        assert (tmp_path / "one" / f"{unit}.tar").read_bytes() == (tmp_path / "two" / f"{unit}.tar").read_bytes()


# webdataset leaves closing its files to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_plain_library_reads_them_and_all_samples_have_the_same_members(root: Path, tmp_path: Path):
    shards, _ = ingest(root, tmp_path / "shards")
    samples = [
        sample
        for unit in shards.units
        for sample in webdataset.WebDataset(str(tmp_path / "shards" / f"{unit}.tar"), shardshuffle=False).decode()
    ]
    gc.collect()
    assert len({tuple(sorted(name for name in sample if name[0] != "_")) for sample in samples}) == 1
    for sample, clip in zip(samples, clips_of(shards), strict=True):
        assert str(sample["columns.npz"]["clip.text"]) == str(clip.columns["clip.text"])
        np.testing.assert_array_equal(sample["columns.npz"]["pose"], clip.columns["pose"])


def test_frame_folders_have_columns_and_a_class_of_kinetics_is_one(tmp_path: Path):
    folder = tmp_path / "kinetics" / "train" / "playing guitar" / "x_1"
    make_video(folder.parent / "y_2.mp4", frames=FRAMES)
    folder.mkdir()
    for number in range(10):
        (folder / f"frame_{number / 10:.2f}.jpg").write_bytes(encode(picture(64, 80, number)))
    shards, _ = ingest(tmp_path / "kinetics", tmp_path / "named", "clip.class", dataset="kinetics")
    assert {str(clip.columns["clip.class"]) for clip in clips_of(shards)} == {"playing guitar"}
    np.savez(f"{folder}.columns.npz", speed=np.arange(10.0))
    shards, summary = ingest(tmp_path / "kinetics", tmp_path / "all", dataset="kinetics")
    assert list(shards.identity.values["columns"]) == ["clip.class", "clip.split", "speed"]
    assert {clip.meta.source for clip in clips_of(shards)} == {"train/playing guitar/x_1"}
    for clip in clips_of(shards):
        assert clip.columns["speed"].tolist() == list(clip.meta.indices)
    (entry,) = read_quarantine(shards.root)
    assert entry.source == "train/playing guitar/y_2.mp4"
    assert entry.reason == "y_2.columns.npz is not there; it holds the columns speed"
    assert summary.quarantined == 1


def rows(**changes: object) -> dict[str, object]:
    """Return sound columns with some changed, or without those that are None."""
    values = {"speed": np.arange(FRAMES, dtype=np.float32), "clip__text": "a text", **changes}
    return {name: each for name, each in values.items() if each is not None}


BAD: Mapping[str, tuple[dict[str, object], str]] = {
    "short": (rows(speed=np.zeros(FRAMES - 1, np.float32)), r"speed has 19 rows, its video 20 frames; a row for each"),
    "nan": (rows(speed=np.array([0, np.nan] * 10, np.float32)), r"speed\[1\] is nan; finite numbers were expected"),
    "infinite": (rows(speed=np.full(FRAMES, -np.inf, np.float32)), r"speed\[0\] is -inf; finite numbers were expected"),
    "type": (
        rows(speed=np.arange(FRAMES)),
        r"speed is int64 \(20,\); float32 \(20,\) was expected, as in",
    ),
    "shape": (
        rows(speed=np.zeros((FRAMES, 2), np.float32)),
        r"speed is float32 \(20, 2\); float32 \(20,\) was",
    ),
    "single": (rows(speed=np.float32(1)), r"speed is a single value; a row for each frame was expected"),
    "absent": (rows(speed=None), r"it has no speed, which the others have"),
    "texts": (rows(clip__text=["one", "two"]), r"clip\.text is text \(2,\); text \(\) was expected"),
    "long text": (rows(clip__text="a" * 5000), r"clip\.text has 5,000 letters; at most 4,096 are taken"),
    "falling": (rows(times=np.arange(FRAMES)[::-1] / 30), r"times\[1\] is 0\.6 after 0\.633333; times must rise"),
    "standing": (rows(times=np.zeros(FRAMES)), r"times\[1\] is 0 after 0; times must rise"),
    "nan time": (rows(times=np.full(FRAMES, np.nan)), r"times\[0\] is nan"),
    "early": (rows(times=np.arange(FRAMES) / 100), r"times go from 0 to 0\.19 s, the video from 0 to 0\.633333 s"),
    "unequal": (rows(times=np.arange(4) / 4), r"speed has 20 rows, times has 4; as many were expected"),
    "odd times": (rows(times=np.zeros((FRAMES, 1))), r"times is float64 \(20, 1\); seconds, one for each row"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_video_whose_columns_are_wrong_is_quarantined_with_what_and_where(name: str, root: Path, tmp_path: Path):
    sound, bad = tmp_path / "in" / "a.mp4", tmp_path / "in" / "b.mp4"
    sound.parent.mkdir()
    for place, letter, values in ((sound, "a", rows()), (bad, "b", BAD[name][0])):
        shutil.copy(root / "robots" / f"{letter}.mp4", place)
        beside(place, **values)
    shards, summary = ingest(sound.parent, tmp_path / "shards")
    assert [clip.meta.source for clip in clips_of(shards)] == ["a.mp4", "a.mp4"]
    (entry,) = read_quarantine(shards.root)
    assert entry.source == "b.mp4"
    assert re.match(rf"b\.columns\.npz: {BAD[name][1]}", entry.reason), entry.reason
    assert summary.quarantined == 1


def objects(place: Path) -> None:
    np.savez(place, speed=np.array([{"a": 1}] * FRAMES, object), allow_pickle=True)


def cut_off(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-40])


def flipped(place: Path) -> None:
    data = bytearray(place.read_bytes())
    data[data.find(b"speed.npy") + 9 + 128 + 20] ^= 0xFF
    place.write_bytes(bytes(data))


def bomb(place: Path) -> None:
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("speed.npy", bytes(300_000_000))


def claims(place: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("speed.npy", header.getvalue() + bytes(80))


def structured(place: Path) -> None:
    np.savez(place, speed=np.zeros(FRAMES, [("a", "f4")]))


def folder(place: Path) -> None:
    place.unlink()
    place.mkdir()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (objects, r": speed holds objects, which are not read"),
        (cut_off, r": is no \.npz file: File is not a zip file"),
        (flipped, r": speed is damaged: Bad CRC-32"),
        (bomb, r": its arrays have 300,000,000 bytes, more than the 256,000,000 that columns may have"),
        (claims, r": speed is damaged: 80 bytes are not those of float32 \(1099511627776,\)"),
        (structured, r": speed is \[\('a', '<f4'\)\]; one of bool, int8"),
        (folder, r" is a directory, not a file"),
    ],
)
def test_a_file_that_is_damaged_or_hostile_costs_its_video(
    harm: Callable[[Path], None], message: str, root: Path, tmp_path: Path
):
    for letter in "ab":
        video = tmp_path / "in" / f"{letter}.mp4"
        video.parent.mkdir(exist_ok=True)
        shutil.copy(root / "robots" / video.name, video)
        place = beside(video, speed=np.arange(FRAMES, dtype=np.float32))
    harm(place)
    shards, _ = ingest(tmp_path / "in", tmp_path / "shards")
    assert shards.count == 2
    (entry,) = read_quarantine(shards.root)
    assert re.match(rf"b\.columns\.npz{message}", entry.reason), entry.reason


def test_a_set_whose_first_columns_cannot_be_a_sets_is_refused(root: Path, tmp_path: Path):
    video = tmp_path / "in" / "a.mp4"
    video.parent.mkdir()
    shutil.copy(root / "robots" / "a.mp4", video)
    for values, message in (
        ({}, r"no source in .*in has columns that can be read; expected NAME\.columns\.npz beside NAME\.mp4"),
        ({"words": np.array(["one"] * FRAMES)}, r"words holds texts; .* texts need a name with clip\."),
        ({"picture": np.zeros((FRAMES, 100, 100))}, r"a row of picture has 10,000 numbers; at most 4,096 are taken"),
        ({f"c{each}": np.zeros((FRAMES, 4096)) for each in range(3)}, r"the columns of a frame have 98,304 bytes"),
        ({"clip__deep": np.zeros((1,) * 9)}, r"a row of clip\.deep has 9 axes; at most 8 are taken"),
        ({"alone": 3.0}, r"alone is a single value; .* or the name clip\.alone"),
        ({"complex": np.zeros(FRAMES, complex)}, r"complex is complex128; one of bool"),
        ({"of class": np.zeros(FRAMES)}, r"the name 'of class' is no column's"),
    ):
        if values:
            beside(video, **values)
        with pytest.raises(ConfigError, match=message):
            ingest(video.parent, tmp_path / "shards")


def test_added_sources_have_the_columns_that_the_set_began_with(root: Path, tmp_path: Path):
    folder = tmp_path / "in"
    shutil.copytree(root / "robots", folder)
    shards, _ = ingest(folder, tmp_path / "shards", "actions")
    make_video(folder / "0.mp4", frames=FRAMES)
    beside(folder / "0.mp4", actions=np.zeros((FRAMES, 3)))
    grown, summary = ingest(folder, tmp_path / "shards", "actions")
    assert grown.identity == shards.identity
    assert (summary.done, summary.quarantined) == (0, 1)


def test_columns_are_of_videos_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["ingest", str(tmp_path), "--dataset", "vspw", "--columns", "all"]) == 1
    assert "--columns" in capsys.readouterr().err
    assert main(["ingest", str(tmp_path), "--columns", "a b"]) == 2
    assert "expected names between commas" in capsys.readouterr().err


def test_damaged_columns_of_a_shard_are_named(root: Path, tmp_path: Path):
    data = encode_columns({"a": np.arange(3), "clip.text": np.array("ü")})
    assert names_in(data) == ["a", "clip.text"]
    with pytest.raises(ValueError, match="a is damaged"):
        decode_columns(data.replace(np.arange(3).tobytes(), bytes(24)), None, 1000)
    with pytest.raises(ValueError, match="more than the 100 that columns may have"):
        decode_columns(data, None, 100)
    columns = (Column("a", "int64", ()), Column("clip.text", "text", ()))
    values = decode_columns(data, None, 1000)
    assert checked_clip(values, columns, 3) is None
    assert checked_clip(values, columns, 4) == "a is int64 (3,); int64 (4,) was expected"
    assert checked_clip(values, columns[:1], 3) == "it has the columns a, clip.text; a were expected"
    assert columns_from(Fields(columns_to_json(columns), "here")) == columns
    for wrong in ({"a": {"dtype": "object", "shape": []}}, {"a": {"dtype": "int8", "shape": [-1]}}):
        with pytest.raises(DamagedError, match="here is damaged"):
            columns_from(Fields(wrong, "here"))
