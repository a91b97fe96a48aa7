"""`deltactl info`: what lies at a path, how big it is, what made it, how complete; what it cannot tell, in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_shards import training_shards
from small_stores import flip, tokens
from small_stores import run as featurize

from deltactl.artifacts import Identity, Quarantined, open_artifact
from deltactl.cli import main
from deltactl.commands.info import command
from deltactl.ingest.shards.format import Clip, ClipMeta, finish, write_shard
from deltactl.locations import Location


def info(path: str | Path) -> dict[str, dict[str, object]]:
    done = CliRunner().invoke(command, [str(path), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def clip(number: int) -> Clip:
    image = cv2.imencode(".jpg", np.full((32, 32, 3), number, np.uint8))[1].tobytes()
    return Clip(f"clip-{number}", ClipMeta("a.mp4", "folder", (0.0,), (0,), (32, 32), "pyav"), [image], "jpg")


@pytest.fixture
def shards(tmp_path: Path) -> Location:
    """Two finished shards of a set whose stage has not ended."""
    root = Location.of(tmp_path / "shards")
    open_artifact(root, Identity("shards", {"seed": 7, "settings": {"frames": 8}}), {"versions": {"deltactl": "0.1.0"}})
    write_shard(root, "000000", [clip(0), clip(1)], [Quarantined("bad.mp4", "cut", "000000")], {})
    write_shard(root, "000001", [clip(2)], [], {})
    return root


def test_shards_show_their_counts_identity_and_provenance(shards: Location) -> None:
    finish(shards)
    found = info(shards.path)
    artifact = found["artifact"]
    assert artifact["complete"] == "yes"
    assert (artifact["clips"], artifact["shards"], artifact["quarantined"]) == (3, 2, 1)
    assert found["identity"] == {"seed": 7, "settings": {"frames": 8}}
    assert found["provenance"] == {"versions": {"deltactl": "0.1.0"}}


def test_shards_whose_stage_has_not_ended_say_so(shards: Location) -> None:
    artifact = info(shards.path)["artifact"]
    assert artifact["complete"] == "no: 2 shards are there; to end it, run: deltactl ingest"
    assert (artifact["clips"], artifact["shards"], artifact["quarantined"]) == (3, 2, 1)


def test_the_text_has_headings_and_nested_values_under_dotted_names(shards: Location) -> None:
    done = CliRunner().invoke(command, [str(shards.path)])
    assert done.output.splitlines()[0] == str(shards.path)
    assert "\nartifact\n  kind         shards (WebDataset)\n" in done.output
    assert "\nidentity\n  seed             7\n  settings.frames  8\n" in done.output
    assert "  versions.deltactl  0.1.0\n" in done.output


def test_a_token_store_says_how_its_tokens_are_spread_and_draws_it(tmp_path: Path) -> None:
    training_shards(tmp_path / "in", units=2, clips=2)
    featurize(tmp_path / "in", tmp_path / "store")
    tokens(tmp_path / "store", tmp_path / "tokens")
    found = info(tmp_path / "tokens")["tokens"]
    assert found["of a sample"] == "4 clips, 8 tokens"
    rank = float(str(found["effective rank"]).removesuffix(" of at most 7"))
    assert 1 < rank < 7
    assert found["dead dimensions"] == "0.0%"
    picture = tmp_path / "tokens.png"
    assert main(["info", str(tmp_path / "tokens"), "--picture", str(picture)]) == 0
    assert cv2.imread(str(picture)).std() > 10
    assert main(["info", str(tmp_path / "tokens"), "--picture", str(tmp_path / "tokens.nothing")]) != 0
    (damaged,) = [path for path in (tmp_path / "tokens").rglob("tokens/c*") if path.is_file()]
    flip(damaged, 100)
    assert "damaged" in info(tmp_path / "tokens")["tokens"]


def test_a_feature_store_shows_its_layout_and_how_complete_it_is(tmp_path: Path) -> None:
    training_shards(tmp_path / "in", units=2, clips=2)
    featurize(tmp_path / "in", tmp_path / "store", views="2")
    found = info(tmp_path / "store")
    artifact = found["artifact"]
    assert artifact["kind"] == "feature store (Zarr v3)"
    assert artifact["complete"] == "yes"
    assert (artifact["clips"], artifact["views"], artifact["shards"], artifact["frames"]) == (4, 2, 2, 3)
    assert (artifact["crops"], artifact["frame"]) == ("8 readable, 0 invalid", "16 x 128 float16")
    assert found["identity"]
    assert found["provenance"]

    (tmp_path / "store" / "index.json").unlink()
    artifact = info(tmp_path / "store")["artifact"]
    assert str(artifact["complete"]).startswith("no: ")
    assert artifact["groups"] == "v000: 2 shards, v001: 2 shards"


@pytest.mark.parametrize(
    ("name", "kind", "parameters"),
    [("deltatok", "tokenizer (DeltaTok)", "795,952"), ("deltaworld", "world model (DeltaWorld)", "413,824")],
)
def test_a_checkpoint_shows_what_it_is(golden: Path, name: str, kind: str, parameters: str) -> None:
    found = info(golden / f"{name}.bin")
    checkpoint = found["checkpoint"]
    assert (checkpoint["kind"], checkpoint["parameters"], checkpoint["dtype"]) == (kind, parameters, "float32")
    assert str(checkpoint["published architecture"]).startswith("no: ")
    assert "width 128 (published: 768)" in str(checkpoint["published architecture"])
    assert found["config"]["width"] == 128


def test_a_run_shows_its_checkpoints_and_the_best(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    state = torch.load(golden / "deltatok.bin", weights_only=True)
    torch.save({"state_dict": state, "epoch": 0, "global_step": 40}, folder / "last.ckpt")
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    found = info(tmp_path / "run")
    assert found["run"] == {"kind": "training run", "checkpoints": "last.ckpt", "files": "config.yaml"}
    assert found["checkpoint"]["step"] == 40


def test_a_backbone_shows_its_sizes(golden: Path) -> None:
    backbone = info(golden / "backbone")["backbone"]
    assert (backbone["kind"], backbone["width"], backbone["parameters"]) == ("backbone (DINOv3)", 128, 496256)


def test_a_report_shows_what_was_measured(tmp_path: Path) -> None:
    rows = [{"method": "present", "horizon": 1}, {"method": "deltatok", "horizon": 1}]
    (tmp_path / "metrics.json").write_text(json.dumps({"dataset": "vspw", "size": 512, "clips": 3, "rows": rows}))
    report = info(tmp_path)["report"]
    assert (report["dataset"], report["clips"], report["methods"]) == ("vspw", 3, "deltatok, present")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "thing does not exist; expected a path, a URL, or a name on the Hub"),
        (lambda path: path.touch(), "thing is empty; write or fetch it again"),
        (lambda path: path.write_text("words " * 20), "thing is not a checkpoint, or damaged"),
        (lambda path: path.mkdir(), "thing is an empty folder"),
        (lambda path: (path.mkdir(), (path / "notes.txt").touch()), "is a folder, but neither an artifact"),
        (lambda path: (path.mkdir(), (path / "artifact.json").write_text("{}")), "artifact.json is damaged"),
        (lambda path: (path.mkdir(), (path / "metrics.json").write_text("[]")), "not what deltactl eval writes"),
    ],
)
def test_what_it_cannot_tell_is_one_line(
    tmp_path: Path, make: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    make(tmp_path / "thing")
    assert main(["info", str(tmp_path / "thing")]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_a_checkpoint_that_carries_code_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "extra": print}, tmp_path / "code.ckpt")
    assert main(["info", str(tmp_path / "code.ckpt")]) == 1
    errors = capsys.readouterr().err
    assert "code.ckpt carries code" in errors
    assert errors.count("\n") == 1


def test_the_program_itself_answers(golden: Path) -> None:
    program = [sys.executable, "-c", "import sys; from deltactl.cli import main; sys.exit(main())"]
    call = [*program, "info", str(golden / "head_kitti.bin")]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "depth head for KITTI" in done.stdout
