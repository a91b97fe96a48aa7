"""A tiny V-JEPA 2 with random weights, in the files of its makers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import VJEPA2Config, VJEPA2Model

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def write_vjepa2(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a model folder: width 48, 2 blocks, patches of 8 pixels, steps of 2 frames."""
    sizes: dict[str, Any] = {
        **{"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "crop_size": 64},
        **{"frames_per_clip": 4, "tubelet_size": 2, "initializer_range": 0.15},
        **{"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1},
        **changes,
    }
    torch.manual_seed(seed)
    VJEPA2Model(VJEPA2Config(**sizes)).save_pretrained(folder)
    said = {"image_mean": MEAN, "image_std": STD, "rescale_factor": 1 / 255}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(said))
    return folder


def library_model(folder: Path, **changes: Any) -> Any:
    """Return the library's own model of a folder, its config changed."""
    config = VJEPA2Config.from_pretrained(folder)
    for name, value in changes.items():
        setattr(config, name, value)
    return VJEPA2Model.from_pretrained(folder, config=config).eval()


def normalised(clip: torch.Tensor) -> torch.Tensor:
    """Return uint8 frames (…, 3, H, W) as the model was trained on them."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return (clip.float() / 255 - mean) / std
