"""A backbone of another package, of other patches and another width, goes all the way; what does not fit is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from plugins import beside_deltactl, write_metadata
from programs import caller, succeeding
from safetensors.torch import save_file
from small_training import BACKBONE, make_shards

from deltactl.configs.frame_size import FrameSize
from deltactl.errors import CheckpointError, ConfigError
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.backbones.family import BackboneFacts, Family
from deltactl.featurize.backbones.known import find, outline_of, read_facts
from deltactl.featurize.backbones.model_folder import ModelFolder
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.recipes.work import NetworkSizes
from deltactl.registry import BACKBONES
from deltactl.train.checkpoints.loading import read
from deltactl.train.checkpoints.trained import trained_of
from deltactl.train.networks.rgb_head import RGBHead, RGBHeadConfig

CITYSCAPES_ROOT = Path(__file__).parents[1] / "trees" / "cityscapes"
CHANNELS, PATCH, SIZE = 32, 8, 64
SMALL = [
    *("wandb=disabled", "warmup_steps=2", "log_every=2", "effective_batch=4", "batch_size=4", "steps=6"),
    *("validate_every=6", "checkpoint_every=6"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the toy family."""
    return write_toy(tmp_path_factory.mktemp("models") / "toy")


def write_toy(place: Path, **changes: object) -> Path:
    place.mkdir()
    config = {"model_type": "toy_patches", "channels": CHANNELS, "patch_size": PATCH, **changes}
    (place / "config.json").write_text(json.dumps(config))
    random = torch.Generator().manual_seed(0)
    weights = {
        "embedding.weight": 0.1 * torch.randn(CHANNELS, 3, PATCH, PATCH, generator=random),
        "embedding.bias": torch.randn(CHANNELS, generator=random),
        "class_token": torch.randn(CHANNELS, generator=random),
    }
    save_file(weights, place / "model.safetensors")
    return place


def sets(*assignments: str) -> list[str]:
    return [word for each in (*SMALL, *assignments) for word in ("--set", each)]


@pytest.mark.usefixtures("installed")
def test_a_backbone_of_another_package_goes_all_the_way(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    done = succeeding(capsys)

    def place(name: str) -> str:
        return str(tmp_path / name)

    shards = make_shards(tmp_path / "shards")
    ours = ["--backbone", str(folder), "--size", str(SIZE), "--device", "cpu"]
    done("featurize", shards, *ours, "--out", place("features"))
    with FeatureStore.open(place("features")) as store:
        assert (store.dim, store.grid) == (CHANNELS, (SIZE // PATCH, SIZE // PATCH))
        assert store.identity.text("backbone") == Backbone.load(folder, "cpu").content_hash

    small = sets("validation_fraction=0.2", "network.depth=1")
    done("train", "tokenizer", place("features"), "--out", place("tokenizer"), *small)
    assert read(place("tokenizer")).config.width == CHANNELS
    done("train", "tokenizer", shards, *ours[:4], "--out", place("live"), *small)
    assert read(place("live")).config.width == CHANNELS
    tokenizer = ["--tokenizer", place("tokenizer")]
    done("tokenize", place("features"), *tokenizer, "--out", place("tokens"), "--device", "cpu")
    with TokenStore.open(place("tokens")) as store:
        assert store.dim == CHANNELS
    done("tokenize", shards, *tokenizer, *ours, "--out", place("tokens from shards"))

    small = [*small, "--set", "network.width=64"]
    queries = ["--set", "queries=4"]
    done("train", "world", place("tokens"), "--out", place("world"), *small, *queries)
    done("train", "world", place("features"), *tokenizer, "--out", place("other world"), *small, *queries)
    small += ["--set", "network.kind=dinoworld"]
    done("train", "world", place("features"), "--out", place("dinoworld"), *small)

    root = str(CITYSCAPES_ROOT)
    done("ingest", root, "--dataset", "cityscapes", "--split", "val", "--size", "64", "--out", place("labels"))
    done("featurize", place("labels"), *ours, "--out", place("labelled"))
    done(
        *("train", "head", "--dataset", "cityscapes", "--shards", place("labels"), "--store", place("labelled")),
        *("--out", place("head"), *sets("validation_fraction=0.3")),
    )
    networks = [*tokenizer, "--world", place("world")]
    given = [*networks, "--dinoworld", place("dinoworld"), "--head", place("head"), "--samples", "2", "--pictures", "1"]
    rows = []
    for how in ("--cache", "--no-cache"):
        report = place(f"report {how}")
        done("eval", "--dataset", "cityscapes", "--root", root, *ours, *given, how, "--out", report)
        rows.append(json.loads(Path(report, "metrics.json").read_text())["rows"])
        assert Path(report, "report.html").exists()
    assert {row["method"] for row in rows[0]} >= {"present", "copy_last", "deltatok", "deltaworld", "dinoworld"}
    cached, computed = ({row["method"]: row["value"] or 0.0 for row in each} for each in rows)
    assert computed == pytest.approx(cached, abs=0.02)

    (tmp_path / "frames").mkdir()
    for number in range(5):
        frame = np.full((72, 96, 3), (40, 90, 200), np.uint8)
        frame[16:48, 8 * number : 8 * number + 30] = 250
        cv2.imwrite(place(f"frames/frame_{0.2 * number:.1f}.png"), frame)
    done("predict", place("frames"), *networks, *ours, "--samples", "2", "--horizon", "2", "--out", place("futures"))
    assert Path(place("futures"), "artifact.json").exists()

    out = done("info", str(folder))
    assert "backbone (Toy)" in out
    assert "8 pixels" in out
    assert done("info", f"toy:{folder}").splitlines()[1:] == out.splitlines()[1:]


@pytest.mark.usefixtures("installed")
def test_the_family_may_be_named(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    assert read_facts(f"toy:{folder}") == read_facts(str(folder))
    nameless = write_toy(tmp_path / "nameless", model_type="nobody's")
    assert (read_facts(f"toy:{nameless}").dim, Backbone.load(f"toy:{nameless}", "cpu").patch_size) == (CHANNELS, PATCH)
    run = str(tmp_path / "run")
    words = ["--backbone", f"toy:{nameless}", "--size", "64", "--out", run, *sets("network.depth=1")]
    code, _, error = caller(capsys)("train", "tokenizer", make_shards(tmp_path / "shards", units=1), *words)
    assert code == 0, error
    assert trained_of(run).backbone == f"toy:{nameless}"
    with pytest.raises(ConfigError, match=r"no family of backbones 'toi'; did you mean 'toy'\? known: dinov3, .* toy$"):
        read_facts(f"toi:{folder}")


@pytest.mark.usefixtures("installed")
def test_an_unknown_model_type_is_refused_with_the_nearest_and_all_others(tmp_path: Path) -> None:
    place = write_toy(tmp_path / "other", model_type="toy_patch")
    with pytest.raises(CheckpointError) as raised:
        Backbone.load(place, "cpu")
    message = str(raised.value)
    assert message.startswith(
        f"backbone {place} has model_type 'toy_patch' in its config.json, which no family knows; did you mean "
        "'toy_patches'? expected dinov3_vit (DINOv3), dinov3_convnext (DINOv3 ConvNeXt), dinov2 (DINOv2), "
    )
    assert message.endswith(", toy_patches (Toy)")


@pytest.mark.usefixtures("installed")
def test_a_family_that_knows_no_options_refuses_them(folder: Path) -> None:
    for name in (f"{folder}?layers=1", f"toy:{folder}?layers=1"):
        with pytest.raises(ConfigError, match=r"the family Toy has no choice of layers or norm; leave out \?layers=1"):
            read_facts(name)


def changed(**changes: object) -> Callable[[Family], Family]:
    """Return what gives a family whose facts say something else."""

    def change(family: Family) -> Family:
        def facts(folder: ModelFolder) -> BackboneFacts:
            return replace(family.facts(folder), **changes)

        return replace(family, facts=facts)

    return change


def keeps_its_class_token(family: Family) -> Family:
    def load(folder: ModelFolder) -> torch.nn.Module:
        network = family.load(folder)
        network.forward = network.tokens
        return network

    return replace(family, load=load)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            keeps_its_class_token,
            CheckpointError,
            r"\(Toy\) made \(1, 7, 32\) of 1 frames of 16 x 24 pixels; expected \(1, 6, 32\): 2 x 3 patches of 8",
        ),
        (changed(dim=48), CheckpointError, r"made \(1, 6, 32\) of .*; expected \(1, 6, 48\): .*, each 48 wide"),
        (
            changed(patch_size=4),
            CheckpointError,
            r"made \(1, 1, 32\) of 1 frames of 8 x 12 pixels; expected",
        ),
    ],
)
def test_a_network_that_is_not_as_its_family_says_is_refused_when_it_is_loaded(
    folder: Path, change: Callable[[Family], Family], error: type[Exception], message: str
) -> None:
    family = change(BACKBONES.get("toy", Family))
    with pytest.raises(error, match=message):
        Backbone(family, ModelFolder(folder), str(folder), torch.float32)


@pytest.mark.usefixtures("installed")
def test_pictures_of_a_head_that_undoes_a_norm_need_a_norm(folder: Path, tmp_path: Path) -> None:
    from deltactl.evaluate.protocol.networks import read_rgb_head

    family, model = find(str(folder))
    RGBHead(RGBHeadConfig(dim=CHANNELS, width=32, depth=1, heads=2, patch_size=PATCH)).save_pretrained(tmp_path / "rgb")
    with pytest.raises(CheckpointError, match=r"--rgb-head .* undoes the final norm of a backbone's .* \(Toy\) has"):
        read_rgb_head(str(tmp_path / "rgb"), str(folder), family, family.facts(model))


@pytest.mark.usefixtures("installed")
def test_a_plan_asks_the_folder(folder: Path) -> None:
    outline = outline_of(str(folder))
    assert (outline.dim, outline.patch_size) == (CHANNELS, PATCH)
    networks = NetworkSizes(FrameSize.of(SIZE), outline)
    assert networks.patches == 64
    assert networks.backbone_flops() == 2 * 64 * CHANNELS * 3 * PATCH**2
    assert outline_of(str(BACKBONE)).dim == 128


def test_a_broken_family_is_named_and_stands_in_no_others_way(
    caplog: pytest.LogCaptureFixture, folder: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "torn.py").write_text("import a_module_that_is_not_there\n")
    write_metadata(site, "torn", {"deltactl.backbones": {"torn": "torn:TORN"}})
    with beside_deltactl(site):
        Backbone.load(BACKBONE, "cpu")
        assert "torn" not in sys.modules
        assert not caplog.messages
        with pytest.raises(CheckpointError, match="which no family knows; expected dinov3_vit"):
            Backbone.load(folder, "cpu")
        assert "the family of backbones 'torn' of the package torn cannot be used" in caplog.text
        with pytest.raises(ConfigError, match="the family of backbones 'torn' of the package torn cannot be used"):
            Backbone.load(f"torn:{folder}", "cpu")
