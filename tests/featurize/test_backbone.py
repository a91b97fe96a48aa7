"""The frozen backbone: the golden features, always in eval mode, one hash per content, and refusals in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from read_back import relative_error
from safetensors.torch import load_file, save_file
from torch import nn

from deltactl.errors import CheckpointError, ConfigError, HubError
from deltactl.featurize.backbones.backbone import Backbone


@pytest.fixture(scope="module")
def backbone(golden: Path) -> Backbone:
    return Backbone.load(golden / "backbone", "cpu")


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "cases.safetensors")


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    """A copy of the backbone's folder, to be damaged."""
    return Path(shutil.copytree(golden / "backbone", tmp_path / "copy"))


def test_features_equal_the_golden_ones(backbone: Backbone, cases: dict[str, torch.Tensor]) -> None:
    features = backbone(cases["frames"].flatten(0, 1))
    assert features.dtype == torch.float32
    assert relative_error(features.unflatten(0, (2, 6)), cases["features"]) < 1e-5


def test_bfloat16_features_are_close_and_float32(golden: Path, cases: dict[str, torch.Tensor]) -> None:
    features = Backbone.load(golden / "backbone", "cpu", torch.bfloat16)(cases["frames"][:, 0])
    assert features.dtype == torch.float32
    assert relative_error(features, cases["features"][:, 0]) < 2e-2


def test_a_callers_autocast_does_not_change_the_features(backbone: Backbone, cases: dict[str, torch.Tensor]) -> None:
    plain = backbone(cases["frames"][:, 0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(backbone(cases["frames"][:, 0]), plain)


COMPILE = """
import sys, torch
from deltactl.featurize.backbones.backbone import Backbone
frames = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
for dtype in (torch.float32, torch.bfloat16):
    backbone = Backbone.load(sys.argv[1], "cpu", dtype)
    assert torch.equal(torch.compile(backbone, backend="eager", fullgraph=True)(frames), backbone(frames))
"""


def test_it_compiles_to_one_graph_with_equal_features(golden: Path) -> None:
    # In a process of its own: the checks of shapes in tests cannot be compiled.
    call = [sys.executable, "-c", COMPILE, str(golden / "backbone")]
    done = subprocess.run(call, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_features_on_a_gpu_equal_the_golden_ones(
    golden: Path, cases: dict[str, torch.Tensor], dtype: torch.dtype, bar: float
) -> None:
    gpu = Backbone.load(golden / "backbone", "cuda", dtype)
    precision = torch.backends.cudnn.conv.fp32_precision
    features = gpu(cases["frames"].flatten(0, 1).cuda()).cpu()
    assert relative_error(features.unflatten(0, (2, 6)), cases["features"]) < bar
    assert torch.backends.cudnn.conv.fp32_precision == precision
    assert gpu.black_features(64, 64).is_cuda


def test_it_says_what_it_is(backbone: Backbone, golden: Path) -> None:
    assert (backbone.dim, backbone.patch_size, backbone.facts.depth) == (128, 16, 2)
    assert backbone.name == str(golden / "backbone")
    assert backbone.image_mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert backbone.image_std.tolist() == pytest.approx([0.229, 0.224, 0.225])
    weights = load_file(golden / "backbone" / "model.safetensors")
    assert torch.equal(backbone.norm_weight, weights["norm.weight"])
    assert torch.equal(backbone.norm_bias, weights["norm.bias"])


def test_patches_of_wide_frames_are_row_major(backbone: Backbone) -> None:
    # A patch's own pixels matter most to its features, so changing one patch changes that row of the output most.
    frame = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = frame.clone()
    changed[:, :, 16:32, 48:64] = 255 - changed[:, :, 16:32, 48:64]
    difference = (backbone(frame) - backbone(changed)).norm(dim=-1)[0]
    assert backbone.grid(32, 64) == (2, 4)
    assert difference.argmax().item() == 1 * 4 + 3


def test_it_stays_in_eval_mode_and_never_trains(golden: Path, cases: dict[str, torch.Tensor]) -> None:
    backbone = Backbone.load(golden / "backbone", "cpu")
    parent = nn.Sequential(backbone, nn.Linear(128, 4)).train()
    assert not any(module.training for module in backbone.modules())
    parent(cases["frames"][:, 0]).sum().backward()
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert parent[1].weight.grad is not None
    assert torch.equal(backbone(cases["frames"][:, 0]), backbone(cases["frames"][:, 0]))


def test_the_black_frame_is_computed_once(backbone: Backbone) -> None:
    black = backbone.black_features(64, 32)
    assert torch.equal(black, backbone(torch.zeros(1, 3, 64, 32, dtype=torch.uint8))[0])
    assert backbone.black_features(64, 32) is black
    assert backbone.black_features(32, 64).shape == black.shape


def test_a_copied_folder_has_the_same_hash_and_other_content_has_not(backbone: Backbone, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "4.56.0"}, indent=4))
    assert Backbone.load(folder, "cpu", torch.bfloat16).content_hash == backbone.content_hash

    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 50.0}))
    assert Backbone.load(folder, "cpu").content_hash != backbone.content_hash

    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights["norm.bias"][0] += 1
    save_file(weights, folder / "model.safetensors")
    assert Backbone.load(folder, "cpu").content_hash != backbone.content_hash


def test_weights_in_several_files_load_and_hash_alike(
    backbone: Backbone, folder: Path, cases: dict[str, torch.Tensor]
) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"part-1.safetensors": names[:20], "part-2.safetensors": names[20:]}
    for file, keys in parts.items():
        save_file({key: weights[key] for key in keys}, folder / file)
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    loaded = Backbone.load(folder, "cpu")
    assert loaded.content_hash == backbone.content_hash
    assert torch.equal(loaded(cases["frames"][:, 0]), backbone(cases["frames"][:, 0]))

    (folder / "part-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks part-2\.safetensors"):
        Backbone.load(folder, "cpu")


@pytest.mark.parametrize(("height", "width"), [(65, 64), (64, 8), (64, 500), (0, 16)])
def test_a_frame_size_that_the_patch_does_not_divide_is_refused(backbone: Backbone, height: int, width: int) -> None:
    with pytest.raises(ConfigError, match=rf"{height} x {width} pixels.*patch size, 16"):
        backbone.grid(height, width)
    if height:
        with pytest.raises(ConfigError):
            backbone.black_features(height, width)


def test_the_size_that_would_do_is_named(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="such as 496x512 or 512$"):
        backbone.grid(500, 512)


def test_misuse_is_a_value_error(backbone: Backbone, golden: Path) -> None:
    with pytest.raises(ValueError, match="float16"):
        Backbone.load(golden / "backbone", "cpu", torch.float16)


def change_config(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


def change_preprocessing(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "preprocessor_config.json").read_text())
        (folder / "preprocessor_config.json").write_text(json.dumps({**config, **values}))

    return change


def cut_weights(size: int) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:size])

    return cut


def drop_a_parameter(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["junk"] = weights.pop("norm.weight")
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds a list, expected an object"),
        (change_config(model_type="bert"), "model_type 'bert'.*no family knows.*expected dinov3_vit .DINOv3."),
        (change_config(hidden_size=256), r"mismatched parameters \(39\): embeddings.cls_token, .*, …"),
        (change_config(hidden_size="wide"), "cannot be loaded.*hidden_size"),
        (
            change_config(num_hidden_layers=3, out_features=["stage3"], out_indices=[3]),
            r"missing parameters \(17\): model.layer.2",
        ),
        (change_config(num_attention_heads=0), "cannot be loaded"),
        (change_config(num_attention_heads=3), "3 heads on a width of 128"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (change_preprocessing(image_mean=[0.5]), "image_mean.*expected three numbers"),
        (change_preprocessing(image_std=[0.2, 0, 0.2]), "no zero in image_std"),
        (change_preprocessing(rescale_factor=None), "rescale_factor"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (cut_weights(0), "is not whole safetensors"),
        (cut_weights(700), "is not whole safetensors"),
        (cut_weights(100_000), "is not whole safetensors"),
        (drop_a_parameter, r"missing parameters \(1\): norm.weight;"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(
    folder: Path, damage: Callable[[Path], None], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        Backbone.load(folder, "cpu")
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist; expected a folder, or a Hub name"):
        Backbone.load(tmp_path / "absent", "cpu")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file; expected the folder"):
        Backbone.load(tmp_path / "file", "cpu")


def test_a_hub_name_without_a_network_is_a_hub_error() -> None:
    with pytest.raises(HubError, match="neither a path here nor whole in the Hub's cache"):
        Backbone.load("nobody/nothing", "cpu")
