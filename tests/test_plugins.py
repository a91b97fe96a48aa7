"""What another package brings works as the package's own does: here a loss, a head, and a set of 19 classes."""

from __future__ import annotations

import copy
import csv
import importlib
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from plugins import beside_deltactl, write_metadata
from programs import caller, succeeding
from small_training import BACKBONE, make_features, make_shards, tokenizer_config

from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.errors import CheckpointError
from deltactl.featurize.run import run as featurize
from deltactl.ingest.run import run as run_ingest
from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.headers import header_of
from deltactl.train.checkpoints.loading import load, network_hash, read
from deltactl.train.networks.heads import LinearHeadConfig, SegmentationHead
from deltactl.train.networks.known_kinds import head_of, heads_for, kind_named, kind_of
from deltactl.train.run import train

CITYSCAPES = head_of("cityscapes")
CITYSCAPES_ROOT = Path(__file__).parent / "trees" / "cityscapes"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small feature store to train a tokenizer on."""
    folder = tmp_path_factory.mktemp("data")
    return make_features(make_shards(folder / "shards"), folder / "features")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Shards and features of the tiny Cityscapes."""
    folder = tmp_path_factory.mktemp("cityscapes")
    shards, features = str(folder / "shards"), str(folder / "features")
    run_ingest(
        IngestConfig(dataset="cityscapes", source=str(CITYSCAPES_ROOT), split="val", size=64, out=shards, workers=0)
    )
    featurize(FeaturizeConfig(shards=shards, backbone=str(BACKBONE), size=64, out=features, device="cpu", workers=0))
    return shards, features


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


# --- a loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
def test_a_tokenizer_trains_with_the_loss_of_another_package(store: str, tmp_path: Path) -> None:
    for loss in ("charbonnier", "log_cosh"):
        train(tokenizer_config(store, tmp_path / loss, loss=loss), "deltatok")
    theirs, ours = losses(tmp_path / "charbonnier"), losses(tmp_path / "log_cosh")
    assert theirs[-1] < theirs[0]
    assert theirs != ours
    hashes = {read(tmp_path / loss).content_hash for loss in ("charbonnier", "log_cosh")}
    assert len(hashes) == 2
    assert "loss: charbonnier" in (tmp_path / "charbonnier" / "config.yaml").read_text()


@pytest.mark.usefixtures("installed")
def test_an_unknown_loss_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str], store: str) -> None:
    code, out, error = caller(capsys)("train", "tokenizer", store, "--set", "loss=charbonier")
    assert (code, out) == (1, "")
    assert error == (
        "error: the setting 'loss' is charbonier (from --set); expected 'log_cosh' or 'charbonnier'; did you mean "
        "'charbonnier'?\n"
    )


# --- a head ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
def test_a_head_of_another_package_trains_is_described_exported_and_evaluated(
    capsys: pytest.CaptureFixture[str], labelled: tuple[str, str], tmp_path: Path
) -> None:
    call, run = caller(capsys), tmp_path / "run"
    shards, features = labelled
    settings = ["head=cityscapes-mlp", "wandb=disabled", "warmup_steps=5", "log_every=5", "effective_batch=4"]
    words = ["train", "head", "--dataset", "cityscapes", "--shards", shards, "--store", features, "--out", str(run)]
    words += ["--steps", "60", "--batch-size", "4", "--lr", "0.01", *(w for each in settings for w in ("--set", each))]
    code, _, error = call(*words, "--set", "validation_fraction=0.3")
    assert code == 0, error
    assert losses(run)[-1] < 0.7 * losses(run)[0]

    head = read(run)
    assert (head.kind.name, head.config.hidden, head.config.dim) == ("cityscapes-mlp", 32, 128)
    code, out, _ = call("info", str(run))
    assert code == 0
    assert "two-layer head for Cityscapes" in out

    export(run, tmp_path / "exported")
    for place in (run / "pytorch_model.bin", tmp_path / "exported", tmp_path / "exported" / "pytorch_model.bin"):
        assert network_hash(load(place, *heads_for("cityscapes"))) == head.content_hash

    out_folder = tmp_path / "report"
    code, _, error = call(
        *("eval", "--dataset", "cityscapes", "--root", str(CITYSCAPES_ROOT), "--size", "64", "--device", "cpu"),
        *("--backbone", str(BACKBONE), "--head", str(run), "--out", str(out_folder), "--pictures", "1"),
    )
    assert code == 0, error
    rows = json.loads((out_folder / "metrics.json").read_text())["rows"]
    assert any(row["metric"] == "miou" and row["value"] is not None for row in rows)


@pytest.mark.usefixtures("installed")
def test_a_head_of_another_data_set_is_refused(
    capsys: pytest.CaptureFixture[str], labelled: tuple[str, str], tmp_path: Path
) -> None:
    words = ["train", "head", "--dataset", "streets", "--shards", labelled[0], "--store", labelled[1]]
    words += ["--out", str(tmp_path / "run")]
    code, _, error = caller(capsys)(*words, "--set", "head=cityscapes-mlp")
    assert code == 1
    assert error == "error: head is 'cityscapes-mlp', a two-layer head for Cityscapes; expected a head for streets\n"


# --- two sets with as many classes -----------------------------------------------------------------------------------


def save(network: torch.nn.Module, place: Path, *, header: bool) -> Path:
    content: dict[str, Any] = dict(network.state_dict())
    torch.save({"state_dict": content, "deltactl": header_of(network)} if header else content, place)
    return place


@pytest.mark.usefixtures("installed")
def test_heads_of_two_sets_with_19_classes_are_told_apart_by_the_header(tmp_path: Path) -> None:
    streets, sizes = kind_named("streets"), LinearHeadConfig(8, 19)
    for kind in (streets, CITYSCAPES):
        place = save(kind.build(sizes), tmp_path / f"{kind.name}.ckpt", header=True)
        assert read(place).kind == kind
        export(place, tmp_path / kind.name)
        for name in ("", "model.safetensors", "pytorch_model.bin"):
            assert read(tmp_path / kind.name / name).kind == kind
    with pytest.raises(CheckpointError, match="is a segmentation head for Streets; a segmentation head for Citys"):
        load(tmp_path / "streets.ckpt", *heads_for("cityscapes"))


@pytest.mark.usefixtures("installed")
def test_a_copy_of_a_network_stays_of_its_kind() -> None:
    network = kind_named("streets").build(LinearHeadConfig(8, 19))
    for same in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert kind_of(same) is kind_named("streets")
    assert kind_of(SegmentationHead(LinearHeadConfig(8, 19))) == CITYSCAPES  # made by its class: by its weights


@pytest.mark.usefixtures("installed")
def test_weights_without_a_header_are_of_the_published_set_unless_another_is_asked_for(tmp_path: Path) -> None:
    streets = kind_named("streets")
    place = save(streets.build(LinearHeadConfig(8, 19)), tmp_path / "bare.bin", header=False)
    assert read(place).kind == CITYSCAPES
    assert read(place, streets).kind == streets
    assert load(place, streets).config == LinearHeadConfig(8, 19)


# --- sets and tasks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blocks(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of the toy sets: six videos in which a square moves, with masks."""
    root = tmp_path_factory.mktemp("blocks")
    with beside_deltactl(toys):
        importlib.import_module("toy_blocks").make_tree(str(root))
    return root


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("dataset", "classes", "metric"), [("blocks", 5, "miou"), ("streets", 19, "miou"), ("shaded-blocks", None, "mae")]
)
def test_a_set_of_another_package_goes_all_the_way(
    capsys: pytest.CaptureFixture[str], blocks: Path, tmp_path: Path, dataset: str, classes: int | None, metric: str
) -> None:
    done = succeeding(capsys)
    shards, features, run, report = (str(tmp_path / name) for name in ("shards", "features", "run", "report"))

    done("ingest", str(blocks), "--dataset", dataset, "--split", "train", "--size", "64", "--out", shards)
    small = ["--backbone", str(BACKBONE), "--size", "64", "--device", "cpu"]
    done("featurize", shards, *small, "--out", features)
    sets = ["wandb=disabled", "warmup_steps=5", "log_every=5", "effective_batch=4", "validation_fraction=0.3"]
    done(
        *("train", "head", "--dataset", dataset, "--shards", shards, "--store", features, "--out", run),
        *("--steps", "40", "--batch-size", "4", "--lr", "0.01", *(word for each in sets for word in ("--set", each))),
    )
    assert losses(Path(run))[-1] < 0.8 * losses(Path(run))[0]
    head: Any = load(run, *heads_for(dataset))
    assert kind_of(head).name == dataset
    if classes is not None:
        assert head.config.outputs == classes
    done("eval", "--dataset", dataset, "--root", str(blocks), *small, "--head", run, "--out", report, "--pictures", "1")
    found = json.loads(Path(report, "metrics.json").read_text())
    values = {row["method"]: row["value"] for row in found["rows"] if row["metric"] == metric}
    assert values.keys() == {"present", "copy_last"}
    assert all(value is not None for value in values.values())
    (copied,) = (row for row in found["rows"] if (row["method"], row["horizon"]) == ("copy_last", 1))
    assert copied["figures"][metric]["low"] <= copied["figures"][metric]["high"], "intervals come with the scores"
    assert [each for each in found["departures"] if "is not in the paper" in each]
    page = Path(report, "report.html").read_text()
    assert {"mae": "shade", "miou": "classes"}[metric] in page
    if dataset == "blocks":
        assert "red" in page  # a class by its name


@pytest.mark.usefixtures("installed")
def test_a_set_whose_listing_knows_no_steps_refuses_them(
    capsys: pytest.CaptureFixture[str], blocks: Path, tmp_path: Path
) -> None:
    words = ["ingest", str(blocks), "--dataset", "blocks", "--frames-per-step", "2", "--out", str(tmp_path / "shards")]
    code, _, error = caller(capsys)(*words)
    assert code == 1
    assert "Blocks has no clips for backbones that make one step from several frames" in error


@pytest.mark.usefixtures("installed")
def test_an_unknown_set_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = caller(capsys)("eval", "--dataset", "block", "--root", "here")
    assert code == 2
    assert "did you mean 'blocks'?" in error


# --- without the package, and beside one that is broken -------------------------------------------------------------


def test_a_checkpoint_of_a_package_that_is_not_there_names_its_kind(toys: Path, tmp_path: Path) -> None:
    with beside_deltactl(toys):
        network = kind_named("streets").build(LinearHeadConfig(8, 19))
        place = save(network, tmp_path / "streets.ckpt", header=True)
    with pytest.raises(CheckpointError, match="its header says 'streets', but there is no kind of network 'streets'"):
        read(place)


def test_a_broken_plugin_takes_no_command_down(
    capsys: pytest.CaptureFixture[str], golden: Path, tmp_path: Path
) -> None:
    (tmp_path / "torn.py").write_text("import a_module_that_is_not_there\n")
    groups = [f"deltactl.{kind}" for kind in ("backbones", "networks", "losses", "datasets", "tasks")]
    write_metadata(tmp_path, "torn", {group: {"torn": "torn:TORN"} for group in groups})
    call = caller(capsys)
    with beside_deltactl(tmp_path):
        assert call("train", "tokenizer", "--help")[0] == 0
        assert call("config", "show", "tokenizer")[0] == 0
        assert call("info", str(golden / "head_vspw.bin"))[0] == 0
        assert [kind.name for kind in heads_for("vspw")] == ["vspw"]
        assert call("info", str(BACKBONE))[0] == 0
        assert "torn" not in sys.modules
        code, _, error = call("train", "head", "--dataset", "vspw", "--set", "head=torn")
        assert code == 1
        assert "error: the kind of network 'torn' of the package torn cannot be used: torn:TORN cannot be" in error
