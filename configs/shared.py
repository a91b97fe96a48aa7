"""What the configurations of several stages share: the output, the frozen backbone, the device."""

from __future__ import annotations

from pydantic import Field, model_validator

from deltactl.configs.backbone_name import BackboneName
from deltactl.configs.base import FOLLOWS, Config
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.values import AspectRatios, Backbone, CropArea, Device, File, Place, Precision, Size

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

    layers: tuple[int, ...] | None = None
    """Blocks of the backbone whose outputs are the features, counted from 1; several stand side by side. By default
    the last one. Becomes a part of the backbone's name: NAME?layers=8,11."""

    norm: bool | None = None
    """Whether the backbone's final norm is applied to each of these layers, as it is by default. Becomes a part of the
    backbone's name where it is not: NAME?norm=off."""

    size: Size = Field(default=FrameSize(512, 512), json_schema_extra=FOLLOWS)
    """Frames that the backbone sees, in pixels, multiples of its patch size: N for squares (or the short side of what
    squares are cut from), HxW, height first, for others. Where it is not set, that of the data, or what the networks
    were trained at where their checkpoints say."""

    @model_validator(mode="after")
    def _choice_in_the_name(self) -> BackboneConfig:
        """Put `layers` and `norm` into the backbone's name: what follows a name then follows them."""
        name = BackboneName.parse(self.backbone)
        if self.layers is not None or self.norm is not None:
            # In place, although a configuration is frozen: pydantic wants its own object back.
            chosen = str(name.choosing(self.layers, self.norm))
            self.__dict__.update(backbone=chosen, layers=None, norm=None)
            self.__pydantic_fields_set__.difference_update({"layers", "norm"})
            self.__pydantic_fields_set__.add("backbone")
        return self


class AugmentationConfig(Config):
    """What a random view of a clip shows; the defaults are the paper's."""

    crop_area: CropArea = "0.6:1"
    """Share of the frame's area that a random crop has, drawn from A to B."""

    aspect: AspectRatios = "0.75:4/3"
    """Width of a random crop by its height, drawn from A to B, as many narrow as wide ones; relative to that of the
    frames it becomes (--size), where these are no squares."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability that a random view is mirrored; 0 where left and right matter."""


class WhereConfig(Config):
    """Which clips of the data count."""

    where: File | None = None
    """List of clips to leave out, a key a line, such as the clips.txt of deltactl curate. They neither train nor
    validate; a run goes on with the same list only."""


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
