"""Vision transformers of timm as backbones: features as timm's own forward makes them, layers, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from read_back import relative_error, store_reads_back
from safetensors.torch import load_file, save_file
from timm_alone import timm_alone
from tiny_families import MEAN, RESCALE, STD, enlarge

from deltactl.configs.frame_size import FrameSize
from deltactl.errors import CheckpointError, ConfigError, MissingExtraError
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.backbones.known import outline_of, read_facts
from deltactl.recipes.work import NetworkSizes

SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}
PREFIXES = {
    "vit_pe_spatial_tiny_patch16_512": 1,
    "vit_tiny_patch16_dinov3_qkvb": 5,
    "vit_small_patch16_224": 1,
    "deit_tiny_distilled_patch16_224": 2,
}
"""Architectures, the first PE-Spatial's and the second EUPE's, and how many tokens each puts before the patches."""


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    with timm_alone() as module:
        yield module


@pytest.fixture(scope="module")
def models(timm: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A folder of each architecture in timm's own form, a classifier's head in it, and timm's model."""
    root = tmp_path_factory.mktemp("timm")
    return {name: (root / name, write(timm, root / name, name)) for name in PREFIXES}


def write(timm: Any, place: Path, architecture: str, arguments: Mapping[str, Any] = SMALL) -> Any:
    model = timm.create_model(architecture, pretrained=False, num_classes=5, **arguments).eval()
    enlarge(model)
    place.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, place / "model.safetensors")
    pretrained = {"mean": MEAN, "std": STD, "num_classes": 5}
    config = {"architecture": architecture, "num_classes": 5, "model_args": arguments, "pretrained_cfg": pretrained}
    (place / "config.json").write_text(json.dumps(config))
    free = timm.create_model(architecture, pretrained=False, num_classes=5, **arguments, dynamic_img_size=True).eval()
    free.load_state_dict(model.state_dict())
    return free


def frames_of(height: int, width: int, count: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(height + width)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=random)


def pixels_of(frames: torch.Tensor) -> torch.Tensor:
    return (frames.float() * RESCALE - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.mark.parametrize("size", [(32, 32), (24, 56)], ids=str)
@pytest.mark.parametrize("name", PREFIXES)
def test_features_are_those_of_timms_own_forward(
    models: dict[str, tuple[Path, Any]], name: str, size: tuple[int, int]
) -> None:
    folder, model = models[name]
    backbone = Backbone.load(folder, "cpu")
    assert (backbone.dim, backbone.patch_size, backbone.facts.depth) == (48, 8, 3)
    assert (model.num_prefix_tokens, backbone.network.prefix) == (PREFIXES[name], PREFIXES[name])
    frames = frames_of(*size)
    with torch.no_grad():
        expected = model.forward_features(pixels_of(frames))[:, PREFIXES[name] :]
    assert relative_error(backbone(frames), expected) < 1e-5


@pytest.mark.parametrize("name", PREFIXES)
def test_a_patch_that_changes_changes_its_own_cell_most(models: dict[str, tuple[Path, Any]], name: str) -> None:
    backbone = Backbone.load(models[name][0], "cpu")
    frame = frames_of(24, 56, 1)
    changed = frame.clone()
    changed[0, :, 8:16, 40:48] = 255 - changed[0, :, 8:16, 40:48]
    difference = (backbone(frame) - backbone(changed)).norm(dim=-1)[0]
    assert divmod(int(difference.argmax()), 7) == (1, 5)


@pytest.mark.parametrize("name", PREFIXES)
def test_a_store_reads_back_as_computed(models: dict[str, tuple[Path, Any]], name: str, tmp_path: Path) -> None:
    store_reads_back(models[name][0], (24, 56), tmp_path)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("name", PREFIXES)
def test_chosen_layers_are_timms_intermediate_ones(models: dict[str, tuple[Path, Any]], name: str, norm: bool) -> None:
    folder, model = models[name]
    frames = frames_of(24, 56)
    backbone = Backbone.load(f"{folder}?layers=2,1{'' if norm else '&norm=off'}", "cpu")
    with torch.no_grad():
        first, second = model.forward_intermediates(
            pixels_of(frames), indices=[0, 1], norm=norm, output_fmt="NLC", intermediates_only=True
        )
    assert relative_error(backbone(frames), torch.cat((second, first), dim=-1)) < 1e-5
    with pytest.raises(ConfigError, match=r"has 3 layers; layers 4 are not there"):
        read_facts(f"{folder}?layers=4")


def test_what_the_wrapper_saved_is_the_same_backbone(models: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    name = "vit_tiny_patch16_dinov3_qkvb"
    backbone = Backbone.load(models[name][0], "cpu")
    backbone.network.model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "timm_wrapper"
    saved = Backbone.load(tmp_path, "cpu")
    assert saved.content_hash == backbone.content_hash
    assert torch.equal(saved(frames_of(24, 56)), backbone(frames_of(24, 56)))


def test_its_final_norm_can_be_undone_where_there_is_one(models: dict[str, tuple[Path, Any]]) -> None:
    with_norm, without = (
        Backbone.load(models[name][0], "cpu") for name in ("vit_small_patch16_224", "vit_pe_spatial_tiny_patch16_512")
    )
    assert torch.equal(with_norm.norm_weight, models["vit_small_patch16_224"][1].norm.weight)
    assert (with_norm.facts.can_be_undone, without.facts.can_be_undone) == (True, False)
    assert read_facts(f"{without.folder}?norm=off").content_hash == without.content_hash


def test_a_folder_and_a_name_tell_the_sizes(timm: Any, models: dict[str, tuple[Path, Any]]) -> None:
    outline = outline_of(str(models["vit_small_patch16_224"][0]))
    assert (outline.dim, outline.patch_size) == (48, 8)
    assert NetworkSizes(FrameSize.of(32), outline).backbone_flops() > 3 * 17 * 48**2 * 24
    outline = outline_of("timm/vit_base_patch16_dinov3_qkvb.eupe_lvd1689m")
    assert (outline.dim, outline.patch_size) == (768, 16)


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("resnet18", {}, r"timm's resnet18 has no square patches \(patch_embed.proj.weight\) and blocks"),
        ("beit_base_patch16_224", SMALL, r"cannot be made .*'dynamic_img_size'.*; expected a vision transformer that"),
    ],
)
def test_what_has_no_patch_tokens_or_one_size_only_is_refused(
    timm: Any, tmp_path: Path, architecture: str, arguments: Mapping[str, Any], message: str
) -> None:
    place = tmp_path / "model"
    place.mkdir()
    model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, place / "model.safetensors")
    config = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": {"mean": MEAN, "std": STD}}
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        Backbone.load(place, "cpu")


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_a_folder_that_is_not_whole_is_refused(timm: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write(timm, folder, "vit_small_patch16_224")
    change(folder, pretrained_cfg={"mean": MEAN})
    with pytest.raises(CheckpointError, match=r"image_std in pretrained_cfg of config.json is None"):
        read_facts(str(folder))
    change(folder, pretrained_cfg={"mean": MEAN, "std": STD}, architecture="vit_nobodys")
    with pytest.raises(CheckpointError, match="knows no architecture 'vit_nobodys'; upgrade timm"):
        Backbone.load(folder, "cpu")
    change(folder, architecture="vit_small_patch16_224")
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name != "norm.bias"}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing parameters \(1\): .*norm.bias"):
        Backbone.load(folder, "cpu")


def test_without_timm_the_command_that_installs_it_is_named(
    models: dict[str, tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models["vit_small_patch16_224"][0]
    monkeypatch.setitem(sys.modules, "timm", None)
    assert read_facts(str(folder)).dim == 48
    with pytest.raises(
        MissingExtraError, match=r"needs timm, which is not installed; run: pip install 'deltactl\[timm\]'"
    ):
        Backbone.load(folder, "cpu")
