"""What the configurations of several stages share: the output, the frozen backbone, the device."""

from __future__ import annotations

from pydantic import Field

from deltactl.configs.base import FOLLOWS, Config
from deltactl.configs.values import AspectRatios, Backbone, CropArea, Device, Place, Precision

DEFAULT_BACKBONE = "facebook/dinov3-vitb16-pretrain-lvd1689m"
"""The frozen network of the published recipe, DINOv3 ViT-B/16, on the Hub."""


class StageConfig(Config):
    """What every stage has."""

    out: Place | None = None
    """Folder or URL to write to; by default in the workspace, named after what goes in."""

    seed: int = Field(default=0, ge=0)
    """Where every random draw comes from, together with what it is for (a source, a clip's key, a step)."""


class BackboneConfig(Config):
    """The frozen backbone, and what it sees."""

    backbone: Backbone = Field(default=DEFAULT_BACKBONE, json_schema_extra=FOLLOWS)
    """Frozen backbone: a name on the Hub, or a folder. A store, tokens and trained networks know theirs."""

    size: int = Field(default=512, ge=16, json_schema_extra=FOLLOWS)
    """Short side of the frames that the backbone sees, in pixels, a multiple of its patch size. Where it is not set,
    that of the data, or what the networks were trained at where their checkpoints say."""


class AugmentationConfig(Config):
    """What a random view of a clip shows; the defaults are the paper's."""

    crop_area: CropArea = "0.6:1"
    """Share of the frame's area that a random crop has, drawn from A to B."""

    aspect: AspectRatios = "0.75:4/3"
    """Width of a random crop by its height, drawn from A to B, as many narrow as wide ones."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability that a random view is mirrored; 0 where left and right matter."""


class LiveAugmentationConfig(AugmentationConfig):
    """The same for training, where a store has its views already and live training draws them."""

    crop_area: CropArea = Field(default="0.6:1", json_schema_extra=FOLLOWS)

    aspect: AspectRatios = Field(default="0.75:4/3", json_schema_extra=FOLLOWS)

    flip: float = Field(default=0.5, ge=0, le=1, json_schema_extra=FOLLOWS)


class DeviceConfig(Config):
    """Where and how networks compute that are not trained."""

    device: Device = "auto"
    """auto (every GPU there is, else the CPU), cpu, cuda or cuda:N."""

    precision: Precision = "auto"
    """Type of matrix products; auto is bfloat16 on a GPU, float32 on a CPU. Heads, losses and metrics are float32."""
