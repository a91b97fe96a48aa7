"""Two processes at one output: of two trainings one is refused, two workers of a stage divide the work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from evaluations import GOLDEN
from small_shards import training_shards
from small_stores import BACKBONE, contents, run
from videos import make_video

from deltactl.claims import FOLDER
from deltactl.featurize.store.reader import FeatureStore
from deltactl.ingest.shards.format import ShardSet

TRAIN = ["size=64", "wandb=disabled", "effective_batch=4", "network.width=64", "network.depth=1", "warmup_steps=0"]
VIEWS = "5"
VIEW = ["--backbone", BACKBONE, "--size", 64, "--views", VIEWS, "--device", "cpu"]


def start(*words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "JAXTYPING_DISABLE": "1"}
    command = [sys.executable, "-m", "deltactl", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
    assert path.exists(), process.communicate()[1]


def clips_done(out: str) -> int:
    match = re.search(r"([\d,]+) (?:clips|crops) done", out)
    assert match is not None, out
    return int(match[1].replace(",", ""))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokens")
    training_shards(root / "shards", units=2, clips=6)
    run(root / "shards", root / "features")
    words = ["tokenize", root / "features", "--tokenizer", GOLDEN / "deltatok.bin", "--out", root / "tokens"]
    process = start(*words, "--device", "cpu")
    said = process.communicate()
    assert process.returncode == 0, said
    return root / "tokens"


def train(tokens: Path, out: Path, *more: str, steps: int = 100_000) -> subprocess.Popen[str]:
    settings = [f"steps={steps}", "last_every=1", "validate_every=3", "frames=3", "queries=2", *TRAIN]
    words = [word for setting in settings for word in ("--set", setting)]
    return start("train", "world", tokens, "--out", out, *words, *more)


def test_a_second_training_of_a_run_is_refused_and_a_killed_one_gives_way(tokens: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train(tokens, out)
    wait_for(out / "checkpoints" / "last.ckpt", first)
    for more in ([], ["--resume", "auto"]):
        second = train(tokens, out, *more)
        _, said = second.communicate()
        assert second.returncode == 1
        assert f"error: {out} is being written by process {first.pid} on {os.uname().nodename}, since 20" in said
        assert f"(to end it: kill {first.pid})" in said
    assert first.poll() is None
    first.kill()
    first.communicate()
    assert list((out / FOLDER).iterdir())
    third = train(tokens, out, "--resume", "auto")
    before = (out / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    while (out / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before:
        assert third.poll() is None, third.communicate()[1]
        time.sleep(0.01)
    third.send_signal(signal.SIGTERM)
    third.communicate()
    assert not (out / FOLDER).exists(), "whoever is told to end leaves no claim"


def run_alone(words: Sequence[object], out: Path) -> None:
    """Run a command into `out`."""
    process = start(*words, "--out", out)
    said = process.communicate()
    assert process.returncode == 0, said


def run_twice_at_once(words: Sequence[object], out: Path) -> list[tuple[str, str, int]]:
    """Run a command in two processes at once, both into `out`; return what each printed, and its exit code."""
    processes = [start(*words, "--out", out) for _ in range(2)]
    ended = [(*process.communicate(), process.returncode) for process in processes]
    assert [code for _, _, code in ended] == [0, 0], ended
    return ended


def test_two_featurizes_of_one_store_divide_its_groups(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=12)
    words = ["featurize", tmp_path / "shards", *VIEW]
    run(tmp_path / "shards", tmp_path / "whole", views=VIEWS)
    store = tmp_path / "store"
    ended = run_twice_at_once(words, store)
    assert sum(clips_done(out) for out, _, _ in ended) == 12 * 3 * int(VIEWS), "each group once"
    assert all(clips_done(out) for out, _, _ in ended), "both had a part"
    assert sum("the work is shared with process" in said for _, said, _ in ended) >= 1, "who came second is told"
    assert contents(store) == contents(tmp_path / "whole")
    assert FeatureStore.open(str(store)).views == tuple(range(int(VIEWS)))
    assert not list(tmp_path.glob(".*"))


def test_a_killed_featurize_leaves_its_groups_to_the_other(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=12)
    words = ["featurize", tmp_path / "shards", *VIEW]
    run(tmp_path / "shards", tmp_path / "whole", views=VIEWS)
    store = tmp_path / "store"
    killed, other = start(*words, "--out", store), start(*words, "--out", store)
    wait_for(store / "v000", killed)
    time.sleep(0.3)
    killed.kill()
    killed.communicate()
    _, said = other.communicate()
    assert other.returncode == 0, said
    assert contents(store) == contents(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))


def test_two_ingests_of_one_folder_divide_its_shards(tmp_path: Path) -> None:
    for number in range(6):
        make_video(tmp_path / "videos" / f"{number}.mp4", frames=20)
    words = ["ingest", tmp_path / "videos", "--size", 64, "--clips", 2, "--shard-clips", 1, "--workers", 0]
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    run_alone(words, whole)
    ended = run_twice_at_once(words, shards)
    assert ShardSet.open(str(shards)).count == 12
    assert sum(clips_done(out) for out, _, _ in ended) == 12, ended
    for tar in whole.glob("*.tar"):
        assert (shards / tar.name).read_bytes() == tar.read_bytes()
    assert not list(tmp_path.rglob(".*"))


def test_two_tokenizes_of_one_store_divide_its_groups(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=12)
    run(tmp_path / "shards", tmp_path / "features", views="2")
    words = ["tokenize", tmp_path / "features", "--tokenizer", GOLDEN / "deltatok.bin", "--device", "cpu"]
    whole, store = tmp_path / "whole", tmp_path / "tokens"
    run_alone(words, whole)
    ended = run_twice_at_once(words, store)
    assert sum(clips_done(out) for out, _, _ in ended) == 72, ended
    assert contents(store) == contents(whole)
