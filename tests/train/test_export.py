"""`deltactl export`: the published format, equal key for key to what came in, and nothing overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from deltactl.cli import main
from deltactl.commands.export import command
from deltactl.errors import CheckpointError, ConfigError
from deltactl.removal import agree
from deltactl.train.checkpoints.export import export
from deltactl.train.checkpoints.headers import header_of
from deltactl.train.checkpoints.loading import load, read
from deltactl.train.networks.deltatok import TOKENIZER, DeltaTok, DeltaTokConfig

FILES = {"README.md", "config.json", "model.safetensors", "pytorch_model.bin"}
GOLDEN = ["deltatok", "deltaworld", "dinoworld", "head_vspw", "head_cityscapes", "head_kitti", "head_rgb"]


def same_bytes(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal in names, order, types, shapes and bits."""
    return list(found) == list(expected) and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
        for name, tensor in expected.items()
    )


def tensors_of(path: Path) -> dict[str, Tensor]:
    return dict(torch.load(path, weights_only=True))


@pytest.mark.parametrize("name", GOLDEN)
def test_what_goes_through_load_and_export_is_equal_key_for_key(golden: Path, tmp_path: Path, name: str) -> None:
    source = golden / f"{name}.bin"
    export(source, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert same_bytes(tensors_of(tmp_path / "out" / "pytorch_model.bin"), tensors_of(source))
    assert all(
        torch.equal(tensor, tensors_of(source)[key])
        for key, tensor in load_file(tmp_path / "out" / "model.safetensors").items()
    )
    for file in ("", "pytorch_model.bin", "model.safetensors"):
        assert read(tmp_path / "out" / file).content_hash == read(source).content_hash


def test_an_export_of_an_export_is_equal_whichever_file_it_starts_from(golden: Path, tmp_path: Path) -> None:
    export(golden / "deltatok.bin", tmp_path / "a")
    for file in ("pytorch_model.bin", "model.safetensors"):
        export(tmp_path / "a" / file, tmp_path / file)
        for name in ("pytorch_model.bin", "model.safetensors", "config.json"):
            assert (tmp_path / file / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_types_and_views_survive(golden: Path, tmp_path: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in tensors_of(golden / "deltatok.bin").items()}
    key = "encoder_blocks.0.attention.k_proj.weight"
    torch.save({**state, key: state[key].T.contiguous().T}, tmp_path / "half.ckpt")
    export(tmp_path / "half.ckpt", tmp_path / "out")
    assert same_bytes(tensors_of(tmp_path / "out" / "pytorch_model.bin"), state)


def test_a_training_checkpoint_becomes_its_network_alone(golden: Path, tmp_path: Path) -> None:
    state = tensors_of(golden / "deltatok.bin")
    training = {f"network._orig_mod.{name}": tensor for name, tensor in state.items()}
    header = header_of(load(golden / "deltatok.bin", TOKENIZER), {"trained_on": "kinetics"})
    content = {"state_dict": training, "global_step": 500, "optimizer_states": [{}], "deltactl": header}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    export(tmp_path / "run", tmp_path / "out")
    assert same_bytes(tensors_of(tmp_path / "out" / "pytorch_model.bin"), state)
    provenance = read(tmp_path / "out").provenance
    assert provenance["trained_on"] == "kinetics"
    assert provenance["step"] == 500
    assert "trained_on" in (tmp_path / "out" / "README.md").read_text()


def test_what_weights_do_not_show_survives_even_when_the_file_is_moved(tmp_path: Path) -> None:
    network = DeltaTok(DeltaTokConfig(width=64, depth=1, delta=False))
    torch.save({"state_dict": network.state_dict(), "deltactl": header_of(network)}, tmp_path / "a.ckpt")
    export(tmp_path / "a.ckpt", tmp_path / "out")
    for name in ("pytorch_model.bin", "model.safetensors"):
        moved = shutil.copy(tmp_path / "out" / name, tmp_path / f"moved-{name}")
        assert load(moved, TOKENIZER).config == network.config
    assert set(tensors_of(tmp_path / "out" / "pytorch_model.bin")) == {"state_dict", "deltactl"}


def test_safetensors_carry_header_and_hash_and_may_be_read_like_the_rest(golden: Path, tmp_path: Path) -> None:
    export(golden / "deltaworld.bin", tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    header = json.loads(metadata["deltactl"])
    assert header["kind"] == "world"
    assert header["content_hash"] == read(golden / "deltaworld.bin").content_hash
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1


def test_the_model_card_says_what_it_is_and_how_to_load_it(golden: Path, tmp_path: Path) -> None:
    export(golden / "deltatok.bin", tmp_path / "tok")
    card = (tmp_path / "tok" / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: "deltactl"\n')
    for text in ("tokenizer (DeltaTok)", "795,952 parameters", "| width | 128 |", "| delta | true |", "2604.04913"):
        assert text in card
    assert read(golden / "deltatok.bin").content_hash in card
    assert "DeltaTok.from_pretrained('tok')" in card
    export(golden / "head_kitti.bin", tmp_path / "head")
    assert "DepthHead.from_pretrained('head')" in (tmp_path / "head" / "README.md").read_text()


def test_nothing_is_overwritten(golden: Path, tmp_path: Path) -> None:
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine.txt").write_text("precious")
    file.write_text("precious")
    with pytest.raises(ConfigError, match=r"full holds 'mine.txt' already; nothing is overwritten"):
        export(golden / "deltatok.bin", full)
    with pytest.raises(ConfigError, match="is a file; nothing is overwritten"):
        export(golden / "deltatok.bin", file)
    export(golden / "deltatok.bin", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"nothing was removed or overwritten: .*README.md .* would be gone"):
        export(golden / "deltaworld.bin", tmp_path / "out")
    assert read(tmp_path / "out").kind.name == "tokenizer"
    assert (full / "mine.txt").read_text() == file.read_text() == "precious"


def test_an_export_that_did_not_end_is_made_again(golden: Path, tmp_path: Path) -> None:
    export(golden / "deltatok.bin", tmp_path / "out")
    (tmp_path / "out" / "config.json").unlink()  # the marker, which is written last
    (tmp_path / "out" / "pytorch_model.bin").write_bytes(b"half of it")
    export(golden / "deltaworld.bin", tmp_path / "out", agree)
    assert read(tmp_path / "out" / "pytorch_model.bin").kind.name == "world"


def test_what_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        export(tmp_path / "a.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_writes_to_an_object_store(golden: Path) -> None:
    export(golden / "head_vspw.bin", "memory://exports/head")
    assert {Path(path).name for path in fsspec.filesystem("memory").ls("/exports/head", detail=False)} == FILES
    assert read("memory://exports/head").kind.name == "vspw"
    with pytest.raises(ConfigError, match="nothing was removed or overwritten"):
        export(golden / "head_vspw.bin", "memory://exports/head")


def test_the_command_writes_and_says_what(golden: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(golden / "deltatok.bin"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{tmp_path / 'out'}: a tokenizer (DeltaTok), 795,952 parameters, from ")


def test_the_command_fails_in_one_line(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "absent.ckpt"), "--out", str(tmp_path / "out")]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"error: checkpoint {tmp_path / 'absent.ckpt'} does not exist; expected a file")
    assert errors.count("\n") == 1
    assert main(["export", str(golden / "deltatok.bin")]) == 2
