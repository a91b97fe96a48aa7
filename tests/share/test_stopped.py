"""A push and a pull that are killed in the middle go on where they were, and end with the same bytes.

The program runs in a process of its own, which is killed while the Hub holds one of its transfers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, serve, wait_until
from small_training import make_shards

from deltactl.artifacts import HEADER
from deltactl.featurize.verify import Verification


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve() as server:
        yield server


def start(hub: FakeHub, tmp_path: Path, *words: object) -> subprocess.Popen[str]:
    """Run the program against the Hub, with commits of two files."""
    code = (
        "import sys\n"
        "from deltactl.share import repository\n"
        "repository.FILES_A_COMMIT = 2\n"
        "from deltactl.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, **hub.environment(tmp_path / "home"), "DELTACTL_HOME": str(tmp_path / "ws")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def kill(hub: FakeHub, process: subprocess.Popen[str]) -> None:
    """Kill the process while the Hub holds one of its requests, and let the Hub go on."""
    assert hub.holding.wait(90), end(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    hub.hold = None
    hub.let_go.set()


@pytest.mark.slow
def test_both_killed_and_given_again_end_with_the_same_bytes(hub: FakeHub, tmp_path: Path) -> None:
    shards = Path(make_shards(tmp_path / "shards", units=5, clips=4))

    hub.hold = lambda method, path: method == "PUT" and len(hub.received) >= 3
    kill(hub, start(hub, tmp_path, "push", shards, "me/clips"))
    repo = hub.repo("me/clips")
    wait_until(lambda: len(hub.objects) >= 3)
    half = repo.files()
    assert HEADER in half, "what it is goes first"
    assert "index.json" not in half
    assert 0 < len(half) < 14

    code, _, errors = end(start(hub, tmp_path, "pull", "me/clips", "--out", tmp_path / "early"))
    assert code == 1
    assert errors.splitlines()[-1].startswith("error: me/clips on the Hub has no index.json, which a push sends last")

    arrived = list(hub.received)
    code, output, errors = end(start(hub, tmp_path, "push", shards, "me/clips"))
    assert code == 0, errors
    assert output.startswith(f"{hub.url}/datasets/me/clips (private): shards, 14 files")
    assert len(hub.received) == len(set(hub.received)), "what had arrived was sent again"
    assert set(arrived) < set(hub.received)

    hub.holding.clear()
    hub.let_go.clear()
    hub.hold = lambda method, path: method == "GET" and "/resolve/" in path and len(hub.sent) >= 4
    hub.sent.clear()
    kill(hub, start(hub, tmp_path, "pull", "me/clips", "--out", tmp_path / "out"))
    assert not [path for path in (tmp_path / "out").glob("*") if not path.name.startswith(".")], "not whole"
    before = list(hub.sent)
    assert len(before) >= 4

    code, output, errors = end(start(hub, tmp_path, "pull", "me/clips", "--out", tmp_path / "out"))
    assert code == 0, errors
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")} == repo.files()
    tars = {path.name: path.read_bytes() for path in shards.glob("*.tar")}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")} == tars
    whole = [path for path in before if hub.sent.count(path) > 1]
    assert len(whole) <= 8, "more than what was under way was fetched twice"  # as many as the client fetches at once
    assert Verification.of(str(tmp_path / "out")).run() == []
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.slow
def test_a_stop_says_how_to_go_on(hub: FakeHub, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", units=2, clips=4)
    hub.hold = lambda method, path: method == "PUT"
    process = start(hub, tmp_path, "push", shards, "me/clips")
    assert hub.holding.wait(90)
    os.kill(process.pid, signal.SIGTERM)
    hub.let_go.set()
    code, _, errors = end(process)
    assert code == 143
    assert errors.splitlines()[-1] == ("stopped by SIGTERM; finished work is kept; run the same command again to go on")
