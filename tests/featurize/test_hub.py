"""Models by Hub name, against a small Hub of our own: fetched, cached, refused in one line that says what to do.

The Hub's address is read when its library is imported, so each case runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deltactl.featurize.backbones.hub import is_hub_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRET = "hf_abcdefghijklmnopqrstuvwxyz"
FETCH = """
import sys
from deltactl.errors import DeltactlError
from deltactl.featurize.backbones.hub import hub_folder
try:
    print(hub_folder(sys.argv[1], ["pytorch_model.bin", "config*.json"]))
except DeltactlError as error:
    print(type(error).__name__, error)
"""


@dataclass
class FakeHub:
    """One model `owner/open`, one gated model `owner/gated`, and a count of the files handed out."""

    files: dict[str, bytes]
    sent: list[str] = field(default_factory=list)
    url: str = ""
    broken: bool = False

    def respond(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.broken:
            return 503, {}, b""
        if path.startswith("/api/models/owner/gated"):
            body = {"id": "owner/gated", "sha": COMMIT, "siblings": [], "gated": "manual"}
            listing = [{"type": "file", "path": "config.json", "size": 2, "oid": "0" * 40}]
            return 200, {}, json.dumps(listing if "/tree/" in path else body).encode()
        if path.startswith("/owner/gated"):
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}, b""
        if path.startswith("/api/models/owner/open"):
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": oid(data)} for name, data in self.files.items()
            ]
            return 200, {}, json.dumps(listing if "/tree/" in path else {"id": "owner/open", "sha": COMMIT}).encode()
        if path.startswith(f"/owner/open/resolve/{COMMIT}/"):
            data = self.files[path.rsplit("/", 1)[1]]
            return 200, {"ETag": f'"{oid(data)}"', "X-Repo-Commit": COMMIT}, data
        return 404, {"X-Error-Code": "RepoNotFound"}, b""


def oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    fake = FakeHub({"pytorch_model.bin": b"weights", "config.json": b"{}", "video.mp4": b"not asked for"})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = fake.respond(self.path.split("?")[0])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
                if "/resolve/" in self.path:
                    fake.sent.append(self.path.rsplit("/", 1)[1])

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield fake
    server.shutdown()
    server.server_close()


def fetch(name: str, url: str, home: Path, *, offline: bool = False) -> str:
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_TOKEN": SECRET,
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", FETCH, name], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert SECRET not in done.stdout + done.stderr
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
    hub.broken = True
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
    hub.broken = True
    assert "the Hub does not answer" in fetch("owner/open", hub.url, tmp_path)
    assert "the Hub does not answer" in fetch("owner/open", "http://127.0.0.1:9", tmp_path)


def test_a_mistyped_path_is_no_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_hub_name("Amazon-FAR/deltatok-kinetics")
    for text in ("runs/tokenizer", "tokenizer", "a/b/c", "/a/b", "./a/b", "a/best.ckpt", "~/a", "s3://a/b", "a/", ""):
        assert not is_hub_name(text), text
