"""What comes from outside is opened only where it is a regular file of a size that its kind may have."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from small_shards import training_shards

from deltactl.artifacts import read_header, read_quarantine
from deltactl.cli import read_dotenv
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.load import load_preset
from deltactl.configs.yaml_text import read_yaml_file
from deltactl.datasets.listing import Label, read_lines
from deltactl.errors import CheckpointError, ConfigError, DamagedError, DeltactlError, SourceError
from deltactl.evaluate.predict.context import ReadTask, Wanted, _numbered_frames
from deltactl.featurize.backbones.model_folder import ModelFolder
from deltactl.featurize.backbones.weights import open_safetensors
from deltactl.ingest.evaluation import EvaluationClips
from deltactl.ingest.shards.format import ShardSet
from deltactl.ingest.shards.images import decode_frame, decode_label, picture_size
from deltactl.ingest.sources import _read_names
from deltactl.ingest.video.frames import open_frame_folder
from deltactl.ingest.video.timestamps import Video
from deltactl.ingest.video.zips import ZipArchive
from deltactl.locations import Location
from deltactl.reading import Limit, UnreadableError, open_regular, parse_json, read_file
from deltactl.train.checkpoints.files import read_contents


@pytest.fixture
def made() -> Iterator[Callable[[str, Path], None]]:
    """Return what puts something that is no file at a path."""
    sockets: list[socket.socket] = []

    def make(kind: str, path: Path) -> None:
        with suppress(FileNotFoundError):
            path.unlink()
        match kind:
            case "a named pipe":
                os.mkfifo(path)
            case "a device":
                path.symlink_to("/dev/zero")
            case "a socket":
                here = Path.cwd()
                os.chdir(path.parent)  # the path of a socket has at most 107 bytes
                sockets.append(socket.socket(socket.AF_UNIX))
                sockets[-1].bind(path.name)
                os.chdir(here)
            case "a folder":
                path.mkdir()
            case "a sparse file":
                with path.open("wb") as file:
                    file.truncate(40 << 30)

    yield make
    for each in sockets:
        each.close()


KINDS = ("a named pipe", "a device", "a socket", "a folder", "a sparse file")
SAID = r"named pipe|device|socket|directory|has 42,949,672,960 bytes, more than"


def evaluation_file(path: Path) -> None:
    EvaluationClips(Location.of(path.parent), "vspw", FrameSize.of(64))._read(path.name)


def evaluation_label(path: Path) -> None:
    EvaluationClips(Location.of(path.parent), "vspw", FrameSize.of(64))._label(Label(0, (path.name,)), (4, 4))


def frame_in_folder(path: Path) -> None:
    open_frame_folder(path.parent).read(0)


def numbered_frame(path: Path) -> None:
    task = ReadTask(path.parent, Wanted(1, 1, 0.2, None), "centre", FrameSize.of(64), 16, frames_per_second=5.0)
    _numbered_frames(task)[1](0)


def weights(path: Path) -> None:
    with open_safetensors(path):
        pass


READERS: dict[str, tuple[str, Callable[[Path], object], type[DeltactlError]]] = {
    "frame of an evaluation set": ("f.png", evaluation_file, SourceError),
    "label": ("m.png", evaluation_label, SourceError),
    "frame in a folder": ("frame_0.5.jpg", frame_in_folder, SourceError),
    "numbered frame": ("7.jpg", numbered_frame, SourceError),
    "split file": ("val.txt", lambda path: read_lines(Location.of(path), "a split file"), ConfigError),
    "list of sources": ("list.txt", lambda path: _read_names(path, "--exclude"), ConfigError),
    "settings": ("mine.yaml", read_yaml_file, ConfigError),
    "preset": ("mine.yaml", lambda path: load_preset(str(path)), ConfigError),
    "backbone's description": (
        "preprocessor_config.json",
        lambda path: ModelFolder(path.parent).normalisation(),
        CheckpointError,
    ),
    "header": ("artifact.json", lambda path: read_header(Location.of(path.parent)), DamagedError),
    "quarantine": ("quarantine.jsonl", lambda path: read_quarantine(Location.of(path.parent)), DamagedError),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_or_too_large_is_refused_by_name(
    reader: str, kind: str, tmp_path: Path, made: Callable[[str, Path], None]
) -> None:
    name, read, expected = READERS[reader]
    made(kind, tmp_path / name)
    with pytest.raises(expected, match=SAID) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_large_things_are_files_too(kind: str, tmp_path: Path, made: Callable[[str, Path], None]) -> None:
    """Zips, weights, videos and tars have no limit of bytes; they are read a part at a time."""
    made(kind, tmp_path / "x")
    with pytest.raises(OSError, match=SAID):
        ZipArchive(tmp_path / "x")
    with pytest.raises(SourceError, match=SAID):
        Video(tmp_path / "x")
    for read in (weights, read_contents):
        with pytest.raises(CheckpointError, match=SAID):
            read(tmp_path / "x")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["000000.tar", "000000.json", "index.json"])
def test_verify_names_a_file_of_an_artifact_that_is_none_and_goes_on(
    name: str, kind: str, tmp_path: Path, made: Callable[[str, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltactl.featurize.verify import Verification

    training_shards(tmp_path / "shards", units=2, clips=1)
    (tmp_path / "shards" / "000001.tar").write_bytes(b"")
    made(kind, tmp_path / "shards" / name)
    findings = Verification.of(str(tmp_path / "shards")).run()
    assert {name, "000001.tar"} <= {finding.path for finding in findings}


def test_a_dotenv_that_is_a_pipe_or_too_large_is_named(tmp_path: Path, made: Callable[[str, Path], None]) -> None:
    for kind in ("a named pipe", "a device", "a sparse file"):
        made(kind, tmp_path / ".env")
        with pytest.raises(ConfigError, match=rf"\.env.*({SAID})"):
            read_dotenv(tmp_path / ".env")
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()  # as virtual environments are called, too
    read_dotenv(tmp_path / ".env")


def test_a_file_that_grows_while_it_is_read_ends_at_its_limit(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"0" * 10)
    with pytest.raises(UnreadableError, match="has 10 bytes, more than the 9 that a log may have"):
        read_file(tmp_path / "log", Limit(9, "a log"))
    assert read_file(tmp_path / "log", Limit(10, "a log")) == b"0" * 10
    # The kernel's files have no size, and more bytes than that.
    with pytest.raises(UnreadableError, match="has more than the 9 bytes that a log may have"):
        read_file("/proc/self/status", Limit(9, "a log"))


def test_a_pipe_that_is_being_written_is_no_file_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: os.close(os.open(tmp_path / "pipe", os.O_RDWR)), daemon=True)
    writer.start()
    started = time.monotonic()
    with pytest.raises(UnreadableError, match="is a named pipe, not a file"):
        open_regular(tmp_path / "pipe")
    assert time.monotonic() - started < 5
    writer.join()


def png(height: int, width: int, pixels: bytes = b"") -> bytes:
    """Return a PNG of 8 bits grey that claims a size, and holds these compressed pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_the_size_of_a_picture_is_looked_at_before_it_is_decoded(tmp_path: Path) -> None:
    assert picture_size(png(3, 5), "x.png") == (3, 5)
    huge = png(13_000, 13_000, b"no pixels")  # decoding it would say that these are none
    for read in (decode_label, decode_frame, lambda data: picture_size(data, "x")):
        with pytest.raises(SourceError, match=r"(claims to be 13000 × 13000|larger than 67,108,864) pixels"):
            read(huge)
    (tmp_path / "m.png").write_bytes(png(5000, 5000, b"no pixels"))
    with pytest.raises(SourceError, match=r"label m\.png is 5000 × 5000 pixels but its frame is 4 × 4"):
        evaluation_label(tmp_path / "m.png")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -1e999}', "[" * 65 + "]" * 65, "[" * 99_999, "{", "\xff"])
def test_what_is_not_plain_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|deep|number|Expecting|decode"):
        parse_json(text.encode("latin-1"))
    assert parse_json(json.dumps([{"a": [1.5, None]}])) == [{"a": [1.5, None]}]


def test_a_shard_that_is_replaced_by_a_pipe_is_damaged_and_does_not_hang(tmp_path: Path) -> None:
    shards = training_shards(tmp_path / "shards", units=1, clips=1)
    (tmp_path / "shards" / "000000.tar").unlink()
    os.mkfifo(tmp_path / "shards" / "000000.tar")
    for read in (shards.read, shards.stream):
        with pytest.raises(DamagedError, match=r"000000\.tar is damaged: it is a named pipe, not a file"):
            list(read("000000"))
    assert ShardSet.open(str(tmp_path / "shards")).count == 1
