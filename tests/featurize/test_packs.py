"""Tokens of many shards share the inodes of one group: packed whole or not at all, at any moment, read as before."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from small_shards import training_shards
from small_stores import contents, flip, run, tokens
from token_stores import FRAMES, all_numbers, clips_of, inodes, make_store, numbers_of, unit_names, write_group

from deltactl.cli import main
from deltactl.errors import DamagedError
from deltactl.featurize.store import packing
from deltactl.featurize.store.finish import finish, published, read_group_file, read_group_files, shard_hashes
from deltactl.featurize.store.group import Span
from deltactl.featurize.store.index import StoreIndex
from deltactl.featurize.store.packing import pack_range, pack_store
from deltactl.featurize.store.packs import PACK_SHARDS, Listing, range_name, range_of_pack
from deltactl.featurize.store.ranges_reader import RangesReader
from deltactl.featurize.store.reader import TokenStore
from deltactl.featurize.verify import Verification
from deltactl.locations import Location
from deltactl.removal import agree

UNITS = unit_names(70)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of two views of 70 shards, packed."""
    return make_store(tmp_path_factory.mktemp("packs") / "tokens", UNITS, (0, 1)).path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(made, tmp_path / "tokens"))


def read(root: Path | Location) -> np.ndarray:
    with TokenStore.open(Location.of(root)) as opened:
        numbers: np.ndarray = opened.read_clips(range(len(opened))).numpy()
        return numbers


def harmful(root: Path) -> list[str]:
    return [str(finding) for finding in Verification.of(str(root)).run() if finding.harmful]


def expected_numbers(root: Path) -> np.ndarray:
    return all_numbers(StoreIndex.read(Location.of(root)))


# --- what it costs ---


@pytest.mark.parametrize("clips", [1, 20])
def test_a_group_of_features_is_eight_inodes_however_many_clips(clips: int, tmp_path: Path) -> None:
    training_shards(tmp_path / "shards", units=1, clips=clips)
    run(tmp_path / "shards", tmp_path / "store")
    assert inodes(tmp_path / "store/v000/000000") == 8


def test_inodes_of_tokens_grow_with_packs_of_64_shards(tmp_path: Path) -> None:
    """By the real stage, straight from shards."""
    counts = {}
    for units in (2, PACK_SHARDS + 1):
        training_shards(tmp_path / f"shards{units}", units=units, clips=1)
        tokens(tmp_path / f"shards{units}", tmp_path / f"tokens{units}", backbone="tests/golden/backbone", views="2")
        counts[units] = inodes(tmp_path / f"tokens{units}")
        assert harmful(tmp_path / f"tokens{units}") == []
    once = 1 + 4 + 2 * 2  # the store, its files, two views
    assert counts == {2: once + 2 * 8, PACK_SHARDS + 1: once + 4 * 8}


# --- reading ---


def test_packed_groups_are_read_as_if_they_lay_by_themselves(made: Path, tmp_path: Path) -> None:
    loose = make_store(tmp_path / "loose", UNITS, (0, 1), pack=False)
    assert published(loose) == published(Location.of(made)) == {0: UNITS, 1: UNITS}
    assert (loose / "index.json").read_bytes() == (made / "index.json").read_bytes()
    assert Listing.of(Location.of(made)).units == {0: [], 1: []}
    groups = [(view, unit) for view in (1, 0) for unit in UNITS]
    for one, other in zip(read_group_files(loose, groups), read_group_files(Location.of(made), groups), strict=True):
        assert replace(one, statistics=None) == replace(other, statistics=None)
        assert (one.view, one.unit) == groups.pop(0)
    groups = [(1, "000001"), (0, "000069")]
    assert shard_hashes(loose, groups) == shard_hashes(Location.of(made), groups)
    with TokenStore.open(str(loose)) as before, TokenStore.open(str(made)) as after:
        assert before.group_hashes() == after.group_hashes()
        order = np.random.default_rng(0).permutation(len(before)).tolist()
        assert np.array_equal(before.read_clips(order).numpy(), after.read_clips(order).numpy())
        for one, other in ((before.times, after.times), (before.crops, after.crops), (before.flips, after.flips)):
            assert one(order).equal(other(order))
        assert np.array_equal(after.read_clips(range(len(after))).numpy(), expected_numbers(made))


def test_a_library_opens_a_pack(made: Path) -> None:
    (name,) = [each for each in Listing.of(Location.of(made)).packs[0] if range_of_pack(each) == "000000-000063"]
    group = zarr.open_group(made / "v000" / name, mode="r")
    assert set(group.array_keys()) == {"tokens", "clips"}
    rows = sum(map(clips_of, UNITS[:64]))
    assert group["tokens"].shape == (rows, FRAMES, 1, 8)
    assert np.array_equal(group["tokens"][:], expected_numbers(made)[:rows])
    assert [entry["shard"] for entry in group.attrs["groups"]] == UNITS[:64]
    said = group["clips"].attrs["groups"][9]
    assert said["keys"] == ["000009-0"]
    table = dict(
        zip(group["clips"].attrs["columns"], group["clips"][group.attrs["groups"][9]["first_row"]], strict=True)
    )
    assert (table["time_1"], table["top"], table["flip"], table["valid"]) == (901.0, 9.0, 0.0, 1.0)


def test_a_store_that_is_open_goes_on_while_its_groups_are_packed(tmp_path: Path) -> None:
    root = make_store(tmp_path / "tokens", UNITS[:40], pack=False)
    with TokenStore.open(root) as early, TokenStore.open(root) as late:
        samples = range(len(early))
        expected = expected_numbers(root.path)
        assert np.array_equal(early.read_clips(samples).numpy(), expected)
        pack_store(root, StoreIndex.read(root))
        assert Listing.of(root).units == {0: []}
        for opened in (early, late):  # one knows where the groups lay
            assert np.array_equal(opened.read_clips(samples).numpy(), expected)
            assert opened.times(samples)[0].tolist() == [100.0, 101.0, 102.0]
        # The pack, too, is replaced when shards are added.
        make_store(tmp_path / "tokens", UNITS)
        for opened in (early, late):
            assert np.array_equal(opened.read_clips(samples).numpy(), expected)
    assert len(read(root)) > len(expected)


def test_ranges_and_libraries_read_packs_in_a_bucket(made: Path, bucket: Location) -> None:
    for path in made.rglob("*"):
        if path.is_file():
            (bucket / "tokens" / path.relative_to(made).as_posix()).upload(path)
    expected = expected_numbers(made)
    assert np.array_equal(read(bucket / "tokens"), expected)
    with TokenStore.open(bucket / "tokens") as opened:
        out = np.zeros((len(opened), FRAMES, 1, 8), np.float16)
        spans = [Span(opened._group(sample), int(opened._row[sample]), 0, FRAMES) for sample in range(len(opened))]
        ranges = RangesReader(4)
        for future in ranges.start(spans, out):
            future.result()
        ranges.close()
    assert np.array_equal(out, expected)
    assert Verification.of(bucket / "tokens").run() == []


def test_groups_in_a_bucket_are_packed_there(bucket: Location, tmp_path: Path) -> None:
    remote = make_store(bucket / "tokens", UNITS[:5], pack=False)
    with TokenStore.open(remote) as opened:
        opened.read_clips([0])
        pack_store(remote, StoreIndex.read(remote))
        assert Listing.of(remote).units == {0: []}
        assert np.array_equal(opened.read_clips(range(len(opened))).numpy(), all_numbers(StoreIndex.read(remote)))
    local = make_store(tmp_path / "tokens", UNITS[:5])
    for path in local.path.glob("v000/**/*"):
        if path.is_file():
            assert (remote / path.relative_to(local.path).as_posix()).read_bytes() == path.read_bytes()


# --- growing ---


def test_a_shard_that_is_made_again_takes_its_place_in_the_pack(store: Path) -> None:
    root = Location.of(store)
    before = set(Listing.of(root).packs[0])
    write_group(root, 0, "000002", version=1)
    assert read_group_file(root, 0, "000002").shard_sha256 == "000002.1"
    assert shard_hashes(root, [(0, "000002")]) == {(0, "000002"): "000002.1"}
    write_group(root, 1, "000002", version=1)
    index = finish(root, expected=UNITS)
    assert index is not None
    pack_store(root, index)
    after = set(Listing.of(root).packs[0])
    assert len(before & after) == 1
    assert len(after) == 2
    with TokenStore.open(root) as opened:
        samples, _ = opened.samples_of(1, "000002")
        assert np.array_equal(opened.read_clips(samples).numpy(), numbers_of(1, "000002", 1))
        others, _ = opened.samples_of(1, "000003")
        assert np.array_equal(opened.read_clips(others).numpy(), numbers_of(1, "000003"))
    assert harmful(store) == []


@pytest.mark.parametrize("steps", [(3, 66, 70), (64, 70)])
def test_a_store_that_grew_has_the_bytes_of_one_made_at_once(
    steps: tuple[int, ...], made: Path, tmp_path: Path
) -> None:
    for count in steps:
        make_store(tmp_path / "tokens", UNITS[:count], (0, 1))
    assert contents(tmp_path / "tokens") == contents(made)


def test_a_part_packs_nothing_before_the_others_are_there(made: Path, tmp_path: Path) -> None:
    for part in (0, 1):
        root = make_store(tmp_path / "tokens", UNITS[part::2], (0, 1), expected=UNITS)
        assert any(Listing.of(root).packs.values()) == (part == 1)
    assert contents(tmp_path / "tokens") == contents(made)


def test_dropping_a_view_leaves_the_others(store: Path) -> None:
    from deltactl.featurize.store.finish import drop_views

    assert drop_views(Location.of(store), [0], agree) == [1]
    assert harmful(store) == []
    assert np.array_equal(read(store), np.concatenate([numbers_of(1, unit) for unit in UNITS]))


# --- dying ---


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of which the groups of three shards are packed, and those of the others lie by themselves."""
    folder = tmp_path_factory.mktemp("grown") / "tokens"
    make_store(folder, UNITS[:3], (0, 1))
    return make_store(folder, UNITS, (0, 1), pack=False).path


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *(("discard_folders", step) for step in range(6)),
        *(("rename", step) for step in (1, 2, 30, 70)),
        *(("publish_folder", 1), ("_write_arrays", 2)),
    ],
)
def test_a_process_may_die_at_any_step_of_packing(
    step: int, name: str, made: Path, grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Location.of(shutil.copytree(grown, tmp_path / "tokens"))
    place = Path if name == "rename" else packing
    calls, real = [0], getattr(place, name)

    def dies(*values: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] > step:
            raise KeyboardInterrupt
        return real(*values, **options)

    monkeypatch.setattr(place, name, dies)
    with contextlib.suppress(KeyboardInterrupt):
        pack_store(root, StoreIndex.read(root))
    monkeypatch.undo()
    assert np.array_equal(read(root), expected_numbers(root.path))
    assert harmful(root.path) == []
    pack_store(root, StoreIndex.read(root))
    assert contents(root.path) == contents(made)


def test_processes_that_pack_at_once_leave_the_same_bytes(
    made: Path, grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Location.of(shutil.copytree(grown, tmp_path / "tokens"))
    real, busy = packing._write_arrays, [True]

    def overtaken(*values: Any, **options: Any) -> None:
        if busy[0]:
            busy[0] = False
            pack_range(root, 0, range_name(UNITS[0]))  # another process does it first, and removes the groups
        real(*values, **options)

    monkeypatch.setattr(packing, "_write_arrays", overtaken)
    pack_store(root, StoreIndex.read(root))
    assert contents(root.path) == contents(made)


# --- damage ---


def files_of_pack(root: Path) -> list[Path]:
    (name,) = [each for each in Listing.of(Location.of(root)).packs[1] if each.startswith("000000-")]
    return sorted(path for path in (root / "v001" / name).rglob("*") if path.is_file())


def damages(path: Path) -> dict[str, Callable[[], object]]:
    sound = path.read_bytes()
    return {
        "first bit": lambda: flip(path, 0),
        "a bit": lambda: flip(path, len(sound) // 3, 0x40),
        "last bit": lambda: flip(path, len(sound) - 1, 0x80),
        "truncated": lambda: path.write_bytes(sound[: len(sound) * 2 // 3]),
        "empty": lambda: path.write_bytes(b""),
        "zeroed": lambda: path.write_bytes(bytes(len(sound))),
        "zeroed end": lambda: path.write_bytes(sound[:-64] + bytes(64)),
        "gone": lambda: path.unlink(),
    }


def test_every_damage_to_a_pack_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "tokens", UNITS[:6], (0, 1)).path
    for path in files_of_pack(store):
        sound, inside = path.read_bytes(), path.relative_to(store).as_posix()
        for what, damage in damages(path).items():
            damage()
            found = harmful(store)
            assert any(path.parent.name in line or path.name in line for line in found), f"{inside} {what}: {found}"
            with pytest.raises(DamagedError, match=r"v001/"), TokenStore.open(str(store)) as opened:
                opened.read_clips(range(len(opened)))
                opened.times(range(len(opened)))
            path.write_bytes(sound)
    assert harmful(store) == []


def test_a_damaged_clip_is_named_and_costs_its_shard_alone(
    store: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(each for each in files_of_pack(store) if each.parent.name == "tokens" and each.name.startswith("c."))
    before = sum(map(clips_of, UNITS[:7]))
    flip(path, (before + 1) * (FRAMES * 8 * 2 + 4) + 5)
    assert harmful(store) == [
        f"damaged: {path.relative_to(store).as_posix()}: clip '000007-1', frame 0 does not match its checksum"
    ]
    assert main(["verify", str(store), "--repair", "--yes"]) == 1
    assert "took out v001/000007; to make them again, run: deltactl tokenize x" in capsys.readouterr().out
    assert published(Location.of(store)) == {0: UNITS, 1: [unit for unit in UNITS if unit != "000007"]}
    make_store(store, UNITS, (0, 1))
    assert contents(store) == contents(made)


@pytest.mark.parametrize("name", ["zarr.json", "tokens/zarr.json", "clips/zarr.json", "tokens/c.0.0.0.0"])
def test_a_pack_whose_files_are_damaged_as_a_whole_is_made_again(name: str, store: Path, made: Path) -> None:
    pack = files_of_pack(store)[0].parents[1]
    flip(pack / name, (pack / name).stat().st_size - 3)
    assert f"v001/{pack.name}/{name}" in harmful(store)[0]
    assert main(["verify", str(store), "--repair", "--yes"]) == 1
    assert published(Location.of(store)) == {0: UNITS, 1: UNITS[64:]}
    make_store(store, UNITS, (0, 1))
    assert contents(store) == contents(made)


def test_a_pack_that_tells_of_other_groups_is_refused(store: Path) -> None:
    """Sealed again by a script, or moved from another store."""
    from deltactl.artifacts import seal
    from deltactl.featurize.store.writer import group_metadata

    pack = files_of_pack(store)[0].parents[1]
    said = json.loads((pack / "zarr.json").read_text())["attributes"]
    said["groups"][3]["first_row"] += 1
    del said["sha256"]
    (pack / "zarr.json").write_bytes(group_metadata(seal(said)))
    with pytest.raises(DamagedError, match=r"groups.000003.first_row is 4; expected 3"):
        published(Location.of(store))
    pack.rename(pack.with_name(pack.name[:-8] + "0" * 8))
    with pytest.raises(DamagedError, match=r"expected those of 000000-000063-00000000"):
        published(Location.of(store))


def test_a_pack_beside_its_groups_is_left_over_and_the_groups_count(store: Path) -> None:
    write_group(Location.of(store), 0, "000002")
    findings = Verification.of(str(store)).run()
    assert [str(each) for each in findings] == [
        "left over: v000/000002: a pack holds this group, too; run tokenize again"
    ]
    pack_store(Location.of(store), StoreIndex.read(Location.of(store)))
    assert Verification.of(str(store)).run() == []
