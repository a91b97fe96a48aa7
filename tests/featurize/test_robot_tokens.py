"""Episodes of robots through to tokens: the columns read back are those of the files, by shards and straight."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pyarrow import parquet
from robot_sets import EPISODES, HDF5_CAMERAS, SEVERAL, TASKS, action_of, write_hdf5
from small_stores import BACKBONE, TOKENIZER, contents, run, settings, tokens

from deltactl.artifacts import read_quarantine
from deltactl.cli import main
from deltactl.configs.ingest import IngestConfig
from deltactl.featurize.store.finish import published
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.featurize.store.verify import verify_store
from deltactl.ingest.run import run as ingest
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.tokenization.live import verify_live
from deltactl.train.data.selection import select
from deltactl.train.data.sources import TokenClips, TokenTable
from deltactl.train.data.validation import InOrder

CUT: dict[str, Any] = {"clips": 2, "frames": 4, "shard_clips": 8}
LEROBOT_COLUMNS = "action,clip.task,observation.state"
HDF5_COLUMNS = "actions,clip.task,dones,states"


def rows_of_lerobot() -> dict[int, dict[str, np.ndarray]]:
    """Return the columns of each episode, as PyArrow reads the file."""
    table = parquet.read_table(SEVERAL / "data/chunk-000/file-000.parquet")
    numbers = np.array(table["episode_index"].to_pylist())
    names = ("action", "observation.state")
    return {
        episode: {name: np.array(table[name].to_pylist(), np.float32)[numbers == episode] for name in names}
        for episode in range(len(EPISODES))
    }


def rows_of_hdf5(place: Path) -> dict[int, dict[str, np.ndarray]]:
    with h5py.File(place) as file:
        names = ("actions", "states", "dones")
        return {number: {name: file[f"data/demo_{number}/{name}"][()] for name in names} for number in range(4)}


def check(store: TokenStore | FeatureStore, shards: Path, rows: dict[int, dict[str, np.ndarray]]) -> None:
    """Check that every sample has the rows of its episode, bit for bit, in any order."""
    opened = ShardSet.open(str(shards))
    clips = {clip.key: clip for unit in opened.units for clip in opened.read(unit)}
    assert set(store.keys) == set(clips)
    order: Sequence[int] = np.random.default_rng(1).permutation(len(store)).tolist()
    numbers, texts = store.start_columns(order)(), store.texts(order)
    for place, sample in enumerate(order):
        meta = clips[store.keys[sample]].meta
        episode = int("".join(letter for letter in meta.source.rpartition("/")[2] if letter.isdigit()))
        for name, values in rows[episode].items():
            wanted = torch.from_numpy(values[list(meta.indices)])
            assert numbers[name][place].dtype == wanted.dtype
            assert torch.equal(numbers[name][place], wanted)
        assert texts["clip.task"][place] in TASKS
        assert np.array_equal(np.asarray(store.times([sample])[0]), np.array(meta.times))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("robots") / "shards"  # whose frames are as large as they were
    ingest(IngestConfig(source=str(SEVERAL), out=str(out), columns=LEROBOT_COLUMNS, size=96, workers=0, **CUT))
    return out


@pytest.fixture(scope="module")
def hdf5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hdf5(tmp_path_factory.mktemp("hdf5") / "lift.hdf5")


def test_a_lerobot_set_becomes_tokens_with_actions(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "features", views="2")
    tokens(tmp_path / "features", tmp_path / "tokens")
    tokens(shards, tmp_path / "one-pass", backbone=str(BACKBONE))
    for store in (
        FeatureStore.open(str(tmp_path / "features")),
        TokenStore.open(str(tmp_path / "tokens")),
        TokenStore.open(str(tmp_path / "one-pass")),
    ):
        check(store, shards, rows_of_lerobot())
        assert verify_store(store.root) == []


def test_an_hdf5_file_becomes_tokens_with_actions(hdf5: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    ingest(IngestConfig(source=str(hdf5), out=str(out), columns=HDF5_COLUMNS, size=64, workers=0, **CUT))
    tokens(out, tmp_path / "tokens", backbone=str(BACKBONE))
    check(TokenStore.open(str(tmp_path / "tokens")), out, rows_of_hdf5(hdf5))


def test_straight_from_a_lerobot_set(shards: Path, tmp_path: Path) -> None:
    cut = {**CUT, "columns": LEROBOT_COLUMNS}
    run(SEVERAL, tmp_path / "features", videos=cut)
    tokens(SEVERAL, tmp_path / "tokens", backbone=str(BACKBONE), videos=cut)
    for store in (FeatureStore.open(str(tmp_path / "features")), TokenStore.open(str(tmp_path / "tokens"))):
        check(store, shards, rows_of_lerobot())
        assert verify_store(store.root) == []
    run(shards, tmp_path / "through")
    through, straight = (FeatureStore.open(str(tmp_path / name)) for name in ("through", "features"))
    one, other = through.read_clips(range(16)).float(), straight.read_clips(range(16)).float()
    assert float((one - other).norm() / one.norm()) < 0.05  # the JPEGs' loss
    live = verify_live(Location.of(tmp_path / "tokens"), 5, device="cpu")
    assert (live.findings, live.clips) == ([], 5)


def test_batches_of_training_have_the_actions_and_episodes_are_held_out_whole(tmp_path: Path) -> None:
    tokens(SEVERAL, tmp_path / "tokens", backbone=str(BACKBONE), videos={**CUT, "columns": "all"})
    store = TokenStore.open(str(tmp_path / "tokens"))
    training, held_out = select(store, 0.5)
    TokenTable.fill(store, "robots")
    table = TokenTable(store, "robots", torch.device("cpu"))
    TokenTable.remove("robots")
    seen: list[set[int]] = []
    for samples in (training, held_out):
        source = TokenClips(table, store, samples, InOrder())
        batch = source.start(np.arange(samples.clips))()
        values = {name: batch.columns[name].numpy() for name in ("action", "episode_index", "frame_index")}
        assert values["action"].shape == (samples.clips, 4, 2)
        episodes = values["episode_index"]
        for row, (clip, frames) in enumerate(zip(episodes, values["frame_index"], strict=True)):
            wanted = [action_of(*place) for place in zip(clip.tolist(), frames.tolist(), strict=True)]
            np.testing.assert_array_equal(values["action"][row], np.stack(wanted))
        seen.append(set(episodes.ravel().tolist()))
    assert seen[0] | seen[1] == {0, 1, 2, 3}
    assert not seen[0] & seen[1]
    assert seen[1]


def test_straight_from_an_hdf5_file(hdf5: Path, tmp_path: Path) -> None:
    cut = {**CUT, "columns": HDF5_COLUMNS, "cameras": HDF5_CAMERAS[0]}
    ingest(IngestConfig(source=str(hdf5), out=str(tmp_path / "shards"), size=64, workers=0, **cut))
    tokens(hdf5, tmp_path / "tokens", backbone=str(BACKBONE), videos=cut)
    store = TokenStore.open(str(tmp_path / "tokens"))
    assert len(store) == 8
    check(store, tmp_path / "shards", rows_of_hdf5(hdf5))
    live = verify_live(store.root, 3, device="cpu")
    assert live.findings == []


def test_an_episode_that_cannot_be_used_costs_its_clips_straight_as_well(tmp_path: Path) -> None:
    place = write_hdf5(tmp_path / "lift.hdf5")
    with h5py.File(place, "a") as file:
        file["data/demo_1/actions"][3] = np.nan
    run(place, tmp_path / "features", videos={**CUT, "columns": "actions"})
    store = FeatureStore.open(str(tmp_path / "features"))
    assert len(store) == 12
    reasons = {entry.reason for entry in read_quarantine(store.root)}
    assert reasons == {
        f"lift.hdf5/{camera}/demo_1: lift.hdf5: actions[3, 0] is nan; finite numbers were expected"
        for camera in HDF5_CAMERAS
    }


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    cut = ["--clips", "2", "--frames", "4"]
    small = ["--size", "64", "--device", "cpu", "--workers", "0"]
    shown = ["--backbone", str(BACKBONE)]
    ingested = ["ingest", str(SEVERAL), "--columns", "action,clip.task", *cut, "--size", "64", "--cameras", "front"]
    assert main(ingested) == 0
    assert main(["featurize", "workspace/shards/several-64", *small, *shown]) == 0
    names = [path.name for path in Path("workspace/features").iterdir()]
    assert main(["tokenize", f"workspace/features/{names[0]}", "--tokenizer", TOKENIZER, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["info", f"workspace/tokens/{names[0]}"]) == 0
    assert "action (float32 (2,) a frame), clip.task (text ())" in " ".join(capsys.readouterr().out.split())
    assert main(["verify", f"workspace/tokens/{names[0]}"]) == 0
    assert main(["tokenize", str(SEVERAL), "--columns", "all", *cut, *small, *shown, "--tokenizer", TOKENIZER]) == 0
    assert "16 crops done" in capsys.readouterr().out.replace("clips", "crops")


@pytest.mark.slow
def test_killed_and_run_again_it_gives_the_same_bytes(tmp_path: Path) -> None:
    cut = {"clips": 6, "frames": 4, "shard_clips": 6, "columns": "all"}
    run(SEVERAL, tmp_path / "whole", views="2", videos=cut)
    config = settings(SEVERAL, tmp_path / "store", views="2", videos=cut)
    code = (
        "import sys; from deltactl.configs.featurize import FeaturizeConfig;"
        "from deltactl.featurize.run import run as featurize;"
        "featurize(FeaturizeConfig.model_validate_json(sys.argv[1]))"
    )
    place = Location.of(tmp_path / "store")
    for wanted in (1, 6):
        command = [sys.executable, "-c", code, config.model_dump_json()]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=-3)
        while process.poll() is None and (not place.exists() or sum(map(len, published(place).values())) < wanted):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert wanted <= sum(map(len, published(place).values())) < 16, "killed in the middle"
    assert run(SEVERAL, tmp_path / "store", views="2", videos=cut).skipped >= 6 * 6
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
