"""Columns from shards through features to tokens: the same values everywhere, checked, packed, repaired."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from small_training import BACKBONE, COLUMNS, FRAMES, SIZE, columns_of, make_features, make_shards, moving_clips
from token_stores import make_store, unit_names

from deltactl.artifacts import read_quarantine
from deltactl.cli import main
from deltactl.configs.tokenize import TokenizeConfig
from deltactl.errors import ArtifactError, DamagedError
from deltactl.featurize.describe import describe
from deltactl.featurize.live import check_live
from deltactl.featurize.store.array_files import write_array
from deltactl.featurize.store.carried import COLUMNS as COLUMNS_ARRAY
from deltactl.featurize.store.carried import described, from_rows, to_row
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.packing import pack_store
from deltactl.featurize.store.reader import ClipStore, FeatureStore, TokenStore
from deltactl.featurize.store.verify import verify_store
from deltactl.fields import Fields
from deltactl.ingest.shards.columns import Column, of_steps
from deltactl.ingest.shards.format import Clip, ShardSet
from deltactl.locations import Location
from deltactl.tokenization.run import run as tokenize

TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")
LACKING = 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards with columns, in which one clip lacks them."""
    folder = tmp_path_factory.mktemp("columns")
    key = ShardSet.open(make_shards(folder / "bare", clips=5)).keys("000000")[LACKING]
    return make_shards(folder / "shards", clips=5, columns=COLUMNS, lacking=key)


@pytest.fixture(scope="module")
def features(shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_features(shards, tmp_path_factory.mktemp("columns") / "features", views="2", max_bad=0.5)


def tokens_of(data: str, out: Path) -> TokenStore:
    settings: dict[str, Any] = {"backbone": str(BACKBONE), "size": SIZE, "device": "cpu", "workers": 0, "max_bad": 0.5}
    tokenize(TokenizeConfig(data=data, out=str(out), tokenizer=TOKENIZER, **settings))
    return TokenStore.open(str(out))


def clips_of(shards: str) -> dict[str, Clip]:
    opened = ShardSet.open(shards)
    return {clip.key: clip for unit in opened.units for clip in opened.read(unit) if clip.columns}


def check(store: ClipStore, shards: str) -> None:
    """Check that every sample carries what its clip does, in any order."""
    assert store.columns == COLUMNS
    order = np.random.default_rng(0).permutation(len(store)).tolist()
    numbers, texts = store.start_columns(order)(), store.texts(order)
    clips = clips_of(shards)
    assert {store.keys[sample] for sample in order} == set(clips)
    assert list(numbers) == ["actions", "clip.camera", "gripper", "number"]
    assert list(texts) == ["clip.text"]
    for place, sample in enumerate(order):
        wanted = columns_of(clips[store.keys[sample]])
        for name, values in numbers.items():
            assert values.dtype == torch.from_numpy(wanted[name]).dtype
            np.testing.assert_array_equal(values[place].numpy(), wanted[name])
        assert texts["clip.text"][place] == str(wanted["clip.text"])


def test_features_carry_the_columns_of_their_clips_and_those_that_lack_them_are_quarantined(
    shards: str, features: str
) -> None:
    store = FeatureStore.open(features)
    assert len(store) == 2 * 9
    check(store, shards)
    assert {entry.reason for entry in read_quarantine(store.root)} == {
        "it has the columns none; actions, clip.camera, clip.text, gripper, number were expected"
    }
    assert describe(store.root)["columns"] == (
        "actions (float32 (3,) a frame), clip.camera (float64 (2, 2)), clip.text (text ()), gripper (bool () a frame), "
        "number (int64 () a frame)"
    )


def test_the_plain_library_reads_them(shards: str, features: str) -> None:
    group = zarr.open_group(features, mode="r")["v001/000001"]
    array = group["columns"]
    about = array.attrs["columns"]["actions"]
    first, size = about["first_byte"], 4 * int(np.prod(about["shape"]))
    actions = np.ascontiguousarray(array[:, first : first + size]).view("<f4").reshape(-1, *about["shape"])
    for row, key in enumerate(group.attrs["keys"]):
        wanted = columns_of(clips_of(shards)[key])
        np.testing.assert_array_equal(actions[row], wanted["actions"])
        assert group.attrs["texts"]["clip.text"][row] == str(wanted["clip.text"])
    absent = zarr.open_group(features, mode="r")["v000/000000/columns"][LACKING]
    assert set(absent.tolist()) == {255}


def test_tokens_carry_them_from_features_and_from_shards_and_in_packs(
    shards: str, features: str, tmp_path: Path
) -> None:
    from_features = tokens_of(features, tmp_path / "one")
    straight = tokens_of(shards, tmp_path / "two")
    check(from_features, shards)
    check(straight, shards)
    packs = [path.name for path in (tmp_path / "one" / "v000").iterdir() if path.is_dir()]
    assert len(packs) == 1
    assert "-" in packs[0]
    assert (tmp_path / "one" / "v000" / packs[0] / "columns" / "c.0.0").stat().st_size > 0
    for store in (from_features, straight):
        assert verify_store(store.root) == []


def test_an_open_store_goes_on_reading_columns_while_its_groups_are_packed(tmp_path: Path) -> None:
    root = Location.of(tmp_path / "tokens")
    carried = (Column("speed", "float32", ()), Column("clip.number", "int64", ()))
    layout = Layout("tokens", 3, (1, 8), carried=carried)
    make_store(tmp_path / "tokens", unit_names(20), pack=False, layout=layout)
    with TokenStore.open(root) as early, TokenStore.open(root) as late:
        samples = np.random.default_rng(0).permutation(len(early)).tolist()
        expected = early.start_columns(samples)()
        assert expected["speed"].shape == (len(samples), 3)
        assert len(set(expected["clip.number"].tolist())) == len(samples)
        pack_store(root, StoreIndex.read(root))
        for opened in (early, late):  # one knows where the groups lay
            for name, values in opened.start_columns(samples)().items():
                assert torch.equal(values, expected[name])


def files_of(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.glob("v0*/**/*"))
        if path.is_file()
    }


def test_damaged_columns_are_found_named_and_made_again(shards: str, features: str, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(features, root)
    before = files_of(root)
    place = root / "v001" / "000001" / "columns" / "c.0.0"
    data = bytearray(place.read_bytes())
    data[3] ^= 1
    place.write_bytes(bytes(data))
    store = FeatureStore.open(str(root))
    key = store._index.keys["000001"][0]
    with pytest.raises(DamagedError, match=r"v001/000001/columns/c\.0\.0: clip .* does not match its checksum"):
        store.start_columns([store.find(key, 1)])()
    (finding,) = verify_store(Location.of(root))
    assert finding.path == "v001/000001/columns/c.0.0"
    assert key in finding.reason
    assert main(["verify", str(root), "--repair", "--yes", "--device", "cpu"]) in (0, 1)
    assert verify_store(Location.of(root)) == []
    assert files_of(root) == before
    place.unlink()
    assert {each.path for each in verify_store(Location.of(root))} == {"v001/000001/columns/c.0.0"}


def test_a_live_check_compares_them(features: str, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(features, root)
    assert check_live(Location.of(root), 100, device="cpu").findings == []
    folder = root / "v000" / "000001" / COLUMNS_ARRAY
    rows = zarr.open_array(folder, mode="r")[:]
    rows[2, 0] ^= 1
    write_array(folder, FeatureStore.open(str(root)).layout.arrays(len(rows))[COLUMNS_ARRAY], rows)
    assert verify_store(Location.of(root)) == []
    (finding,) = check_live(Location.of(root), 100, device="cpu").findings
    assert finding.path == "v000/000001"
    assert finding.reason.endswith("was stored with other columns")


def test_without_columns_a_store_is_what_it_was(tmp_path: Path) -> None:
    bare = make_shards(tmp_path / "shards", units=1, clips=2)
    store = FeatureStore.open(make_features(bare, tmp_path / "features"))
    assert store.columns == ()
    assert store.start_columns([0, 1])() == {}
    assert store.texts([0]) == {}
    assert store.layout.format == 4
    assert "columns" not in store.layout.to_json()
    assert sorted(path.name for path in (tmp_path / "features" / "v000" / "000000").iterdir()) == [
        "clips",
        "features",
        "zarr.json",
    ]
    assert "columns" not in describe(store.root)


def test_a_layout_says_what_is_carried_in_a_format_that_older_programs_refuse() -> None:
    layout = Layout("tokens", FRAMES, (1, 8), carried=COLUMNS)
    assert layout.format == 5
    assert Layout.of(Fields(layout.to_json(), "here"), 5) == layout
    with pytest.raises(ArtifactError, match="has no 'columns'"):
        Layout.of(Fields(Layout("tokens", FRAMES, (1, 8)).to_json(), "here"), 5)
    values = columns_of(moving_clips(0, 1)[0])
    row = to_row(values, COLUMNS, FRAMES)
    assert len(row) == layout.carried_bytes == 4 * 3 * FRAMES + 32 + FRAMES + 8 * FRAMES
    back = from_rows(np.stack([row, row]), COLUMNS, FRAMES)
    for name, each in back.items():
        np.testing.assert_array_equal(each[1], values[name])
    assert [about["first_byte"] for about in described(COLUMNS, FRAMES).values()] == [0, 48, 80, 84]


def test_a_step_of_several_frames_has_what_its_last_frame_has() -> None:
    values = {"speed": np.arange(6), "clip.camera": np.eye(2)}
    assert of_steps(values, 2)["speed"].tolist() == [1, 3, 5]
    np.testing.assert_array_equal(of_steps(values, 2)["clip.camera"], np.eye(2))
