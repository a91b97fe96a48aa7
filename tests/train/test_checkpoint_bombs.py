"""A small file cannot take the memory: what torch would never write is refused before it is unpacked."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from deltactl.errors import CheckpointError
from deltactl.train.checkpoints.files import read_contents


def repacked(source: Path, target: Path, method: int) -> None:
    """Write the same members, packed in another way."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused_before_they_are_unpacked(tmp_path: Path, method: int) -> None:
    torch.save({"weight": torch.zeros(16 << 20)}, tmp_path / "plain.ckpt")
    repacked(tmp_path / "plain.ckpt", tmp_path / "bomb.ckpt", method)
    assert (tmp_path / "bomb.ckpt").stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"bomb\.ckpt holds compressed members \(.*\), which torch never"):
            read_contents(tmp_path / "bomb.ckpt")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """The directory of a zip may name the same stretch of the file any number of times."""
    path = tmp_path / "shared.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data/0", bytes(1 << 20))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry, count = data[start:end], 1000
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, count * len(entry), start, 0)
    path.write_bytes(data[:start] + count * entry + tail)
    with pytest.raises(CheckpointError, match=r"shared\.ckpt has [\d,]+ bytes, but its members claim 1,048,576,000"):
        read_contents(path)


def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "plain.ckpt")
    assert read_contents(tmp_path / "plain.ckpt").state["weight"].tolist() == [1, 1, 1]
