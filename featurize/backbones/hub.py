"""Models by name: `owner/name` on the Hugging Face Hub becomes a local folder, and its refusals become sentences.

Takes a name, perhaps with a branch, a tag or a commit behind it (`owner/name@v1`), and the files that are wanted;
returns the folder of the Hub's own cache that holds them. Files that are there already are not fetched again; without a
network the cached ones are used. No token is ever printed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deltactl.errors import DeltactlError, HubError
from deltactl.hub import refusal
from deltactl.locations import storage_errors

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:@[\w./-]+)?")
FILE_ENDINGS = (".bin", ".ckpt", ".json", ".pt", ".pth", ".safetensors", ".yaml", ".tar", ".zip")


def is_hub_name(text: str) -> bool:
    """Return whether a text that is no existing path reads as `owner/name`, and not as a mistyped path."""
    if not NAME.fullmatch(text) or text.endswith(FILE_ENDINGS):
        return False
    return not Path(text).exists() and not Path(text.split("/")[0]).is_dir()


def hub_folder(name: str, files: Sequence[str]) -> Path:
    """Return a local folder with those of the named files (patterns with `*` too) that the Hub model `name` has.

    Raises:
        HubError: the Hub refuses (a licence that was not accepted, no such model), or there is no network.
        StorageError: the disk of the cache is full, or cannot be written.
    """
    from huggingface_hub import snapshot_download

    absent = (
        f"{name} is neither a path here nor a model on the Hugging Face Hub that may be read; check the spelling, and "
        "for a private model run `hf auth login`"
    )
    unreachable = f"{name} is neither a path here nor whole in the Hub's cache, and"
    repository, _, revision = name.partition("@")
    with hub_errors(name, absent, unreachable, "name a local file or folder, or fetch it where there is a network"):
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(files)))


@contextlib.contextmanager
def hub_errors(name: str, absent: str, unreachable: str, without_network: str) -> Iterator[None]:
    """Turn what the Hub's client raises into sentences; see `deltactl.hub.refusal`.

    Raises:
        HubError: the Hub refuses, or there is no network.
        StorageError: the disk is full, or cannot be written.
    """
    try:
        yield
    except DeltactlError:
        raise
    except Exception as error:
        said = refusal(error, name, absent=absent, unreachable=unreachable, without_network=without_network)
        if said is not None:
            raise HubError(said) from error
        if isinstance(error, OSError):
            from huggingface_hub import constants

            with storage_errors(Path(error.filename or constants.HF_HUB_CACHE), "write"):
                raise
        raise
