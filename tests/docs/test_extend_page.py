"""The page on extending: its code is that of the toy package, and its commands run with the package installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks
from plugins import TOYS

PAGE = ROOT / "docs" / "extend.md"


def test_code_on_the_page_is_that_of_the_toy_package() -> None:
    text = PAGE.read_text()
    files = re.findall(r"The whole of `(\w+\.py)`:", text)
    assert files == ["toy_blocks.py", "toy_backbone.py", "toy_head.py", "toy_loss.py"]
    for name, block in zip(files, blocks(PAGE, "python"), strict=True):
        assert block == (TOYS / name).read_text(), f"{name} on the page is not that in tests/toy_package"
    assert f"```toml\n{(TOYS / 'pyproject.toml').read_text()}```" in text


@pytest.fixture(scope="module")
def folder(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands of the page were given, in their order, each by a process of its own."""
    folder = tmp_path_factory.mktemp("extend")
    lines = [line for block in blocks(PAGE, "sh") for line in block.splitlines()]
    script = "\n".join(line for line in lines if not line.startswith("pip install"))  # `toys` is what it installs
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DELTACTL_HOME"},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(toys),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
    }
    words = ["bash", "-euo", "pipefail", "-c", script]
    result = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    assert "kind          backbone (Toy)" in result.stdout
    return folder


def test_a_set_a_backbone_and_a_head_of_the_package_give_figures(folder: Path) -> None:
    (report,) = (folder / "workspace" / "reports").iterdir()
    content = json.loads((report / "metrics.json").read_text())
    assert (content["dataset"], content["clips"], content["quarantined"]) == ("blocks", 6, 0)
    present = next(row["value"] for row in content["rows"] if row["method"] == "present")
    assert present > 60  # guessing the largest class everywhere gives under 20
    assert (folder / "workspace" / "features" / "blocks-val-toy-weights-64").is_dir()


def test_a_loss_of_the_package_trains(folder: Path) -> None:
    config = (folder / "workspace" / "runs" / "tokenizer" / "config.yaml").read_text()
    assert "\nloss: charbonnier\n" in config
