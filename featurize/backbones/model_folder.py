"""The folder of a model as on the Hub: found, its files read and checked, its weights made into a transformers model.

    config.json                  sizes; `model_type` says of which family it is
    preprocessor_config.json     `image_mean`, `image_std`, `rescale_factor`, `do_normalize`, `do_rescale`
    model.safetensors            the weights (or several files and `model.safetensors.index.json`)

A folder that is not whole, or whose parts do not fit each other, is a CheckpointError of one line: transformers itself
would fill what is missing with random weights and go on.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from deltactl.configs.backbone_name import LayerChoice
from deltactl.configs.shared import DEFAULT_BACKBONE
from deltactl.errors import CheckpointError
from deltactl.featurize.backbones.hub import hub_folder, is_hub_name
from deltactl.featurize.backbones.weights import open_safetensors
from deltactl.reading import DESCRIPTION, parse_json, read_file, reason_of

PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
"""What says how pixels are normalised, the first that is there; models of video have the second alone."""
FILES = ("config.json", *PREPROCESSORS, "*.safetensors", "*.safetensors.index.json")
"""What is fetched from the Hub."""
USUAL_RESCALE = 1 / 255
"""The `rescale_factor` of the library's image processors, for folders that do not mention it."""


@dataclass(frozen=True)
class Normalisation:
    """How pixels are normalised: `(rescale · pixel − mean) / std`, for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float

    def settings(self) -> dict[str, Any]:
        """Return it as a backbone's hash has it, means and deviations as the network's: in float32."""
        return {
            "image_mean": torch.tensor(self.mean).tolist(),
            "image_std": torch.tensor(self.std).tolist(),
            "rescale_factor": self.rescale,
        }


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder on this machine."""

    path: Path
    choice: LayerChoice = field(default_factory=LayerChoice)
    """Which layers of the model the features are to be."""

    @classmethod
    def find(cls, name_or_folder: str, choice: LayerChoice | None = None) -> ModelFolder:
        """Return the folder of this path, or of this name on the Hub, from which it is fetched where it is not here.

        Raises:
            CheckpointError: it is neither a folder nor a name.
            HubError: the Hub does not hand the model out (licence, name, network).
        """
        folder = Path(name_or_folder).expanduser()
        if folder.is_dir():
            return cls(folder, choice or LayerChoice())
        if folder.exists():
            raise CheckpointError(f"backbone {name_or_folder} is a file; expected the folder that holds config.json")
        if is_hub_name(name_or_folder):
            return cls(hub_folder(name_or_folder, FILES), choice or LayerChoice())
        raise CheckpointError(
            f"backbone {name_or_folder} does not exist; expected a folder, or a Hub name such as {DEFAULT_BACKBONE}"
        )

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json.

        Raises:
            CheckpointError: that cannot be read.
        """
        return self.read_json("config.json")

    def library_config(self, package: str, name: str) -> Any:
        """Return config.json as a class `name` of a package of `transformers.models`; no network is imported.

        Raises:
            CheckpointError: it makes no sense.
        """
        module = importlib.import_module(f"transformers.models.{package}.configuration_{package}")
        with self.as_checkpoint_error():
            return getattr(module, name).from_pretrained(self.path, local_files_only=True)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file of the folder.

        Raises:
            CheckpointError: that cannot be read.
        """
        try:
            content = parse_json(read_file(self.path / name, DESCRIPTION))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"backbone {self} has no {name}; expected a whole model folder, as on the Hub"
            ) from error
        except OSError as error:
            raise CheckpointError(f"backbone {self}: {name} {reason_of(error)}; fetch the model again") from error
        except ValueError as error:
            raise CheckpointError(f"backbone {self}: {name} is not JSON ({error}); fetch the model again") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"backbone {self}: {name} holds a {type(content).__name__}, expected an object")
        return content

    def normalisation(self) -> Normalisation:
        """Return what preprocessor_config.json, or that of a model of video, says of pixels.

        Steps that it switches off change nothing.

        Raises:
            CheckpointError: it does not, or makes no sense.
        """
        name = next((each for each in PREPROCESSORS if (self.path / each).exists()), PREPROCESSORS[0])
        content = self.read_json(name)
        content.setdefault("rescale_factor", USUAL_RESCALE)
        if content.get("do_rescale") is False:
            content["rescale_factor"] = 1.0
        if content.get("do_normalize") is False:
            content |= {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        return self.checked_normalisation(content, name)

    def checked_normalisation(self, content: Mapping[str, Any], source: str) -> Normalisation:
        """Return `image_mean`, `image_std` and `rescale_factor`, which the file `source` says.

        Raises:
            CheckpointError: they make no sense.
        """

        def is_number(value: object) -> bool:
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6

        for key in ("image_mean", "image_std"):
            value = content.get(key)
            if not (isinstance(value, list) and len(value) == 3 and all(map(is_number, value))):
                raise CheckpointError(f"backbone {self}: {key} in {source} is {value!r}; expected three numbers")
        if not is_number(content.get("rescale_factor")) or 0 in content["image_std"]:
            raise CheckpointError(
                f"backbone {self}: {source} needs a number as rescale_factor "
                f"(it has {content.get('rescale_factor')!r}) and no zero in image_std ({content['image_std']})"
            )
        mean, std = (tuple(map(float, content[key])) for key in ("image_mean", "image_std"))
        return Normalisation(mean, std, float(content["rescale_factor"]))

    def weight_files(self) -> tuple[Path, ...]:
        """Return the safetensors files: one, or those that an index names.

        Raises:
            CheckpointError: one is not whole.
        """
        files = self._weight_files()
        for file in files:
            if not file.exists():
                raise CheckpointError(f"backbone {self} lacks {file.name}, which its index names; fetch it again")
            with open_safetensors(file):
                pass  # transformers' own message for a cut file does not name it
        return files

    def _weight_files(self) -> tuple[Path, ...]:
        if (self.path / "model.safetensors").exists():
            return (self.path / "model.safetensors",)
        index = self.path / "model.safetensors.index.json"
        if not index.exists():
            raise CheckpointError(f"backbone {self} has no model.safetensors; fetch the model again")
        names = self.read_json(index.name).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise CheckpointError(f"backbone {self}: {index.name} has no weight_map; fetch the model again")
        return tuple(self.path / Path(name).name for name in sorted(set(names.values())))

    def transformers_model(
        self,
        model_class: Any = None,
        *,
        tower: str = "",
        others: tuple[str, ...] = (),
        dropped: tuple[str, ...] = (),
        config: Any = None,
    ) -> Any:
        """Return the transformers model in float32, every parameter from the file and none left over.

        `model_class`: that of transformers which reads the folder; None is the one that config.json names. Where the
        folder is of a larger model, of which the class is a part: what the names of that part's weights begin with
        (`tower`), and what those of the rest do (`others`), which are left over. `dropped`: what the names of those
        parameters begin with that the caller has no use for, so that they may be missing. `config`: in place of
        config.json's.

        Raises:
            CheckpointError: parameters are missing, left over or misshapen, or the config makes no sense.
        """
        from transformers import AutoModel

        with self.as_checkpoint_error(), _quiet_transformers():
            model, report = (model_class or AutoModel).from_pretrained(
                self.path,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # reported below, by name
                output_loading_info=True,
                **({} if config is None else {"config": config}),
                **({"key_mapping": {f"^{re.escape(tower)}": ""}} if tower else {}),
            )
        for problem in ("missing", "unexpected", "mismatched"):
            keys = [str(key[0] if isinstance(key, tuple) else key) for key in report[f"{problem}_keys"]]
            if names := sorted(
                key for key in keys if not key.startswith(others if problem == "unexpected" else dropped)
            ):
                raise CheckpointError(
                    f"backbone {self}: config.json and weights do not fit; {problem} parameters ({len(names)}): "
                    f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}; fetch the model again"
                )
        return model

    @contextlib.contextmanager
    def as_checkpoint_error(self) -> Iterator[None]:
        """Turn what a library raises for a folder that makes no sense, an OSError or ZeroDivisionError, into ours."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"backbone {self} cannot be loaded: {type(error).__name__}: {reason}") from error


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
