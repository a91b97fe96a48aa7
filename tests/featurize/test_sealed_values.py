"""A sealed file with a value that does not belong there is a damaged file with a name, and verify goes on behind it."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mutations import GONE, MUTANTS, mutated, places, sealed
from small_shards import training_shards
from small_stores import run

from deltactl.artifacts import canonical_json, read_header, seal
from deltactl.cli import main
from deltactl.commands.info import describe
from deltactl.errors import ArtifactError, DamagedError, DeltactlError
from deltactl.featurize.store.finish import read_group_file
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.verify import Verification
from deltactl.fields import Fields
from deltactl.ingest.shards.format import ShardSet
from deltactl.locations import Location
from deltactl.train.callbacks.tracking import MetricsLogger


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and a store of one view of two shards."""
    folder = tmp_path_factory.mktemp("made")
    training_shards(folder / "shards", units=2, clips=2)
    run(folder / "shards", folder / "features")
    return folder


def read_shards(root: Path) -> None:
    for unit in ShardSet.open(str(root)).units:
        list(ShardSet.open(str(root)).stream(unit))


def read_features(root: Path) -> None:
    with FeatureStore.open(str(root)) as store:
        store.read_clips(range(len(store)))
        assert store.keys is not None
        assert store.grid is not None


READ: dict[str, Callable[[Path], None]] = {"shards": read_shards, "features": read_features}
FILES = [
    "shards/artifact.json",
    "shards/index.json",
    "shards/000000.json",
    "features/artifact.json",
    "features/index.json",
    "features/v000/000000/zarr.json",
]


@pytest.mark.parametrize("name", FILES)
def test_no_value_of_a_sealed_file_is_taken_as_it_comes(made: Path, tmp_path: Path, name: str) -> None:
    """Each place in turn holds another wrong value, and none at all; everything that reads it is asked."""
    kind = name.partition("/")[0]
    root = tmp_path / kind
    shutil.copytree(made / kind, root)
    path, inside = tmp_path / name, "attributes" if name.endswith("zarr.json") else None
    sound, index = path.read_bytes(), (root / "index.json").read_bytes()
    content = json.loads(sound)
    turns = itertools.cycle(MUTANTS)
    wrong = 0
    for place in places(content):
        if (place[-1] == "sha256" and len(place) < 3) or (inside and (place[0] != inside or len(place) == 1)):
            continue
        for mutant in (next(turns), GONE):
            data = sealed(mutated(content, place, mutant), mutant, inside)
            path.write_bytes(data)
            if inside:  # so that nothing but its content tells
                said = json.loads(index)
                said["views"]["0"]["000000"]["sha256"] = hashlib.sha256(data).hexdigest()
                del said["sha256"]
                (root / "index.json").write_bytes(canonical_json(seal(said)))
            wrong += look(kind, root, f"{'.'.join(map(str, place))} {mutant}")
            path.write_bytes(sound)
            (root / "index.json").write_bytes(index) if inside else None
    assert wrong > 4
    assert Verification.of(str(root)).run() == []


def look(kind: str, root: Path, what: str) -> bool:
    """Return whether a reader found what is wrong; fail where one raised something foreign or did not name a file."""
    found = False
    for read in (lambda: describe(str(root)), lambda: READ[kind](root)):
        try:
            read()
        except DeltactlError as error:
            found = True
            assert str(root) in str(error), f"{what}: {error}"
        except Exception as error:
            pytest.fail(f"{what}: {type(error).__name__}: {error}")
    try:
        found |= any(finding.harmful for finding in Verification.of(str(root)).run())
    except ArtifactError as error:  # of another kind
        assert str(root) in str(error), what
    except Exception as error:
        pytest.fail(f"verify, {what}: {type(error).__name__}: {error}")
    return found


def test_verify_goes_on_behind_files_whose_content_is_wrong(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "features"
    shutil.copytree(made / "features", root)
    for unit in ("000000", "000001"):
        path = root / "v000" / unit / "zarr.json"
        content = json.loads(path.read_bytes())
        path.write_bytes(sealed(mutated(content, ("attributes", "keys"), "null"), "null", "attributes"))
    (root / "artifact.json").write_bytes(b"[]")
    assert main(["verify", str(root)]) == 1
    shown = capsys.readouterr()
    for name in ("artifact.json is damaged", "v000/000000/zarr.json is damaged", "v000/000001/zarr.json is damaged"):
        assert name in shown.out
    assert "attributes.keys is None; expected a list" in shown.out
    assert "debug" not in shown.err


def test_a_group_in_the_folder_of_another_is_found(made: Path, tmp_path: Path) -> None:
    root = Location.of(tmp_path / "features")
    shutil.copytree(made / "features", root.path)
    shutil.copyfile(root.path / "v000/000001/zarr.json", root.path / "v000/000000/zarr.json")
    with pytest.raises(DamagedError, match=r"attributes\.shard is '000001'; expected 000000, as its folder is called"):
        read_group_file(root, 0, "000000")


def test_an_index_that_says_other_things_than_its_units_is_found(made: Path, tmp_path: Path) -> None:
    for kind, change in (
        ("shards", lambda said: said["units"]["000000"].update(bytes=5)),
        ("features", lambda said: said["keys"]["000000"].reverse()),
    ):
        root = tmp_path / kind
        shutil.copytree(made / kind, root)
        said = json.loads((root / "index.json").read_bytes())
        del said["sha256"]
        change(said)
        (root / "index.json").write_bytes(canonical_json(seal(said)))
        findings = Verification.of(str(root)).run()
        assert [(finding.kind, finding.path) for finding in findings] == [("damaged", "index.json")]
        assert "000000" in findings[0].reason


def test_an_identity_without_a_value_is_told_where_the_value_is_needed(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "shards"
    shutil.copytree(made / "shards", root)
    content = json.loads((root / "artifact.json").read_bytes())
    (root / "artifact.json").write_bytes(sealed(mutated(content, ("identity", "frames"), "text"), "text"))
    identity = read_header(Location.of(root)).identity
    with pytest.raises(DamagedError, match=r"artifact\.json is damaged: identity\.frames is 'x'; expected a whole"):
        identity.integer("frames")
    with pytest.raises(DamagedError, match=r"artifact\.json is damaged: it has no 'identity\.crops'"):
        identity.text("crops")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "its content is None; expected an object"),
        ([1], "its content is a list of 1; expected an object"),
        ({"n": True}, "n is True; expected a whole number of at least 0"),
        ({"n": -1}, "n is -1; expected a whole number"),
        ({"n": 10**5000}, "n is a number of thousands of digits; expected"),
        ({"n": "x" * 100}, "n is 'xxx"),
        ({}, "it has no 'n'"),
    ],
)
def test_fields_say_what_is_there_and_what_was_expected(value: object, said: str) -> None:
    with pytest.raises(DamagedError, match=f"f.json is damaged: {said}") as caught:
        Fields(value, "f.json", remedy="; make it again").integer("n")
    assert str(caught.value).endswith("; make it again")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text", [b"step,a\r\n1,2,3,4\r\n2\r\n\xff", b"step,a\r\n" + b"1," + b"x" * 200_000 + b"\r\n", b"a,b\r\n1,2\r\n"]
)
def test_a_metrics_file_of_another_form_is_read_or_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(text)
    file = MetricsLogger(Location.of(tmp_path / "metrics.csv"))
    try:
        file.start_at(5)
    except DamagedError as error:
        assert "metrics.csv is damaged" in str(error)
        return
    assert (tmp_path / "metrics.csv").read_bytes().startswith(b"step")
