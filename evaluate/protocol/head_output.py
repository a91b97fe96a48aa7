"""From a head's output on one crop to the pixels of the label's part that belongs to the crop.

Takes `(B, C, h, w)` on the feature grid, returns `(B, C, H, W)` of the size of the label's part, as
`ingest.shards.labels.split_target` cuts it. The two crops of a frame that is less than twice as long as it is short
overlap; each keeps only its own end. The output on a whole frame is resized straight to the label. Bilinear,
align_corners false.

B crops · C classes, or 1 for depth
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deltactl.ingest.shards.geometry import crops_overlap


def fit_to_label(
    output: Float[Tensor, "B C h w"],
    label_size: tuple[int, int],
    frame_size: tuple[int, int],
    crop: int,
    *,
    whole: bool = False,
) -> Float[Tensor, "B C H W"]:
    """Return a head's output on crop number `crop` (0 or 1) at the size of that crop's part of the label.

    `label_size` is the (height, width) of the part, `frame_size` that of the stored frame that the crops were cut from;
    `whole` says that it was not cut.
    """
    height, width = label_size
    if whole or not crops_overlap(*frame_size):
        return F.interpolate(output, size=(height, width), mode="bilinear", align_corners=False)
    side = max(height, width)
    square = F.interpolate(output, size=(side, side), mode="bilinear", align_corners=False)
    if crop == 0:
        return square[..., :height, :width]
    if frame_size[1] > frame_size[0]:
        return square[..., :height, side - width :]
    return square[..., side - height :, :width]
