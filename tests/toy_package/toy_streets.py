"""The linear head of another set of 19 classes, beside Cityscapes."""

from __future__ import annotations

from deltactl.train.heads import SegmentationHead, linear_head

STREETS = linear_head(SegmentationHead, "streets", "segmentation head for Streets", 19)
