"""Models by Hub name, against a small Hub on this machine: fetched, cached, refused in one line that says what to do.

The Hub's address is read when its library is imported, so each case runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub, serve

from deltactl.featurize.backbones.hub import is_hub_name

FETCH = """
import sys
from deltactl.errors import DeltactlError
from deltactl.featurize.backbones.hub import hub_folder
try:
    print(hub_folder(sys.argv[1], ["pytorch_model.bin", "config*.json"]))
except DeltactlError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve() as server:
        files = {"pytorch_model.bin": b"weights", "config.json": b"{}", "video.mp4": b"not asked for"}
        server.make("owner/open", "model", files)
        server.make("owner/gated", "model", {"config.json": b"{}"}).gated = True
        yield server


def fetch(name: str, url: str, home: Path, *, offline: bool = False) -> str:
    environment = {**os.environ, **FakeHub(url).environment(home), "HF_HUB_OFFLINE": str(int(offline))}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, name], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout.strip()


def test_a_model_is_fetched_once_and_found_again_without_a_network(hub: FakeHub, tmp_path: Path) -> None:
    folder = Path(fetch("owner/open", hub.url, tmp_path))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "pytorch_model.bin": b"weights",
        "config.json": b"{}",
    }
    assert sorted(hub.sent) == ["config.json", "pytorch_model.bin"]
    assert fetch("owner/open", hub.url, tmp_path) == str(folder)
    assert fetch("owner/open", hub.url, tmp_path, offline=True) == str(folder)
    hub.down = True
    assert fetch("owner/open", hub.url, tmp_path) == str(folder)
    assert len(hub.sent) == 2


def test_a_gated_model_says_where_to_accept_the_licence_and_how_to_log_in(hub: FakeHub, tmp_path: Path) -> None:
    assert fetch("owner/gated", hub.url, tmp_path) == (
        "HubError owner/gated asks for its licence to be accepted: accept it at https://huggingface.co/owner/gated, "
        "then run `hf auth login` here with the same account"
    )


def test_an_unknown_model_says_so(hub: FakeHub, tmp_path: Path) -> None:
    assert fetch("owner/absent", hub.url, tmp_path) == (
        "HubError owner/absent is neither a path here nor a model on the Hugging Face Hub that may be read; "
        "check the spelling, and for a private model run `hf auth login`"
    )


def test_without_a_network_the_message_says_why(hub: FakeHub, tmp_path: Path) -> None:
    offline = fetch("owner/open", hub.url, tmp_path, offline=True)
    assert offline.startswith(
        "HubError owner/open is neither a path here nor whole in the Hub's cache, and HF_HUB_OFFLINE"
    )
    hub.down = True
    assert "the Hub does not answer" in fetch("owner/open", hub.url, tmp_path)
    assert "the Hub does not answer" in fetch("owner/open", "http://127.0.0.1:9", tmp_path)


def test_a_mistyped_path_is_no_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_hub_name("Amazon-FAR/deltatok-kinetics")
    for text in ("runs/tokenizer", "tokenizer", "a/b/c", "/a/b", "./a/b", "a/best.ckpt", "~/a", "s3://a/b", "a/", ""):
        assert not is_hub_name(text), text


def test_a_revision_stands_behind_a_name(hub: FakeHub, tmp_path: Path) -> None:
    repo = hub.repo("owner/open", "model")
    repo.add("v2", {**repo.files(), "pytorch_model.bin": b"others"}, "second")
    assert (Path(fetch("owner/open@v2", hub.url, tmp_path)) / "pytorch_model.bin").read_bytes() == b"others"
    assert (Path(fetch("owner/open", hub.url, tmp_path)) / "pytorch_model.bin").read_bytes() == b"weights"
    assert "owner/open@v3 is neither a path here nor a model on the Hugging Face Hub" in fetch(
        "owner/open@v3", hub.url, tmp_path
    )
    assert is_hub_name("owner/open@refs/pr/1")
