"""Tokens from features and straight from shards: the same, whole, checked, and added to view by view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from small_training import BACKBONE, FRAMES, SIZE, make_features, make_shards

from deltactl.artifacts import read_quarantine
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import ArtifactError, ConfigError, DamagedError, IdentityError
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.locations import Location
from deltactl.tokenization.run import dry_run
from deltactl.tokenization.run import run as tokenize
from deltactl.train.checkpoints.loading import load, network_hash
from deltactl.train.networks.deltatok import TOKENIZER


@pytest.fixture(scope="module")
def tokenizer() -> str:
    return str(Path(__file__).parents[1] / "golden" / "deltatok.bin")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("tokens") / "shards", clips=5)


@pytest.fixture(scope="module")
def features(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("tokens") / "features", views="2")


def settings(data: str, out: Path, tokenizer: str, **changes: Any) -> TokenizeConfig:
    values = {"backbone": str(BACKBONE), "size": SIZE, "device": "cpu", "workers": 0, **changes}
    return TokenizeConfig(data=data, out=str(out), tokenizer=tokenizer, **values)


def test_tokens_of_a_store_are_the_tokenizers_own(features: str, tokenizer: str, tmp_path: Path) -> None:
    summary = tokenize(settings(features, tmp_path / "tokens", tokenizer))
    assert (summary.done, summary.quarantined) == (20, 0)
    store, tokens = FeatureStore.open(features), TokenStore.open(str(tmp_path / "tokens"))
    assert (len(tokens), tokens.frames, tokens.frame_shape, tokens.views) == (20, FRAMES, (1, 128), (0, 1))
    network = load(tokenizer, TOKENIZER)
    expected = network.encode_clip(store.read_clips(range(20)).float(), store.black, store.grid)
    assert torch.allclose(tokens.read_clips(range(20)).float(), expected, atol=2e-3)
    assert tokens.keys == store.keys
    assert torch.equal(tokens.times(range(20)), store.times(range(20)))
    assert torch.equal(tokens.crops(range(20)), store.crops(range(20)))
    assert torch.equal(tokens.flips(range(20)), store.flips(range(20)))


def test_straight_from_shards_they_are_the_same_and_no_features_are_written(
    shards: str, features: str, tokenizer: str, tmp_path: Path
) -> None:
    tokenize(settings(features, tmp_path / "by-store", tokenizer))
    tokenize(settings(shards, tmp_path / "direct", tokenizer, views="2"))
    one, other = (TokenStore.open(str(tmp_path / name)) for name in ("by-store", "direct"))
    assert one.identity == other.identity
    assert one.identity.values["tokenizer"] == network_hash(load(tokenizer, TOKENIZER))
    assert one.keys == other.keys
    assert torch.allclose(one.read_clips(range(20)).float(), other.read_clips(range(20)).float(), atol=1e-3)
    assert torch.equal(one.crops(range(20)), other.crops(range(20)))
    assert torch.equal(one.times(range(20)), other.times(range(20)))
    names = {path.name for path in (tmp_path / "direct").rglob("*") if path.is_dir()}
    assert "features" not in names
    assert "black" not in names


def test_the_store_opens_with_plain_zarr(features: str, tokenizer: str, tmp_path: Path) -> None:
    tokenize(settings(features, tmp_path / "tokens", tokenizer))
    (name,) = [path.name for path in (tmp_path / "tokens/v001").iterdir() if path.is_dir()]
    group = zarr.open_group(tmp_path / "tokens", mode="r")[f"v001/{name}"]
    assert group["tokens"].shape == (10, FRAMES, 1, 128)
    assert group["tokens"].metadata.dimension_names == ("clip", "frame", "token", "dim")
    assert np.isfinite(group["tokens"][:]).all()


def test_views_are_added_and_what_is_there_is_kept(features: str, tokenizer: str, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    assert tokenize(settings(features, out, tokenizer, views="1")).done == 10
    (file,) = (out / "v000").glob("*/zarr.json")
    before = file.stat().st_mtime_ns
    again = tokenize(settings(features, out, tokenizer))
    assert (again.done, again.skipped) == (10, 10)
    assert file.stat().st_mtime_ns == before
    assert TokenStore.open(str(out)).views == (0, 1)
    nothing = tokenize(settings(features, out, tokenizer))
    assert (nothing.done, nothing.skipped) == (0, 20)


def test_a_store_made_in_parts_is_the_one_made_at_once(features: str, tokenizer: str, tmp_path: Path) -> None:
    tokenize(settings(features, tmp_path / "once", tokenizer))
    tokenize(settings(features, tmp_path / "parts", tokenizer, part="2/2"))
    with pytest.raises(ArtifactError, match="no whole view"):
        TokenStore.open(str(tmp_path / "parts"))
    tokenize(settings(features, tmp_path / "parts", tokenizer, part="1/2"))
    once, parts = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "once", tmp_path / "parts")
    )
    assert once.keys() == parts.keys()
    # What differs from run to run, such as the time, stands in one file, whose hash the index knows.
    assert {str(name) for name in once if once[name] != parts[name]} <= {"artifact.json", "index.json"}


def test_worker_processes_make_the_same(features: str, tokenizer: str, tmp_path: Path) -> None:
    tokenize(settings(features, tmp_path / "here", tokenizer))
    assert tokenize(settings(features, tmp_path / "there", tokenizer, workers=1)).done == 20
    here, there = (TokenStore.open(str(tmp_path / name)).read_clips(range(20)) for name in ("here", "there"))
    assert torch.allclose(here.float(), there.float(), atol=1e-3)


def test_other_weights_are_not_mixed_in(features: str, tokenizer: str, tmp_path: Path) -> None:
    tokenize(settings(features, tmp_path / "tokens", tokenizer))
    state = torch.load(tokenizer, weights_only=True)
    state["norm.bias"] += 1
    torch.save(state, tmp_path / "other.bin")
    with pytest.raises(IdentityError, match="tokenizer is"):
        tokenize(settings(features, tmp_path / "tokens", str(tmp_path / "other.bin")))


def test_damage_is_found(features: str, tokenizer: str, tmp_path: Path) -> None:
    tokenize(settings(features, tmp_path / "tokens", tokenizer))
    (path,) = (tmp_path / "tokens" / "v000").glob("*/tokens/c.0.0.0.0")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"v000/000000-.*checksum"):
        TokenStore.open(str(tmp_path / "tokens")).read_clips(range(20))


@pytest.mark.parametrize("way", ["features", "shards"])
def test_a_clip_that_cannot_be_used_is_flagged_and_named(way: str, tokenizer: str, tmp_path: Path) -> None:
    place = make_shards(tmp_path / "shards", units=1, clips=5)
    _spoil(tmp_path / "shards", row=2)
    data = place
    if way == "features":
        from deltactl.configs.featurize import FeaturizeConfig
        from deltactl.featurize.run import run as featurize

        data = str(tmp_path / "features")
        featurize(
            FeaturizeConfig(
                shards=place, backbone=str(BACKBONE), size=SIZE, out=data, device="cpu", workers=0, max_bad=1.0
            )
        )
    summary = tokenize(settings(data, tmp_path / "tokens", tokenizer, max_bad=1.0))
    assert (summary.done, summary.quarantined) == (4, 1)
    tokens = TokenStore.open(str(tmp_path / "tokens"))
    bad = ShardSet.open(place).keys("000000")[2]
    assert len(tokens) == 4
    assert bad not in tokens.keys
    assert [entry.source for entry in read_quarantine(Location.of(tmp_path / "tokens"))] == [bad]
    (pack,) = (path for path in (tmp_path / "tokens/v000").iterdir() if path.is_dir())
    raw = zarr.open_group(pack, mode="r")["tokens"][:]
    assert np.isnan(raw[2]).all()
    assert np.isfinite(raw[[0, 1, 3, 4]]).all()


def _spoil(root: Path, row: int) -> None:
    """Replace a frame of one clip of the only shard by something that is no image."""
    from dataclasses import replace

    from deltactl.ingest.shards.format import finish, write_shard

    shards = ShardSet.open(str(root))
    clips: list[Clip] = list(shards.read("000000"))
    clips[row] = replace(clips[row], frames=[b"no image", *clips[row].frames[1:]])
    write_shard(Location.of(root), "000000", clips, [], {}, replace=True)
    finish(Location.of(root))


def test_what_does_not_fit_is_refused_with_the_reason(
    features: str, tokenizer: str, golden: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--tokenizer CKPT"):
        tokenize(TokenizeConfig(data=features))
    state = load(tokenizer, TOKENIZER)
    from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig

    assert state.config.width == 128
    torch.save(DeltaTok(DeltaTokConfig(width=64, depth=1)).state_dict(), tmp_path / "narrow.bin")
    with pytest.raises(ConfigError, match="128 wide, but the tokenizer was made for 64"):
        tokenize(settings(features, tmp_path / "tokens", str(tmp_path / "narrow.bin")))
    with pytest.raises(ConfigError, match="views 0, 1"):
        tokenize(settings(features, tmp_path / "tokens", tokenizer, views="5:6"))
    with pytest.raises(ConfigError, match="no videos were found in .*golden"):
        tokenize(settings(str(golden), tmp_path / "tokens", tokenizer))


def test_the_plan_says_what_it_costs(features: str, shards: str, tokenizer: str, tmp_path: Path) -> None:
    lines = list(dry_run(settings(features, tmp_path / "tokens", tokenizer)))
    assert "20 crops to do" in lines[1]
    assert "1.02 kB a crop" in lines[2]
    assert "in one pass" in next(iter(dry_run(settings(shards, tmp_path / "tokens", tokenizer))))
    assert not (tmp_path / "tokens").exists()
