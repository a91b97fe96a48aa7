"""LeRobot sets, written by LeRobot's library: the right frames and rows of each episode, and what is wrong by name."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow
import pytest
from robot_sets import (
    CAMERAS,
    DIVIDED,
    EPISODES,
    FPS,
    SEVERAL,
    TASKS,
    action_of,
    change_info,
    change_table,
    copy_of,
    number_of,
    state_of,
)
from videos import make_video, read_number

from deltactl.artifacts import read_quarantine
from deltactl.cli import main
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import ConfigError, IdentityError
from deltactl.ingest.describe import describe
from deltactl.ingest.episodes.lerobot import episode_rows
from deltactl.ingest.run import run
from deltactl.ingest.settle import default_name, resolved
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.ingest.shards.verify import verify_shards
from deltactl.locations import Location
from deltactl.progress import Summary

DATA = "data/chunk-000/file-000.parquet"
FRONT = f"videos/{CAMERAS[0]}/chunk-000/file-000.mp4"


def ingest(source: Path, out: Path, **settings: Any) -> tuple[ShardSet, Summary]:
    values = {"columns": "all", "clips": 3, "frames": 4, "size": 64, "shard_clips": 9, "workers": 1, "max_bad": 1.0}
    summary = run(IngestConfig(source=str(source), out=str(out), **{**values, **settings}))
    return ShardSet.open(str(out)), summary


def clips_of(shards: ShardSet) -> list[Clip]:
    return [clip for unit in shards.units for clip in shards.read(unit)]


def place_of(clip: Clip) -> tuple[str, int]:
    """Return camera and number of the episode of a clip."""
    camera, _, episode = clip.meta.source.partition("/")
    return camera, int(episode.removeprefix("episode_"))


def numbers_in(clip: Clip) -> list[int]:
    """Return the numbers that its frames show."""
    images = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in clip.frames)
    return [read_number(image) for image in images]


def check(clips: list[Clip]) -> None:
    """Check that every clip shows the frames that it tells, with their rows."""
    for clip in clips:
        camera, episode = place_of(clip)
        frames = clip.meta.indices
        assert max(frames) < EPISODES[episode]
        assert numbers_in(clip) == [number_of(camera, episode, frame) for frame in frames]
        np.testing.assert_allclose(clip.meta.times, np.array(frames) / FPS, atol=1e-6)
        wanted = {
            "action": np.stack([action_of(episode, frame) for frame in frames]),
            "observation.state": np.stack([state_of(episode, frame) for frame in frames]),
            "next.done": np.array([frame == EPISODES[episode] - 1 for frame in frames]),
            "timestamp": (np.array(frames) / FPS).astype(np.float32),
            "frame_index": np.array(frames),
            "episode_index": np.full(len(frames), episode),
            "index": np.array(frames) + sum(EPISODES[:episode]),
            "task_index": np.full(len(frames), episode % len(TASKS)),
        }
        assert clip.columns.keys() == {*wanted, "clip.task"}
        assert str(clip.columns["clip.task"]) == TASKS[episode % len(TASKS)]
        for name, values in wanted.items():
            np.testing.assert_array_equal(clip.columns[name], values)
            assert clip.columns[name].dtype == values.dtype


@pytest.mark.parametrize("source", [SEVERAL, DIVIDED], ids=["several", "divided"])
def test_each_camera_of_each_episode_gives_its_frames_and_rows(source: Path, tmp_path: Path) -> None:
    shards, summary = ingest(source, tmp_path / "shards", workers=2)
    assert (summary.done, summary.quarantined) == (24, 0)
    clips = clips_of(shards)
    check(clips)
    assert {place_of(clip) for clip in clips} == {(camera, number) for camera in CAMERAS for number in range(4)}
    seen = {(clip.meta.source, index) for clip in clips for index in clip.meta.indices}
    assert {index for _, index in seen} >= {0, EPISODES[1] - 1}
    assert verify_shards(Location.of(tmp_path / "shards")) == []
    assert "action (float32 (2,) a frame)" in describe(Location.of(tmp_path / "shards"))["columns"]


def test_every_frame_of_an_episode_can_be_in_a_clip(tmp_path: Path) -> None:
    """Steps of a tenth of a second, so that a clip as long as an episode is the whole of it, borders and all."""
    for source in (SEVERAL, DIVIDED):
        shards, _ = ingest(source, tmp_path / source.name, clips=1, frames=9, stride="0.1")
        clips = clips_of(shards)
        check(clips)
        whole = [clip for clip in clips if place_of(clip)[1] == 1]
        assert [clip.meta.indices for clip in whole] == [tuple(range(9))] * 2


def test_cameras_of_an_episode_are_held_out_together(tmp_path: Path) -> None:
    shards, _ = ingest(SEVERAL, tmp_path / "shards")
    names = {(place_of(clip)[1], clip.source_name) for clip in clips_of(shards)}
    assert len(names) == len(EPISODES)


def test_cameras_are_chosen_by_name(tmp_path: Path) -> None:
    shards, summary = ingest(SEVERAL, tmp_path / "one", cameras="wrist", columns="action,clip.task")
    assert summary.done == 12
    assert {place_of(clip)[0] for clip in clips_of(shards)} == {CAMERAS[1]}
    assert [column.name for column in shards.columns] == ["action", "clip.task"]
    with pytest.raises(ConfigError, match=r"--cameras names side, but .* has observation.images.front, observation"):
        ingest(SEVERAL, tmp_path / "two", cameras="side,front")
    make_video(tmp_path / "in" / "a.mp4", frames=9)
    with pytest.raises(ConfigError, match="the sources in .* have none to choose from"):
        ingest(tmp_path / "in", tmp_path / "three", dataset="folder", cameras="front", columns=None)


def test_a_camera_may_be_added_later(tmp_path: Path) -> None:
    ingest(SEVERAL, tmp_path / "shards", cameras="wrist")
    shards, summary = ingest(SEVERAL, tmp_path / "shards")
    assert (summary.done, summary.skipped) == (12, 12)
    check(clips_of(shards))


def test_the_data_set_is_known_by_its_look_and_the_shards_by_its_folder() -> None:
    config = resolved(IngestConfig(source=str(SEVERAL)))
    assert (config.dataset, config.split, config.clips) == ("lerobot", "train", 1)
    assert default_name(config) == "several"


def test_splits_are_those_of_the_set(tmp_path: Path) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")
    change_info(root, splits={"train": "0:3", "val": "3:4"})
    train, _ = ingest(root, tmp_path / "train")
    val, _ = ingest(root, tmp_path / "val", split="val")
    assert {place_of(clip)[1] for clip in clips_of(train)} == {0, 1, 2}
    assert {place_of(clip)[1] for clip in clips_of(val)} == {3}
    with pytest.raises(ConfigError, match=r"info.json has no split val; it tells of train"):
        ingest(SEVERAL, tmp_path / "none", split="val")
    change_info(root, splits={"train": "all"})
    with pytest.raises(ConfigError, match="the split train is 'all'; A:B was expected, such as 0:50"):
        ingest(root, tmp_path / "odd")


def test_a_list_names_episodes(tmp_path: Path) -> None:
    (tmp_path / "take.txt").write_text("episode_000001\nobservation.images.front/episode_000003\n")
    shards, _ = ingest(SEVERAL, tmp_path / "shards", split_file=str(tmp_path / "take.txt"))
    assert {place_of(clip) for clip in clips_of(shards)} == {(CAMERAS[0], 1), (CAMERAS[1], 1), (CAMERAS[0], 3)}


def test_one_row_group_of_all_episodes_is_read_as_well(tmp_path: Path) -> None:
    from pyarrow import parquet

    root = copy_of(SEVERAL, tmp_path / "set")
    table = parquet.read_table(root / DATA).replace_schema_metadata()
    lists = [f"{name}" for name in ("action", "observation.state")]
    for name in lists:  # lists without a fixed size, as older converters write them
        values = pyarrow.array(table.column(name).to_pylist(), pyarrow.list_(pyarrow.float32()))
        table = table.set_column(table.schema.get_field_index(name), name, values)
    parquet.write_table(table, root / DATA, write_statistics=False)
    shards, summary = ingest(root, tmp_path / "shards")
    assert summary.quarantined == 0
    check(clips_of(shards))


def test_only_the_rows_of_an_episode_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from deltactl.ingest.episodes import lerobot

    lerobot._group.cache_clear()
    read: list[int] = []
    inner = lerobot._group
    monkeypatch.setattr(lerobot, "_group", lambda state, group, names: read.append(group) or inner(state, group, names))
    rows = episode_rows(SEVERAL / DATA, 2, ("action", "episode_index"))
    assert read == [2]
    np.testing.assert_array_equal(rows["action"], np.stack([action_of(2, frame) for frame in range(EPISODES[2])]))


# --- what is wrong ----------------------------------------------------------------------------------------------------


def reasons(source: Path, out: Path, **settings: Any) -> tuple[dict[str, str], Summary]:
    """Return why sources are in quarantine, by their names."""
    shards, summary = ingest(source, out, **settings)
    return {entry.source: entry.reason for entry in read_quarantine(shards.root)}, summary


def test_a_video_that_is_too_short_for_its_data_costs_the_episodes_that_it_lacks(tmp_path: Path) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")
    make_video(root / FRONT, frames=30, rate=FPS)
    found, summary = reasons(root, tmp_path / "shards")
    assert found == {
        f"{CAMERAS[0]}/episode_000002": (
            f"has 15 rows of data, but {FRONT} from 2.1 to 3.6 s has 9 frames; as many were expected"
        ),
        f"{CAMERAS[0]}/episode_000003": (
            f"has 10 rows of data, but {FRONT} from 3.6 to 4.6 s has 0 frames; as many were expected"
        ),
    }
    assert (summary.done, summary.quarantined) == (18, 2)
    assert "2 of 8 sources in quarantine" in " ".join(summary.lines())


def test_a_video_of_another_rate_disagrees(tmp_path: Path) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")
    times = [number / FPS + (0.04 if number > 14 else 0.0) for number in range(46)]
    make_video(root / FRONT, frames=46, times=times)
    found, _ = reasons(root, tmp_path / "shards", cameras="front")
    assert found[f"{CAMERAS[0]}/episode_000001"] == (
        f"row 3 of its data is at 0.3 s, but frame 3 of {FRONT} from 1.2 to 2.1 s at 0.34 s"
    )
    assert f"{CAMERAS[0]}/episode_000000" not in found


def without_last_row(table: Any) -> Any:
    return table.slice(0, len(table) - 1) if table["episode_index"][0].as_py() == 1 else table


def with_value(name: str, value: Any, episode: int = 2, row: int = 5) -> Any:
    def change(table: Any) -> Any:
        if table["episode_index"][0].as_py() != episode:
            return table
        values = table.column(name).to_pylist()
        values[row] = value
        field = table.schema.field(name)
        return table.set_column(table.schema.get_field_index(name), field, pyarrow.array(values, field.type))

    return change


def as_text(table: Any) -> Any:
    place = table.schema.get_field_index("task_index")
    return table.set_column(place, "task_index", pyarrow.array([str(each) for each in table["task_index"].to_pylist()]))


@pytest.mark.parametrize(
    ("change", "episode", "reason"),
    [
        (without_last_row, 1, "episode 1 has 8 rows, by meta/episodes it has 9 frames"),
        (with_value("action", [float("nan"), 0.0]), 2, "action[5, 0] is nan; finite numbers were expected"),
        (with_value("action", None), 2, "action has nothing in 1 of its rows; a number was expected in each"),
        (with_value("frame_index", 7), 2, "frame_index of row 5 of episode 2 is 7; they must rise by 1"),
        (
            with_value("timestamp", 3.5),
            2,
            "timestamp of row 5 of episode 2 is 3.5; at 10 frames a second 0.5 was expected",
        ),
    ],
)
def test_rows_that_cannot_be_those_of_the_frames_cost_their_episode(
    change: Any, episode: int, reason: str, tmp_path: Path
) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")
    change_table(root / DATA, change)
    found, summary = reasons(root, tmp_path / "shards")
    assert found == {f"{camera}/episode_{episode:06d}": f"{DATA}: {reason}" for camera in CAMERAS}
    assert (summary.done, summary.quarantined) == (18, 2)
    check(clips_of(ShardSet.open(str(tmp_path / "shards"))))


def test_columns_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")
    change_table(root / DATA, as_text)
    with pytest.raises(ConfigError, match=rf"{DATA}: task_index holds string; one of bool, int8.* was expected"):
        ingest(root, tmp_path / "shards")
    shards, summary = ingest(root, tmp_path / "some", columns="action")
    assert (summary.done, [column.name for column in shards.columns]) == (24, ["action"])


def test_a_damaged_or_missing_parquet_file_costs_its_episodes(tmp_path: Path) -> None:
    root = copy_of(DIVIDED, tmp_path / "set")
    second = "data/chunk-000/file-001.parquet"
    (root / second).write_bytes((root / second).read_bytes()[:-40])
    found, summary = reasons(root, tmp_path / "shards")
    assert len(found) == 4
    assert summary.done == 12
    assert all(reason.startswith(f"{second}: it cannot be read as parquet: ") for reason in found.values())
    (root / second).unlink()
    found, _ = reasons(root, tmp_path / "again", cameras="front", columns="action")
    assert found[f"{CAMERAS[0]}/episode_000003"] == f"{second} is not there; it holds the columns action"


def test_a_damaged_video_costs_its_episodes(tmp_path: Path) -> None:
    root = copy_of(DIVIDED, tmp_path / "set")
    (root / FRONT).write_bytes(b"nonsense" * 500)
    found, summary = reasons(root, tmp_path / "shards")
    assert found.keys() == {f"{CAMERAS[0]}/episode_{number:06d}" for number in (0, 1)}
    assert summary.done == 18


def test_metadata_that_disagree_cost_their_episode(tmp_path: Path) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")

    def change(table: Any) -> Any:
        name = f"videos/{CAMERAS[1]}/to_timestamp"
        values = [9.9 if number == 3 else each for number, each in enumerate(table[name].to_pylist())]
        return table.set_column(table.schema.get_field_index(name), name, pyarrow.array(values, pyarrow.float64()))

    change_table(root / "meta/episodes/chunk-000/file-000.parquet", change)
    disagreeing = {
        f"{CAMERAS[1]}/episode_000003": (
            "meta/episodes tells of 10 frames, at 10 frames a second, but of 3.6 to 9.9 s of its video"
        )
    }
    assert reasons(root, tmp_path / "shards")[0] == disagreeing
    assert reasons(root, tmp_path / "front", cameras="front")[0] == {}

    def nothing(table: Any) -> Any:
        name = f"videos/{CAMERAS[0]}/file_index"
        values = [None if number == 1 else each for number, each in enumerate(table[name].to_pylist())]
        return table.set_column(table.schema.get_field_index(name), name, pyarrow.array(values, pyarrow.int64()))

    change_table(root / "meta/episodes/chunk-000/file-000.parquet", nothing)
    lost = {f"{CAMERAS[0]}/episode_000001": "meta/episodes does not tell where it lies"}
    assert reasons(root, tmp_path / "lost")[0] == disagreeing | lost


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"codebase_version": "v2.1"},
            r"codebase_version is 'v2.1'; sets of v3.0 are read; convert it: python -m lerobot.datasets.v30.",
        ),
        ({"codebase_version": "v4.0"}, r"codebase_version is 'v4.0'; sets of v3.0 are read$"),
        ({"fps": 0}, "fps is 0; a number above 0 was expected"),
        ({"features": None}, "features is not an object of objects"),
        (
            {"features": {"action": {"dtype": "float32"}}},
            "tells of no videos; record or convert the set with use_video",
        ),
        ({"splits": {"train": "9:12"}}, "has no episodes in the split train"),
        ({"video_path": "../{video_key}.mp4"}, r"'\.\./observation.images.front.mp4' leads out of the set"),
        ({"data_path": "/etc/{chunk_index}.parquet"}, "'/etc/0.parquet' leads out of the set"),
    ],
)
def test_sets_that_cannot_be_read_are_refused_in_a_line(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")
    change_info(root, **changes)
    with pytest.raises(ConfigError, match=reason):
        ingest(root, tmp_path / "shards", dataset="lerobot")


def test_an_episode_that_is_told_twice_is_refused(tmp_path: Path) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")
    place = "meta/episodes/chunk-000/file-000.parquet"
    change_table(root / place, lambda table: pyarrow.concat_tables([table, table.slice(1, 1)]))
    with pytest.raises(ConfigError, match=rf"{place}: episode_index is 1; whole numbers, each once, were expected"):
        ingest(root, tmp_path / "shards")


def test_features_with_more_numbers_than_columns_may_have_are_passed_over(tmp_path: Path) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["observation.state"]["shape"] = [64, 65]
    change_info(root, features=features)
    shards, _ = ingest(root, tmp_path / "shards", cameras="front")
    assert "observation.state" not in {column.name for column in shards.columns}
    with pytest.raises(ConfigError, match="--columns names observation.state, but"):
        ingest(root, tmp_path / "named", columns="observation.state")


def test_depth_maps_are_left_out_with_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features[CAMERAS[1]]["info"]["video.is_depth_map"] = True
    change_info(root, features=features)
    arguments = ["ingest", str(root), "--frames", "4", "--workers", "1", "--out", str(tmp_path / "shards")]
    assert main(arguments) == 0
    assert f"left out, depth maps: {CAMERAS[1]}" in capsys.readouterr().err
    assert {place_of(clip)[0] for clip in clips_of(ShardSet.open(str(tmp_path / "shards")))} == {CAMERAS[0]}


def test_a_folder_that_is_none_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"meta/info.json cannot be read: No such file .*; expected a LeRobot set"):
        ingest(tmp_path, tmp_path / "shards", dataset="lerobot")


def test_without_pyarrow_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert main(["ingest", str(SEVERAL), "--out", str(tmp_path / "shards")]) == 1
    assert capsys.readouterr().err.strip() == (
        "error: --dataset lerobot needs PyArrow, which is not installed; run: pip install 'deltactl[robotics]'"
    )


def test_a_replaced_video_is_noticed(tmp_path: Path) -> None:
    root = copy_of(SEVERAL, tmp_path / "set")
    ingest(root, tmp_path / "shards")
    make_video(root / FRONT, frames=46, rate=FPS)
    with pytest.raises(IdentityError, match=re.escape(f"{CAMERAS[0]}/episode_000000")):
        ingest(root, tmp_path / "shards")
