"""Columns that a data set itself tells, that lie in a zip, that changed since, or whose set has moved."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sidecars import FRAMES, beside, make_robots, states
from small_shards import encode, picture
from videos import make_video

from deltactl.artifacts import read_quarantine
from deltactl.cli import main
from deltactl.configs.ingest import IngestConfig
from deltactl.datasets.kinetics import KINETICS
from deltactl.errors import ConfigError, IdentityError, SourceError
from deltactl.ingest.run import run as run_ingest
from deltactl.ingest.shards.format import Clip, ShardSet, write_shard
from deltactl.ingest.shards.verify import verify_shards
from deltactl.ingest.sources import FrameFolder, VideoFile, ZippedFolder
from deltactl.ingest.video.columns import ColumnReader, columns_of
from deltactl.ingest.video.sampling import SampledClip
from deltactl.ingest.video.sidecars import marks_of
from deltactl.locations import Location
from deltactl.progress import Summary


def ingest(source: Path, out: Path, **settings) -> tuple[ShardSet, Summary]:
    values = {"dataset": "folder", "clips": 2, "frames": 4, "shard_clips": 4, "workers": 0, "max_bad": 1.0, **settings}
    summary = run_ingest(IngestConfig(source=str(source), out=str(out), **values))
    return ShardSet.open(str(out)), summary


def clips_of(shards: ShardSet) -> list[Clip]:
    return [clip for unit in shards.units for clip in shards.read(unit)]


def make_kinetics(root: Path) -> Path:
    """Write two videos of two classes, the name of one of which is not UTF-8."""
    for name, folder in (("x_1", "playing guitar"), ("y_2", b"caf\xe9".decode("utf-8", "surrogateescape"))):
        make_video(root / "train" / folder / f"{name}.mp4", frames=FRAMES)
    return root


# --- what a set tells ---


def test_class_and_split_of_kinetics_come_by_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_kinetics(tmp_path / "kinetics")
    shards, _ = ingest(root, tmp_path / "shards", dataset="kinetics")
    text = {"dtype": "text", "shape": []}
    assert shards.identity.values["columns"] == {"clip.class": text, "clip.split": text}
    told = {(str(clip.columns["clip.class"]), str(clip.columns["clip.split"])) for clip in clips_of(shards)}
    assert told == {("playing guitar", "train"), ("caf�", "train")}
    assert verify_shards(shards.root) == []
    assert main(["info", str(tmp_path / "shards")]) == 0
    assert "clip.class (text ()), clip.split (text ())" in " ".join(capsys.readouterr().out.split())
    bare, _ = ingest(root, tmp_path / "bare", dataset="kinetics", columns="none")
    assert bare.columns == ()
    assert not any(clip.columns for clip in clips_of(bare))


def test_a_set_of_kinetics_that_was_made_without_them_goes_on_without(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path / "kinetics")
    before, _ = ingest(root, tmp_path / "shards", dataset="kinetics", columns="none")
    make_video(root / "train" / "playing guitar" / "z_3.mp4", frames=FRAMES)
    after, summary = ingest(root, tmp_path / "shards", dataset="kinetics")
    assert (after.identity, summary.done, summary.skipped) == (before.identity, 2, 4)
    with pytest.raises(IdentityError, match=r"columns\.clip\.class\.dtype is absent there"):
        ingest(root, tmp_path / "shards", dataset="kinetics", columns="clip.class")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("val/a b/x.mp4", ("a b", "val")), ("train/x", ("", "train")), ("train/part/a b/x", ("a b", "train"))],
)
def test_the_class_is_the_folder_below_the_split(name: str, expected: tuple[str, str]) -> None:
    assert KINETICS.path_texts is not None
    told = KINETICS.path_texts(name)
    assert (told["clip.class"], told["clip.split"]) == expected


def test_what_paths_tell_needs_no_file_and_goes_before_what_one_holds(tmp_path: Path) -> None:
    beside(tmp_path / "b.mp4", pose=np.arange(6.0), times=np.arange(6) / 15, clip__camera="left")
    sources = [VideoFile("a.mp4"), VideoFile("b.mp4")]

    def texts(path: str) -> dict[str, str]:
        return {"clip.camera": path[0]}

    chosen = columns_of("all", tmp_path, sources, texts)
    assert [str(each) for each in chosen.columns] == ["clip.camera (text ())", "pose (float64 () a frame)"]
    assert chosen.in_files == {"pose"}
    assert columns_of("clip.camera", tmp_path, sources, texts).in_files == frozenset()
    reader = ColumnReader(tmp_path, chosen.columns, texts)
    known = reader.read(sources[1], np.arange(9) / 30, None).of(SampledClip((0, 4, 8), (0.0, 0.12, 8 / 30)))
    assert known["pose"].tolist() == [0, 2, 4]
    assert str(known["clip.camera"]) == "b"
    with pytest.raises(SourceError, match=r"a\.columns\.npz is not there; it holds the columns pose"):
        reader.read(sources[0], np.arange(9) / 30, None)
    with pytest.raises(ConfigError, match=r"--columns is clip\.camera,speed, but no source in .* has columns"):
        columns_of("clip.camera,speed", tmp_path, sources[:1], texts)


# --- in a zip ---


def test_folders_of_frames_in_a_zip_have_their_columns_beside_them_in_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number, name in enumerate(("x_1", "y_2", "z_3")):
        folder = tree / "train" / "surfing" / name
        folder.mkdir(parents=True)
        for frame in range(10):
            (folder / f"frame_{frame / 10:.2f}.jpg").write_bytes(encode(picture(64, 80, frame)))
        if name != "z_3":
            np.savez(f"{folder}.columns.npz", speed=np.arange(10.0) + 100 * number)
    shutil.make_archive(str(tmp_path / "a"), "zip", tree)
    from_folders, _ = ingest(tree, tmp_path / "one", dataset="kinetics", columns="all")
    from_zip, summary = ingest(tmp_path / "a.zip", tmp_path / "two", dataset="kinetics", columns="all")
    assert list(from_zip.identity.values["columns"]) == ["clip.class", "clip.split", "speed"]
    assert summary.quarantined == 1
    (entry,) = read_quarantine(from_zip.root)
    assert entry.reason == "z_3.columns.npz is not there; it holds the columns speed"
    assert len(clips_of(from_zip)) == 4
    for one, two in zip(clips_of(from_folders), clips_of(from_zip), strict=True):
        assert one.key == two.key
        assert two.columns["speed"].tolist() == one.columns["speed"].tolist()
        offset = 100 * ("x_1", "y_2", "z_3").index(two.meta.source[-3:])
        assert two.columns["speed"].tolist() == [index + offset for index in two.meta.indices]
    assert ingest(tmp_path / "a.zip", tmp_path / "two", dataset="kinetics", columns="all")[1].done == 0


def test_damaged_columns_in_a_zip_cost_their_source(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("x_1", "y_2"):
            for frame in range(4):
                archive.writestr(f"train/surfing/{name}/f_{frame}.jpg", encode(picture(64, 80, frame)))
        np.savez(tmp_path / "good.npz", speed=np.arange(4.0))
        archive.write(tmp_path / "good.npz", "train/surfing/x_1.columns.npz")
        archive.writestr("train/surfing/y_2.columns.npz", b"nonsense")
        archive.writestr("train/surfing/w.columns.npz/f_1.jpg", b"a folder of that name")
    shards, _ = ingest(tmp_path / "a.zip", tmp_path / "out", dataset="kinetics", columns="speed")
    assert {clip.meta.source for clip in clips_of(shards)} == {"train/surfing/x_1"}
    reasons = {entry.source: entry.reason for entry in read_quarantine(shards.root)}
    assert reasons["train/surfing/y_2"] == "y_2.columns.npz: is no .npz file: File is not a zip file"
    assert set(reasons) == {"train/surfing/y_2", "train/surfing/w.columns.npz"}


# --- what changed since ---


def test_columns_that_changed_since_their_shard_was_made_are_noticed_and_named(tmp_path: Path) -> None:
    root = make_robots(tmp_path / "in")
    shards, _ = ingest(root, tmp_path / "shards", columns="actions,number")
    tars = {unit: (tmp_path / "shards" / f"{unit}.tar").read_bytes() for unit in shards.units}

    changed = states(1)
    changed["pose"] += 1
    with np.load(beside(root / "b.mp4", **changed, clip__more="new")) as arrays:
        np.savez_compressed(root / "b.columns.npz", **dict(arrays))
    assert ingest(root, tmp_path / "shards", columns="actions,number")[1].skipped == 6, "others than are taken"

    changed["actions"][3] += 1  # of the same size
    size = (root / "c.columns.npz").stat().st_size
    assert beside(root / "b.mp4", **changed).stat().st_size == size
    with pytest.raises(IdentityError, match=r"shards was made from other sources: the columns of b\.mp4 are not those"):
        ingest(root, tmp_path / "shards", columns="actions,number")
    (root / "b.columns.npz").unlink()
    with pytest.raises(IdentityError, match=r"the columns of b\.mp4 are not those that were ingested"):
        ingest(root, tmp_path / "shards", columns="actions,number")
    assert {unit: (tmp_path / "shards" / f"{unit}.tar").read_bytes() for unit in shards.units} == tars

    beside(root / "b.mp4", **states(1))
    assert ingest(root, tmp_path / "shards", columns="actions,number")[1].skipped == 6
    with pytest.raises(IdentityError, match=r"columns\.pose\.dtype is absent there"):
        ingest(root, tmp_path / "shards", columns="pose")


def test_columns_that_are_mended_are_taken_and_those_of_shards_to_come_may_change(tmp_path: Path) -> None:
    root = make_robots(tmp_path / "in")
    beside(root / "b.mp4", **states(1, rows=3))
    shards, summary = ingest(root, tmp_path / "shards", columns="all", part="1/2")
    assert (summary.quarantined, shards.units) == (1, ["000000"])
    beside(root / "b.mp4", **states(1))
    beside(root / "c.mp4", **states(9))
    shards, _ = ingest(root, tmp_path / "shards", columns="all", retry_failed=True)
    assert sorted({clip.meta.source for clip in clips_of(shards)}) == ["a.mp4", "b.mp4", "c.mp4"]
    last = [clip for clip in clips_of(shards) if clip.meta.source == "c.mp4"]
    assert all(str(clip.columns["clip.text"]) == "put the cup 9 down" for clip in last)


def test_a_set_and_its_sources_may_be_moved_between_two_starts(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    make_robots(here / "in")
    before, _ = ingest(here / "in", here / "shards", columns="all", part="1/2")
    shutil.move(here, there)
    after, summary = ingest(there / "in", there / "shards", columns="all")
    assert after.identity == before.identity
    assert (summary.done, summary.skipped) == (2, 4)
    assert verify_shards(after.root) == []


def test_marks_are_of_what_is_there(tmp_path: Path) -> None:
    beside(tmp_path / "a.mp4", speed=np.arange(3))
    (tmp_path / "b.columns.npz").write_bytes(b"nonsense")
    (tmp_path / "c.columns.npz").mkdir()
    sources = [*(VideoFile(f"{name}.mp4") for name in "abc"), FrameFolder("d"), ZippedFolder("e", ())]
    marks = marks_of(tmp_path, sources, {"speed"})
    assert [name for name, mark in marks.items() if mark is None] == ["b.mp4", "c.mp4", "d", "e"]
    assert marks["a.mp4"] != marks_of(tmp_path, sources[:1], {"times"})["a.mp4"]


# --- verify ---


def test_a_shard_whose_clips_have_other_columns_than_its_set_is_found(tmp_path: Path) -> None:
    shards, _ = ingest(make_robots(tmp_path / "in", "ab"), tmp_path / "shards", columns="number")
    clips = clips_of(shards)
    clips[1] = replace(clips[1], columns={"number": clips[1].columns["number"].astype(np.int32)})
    write_shard(Location.of(tmp_path / "shards"), "000000", clips, [], {}, replace=True)
    found = [(each.path, each.reason) for each in verify_shards(shards.root)]
    assert ("000000.tar", f"clip {clips[1].key!r}: number is int32 (4,); int64 (4,) was expected") in found
