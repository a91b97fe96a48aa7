"""Every family of image backbones: features as the library's own forward makes them, its layers, and refusals."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import caller
from read_back import relative_error, store_reads_back
from safetensors.torch import load_file, save_file
from tiny_families import DEPTH, FAMILIES, MEAN, RESCALE, STD, WIDTH, enlarge, write_preprocessing

from deltactl.configs.frame_size import FrameSize
from deltactl.errors import CheckpointError, ConfigError
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.backbones.known import find, outline_of, read_facts
from deltactl.recipes.work import NetworkSizes

VITS = [name for name in FAMILIES if name != "dinov3-convnext"]
SIZES = [(name, size) for name, tiny in FAMILIES.items() for size in tiny.sizes]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A folder of each family, and the library's model in it."""
    root = tmp_path_factory.mktemp("models")
    return {name: (root / name, tiny.write(root / name)) for name, tiny in FAMILIES.items()}


def frames_of(height: int, width: int, count: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(height + width)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=random)


# --- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), SIZES, ids=lambda value: str(value).replace(" ", ""))
def test_features_are_those_of_the_librarys_own_forward(
    models: dict[str, tuple[Path, Any]], name: str, size: tuple[int, int]
) -> None:
    (folder, model), tiny = models[name], FAMILIES[name]
    backbone = Backbone.load(folder, "cpu")
    frames = frames_of(*size)
    features = backbone(frames)
    assert features.shape == (2, size[0] // tiny.patch * (size[1] // tiny.patch), WIDTH)
    assert (backbone.dim, backbone.patch_size, backbone.facts.depth) == (WIDTH, tiny.patch, tiny.depth)
    assert relative_error(features, tiny.reference(model, frames)) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_patch_that_changes_changes_its_own_cell_most(models: dict[str, tuple[Path, Any]], name: str) -> None:
    tiny = FAMILIES[name]
    height, width = tiny.sizes[-1]
    backbone = Backbone.load(models[name][0], "cpu")
    rows, columns = backbone.grid(height, width)
    frame = frames_of(height, width, 1)
    for row, column in ((0, columns - 1), (rows - 1, 1)):
        changed = frame.clone()
        area = (slice(row * tiny.patch, (row + 1) * tiny.patch), slice(column * tiny.patch, (column + 1) * tiny.patch))
        changed[0, :, *area] = 255 - changed[0, :, *area]
        difference = (backbone(frame) - backbone(changed)).norm(dim=-1)[0]
        assert divmod(int(difference.argmax()), columns) == (row, column)


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_features_are_close(models: dict[str, tuple[Path, Any]], name: str) -> None:
    frames = frames_of(*FAMILIES[name].sizes[-1])
    low, plain = (Backbone.load(models[name][0], "cpu", dtype)(frames) for dtype in (torch.bfloat16, torch.float32))
    assert low.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(low, plain, dim=-1).min() > 0.99


@pytest.mark.parametrize("name", FAMILIES)
def test_a_store_reads_back_as_computed(models: dict[str, tuple[Path, Any]], name: str, tmp_path: Path) -> None:
    store_reads_back(models[name][0], FAMILIES[name].sizes[-1], tmp_path)


COMPILE = """
import sys, torch
from deltactl.featurize.backbones.backbone import Backbone
for name in sys.argv[1:]:
    backbone = Backbone.load(name, "cpu")
    height, width = backbone.facts.fixed_size or (2 * backbone.patch_size, 3 * backbone.patch_size)
    frames = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(backbone, backend="eager", fullgraph=True)(frames), backbone(frames)), name
"""


def test_every_family_compiles_to_one_graph_with_equal_features(models: dict[str, tuple[Path, Any]]) -> None:
    # In a process of its own: the checks of shapes in tests cannot be compiled.
    choices = {name: "?norm=off" if name == "dinov3-convnext" else f"?layers=1,{DEPTH}" for name in FAMILIES}
    names = [str(models[name][0]) + choice for name in FAMILIES for choice in ("", choices[name])]
    done = subprocess.run([sys.executable, "-c", COMPILE, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- layers and norm -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("layers", [(2,), (1, DEPTH), (DEPTH, 1)])
@pytest.mark.parametrize("name", VITS)
def test_chosen_layers_are_the_librarys_hidden_states(
    models: dict[str, tuple[Path, Any]], name: str, layers: tuple[int, ...], norm: bool
) -> None:
    (folder, model), tiny = models[name], FAMILIES[name]
    frames = frames_of(*tiny.sizes[-1])
    backbone = Backbone.load(f"{folder}?layers={','.join(map(str, layers))}{'' if norm else '&norm=off'}", "cpu")
    expected = torch.cat([tiny.reference(model, frames, layer, normed=norm) for layer in layers], dim=-1)
    assert backbone.dim == WIDTH * len(layers)
    assert relative_error(backbone(frames), expected) < 1e-5
    assert not backbone.facts.can_be_undone


def test_stages_of_a_convnext_have_grids_of_their_own(models: dict[str, tuple[Path, Any]]) -> None:
    folder, model = models["dinov3-convnext"]
    frames = frames_of(64, 160)
    tiny = FAMILIES["dinov3-convnext"]
    for stage, (patch, width) in enumerate([(4, 8), (8, 16), (16, 24), (32, 32)], 1):
        backbone = Backbone.load(f"{folder}?layers={stage}&norm=off", "cpu")
        assert (backbone.patch_size, backbone.dim) == (patch, width)
        assert relative_error(backbone(frames), tiny.reference(model, frames, stage, normed=False)) < 1e-5
        assert outline_of(f"{folder}?layers={stage}&norm=off").dim == width
    with pytest.raises(ConfigError, match=r"final norm is 32 wide, that of stage 4, and stage 3 is 24 wide.*--no-norm"):
        read_facts(f"{folder}?layers=3")
    with pytest.raises(ConfigError, match=r"layers 3,4 are stages of different grids"):
        read_facts(f"{folder}?layers=3,4&norm=off")


def test_blocks_behind_the_last_chosen_one_are_not_there(models: dict[str, tuple[Path, Any]]) -> None:
    whole, part = (Backbone.load(f"{models['dinov2'][0]}{choice}", "cpu") for choice in ("", "?layers=1"))
    count = [sum(value.numel() for value in each.parameters()) for each in (whole, part)]
    assert count[1] < 0.5 * count[0]


def test_merged_layers_of_dinov3_serve_chosen_ones(models: dict[str, tuple[Path, Any]]) -> None:
    folder, _ = models["dinov3"]
    frames = frames_of(24, 56)
    backbone = Backbone.load(f"{folder}?layers=1,2&norm=off", "cpu")
    plain = backbone(frames)
    backbone.merge(24, 56)
    assert relative_error(backbone(frames), plain) < 1e-5


def test_only_another_choice_than_the_usual_makes_another_hash(models: dict[str, tuple[Path, Any]]) -> None:
    folder = models["siglip"][0]
    usual = read_facts(str(folder)).content_hash
    assert read_facts(f"{folder}?layers={DEPTH}").content_hash == usual
    others = [f"layers={DEPTH}&norm=off", "norm=off", "layers=1", "layers=1,2", "layers=2,1", "layers=1&norm=off"]
    hashes = [read_facts(f"{folder}?{options}").content_hash for options in others]
    assert hashes[0] == hashes[1]
    assert len({usual, *hashes}) == 6


def test_a_network_without_a_final_norm_is_the_same_without_it(models: dict[str, tuple[Path, Any]]) -> None:
    folder = models["radio"][0]
    assert read_facts(f"{folder}?norm=off").content_hash == read_facts(str(folder)).content_hash


def test_layers_that_are_not_there_are_refused_with_the_depth(models: dict[str, tuple[Path, Any]]) -> None:
    for name, tiny in FAMILIES.items():
        with pytest.raises(
            ConfigError, match=rf"has {tiny.depth} layers; layers 9,7 are not there.* 1 to {tiny.depth}"
        ):
            read_facts(f"{models[name][0]}?layers=1,9,7&norm=off")


# --- folders ---------------------------------------------------------------------------------------------------------


def two_towers(package: str, prefix: str, place: Path) -> Any:
    """Write a model of a vision and a text tower; return it."""
    configuration = importlib.import_module(f"transformers.models.{package}.configuration_{package}")
    modeling = importlib.import_module(f"transformers.models.{package}.modeling_{package}")
    vision = {"siglip": FAMILIES["siglip"], "aimv2": FAMILIES["aimv2"]}[package].values
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 9,
    }
    text |= {"max_position_embeddings": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = getattr(configuration, f"{prefix}Config")(vision_config=vision, text_config=text)
    model = getattr(modeling, f"{prefix}Model")(config).eval()
    enlarge(model)
    model.save_pretrained(place)
    write_preprocessing(place)
    return model


@pytest.mark.parametrize(("package", "prefix"), [("siglip", "Siglip"), ("aimv2", "Aimv2")])
def test_of_two_towers_the_vision_tower_is_taken(package: str, prefix: str, tmp_path: Path) -> None:
    model = two_towers(package, prefix, tmp_path / "both")
    frames = frames_of(32, 32)
    backbone = Backbone.load(tmp_path / "both", "cpu")
    assert relative_error(backbone(frames), FAMILIES[package].reference(model.vision_model, frames)) < 1e-5

    model.vision_model.save_pretrained(tmp_path / "tower")
    write_preprocessing(tmp_path / "tower")
    assert read_facts(str(tmp_path / "tower")).content_hash == backbone.content_hash

    weights = load_file(tmp_path / "both" / "model.safetensors")
    gone = next(name for name in weights if name.startswith("vision_model.encoder"))
    save_file({key: value for key, value in weights.items() if key != gone}, tmp_path / "both" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing parameters \(1\): encoder"):
        Backbone.load(tmp_path / "both", "cpu")
    save_file({**weights, "vision_model.junk": torch.zeros(1)}, tmp_path / "both" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected parameters \(1\): .*junk"):
        Backbone.load(tmp_path / "both", "cpu")


def test_of_a_pretrained_mae_the_encoder_is_taken(tmp_path: Path) -> None:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    small = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 1}
    model = ViTMAEForPreTraining(ViTMAEConfig(**{**FAMILIES["mae"].values, **small, "mask_ratio": 0.75})).eval()
    enlarge(model)
    model.save_pretrained(tmp_path)
    write_preprocessing(tmp_path)
    model.vit.config.mask_ratio = 0.0
    frames = frames_of(32, 32)
    assert relative_error(Backbone.load(tmp_path, "cpu")(frames), FAMILIES["mae"].reference(model.vit, frames)) < 1e-5


def test_positions_of_one_grid_that_the_library_does_not_interpolate_bind_the_size(
    models: dict[str, tuple[Path, Any]],
) -> None:
    facts = read_facts(str(models["aimv2"][0]))
    assert facts.grid(32, 32) == (4, 4)
    with pytest.raises(ConfigError, match="frames are 24 x 56 pixels.* has positions for 32 x 32 only"):
        facts.grid(24, 56)


@pytest.mark.parametrize(
    ("changes", "scale", "mean", "std"),
    [
        ({"do_normalize": False}, RESCALE, [0.0] * 3, [1.0] * 3),
        ({"do_rescale": False}, 1.0, MEAN, STD),
        ({"rescale_factor": 0.5}, 0.5, MEAN, STD),
    ],
)
def test_pixels_are_normalised_as_the_folder_says(
    changes: dict[str, Any],
    scale: float,
    mean: list[float],
    std: list[float],
    models: dict[str, tuple[Path, Any]],
    tmp_path: Path,
) -> None:
    source, model = models["ijepa"]
    folder = Path(shutil.copytree(source, tmp_path / "copy"))
    content = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**content, **changes}))
    frames = frames_of(32, 32)
    pixels = (frames.float() * scale - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state
    backbone = Backbone.load(folder, "cpu")
    assert relative_error(backbone(frames), expected) < 1e-5
    assert backbone.content_hash != read_facts(str(source)).content_hash


def test_what_an_image_processor_does_not_mention_is_its_default(
    models: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models["mae"][0], tmp_path / "copy"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    assert read_facts(str(folder)).content_hash == read_facts(str(models["mae"][0])).content_hash


def changed(source: Path, folder: Path, **values: Any) -> str:
    """Return a copy of a folder whose config.json says something else."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **values}))
    return str(folder)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("siglip", {"model_type": "siglip2"}, r"is a NaFlex model .*; take a SigLIP 2 of fixed size, such as google/"),
        ("siglip", {"model_type": "siglip2_vision_model"}, "is a NaFlex model"),
        ("aimv2", {"model_type": "aimv2"}, "has no vision_config: it is a version for code of its own, which is never"),
        ("radio", {"model_type": "", "auto_map": {"AutoModel": "x.Y"}}, "code of its own .* which is never run"),
        ("dinov2", {"patch_size": [8, 16]}, r"patch_size is \[8, 16\] in config.json; expected one whole number"),
        ("dinov2", {"num_hidden_layers": 4}, r"missing parameters \(\d+\): encoder.layer.3"),
        ("ijepa", {"hidden_size": 64}, "mismatched parameters"),
    ],
)
def test_what_cannot_be_done_right_is_refused(
    models: dict[str, tuple[Path, Any]],
    tmp_path: Path,
    name: str,
    values: dict[str, Any],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = changed(models[name][0], tmp_path / "copy", **values)
    with pytest.raises(CheckpointError, match=message) as raised:
        Backbone.load(folder, "cpu")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_network_that_drops_patches_is_refused_by_what_came(models: dict[str, tuple[Path, Any]]) -> None:
    family, folder = find(str(models["mae"][0]))
    backbone = Backbone(family, folder, "mine", torch.float32)
    backbone.network.model.config.mask_ratio = 0.5
    message = r"made \(1, 8, 32\) of 1 frames of 32 x 32 pixels; expected \(1, 16, 32\): 4 x 4 patches .*behind 1 other"
    with pytest.raises(CheckpointError, match=message):
        backbone(frames_of(32, 32, 1))


# --- what a name says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dim", "patch", "depth"),
    [
        ("facebook/dinov2-base", 768, 14, 12),
        ("facebook/dinov2-base?layers=8,11", 1536, 14, 11),
        ("facebook/dinov2-with-registers-giant", 1536, 14, 40),
        ("facebook/dinov3-convnext-large-pretrain-lvd1689m", 1536, 32, 1),
        ("google/siglip2-so400m-patch16-384", 1152, 16, 27),
        ("google/siglip-base-patch16-224", 768, 16, 12),
        ("facebook/vit-mae-huge", 1280, 14, 32),
        ("facebook/ijepa_vitg16_22k", 1408, 16, 40),
        ("apple/aimv2-large-patch14-224", 1024, 14, 24),
        ("nvidia/C-RADIOv4-H", 1280, 16, 32),
    ],
)
def test_a_published_name_tells_the_sizes(name: str, dim: int, patch: int, depth: int) -> None:
    outline = outline_of(name)
    assert (outline.dim, outline.patch_size, outline.depth) == (dim, patch, depth)
    assert outline_of(name) == outline or depth == 1


def matrix_products(width: int, depth: int, tokens: int, patches: int, patch: int, hidden: int) -> int:
    """Return the FLOPs of a vision transformer, reckoned by hand."""
    block = tokens * (8 * width**2 + 4 * tokens * width + 4 * width * hidden)
    return 2 * patches * 3 * patch**2 * width + depth * block


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("facebook/dinov2-base", 518, matrix_products(768, 12, 1370, 1369, 14, 3072)),
        ("facebook/dinov2-base?layers=6", 518, matrix_products(768, 6, 1370, 1369, 14, 3072)),
        ("google/siglip-large-patch16-384", 384, matrix_products(1024, 24, 576, 576, 16, 4096)),
        ("facebook/vit-mae-base", 224, matrix_products(768, 12, 197, 196, 16, 3072)),
        ("facebook/ijepa_vith14_1k", 224, matrix_products(1280, 32, 256, 256, 14, 5120)),
        ("nvidia/C-RADIOv4-H", 512, matrix_products(1280, 32, 1034, 1024, 16, 5120)),
    ],
)
def test_the_work_of_a_published_name_is_counted(name: str, size: int, expected: int) -> None:
    assert NetworkSizes(FrameSize.of(size), outline_of(name)).backbone_flops() == pytest.approx(expected, rel=1e-3)


def test_a_folder_tells_its_sizes(models: dict[str, tuple[Path, Any]]) -> None:
    for name, tiny in FAMILIES.items():
        outline = outline_of(str(models[name][0]))
        assert (outline.dim, outline.patch_size) == (WIDTH, tiny.patch)
        assert NetworkSizes(FrameSize.of(tiny.patch * 4), outline).backbone_flops() > 0


def test_facts_import_no_network(models: dict[str, tuple[Path, Any]]) -> None:
    code = (
        "import sys; from deltactl.featurize.backbones.known import read_facts\n"
        "for folder in sys.argv[1:]: read_facts(folder)\n"
        "wrong = [name for name in sys.modules if name == 'transformers.modeling_utils' or '.modeling_' in name]\n"
        "wrong = [name for name in wrong if name.split('.modeling_')[-1] not in ('auto', 'rope_utils')]\n"
        "sys.exit(', '.join(wrong) if wrong else 0)"
    )
    folders = [str(folder) for folder, _ in models.values()]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_plan_counts_the_backbone_that_is_named(
    capsys: pytest.CaptureFixture[str], models: dict[str, tuple[Path, Any]]
) -> None:
    call = caller(capsys)

    def written(name: str) -> str:
        """What a plan says of the features at 224 px, which their patches and width make."""
        of_the_backbone = ("--backbone", name, "--size", "224")
        code, out, error = call("plan", "--recipe", "published", *of_the_backbone, "--table", "markdown")
        assert code == 0, error
        return next(line for line in out.splitlines() if "featurize 224" in line)

    lines = [written(name) for name in ("facebook/dinov2-base", "facebook/dinov2-large", str(models["dinov2"][0]))]
    assert len(set(lines)) == 3
    assert written("facebook/dinov2-base?layers=12") == lines[0]
    code, _, error = call("plan", "--backbone", "nobody/nothing")
    assert code == 1
    assert "nothing is known of the size of --backbone nobody/nothing; name a published model" in error
