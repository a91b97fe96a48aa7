"""Old stores become stores of the present format: the same identity and numbers, stopped and resumed at any moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_shards import make_clip, write_shards
from small_stores import BACKBONE, contents, earlier_layout, flip, run, tokens
from token_stores import FRAMES, LAYOUT, inodes, make_store, unit_names
from videos import make_video

from deltactl.artifacts import read_header
from deltactl.cli import main
from deltactl.errors import ArtifactError, ConfigError, DamagedError, IdentityError
from deltactl.featurize import convert
from deltactl.featurize.store.finish import drop_views, published, read_group_file
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.store.statistics import Statistics
from deltactl.featurize.verify import Verification
from deltactl.locations import Location
from deltactl.removal import agree

OLD = Path(__file__).parents[1] / "old_files" / "format_1"
UNITS = unit_names(70)


def opened(root: Path) -> ClipStore:
    kind = read_header(Location.of(root)).identity.kind
    return (FeatureStore if kind == "features" else TokenStore).open(str(root))


def check_equal(old: Path, new: Path) -> None:
    """Check that a store holds what another does."""
    before, after = read_header(Location.of(old)), read_header(Location.of(new))
    assert (before.identity, before.generations) == (after.identity, after.generations)
    with opened(old) as one, opened(new) as other:
        assert (one.keys, one.views, one.units, one.dtype) == (other.keys, other.views, other.units, other.dtype)
        assert one.frame_shape == other.frame_shape
        samples = range(len(one))
        assert torch.equal(one.read_clips(samples).view(torch.int16), other.read_clips(samples).view(torch.int16))
        for known in ("times", "crops", "flips"):
            assert torch.equal(getattr(one, known)(samples), getattr(other, known)(samples)), known
        for unit in one.units:
            assert tuple(one.sources_of(unit)) == tuple(other.sources_of(unit))
        if isinstance(one, FeatureStore) and isinstance(other, FeatureStore):
            assert torch.equal(one.black, other.black)
            assert one.grid == other.grid
    assert (old / "quarantine.jsonl").read_bytes() == (new / "quarantine.jsonl").read_bytes()
    assert Verification.of(str(new)).run() == []
    assert {path.name for path in new.glob("v*/*") if path.is_dir()}.isdisjoint({"times", "crop"})


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features and tokens of formats 2 and 3: of two shards, one of 19 clips, of which one cannot be decoded."""
    folder = tmp_path_factory.mktemp("nested")
    clips = [make_clip(f"clip{number:02d}") for number in range(20)]
    frames = clips[5].frames
    clips[5] = replace(clips[5], frames=[frames[0][:300], *frames[1:]])
    write_shards(folder / "shards", [clips[:19], clips[19:]])
    with earlier_layout():
        run(folder / "shards", folder / "features", views="2")
        run(folder / "shards", folder / "bfloat16", dtype="bfloat16")
        tokens(folder / "features", folder / "tokens")
    for kind, written in (("features", 2), ("tokens", 3)):
        assert json.loads((folder / kind / "index.json").read_text())["format"] == written
    return folder


@pytest.mark.parametrize("name", ["features", "tokens", "vspw-features"])
def test_stores_of_format_1_are_converted(name: str, tmp_path: Path) -> None:
    assert main(["convert", str(OLD / name), str(tmp_path / "new")]) == 0
    check_equal(OLD / name, tmp_path / "new")
    assert json.loads((tmp_path / "new/index.json").read_text())["format"] == 4


@pytest.mark.parametrize("name", ["features", "bfloat16", "tokens"])
def test_stores_of_formats_2_and_3_are_converted(name: str, nested: Path, tmp_path: Path) -> None:
    convert.run(str(nested / name), str(tmp_path / "new"))
    check_equal(nested / name, tmp_path / "new")
    views = 1 if name == "bfloat16" else 2
    groups = views * (1 if name == "tokens" else 2)
    once = 1 + 4 + 2 * views + (0 if name == "tokens" else 5)
    assert inodes(tmp_path / "new") == once + 8 * groups
    before, after = (read_group_file(Location.of(root), 0, "000000") for root in (nested / name, tmp_path / "new"))
    assert before.invalid == after.invalid == (5,)
    assert before.provenance == after.provenance
    assert before.quarantined == after.quarantined
    assert isinstance(before.statistics, Statistics)
    assert isinstance(after.statistics, Statistics)
    assert np.array_equal(before.statistics.mean, after.statistics.mean)


def test_a_converted_store_is_what_the_stage_makes_today(nested: Path, tmp_path: Path) -> None:
    """Byte for byte, so that it grows, and is repaired, as if it had been made so."""
    convert.run(str(nested / "features"), str(tmp_path / "features"))
    run(nested / "shards", tmp_path / "anew", views="2")
    assert contents(tmp_path / "features") == contents(tmp_path / "anew")
    assert (tmp_path / "features/index.json").stat().st_size == (tmp_path / "anew/index.json").stat().st_size
    assert run(nested / "shards", tmp_path / "features", views="3").skipped == 40
    assert published(Location.of(tmp_path / "features")).keys() == {0, 1, 2}
    flip(tmp_path / "features/v001/000000/features/c.0.0.0.0", 100)
    places = ["--shards", str(nested / "shards"), "--backbone", str(BACKBONE), "--device", "cpu"]
    assert main(["verify", str(tmp_path / "features"), "--repair", "--yes", *places]) == 0
    convert.run(str(nested / "tokens"), str(tmp_path / "tokens"))
    tokens(nested / "features", tmp_path / "tokens2")
    assert contents(tmp_path / "tokens") == contents(tmp_path / "tokens2")


def test_a_store_of_which_views_were_dropped_says_so_still(nested: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(nested / "features", tmp_path / "old"))
    drop_views(Location.of(old), [0], agree)
    convert.run(str(old), str(tmp_path / "new"))
    check_equal(old, tmp_path / "new")
    assert (tmp_path / "new/dropped.json").read_bytes() == (old / "dropped.json").read_bytes()


# --- what is refused ---


def test_what_cannot_be_converted_is_refused(nested: Path, tmp_path: Path) -> None:
    convert.run(str(nested / "tokens"), str(tmp_path / "new"))
    with pytest.raises(ArtifactError, match="has format 4, the present one; there is nothing to convert"):
        convert.run(str(tmp_path / "new"), str(tmp_path / "newer"))
    with pytest.raises(ConfigError, match="OLD and NEW are both"):
        convert.run(str(nested / "tokens"), f"{nested}/shards/../tokens")
    with pytest.raises(ArtifactError, match="holds shards; convert takes a store of features or tokens"):
        convert.run(str(nested / "shards"), str(tmp_path / "shards"))
    with pytest.raises(IdentityError):
        convert.run(str(nested / "features"), str(tmp_path / "new"))


def test_damage_is_named_and_what_was_converted_is_kept(nested: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(nested / "features", tmp_path / "old"))
    flip(old / "v001/000000/features/c/1/0/0/0", 1000)
    with pytest.raises(DamagedError, match=r"v001/000000/features/c/1/0/0/0: clip .* verify .*old --repair"):
        convert.run(str(old), str(tmp_path / "new"))
    assert published(Location.of(tmp_path / "new")) == {0: ["000000", "000001"]}
    shutil.rmtree(old)
    shutil.copytree(nested / "features", old)
    assert convert.run(str(old), str(tmp_path / "new")).skipped == 20
    check_equal(old, tmp_path / "new")


# --- stopping ---


def start(old: Path, new: Path) -> subprocess.Popen[bytes]:
    code = "import sys; from deltactl.featurize.convert import run; run(*sys.argv[1:])"
    return subprocess.Popen([sys.executable, "-c", code, str(old), str(new)], stderr=-3)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of format 3 of two views of 70 shards."""
    layout = Layout("tokens", FRAMES, LAYOUT.frame_shape, nested=True)
    return make_store(tmp_path_factory.mktemp("many") / "tokens", UNITS, (0, 1), layout=layout).path


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_gives_the_same_bytes(many: Path, tmp_path: Path) -> None:
    """In the middle of groups, of packs, and of taking away what was packed."""
    convert.run(str(many), str(tmp_path / "whole"))
    moments, new, killed = random.Random(3), tmp_path / "new", 0
    for wanted in (0, 20, 62, 64, 100):
        process = start(many, new)
        while process.poll() is None and (not new.exists() or seen(new) < wanted):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert killed >= 3
    convert.run(str(many), str(new))
    assert contents(new) == contents(tmp_path / "whole")
    check_equal(many, new)
    assert not [path for path in tmp_path.glob(".new.partial/*") if path.is_dir()]


def seen(root: Path) -> int:
    """Return how many groups are there, be it while they are being packed."""
    try:
        return sum(map(len, published(Location.of(root)).values()))
    except DamagedError:
        return 0


@pytest.mark.slow
def test_two_processes_at_once_make_one_store(many: Path, tmp_path: Path) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    processes = [start(many, tmp_path / "new") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    check_equal(many, tmp_path / "new")


def test_an_old_store_grows_in_its_own_layout_and_is_converted_then(nested: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(nested / "features", tmp_path / "old"))
    run(nested / "shards", old, views="3")
    assert {path.name for path in (old / "v002/000000").iterdir()} == {
        *("features", "times", "crop", "flip", "valid", "zarr.json")
    }
    convert.run(str(old), str(tmp_path / "new"))
    check_equal(old, tmp_path / "new")


def test_the_record_of_videos_goes_along(tmp_path: Path) -> None:
    """And the new store grows by videos that are added, as the old one would."""
    videos, cut = tmp_path / "videos", {"clips": 2, "frames": 3, "shard_clips": 4}
    for number in range(2):
        make_video(videos / f"v{number}.mp4", frames=40 + number, width=160, height=80)
    with earlier_layout():
        run(videos, tmp_path / "old", videos=cut)
    convert.run(str(tmp_path / "old"), str(tmp_path / "new"))
    check_equal(tmp_path / "old", tmp_path / "new")
    run(videos, tmp_path / "today", videos=cut)
    assert contents(tmp_path / "new") == contents(tmp_path / "today")
    make_video(videos / "v2.mp4", frames=50, width=160, height=80)
    for name in ("new", "today"):
        run(videos, tmp_path / name, videos=cut)
    assert contents(tmp_path / "new") == contents(tmp_path / "today")
