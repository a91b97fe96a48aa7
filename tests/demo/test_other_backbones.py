"""The way from videos to futures behind other backbones, as docs/backbones.md has it, with less training."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import jaxtyping
import numpy as np
import pytest
from pages import ROOT, blocks
from programs import caller

from deltactl.featurize.store.reader import TokenStore
from deltactl.train.checkpoints.loading import read

PAGE = ROOT / "docs" / "backbones.md"
MAKES = "make_data("
WALKS = {"": ("dinov2", 8), "v-": ("vjepa2", 8)}
"""By the prefix of what a walk writes: its backbone, and the steps of a clip."""


def walk(prefix: str) -> list[list[str]]:
    """Return the commands of the page's walk whose outputs begin so, each as words, with few steps of training."""
    (block,) = (each for each in blocks(PAGE, "sh") if f"--out {prefix}shards" in each)
    lines = [shlex.split(re.sub(r"--set steps=\d+", "--set steps=4", line)) for line in block.splitlines() if line]
    assert all(words[0] == "deltactl" for words in lines)
    return [words[1:] for words in lines]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of data and backbones that the page's Python makes."""
    folder = tmp_path_factory.mktemp("world")
    (block,) = (each for each in blocks(PAGE, "python") if MAKES in each)
    subprocess.run([sys.executable, "-c", block], cwd=folder, check=True, timeout=280, capture_output=True)
    return folder


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """Leave out the shape checks, which take half as long again in a training of small networks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("prefix", WALKS, ids=[name for name, _ in WALKS.values()])
def test_the_walk_of_the_page(
    prefix: str, world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    call, (backbone, steps) = caller(capsys), WALKS[prefix]
    said = {}
    for words in walk(prefix):
        code, out, error = call(*words)
        assert code == 0, f"deltactl {' '.join(words)}\n{error}"
        said[" ".join(words[:2])] = out + error

    def place(name: str) -> Path:
        return world / f"{prefix}{name}"

    assert read(str(place("tokenizer"))).config.tokens_per_frame == 4
    with TokenStore.open(str(place("tokens"))) as store:
        assert (store.frames, store.tokens_per_frame) == (steps, 4)
        assert store.identity.size.pair == (96, 160)
    metrics = json.loads((place("report") / "metrics.json").read_text())
    methods = {row["method"] for row in metrics["rows"]}
    assert methods >= {"present", "copy_last", "deltatok", "deltaworld"}
    assert all(np.isfinite(row["loss"]) for row in metrics["rows"])
    assert any(row["value"] is not None for row in metrics["rows"])
    assert "not the paper's protocol" in said["eval --dataset"]
    for picture in [place("futures") / "futures.png", *(place("report")).rglob("*.png")]:
        image = cv2.imread(str(picture))
        assert image is not None
        assert image.std() > 1, f"{picture} shows something"
    with np.load(place("futures") / "features.npz") as file:
        assert file["futures"].shape[-2:] == (60, 128)
    assert backbone in json.dumps(json.loads((place("features") / "artifact.json").read_text()))
