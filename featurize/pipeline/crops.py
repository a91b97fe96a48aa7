"""Crops, resizes and mirrors the frames of a clip on the device that will run the backbone.

Takes and returns uint8. Bilinear without antialiasing, within one level of OpenCV's INTER_LINEAR, which the published
weights were trained with. All frames of a clip are resized at once. A crop that has the right size already is only cut.
"""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from deltactl.configs.frame_size import FrameSize
from deltactl.featurize.views import View


def crop_resize(
    frames: UInt8[Tensor, "frame 3 height width"], view: View, size: FrameSize
) -> UInt8[Tensor, "frame 3 h w"]:
    """Return the view of the frames resized to `size`.

    Raises:
        ValueError: the crop reaches beyond the frames.
    """
    box = view.crop
    height, width = frames.shape[2:]
    if box.top < 0 or box.left < 0 or box.top + box.height > height or box.left + box.width > width:
        raise ValueError(f"the crop {box} reaches beyond frames of {height} × {width} pixels")
    cut = frames[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
    if (box.height, box.width) != size.pair:
        # On a CPU torch resizes uint8 itself, ten times as fast as by way of float32; on a GPU it cannot.
        pixels = cut if cut.device.type == "cpu" else cut.float()
        resized = functional.interpolate(pixels, size.pair, mode="bilinear", align_corners=False)
        cut = resized if resized.dtype == torch.uint8 else resized.round_().to(torch.uint8)
    return (cut.flip(3) if view.flip else cut).contiguous()
