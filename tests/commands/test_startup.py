"""The command line starts fast: help loads nothing heavy and costs little more than click and rich.

The pages of commands that take a configuration are made of its fields, so that they load pydantic, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from deltactl.cli import program

HEAVY = (
    *(
        "torch",
        "numpy",
        "av",
        "cv2",
        "nvidia",
        "transformers",
        "lightning",
        "torchmetrics",
        "matplotlib",
        "safetensors",
    ),
    *(
        "zarr",
        "tensorstore",
        "webdataset",
        "fsspec",
        "s3fs",
        "wandb",
        "ray",
        "huggingface_hub",
        "yaml",
        "detect_secrets",
    ),
)
CONFIGURED = ("ingest", "featurize", "tokenize", "train", "eval", "predict", "surprise", "verify", "curate", "probe")
LARGEST_RATIO = 2.5
LARGEST_RATIO_CONFIGURED = 6.0
"""Where pydantic is loaded, which alone is 2."""
ROUNDS = 9


def all_help_pages() -> list[list[str]]:
    """Return the words of every `--help` there is."""

    def walk(command: click.Command, words: list[str]) -> list[list[str]]:
        pages = [[*words, "--help"]]
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                pages += walk(inner, [*words, name])
        return pages

    return walk(program, [])


def seconds(code: str, folder: Path) -> float:
    """Return how long a fresh interpreter takes to run the code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=folder, env=_environment())
    return time.perf_counter() - start


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}


@pytest.mark.parametrize(
    ("words", "largest"), [(["--help"], LARGEST_RATIO), (["eval", "--help"], LARGEST_RATIO_CONFIGURED)]
)
def test_help_costs_at_most_a_few_times_click_and_rich(words: list[str], largest: float, tmp_path: Path) -> None:
    ours = f"import sys; from deltactl.cli import main; sys.exit(main({words!r}))"
    # In turns, and the least of each, so that whatever else the machine does falls on both.
    times = [(seconds(ours, tmp_path), seconds("import click, rich", tmp_path)) for _ in range(ROUNDS)]
    ratio = min(first for first, _ in times) / min(second for _, second in times)
    assert ratio <= largest, f"deltactl {' '.join(words)} costs {ratio:.2f} × the import of click and rich"


@pytest.mark.parametrize("words", [["--version"], *all_help_pages()], ids=" ".join)
def test_help_and_version_load_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    heavy = HEAVY if words[0] in CONFIGURED else (*HEAVY, "pydantic")
    code = (
        "import sys\n"
        "from deltactl.cli import main\n"
        f"code = main({words!r})\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "sys.exit(code or (f'loaded: {loaded}' if loaded else 0))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=_environment(), check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
