"""A disk that is full, or files that may not grow, are told with the path by every library's own writer."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

from deltactl.drafts import draft_name
from deltactl.errors import StorageError
from deltactl.locations import Location, storage_errors
from deltactl.train.callbacks.tracking import MetricsLogger

LARGEST = 20_000
"""Bytes that a file may have in these tests."""


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond `LARGEST`, as a disk that is full at that point would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_figure(path: Path) -> None:
    figure = Figure(figsize=(20, 20))
    figure.subplots().imshow(np.random.default_rng(0).random((300, 300)))
    figure.savefig(path, format="png")


def save_rows(path: Path) -> None:
    file = MetricsLogger(Location.of(path))
    for step in range(2000):
        file.log_metrics({"loss": 1 / (step + 1)}, step)


WRITERS = {
    "torch": lambda path: torch.save({"a": torch.ones(100_000)}, path),
    "safetensors": lambda path: save_file({"a": torch.ones(100_000)}, path),
    "npz": lambda path: np.savez(path, a=np.ones(100_000)),
    "png": lambda path: Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)).save(
        path, format="PNG"
    ),
    "matplotlib": save_figure,
    "csv": save_rows,
    "text": lambda path: path.write_text("x" * 100_000),
    "whole file": lambda path: Location.of(path).write_bytes(bytes(100_000)),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_whose_file_cannot_grow_names_it_and_the_reason(
    writer: str, tmp_path: Path, small_files: None
) -> None:
    place = tmp_path / "out.npz"
    said = rf"could not write {place}: a file may not be so large here"
    with pytest.raises(StorageError, match=said), storage_errors(place, "write"):
        WRITERS[writer](place)


def test_safetensors_whose_error_is_a_text_with_a_number_means_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"no space left to write .*/out; make"),
        storage_errors(tmp_path / "out", "write"),
    ):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


class FullDisk:
    """Stands for the temporary file beside a file that could not be written."""

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_torch_which_does_not_say_why_is_asked_for_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file beside can be written, all that is known is what torch says; where not, that is the reason."""

    def save() -> None:
        with storage_errors(tmp_path / "w.bin", "write"):
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    with pytest.raises(StorageError, match=r"could not write .*w\.bin: .*its writer failed"):
        save()
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: FullDisk())
    with pytest.raises(StorageError, match=r"no space left to write .*w\.bin"):
        save()


def test_export_where_files_may_not_grow_names_the_path_and_leaves_nothing(golden: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-m", "deltactl", "export", str(golden / "deltatok.bin"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert done.returncode == 1
    assert f"could not write {tmp_path}/" in done.stderr
    assert "a file may not be so large here" in done.stderr
    assert "inline_container" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "back\\slash", b"caf\xe9".decode("utf-8", "surrogateescape")])
def test_a_draft_of_any_name_fits_a_file_system(tmp_path: Path, name: str) -> None:
    assert len(draft_name(name).encode("utf-8", "surrogateescape")) <= 255
    Location.of(tmp_path / name).write_bytes(b"whole")
    assert (tmp_path / name).read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_path_that_is_too_long_is_told_in_words(tmp_path: Path) -> None:
    for act in (lambda place: place.exists(), lambda place: place.list(), lambda place: place.write_bytes(b"")):
        with pytest.raises(StorageError, match="a name in it is too long for its file system; choose a shorter one"):
            act(Location.of(tmp_path / ("a" * 256)))
