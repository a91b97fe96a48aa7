"""What is pushed comes back the same, says nothing of who made it where, and is known by what was made from it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from fake_hub import FakeHub, serve
from shared_things import BACKBONE, IN_WORKSPACE, KINDS, make

from deltactl.artifacts import read_header
from deltactl.cli import main
from deltactl.configs.yaml_text import read_yaml_mapping
from deltactl.errors import ConfigError
from deltactl.featurize.store.reader import FeatureStore
from deltactl.featurize.verify import Verification
from deltactl.locations import Location
from deltactl.publication import publishable_command
from deltactl.share.contents import clean_settings
from deltactl.share.pull import pull
from deltactl.share.push import push
from deltactl.train.checkpoints.loading import read
from deltactl.train.checkpoints.verify import verify_run
from deltactl.train.networks.deltatok import DeltaTok

REWRITTEN = {
    "shards": {"artifact.json"},
    "features": {"artifact.json", "index.json"},
    "tokens": {"artifact.json", "index.json"},
    "run": {"config.yaml", "provenance.json", "checkpoints/last.ckpt"},
    "network": set(),
}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("somebodys-place"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve() as server:
        server.here(tmp_path / "home", monkeypatch)
        yield server


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_the_same(things: dict[str, Path], hub: FakeHub, tmp_path: Path, kind: str) -> None:
    done = push(things[kind], "me/thing")
    type_ = "model" if kind in ("run", "network") else "dataset"
    repo = hub.repo("me/thing", type_)
    assert (done.kind, done.private, repo.private) == (kind, True, True)
    here = {path: data for path, data in bytes_of(things[kind]).items() if not path.startswith(("wandb", "README"))}
    there = {path: data for path, data in repo.files().items() if path != "README.md"}
    assert there.keys() == here.keys()
    assert {path for path in here if here[path] != there[path]} == REWRITTEN[kind]

    pulled = pull("me/thing")
    assert pulled.place == Location.of(tmp_path / "workspace" / IN_WORKSPACE.get(kind, kind) / "thing")
    assert bytes_of(pulled.place.path) == repo.files()
    if kind != "network":
        assert Verification.of(pulled.place, verify_run).run() == []
    if kind in ("shards", "features", "tokens"):
        assert read_header(pulled.place).identity == read_header(Location.of(things[kind])).identity
    else:
        assert read(pulled.place).content_hash == read(things[kind]).content_hash
        assert DeltaTok.from_pretrained("me/thing").backbone_hash == BACKBONE

    commits = len(repo.commits)
    push(things[kind], "me/thing")
    push(pulled.place, "me/thing")
    assert len(repo.commits) == commits, "what is there already, or was pulled, is sent again"
    assert not pull("me/thing").fetched


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_who_made_it_where_is_sent(things: dict[str, Path], hub: FakeHub, kind: str) -> None:
    push(things[kind], "me/thing")
    for path, data in hub.repo("me/thing", "model" if kind in ("run", "network") else "dataset").files().items():
        assert b"somebody" not in data, path
        assert b"/tests/golden" not in data, path
        if path.endswith((".json", ".yaml", ".md")):
            assert not re.search(rf"\b{re.escape(socket.gethostname())}\b".encode(), data), path


def test_a_store_that_was_pulled_reads_as_before(things: dict[str, Path], hub: FakeHub, tmp_path: Path) -> None:
    push(things["features"], "me/features")
    pull("me/features", tmp_path / "out")
    with FeatureStore.open(str(things["features"])) as here, FeatureStore.open(str(tmp_path / "out")) as there:
        assert torch.equal(here.read_clips([0, 3]), there.read_clips([0, 3]))
        assert here.group_hashes() == there.group_hashes(), "a run on it could not be resumed"


def test_a_run_that_was_pulled_has_its_whole_state(things: dict[str, Path], hub: FakeHub, tmp_path: Path) -> None:
    push(things["run"], "me/run")
    pull("me/run", tmp_path / "out")
    folders = things["run"], tmp_path / "out"
    before, after = (torch.load(each / "checkpoints" / "last.ckpt", weights_only=True) for each in folders)
    assert before["optimizer_states"] == after["optimizer_states"]
    assert after["global_step"] == 500
    assert all(torch.equal(tensor, after["state_dict"][name]) for name, tensor in before["state_dict"].items())
    assert not after["deltactl"]["provenance"].keys() & {"command", "host"}


def test_settings_keep_their_explanations_and_lose_their_places() -> None:
    text = (
        "stage: tokenizer\n\n# What to read.\ndata:\n  /data/somebody/a: 0.7\n  ../b/c: 0.3\n"
        "backbone: '/models/a b'\nnames: [/x/one, two]\nout: runs/mine\n"
    )
    cleaned = clean_settings(text.encode(), "config.yaml")
    assert read_yaml_mapping(cleaned, "config.yaml") == {
        "stage": "tokenizer",
        "data": {"a": 0.7, "c": 0.3},
        "backbone": "a b",
        "names": ["one", "two"],
        "out": "runs/mine",
    }
    plain = b"# Why.\nout: runs/mine\ndata: /data/somebody/a\n"
    assert clean_settings(plain, "config.yaml") == b'# Why.\nout: runs/mine\ndata: "a"\n'
    assert clean_settings(b"# Why.\nout: runs/mine\n", "config.yaml") == b"# Why.\nout: runs/mine\n"


def test_a_command_is_told_without_places() -> None:
    command = (
        "/home/me/bin/deltactl featurize '/data/my videos' --out=/scratch/me/x --backbone facebook/dinov3 --set a=/b/c"
    )
    assert publishable_command(command) == (
        "deltactl featurize 'my videos' --out=x --backbone facebook/dinov3 --set a=c"
    )
    assert publishable_command("/x/deltactl/__main__.py ingest a.mp4") == "deltactl ingest a.mp4"


# --- cards -----------------------------------------------------------------------------------------------------------


def front_matter(card: str) -> dict[str, object]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_a_data_sets_card_says_what_it_is_how_it_was_made_and_how_it_is_read(
    things: dict[str, Path], hub: FakeHub
) -> None:
    card = push(things["tokens"], "me/my-tokens", licence="cc-by-4.0").card
    assert hub.repo("me/my-tokens").files()["README.md"].decode() == card
    top = front_matter(card)
    assert top["license"] == "cc-by-4.0"
    assert top["pretty_name"] == "my-tokens"
    assert "tokens" in top["tags"]
    assert top["size_categories"] == ["n<1K"]
    assert "deltactl stage 'my videos' --out=x --size 64" in card
    assert "[DINOv3 License](https://ai.meta.com/" in card
    assert "versions.deltactl | 0.1.0" in card
    assert 'FeatureStore.open("my-tokens")' in card
    shards = push(things["shards"], "me/my-shards").card
    assert front_matter(shards)["configs"] == [{"config_name": "default", "data_files": "*.tar"}]


def test_a_card_has_the_numbers_of_the_reports_that_are_named(
    things: dict[str, Path], hub: FakeHub, tmp_path: Path
) -> None:
    row = {"method": "deltaworld", "horizon": 3, "select": "best", "metric": "miou", "value": 51.5, "loss": 0.12}
    rows = [{**row, "step": step} for step in (1, 2, 3)]
    report = {"dataset": "vspw", "size": 512, "context": 4, "samples": 20, "seed": 0, "clips": 343, "rows": rows}
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "metrics.json").write_text(json.dumps({**report, "departures": []}))
    card = push(things["network"], "me/weights", reports=[str(tmp_path / "report")]).card
    assert "## Results on vspw" in card
    assert card.count("| 3 | DeltaWorld, best | 51.50 | 0.1200 |") == 1
    assert "DeltaTok.from_pretrained('me/weights')" in card
    assert front_matter(card)["library_name"] == "deltactl"


def test_a_card_of_ones_own_is_sent_as_it_is(things: dict[str, Path], hub: FakeHub, tmp_path: Path) -> None:
    push(things["tokens"], "me/tokens")
    pull("me/tokens", tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("# Mine\n")
    push(tmp_path / "out", "me/tokens")
    assert hub.repo("me/tokens").files()["README.md"] == b"# Mine\n"
    with pytest.raises(ConfigError, match=r"README\.md is sent as it is, so --report and --licence have no effect"):
        push(tmp_path / "out", "me/tokens", licence="mit")


# --- revisions, and the commands -------------------------------------------------------------------------------------


def test_a_network_is_pushed_and_read_by_name_and_revision(things: dict[str, Path], hub: FakeHub) -> None:
    network = DeltaTok.from_pretrained(things["network"])
    assert network.push_to_hub("me/tok") == f"{hub.url}/me/tok"
    with torch.no_grad():
        network.norm.bias += 1
    network.push_to_hub("me/tok", revision="v2", public=True)
    repo = hub.repo("me/tok", "model")
    assert repo.private, "a repository that is there stays as it is"
    assert repo.refs.keys() == {"main", "v2"}
    first, second = DeltaTok.from_pretrained("me/tok"), DeltaTok.from_pretrained("me/tok", revision="v2")
    assert torch.equal(first.norm.bias + 1, second.norm.bias)
    assert read("me/tok@v2").content_hash != read("me/tok").content_hash
    assert first.backbone_hash == second.backbone_hash == BACKBONE
    assert "pytorch_model.bin" not in hub.sent, "safetensors come first"


def test_the_commands_say_what_they_did(
    things: dict[str, Path], hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(things["tokens"]), "me/tokens", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "# tokens: delta tokens" in said
    assert said.splitlines()[-1].startswith(f"would send to {hub.url}/datasets/me/tokens: tokens, ")
    assert not hub.repos
    assert main(["push", str(things["tokens"]), "me/tokens", "--public"]) == 0
    assert not hub.repo("me/tokens").private
    assert main(["pull", "datasets/me/tokens", "--out", str(tmp_path / "out")]) == 0
    assert f"{tmp_path / 'out'}: tokens, " in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert "0 damaged, 0 missing, 0 left over" in capsys.readouterr().out


def test_what_is_gone_here_goes_there(things: dict[str, Path], hub: FakeHub, tmp_path: Path) -> None:
    pushed = push(things["run"], "me/run")
    assert pushed.removed == ()
    pull("me/run", tmp_path / "out")
    (tmp_path / "out" / "metrics.csv").unlink()
    assert push(tmp_path / "out", "me/run").removed == ("metrics.csv",)
    assert "metrics.csv" not in hub.repo("me/run", "model").files()
