"""What `deltactl eval` cannot use costs one line that names it and says what to do, and exit code 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from evaluations import GOLDEN, ROOTS
from safetensors.torch import load_file, save_file

from deltactl.cli import main
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig
from deltactl.train.networks.dinoworld import DinoWorld, DinoWorldConfig
from deltactl.train.networks.heads import LinearHeadConfig, SegmentationHead

BACKBONE = ["--backbone", str(GOLDEN / "backbone")]
TINY = [*BACKBONE, "--size", "64", "--device", "cpu", "--pictures", "0"]


def fails(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Run the command, which must end with one line of error; return that line."""
    assert main(["eval", *options]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert "Traceback" not in "".join(lines)
    return lines[-1]


def vspw(*options: str) -> list[str]:
    return ["--dataset", "vspw", "--root", str(ROOTS["vspw"]), *TINY, *options]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A VSPW tree of one's own to damage."""
    return Path(shutil.copytree(ROOTS["vspw"], tmp_path / "VSPW"))


# --- the data set ----------------------------------------------------------------------------------------------------


def test_a_root_that_is_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "VSPW_ROOT is not set" in fails(capsys, "--dataset", "vspw", *TINY)


def test_a_root_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = fails(capsys, "--dataset", "cityscapes", "--root", str(tmp_path / "nowhere"), *TINY)
    assert "nowhere" in line
    assert "leftImg8bit_sequence" in line


def test_a_split_that_is_not_named_says_where_it_is_to_be_had(capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "--dataset", "kitti", "--root", str(ROOTS["kitti"]), *TINY)
    assert "--split-file" in line
    assert "697" in line
    assert "eigen_test_files_with_gt.txt" in line


def test_a_split_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.txt")
    line = fails(capsys, "--dataset", "kitti", "--root", str(ROOTS["kitti"]), "--split-file", absent, *TINY)
    assert absent in line
    assert "eigen_test_files_with_gt.txt" in line


def damage(tree: Path, how: str) -> str:
    """Make one file of the tree unusable; return its name."""
    folder = tree / "data" / "100_clip"
    match how:
        case "a frame is missing":
            path = folder / "origin" / "00000004.jpg"
            path.unlink()
        case "a label is missing":
            path = folder / "mask" / "00000007.png"
            path.unlink()
        case "a frame is cut":
            path = folder / "origin" / "00000004.jpg"
            path.write_bytes(path.read_bytes()[:200])
        case "a label is not a picture":
            path = folder / "mask" / "00000007.png"
            path.write_bytes(b"not a picture")
        case "a label has another size":
            from PIL import Image

            path = folder / "mask" / "00000007.png"
            with Image.open(path) as image:
                smaller = image.resize((image.width - 1, image.height))
            smaller.save(path)
        case _:
            raise ValueError(how)
    return str(path.relative_to(tree))


@pytest.mark.parametrize(
    "how",
    [
        "a frame is missing",
        "a label is missing",
        "a frame is cut",
        "a label is not a picture",
        "a label has another size",
    ],
)
@pytest.mark.parametrize("cache", ["--cache", "--no-cache"])
def test_a_tree_with_unusable_files_is_named_and_counted(
    how: str, cache: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = damage(tree, how)
    line = fails(capsys, "--dataset", "vspw", "--root", str(tree), *TINY, cache)
    assert name in line
    assert "1 of 5" in line
    assert "--max-bad" in line


def test_what_may_be_bad_is_left_out_and_listed(tree: Path, tmp_path: Path) -> None:
    damage(tree, "a label is missing")
    reports = {}
    for cache in ("--cache", "--no-cache"):
        out = tmp_path / cache
        options = ["--dataset", "vspw", "--root", str(tree), *TINY, cache, "--max-bad", "0.5", "--out", str(out)]
        assert main(["eval", *options]) == 0
        reports[cache] = json.loads((out / "metrics.json").read_text())
        (entry,) = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
        assert "mask/00000007.png" in entry["reason"]
    for metrics in reports.values():
        assert (metrics["clips"], metrics["quarantined"]) == (4, 1)


def test_a_mended_tree_is_evaluated_whole_with_retry_failed(tree: Path, tmp_path: Path) -> None:
    mask = tree / "data" / "100_clip" / "mask" / "00000007.png"
    content = mask.read_bytes()
    mask.write_bytes(b"not a picture")
    options = [
        "eval",
        "--dataset",
        "vspw",
        "--root",
        str(tree),
        *TINY,
        "--max-bad",
        "0.5",
        "--out",
        str(tmp_path / "r"),
    ]
    assert main(options) == 0
    mask.write_bytes(content)
    assert main([*options, "--retry-failed"]) == 0
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert (metrics["clips"], metrics["quarantined"]) == (5, 0)


# --- weights ---------------------------------------------------------------------------------------------------------


def saved(network: torch.nn.Module, path: Path) -> str:
    torch.save(network.state_dict(), path)
    return str(path)


def test_a_head_with_other_classes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = fails(capsys, *vspw("--head", str(GOLDEN / "head_cityscapes.bin")))
    assert "head_cityscapes.bin" in line
    assert "Cityscapes" in line
    line = fails(capsys, *vspw("--head", saved(SegmentationHead(LinearHeadConfig(128, 21)), tmp_path / "head.bin")))
    assert "21" in line


def test_networks_for_features_of_another_width(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tokenizer = saved(DeltaTok(DeltaTokConfig(width=64, depth=1)), tmp_path / "tokenizer.bin")
    dinoworld = saved(DinoWorld(DinoWorldConfig(64, 64, 1, 1)), tmp_path / "dinoworld.bin")
    head = saved(SegmentationHead(LinearHeadConfig(64, 124)), tmp_path / "head.bin")
    for option, place in (("--tokenizer", tokenizer), ("--dinoworld", dinoworld), ("--head", head)):
        line = fails(capsys, *vspw(option, place))
        assert f"{option} {place} is for width 64" in line
        assert "makes features of width 128" in line


def test_a_world_model_for_other_tokens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    world = saved(DeltaWorld(DeltaWorldConfig(64, 64, 1, 1)), tmp_path / "world.bin")
    line = fails(capsys, *vspw("--tokenizer", str(GOLDEN / "deltatok.bin"), "--world", world))
    assert f"--world {world} is for width 64" in line
    assert "tokens of width 128" in line
    world = saved(DeltaWorld(DeltaWorldConfig(128, 64, 1, 1, tokens_per_frame=4)), tmp_path / "four.bin")
    line = fails(capsys, *vspw("--tokenizer", str(GOLDEN / "deltatok.bin"), "--world", world))
    assert f"--world {world} is for 4 tokens a frame, but the tokenizer" in line
    assert "deltatok.bin makes 1; name the one that belongs to it" in line


def test_one_kind_of_checkpoint_in_place_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, *vspw("--tokenizer", str(GOLDEN / "deltaworld.bin")))
    assert "deltaworld.bin" in line
    assert "a tokenizer (DeltaTok) was expected here" in line


def test_a_checkpoint_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "absent.bin" in fails(capsys, *vspw("--tokenizer", str(tmp_path / "absent.bin")))


# --- the cache -------------------------------------------------------------------------------------------------------


def test_another_backbone_against_an_existing_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["eval", *vspw()]) == 0
    other = Path(shutil.copytree(GOLDEN / "backbone", tmp_path / "other" / "backbone"))
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, other / "model.safetensors")
    line = fails(capsys, *vspw("--backbone", str(other)))
    assert "features/vspw-val-backbone-64 was made from other inputs: backbone is " in line
    assert "add --no-cache" in line


def test_another_size_against_an_existing_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["eval", *vspw()]) == 0
    shards = tmp_path / "workspace" / "shards"
    (shards / "vspw-val-64").rename(shards / "vspw-val-32")
    line = fails(capsys, *vspw("--size", "32"))
    assert "shards/vspw-val-32 was made from other inputs: size is 64 there, 32 here" in line


def test_a_size_that_the_backbone_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, *vspw("--size", "72"))
    assert "72" in line
    assert "16" in line


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("horizons", "said"),
    [
        ("0", "expected numbers of frames from 1 on, such as 1,3"),
        ("8", "horizon 8 is beyond the 7 frames of a clip; give clips more of them, such as --frames 12"),
        ("1,9", "horizon 9 is beyond the 7 frames of a clip; give clips more of them, such as --frames 13"),
    ],
)
def test_horizons_that_no_clip_has(horizons: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in fails(capsys, *vspw("--horizons", horizons))


def test_horizons_that_are_no_numbers_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *vspw("--horizons", "1;3")]) == 2
    assert "1,3" in capsys.readouterr().err


def test_a_gpu_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "no CUDA GPU here" in fails(capsys, *vspw("--device", "cuda"))
