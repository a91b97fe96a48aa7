"""Presets train on the devices that there may be; the demo, as far as a CPU can tell, on a machine with two GPUs."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deltactl.configs.head import HeadConfig
from deltactl.configs.load import load_preset, preset_names, resolve
from deltactl.configs.tokenizer import TokenizerConfig
from deltactl.configs.training import TrainingConfig
from deltactl.configs.world import WorldConfig

MODELS: dict[str, type[TrainingConfig]] = {"tokenizer": TokenizerConfig, "world": WorldConfig, "head": HeadConfig}
PRESETS = [name for name in preset_names() if load_preset(name).stage in MODELS]
PAGES = [Path(__file__).parents[2] / "docs" / f"{name}.md" for name in ("scaling", "reproduce")]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_on_any_machine(preset: str) -> None:
    """On 1, 2, 4 or 8 GPUs by itself, since `devices: auto` takes all there are; else it says how many it takes."""
    config = resolve(MODELS[load_preset(preset).stage], config=preset)
    devices = config.trainer.devices
    for count in (1, 2, 4, 8) if devices == "auto" else (devices,):
        assert isinstance(count, int)
        batch, accumulate = config.batches(count)
        assert batch * count * accumulate == config.effective_batch


def training_lines() -> list[list[str]]:
    """Return the words of every training that the pages start on several devices."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if "deltactl train" in line and "trainer.devices=" in line and not line.startswith("#"):
                    found.append(shlex.split(line.split("deltactl train", 1)[1], comments=True))
    return found


def test_the_pages_lines_for_several_devices_add_up() -> None:
    lines = training_lines()
    assert len(lines) >= 4
    for words in lines:
        given = dict(itertools.pairwise(words))
        sets = [following for word, following in itertools.pairwise(words) if word == "--set"]
        config = resolve(MODELS[words[0]], config=given.get("--config", "deltaworld"), assignments=sets)
        assert isinstance(config.trainer.devices, int)
        processes = config.trainer.devices * config.trainer.num_nodes
        batch, accumulate = config.batches(processes)
        assert batch * processes * accumulate == config.effective_batch


@pytest.mark.slow
def test_the_demo_gets_past_its_settings_on_a_machine_with_two_gpus(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "helpers" / "demo_on_two_gpus.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    words = [sys.executable, str(script), str(tmp_path / "demo")]
    process = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    commands = json.loads((tmp_path / "demo" / "commands.json").read_text())
    trainings = [each for each in commands if each["command"] == "train"]
    assert [each["stage"] for each in trainings] == ["tokenizer", "rgb", "world", "head", "head"]
    for training in trainings:
        assert training["strategy"] == "SingleDeviceStrategy"
        assert training["device"] == "cuda:0"
        assert training["precision"] == "bf16-mixed"
        assert training["batch"] * training["devices"] * training["accumulate"] == training["effective"]
        assert not training["compiled"]
    assert [each["processes"] for each in commands if each["command"] == "eval"] == [2, 2]
    assert [each["device"] for each in commands if each["command"] == "predict"] == ["cuda:0"]
