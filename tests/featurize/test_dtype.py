"""Stores of bfloat16: what float16 cannot hold, read by anybody's Zarr, and used like any other store."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import torch
import zarr
from safetensors.torch import load_file, save_file
from small_shards import training_shards
from small_stores import BACKBONE, contents, flip, run, settings, tokens

from deltactl.cli import main
from deltactl.commands.info import describe
from deltactl.errors import IdentityError, TooManyBadError
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.loading import load_computer
from deltactl.featurize.store.layout import LARGEST
from deltactl.featurize.store.numbers import real_numbers, rounded, stored_numbers
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.train.data.batches import Batch
from deltactl.train.steps.frozen import Frozen

LOUD = 37
"""The channel whose features are beyond float16."""


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A backbone with one channel far beyond float16."""
    folder = tmp_path_factory.mktemp("loud") / "backbone"
    shutil.copytree(BACKBONE, folder)
    weights = load_file(folder / "model.safetensors")
    weights["norm.weight"][LOUD] *= 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, loud: str) -> Path:
    """Shards, and their features by that backbone, in `shards` and `store`."""
    home = tmp_path_factory.mktemp("made")
    training_shards(home / "shards", units=2)
    run(home / "shards", home / "store", backbone=loud, dtype="bfloat16")
    return home


def test_the_largest_numbers_are_those_of_torch() -> None:
    assert {name: torch.finfo(getattr(torch, name)).max for name in LARGEST} == LARGEST


def test_live_features_are_rounded_like_stored_ones_as_far_as_float16_reaches() -> None:
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    halves = bits.view(torch.float16).float()
    assert torch.equal(rounded(halves).nan_to_num(1.0), halves.nan_to_num(1.0))
    assert rounded(torch.tensor([1.0001, 65519.0, 7e4, -1e6, torch.inf, -torch.inf])).tolist() == (
        [1.0, 65504.0, 7e4, -1e6, torch.inf, -torch.inf]
    )


def test_a_training_with_the_backbone_in_its_loop_keeps_what_is_beyond_float16(loud: str) -> None:
    backbone = Backbone.load(loud, "cpu", torch.float32)
    frames = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = Batch("frames", frames, torch.zeros(1, 2), np.zeros(1, np.int64))
    features = Frozen(backbone).features(batch).data
    assert features.abs().max() > 65504
    torch.testing.assert_close(features, backbone(frames), rtol=1e-3, atol=1e-3)


def test_every_bit_pattern_goes_to_the_disk_and_back() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    values = torch.from_numpy(bits.copy()).view(torch.bfloat16)
    assert np.array_equal(stored_numbers(values), bits)
    assert np.array_equal(real_numbers(bits), values.float().numpy(), equal_nan=True)


def test_features_beyond_float16_are_stored_rounded_once(made: Path, loud: str) -> None:
    with FeatureStore.open(str(made / "store")) as store:
        features = store.read_clips(range(len(store)))
        assert len(store) == 6
        assert features.dtype == store.dtype == torch.bfloat16
        assert store.identity.values["dtype"] == "bfloat16"
        assert features.abs().max() > 65504
        assert torch.equal(store.read_pairs([(3, 1)])[0], features[3, 1:3])
    again = load_computer(settings(made / "shards", made / "store", backbone=loud, dtype="bfloat16"), "cpu")
    frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    rounded, found = again.start(frames).wait()
    assert torch.equal(rounded, Backbone.load(loud, "cpu")(frames).bfloat16())
    assert found.storable(LARGEST["bfloat16"]).all()
    facts = describe(str(made / "store"))["artifact"]
    assert facts["frame"] == "16 x 128 bfloat16"
    statistics = FeatureStore.open(str(made / "store")).statistics
    assert statistics is not None
    assert int(statistics.std.argmax()) == LOUD


def test_plain_zarr_and_tensorstore_open_it(made: Path) -> None:
    """The lines that docs/formats.md gives."""
    array = zarr.open_array(made / "store/v000/000001/features", mode="r")
    assert array.attrs["dtype"] == "bfloat16"
    bits = array[:]
    with FeatureStore.open(str(made / "store")) as store:
        mine = store.read_clips(store.samples_of(0, "000001")[0])
    assert np.array_equal(bits.view(ml_dtypes.bfloat16).astype(np.float32), mine.float().numpy())
    assert torch.equal(torch.from_numpy(bits).view(torch.bfloat16), mine)
    place = {"driver": "file", "path": str(made / "store/v000/000001/features")}
    there = tensorstore.open({"driver": "zarr3", "kvstore": place}).result()
    assert np.array_equal(there.read().result(), bits)


def test_what_is_missing_reads_as_nan(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "store", tmp_path / "store")
    (tmp_path / "store/v000/000000/features/c.0.0.0.0").unlink()
    bits = zarr.open_array(tmp_path / "store/v000/000000/features", mode="r")[:]
    assert np.isnan(bits.view(ml_dtypes.bfloat16).astype(np.float32)).all()


def test_verify_finds_damage_and_repair_makes_the_same_bytes_again(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "store", tmp_path / "store")
    before = contents(tmp_path / "store")
    assert main(["verify", str(tmp_path / "store")]) == 0
    flip(tmp_path / "store/v000/000001/features/c.0.0.0.0", 100)
    assert main(["verify", str(tmp_path / "store")]) == 1
    assert main(["verify", str(tmp_path / "store"), "--repair", "--yes", "--device", "cpu"]) == 0, capsys.readouterr()
    assert contents(tmp_path / "store") == before


def test_float16_tells_once_of_the_channel_and_the_remedy(
    made: Path, loud: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(made / "shards", tmp_path / "store", backbone=loud, max_bad=1.0)
    told = [record.getMessage() for record in caplog.records if "float16" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"6 crops have numbers beyond float16 (65504), in channel {LOUD}, up to ")
    assert told[0].endswith("; to store them, make another store: --dtype bfloat16 --out DIR")
    assert not any("quarantined" in record.getMessage() for record in caplog.records)
    lines = (tmp_path / "store/quarantine.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert all("a number is beyond float16" in line for line in lines)


def test_where_it_is_too_many_the_error_has_the_remedy(made: Path, loud: str, tmp_path: Path) -> None:
    with pytest.raises(TooManyBadError, match=rf"more than --max-bad 0\.01.*channel {LOUD}.*--dtype bfloat16"):
        run(made / "shards", tmp_path / "store", backbone=loud, max_bad=0.01)


def test_a_store_has_one_type(tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=1)
    run(tmp_path / "shards", tmp_path / "store")
    with pytest.raises(IdentityError, match="dtype is float16 there, bfloat16 here"):
        run(tmp_path / "shards", tmp_path / "store", dtype="bfloat16")
    assert "dtype" not in FeatureStore.open(str(tmp_path / "store")).identity.values


@pytest.mark.parametrize("features", ["float16", "bfloat16"])
def test_tokens_of_either_type_come_from_features_of_either(tmp_path: Path, features: str) -> None:
    """And the same straight from shards, where features are rounded to the type of the tokens."""
    training_shards(tmp_path / "shards", units=1)
    run(tmp_path / "shards", tmp_path / "features", dtype=features)
    found = {}
    for dtype in ("float16", "bfloat16"):
        tokens(tmp_path / "features", tmp_path / dtype, dtype=dtype)
        store = TokenStore.open(str(tmp_path / dtype))
        found[dtype] = store.read_clips(range(len(store)))
        assert found[dtype].dtype == store.dtype == getattr(torch, dtype)
        types = {
            name: store.identity.values[name] for name in ("dtype", "features_dtype") if name in store.identity.values
        }
        wanted = {"dtype": dtype, "features_dtype": features}
        assert types == {name: value for name, value in wanted.items() if value != "float16"}
    assert torch.allclose(found["float16"].float(), found["bfloat16"].float(), rtol=2**-7, atol=1e-3)
    tokens(tmp_path / "shards", tmp_path / "straight", backbone=str(BACKBONE), dtype=features)
    straight = TokenStore.open(str(tmp_path / "straight"))
    assert straight.identity == TokenStore.open(str(tmp_path / features)).identity
    assert torch.allclose(straight.read_clips(range(3)).float(), found[features].float(), rtol=2**-7, atol=1e-3)
