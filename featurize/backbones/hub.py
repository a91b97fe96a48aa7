"""Models by name: `owner/name` on the Hugging Face Hub becomes a local folder, and its refusals become sentences.

Takes a name and the files that are wanted, returns the folder of the Hub's own cache that holds them. Files that are
there already are not fetched again; without a network the cached ones are used. No token is ever printed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from deltactl.errors import HubError
from deltactl.locations import storage_errors

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
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
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub import errors as hub

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except hub.GatedRepoError as error:
        raise HubError(
            f"{name} asks for its licence to be accepted: accept it at https://huggingface.co/{name}, "
            "then run `hf auth login` here with the same account"
        ) from error
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError) as error:
        raise HubError(
            f"{name} is neither a path here nor a model on the Hugging Face Hub that may be read; check the "
            "spelling, and for a private model run `hf auth login`"
        ) from error
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub does not answer"
        raise HubError(
            f"{name} is neither a path here nor whole in the Hub's cache, and {why}; "
            "name a local file or folder, or fetch it where there is a network"
        ) from error
    except hub.HfHubHTTPError as error:
        raise HubError(
            f"the Hub did not hand out {name} (HTTP status {error.response.status_code}); try again later"
        ) from error
    except Exception as error:
        # A full disk is an OSError with a number; a connection that breaks within a file is any of several libraries'.
        if isinstance(error, OSError) and error.errno is not None:
            with storage_errors(Path(constants.HF_HUB_CACHE), "write"):
                raise
        raise HubError(
            f"{name} could not be fetched from the Hub ({type(error).__name__}); "
            "run the same command again, what arrived is kept"
        ) from error
