"""DINOv3's model folder, as on the Hub: found, checked, and read into the transformers model.

    config.json                  sizes; `model_type` is `dinov3_vit`
    preprocessor_config.json     `image_mean`, `image_std`, `rescale_factor`
    model.safetensors            the weights (or several files and `model.safetensors.index.json`)

A folder that is not whole, or whose parts do not fit each other, is a CheckpointError of one line: transformers itself
would fill what is missing with random weights and go on.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deltactl.configs.shared import DEFAULT_BACKBONE
from deltactl.errors import CheckpointError
from deltactl.featurize.hub import hub_folder, is_hub_name
from deltactl.featurize.weights import open_safetensors
from deltactl.reading import DESCRIPTION, parse_json, read_file, reason_of

MODEL_TYPE = "dinov3_vit"
FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")


def find_folder(name_or_folder: str) -> Path:
    """Return the local folder of a backbone."""
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"backbone {name_or_folder} is a file; expected the folder that holds config.json")
    if is_hub_name(name_or_folder):
        return hub_folder(name_or_folder, FILES)
    raise CheckpointError(
        f"backbone {name_or_folder} does not exist; expected a folder, or a Hub name such as {DEFAULT_BACKBONE}"
    )


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = parse_json(read_file(folder / name, DESCRIPTION))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"backbone {folder} has no {name}; expected a whole DINOv3 model folder, as on the Hub"
        ) from error
    except OSError as error:
        raise CheckpointError(f"backbone {folder}: {name} {reason_of(error)}; fetch the model again") from error
    except ValueError as error:
        raise CheckpointError(f"backbone {folder}: {name} is not JSON ({error}); fetch the model again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"backbone {folder}: {name} holds a {type(content).__name__}, expected an object")
    return content


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Return `image_mean`, `image_std` and `rescale_factor` of preprocessor_config.json, checked."""
    content = _read_json(folder, "preprocessor_config.json")

    def is_number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6

    for key in ("image_mean", "image_std"):
        value = content.get(key)
        if not (isinstance(value, list) and len(value) == 3 and all(map(is_number, value))):
            raise CheckpointError(
                f"backbone {folder}: {key} in preprocessor_config.json is {value!r}; expected three numbers"
            )
    if not is_number(content.get("rescale_factor")) or 0 in content["image_std"]:
        raise CheckpointError(
            f"backbone {folder}: preprocessor_config.json needs a number as rescale_factor "
            f"(it has {content.get('rescale_factor')!r}) and no zero in image_std ({content['image_std']})"
        )
    return content


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model: one, or those that its index names."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        raise CheckpointError(f"backbone {folder} has no model.safetensors; fetch the model again")
    names = _read_json(folder, index.name).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"backbone {folder}: {index.name} has no weight_map; fetch the model again")
    return [folder / Path(name).name for name in sorted(set(names.values()))]


def read_config(folder: Path) -> Any:
    """Return the transformers configuration, after a look at whether the model's files are there and whole."""
    config = _read_json(folder, "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f"backbone {folder} has model_type {config.get('model_type')!r} in its config.json; "
            f"expected a DINOv3 vision transformer, {MODEL_TYPE!r}"
        )
    for file in weight_files(folder):
        if not file.exists():
            raise CheckpointError(f"backbone {folder} lacks {file.name}, which its index names; fetch it again")
        with open_safetensors(file):
            pass  # transformers' own message for a cut file does not name it
    from transformers import DINOv3ViTConfig

    with _as_checkpoint_error(folder):
        read = DINOv3ViTConfig.from_pretrained(folder, local_files_only=True)
        heads, width, patch = read.num_attention_heads, read.hidden_size, read.patch_size
        fits = isinstance(patch, int) and width % (4 * heads) == 0
    if not fits:
        raise CheckpointError(
            f"backbone {folder}: patch_size {patch!r} with {heads} heads on a width of {width} in config.json; "
            "expected one whole number, and heads whose width is a multiple of 4"
        )
    return read


def load_model(folder: Path) -> Any:
    """Return the transformers model in float32, every parameter from the file and none left over."""
    read_config(folder)
    from transformers import AutoModel

    with _as_checkpoint_error(folder), _quiet_transformers():
        model, report = AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported below, by name
            output_loading_info=True,
        )
    for problem in ("missing", "unexpected", "mismatched"):
        if keys := report[f"{problem}_keys"]:
            names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)
            raise CheckpointError(
                f"backbone {folder}: config.json and weights do not fit; {problem} parameters ({len(names)}): "
                f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}; fetch the model again"
            )
    return model


@contextlib.contextmanager
def _as_checkpoint_error(folder: Path) -> Iterator[None]:
    """Transformers raises anything from OSError to ZeroDivisionError for a config.json that makes no sense."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"backbone {folder} cannot be loaded: {type(error).__name__}: {reason}") from error


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep progress bars and load reports off the terminal: what they would say is an error here."""
    from transformers.utils import logging as transformers_logging

    log: Any = transformers_logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
