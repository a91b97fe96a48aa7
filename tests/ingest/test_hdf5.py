"""HDF5 demonstrations, written by h5py as robomimic and LIBERO lay them out: frames, rows, splits, and bad files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from robot_sets import CONTROL_FREQ, EPISODES, HDF5_CAMERAS, TASKS, action_of, number_of, state_of, write_hdf5
from videos import make_video, read_number

from deltactl.artifacts import read_quarantine
from deltactl.cli import main
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import ConfigError, IdentityError
from deltactl.ingest.run import run
from deltactl.ingest.settle import default_name, resolved
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.verify import verify_shards
from deltactl.progress import Summary


def ingest(source: Path | list[Path], out: Path, **settings: Any) -> tuple[ShardSet, Summary]:
    values = {"columns": "all", "clips": 2, "frames": 4, "size": 64, "shard_clips": 8, "workers": 1, "max_bad": 1.0}
    named = tuple(map(str, source)) if isinstance(source, list) else str(source)
    summary = run(IngestConfig(source=named, out=str(out), **{"dataset": "hdf5", **values, **settings}))
    return ShardSet.open(str(out)), summary


def clips_of(shards: ShardSet) -> list[Clip]:
    return [clip for unit in shards.units for clip in shards.read(unit)]


def place_of(clip: Clip) -> tuple[str, str, int]:
    """Return file, camera and number of the demonstration of a clip."""
    file, camera, demo = clip.meta.source.rsplit("/", 2)
    return file, camera, int(demo.removeprefix("demo_"))


def check(clips: list[Clip], rate: float = CONTROL_FREQ, task: str | None = TASKS[0]) -> None:
    """Check that every clip shows the frames that it tells, the right way up, with their rows."""
    for clip in clips:
        _, camera, demo = place_of(clip)
        frames = clip.meta.indices
        images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in clip.frames]
        assert [read_number(image) for image in images] == [number_of(camera, demo, frame) for frame in frames]
        np.testing.assert_allclose(clip.meta.times, np.array(frames) / rate)
        wanted = {
            "actions": np.stack([action_of(demo, frame) for frame in frames]).astype(np.float64),
            "states": np.stack([state_of(demo, frame) for frame in frames]),
            "dones": np.array([frame == EPISODES[demo] - 1 for frame in frames]),
            "obs.gripper": np.array(frames) + 1000 * demo,
        }
        assert clip.columns.keys() == wanted.keys() | ({"clip.task"} if task else set())
        assert task is None or str(clip.columns["clip.task"]) == task
        for name, values in wanted.items():
            np.testing.assert_array_equal(clip.columns[name], values)
            assert clip.columns[name].dtype == values.dtype
        assert clip.meta.decoder == "h5py"


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_each_camera_of_each_demonstration_gives_its_frames_and_rows(compression: str | None, tmp_path: Path) -> None:
    place = write_hdf5(tmp_path / "in" / "lift.hdf5", compression=compression)
    shards, summary = ingest(place, tmp_path / "shards", workers=2)
    assert (summary.done, summary.quarantined) == (16, 0)
    clips = clips_of(shards)
    check(clips)
    assert {place_of(clip) for clip in clips} == {
        ("lift.hdf5", camera, demo) for camera in HDF5_CAMERAS for demo in range(4)
    }
    assert len({clip.source_name for clip in clips}) == len(EPISODES)  # held out together
    assert verify_shards(shards.root) == []


def test_pictures_of_other_conventions_are_taken_as_they_are(tmp_path: Path) -> None:
    """robomimic turns the pictures that it stores, and says nothing; a file may say `opencv`."""
    for convention in (None, "opencv"):
        place = write_hdf5(tmp_path / f"{convention}.hdf5", convention=convention, task=None)
        shards, _ = ingest(place, tmp_path / f"shards-{convention}")
        check(clips_of(shards), task=None)


def test_several_files_and_folders_are_one_set(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "libero" / "one.hdf5")
    write_hdf5(tmp_path / "libero" / "two" / "two.h5", EPISODES[:2])
    (tmp_path / "libero" / "notes.txt").write_text("not read")
    shards, summary = ingest(tmp_path / "libero", tmp_path / "shards")
    assert summary.done == 24
    check(clips_of(shards))
    assert {place_of(clip)[0] for clip in clips_of(shards)} == {"one.hdf5", "two/two.h5"}
    named, _ = ingest(
        [tmp_path / "libero" / "one.hdf5", tmp_path / "libero" / "two"], tmp_path / "named", cameras="agentview_rgb"
    )
    assert {place_of(clip)[:2] for clip in clips_of(named)} == {
        (file, "agentview_rgb") for file in ("one.hdf5", "two/two.h5")
    }


def test_the_data_set_is_known_by_the_files_name(tmp_path: Path) -> None:
    place = write_hdf5(tmp_path / "lift.hdf5", EPISODES[:1])
    config = resolved(IngestConfig(source=str(place)))
    assert (config.dataset, config.split, default_name(config)) == ("hdf5", "train", "lift")


def test_splits_are_the_masks_of_the_file(tmp_path: Path) -> None:
    place = write_hdf5(tmp_path / "lift.hdf5", masks={"train": [0, 2, 3], "valid": [1], "20_percent": [0]})
    train, _ = ingest(place, tmp_path / "train")
    val, _ = ingest(place, tmp_path / "val", split="val")
    assert {place_of(clip)[2] for clip in clips_of(train)} == {0, 2, 3}
    assert {place_of(clip)[2] for clip in clips_of(val)} == {1}
    check(clips_of(train) + clips_of(val))
    bare = write_hdf5(tmp_path / "bare.hdf5", EPISODES[:2])
    with pytest.raises(ConfigError, match=r"has no split val \(mask/valid\) in bare.hdf5"):
        ingest(bare, tmp_path / "none", split="val")


def test_the_rate_is_the_files_or_that_of_robosuite_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ten = write_hdf5(tmp_path / "ten.hdf5", rate=10)
    shards, _ = ingest(ten, tmp_path / "shards")
    check(clips_of(shards), rate=10)
    unknown = write_hdf5(tmp_path / "unknown.hdf5", EPISODES[:1], rate=None)
    assert main(["ingest", str(unknown), "--frames", "4", "--workers", "1", "--out", str(tmp_path / "other")]) == 0
    said = capsys.readouterr().err
    assert "no control_freq is told, so 20 frames a second: unknown.hdf5" in said
    assert "pictures from the bottom up (opengl), which are turned: unknown.hdf5" in said


def test_a_demonstration_may_have_a_task_of_its_own(tmp_path: Path) -> None:
    place = write_hdf5(tmp_path / "kitchen.hdf5", EPISODES[:2], task=None)
    with h5py.File(place, "a") as file:
        for number in range(2):
            file[f"data/demo_{number}"].attrs["ep_meta"] = f'{{"lang": "open drawer {number}"}}'
    shards, _ = ingest(place, tmp_path / "shards", columns="clip.task,actions")
    for clip in clips_of(shards):
        assert str(clip.columns["clip.task"]) == f"open drawer {place_of(clip)[2]}"


def test_all_means_numbers_with_a_row_for_each_frame(tmp_path: Path) -> None:
    place = write_hdf5(tmp_path / "lift.hdf5", EPISODES[:1])
    with h5py.File(place, "a") as file:
        demo = file["data/demo_0"]
        demo["obs/agentview_depth"] = np.zeros((EPISODES[0], 84, 84, 1), np.float32)
        demo["notes"] = ["text"] * EPISODES[0]
        demo["init"] = np.zeros(3)
        demo["single"] = 3.0
    shards, _ = ingest(place, tmp_path / "shards")
    check(clips_of(shards))


# --- what is wrong ----------------------------------------------------------------------------------------------------


def reasons(source: Path, out: Path, **settings: Any) -> tuple[dict[str, str], Summary]:
    """Return why sources are in quarantine, by their names."""
    shards, summary = ingest(source, out, **settings)
    return {entry.source: entry.reason for entry in read_quarantine(shards.root)}, summary


def replaced(name: str, values: Any, demo: int = 1) -> Any:
    def change(file: h5py.File) -> None:
        del file[f"data/demo_{demo}/{name}"]
        if values is not None:
            file[f"data/demo_{demo}"].create_dataset(name, data=values)

    return change


NINE = EPISODES[1]
NAN = np.full((NINE, 2), 0.5)
NAN[3, 1] = np.nan


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            replaced("actions", np.zeros((NINE - 1, 2))),
            "lift.hdf5: actions has 8 rows, its video 9 frames; a row for each frame was expected",
        ),
        (
            replaced("actions", np.zeros((NINE + 1, 2))),
            "lift.hdf5: actions has 10 rows, its video 9 frames; a row for each frame was expected",
        ),
        (replaced("actions", NAN), "lift.hdf5: actions[3, 1] is nan; finite numbers were expected"),
        (
            replaced("actions", np.array([b"left"] * NINE, dtype=object)),
            "lift.hdf5: actions holds object; one of bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, "
            "float16, float32, float64 was expected",
        ),
        (
            replaced("actions", np.zeros((NINE, 3))),
            "lift.hdf5: actions is float64 (9, 3); float64 (9, 2) was expected, as in the set's first",
        ),
        (replaced("actions", None), "lift.hdf5: it has no actions, which the others have"),
    ],
)
def test_columns_that_are_not_those_of_the_frames_cost_their_demonstration(
    change: Any, reason: str, tmp_path: Path
) -> None:
    place = write_hdf5(tmp_path / "lift.hdf5")
    with h5py.File(place, "a") as file:
        change(file)
    found, summary = reasons(place, tmp_path / "shards")
    assert found == {f"lift.hdf5/{camera}/demo_1": reason for camera in HDF5_CAMERAS}
    assert (summary.done, summary.quarantined) == (12, 2)
    check(clips_of(ShardSet.open(str(tmp_path / "shards"))))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replaced("obs/agentview_rgb", None), "data/demo_1/obs/agentview_rgb is not there; uint8 (T, H, W, 3) was"),
        (
            replaced("obs/agentview_rgb", np.zeros((NINE, 8, 8, 3), np.float32)),
            "data/demo_1/obs/agentview_rgb is float32 (9, 8, 8, 3); uint8 (T, H, W, 3) was expected",
        ),
        (
            replaced("obs/agentview_rgb", np.zeros((1, 8, 8, 3), np.uint8)),
            "holds a single frame; a clip needs at least",
        ),
        (
            replaced("obs/agentview_rgb", np.zeros((0, 8, 8, 3), np.uint8)),
            "holds a single frame; a clip needs at least",
        ),
    ],
)
def test_pictures_that_are_none_cost_their_source(change: Any, reason: str, tmp_path: Path) -> None:
    place = write_hdf5(tmp_path / "lift.hdf5")
    with h5py.File(place, "a") as file:
        change(file)
    found, summary = reasons(place, tmp_path / "shards", columns=None)
    assert list(found) == ["lift.hdf5/agentview_rgb/demo_1"]
    assert found["lift.hdf5/agentview_rgb/demo_1"].startswith(reason)
    assert summary.done == 14


def test_files_that_are_none_are_quarantined_and_links_not_followed(tmp_path: Path) -> None:
    good = write_hdf5(tmp_path / "in" / "good.hdf5", EPISODES[:1])
    (tmp_path / "in" / "bad.hdf5").write_bytes(b"nonsense" * 100)
    with h5py.File(tmp_path / "in" / "empty.hdf5", "w"):
        pass
    with h5py.File(tmp_path / "in" / "link.hdf5", "w") as file:
        file["data"] = h5py.ExternalLink(str(good), "/data")
    layout = h5py.VirtualLayout((EPISODES[0], 96, 160, 3), np.uint8)
    layout[:] = h5py.VirtualSource(str(good), "data/demo_0/obs/agentview_rgb", (EPISODES[0], 96, 160, 3))
    with h5py.File(tmp_path / "in" / "virtual.hdf5", "w") as file:
        file.create_group("data/demo_0/obs").create_virtual_dataset("agentview_rgb", layout)
    with h5py.File(tmp_path / "in" / "path.hdf5", "w") as file:
        file.create_group("data")["out"] = h5py.ExternalLink(str(good), "/data")
        file["mask/train"] = np.array(["out/demo_0"], "S")
    found, summary = reasons(tmp_path / "in", tmp_path / "shards")
    assert found["path.hdf5"] == "has no pictures: no obs/NAME of uint8 (T, H, W, 3) in data/out/demo_0"
    assert found["bad.hdf5"].startswith("cannot be read as HDF5: Unable to synchronously open file")
    assert (
        found["empty.hdf5"]
        == found["link.hdf5"]
        == ("has no group data; expected the layout of robomimic, data/DEMO/obs")
    )
    assert found["virtual.hdf5"] == "has no pictures: no obs/NAME of uint8 (T, H, W, 3) in data/demo_0"
    assert (summary.done, summary.quarantined) == (4, 5)


def test_a_cut_file_costs_what_it_lacks_and_nothing_more(tmp_path: Path) -> None:
    place = write_hdf5(tmp_path / "lift.hdf5", compression="gzip")
    data = bytearray(place.read_bytes())
    with h5py.File(place) as file:
        chunk = file["data/demo_2/obs/agentview_rgb"].id.get_chunk_info(0)
    start = chunk.byte_offset + 40
    data[start : start + 400] = bytes(400)
    place.write_bytes(data)
    found, summary = reasons(place, tmp_path / "shards", clips=4)
    assert list(found) == ["lift.hdf5/agentview_rgb/demo_2"]
    assert found["lift.hdf5/agentview_rgb/demo_2"].startswith("frame ")
    assert summary.done == 28


def test_files_without_pictures_and_folders_without_files_are_refused(tmp_path: Path) -> None:
    place = write_hdf5(tmp_path / "low_dim.hdf5", cameras=())
    with pytest.raises(ConfigError, match=r"none of low_dim.hdf5 in .* holds pictures: has no pictures: no obs/NAME"):
        ingest(place, tmp_path / "shards")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match=r"no HDF5 files were found in .*; expected .h5, .hdf5"):
        ingest(tmp_path / "nothing", tmp_path / "shards")
    with pytest.raises(ConfigError, match="absent.hdf5 does not exist; name HDF5 files, or a folder of them"):
        ingest(tmp_path / "absent.hdf5", tmp_path / "shards")
    with pytest.raises(ConfigError, match=r"--columns names speed, but .*lift.hdf5 has actions, clip.task, dones, "):
        ingest(write_hdf5(tmp_path / "lift.hdf5"), tmp_path / "shards", columns="speed")


def test_without_h5py_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_hdf5(tmp_path / "lift.hdf5", EPISODES[:1])
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert main(["ingest", str(place), "--out", str(tmp_path / "shards")]) == 1
    assert capsys.readouterr().err.strip() == (
        "error: --dataset hdf5 needs h5py, which is not installed; run: pip install 'deltactl[robotics]'"
    )


def test_a_replaced_file_is_noticed_and_a_new_one_taken_in(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "in" / "a.hdf5", EPISODES[:1])
    ingest(tmp_path / "in", tmp_path / "shards")
    write_hdf5(tmp_path / "in" / "b.hdf5", EPISODES[:2])
    _, summary = ingest(tmp_path / "in", tmp_path / "shards")
    assert (summary.done, summary.skipped) == (8, 4)
    write_hdf5(tmp_path / "in" / "a.hdf5", EPISODES[:2])
    with pytest.raises(IdentityError, match="a.hdf5/agentview_rgb/demo_0"):
        ingest(tmp_path / "in", tmp_path / "shards")


def test_a_folder_of_hdf5_files_needs_the_data_set_named(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "libero" / "one.hdf5", EPISODES[:1])
    with pytest.raises(ConfigError, match="no videos were found in .*, but HDF5 files; for these say --dataset hdf5"):
        ingest(tmp_path / "libero", tmp_path / "shards", dataset=None, columns=None)


def test_videos_beside_hdf5_files_are_another_set(tmp_path: Path) -> None:
    make_video(tmp_path / "in" / "a.mp4", frames=9)
    with pytest.raises(ConfigError, match="no HDF5 files were found"):
        ingest(tmp_path / "in", tmp_path / "shards")
