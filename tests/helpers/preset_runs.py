"""Networks trained for a step by the demo's presets, by the commands."""

from __future__ import annotations

from pathlib import Path

from deltactl.cli import main

FEW = ("--steps", "1", "--batch-size", "8", "--set", "effective_batch=8", "--set", "wandb=disabled")
"""Settings of a training that have nothing to do with data."""
ON_CPU = ("--device", "cpu")


def train_by_presets(store: str, folder: Path) -> Path:
    """Train a tokenizer on features and a world model on their tokens; return the folder: tokenizer, tokens, world."""
    tokenizer, tokens = str(folder / "tokenizer"), str(folder / "tokens")
    assert main(["train", "tokenizer", store, "--config", "demo-tokenizer", "--out", tokenizer, *FEW]) == 0
    assert main(["tokenize", store, "--tokenizer", tokenizer, "--out", tokens, *ON_CPU]) == 0
    assert main(["train", "world", tokens, "--config", "demo-world", "--out", str(folder / "world"), *FEW]) == 0
    return folder
