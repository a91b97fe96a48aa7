"""C-RADIO's vision transformers (arXiv 2312.06709), as transformers has them: several class tokens and registers first.

The network normalises pixels itself, by numbers that lie among its weights; what the folder says comes before that. It
has no final norm. Its positions are interpolated, and cut for rectangles, by the library. Folders that need code of
their own (`auto_map`, of another `model_type`) are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deltactl.featurize.backbones.library import LibraryModel


def published(name: str) -> Mapping[str, Any] | None:
    """Return the sizes of `C-RADIOv4-H`, which are the library's defaults."""
    return {} if name == "c-radiov4-h" else None


RADIO = LibraryModel(
    package="radio",
    config="RadioConfig",
    model="RadioModel",
    settings=(
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "patch_size", "max_img_size"),
        *("hidden_act", "layer_norm_eps", "qkv_bias", "use_swiglu_ffn", "num_cls_tokens", "num_registers"),
        *("norm_mean", "norm_std"),
    ),
    norm=None,
    prefix=lambda config: int(config.num_cls_tokens) + int(config.num_registers),
    published=published,
    can_be_undone=False,
).family("radio", "C-RADIO", ("radio",))
