"""Checkpoints: every form is read, sizes and switches come from the weights, and what cannot be right is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltactl.errors import CheckpointError
from deltactl.train.checkpoints.headers import header_of
from deltactl.train.checkpoints.loading import load, network_hash, read
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import WORLD, DeltaWorldConfig
from deltactl.train.networks.dinoworld import DINOWORLD, DinoWorldConfig
from deltactl.train.networks.heads import LinearHeadConfig, SegmentationHead
from deltactl.train.networks.kinds import Kind
from deltactl.train.networks.known_kinds import head_of
from deltactl.train.networks.rgb_head import RGB, RGBHeadConfig

VSPW, CITYSCAPES, KITTI = (head_of(name) for name in ("vspw", "cityscapes", "kitti"))
GOLDEN: dict[str, tuple[Kind[Any], Any]] = {
    "deltatok": (TOKENIZER, DeltaTokConfig(width=128, depth=2)),
    "deltaworld": (WORLD, DeltaWorldConfig(token_dim=128, width=128, depth=2, heads=2)),
    "dinoworld": (DINOWORLD, DinoWorldConfig(feature_dim=128, width=128, depth=2, heads=2)),
    "head_vspw": (VSPW, LinearHeadConfig(128, 124)),
    "head_cityscapes": (CITYSCAPES, LinearHeadConfig(128, 19)),
    "head_kitti": (KITTI, LinearHeadConfig(128, 256)),
    "head_rgb": (RGB, RGBHeadConfig(dim=128, width=64, depth=2, heads=4, mlp_width=96, grid=4, patch_size=16)),
}


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture
def state(golden: Path) -> dict[str, Tensor]:
    """The golden tokenizer's weights, to be put into other forms."""
    return torch.load(golden / "deltatok.bin", weights_only=True)


def refused(place: Path, message: str) -> str:
    """Return the one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError, match=message) as raised:
        read(place)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- what it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_kind_and_sizes_come_from_the_weights(golden: Path, name: str) -> None:
    info = read(golden / f"{name}.bin")
    assert (info.kind, info.config) == GOLDEN[name]
    assert info.dtypes == ("float32",)
    assert info.contents.container == "state dict"
    assert info.differences


@pytest.mark.parametrize("name", GOLDEN)
def test_a_loaded_network_holds_the_weights_and_is_in_eval_mode(golden: Path, name: str) -> None:
    path = golden / f"{name}.bin"
    network = load(path, GOLDEN[name][0])
    assert equal(dict(network.state_dict()), dict(torch.load(path, weights_only=True)))
    assert not any(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert read(path).parameters == sum(parameter.numel() for parameter in network.parameters())
    assert network_hash(network) == read(path).content_hash


def test_the_loaded_tokenizer_computes_the_golden_tokens(golden: Path) -> None:
    cases = load_file(golden / "cases.safetensors")
    with torch.no_grad():
        tokens = load(golden / "deltatok.bin", TOKENIZER).encode(
            cases["features"][:, 0], cases["features"][:, 1], (4, 4)
        )
    torch.testing.assert_close(tokens, cases["encode.z"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "millions"), [(TOKENIZER, 170.4), (WORLD, 85.7), (DINOWORLD, 85.7)])
def test_the_published_sizes_have_the_published_parameter_counts(kind: Kind[Any], millions: float) -> None:
    network = kind.empty(kind.default)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_how_a_network_is_not_the_published_one_is_said() -> None:
    published = DeltaTokConfig()
    assert TOKENIZER.differences(published) == ()
    assert TOKENIZER.differences(replace(published, rope_augment=False)) == ()
    assert TOKENIZER.differences(replace(published, depth=6, delta=False)) == (
        "depth 6 (published: 12)",
        "delta False (published: True)",
    )


@pytest.mark.parametrize("off", [(), ("qk_norm",), ("gated_attention",), ("swiglu",), ("qk_norm", "swiglu")])
def test_switches_of_the_tokenizer_are_read_from_the_weights(tmp_path: Path, off: tuple[str, ...]) -> None:
    config = DeltaTokConfig(width=64, depth=1, **dict.fromkeys(off, False))
    torch.save(DeltaTok(config).state_dict(), tmp_path / "plain.bin")
    assert read(tmp_path / "plain.bin").config == config


def test_what_weights_do_not_show_comes_from_the_header(tmp_path: Path) -> None:
    network = DeltaTok(DeltaTokConfig(width=64, depth=1, delta=False, rope_augment=False))
    state = network.state_dict()
    header = header_of(network, {"trained_on": "kinetics"})
    torch.save(state, tmp_path / "plain.bin")
    torch.save({"state_dict": state, "deltactl": header}, tmp_path / "wrapped.ckpt")
    save_file(state, tmp_path / "one.safetensors", {"deltactl": json.dumps(header)})
    (tmp_path / "folder").mkdir()
    torch.save(state, tmp_path / "folder" / "pytorch_model.bin")
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"deltactl": header}))

    for place in (tmp_path / "wrapped.ckpt", tmp_path / "one.safetensors", tmp_path / "folder"):
        assert load(place, TOKENIZER).config == network.config
        assert read(place).provenance == {"trained_on": "kinetics"}
        assert read(place).content_hash == network_hash(network)
    assert load(tmp_path / "plain.bin", TOKENIZER).config == DeltaTokConfig(width=64, depth=1)
    assert read(tmp_path / "plain.bin").content_hash != network_hash(network)


def test_the_heads_of_an_rgb_head_come_from_the_header(tmp_path: Path) -> None:
    config = RGBHeadConfig(dim=64, width=64, depth=1, heads=8, mlp_width=64, grid=2)
    network = RGB.build(config)
    torch.save({"state_dict": network.state_dict(), "deltactl": header_of(network)}, tmp_path / "head.bin")
    assert load(tmp_path / "head.bin", RGB).config == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "world"}, "header says 'world', its weights are those of a tokenizer"),
        ({"format": 2}, "format 2, this version reads 1; install a newer deltactl"),
        ({"config": {"depth": 3}}, "header says depth = 3, its weights 2"),
        ({"config": {"delta": "no"}}, "delta = 'no', of the wrong type"),
        ({"config": None}, "header is damaged"),
    ],
)
def test_a_header_that_contradicts_the_weights_is_refused(
    tmp_path: Path, state: dict[str, Tensor], change: dict[str, object], message: str
) -> None:
    header = {"format": 1, "kind": "tokenizer", "config": {}, **change}
    torch.save({"state_dict": state, "deltactl": header}, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", message)


def test_another_programs_config_json_is_ignored(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "something", "depth": 99}))
    assert read(tmp_path).config == GOLDEN["deltatok"][1]


# --- the forms it comes in -------------------------------------------------------------------------------------------


def test_the_same_weights_in_any_form_load_alike(tmp_path: Path, state: dict[str, Tensor]) -> None:
    compiled = {f"network._orig_mod.{name}": tensor for name, tensor in state.items()}
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    forms: dict[str, object] = {
        "bare.bin": state,
        "ordered.bin": OrderedDict(state),
        "wrapped.bin": {"state_dict": state},
        "compiled.ckpt": {"state_dict": compiled, "epoch": 3, "global_step": 500, "optimizer_states": [{"a": [1.0]}]},
        "parallel.ckpt": {"state_dict": parallel},
    }
    for name, content in forms.items():
        torch.save(content, tmp_path / name)
    save_file(state, tmp_path / "foreign.safetensors")
    hashes = set()
    for name in [*forms, "foreign.safetensors"]:
        assert equal(dict(load(tmp_path / name, TOKENIZER).state_dict()), state), name
        hashes.add(read(tmp_path / name).content_hash)
    assert len(hashes) == 1
    assert read(tmp_path / "compiled.ckpt").contents.progress == {"epoch": 3, "step": 500}


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_lightnings_trainer_loads(tmp_path: Path) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = DeltaTok(DeltaTokConfig(width=64, depth=1, delta=False))

        def training_step(self, batch: Tensor, number: int) -> Tensor:
            return (self.network(batch, batch, (2, 2)) - batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["deltactl"] = header_of(self.network)

    module = Module()
    trainer = lightning.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.randn(4, 4, 64), batch_size=2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    info = read(tmp_path / "last.ckpt")
    assert info.contents.container == "training checkpoint (Lightning)"
    assert info.contents.progress["step"] == 2
    assert info.config == module.network.config
    assert equal(dict(load(tmp_path / "last.ckpt", TOKENIZER).state_dict()), dict(module.network.state_dict()))


def test_half_precision_weights_load_as_float32(tmp_path: Path, state: dict[str, Tensor]) -> None:
    half = {name: tensor.bfloat16() for name, tensor in state.items()}
    torch.save(half, tmp_path / "half.bin")
    torch.save({name: tensor.float() for name, tensor in half.items()}, tmp_path / "same.bin")
    network = load(tmp_path / "half.bin", TOKENIZER)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert equal(dict(network.state_dict()), {name: tensor.float() for name, tensor in half.items()})
    assert read(tmp_path / "half.bin").dtypes == ("bfloat16",)
    assert read(tmp_path / "half.bin").content_hash == read(tmp_path / "same.bin").content_hash


def test_a_run_stands_for_its_best_then_last_then_newest_checkpoint(tmp_path: Path, state: dict[str, Tensor]) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    refused(tmp_path / "run", "holds no checkpoint")
    for age, name in enumerate(["step=100.ckpt", "step=20.ckpt", "last.ckpt", "best.ckpt"]):
        torch.save({"state_dict": state}, folder / name)
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    for expected in ("best.ckpt", "last.ckpt", "step=100.ckpt", "step=20.ckpt"):
        assert Path(read(tmp_path / "run").source).name == expected
        assert Path(read(folder).source).name == expected
        (folder / expected).unlink()


def test_a_hub_name_stands_for_the_file_in_its_repository(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetched(name: str, files: Sequence[str]) -> Path:
        asked.append((name, tuple(files)))
        return tmp_path

    monkeypatch.setattr("deltactl.train.checkpoints.files.hub_folder", fetched)
    shutil.copy(golden / "deltatok.bin", tmp_path / "pytorch_model.bin")
    assert read("Amazon-FAR/deltatok-kinetics").kind.name == "tokenizer"
    name = "Amazon-FAR/deltatok-kinetics"
    wanted = [(name, (file, "config.json")) for file in ("model.safetensors", "pytorch_model.bin")]
    assert asked == wanted  # the second only where there is no first


def test_a_checkpoint_in_an_object_store_loads(golden: Path) -> None:
    fsspec.filesystem("memory").pipe("/bucket/run/checkpoints/last.ckpt", (golden / "deltatok.bin").read_bytes())
    assert read("memory://bucket/run").content_hash == read(golden / "deltatok.bin").content_hash
    assert read("memory://bucket/run/checkpoints/last.ckpt").kind.name == "tokenizer"
    with pytest.raises(CheckpointError, match="memory://bucket/absent does not exist"):
        read("memory://bucket/absent")


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_the_wrong_kind_is_named(golden: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"deltaworld.bin is a world model.*; a tokenizer \(DeltaTok\) was expected"
    ):
        load(golden / "deltaworld.bin", TOKENIZER)
    with pytest.raises(CheckpointError, match=r"is a world model \(DINO-world\); a world model \(DeltaWorld\)"):
        load(golden / "dinoworld.bin", WORLD)
    with pytest.raises(CheckpointError, match="is a segmentation head for Cityscapes; a segmentation head for VSPW"):
        load(golden / "head_cityscapes.bin", VSPW)
    refused(golden / "backbone" / "model.safetensors", "holds a backbone's weights; name its folder")
    refused(golden / "backbone", "holds a backbone's weights; name its folder")
    refused(golden / "cases.safetensors", "the weights of no network here")


def test_missing_left_over_and_misshapen_parameters_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    del state["norm.bias"]
    state["junk.weight"] = torch.zeros(1)
    state["norm.weight"] = torch.zeros(3)
    state["xy_embed.weight"] = torch.zeros(2, 128, dtype=torch.int64)
    torch.save(state, tmp_path / "a.bin")
    message = refused(tmp_path / "a.bin", "does not fit the tokenizer")
    assert "missing (1): norm.bias" in message
    assert "left over (1): junk.weight" in message
    assert "misshapen (2): xy_embed.weight is (2, 128) of int64, expected (2, 128)" in message
    assert "norm.weight is (3,), expected (128,)" in message


def test_long_lists_of_parameters_are_counted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    kept = {name: tensor for name, tensor in state.items() if "mlp" not in name}
    torch.save(kept, tmp_path / "a.bin")
    refused(tmp_path / "a.bin", r"missing \(16\): encoder_blocks.0.mlp.up_proj.weight, .*, .* and 13 more")


def test_other_sizes_than_a_network_can_have_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({**state, "z_embed.weight": torch.zeros(1, 100)}, tmp_path / "width.bin")
    refused(tmp_path / "width.bin", "width is 100, expected a positive multiple of 64")
    torch.save({**state, "z_embed.weight": torch.zeros(100)}, tmp_path / "axes.bin")
    refused(tmp_path / "axes.bin", r"z_embed.weight has shape \(100,\), expected 2 axes")
    gap = {name.replace("encoder_blocks.1.", "encoder_blocks.7."): tensor for name, tensor in state.items()}
    torch.save(gap, tmp_path / "gap.bin")
    refused(tmp_path / "gap.bin", "holds 2 blocks named encoder_blocks.N, the last of them 7")
    torch.save(SegmentationHead(LinearHeadConfig(64, 21)).state_dict(), tmp_path / "head.bin")
    refused(tmp_path / "head.bin", r"head with 21 outputs; expected 124 \(segmentation head for VSPW\)")
    del state["z_embed.weight"]
    torch.save(state, tmp_path / "none.bin")
    refused(tmp_path / "none.bin", "lacks z_embed.weight, from which a size is read")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_of_a_training_that_diverged_do_not_load(
    tmp_path: Path, state: dict[str, Tensor], value: float
) -> None:
    state["norm.weight"][7] = value
    torch.save(state, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match="norm.weight holds NaN or infinite values: .* earlier checkpoint"):
        load(tmp_path / "a.bin", TOKENIZER)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds an empty mapping"),
        ([1, 2], "holds a list; expected a state dict"),
        (torch.zeros(3), "holds a Tensor; expected a state dict"),
        ({"state_dict": {}}, "holds an empty mapping"),
        ({"epoch": 3}, "holds int under 'epoch'; expected names and tensors only"),
        ({3: torch.zeros(1)}, "holds Tensor under '3'"),
        ({"network.a": torch.zeros(1), "network._orig_mod.a": torch.zeros(1)}, "holds a parameter twice"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "a is a torch.sparse_coo tensor"),
    ],
)
def test_files_of_torch_that_hold_no_weights_are_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.bin")
    refused(tmp_path / "a.bin", message)


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path, golden: Path) -> None:
    (tmp_path / "empty.bin").touch()
    refused(tmp_path / "empty.bin", "is empty")
    (tmp_path / "text.ckpt").write_text("these are not weights, they are words\n" * 9)
    refused(tmp_path / "text.ckpt", "is not a checkpoint, or damaged; expected a state dict saved by torch")
    refused(golden / "eval.json", "is not a checkpoint, or damaged")
    refused(tmp_path / "absent.ckpt", "absent.ckpt does not exist; expected a file, a run")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "is an empty folder")
    (tmp_path / "folder" / "notes.txt").touch()
    refused(tmp_path / "folder", "holds no checkpoint")


# --- hostile and damaged files ---------------------------------------------------------------------------------------


class Exploit:
    """Unpickled, it would make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.file}",))


@pytest.mark.parametrize("container", ["zip", "legacy", "pickle"])
def test_a_checkpoint_that_carries_code_is_refused_and_nothing_runs(
    tmp_path: Path, state: dict[str, Tensor], container: str
) -> None:
    ran, path = tmp_path / "it-ran", tmp_path / "a.ckpt"
    content: object = {"state_dict": state, "extra": Exploit(ran)}
    if container == "pickle":
        path.write_bytes(pickle.dumps(Exploit(ran)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    reason = "is a pickle that was not written by torch" if container == "pickle" else r"carries code \(posix.system\)"
    message = refused(path, f"{reason}.* could run .*when it is loaded, so it is refused")
    assert "weights_only" not in message
    assert not ran.exists()


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({**state, "z_embed.weight": torch.zeros(1).expand(1, 10**13)}, tmp_path / "a.bin")
    refused(tmp_path / "a.bin", r"z_embed.weight claims shape \(1, 10000000000000\) but holds 4 bytes only")
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**13], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    refused(tmp_path / "b.safetensors", "is not whole safetensors")
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**13], "data_offsets": [0, 4 * 10**13]}}).encode()
    (tmp_path / "c.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    refused(tmp_path / "c.safetensors", "is not whole safetensors")
    (tmp_path / "d.safetensors").write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}")
    refused(tmp_path / "d.safetensors", "is not whole safetensors")


def write_head(golden: Path, tmp_path: Path, form: str) -> tuple[Path, dict[str, Tensor]]:
    """Return a small checkpoint that carries checksums, and its weights."""
    network = load(golden / "head_cityscapes.bin", CITYSCAPES)
    state = dict(network.state_dict())
    path = tmp_path / f"head.{form}"
    if form == "safetensors":
        header = {**header_of(network), "content_hash": network_hash(network)}
        save_file(state, path, {"deltactl": json.dumps(header)})
    else:
        torch.save(state, path)
    return path, state


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_a_cut_checkpoint_is_refused(golden: Path, tmp_path: Path, form: str) -> None:
    path, _ = write_head(golden, tmp_path, form)
    whole = path.read_bytes()
    for length in {1, 8, 9, 40, len(whole) // 3, len(whole) // 2, len(whole) - 1000, len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path, "cut off|not whole|not a checkpoint")


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_a_flipped_byte_never_makes_another_network(golden: Path, tmp_path: Path, form: str) -> None:
    path, state = write_head(golden, tmp_path, form)
    whole = path.read_bytes()
    refusals = 0
    for position in [*range(0, 700, 9), *range(700, len(whole), 101), *range(len(whole) - 200, len(whole), 7)]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x21
        path.write_bytes(damaged)
        try:
            loaded = load(path, CITYSCAPES).state_dict()
        except CheckpointError as error:
            assert "\n" not in str(error)
            refusals += 1
        else:
            # Padding, dates and the like may change; weights may not.
            assert equal({name: loaded[name] for name in state}, state), position
    assert refusals > 100


def test_configs_are_plain_values_in_a_header() -> None:
    for name in GOLDEN:
        kind, config = GOLDEN[name]
        assert json.loads(json.dumps(header_of(kind.empty(config))))["config"] == kind.said(config)
