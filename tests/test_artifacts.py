"""Artifacts are whole or not there, know what they were made from, and know when they are damaged."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltactl.artifacts import (
    Identity,
    Quarantined,
    canonical_json,
    default_location,
    make_provenance,
    open_artifact,
    part_of,
    provenance_differences,
    read_header,
    read_index,
    read_quarantine,
    read_sealed,
    stable_provenance,
    workspace,
    write_index,
    write_quarantine,
    write_sealed,
)
from deltactl.errors import ArtifactError, ConfigError, DamagedError, IdentityError, StorageError
from deltactl.locations import Location
from deltactl.staging import clean_staging, publish_files, publish_folder

IDENTITY = Identity("features", {"size": 512, "backbone": {"name": "vitb16", "sha256": "ab"}, "seed": 0})


@pytest.fixture
def root(tmp_path: Path) -> Location:
    return Location.of(tmp_path) / "features" / "set"


def test_the_workspace_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DELTACTL_HOME", str(tmp_path / "home"))
    assert str(default_location("tokens", "kinetics")) == str(tmp_path / "home" / "tokens" / "kinetics")
    monkeypatch.delenv("DELTACTL_HOME")
    monkeypatch.chdir(tmp_path)
    assert workspace() == Location.of(tmp_path / "workspace")


def test_claiming_twice_with_one_identity_is_one_artifact(root: Location) -> None:
    assert open_artifact(root, IDENTITY, stable_provenance(["numpy"])) == []
    assert open_artifact(root, IDENTITY, stable_provenance(["numpy"])) == []
    header = read_header(root)
    assert header.identity == IDENTITY
    assert header.provenance["versions"]["deltactl"]


def test_another_identity_is_refused_with_both_values(root: Location) -> None:
    open_artifact(root, IDENTITY, {})
    other = Identity("features", {"size": 256, "backbone": {"name": "vitb16", "sha256": "cd"}, "seed": 0, "new": 1})
    with pytest.raises(IdentityError) as caught:
        open_artifact(root, other, {})
    message = str(caught.value)
    assert "size is 512 there, 256 here" in message
    assert "backbone.sha256 is ab there, cd here" in message
    assert "new is absent there, 1 here" in message
    assert "seed" not in message
    assert read_header(root).identity == IDENTITY


def test_another_provenance_is_told_and_accepted(root: Location) -> None:
    open_artifact(root, IDENTITY, {"versions": {"torch": "2.12"}, "device": "cpu", "time": "then"})
    differences = open_artifact(root, IDENTITY, {"versions": {"torch": "2.13"}, "device": "cpu", "time": "now"})
    assert differences == ["versions.torch was 2.12, now 2.13"]


def test_a_folder_of_something_else_is_not_claimed(root: Location) -> None:
    (root / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"holds 'photo.jpg' but no artifact.json"):
        open_artifact(root, IDENTITY, {})


def test_what_is_no_artifact_says_so(root: Location) -> None:
    with pytest.raises(ArtifactError, match=r"/set does not exist; expected an artifact of deltactl"):
        read_header(root)
    (root / "x").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"not an artifact of deltactl: it has no artifact.json"):
        read_header(root)


def test_the_hash_of_an_identity_does_not_depend_on_the_order_of_its_keys() -> None:
    reversed_values = dict(reversed(list(IDENTITY.values.items())))
    assert Identity("features", reversed_values).hash() == IDENTITY.hash()
    assert Identity("tokens", IDENTITY.values).hash() != IDENTITY.hash()


@given(st.data())
def test_one_flipped_bit_in_a_sealed_file_is_found(data: st.DataObject) -> None:
    content = canonical_json({"a": [1, 2], "b": {"c": "text"}, "sha256": "0" * 64})
    assert content  # the seal is a field like any other in the canonical form
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = Location.of(folder) / "x.json"
        write_sealed(place, {"a": [1, 2], "b": {"c": "text"}})
        original = place.read_bytes()
        position = data.draw(st.integers(0, len(original) - 1))
        flipped = original[position] ^ (1 << data.draw(st.integers(0, 7)))
        damaged = original[:position] + bytes([flipped]) + original[position + 1 :]
        place.write_bytes(damaged)
        try:
            value = read_sealed(place)
        except DamagedError as error:
            assert str(place) in str(error)
        else:
            # white space is the only thing that JSON lets change
            assert value == {"a": [1, 2], "b": {"c": "text"}}
            assert bytes([flipped]).isspace() or original[position : position + 1].isspace()


def test_a_folder_appears_whole_or_not_at_all(root: Location) -> None:
    with pytest.raises(RuntimeError, match="half way"), publish_folder(root, "v000/000000") as folder:
        (folder / "data").write_bytes(b"half")
        raise RuntimeError("half way")
    assert not (root / "v000/000000").exists()
    with publish_folder(root, "v000/000000") as folder:
        (folder / "c").mkdir()
        (folder / "c" / "data").write_bytes(b"whole")
        assert root.list() == [], "nothing shows before the end"
    assert (root / "v000/000000/c/data").read_bytes() == b"whole"
    assert (root / "v000").list() == ["000000"]


def test_who_publishes_first_is_kept(root: Location) -> None:
    for content in (b"first", b"second"):
        with publish_folder(root, "g") as folder:
            (folder / "data").write_bytes(content)
        with publish_files(root, "m.json") as folder:
            (folder / "m.json").write_bytes(content)
            (folder / "m.tar").write_bytes(content)
    assert {(root / name).read_bytes() for name in ("g/data", "m.json", "m.tar")} == {b"first"}


def test_a_repair_replaces(root: Location) -> None:
    for content in (b"first", b"second"):
        with publish_folder(root, "g", replace=True) as folder:
            (folder / "data").write_bytes(content)
        with publish_files(root, "m.json", replace=True) as folder:
            (folder / "m.json").write_bytes(content)
            (folder / "m.tar").write_bytes(content)
    assert {(root / name).read_bytes() for name in ("g/data", "m.json", "m.tar")} == {b"second"}


def test_files_appear_with_their_marker_or_not_at_all(root: Location) -> None:
    with pytest.raises(KeyboardInterrupt), publish_files(root, "0.json") as folder:
        (folder / "0.json").write_bytes(b"marker")
        raise KeyboardInterrupt
    assert not root.exists()
    with pytest.raises(AssertionError, match="marker"), publish_files(root, "0.json") as folder:
        (folder / "0.tar").write_bytes(b"data")


PUBLISHER = """
import sys, os, time
from deltactl.artifacts import open_artifact, Identity
from deltactl.locations import Location
from deltactl.staging import publish_folder, publish_files
root = Location.of(sys.argv[1])
open_artifact(root, Identity("x", {}), {})
print("ready", flush=True)
for number in range(10_000):
    with publish_folder(root, f"v/{number:06}") as folder:
        for name in "abc":
            (folder / name).write_bytes(b"%d" % number * 1000)
    with publish_files(root, f"{number:06}.json") as folder:
        (folder / f"{number:06}.tar").write_bytes(b"%d" % number * 1000)
        (folder / f"{number:06}.json").write_bytes(b"done")
"""


@pytest.mark.parametrize("delay_seconds", [0.05, 0.11, 0.18, 0.3])
def test_a_killed_publisher_leaves_only_whole_units(root: Location, delay_seconds: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", PUBLISHER, str(root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(delay_seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for number in range(len((root / "v").list())):
        folder = root / "v" / f"{number:06}"
        assert folder.list() == ["a", "b", "c"]
        assert {(folder / name).read_bytes() for name in "abc"} == {b"%d" % number * 1000}
    for name in root.list():
        if name.endswith(".json") and name != "artifact.json":
            assert (root / name.replace(".json", ".tar")).read_bytes() == b"%d" % int(name[:-5]) * 1000
    open_artifact(root, Identity("x", {}), {})
    with publish_files(root, "end.json") as folder:
        (folder / "end.json").write_bytes(b"done")
    assert not (root.parent / ".set.partial").exists(), "the next run clears what the dead one left"


def test_files_of_a_process_that_died_while_writing_them_are_cleared(root: Location) -> None:
    dying = """
import os, signal, sys
from deltactl.artifacts import write_quarantine
from deltactl.locations import Location
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
write_quarantine(Location.of(sys.argv[1]), [])
"""
    open_artifact(root, Identity("x", {}), {})
    assert subprocess.run([sys.executable, "-c", dying, str(root)]).returncode == -signal.SIGKILL
    (left,) = (path for path in root.path.iterdir() if path.name != "artifact.json")
    assert left.name.startswith(".quarantine.jsonl.")
    machine, _, _ = left.name.rpartition("@")[2].partition("+")
    other_container = f"{socket.gethostname()}-1"
    kept = [
        f".a@elsewhere+{2**30}",
        f".b@{other_container}+{2**30}",
        f".c@{machine}+{os.getpid()}",
        ".d",
        f"e@{machine}+0",
    ]
    for name in kept:
        (root / name).path.touch()
    open_artifact(root, Identity("x", {}), {})
    assert {path.name for path in root.path.iterdir()} == {"artifact.json", *kept}


def test_what_a_dead_process_had_not_yet_uploaded_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = """
import os, signal, sys
from deltactl.locations import Location
from deltactl.staging import publish_folder
with publish_folder(Location.of("s3://bucket/set"), "v000/000000") as folder:
    (folder / "data").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", dying], env=environment).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".v000-000000.")
    (tmp_path / "other").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    clean_staging(Location.of("s3://bucket/set"))
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_two_publishers_at_once_do_no_harm(root: Location) -> None:
    script = PUBLISHER.replace("10_000", "40")
    processes = [subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.DEVNULL) for _ in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    assert len((root / "v").list()) == 40
    assert not (root.parent / ".set.partial").exists()
    for number in range(40):
        assert (root / f"{number:06}.tar").read_bytes() == b"%d" % number * 1000


def test_a_file_system_without_locks_does(root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    for content in (b"1", b"2"):
        with publish_files(root, "a.json") as folder:
            (folder / "a.json").write_bytes(content)
    assert (root / "a.json").read_bytes() == b"1"
    assert not (root.parent / ".set.partial").exists()


def test_a_full_disk_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, root: Location) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match=r"no space left to write .*; make room, then run the same command again"):
        open_artifact(root, IDENTITY, {})
    assert not (root / "artifact.json").exists()


def test_quarantine_is_read_as_it_was_written(root: Location) -> None:
    entries = [Quarantined("b/ü v.mp4", "no frames", "000001"), Quarantined("a.mp4", "cut short", "000000")]
    assert read_quarantine(root) == []
    write_quarantine(root, [])
    assert read_quarantine(root) == []
    write_quarantine(root, entries)
    assert read_quarantine(root) == sorted(entries, key=lambda entry: entry.unit)
    (root / "quarantine.jsonl").write_bytes(b'{"source": 1\n')
    with pytest.raises(DamagedError, match=r"quarantine.jsonl is damaged"):
        read_quarantine(root)


@given(st.lists(st.text() | st.binary().map(os.fsdecode), max_size=4))
def test_quarantine_holds_whatever_a_source_may_be_called(names: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        entries = [Quarantined(name, "no video", f"{number:06}") for number, name in enumerate(names)]
        write_quarantine(Location.of(folder), entries)
        assert read_quarantine(Location.of(folder)) == entries


def test_reasons_in_a_quarantine_hold_no_local_paths(root: Location) -> None:
    write_quarantine(root, [Quarantined("v/a.mp4", "/home/ada/videos/v/a.mp4 cannot be read", "000000")])
    assert [entry.reason for entry in read_quarantine(root)] == ["a.mp4 cannot be read"]


@pytest.mark.parametrize("name", ["two\u2028lines\x85.mp4", os.fsdecode(b"caf\xe9.mp4")])
def test_names_with_odd_line_ends_or_bytes_do_no_harm(
    root: Location, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_quarantine(root, [Quarantined(name, "cut short", "000000")])
    assert [entry.source for entry in read_quarantine(root)] == [name]
    (root / "quarantine.jsonl").remove()
    monkeypatch.setattr(sys, "argv", ["deltactl", "ingest", name])
    open_artifact(root, Identity("shards", {"source": name}), make_provenance([]))
    header = read_header(root)
    assert header.identity.values == {"source": name}
    header.provenance["command"].encode()  # text for reports and model cards


def test_an_index_that_is_absent_or_damaged_is_an_error(root: Location) -> None:
    with pytest.raises(ArtifactError, match="the stage that makes it has not ended"):
        read_index(root)
    write_index(root, {"units": {"000000": {"count": 3}}})
    assert read_index(root).values == {"units": {"000000": {"count": 3}}}
    (root / "index.json").write_bytes((root / "index.json").read_bytes().replace(b"3", b"4", 1))
    with pytest.raises(DamagedError, match=r"index.json is damaged"):
        read_index(root)


@given(st.integers(0, 200), st.integers(1, 30))
def test_parts_cover_the_units_once(units: int, parts: int) -> None:
    pieces = [part_of(range(units), f"{number}/{parts}") for number in range(1, parts + 1)]
    assert sorted(unit for piece in pieces for unit in piece) == list(range(units))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3 "])
def test_a_part_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(ConfigError, match=r"expected I/N"):
        part_of([1, 2], part)


def test_provenance_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["deltactl", "train", "--set", "wandb.api_key=0123456789", "s3://AKIA:pw@host/x", "hf_abcdefghijklmn"]
    monkeypatch.setattr(sys, "argv", arguments)
    command = json.dumps(make_provenance([]))
    for secret in ("0123456789", "AKIA", "hf_abc"):
        assert secret not in command
    assert "deltactl train" in command


def test_provenance_that_differs_in_every_run_is_not_compared() -> None:
    assert provenance_differences(make_provenance(["numpy"]), {**make_provenance(["numpy"]), "time": "x"}) == []
