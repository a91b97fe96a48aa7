"""The configuration of `deltactl train tokenizer`; the defaults are the published first stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from deltactl.configs.base import FOLLOWS, Config
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.names import LossName
from deltactl.configs.shared import LiveAugmentationConfig, WhereConfig
from deltactl.configs.training import HEAD_WIDTH, TrainingConfig
from deltactl.configs.values import Size


def check_width(width: int) -> int:
    """Return the width.

    Raises:
        ValueError: heads do not fill it.
    """
    if width % (4 if width < HEAD_WIDTH else HEAD_WIDTH):
        raise ValueError(f"expected a multiple of {HEAD_WIDTH}, or of 4 below that")
    return width


class TokenizerNetworkConfig(Config):
    """Sizes and switches of DeltaTok."""

    width: Annotated[int, AfterValidator(check_width)] = Field(default=768, ge=4, json_schema_extra=FOLLOWS)
    """Width of the features; the backbone's (768 for ViT-B), a multiple of 64, or of 4 below that. Where it is not set,
    that of the features."""

    depth: int = Field(default=12, ge=1)
    """Blocks in the encoder, and as many in the decoder."""

    delta: bool = True
    """Encode what changed since the previous frame; off encodes the current frame alone."""

    qk_norm: bool = True
    """Normalise queries and keys in each head."""

    gated_attention: bool = True
    """Multiply each head's output by a learned gate."""

    swiglu: bool = True
    """Gated MLPs (SwiGLU); off is plain ones with GELU."""

    rope_augment: bool = True
    """Scale all positions by one random factor from 1/2 to 2 at each training step."""

    tokens_per_frame: int = Field(default=1, ge=1)
    """Delta tokens of a frame; published: one. The world model follows."""

    token_dim: int | None = Field(default=None, ge=1)
    """Width of a token; where it is not set, that of the features, as published. The world model follows."""

    layer_scale: float = Field(default=1e-5, gt=0)
    """Initial value of the layer scales; small runs learn faster from a larger one."""


class TokenizerConfig(LiveAugmentationConfig, WhereConfig, TrainingConfig):
    """Everything a training run of the tokenizer depends on."""

    network: TokenizerNetworkConfig = TokenizerNetworkConfig()
    """Sizes and switches of DeltaTok."""

    loss: LossName = "log_cosh"
    """What the reconstruction minimises, of this package or another (entry points deltactl.losses)."""

    pairs_per_clip: int = Field(default=1, ge=1)
    """Pairs of consecutive frames taken from a clip at each visit; more of them read less and vary less."""

    size: Size = Field(default=FrameSize(256, 256), json_schema_extra=FOLLOWS)

    steps: int = Field(default=1_000_000, ge=1)

    batch_size: int = Field(default=128, ge=1)
    """Pairs of frames on each device at a time."""

    lr: float = Field(default=1e-3, gt=0)

    weight_decay: float = Field(default=1e-2, ge=0)

    clip_norm: float | None = Field(default=1e-2, gt=0)
