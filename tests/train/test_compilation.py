"""Compiling is tried where it can work; else one warning says what to install, and the plain network runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from deltactl.compilation import Compiled, compile_fault, compile_module, is_compiler_failure, warn_plain
from deltactl.gpu_faults import is_out_of_memory

Monkey = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _nothing_told_yet() -> Iterator[None]:
    warn_plain.cache_clear()
    yield
    warn_plain.cache_clear()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: Monkey) -> Path:
    """A machine with Triton, Python's headers and a new card; return its only folder of programs, which is empty."""
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("sysconfig.get_paths", lambda **_: {"include": str(tmp_path / "include")})
    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "triton" else spec(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    return tmp_path / "bin"


def program(file: Path) -> None:
    file.touch()
    file.chmod(0o755)


def test_a_gpu_needs_a_c_compiler_and_a_cpu_a_cpp_compiler(tools: Path, monkeypatch: Monkey) -> None:
    assert compile_fault("cuda") == "there is no C compiler (CC, gcc or clang); install gcc"
    assert compile_fault("cpu") == "there is no C++ compiler (CXX or g++); install g++"
    program(tools / "clang")
    assert compile_fault("cuda") is None
    program(tools / "g++")
    assert compile_fault("cpu") is None
    monkeypatch.setenv("CC", "nowhere-cc -m64")
    assert "no C compiler" in str(compile_fault("cuda"))
    program(tools / "nowhere-cc")
    assert compile_fault("cuda") is None


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_both_need_pythons_headers(tools: Path, device: str) -> None:
    for name in ("gcc", "g++"):
        program(tools / name)
    assert compile_fault(device) is None
    (tools.parent / "include" / "Python.h").unlink()
    assert "has no Python.h; install Python's headers (python3." in str(compile_fault(device))


def test_a_gpu_needs_triton_and_must_be_new_enough(tools: Path, monkeypatch: Monkey) -> None:
    program(tools / "gcc")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
    assert "compute capability 6.1, and Triton needs 7.0" in str(compile_fault("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "Triton is not installed" in str(compile_fault("cuda"))


def test_a_module_is_compiled_in_place_or_told_about_once(
    tools: Path, monkeypatch: Monkey, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: asked.append(options))
    for _ in range(2):
        assert not compile_module(nn.Linear(2, 2), "cuda", "the network")
    assert asked == []
    assert caplog.messages == [
        "the network runs without torch.compile, slower: there is no C compiler (CC, gcc or clang); install gcc"
    ]
    program(tools / "gcc")
    assert compile_module(nn.Linear(2, 2), "cuda", "the network")
    assert compile_module(nn.Linear(2, 2), "cuda", "the network", deterministic=True)
    assert asked == [{"options": None}, {"options": {"deterministic": True}}]


def failing(error: Exception) -> Any:
    """Return what stands for torch.compile and fails when it is called."""

    def compile_(function: Any, **_: Any) -> Any:
        def call(*inputs: Any) -> Any:
            raise error

        return call

    return compile_


def compiler_failure(cause: Exception) -> Exception:
    return BackendCompilerFailed("inductor", cause, None)


@pytest.mark.parametrize(
    "error",
    [
        compiler_failure(RuntimeError("Failed to find\nC compiler")),
        subprocess.CalledProcessError(1, ["gcc", "main.c"]),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
    ],
)
def test_a_failure_at_the_first_call_goes_on_plainly_with_one_warning(
    error: Exception, monkeypatch: Monkey, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", failing(error))
    function = Compiled(lambda x: x + 1, "cpu", "the backbone")
    assert function.works
    assert [function(torch.tensor(1)).item(), function(torch.tensor(2)).item()] == [2, 3]
    assert not function.works
    (message,) = caplog.messages
    assert message.startswith("the backbone runs without torch.compile, slower: torch.compile failed (")
    assert "\n" not in message


def test_memory_that_is_full_is_not_a_compilers_failure(monkeypatch: Monkey, caplog: pytest.LogCaptureFixture) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    for error in (full, compiler_failure(full)):
        assert is_out_of_memory(error)
        assert not is_compiler_failure(error)
        monkeypatch.setattr(torch, "compile", failing(error))
        function = Compiled(lambda x: x, "cpu", "the backbone")
        with pytest.raises(type(error)):
            function(torch.tensor(1))
        assert function.works
    assert caplog.messages == []


def test_an_error_of_the_function_itself_is_raised(monkeypatch: Monkey) -> None:
    monkeypatch.setattr(torch, "compile", failing(ValueError("frames are uint16")))
    with pytest.raises(ValueError, match="uint16"):
        Compiled(lambda x: x, "cpu", "the backbone")(torch.tensor(1))


def test_this_machine_is_looked_at_as_it_is() -> None:
    if shutil.which("g++") is None or "CXX" in os.environ:
        pytest.skip("no plain g++ here")
    assert compile_fault("cpu") is None
