"""Verify finds a flipped byte in any file, what is missing and what is left over; repair remakes just that."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_shards import evaluation_shards, training_shards
from small_stores import BACKBONE, contents, copy, flip, run

from deltactl.artifacts import HEADER, Header, Identity, open_artifact, read_header
from deltactl.cli import main
from deltactl.errors import ArtifactError, DamagedError, IdentityError
from deltactl.featurize.store.finish import finish
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.featurize.store.repair import device_of as repair_device
from deltactl.featurize.store.repair import repair_store
from deltactl.featurize.store.writer import group_writer, write_root
from deltactl.featurize.verify import Verification
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.removal import agree
from deltactl.verification import Finding


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and a store of two views of two shards."""
    folder = tmp_path_factory.mktemp("made")
    training_shards(folder / "shards")
    run(folder / "shards", folder / "store", views="2")
    return folder


def verify(root: Path) -> list[Finding]:
    return Verification.of(str(root)).run()


def repair(root: Path) -> list[str]:
    findings = verify(root)
    assert findings
    return Verification.of(str(root)).repair(findings, shards=None, backbone=None, device="cpu", consent=agree)


def test_a_sound_store_has_nothing_to_find(made: Path) -> None:
    verification = Verification.of(str(made / "store"))
    findings = verification.run()
    assert findings == []
    assert "read 12 crops" in verification.summary(findings)


def test_a_flipped_byte_in_any_file_is_found(made: Path, tmp_path: Path) -> None:
    store = copy(made / "store", tmp_path / "store")
    files = [path for path in sorted(store.rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(files) == 4 * 5 + 7
    for path in files:
        sound = path.read_bytes()
        for position in (0, len(sound) // 2, len(sound) - 1):
            flip(path, position, 0x20)
            findings = [finding for finding in verify(store) if finding.harmful]
            assert findings, f"{path.relative_to(store)} at {position}"
            path.write_bytes(sound)
    assert verify(store) == []


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("v000/000001/features/c.0.0.0.0", ["v000/000001"]),
        ("v001/000000/features/zarr.json", ["v001/000000"]),
        ("v001/000000/zarr.json", ["v001/000000"]),
        ("v001/000001/clips/c.0.0", ["v001/000001"]),
        ("v000/000000/clips/zarr.json", ["v000/000000"]),
        ("black/c/0/0", []),
        ("black/zarr.json", []),
        ("zarr.json", []),
        ("v000/zarr.json", []),
        ("quarantine.jsonl", []),
        ("index.json", []),
        ("artifact.json", []),
    ],
)
@pytest.mark.parametrize("damage", ["flipped", "deleted"])
def test_repair_remakes_just_what_is_damaged(
    made: Path, tmp_path: Path, name: str, groups: list[str], damage: str
) -> None:
    shards = copy(made / "shards", tmp_path / "shards")
    run(shards, tmp_path / "store", views="2")
    store, before, header = tmp_path / "store", contents(made / "store"), read_header(Location.of(made / "store"))
    assert contents(store) == before
    stamps = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    if damage == "deleted":
        (store / name).unlink()
    elif (store / name).stat().st_size:
        flip(store / name, 1, 0x10)
    else:
        (store / name).write_bytes(b"x")
    if name == "artifact.json" and damage == "deleted":
        with pytest.raises(ArtifactError, match="is not an artifact"):
            Verification.of(str(store))
        return
    done = repair(store)
    assert verify(store) == []
    assert contents(store) == before
    assert read_header(Location.of(store)).identity == header.identity
    assert len(FeatureStore.open(str(store))) == 12
    for path, stamp in stamps.items():
        inside = path.relative_to(store).as_posix()
        if inside.startswith("v0") and inside.count("/") > 1 and inside.rsplit("/", 1)[0][:11] not in groups:
            assert path.stat().st_mtime_ns == stamp, f"{inside} was touched"
    assert all(any(group in line for line in done) for group in groups)


def test_a_group_that_is_gone_is_found_and_made_again(made: Path, tmp_path: Path) -> None:
    store = copy(made / "store", tmp_path / "store")
    shutil.rmtree(store / "v001" / "000001")
    shutil.rmtree(store / "v000" / "000000")
    assert [(finding.kind, finding.path) for finding in verify(store)] == [
        ("missing", "v000/000000"),
        ("missing", "v001/000001"),
    ]
    repair(store)
    assert contents(store) == contents(made / "store")


def test_each_damaged_chunk_is_named(made: Path, tmp_path: Path) -> None:
    store = copy(made / "store", tmp_path / "store")
    chunk = 16 * 128 * 2 + 4
    for number in (2, 7):
        flip(store / "v000/000000/features/c.0.0.0.0", number * chunk + 11)
    assert [str(finding) for finding in verify(store)] == [
        f"damaged: v000/000000/features/c.0.0.0.0: clip 'class/{where} does not match its checksum"
        for where in ("video0-0', frame 2", "video0-2', frame 1")
    ]


def test_what_is_left_over_is_named_and_does_no_harm(made: Path, tmp_path: Path) -> None:
    store = copy(made / "store", tmp_path / "store")
    (store / "notes.txt").write_text("mine")
    (store / "v000" / "draft").mkdir()
    (store / "v000/000000/features/c.9.0.0.0").write_bytes(b"?")
    (tmp_path / ".store.partial" / "v000-000000-abc@elsewhere+1").mkdir(parents=True)
    findings = verify(store)
    assert [(finding.kind, finding.path) for finding in findings] == [
        ("left over", "notes.txt"),
        ("left over", "v000/draft"),
        ("left over", "v000/000000/features/c.9.0.0.0"),
        ("left over", "../.store.partial/v000-000000-abc@elsewhere+1"),
    ]
    assert not any(finding.harmful for finding in findings)
    assert main(["verify", str(store)]) == 0
    assert (store / "notes.txt").exists()


def test_a_store_is_repaired_where_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    made = {name: Header(Identity("features", {}), {"device": name}) for name in ("cpu", "cuda", "NVIDIA H200")}
    assert [repair_device(header, "auto") for header in made.values()] == ["cpu", "cuda:0", "cuda:0"]
    assert [repair_device(header, "cpu") for header in made.values()] == ["cpu"] * 3
    assert repair_device(made["cpu"], "cuda:1") == "cuda:1"


def test_a_store_is_repaired_only_from_what_it_was_made_from(made: Path, tmp_path: Path) -> None:
    store = copy(made / "store", tmp_path / "store")
    evaluation_shards(tmp_path / "others")
    flip(store / "v000/000001/features/c.0.0.0.0", 5)
    findings = verify(store)
    with pytest.raises(IdentityError, match="shards is"):
        repair_store(Location.of(store), findings, shards=str(tmp_path / "others"), backbone=str(BACKBONE))
    assert (store / "v000/000001").is_dir()


def test_the_command_names_the_damage_exits_with_1_and_repairs(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = copy(made / "store", tmp_path / "store")
    assert main(["verify", str(store)]) == 0
    assert "0 damaged, 0 missing, 0 left over" in capsys.readouterr().out
    flip(store / "v001/000000/features/c.0.0.0.0", 5)
    assert main(["verify", str(store)]) == 1
    output = capsys.readouterr()
    assert "damaged: v001/000000/features/c.0.0.0.0: clip 'class/video0-0', frame 0" in output.out
    assert "--repair" in output.err
    assert main(["verify", str(store), "--repair", "--device", "cpu"]) == 0
    assert "made again: v001/000000" in capsys.readouterr().out
    assert main(["verify", str(store)]) == 0


# --- tokens ---


def token_store(root: Location, shape: tuple[int, ...]) -> None:
    identity = Identity("tokens", {"made": "by hand"})
    open_artifact(root, identity, {"command": "deltactl tokenize x"})
    write_root(root, None)
    layout = Layout("tokens", 3, shape, nested=len(shape) == 1)
    for unit in ("000000", "000001"):
        keys = [f"{unit}-{row}" for row in range(20)]
        with group_writer(root, 0, unit, layout, keys, keys) as writer:
            for row in range(20):
                writer.put(row, 0, np.full((3, *layout.item_shape), row, np.float16))
            small = {"times": np.zeros((20, 3)), "crop": np.zeros((20, 4)), "flip": np.zeros(20)}
            attributes = {
                "identity": {"kind": "tokens", "values": dict(identity.values)},
                "quarantined": [],
                "shard_sha256": "",
            }
            writer.close(grid=(2, 2), small=small, attributes=attributes)
    finish(root, expected=["000000", "000001"])


@pytest.mark.parametrize("shape", [(1, 8), (4, 8), (8,)])
def test_a_token_store_has_the_same_layout_and_the_same_promises(shape: tuple[int, ...], tmp_path: Path) -> None:
    root, count = Location.of(tmp_path / "tokens"), ([1, *shape])[-2]
    token_store(root, shape)
    with TokenStore.open(root) as store:
        assert (len(store), store.frames, store.tokens_per_frame, store.dim) == (40, 3, count, 8)
        assert store.read_clips([39, 1]).shape == (2, 3, count, 8)
        assert store.read_clips([39, 1])[:, 0, -1, 0].tolist() == [19.0, 1.0]
        with pytest.raises(ValueError, match="pairs are read from feature stores"):
            store.read_pairs([(0, 0)])
    assert verify(root.path) == []
    for path in sorted(each for each in root.path.rglob("*") if each.is_file() and each.stat().st_size):
        sound = path.read_bytes()
        flip(path, len(sound) // 2, 0x20)
        assert any(finding.harmful for finding in verify(root.path)), path
        path.write_bytes(sound)
    chunk = "c/0/0/0" if len(shape) == 1 else "c.0.0.0.0"
    flip(root.path / "v000/000001/tokens" / chunk, 3 * count * 8 * 2 + 4 + 10)
    with TokenStore.open(root) as store, pytest.raises(DamagedError, match="clip '000001-1', frame 0"):
        store.read_clips(range(40))
    (told,) = repair(root.path)
    assert told == "took out v000/000001; to make them again, run: deltactl tokenize x"
    assert [finding.path for finding in verify(root.path)] == ["v000/000001"]


# --- shards ---


def test_a_flipped_byte_in_any_file_of_shards_is_found(made: Path, tmp_path: Path) -> None:
    shards = copy(made / "shards", tmp_path / "shards")
    assert verify(shards) == []
    for path in sorted(shards.iterdir()):
        sound = path.read_bytes()
        for position in (0, len(sound) // 2, len(sound) - 1) if sound else ():
            flip(path, position, 0x20)
            assert any(finding.harmful for finding in verify(shards)), f"{path.name} at {position}"
            path.write_bytes(sound)
    for name in ("000001.tar", "000000.json", "index.json"):
        sound = (shards / name).read_bytes()
        (shards / name).unlink()
        assert {"missing", "unfinished"} & {finding.kind for finding in verify(shards)}
        (shards / name).write_bytes(sound)
    assert verify(shards) == []


def test_repair_of_shards_takes_the_damaged_ones_out_and_says_how_to_go_on(made: Path, tmp_path: Path) -> None:
    shards = copy(made / "shards", tmp_path / "shards")
    flip(shards / "000001.tar", 1000)
    done = repair(shards)
    assert done[0] == "took out 000001"
    assert "is unfinished: 1 shards are there; to end it, run: " in done[1]
    assert not (shards / "000001.tar").exists()
    assert ShardSet.open(str(shards)).units == ["000000"]
    assert not ShardSet.open(str(shards)).complete


def test_runs_carry_no_checksums(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        Verification.of(str(tmp_path))
    assert HEADER == "artifact.json"
