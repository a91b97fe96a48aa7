"""Backbones whose network the transformers library has: a record says what is particular, the rest is here.

A `LibraryModel` names a class of transformers, where its blocks and its final norm are, and what of its config.json the
features depend on; `family` makes the record of `family.py` of it. `LibraryNetwork` runs the library's own forward, so
positions of other frame sizes are interpolated as the library does. Where other layers than the last are chosen,
the blocks behind the last chosen one are removed, and what the chosen ones return is kept as it passes: nothing
is computed twice, or for nothing.

`B` batch · `L` tokens: others (class, registers) before the patches · `P` patches · `D` feature width
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from deltactl.artifacts import canonical_json
from deltactl.configs.backbone_name import LayerChoice
from deltactl.errors import CheckpointError
from deltactl.featurize.backbones.family import BackboneFacts, Family, FrozenNetwork, Outline, Pixels, check_layers
from deltactl.featurize.backbones.model_folder import ModelFolder, Normalisation

UNCHANGED = Normalisation((0.0,) * 3, (1.0,) * 3, 1.0)
VIT_SETTINGS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "image_size"),
    *("hidden_act", "layer_norm_eps"),
)
"""What most vision transformers' features depend on besides the weights."""


class Kept(nn.Module):
    """A block in its place, whose output is kept until it is taken."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.output: Tensor | None = None

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Return what the block returns."""
        returned = self.block(*arguments, **options)
        self.output = returned[0] if isinstance(returned, tuple) else returned
        return returned

    def take(self) -> Tensor:
        """Return the output of the last call, and let go of it."""
        output, self.output = self.output, None
        assert output is not None, "the network calls each of its blocks"
        return output


class LibraryNetwork(FrozenNetwork):
    """A frozen model of transformers; what its forward returns last, or the outputs of chosen blocks."""

    def __init__(
        self,
        model: nn.Module,
        normalisation: Normalisation,
        *,
        blocks: str,
        norm: str | None,
        prefix: int,
        choice: LayerChoice,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a model, the places of its blocks and its final norm in it, and a choice that `settled` returned.

        `prefix` counts the tokens before the patches, `arguments` go to the model's forward.
        """
        super().__init__()
        self.pixels = Pixels(normalisation)
        self.prefix = prefix
        self.arguments = dict(arguments or {})
        self.kept: list[Kept] = []
        self.norm: nn.Module | None = None if norm is None else model.get_submodule(norm)
        self._undone = not choice and isinstance(self.norm, nn.LayerNorm)
        if choice:
            listed: Any = model.get_submodule(blocks)
            assert isinstance(listed, nn.ModuleList | nn.Sequential)
            chosen = choice.layers or (len(listed),)
            del listed[max(chosen) :]
            for number in chosen:
                listed[number - 1] = kept = Kept(listed[number - 1])
                self.kept.append(kept)
            if norm is not None:  # the library's forward would apply it to the last block alone
                model.set_submodule(norm, nn.Identity())
            if not choice.norm:
                self.norm = None
        self.model = model

    def forward(self, frames: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B P D"]:
        """Return the features of the patches; see the base class."""
        hidden: Tensor = self.call(self.pixels(frames)).last_hidden_state
        if not self.kept:
            return hidden[:, self.prefix :]
        layers = [self.patches(each.take()) for each in self.kept]
        return torch.cat([layer if self.norm is None else self.norm(layer) for layer in layers], dim=-1)

    def call(self, pixels: Float[Tensor, "B 3 H W"]) -> Any:
        """Return what the model's forward returns."""
        return self.model(pixel_values=pixels, **self.arguments)

    def patches(self, output: Tensor) -> Float[Tensor, "B P D"]:
        """Return the patches of what a block returned."""
        return output[:, self.prefix :]

    def final_norm(self) -> nn.LayerNorm | None:
        """Return the norm that made the features; None where it did not, or where others than the last are chosen."""
        return self.norm if self._undone and isinstance(self.norm, nn.LayerNorm) else None

    def normalisation(self) -> Pixels:
        """Return the normalisation of pixels."""
        return self.pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class LibraryModel:
    """What is particular of the models of one class of transformers."""

    package: str
    """Its package in `transformers.models`."""
    config: str
    """The class of its configuration, in the package's `configuration_…`."""
    model: str
    """Its class, in the package's `modeling_…`."""
    settings: Sequence[str] = VIT_SETTINGS
    """What of config.json the features depend on; the rest is bookkeeping, and differs between library versions."""
    blocks: str = "encoder.layer"
    """Where in the model its blocks are, an `nn.ModuleList` or `nn.Sequential`."""
    norm: str | None = "layernorm"
    """Where its final norm is; None where it has none."""
    prefix: Callable[[Any], int] = lambda config: 0  # noqa: ARG005
    """Takes a configuration, returns how many tokens stand before the patches."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What its forward is called with besides pixels."""
    network: type[LibraryNetwork] = LibraryNetwork
    """What runs it."""
    prepare: Callable[[Any], None] = lambda model: None  # noqa: ARG005
    """Takes a model that was loaded or made, and changes what the features do not need."""
    fixed: Callable[[Any], bool] = lambda config: False  # noqa: ARG005
    """Takes a configuration, returns whether it takes frames of its own size only."""
    tower: str = ""
    """What the names of its weights begin with where they are a part of a larger model's."""
    others: tuple[str, ...] = ()
    """What the names of weights begin with that belong to the rest of a larger model: they are left out."""
    published: Callable[[str], Mapping[str, Any] | None] = lambda name: None  # noqa: ARG005
    """Takes the last part of a name in lower case, returns the sizes of the published model of that name."""
    can_be_undone: bool = True
    """Whether pixels are normalised before the model and nowhere else, and its final norm is a LayerNorm."""

    def family(self, name: str, title: str, model_types: tuple[str, ...]) -> Family:
        """Return the family of these models."""
        return Family(
            name=name,
            title=title,
            model_types=model_types,
            facts=self.facts,
            load=self.load,
            chooses_layers=True,
            outline=self.outline,
        )

    def facts(self, folder: ModelFolder) -> BackboneFacts:
        """Return what a folder's files say.

        Raises:
            CheckpointError: it is not whole, or is of frames or patches that are not square.
            ConfigError: it has not the layers that are chosen.
        """
        weights, normalisation, config = folder.weight_files(), folder.normalisation(), self.read_config(folder)
        with folder.as_checkpoint_error():
            width, depth = int(config.hidden_size), int(config.num_hidden_layers)
            patch, image = (side_of(folder, config, key) for key in ("patch_size", "image_size"))
            settings = {key: getattr(config, key) for key in self.settings}
        choice = settled(folder, depth, normed=self.norm is not None)
        return BackboneFacts(
            dim=width * len(choice.layers or (depth,)),
            patch_size=patch,
            settings=hashed(config.model_type, settings, normalisation, choice),
            weights=weights,
            depth=depth,
            fixed_size=(image, image) if self.fixed(config) else None,
            can_be_undone=self.can_be_undone and not choice,
            tower=self.tower,
            others=self.others,
        )

    def read_config(self, folder: ModelFolder) -> Any:
        """Return the configuration in a folder; raises as `ModelFolder.library_config`."""
        return folder.library_config(self.package, self.config)

    def load(self, folder: ModelFolder) -> LibraryNetwork:
        """Return the network of a folder.

        Raises:
            CheckpointError: weights and config do not fit.
        """
        model = folder.transformers_model(self.model_class(), tower=self.tower, others=self.others)
        choice = settled(folder, int(model.config.num_hidden_layers), normed=self.norm is not None)
        return self.network_of(model, folder.normalisation(), choice)

    def outline(self, name: str, config: Mapping[str, Any]) -> Outline | None:
        """Return the outline that a config gives, or the name of a published model."""
        sizes = config.get("vision_config", config) if config else self.published(name)
        if sizes is None:
            return None
        return _outline(self, canonical_json({key: plain(sizes[key]) for key in self.settings if key in sizes}))

    def outline_of_sizes(self, sizes: Mapping[str, Any]) -> Outline:
        """Return the outline of a model whose configuration has these values."""
        module = importlib.import_module(f"transformers.models.{self.package}.configuration_{self.package}")
        config_class: Any = getattr(module, self.config)
        usual = config_class.from_dict(dict(sizes))

        def network(depth: int) -> LibraryNetwork:
            config = config_class.from_dict({**sizes, "num_hidden_layers": depth})
            return self.network_of(self.model_class()(config), UNCHANGED, LayerChoice())

        return Outline(usual.hidden_size, usual.patch_size, network, usual.num_hidden_layers)

    def model_class(self) -> Any:
        """Return the class of the model, which is imported."""
        module = importlib.import_module(f"transformers.models.{self.package}.modeling_{self.package}")
        return getattr(module, self.model)

    def network_of(self, model: Any, normalisation: Normalisation, choice: LayerChoice) -> LibraryNetwork:
        """Return what runs a model, and returns the layers of a settled choice."""
        self.prepare(model)
        prefix = self.prefix(model.config)
        return self.network(
            model,
            normalisation,
            blocks=self.blocks,
            norm=self.norm,
            prefix=prefix,
            choice=choice,
            arguments=self.arguments,
        )


@lru_cache(maxsize=64)
def _outline(model: LibraryModel, sizes: bytes) -> Outline:
    """Return the same outline for the same sizes (JSON): what it costs is counted once."""
    return model.outline_of_sizes(json.loads(sizes))


def settled(folder: ModelFolder, depth: int, *, normed: bool = True) -> LayerChoice:
    """Return what a folder's name chooses of so many blocks, the usual choice where it comes to the same.

    `normed`: whether there is a final norm, which may be left out.

    Raises:
        ConfigError: there are no such layers.
    """
    choice = folder.choice
    check_layers(folder, choice, depth)
    layers = None if choice.layers == (depth,) else choice.layers
    return LayerChoice(layers, choice.norm or not normed)


def hashed(
    model_type: str, settings: Mapping[str, Any], normalisation: Normalisation, choice: LayerChoice
) -> dict[str, Any]:
    """Return all that the hash of a backbone has besides its weights."""
    return {"model_type": model_type, **plain(settings), **normalisation.settings(), **choice_settings(choice)}


def choice_settings(choice: LayerChoice) -> dict[str, Any]:
    """Return what the hash of a backbone has of a settled choice: nothing of the usual one."""
    layers = {} if choice.layers is None else {"layers": list(choice.layers)}
    return {**layers, **({} if choice.norm else {"norm": False})}


def side_of(folder: ModelFolder, config: Any, key: str) -> int:
    """Return the side of a square in a configuration: a number, or a pair of equal ones; 0 where it has none.

    Raises:
        CheckpointError: it is something else.
    """
    value = getattr(config, key, 0)
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1 or not isinstance(side := sides.pop(), int):
        raise CheckpointError(f"backbone {folder}: {key} is {value!r} in config.json; expected one whole number")
    return side


def plain(value: Any) -> Any:
    """Return a value of a configuration as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
