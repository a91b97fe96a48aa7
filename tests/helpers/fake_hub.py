"""A small Hugging Face Hub on this machine: repositories, commits and large files over its HTTP interface.

The real client talks to it, in this process (`here`) or in another (`environment`). It keeps what it received and sent,
can hold a transfer until a process was killed in the middle of it, break connections, and gate or spoil a repository.
Xet, whose storage is another server, is switched off: the client then uses the interface of large files that is older.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
LARGE = 2000
"""Files of so many bytes are large ones."""
PAGE = 40
"""Entries of a listing in one answer."""


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    """A repository: its commits, each with the content of every path, and the names of some."""

    private: bool
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def add(self, branch: str, files: Mapping[str, bytes], message: str) -> str:
        """Make a commit of these files; return its hash."""
        said = f"{len(self.commits)}{message}{sorted((path, git_hash(data)) for path, data in files.items())}"
        commit = hashlib.sha1(said.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[branch] = commit
        self.messages.append(message)
        return commit

    def at(self, revision: str) -> str | None:
        """Return the commit of a branch or commit."""
        return self.refs.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Return what a branch holds, without what the Hub puts there."""
        found = self.commits[self.refs[revision]]
        return {path: data for path, data in found.items() if path != ".gitattributes"}


class Answer(Exception):
    """What the server answers."""

    def __init__(self, status: int, body: bytes | Any = b"", **headers: str) -> None:
        super().__init__()
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


NOT_THERE = {"X_Error_Code": "RepoNotFound", "X_Error_Message": "Repository not found"}


@dataclass
class FakeHub:
    """The server's state; `serve` runs it."""

    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files that arrived, by SHA-256, whether a commit names them or not."""
    received: list[str] = field(default_factory=list)
    """Hashes of large files, as they arrived whole."""
    sent: list[str] = field(default_factory=list)
    """Paths of files, as they were sent whole."""
    may_write: bool = True
    down: bool = False
    hold: Callable[[str, str], bool] | None = None
    """Takes method and path; where it says so, the request waits until `let_go`."""
    holding: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    broken: Callable[[str, str], bool] | None = None
    """Where it says so, the connection ends in the middle of the answer."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def environment(self, home: Path, *, token: str | None = TOKEN) -> dict[str, str]:
        """Return the variables with which the Hub's client of another process talks to this server."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **({"HF_TOKEN": token} if token else {}),
        }

    def here(self, home: Path, monkeypatch: pytest.MonkeyPatch, *, token: str | None = TOKEN) -> None:
        """Let the client of this process talk to this server; it read the environment when it was imported."""
        from huggingface_hub import constants

        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 20)
        monkeypatch.setenv("HF_TOKEN", token or "")

    def repo(self, name: str, type: str = "dataset") -> Repo:
        """Return a repository that is there."""
        return self.repos[type, name]

    def make(self, name: str, type: str, files: Mapping[str, bytes], *, private: bool = False) -> Repo:
        """Make a repository that holds files."""
        repo = self.repos[type, name] = Repo(private)
        repo.add("main", {".gitattributes": b"*.tar filter=lfs\n", **files}, "initial commit")
        return repo

    # --- answers -----------------------------------------------------------------------------------------------------

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer to a request."""
        if self.down:
            return Answer(503)
        path = unquote(urlsplit(url).path)
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        logged_in = headers.get("authorization") == f"Bearer {TOKEN}"
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            if hashlib.sha256(body).hexdigest() != match[1]:
                return Answer(400, {"error": "the content does not match its hash"})
            with self._lock:
                self.objects[match[1]] = body
                self.received.append(match[1])
            return Answer(200)
        if path == "/api/validate-yaml":
            front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
            told = yaml.safe_load(front[1]) if front else {}
            faults = [] if isinstance(told, dict) else [{"message": "the front matter is no mapping"}]
            return Answer(400 if faults else 200, {"errors": faults, "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body), logged_in)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._repo("dataset" if match[1] else "model", match[2], logged_in, write=True)
            return Answer(
                200, {"transfer": "basic", "objects": [self._upload(each) for each in json.loads(body)["objects"]]}
            )
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo = self._repo("dataset" if match[1] else "model", match[2], logged_in)
            return self._resolve(repo, match[3], match[4], headers)
        match = re.fullmatch(
            r"/api/(dataset|model)s/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit|branch)/(.+))?", path
        )
        if not match:
            return Answer(404, {"error": f"{method} {path} is not known here"})
        type_, name, verb, rest = match.groups()
        repo = self._repo(type_, name, logged_in, write=verb in ("preupload", "commit", "branch"))
        return self._of_repo(repo, name, verb or "revision", rest or "main", query, body)

    def _of_repo(self, repo: Repo, name: str, verb: str, rest: str, query: Mapping[str, str], body: bytes) -> Answer:
        if verb == "branch":
            if rest in repo.refs:
                return Answer(409, {"error": "Reference already exists"})
            repo.refs[rest] = repo.refs["main"]
            return Answer(200, {})
        commit = repo.at(rest.split("/")[0])
        if commit is None:
            return Answer(404, {}, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {rest}")
        files = repo.commits[commit]
        if verb == "revision":
            return Answer(200, {"id": name, "sha": commit, "private": repo.private, "tags": [], "siblings": []})
        if verb == "tree":
            first = int(query.get("cursor", 0))
            deep = query.get("recursive", "false").lower() == "true"
            listing = listed(files, rest.partition("/")[2], deep=deep)
            if not listing and "/" in rest:
                return Answer(404, {}, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
            kind = "datasets" if repo is self.repos.get(("dataset", name)) else "models"
            following = f"{self.url}/api/{kind}/{name}/tree/{rest}?recursive={deep}&cursor={first + PAGE}"
            more = {"Link": f'<{following}>; rel="next"'} if first + PAGE < len(listing) else {}
            return Answer(200, listing[first : first + PAGE], **more)
        if verb == "preupload":
            return Answer(200, {"files": [self._mode(files, each) for each in json.loads(body)["files"]]})
        return self._commit(repo, name, rest, dict(files), body)

    def _create(self, wanted: Mapping[str, Any], logged_in: bool) -> Answer:
        if not logged_in:
            return Answer(
                401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials in Authorization header"
            )
        if not self.may_write:
            return Answer(403, {"error": "You don't have the rights to create a repository under this namespace"})
        name = f"{wanted['organization']}/{wanted['name']}"
        if (wanted.get("type", "model"), name) in self.repos:
            return Answer(409, {"error": "You already created this repo", "url": f"{self.url}/{name}"})
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.make(name, wanted.get("type", "model"), {}, private=private)
        return Answer(200, {"url": f"{self.url}/{'datasets/' if wanted.get('type') == 'dataset' else ''}{name}"})

    def _repo(self, type_: str, name: str, logged_in: bool, *, write: bool = False) -> Repo:
        repo = self.repos.get((type_, name))
        if repo is None or (repo.private and not logged_in):
            raise Answer(404 if logged_in else 401, {"error": "Repository not found"}, **NOT_THERE)
        if write and not (logged_in and self.may_write):
            raise Answer(403, {"error": "You have read access but not write access"})
        return repo

    def _upload(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        there = wanted["oid"] in self.objects
        actions = {} if there else {"actions": {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}", "header": {}}}}
        return {"oid": wanted["oid"], "size": wanted["size"], **actions}

    def _mode(self, files: Mapping[str, bytes], wanted: Mapping[str, Any]) -> dict[str, Any]:
        large = wanted["size"] >= LARGE
        found = {"path": wanted["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if (data := files.get(wanted["path"])) is not None:
            found["oid"] = hashlib.sha256(data).hexdigest() if len(data) >= LARGE else git_hash(data)
        return found

    def _commit(self, repo: Repo, name: str, branch: str, files: dict[str, bytes], body: bytes) -> Answer:
        header, *operations = [json.loads(line) for line in body.splitlines()]
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return Answer(422, {"error": f"the large file {value['oid']} did not arrive"})
                files[value["path"]] = self.objects[value["oid"]]
            else:
                files.pop(value["path"])
        with self._lock:
            commit = repo.add(branch, files, header["value"]["summary"])
        return Answer(200, {"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def _resolve(self, repo: Repo, revision: str, path: str, headers: Mapping[str, str]) -> Answer:
        commit = repo.at(revision)
        if repo.gated:
            return Answer(403, b"", X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
        if commit is None or path not in repo.commits[commit]:
            return Answer(404, b"", X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        data = repo.commits[commit][path]
        said = hashlib.sha256(data).hexdigest() if len(data) >= LARGE else git_hash(data)
        more = {"ETag": f'"{said}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", "")):
            first, last = int(match[1]), int(match[2] or len(data) - 1)
            part = data[first : last + 1]
            return Answer(206, part, Content_Range=f"bytes {first}-{first + len(part) - 1}/{len(data)}", **more)
        return Answer(200, data, **more)


def listed(files: Mapping[str, bytes], folder: str, *, deep: bool) -> list[dict[str, Any]]:
    """Return what lies in a folder; without `deep` the folders in it instead of what is in these."""
    start = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path, data in sorted(files.items()):
        if path.startswith(start):
            inner = path.removeprefix(start).partition("/")[0]
            if deep or path == f"{start}{inner}":
                found[path] = entry(path, data)
            else:
                found[f"{start}{inner}"] = {"type": "directory", "path": f"{start}{inner}", "size": 0, "oid": "0" * 40}
    return list(found.values())


def entry(path: str, data: bytes) -> dict[str, Any]:
    """Return a file as a listing says it."""
    sha256 = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    large = len(data) >= LARGE
    said: dict[str, Any] = {
        "type": "file",
        "path": path,
        "size": len(data),
        "oid": git_hash(pointer if large else data),
    }
    return {**said, "lfs": {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}} if large else said


@contextmanager
def serve() -> Iterator[FakeHub]:
    """Run a Hub."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.read_body()
            path = urlsplit(self.path).path
            if hub.hold is not None and hub.hold(self.command, path):
                hub.holding.set()
                hub.let_go.wait(60)
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                answer = hub.answer(self.command, self.path, headers, body)
            except Answer as found:
                answer = found
            content = answer.body
            try:
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if hub.broken is not None and hub.broken(self.command, path):
                    self.wfile.write(content[: len(content) // 2])
                    return
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):  # whoever asked was killed
                return
            if "/resolve/" in path and answer.status < 300:
                hub.sent.append(path.partition("/resolve/")[2].partition("/")[2])

        do_GET = do_HEAD = do_POST = do_PUT = handle_any

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.let_go.set()
        server.shutdown()
        server.server_close()


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
