"""Checkpoint files found and read, whatever wrote them: no code runs, and damage is told from strangeness.

Takes a file (`.bin`, `.ckpt`, `.safetensors`; local or remote), the folder of a run or of an export, or a Hub name.
Returns tensors under the names of the network itself: prefixes of training (`network.`, `module.`) and of
`torch.compile` are taken off, the optimizer and the rest of a training checkpoint left out.

Zip archives of torch are checked against their checksums first: a flipped bit is an error, not another network.
Safetensors, and torch's format before 1.6, have none; our safetensors carry the hash of their weights. Each check is
one pass over the bytes.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltactl.errors import CheckpointError
from deltactl.featurize.backbones.hub import hub_folder, is_hub_name
from deltactl.featurize.backbones.weights import open_safetensors
from deltactl.locations import Location, storage_errors
from deltactl.reading import UnreadableError, open_regular, parse_json, reason_of
from deltactl.redaction import printable
from deltactl.train.checkpoints.headers import HEADER

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a folder of published or exported weights holds; the first that is there is read."""

CONFIG_FILE = "config.json"
PREFIXES = ("network", "module")


@dataclass(frozen=True)
class Contents:
    """What a checkpoint file holds, under the names of the network."""

    source: str
    """The file, for messages."""
    container: str
    """What kind of file it is, in words."""
    state: dict[str, Tensor]
    """Parameters and buffers, in the order of the file (safetensors: of its names)."""
    header: object | None
    """What a file of ours says it holds; see `headers`."""
    content_hash: str | None
    """The hash that the file says its weights have (safetensors of ours)."""
    progress: dict[str, int]
    """`epoch` and `step` of a training checkpoint, and the generation of the sources if some had been added."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the header says about how it came about; empty if it says nothing."""
        found = self.header.get("provenance") if isinstance(self.header, Mapping) else None
        return found if isinstance(found, Mapping) else {}


def read_contents(place: str | Path | Location) -> Contents:
    """Read a checkpoint by file, run, folder or Hub name.

    Raises:
        CheckpointError: it is absent, damaged, or carries code.
        HubError: the Hub does not hand it out.
    """
    location = find(place)
    header = _header_beside(location)
    with storage_errors(location, "read"), as_file(location) as path:
        start = _first_bytes(path, str(location))
        # A safetensors file starts with the length of its header, which is a JSON object.
        contents = _read_safetensors(path, str(location)) if start[8:] == b"{" else _read_torch(path, str(location))
    if contents.header is None and header is not None:
        return replace(contents, header=header)
    return contents


# --- finding ---------------------------------------------------------------------------------------------------------


def find(place: str | Path | Location) -> Location:
    """Return the file that a path, URL or Hub name stands for.

    A run (a folder with `checkpoints/`) stands for its `best.ckpt`, else `last.ckpt`, else its newest checkpoint; a
    folder of weights for its `model.safetensors`, else `pytorch_model.bin`.

    Raises:
        CheckpointError: there is no checkpoint.
        HubError: the Hub does not hand it out.
    """
    if isinstance(place, str) and is_hub_name(place):
        return _on_hub(place)
    location = Location.of(place)
    if location.is_local and location.exists() and not location.path.is_dir():
        return location
    if children := location.list():
        return _in_folder(location, str(place), children)
    if not location.is_local and location.exists():
        return location
    problem = "is an empty folder" if location.exists() else "does not exist"
    raise CheckpointError(
        f"checkpoint {place} {problem}; expected a file, a run, a folder of weights, or a Hub name (owner/name)"
    )


def _on_hub(name: str) -> Location:
    """Return the file of a Hub name's network, fetched: its weights, or of a run the best checkpoint, else the last."""
    for wanted in (*WEIGHT_FILES, "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        folder = Location.of(hub_folder(name, (wanted, CONFIG_FILE)))
        if (folder / wanted).exists():
            return folder / wanted
    return _in_folder(folder, name)


def _in_folder(folder: Location, name: str, children: list[str] | None = None) -> Location:
    children = folder.list() if children is None else children
    if "checkpoints" in children:
        folder = folder / "checkpoints"
        children = folder.list()
    for choice in ("best.ckpt", "last.ckpt", *WEIGHT_FILES):
        if choice in children:
            return folder / choice
    if others := [child for child in children if child.endswith(".ckpt")]:
        return folder / max(others, key=lambda child: (folder / child).path.stat().st_mtime if folder.is_local else 0)
    if CONFIG_FILE in children and "preprocessor_config.json" in children:
        raise CheckpointError(f"{name} is the folder of a backbone; expected a tokenizer, a world model or a head")
    raise CheckpointError(
        f"{name} holds no checkpoint; expected checkpoints/*.ckpt (a run), {' or '.join(WEIGHT_FILES)}, in it"
    )


def _header_beside(location: Location) -> object | None:
    """Return the header in the `config.json` beside weights that lie in a folder of their own."""
    if location.name not in WEIGHT_FILES:
        return None
    try:
        content = (location.parent / CONFIG_FILE).read_json()
    except FileNotFoundError:
        return None
    # Other programs' files of this name are none of our business.
    return content.get(HEADER) if isinstance(content, dict) else None


@contextlib.contextmanager
def as_file(location: Location) -> Iterator[Path]:
    """Yield a local file with the content of this one."""
    if location.is_local:
        yield location.path
        return
    with tempfile.TemporaryDirectory(prefix="deltactl-") as folder:
        path = Path(folder) / location.name
        with location.open() as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 22)
        yield path


# --- reading ---------------------------------------------------------------------------------------------------------


def _first_bytes(path: Path, source: str) -> bytes:
    """Return the first nine bytes; CheckpointError if it is empty, or no file at all."""
    try:
        with open_regular(path) as file:
            start = file.read(9)
    except (UnreadableError, IsADirectoryError) as error:
        raise CheckpointError(f"{source} {reason_of(error)}; expected a checkpoint") from error
    if not start:
        raise CheckpointError(f"{source} is empty; write or fetch it again")
    return start


def _read_safetensors(path: Path, source: str) -> Contents:
    with open_safetensors(path, source) as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    header, content_hash = None, None
    if HEADER in metadata:
        try:
            header = parse_json(metadata[HEADER])
        except ValueError as error:
            raise CheckpointError(f"{source}: its {HEADER!r} header is damaged: {error}") from error
        content_hash = header.get("content_hash") if isinstance(header, dict) else None
    return Contents(source, "safetensors", plain_names(state, source), header, content_hash, {})


def load_torch(path: Path, source: str, *, mmap: bool = False) -> Any:
    """Return what torch saved, tensors on the CPU.

    With `mmap` tensors of zip archives stay on the disk until they are used.

    Raises:
        CheckpointError: it carries code, or a byte is damaged.
    """
    _check_archive(path, source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file's odd contents, on the way to the error below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except Exception as error:
        # A damaged pickle raises anything from KeyError to MemoryError.
        raise CheckpointError(f"{source} {_refusal(error, path)}") from error


def _read_torch(path: Path, source: str) -> Contents:
    content = load_torch(path, source)
    container = "state dict"
    extra: Mapping[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content, extra = content["state_dict"], content
        training = "pytorch-lightning_version" in extra
        container = "training checkpoint (Lightning)" if training else "state dict under 'state_dict'"
    state = _tensors(content, source)
    progress = {
        name: extra[key]
        for key, name in (("epoch", "epoch"), ("global_step", "step"))
        if isinstance(extra.get(key), int)
    }
    if (added := _additions(extra)) > 0:
        progress["generation of the sources"] = added + 1
    return Contents(source, container, plain_names(state, source), extra.get(HEADER), None, progress)


def _additions(checkpoint: Mapping[str, Any]) -> int:
    """Return how often sources had been added to what a run of ours read (see `inputs.DataRecord`)."""
    run = checkpoint.get("run")
    data = run.get("data") if isinstance(run, Mapping) else None
    generations = data.get("generations") if isinstance(data, Mapping) else None
    return len(generations) if isinstance(generations, list) else 0


def _check_archive(path: Path, source: str) -> None:
    """Compare a zip archive's members with their checksums; other files pass (they are pickles, or nothing).

    torch stores members as they are. One that is compressed, or several that share the bytes of the file, would make
    gigabytes of a small file, so they are refused before a byte of them is read.
    """
    if not _first_bytes(path, source).startswith(b"PK\x03\x04"):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if compressed := [each.filename for each in members if each.compress_type != zipfile.ZIP_STORED]:
                raise CheckpointError(
                    f"{source} holds compressed members ({printable(compressed[0])[:80]}), which torch never writes; "
                    "unzip it and save the state dict with torch.save"
                )
            held, size = sum(max(each.file_size, each.compress_size) for each in members), path.stat().st_size
            if held > size:
                raise CheckpointError(
                    f"{source} has {size:,} bytes, but its members claim {held:,}, which torch never writes; write or "
                    "fetch it again"
                )
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{source} ({path.stat().st_size} bytes) is cut off or damaged: {error}; write or fetch it again"
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{source} is damaged: {damaged} in it does not match its checksum; write or fetch it again"
        )


def _refusal(error: Exception, path: Path) -> str:
    """Return why torch did not load a file, in one line, without its advice to trust the file."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and (match := re.search(r"GLOBAL (\S+)", text)):
        return (
            f"carries code ({match[1].rstrip('.')}), which could run when it is loaded, so it is refused; "
            "expected tensors and plain values only: save the state dict alone"
        )
    if _first_bytes(path, str(path)).startswith(pickle.PROTO):
        return (
            "is a pickle that was not written by torch, and could run code when it is loaded, so it is refused; "
            "expected a state dict saved by torch, or safetensors"
        )
    if "TorchScript" in text:
        return "is a TorchScript program; expected a state dict: save the state dict alone"
    return "is not a checkpoint, or damaged; expected a state dict saved by torch, or safetensors"


def _tensors(content: object, source: str) -> dict[str, Tensor]:
    """Return a state dict, once every entry is a tensor that the file really holds."""
    if not isinstance(content, Mapping) or not content:
        what = "an empty mapping" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise CheckpointError(f"{source} holds {what}; expected a state dict, bare or under 'state_dict'")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{source} holds {type(value).__name__} under {str(name)[:80]!r}; expected names and tensors only, "
                "bare or under 'state_dict'"
            )
        _check_tensor(name, value, source)
    return dict(content)


def _check_tensor(name: str, tensor: Tensor, source: str) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(f"{source}: {name} is a {tensor.layout} tensor on {tensor.device}; expected a dense one")
    claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if claimed > held:
        raise CheckpointError(f"{source}: {name} claims shape {tuple(tensor.shape)} but holds {held} bytes only")


def plain_names(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the tensors under the network's own names, without the prefixes of training and compilation."""
    parts = {name: [part for part in name.split(".") if part != "_orig_mod"] for name in state}
    while any(all(path[0] == prefix and len(path) > 1 for path in parts.values()) for prefix in PREFIXES):
        parts = {name: path[1:] for name, path in parts.items()}
    plain = {".".join(path): state[name] for name, path in parts.items()}
    if len(plain) < len(state):
        raise CheckpointError(f"{source} holds a parameter twice, plain and compiled; expected each once")
    return plain
