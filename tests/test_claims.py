"""Who writes is known: a second writer is refused or shares the work, and the dead give way."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltactl import claims
from deltactl.claims import Holder, hold, share
from deltactl.errors import ClaimedError, StorageError
from deltactl.locations import Location
from deltactl.unit_claims import POLL_SECONDS, UnitClaims

HOLDING = """
import sys, time
from deltactl.claims import hold, share
from deltactl.locations import Location
with {mode}(Location.of(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(root: Location, mode: str = "hold") -> subprocess.Popen[str]:
    """Return a process that holds or shares a folder."""
    command = [sys.executable, "-c", HOLDING.format(mode=mode), str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> int:
    process.send_signal(number)
    code = process.wait(20)
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    return code


def claimed(root: Location) -> list[str]:
    return (root / claims.FOLDER).list()


def edit(root: Location, **changes: object) -> Path:
    """Change the one claim that is there, and return its file."""
    (name,) = claimed(root)
    file = root.path / claims.FOLDER / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return file


@pytest.fixture
def root(tmp_path: Path) -> Location:
    return Location.of(tmp_path) / "run"


def test_a_second_writer_is_told_who_writes_since_when_and_what_to_do(root: Location) -> None:
    process = holder(root)
    with pytest.raises(ClaimedError) as caught, hold(root):
        pass
    message = str(caught.value)
    assert f"{root} is being written by process {process.pid} on {os.uname().nodename}, since 20" in message
    assert f"wait until it ends, or choose another --out (to end it: kill {process.pid})" in message
    with pytest.raises(ClaimedError, match="is being written by"), share(root):
        pass
    assert len(claimed(root)) == 1, "those refused leave nothing"
    end(process)


@pytest.mark.parametrize("mode", ["hold", "share"])
def test_a_killed_process_gives_way_at_once(root: Location, mode: str) -> None:
    process = holder(root, mode)
    process.kill()
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)  # dead, and its parent has not asked yet
    with hold(root):
        assert len(claimed(root)) == 1
    end(process)
    assert not (root / claims.FOLDER).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_end_leaves_no_claim(root: Location, number: signal.Signals) -> None:
    (root / "data").write_bytes(b"x")
    process = holder(root)
    assert claimed(root)
    assert end(process, number) in (128 + number, -number)
    assert [path.name for path in root.path.iterdir()] == ["data"]


def test_errors_and_ends_leave_no_claim_and_no_folder_that_was_not_there(root: Location) -> None:
    with pytest.raises(RuntimeError), hold(root):
        raise RuntimeError
    assert not root.exists()
    root.path.mkdir()
    with share(root) as claim, UnitClaims(claim) as work:
        next(next(work.rounds(["u"], name=str, is_made=lambda _: False, passed=print)))
        assert len(claimed(root)) == 2
    assert list(root.path.iterdir()) == []
    with hold(root):
        (root / "data").write_bytes(b"x")
    assert root.list() == ["data"]


def test_of_many_that_come_at_once_one_at_a_time_goes_on(root: Location, tmp_path: Path) -> None:
    script = """
import sys, time, os
from deltactl.claims import hold
from deltactl.errors import ClaimedError
from deltactl.locations import Location
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while time.time() < float(sys.argv[3]): pass
for _ in range(3):
    try:
        with hold(Location.of(sys.argv[1])):
            os.write(log, b"(")
            time.sleep(0.02)
            os.write(log, b")")
    except ClaimedError:
        os.write(log, b".")
"""
    arguments = [sys.executable, "-c", script, str(root), str(tmp_path / "log"), str(time.time() + 2)]
    processes = [subprocess.Popen(arguments) for _ in range(6)]
    assert [process.wait() for process in processes] == [0] * 6
    log = (tmp_path / "log").read_text()
    held = log.replace(".", "")
    assert held == "()" * (len(held) // 2) != "", log
    assert not (root / claims.FOLDER).exists()


def test_another_machine_counts_as_dead_after_a_while_without_a_heartbeat(root: Location) -> None:
    with hold(root):
        file = edit(root, machine="elsewhere-1", host="elsewhere", process=7)
        with pytest.raises(ClaimedError, match=r"process 7 on elsewhere.*its claim ends 5 minutes after its last sign"):
            hold(root).__enter__()
        long_ago = time.time() - claims.DEAD_AFTER_SECONDS - 5
        os.utime(file, (long_ago, long_ago))
        with hold(root):
            assert not file.exists()


def test_a_number_that_another_process_has_now_is_not_the_holder(root: Location) -> None:
    with hold(root):
        file = edit(root, started=1)
        with hold(root):
            assert not file.exists()


def test_a_claim_of_before_the_machine_started_again_needs_a_heartbeat(root: Location) -> None:
    with hold(root):
        file = edit(root, boot="another")
        with pytest.raises(ClaimedError):
            hold(root).__enter__()
        os.utime(file, (1e9, 1e9))
        with hold(root):
            pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"mode": "alone"}', b"\xff" * 9])
def test_a_claim_that_cannot_be_read_counts_while_it_is_fresh(root: Location, content: bytes) -> None:
    (root / claims.FOLDER / "0123.json").write_bytes(content)
    with pytest.raises(ClaimedError, match="is being written by a process that is not known"):
        hold(root).__enter__()
    os.utime(root.path / claims.FOLDER / "0123.json", (1e9, 1e9))
    with hold(root):
        pass


def test_a_copy_of_a_folder_is_not_claimed(root: Location, tmp_path: Path) -> None:
    with hold(root):
        shutil.copytree(root.path, tmp_path / "copy")
        with hold(Location.of(tmp_path / "copy")):
            pass
        with pytest.raises(ClaimedError), hold(root):
            pass


def test_a_holder_that_was_taken_for_dead_finds_out(root: Location) -> None:
    with hold(root) as claim:
        claim.confirm()
        for name in claimed(root):
            (root / claims.FOLDER / name).remove()
        claim.confirm()
        assert len(claimed(root)) == 1, "nobody else came"
        edit(root, machine="elsewhere-1")
        os.utime(root.path / claims.FOLDER / claimed(root)[0], (1e9, 1e9))
        with hold(root), pytest.raises(ClaimedError, match="no sign of life for too long: .* is being written by"):
            claim.confirm()


def test_a_heart_beats(root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    with hold(root):
        file = root.path / claims.FOLDER / claimed(root)[0]
        os.utime(file, (1e9, 1e9))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime == 1e9 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - file.stat().st_mtime < 20


def test_a_copy_of_the_claim_in_another_process_claims_nothing(root: Location) -> None:
    with hold(root) as claim:
        copy = pickle.loads(pickle.dumps(claim))
        copy.confirm()
        copy.release()
        assert len(claimed(root)) == 1


def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="file is a file where a folder should be; name another place"):
            hold(Location.of(place)).__enter__()
    with pytest.raises(StorageError, match=r"could not make the folder"):
        hold(Location.of("/proc/deltactl-test")).__enter__()


# --- sharing ---------------------------------------------------------------------------------------------------------

WORKER = """
import sys, time, os
from deltactl.claims import share
from deltactl.locations import Location
from deltactl.unit_claims import UnitClaims
root, log = Location.of(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
with share(root) as claim, UnitClaims(claim) as work:
    for units in work.rounds(
        range(30), name=str, is_made=lambda unit: (root / f"{unit}.made").exists(), passed=lambda unit: None
    ):
        for unit in units:
            os.write(log, b"%d\\n" % unit)
            time.sleep(0.02)
            (root / f"{unit}.made").write_bytes(b"")
            work.done(str(unit))
assert len(root.list()) == 30
"""


def worker(root: Location, log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(root), str(log)])


def test_workers_of_a_stage_divide_its_units(root: Location, tmp_path: Path) -> None:
    processes = [worker(root, tmp_path / "log") for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    made = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert sorted(made) == list(range(30)), "each once"
    assert not (root / claims.FOLDER).exists()


def test_what_a_killed_worker_left_is_made_by_the_others(root: Location, tmp_path: Path) -> None:
    killed = worker(root, tmp_path / "log")
    while len(root.list()) < 3:
        time.sleep(0.005)
    others = worker(root, tmp_path / "log")
    while len(root.list()) < 8:
        time.sleep(0.005)
    killed.kill()
    killed.wait()
    assert others.wait() == 0
    assert len(root.list()) == 30
    made = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert len(made) <= 31, "the unit under way alone is made twice"
    assert not (root / claims.FOLDER).exists()


def test_claims_of_units_that_a_killed_worker_left_vanish(root: Location) -> None:
    (root / claims.FOLDER / "u.unit").write_bytes(b"0123456789abcdef")
    (root / claims.FOLDER / ".v.unit.01234567@elsewhere-1+7").write_bytes(b"")
    os.utime((root / claims.FOLDER / ".v.unit.01234567@elsewhere-1+7").path, (1e9, 1e9))
    with share(root):
        assert claimed(root) == [name for name in claimed(root) if name.endswith(".json")]
        (root / claims.FOLDER / "v.unit").write_bytes(b"0123456789abcdef")
    assert not (root / claims.FOLDER).exists()


def test_workers_are_told_of_each_other_and_keep_out_who_must_be_alone(
    root: Location, caplog: pytest.LogCaptureFixture
) -> None:
    process = holder(root, "share")
    with caplog.at_level("INFO", logger="deltactl"), share(root):
        assert f"{root}: the work is shared with process {process.pid} on" in caplog.text
    with pytest.raises(ClaimedError, match="is being written by process"), hold(root):
        pass
    end(process)


def test_units_that_others_made_are_passed_and_those_they_make_are_waited_for(
    root: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLL_SECONDS, True, 0.01)
    made, passed, done = {"a"}, list[str](), list[str]()
    with share(root) as claim, UnitClaims(claim) as one, share(root) as claim, UnitClaims(claim) as other:
        (theirs,) = [next(units) for units in one.rounds(["b"], name=str, is_made=lambda _: False, passed=print)][:1]
        assert theirs == "b"
        rounds = other.rounds(["a", "b", "c"], name=str, is_made=made.__contains__, passed=passed.append)
        for number, units in enumerate(rounds):
            for unit in units:
                made.add(unit)
                done.append(unit)
                other.done(unit)
            if number == 3:
                made.add("b")
                one.done("b")
    assert (done, passed) == (["c"], ["a", "b"])


# --- object stores ---------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setitem(POLL_SECONDS, False, 0.01)
    yield Location.of("memory://bucket/run")
    MemoryFileSystem.store.clear()


def test_an_object_store_is_claimed_alike(bucket: Location) -> None:
    with hold(bucket):
        (name,) = claimed(bucket)
        place = bucket / claims.FOLDER / name
        with pytest.raises(ClaimedError, match=f"process {os.getpid()} on"), hold(bucket):
            pass
        found = Holder.from_json(place.read_bytes())
        assert found is not None
        place.write_bytes(place.read_bytes().replace(b'"started"', b'"gone"'))
        with pytest.raises(ClaimedError, match="not known"), hold(bucket):
            pass
    assert claimed(bucket) == []
    with share(bucket) as claim, UnitClaims(claim) as one, share(bucket) as claim, UnitClaims(claim) as other:
        for each, expected in ((one, ["a", "b", "c"]), (other, [])):
            assert list(next(each.rounds("abc", name=str, is_made=lambda _: False, passed=print))) == expected
    assert claimed(bucket) == []


def test_one_file_is_created_once(bucket: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for place in (bucket / "unit", Location.of(tmp_path) / "unit", Location.of(tmp_path) / "without links"):
        if "links" in place.name:
            monkeypatch.setattr(os, "link", no_links)
        assert place.create_bytes(b"first")
        assert not place.create_bytes(b"second")
        assert place.read_bytes() == b"first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unit", "without links"]
