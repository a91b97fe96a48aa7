"""What cannot be shared or fetched is told in one line that says what is wrong and what to do, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, serve
from shared_things import make
from small_training import make_shards

from deltactl.artifacts import HEADER, Quarantined, read_quarantine, read_sealed, write_sealed
from deltactl.cli import main
from deltactl.errors import ArtifactError
from deltactl.featurize.verify import Verification
from deltactl.locations import Location
from deltactl.share.contents import items_of
from deltactl.share.push import push
from deltactl.train.checkpoints.export import export


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("things"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve() as server:
        server.here(tmp_path / "home", monkeypatch)
        yield server


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what runs the program, which must fail with one line, and returns that."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0].removeprefix("error: ")

    return run


# --- the Hub ---------------------------------------------------------------------------------------------------------


def test_without_a_login_nothing_is_sent(
    things: dict[str, Path], hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[..., str]
) -> None:
    hub.here(tmp_path / "home", monkeypatch, token=None)
    assert error("push", things["tokens"], "me/tokens") == (
        "nothing can be sent to me/tokens: nobody is logged in to the Hub here; run `hf auth login` with a token that "
        "may write, or set HF_TOKEN"
    )
    hub.make("me/secret", "dataset", {"artifact.json": b"{}"}, private=True)
    assert "me/secret is no repository on the Hub that this account may see" in error("pull", "me/secret")


def test_a_token_that_may_not_write_says_so(things: dict[str, Path], hub: FakeHub, error: Callable[..., str]) -> None:
    hub.may_write = False
    message = error("push", things["tokens"], "others/tokens")
    assert message.startswith(
        "the Hub does not let this account do that with others/tokens (HTTP status 403): You don't"
    )
    assert message.endswith("run `hf auth login` with a token that may (to push: one with write access)")


def test_without_a_network_the_message_says_so(
    things: dict[str, Path], hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[..., str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for words in (("push", things["tokens"], "me/tokens"), ("pull", "me/tokens")):
        assert error(*words) == (
            "me/tokens cannot be looked at: the Hub does not answer; run the same command again where there is a "
            "network, what is there already is kept"
        )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in error("pull", "me/tokens")


def test_a_gated_repository_says_where_to_accept_its_licence(
    things: dict[str, Path], hub: FakeHub, error: Callable[..., str]
) -> None:
    push(things["tokens"], "me/tokens")
    hub.repo("me/tokens").gated = True
    assert error("pull", "me/tokens") == (
        "me/tokens asks for its licence to be accepted: accept it at https://huggingface.co/me/tokens, then run "
        "`hf auth login` here with the same account"
    )


def test_a_name_that_is_none_and_a_repository_that_is_not_there(
    things: dict[str, Path], hub: FakeHub, error: Callable[..., str]
) -> None:
    assert error("pull", "tokens").startswith("'tokens' is no repository of the Hub; expected owner/name")
    assert "me/absent is no repository on the Hub that this account may see; check the spelling" in error(
        "pull", "me/absent"
    )
    push(things["tokens"], "me/tokens")
    assert "me/tokens is no repository on the Hub at revision v9" in error("pull", "me/tokens@v9")
    assert "name two revisions" in error("pull", "me/tokens@v9", "--revision", "v8")
    assert "which go to a dataset repository, not a model" in error("push", things["tokens"], "models/me/tokens")


def test_a_repository_of_something_else_is_neither_fetched_nor_overwritten(
    things: dict[str, Path], hub: FakeHub, error: Callable[..., str]
) -> None:
    hub.make("me/other", "dataset", {"train.parquet": b"rows"})
    assert error("pull", "me/other") == (
        "me/other on the Hub is a dataset with train.parquet in it, and nothing that deltactl shares; expected shards, "
        "features, tokens, a run or exported weights"
    )
    message = error("push", things["tokens"], "me/other")
    assert message.startswith("me/other on the Hub holds 'train.parquet', which deltactl did not put there; nothing is")
    assert hub.repo("me/other").files() == {"train.parquet": b"rows"}
    push(things["tokens"], "me/taken")
    assert "me/taken on the Hub holds tokens; nothing is overwritten" in error("push", things["shards"], "me/taken")


def test_another_identity_is_named_with_both_values(
    things: dict[str, Path], hub: FakeHub, tmp_path: Path, error: Callable[..., str]
) -> None:
    push(things["shards"], "me/clips")
    other = make_shards(tmp_path / "other", units=1, clips=4)
    assert "units is 2 there, 1 here" in error("push", other, "me/clips")
    assert "units is 1 there, 2 here" in error("pull", "me/clips", "--out", other)
    push(things["network"], "me/weights")
    export(Path(__file__).parents[1] / "golden" / "deltaworld.bin", tmp_path / "world")
    assert "holds a network of kind 'tokenizer', not 'world'" in error("push", tmp_path / "world", "me/weights")
    assert "is there already, and not as me/weights is on the Hub" in error(
        "pull", "me/weights", "--out", tmp_path / "world"
    )


# --- on the way ------------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_loses_nothing_that_arrived(
    things: dict[str, Path], hub: FakeHub, tmp_path: Path, error: Callable[..., str]
) -> None:
    push(things["shards"], "me/clips")
    hub.broken = lambda method, path: method == "GET" and path.endswith("000001.tar")
    message = error("pull", "me/clips", "--out", tmp_path / "out")
    assert "run the same command again" in message
    assert not (tmp_path / "out").exists()
    hub.broken = None
    hub.sent.clear()
    assert main(["pull", "me/clips", "--out", str(tmp_path / "out")]) == 0
    assert "000001.tar" in hub.sent
    assert "000000.tar" not in hub.sent
    assert Verification.of(str(tmp_path / "out")).run() == []


@pytest.mark.parametrize("file", ["000001.tar", "artifact.json", "000000.json"])
def test_what_arrived_damaged_is_named_and_fetched_anew(
    things: dict[str, Path],
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[..., str],
    file: str,
) -> None:
    from deltactl.share.repository import Repository

    push(things["shards"], "me/clips")
    fetch = Repository.fetch

    def damaging(self: Repository, commit: str, folder: Path) -> None:
        fetch(self, commit, folder)
        data = bytearray((folder / file).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / file).write_bytes(data)

    monkeypatch.setattr(Repository, "fetch", damaging)
    message = error("pull", "me/clips", "--out", tmp_path / "out")
    assert message.startswith(f"me/clips: damaged: {file}")
    assert "which fetches it anew" in message
    monkeypatch.setattr(Repository, "fetch", fetch)
    hub.sent.clear()
    assert main(["pull", "me/clips", "--out", str(tmp_path / "out")]) == 0
    assert file in hub.sent
    assert "000000.tar" not in hub.sent


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    things: dict[str, Path], hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[..., str]
) -> None:
    push(things["shards"], "me/clips")
    hub.sent.clear()
    monkeypatch.setattr(Location, "free_bytes", lambda self: 100)
    message = error("pull", "me/clips", "--out", tmp_path / "out")
    assert "but 100 B are free for" in message
    assert message.endswith("make room, or choose another --out")
    assert set(hub.sent) <= {HEADER}
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_on_the_way_is_one_line(
    things: dict[str, Path], hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[..., str]
) -> None:
    import errno

    from huggingface_hub import file_download

    push(things["shards"], "me/clips")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr(file_download, "http_get", full)
    assert error("pull", "me/clips", "--out", tmp_path / "out").startswith("no space left to write ")


# --- what is here ----------------------------------------------------------------------------------------------------


def test_only_what_is_whole_is_sent(
    things: dict[str, Path], hub: FakeHub, tmp_path: Path, error: Callable[..., str]
) -> None:
    assert "does not exist; expected the folder of shards" in error("push", tmp_path / "absent", "me/x")
    assert "is not on a disk" in error("push", "memory://bucket/shards", "me/x")
    (tmp_path / "empty").mkdir()
    assert "holds nothing; expected shards, features, tokens, a run, or exported weights" in error(
        "push", tmp_path / "empty", "me/x"
    )
    damaged = shutil.copytree(things["shards"], tmp_path / "damaged")
    with (damaged / "000001.tar").open("r+b") as file:
        file.seek(700)
        file.write(b"\xff\x00\xff")
    assert f"{damaged} is not whole: damaged: 000001.tar" in error("push", damaged, "me/x")
    half = shutil.copytree(things["shards"], tmp_path / "half")
    (half / "index.json").unlink()
    assert "is not whole" in error("push", half, "me/x")
    assert "is no report: it has no metrics.json" in error("push", things["shards"], "me/x", "--report", tmp_path)
    assert not hub.repos


def test_reasons_in_a_quarantine_lose_their_places_and_still_agree(tmp_path: Path) -> None:
    entry = Quarantined("a.mp4", "/data/somebody/a.mp4 cannot be read", "000000")
    assert entry.to_json()["reason"] == "a.mp4 cannot be read"

    # As an earlier version wrote it, in the sidecar and in the quarantine.
    root = Location.of(make_shards(tmp_path / "shards", units=1, clips=4))
    said = {"source": "a.mp4", "reason": entry.reason, "unit": "000000"}
    write_sealed(root / "000000.json", {**read_sealed(root / "000000.json").values, "quarantined": [said]})
    (root / "quarantine.jsonl").write_bytes(json.dumps(said).encode() + b"\n")
    sent = tmp_path / "sent"
    sent.mkdir()
    for item in items_of(root, "shards"):
        (sent / item.path).write_bytes(item.source if isinstance(item.source, bytes) else item.source.read_bytes())
    assert Verification.of(str(sent)).run() == []
    assert [each.reason for each in read_quarantine(Location.of(sent))] == ["a.mp4 cannot be read"]


def test_a_local_path_that_cannot_be_cleaned_stops_a_push(
    things: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(things["tokens"], tmp_path / "tokens")
    (root / "README.md").write_text("# Mine, made in /home/somebody/place\n")
    monkeypatch.setenv("HOME", "/home/somebody")
    with pytest.raises(ArtifactError, match=r"README\.md holds the local path /home/somebody, which"):
        push(root, "me/tokens", dry_run=True)
