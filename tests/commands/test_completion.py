"""The shell completes presets and settings, quickly, for bash, zsh and fish."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deltactl.cli import main
from deltactl.completion import EXAMPLES
from deltactl.configs.load import STAGES, load_preset, preset_names

PROGRAM = Path(sys.executable).with_name("deltactl")
BASH = """
eval "$(_DELTACTL_COMPLETE=bash_source deltactl)"
compopt() { echo "compopt $1 $2"; }
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
_deltactl_completion deltactl
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(*words: str) -> list[str]:
    """Return what bash offers for the last of the words, split as bash splits them, and what it is told (`compopt`)."""
    environment = {**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", BASH, "bash", *words], capture_output=True, text=True, check=True, env=environment
    )
    return [line for line in result.stdout.splitlines() if line]


def candidates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str) -> list[str]:
    """Return what fish is offered for the last word of a line; `file` where that is files."""
    before, _, incomplete = line.rpartition(" ")
    monkeypatch.setenv("_DELTACTL_COMPLETE", "fish_complete")
    monkeypatch.setenv("COMP_WORDS", line if incomplete else f"{before} ")
    monkeypatch.setenv("COMP_CWORD", incomplete)
    assert main() == 0
    lines = [each.partition("\t")[0] for each in capsys.readouterr().out.splitlines() if each]
    return ["file" if kind == "file" else value for kind, _, value in (each.partition(",") for each in lines)]


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("deltactl train tokenizer --config ", "tokenizer"),
        ("deltactl train world data --config ", "world"),
        ("deltactl train head --config ", "head"),
        ("deltactl train rgb --config ", "rgb"),
        ("deltactl train --recipe ", "recipe"),
        ("deltactl plan --gpus 8 --recipe ", "recipe"),
    ],
)
def test_presets_are_those_of_the_command(
    line: str, stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [name for name in preset_names() if load_preset(name).stage == stage]
    assert wanted
    assert candidates(monkeypatch, capsys, line) == wanted
    first = wanted[0]
    assert first in candidates(monkeypatch, capsys, f"{line}{first[:4]}")


def test_config_show_completes_every_name_that_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(candidates(monkeypatch, capsys, "deltactl config show ")) == {*preset_names(), *STAGES, *EXAMPLES}
    assert candidates(monkeypatch, capsys, "deltactl config show pred") == ["predict"]


def test_a_data_set_completes_to_its_name_else_to_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert candidates(monkeypatch, capsys, "deltactl eval --dataset vs") == ["vspw"]
    assert candidates(monkeypatch, capsys, "deltactl eval --dataset ./str") == ["file"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deltactl train world --set quer", ["queries="]),
        ("deltactl train tokenizer --set network.swi", ["network.swiglu="]),
        ("deltactl train tokenizer --set network.swiglu=", ["network.swiglu=true", "network.swiglu=false"]),
        ("deltactl eval --set encoding=", ["encoding=sequential", "encoding=parallel"]),
        ("deltactl eval --set encoding=p", ["encoding=parallel"]),
        ("deltactl predict --set cro", ["crop="]),
        ("deltactl ingest videos --set qual", ["quality="]),
        ("deltactl config show deltaworld --set quer", ["queries="]),
        ("deltactl config show eval --set enco", ["encoding="]),
        ("deltactl train world --set nonsense", ["file"]),
        ("deltactl featurize ", ["file"]),
        ("deltactl ingest --config ", ["file"]),
    ],
)
def test_settings_are_completed_by_name_and_value(
    line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert candidates(monkeypatch, capsys, line) == expected


def test_bash_splits_at_equals_signs_and_puts_no_space_behind_them() -> None:
    assert in_bash("deltactl", "train", "world", "--config", "deltaw") == ["deltaworld", "deltaworld-2-cooldown"]
    assert in_bash("deltactl", "train", "world", "--set", "quer") == ["compopt -o nospace", "queries="]
    assert in_bash("deltactl", "eval", "--set", "encoding", "=", "par") == ["parallel"]
    assert in_bash("deltactl", "eval", "--set", "encoding", "=") == ["sequential", "parallel"]
    assert in_bash("deltactl", "train", "--recipe", "=", "publ") == ["published"]
    assert in_bash("deltactl", "plan", "--recipe", "=") == ["demo", "live-then-tokens", "published"]
    assert in_bash("deltactl", "eval", "--set", "extras", "=", "true", "--set", "encoding", "=", "s") == ["sequential"]
    assert in_bash("deltactl", "info", "feat") == ["compopt -o default"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completing_loads_nothing_heavy(shell: str, tmp_path: Path) -> None:
    line = "deltactl train world --set quer"
    environment = {
        **os.environ,
        "_DELTACTL_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": "quer" if shell == "fish" else "4",
    }
    heavy = ("torch", "numpy", "transformers", "lightning", "matplotlib", "av", "cv2", "zarr", "tensorstore", "ray")
    code = (
        "import sys\nfrom deltactl.cli import main\ncode = main()\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "sys.exit(code or (f'loaded: {loaded}' if loaded else 0))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "queries=" in result.stdout
