"""Evaluations of the tiny trees with the tiny published-format weights, for the tests of `deltactl eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from golden_vectors import awake

from deltactl.configs.evaluate import EvaluateConfig
from deltactl.train.networks.deltatok import DeltaTok, DeltaTokConfig
from deltactl.train.networks.deltaworld import DeltaWorld, DeltaWorldConfig

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden"
TREES = TESTS / "trees"
ROOTS = {"vspw": TREES / "VSPW", "cityscapes": TREES / "cityscapes", "kitti": TREES / "kitti"}
SPLIT_FILE = TREES / "kitti" / "eigen_test.txt"
DATASETS = ("vspw", "cityscapes", "kitti")


def tiny(dataset: str, **changes: Any) -> EvaluateConfig:
    """Return the configuration that evaluates everything there is over a tiny tree, as the golden values were made."""
    values: dict[str, Any] = {
        "dataset": dataset,
        "root": str(ROOTS[dataset]),
        "split_file": str(SPLIT_FILE) if dataset == "kitti" else None,
        "backbone": str(GOLDEN / "backbone"),
        "size": 64,
        "tokenizer": str(GOLDEN / "deltatok.bin"),
        "world": str(GOLDEN / "deltaworld.bin"),
        "dinoworld": str(GOLDEN / "dinoworld.bin"),
        "head": str(GOLDEN / f"head_{dataset}.bin"),
        "samples": 5,
        "device": "cpu",
        "pictures": 0,
    }
    values |= changes
    if values["world"] is None:
        del values["samples"]
    return EvaluateConfig(**values)


def quiet(line: str) -> None:
    """Take what an evaluation says, and say nothing."""


def four_tokens(folder: Path) -> dict[str, str]:
    """Return a tokenizer of four tokens a frame, each 32 wide, and a world model for them, with random weights."""
    tokenizer = awake(DeltaTok(DeltaTokConfig(width=128, depth=1, tokens_per_frame=4, token_dim=32)))
    world = awake(DeltaWorld(DeltaWorldConfig(token_dim=32, width=64, depth=1, heads=1, tokens_per_frame=4)))
    places = {"tokenizer": folder / "four-tokenizer.bin", "world": folder / "four-world.bin"}
    torch.save(tokenizer.state_dict(), places["tokenizer"])
    torch.save(world.state_dict(), places["world"])
    return {name: str(place) for name, place in places.items()}
