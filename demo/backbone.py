"""A small DINOv3 with fixed random weights, in place of the gated one: the demo's frozen backbone.

Random features are poor ones, but real in every respect that matters here: patches, rotary positions, registers, a
final norm. The patch filters are smooth noise, since those of a trained backbone answer to shapes rather than to single
pixels: what moves a little changes the features a little. A bias keeps the norm from blowing up patches that are nearly
grey. Patches of 8 pixels see 64 × 64 frames as 8 × 8 places. The folder is what `transformers` saves, with the
`preprocessor_config.json` that the real one has.
"""

from __future__ import annotations

import json
from pathlib import Path

WIDTH, DEPTH, HEADS = 128, 2, 2
PATCH = 8
FILTER_BIAS = 0.2
"""Standard deviation of the filters' biases; answers to a frame spread by about 0.7."""
LAYER_SCALE = 0.1
"""How much the layers add: with more, what a patch holds reaches all others."""
FILTER_CELLS = 4
"""Random values along each side of a patch filter; between them it is smooth."""


def write_backbone(folder: Path, seed: int = 0) -> None:
    """Write the backbone's folder; the same bytes for the same seed and library versions."""
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    config = DINOv3ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        num_register_tokens=4,
        patch_size=PATCH,
        image_size=64,
        layerscale_value=LAYER_SCALE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DINOv3ViTModel(config)
        filters, biases = model.embeddings.patch_embeddings.weight, model.embeddings.patch_embeddings.bias
        assert biases is not None
        coarse = torch.randn(WIDTH, 3, FILTER_CELLS, FILTER_CELLS)
        smooth = torch.nn.functional.interpolate(coarse, size=(PATCH, PATCH), mode="bicubic")
        with torch.no_grad():
            filters.copy_(smooth * (filters.std() / smooth.std()))
            biases.normal_(0, FILTER_BIAS)
    model.save_pretrained(folder)
    statistics = {
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "rescale_factor": 1 / 255,
        "size": {"height": 64, "width": 64},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics, indent=1) + "\n")
