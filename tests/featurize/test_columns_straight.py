"""Columns straight from videos: those that shards of the same videos have, and noticed when they change."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from sidecars import beside, make_robots, states
from small_stores import BACKBONE, run
from videos import make_video

from deltactl.artifacts import read_header, read_quarantine
from deltactl.cli import main
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import ConfigError, IdentityError
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.verify import Verification
from deltactl.ingest.run import run as ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.tokenization.run import run as tokenize

CUT = {"clips": 2, "frames": 3, "shard_clips": 4, "columns": "all"}
TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos with columns, and one whose columns are too short."""
    root = make_robots(tmp_path_factory.mktemp("columns") / "videos", "abcd")
    beside(root / "d.mp4", **states(3, rows=2))
    return root


@pytest.fixture(scope="module")
def shards(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("columns") / "shards"
    values = {"dataset": "folder", "size": 64, "workers": 0, "max_bad": 0.5, **CUT}
    ingest(IngestConfig(source=str(videos), out=str(out), **values))
    return out


@pytest.fixture(scope="module")
def store(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("columns") / "store"
    run(videos, out, views="2", videos=CUT)
    return out


def tokens_of(data: Path, out: Path, **changes: object) -> TokenStore:
    settings = {"backbone": str(BACKBONE), "size": 64, "device": "cpu", "workers": 0, "max_bad": 0.5}
    tokenize(TokenizeConfig(data=str(data), out=str(out), tokenizer=TOKENIZER, **settings, **changes))
    return TokenStore.open(str(out))


def check(store: ClipStore, shards: Path) -> None:
    """Check that all samples carry what the clips of shards do."""
    opened = ShardSet.open(str(shards))
    clips = {clip.key: clip for unit in opened.units for clip in opened.read(unit)}
    assert store.columns == opened.columns
    assert set(store.keys) == set(clips)
    samples = list(range(len(store)))
    numbers, texts = store.start_columns(samples)(), store.texts(samples)
    assert set(numbers) | set(texts) == {column.name for column in opened.columns}
    for sample in samples:
        told = clips[store.keys[sample]].columns
        for name, values in numbers.items():
            np.testing.assert_array_equal(values[sample].numpy(), told[name])
        assert texts["clip.text"][sample] == str(told["clip.text"])


def test_they_are_those_of_shards_in_every_view_and_in_tokens(
    videos: Path, shards: Path, store: Path, tmp_path: Path
) -> None:
    check(FeatureStore.open(str(store)), shards)
    check(tokens_of(videos, tmp_path / "straight", videos=CUT), shards)
    check(tokens_of(store, tmp_path / "tokens"), shards)
    for place in (store, tmp_path / "straight", tmp_path / "tokens"):
        assert Verification.of(str(place)).run() == []


def test_a_video_with_bad_columns_is_quarantined_with_what_is_wrong(store: Path) -> None:
    entries = read_quarantine(Location.of(store))
    assert len(entries) == 4
    wrong = "d.mp4: d.columns.npz: actions has 2 rows, its video 20 frames; a row for each frame was expected"
    assert all(entry.reason.startswith(wrong) for entry in entries)


def test_what_was_taken_is_known_from_the_store_alone(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = read_header(Location.of(store)).identity.values["videos"]
    assert said["columns"]["actions"] == {"dtype": "float32", "shape": [7]}
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    assert main(["info", str(copy)]) == 0
    assert "actions (float32 (7,) a frame), clip.camera (float16 (3, 3))" in " ".join(capsys.readouterr().out.split())
    assert main(["verify", str(copy), "--live", "6"]) == 0
    before = (copy / "v001" / "000000" / "columns" / "c.0.0").read_bytes()
    (copy / "v001" / "000000" / "columns" / "c.0.0").unlink()
    assert main(["verify", str(copy), "--repair", "--yes", "--device", "cpu"]) in (0, 1)
    assert (copy / "v001" / "000000" / "columns" / "c.0.0").read_bytes() == before
    assert main(["verify", str(copy)]) == 0


def test_columns_that_changed_since_are_noticed_and_named(tmp_path: Path) -> None:
    root = make_robots(tmp_path / "videos")
    run(root, tmp_path / "store", videos=CUT)
    changed = states(0)
    changed["actions"][0] += 1
    beside(root / "a.mp4", **changed)
    with pytest.raises(IdentityError, match=r"the columns of a\.mp4 are not those that were ingested"):
        run(root, tmp_path / "store", videos=CUT)
    assert main(["verify", str(tmp_path / "store"), "--live", "3"]) == 1
    beside(root / "a.mp4", **states(0))
    assert run(root, tmp_path / "store", videos=CUT).done == 0
    with pytest.raises(IdentityError, match=r"videos\.columns\.actions\.dtype is float32 there, absent here"):
        run(root, tmp_path / "store", videos={**CUT, "columns": "none"})


def test_store_and_videos_may_be_moved_between_two_starts(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    make_robots(here / "videos")
    run(here / "videos", here / "store", videos=CUT, part="1/2")
    shutil.move(here, there)
    assert (run(there / "videos", there / "store", videos=CUT).skipped) == 4
    tokens_of(there / "store", there / "tokens")
    shutil.copytree(there, here)
    with TokenStore.open(str(here / "tokens")) as copy, TokenStore.open(str(there / "tokens")) as first:
        samples = list(range(len(first)))
        for name, values in first.start_columns(samples)().items():
            np.testing.assert_array_equal(copy.start_columns(samples)()[name].numpy(), values.numpy())
    assert len(tokens_of(here / "store", here / "tokens")) == 6
    assert Verification.of(str(here / "tokens")).run() == []


def test_a_store_of_the_present_format_is_not_converted(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(store), str(tmp_path / "new")]) == 1
    assert "has format 5, the present one; there is nothing to convert" in capsys.readouterr().err


def test_the_commands_take_the_option(
    videos: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--backbone", str(BACKBONE), "--size", "64", "--device", "cpu", "--workers", "0", "--max-bad", "0.5"]
    assert main(["featurize", str(videos), "--columns", "gripper", "--frames", "3", *common, "--dry-run"]) == 0
    assert "columns: gripper (bool () a frame)" in capsys.readouterr().out
    assert main(["featurize", str(shards), "--columns", "gripper", *common]) == 1
    assert "--columns gripper has no effect" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"--columns names speed, but .*a\.columns\.npz has actions"):
        run(videos, tmp_path / "store", videos={**CUT, "columns": "speed"})


def test_class_and_split_of_kinetics_come_along_to_tokens(tmp_path: Path) -> None:
    make_video(tmp_path / "kinetics" / "train" / "ice skating" / "x.mp4", frames=20)
    cut = {"dataset": "kinetics", "clips": 1, "frames": 3}
    store = tokens_of(tmp_path / "kinetics", tmp_path / "tokens", videos=cut)
    assert store.texts([0]) == {"clip.class": ["ice skating"], "clip.split": ["train"]}
    assert store.start_columns([0])() == {}
    assert not list((tmp_path / "tokens").glob("v000/*/columns")), "texts alone need no array"
