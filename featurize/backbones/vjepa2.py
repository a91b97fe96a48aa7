"""V-JEPA 2's encoders (arXiv 2506.09985) as frozen backbones: two frames in, one step of patch features out.

One convolution makes a patch of two frames' pixels, so that a step is two frames. In its blocks every patch attends to
every other, those of later frames too. A backbone is called with the frames of one step at a time (see `backbone.py`),
so that no feature knows of frames after its own: what a world model predicts is not in its context already. The final
LayerNorm makes the features; there are no class or register tokens. The predictor is dropped.

Rotary positions are the patch's step, row and column, counted in patches. The library counts rows and columns by the
size in config.json, which is right for squares of that size only; here its layers are told the numbers of the frame's
own grid, which are equal there, and follow every other size and rectangle.

ViT-L/16 costs about 155 GFLOP for a step of 256 × 256 pixels.

`B` batch · `T` frames, a multiple of the frames in a step `f` · `S` = `T/f` steps · `H`, `W` pixels · `P` patches ·
`D` feature width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from deltactl.configs.backbone_name import LayerChoice
from deltactl.errors import CheckpointError
from deltactl.featurize.backbones.family import BackboneFacts, Family, FrozenNetwork, Outline, Pixels
from deltactl.featurize.backbones.library import UNCHANGED, hashed, settled
from deltactl.featurize.backbones.model_folder import ModelFolder, Normalisation

# What of config.json the features depend on; the rest is bookkeeping, or of the predictor.
SETTINGS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "patch_size", "tubelet_size"),
    *("hidden_act", "layer_norm_eps", "qkv_bias"),
)
LARGEST_GRID = 1 << 15
"""Patches along a side that positions can tell apart."""
PREDICTOR = "predictor."
"""What the names of the predictor's weights begin with: it is made, and dropped."""
TOWER = "vjepa2."
"""What all names begin with in the files of a classifier of videos."""
OTHERS = (PREDICTOR, f"{TOWER}{PREDICTOR}", "pooler.", "classifier.")


class VJEPA2(FrozenNetwork):
    """A frozen V-JEPA 2 encoder: the patches of its last hidden state, which the final LayerNorm made, or of others."""

    def __init__(self, encoder: Any, normalisation: Normalisation, choice: LayerChoice) -> None:
        """Take an encoder and a choice that `settled` returned."""
        super().__init__()
        self.encoder = encoder
        self.choice = choice
        self._chosen = choice.layers or (len(encoder.layer),)
        del encoder.layer[max(self._chosen) :]
        self.pixels = Pixels(normalisation)
        self.frames_per_step = int(encoder.config.tubelet_size)
        for layer in encoder.layer:
            # By this the library takes a patch's number apart into step, row and column.
            layer.attention.grid_size = LARGEST_GRID

    def forward(self, frames: UInt8[Tensor, "B *T 3 H W"]) -> Float[Tensor, "B *S P D"]:
        """Return the patches' features of every step; see the base class."""
        if frames.ndim == 4:  # of a model whose steps are single frames
            single: Tensor = self(frames[:, None])[:, 0]
            return single
        patch = self.encoder.config.patch_size
        steps = frames.shape[1] // self.frames_per_step
        rows, columns = (side // patch for side in frames.shape[3:])
        hidden = self.encoder.embeddings(self.pixels(frames))
        numbers = patch_numbers(steps, rows, columns, frames.device)[None]
        kept: dict[int, Tensor] = {}
        for number, layer in enumerate(self.encoder.layer, 1):
            hidden, _ = layer(hidden, numbers)
            if number in self._chosen:
                kept[number] = self.encoder.layernorm(hidden) if self.choice.norm else hidden
        joined = torch.cat([kept[number] for number in self._chosen], dim=-1)
        features: Tensor = joined.unflatten(1, (steps, rows * columns))
        return features

    def final_norm(self) -> nn.LayerNorm | None:
        """Return the norm that made the features; None where others than the last layer's are chosen."""
        norm: nn.LayerNorm = self.encoder.layernorm
        return None if self.choice else norm

    def normalisation(self) -> Pixels:
        """Return the normalisation of pixels."""
        return self.pixels


def patch_numbers(steps: int, rows: int, columns: int, device: torch.device) -> Int64[Tensor, " P"]:
    """Return what the library's layers know step, row and column of every patch by, in a grid of `LARGEST_GRID`."""
    step, row, column = (torch.arange(count, device=device) for count in (steps, rows, columns))
    return ((step[:, None, None] * LARGEST_GRID + row[:, None]) * LARGEST_GRID + column).flatten()


def facts(folder: ModelFolder) -> BackboneFacts:
    """Return what a folder's files say.

    Raises:
        CheckpointError: it is not whole.
        ConfigError: it has not the layers that are chosen.
    """
    weights, normalisation = folder.weight_files(), folder.normalisation()
    config = folder.library_config("vjepa2", "VJEPA2Config")
    width, patch, frames = config.hidden_size, config.patch_size, config.tubelet_size
    if not all(isinstance(each, int) and each > 0 for each in (width, patch, frames)):
        raise CheckpointError(
            f"backbone {folder}: patch_size {patch!r} and tubelet_size {frames!r} with a width of {width!r} in "
            "config.json; expected one whole number each"
        )
    depth = int(config.num_hidden_layers)
    choice = settled(folder, depth)
    settings = {key: getattr(config, key) for key in SETTINGS}
    return BackboneFacts(
        dim=int(width) * len(choice.layers or (depth,)),
        patch_size=int(patch),
        settings=hashed(config.model_type, settings, normalisation, choice),
        weights=weights,
        depth=depth,
        can_be_undone=not choice,
        tower=TOWER,
        others=OTHERS,
        frames_per_step=int(frames),
    )


def load(folder: ModelFolder) -> VJEPA2:
    """Return the network of a folder.

    Raises:
        CheckpointError: weights and config do not fit.
    """
    from transformers import VJEPA2Model

    model = folder.transformers_model(VJEPA2Model, tower=TOWER, others=OTHERS, dropped=(PREDICTOR,))
    choice = settled(folder, len(model.encoder.layer))
    return VJEPA2(model.encoder, folder.normalisation(), choice)


# --- what a name says ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Sizes of an encoder, as config.json names them."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: int = 16
    tubelet_size: int = 2


PUBLISHED = {
    "vjepa2-vitl": Sizes(),
    "vjepa2-vith": Sizes(1280, 32),
    "vjepa2-vitg": Sizes(1408, 40, 22, 48 / 11),
}


def outline(name: str, config: Mapping[str, Any]) -> Outline | None:
    """Return the outline that a config gives, or the beginning of a name that is a published model's."""
    known = next((sizes for part, sizes in PUBLISHED.items() if name.startswith(part)), None)
    if known is None and not config:
        return None
    fields = {key: config.get(key, value) for key, value in vars(known or Sizes()).items()}

    def network(depth: int) -> VJEPA2:
        from transformers import VJEPA2Config
        from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2Encoder

        settings: Any = VJEPA2Config(**{**fields, "num_hidden_layers": depth})
        settings._attn_implementation = "sdpa"  # as the library chooses for what it loads
        return VJEPA2(VJEPA2Encoder(settings), UNCHANGED, LayerChoice())

    sizes = Sizes(**fields)
    return Outline(
        sizes.hidden_size,
        sizes.patch_size,
        network,
        sizes.num_hidden_layers,
        frames_per_step=sizes.tubelet_size,
    )


VJEPA2_FAMILY = Family(
    name="vjepa2",
    title="V-JEPA 2",
    model_types=("vjepa2",),
    facts=facts,
    load=load,
    chooses_layers=True,
    outline=outline,
)
