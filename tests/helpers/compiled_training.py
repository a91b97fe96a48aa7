"""Train a small network plainly and compiled, and print as JSON the losses of both and what the checkpoint names.

    JAXTYPING_DISABLE=1 python tests/helpers/compiled_training.py cpu|cuda FOLDER CASE…

A program of its own, because the tests' check of shapes is a wrapper that torch.compile cannot trace, and because
compilers and kernels warn, which the tests take for an error. On a GPU the settings are what `auto` takes there: bf16,
fused AdamW, gradients clipped where the recipe clips them.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_training import make_features, make_shards, tokenizer_config, world_config

from deltactl.configs.tokenize import TokenizeConfig
from deltactl.configs.training import TrainingConfig
from deltactl.tokenization.run import run as tokenize
from deltactl.train.run import train

TOKENIZER = str(Path(__file__).parents[1] / "golden" / "deltatok.bin")
STILL = {"width": 128, "depth": 1, "layer_scale": 0.1, "rope_augment": False}
"""A tokenizer without random draws, which a compiled network makes in another order."""
BASELINE = {"kind": "dinoworld", "width": 64, "depth": 1, "layer_scale": 0.1}

Case = Callable[[Path, str, Path, dict[str, Any]], TrainingConfig]


def shards(root: Path) -> str:
    place = root / "shards"
    return str(place) if place.exists() else make_shards(place)


def features(root: Path) -> str:
    place = root / "features"
    return str(place) if place.exists() else make_features(shards(root), place)


def tokens(root: Path, device: str) -> str:
    place = root / "tokens"
    if not place.exists():
        config = TokenizeConfig(data=features(root), out=str(place), tokenizer=TOKENIZER, device=device, workers=0)
        tokenize(config)
    return str(place)


CASES: dict[str, Case] = {
    "tokenizer": lambda root, _, out, given: tokenizer_config(features(root), out, network=STILL, **given),
    "tokenizer live": lambda root, _, out, given: tokenizer_config(shards(root), out, network=STILL, **given),
    "world": lambda root, device, out, given: world_config(tokens(root, device), out, **given),
    "world live": lambda root, _, out, given: world_config(shards(root), out, tokenizer=TOKENIZER, **given),
    "baseline": lambda root, _, out, given: world_config(features(root), out, network=BASELINE, **given),
}


def main(device: str, folder: str, *names: str) -> None:
    root = Path(folder)
    os.environ["DELTACTL_HOME"] = str(root / "workspace")
    found = {}
    for name in names:
        torch._dynamo.reset()
        losses = {}
        for compiled in (False, True):
            out = root / f"{name} {compiled}".replace(" ", "-")
            trainer = {"accelerator": device, "devices": 1}
            given = {"steps": 4, "log_every": 1, "validate_every": 2, "compile": compiled, "trainer": trainer}
            train(CASES[name](root, device, out, given), name)
            with (out / "metrics.csv").open() as file:
                rows = list(csv.DictReader(file))
            losses["compiled" if compiled else "plain"] = [
                float(row["train/loss"]) for row in rows if row["train/loss"]
            ]
        state = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        found[name] = {**losses, "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"], "names": list(state)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
