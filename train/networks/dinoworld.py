"""DINO-world: the discriminative baseline, which predicts the next frame's patches and has one future only.

Takes patch features of a clip's frames, with their times. The predictor is DeltaWorld's; its tokens are the patches of
all earlier frames, its queries one learned vector, told apart by time, column and row.

Cost: attention of P queries over t · P patches for frame t: at 256 px and 8 frames about 250 times DeltaWorld's
single-query pass.

Shapes: B batch · T frames of a clip · C context frames · H horizon · P patches = rows × columns of `grid` · D feature
width · W predictor width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deltactl.train.networks.kinds import Kind, Shapes
from deltactl.train.networks.layers import initialise
from deltactl.train.networks.network import Network
from deltactl.train.networks.predictor import Predictor, check_width, predictor_sizes, seeing_all
from deltactl.train.networks.rope import Grid, space_time_rotation


@dataclass(frozen=True)
class DinoWorldConfig:
    """Sizes of the baseline; the defaults are the ViT-B ones."""

    feature_dim: int = 768
    """Width of the backbone's features."""

    width: int = 768
    """Width of the query and the predictor; a multiple of 64."""

    depth: int = 12
    """Blocks of the predictor."""

    heads: int = 12
    """Attention heads, each 64 wide."""

    def __post_init__(self) -> None:
        check_width(self.width, self.depth, self.heads)


class DinoWorld(Network):
    """The discriminative world model over patch features."""

    def __init__(self, config: DinoWorldConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DinoWorldConfig()
        self.q_embed = nn.Embedding(1, config.width)
        self.predictor = Predictor(config.feature_dim, config.width, config.depth)
        initialise(self.q_embed)

    def forward(
        self, features: Float[Tensor, "B T P D"], times: Float[Tensor, "B T"], grid: Grid
    ) -> Float[Tensor, "B T-1 P D"]:
        """Return the training pass: predictions of frames 1 to T − 1, each from the true frames before it."""
        _check_grid(features, grid)
        batch, frames, patches, _ = features.shape
        rotation = space_time_rotation(times, grid)
        memory = self.predictor.remember(features[:, :-1], rotation[:, :-1])
        visible = range(patches, frames * patches, patches)
        return self.predictor(self._queries(batch, frames - 1, patches), rotation[:, 1:], memory, visible)

    @torch.no_grad()
    def rollout(
        self,
        features: Float[Tensor, "B C P D"],
        times: Float[Tensor, "B C"],
        target_times: Float[Tensor, "B H"],
        grid: Grid,
    ) -> Float[Tensor, "B H P D"]:
        """Return the next H frames, each predicted from the context and the predictions before it.

        Times of context and targets count from the same moment.
        """
        _check_grid(features, grid)
        batch, _, patches, _ = features.shape
        memory = self.predictor.remember(features, space_time_rotation(times, grid))
        rotations = space_time_rotation(target_times, grid)
        query = self._queries(batch, 1, patches)
        future: list[Tensor] = []
        for step in range(target_times.shape[1]):
            rotation = rotations[:, step : step + 1]
            if future:
                memory = memory.joined_by(self.predictor.remember(future[-1], rotations[:, step - 1 : step]))
            future.append(self.predictor(query, rotation, memory, seeing_all(memory)))
        return torch.cat(future, dim=1)

    def _queries(self, batch: int, frames: int, patches: int) -> Float[Tensor, "B F P W"]:
        """Return the learned query at every place, without copying it."""
        return self.q_embed.weight.expand(batch, frames, patches, -1)


def _check_grid(features: Float[Tensor, "B T P D"], grid: Grid) -> None:
    """Refuse a grid that is not the features' own."""
    patches = features.shape[2]
    if patches != grid[0] * grid[1]:
        raise ValueError(f"features have {patches} patches, but a grid of {grid[0]} × {grid[1]} was given")


def _infer(weights: Shapes) -> DinoWorldConfig | None:
    """Return the sizes that weights show."""
    return DinoWorldConfig(*predictor_sizes(weights)) if weights.begin_with("q_embed") else None


DINOWORLD = Kind(
    name="dinoworld",
    title="world model (DINO-world)",
    network=DinoWorld,
    default=DinoWorldConfig(),
    infer=_infer,
    paper=True,
)
