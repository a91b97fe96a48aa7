"""DeltaWorld: many possible next frames, one for each noise query.

Takes a clip as T frames of K delta tokens (published: one), the first against the black frame, with their times in
seconds since its first frame. A query is noise; at the time of a frame, attending to the tokens of the frames before
it, it becomes one possible future of that frame: all its tokens. Training keeps, for each frame, the best of Q queries;
a rollout lets sampled tokens join what is known.

The K tokens of a frame are predicted together and turn with the same time. A future is one draw q, and a learned
embedding e of the token's number k, zero at the start, tells its tokens apart:

    token k's query = q + e_k                       before the first block
    its key, layer l = turn(K_l z_k + b_l + e_k)    as a token of an earlier frame; its value has no e

A query sees all tokens of earlier frames, none of its own. Which of the Q queries is the best is decided by the mean
loss over all K · d entries of a frame. With K = 1 there is no embedding: this is the published network.

Cost: a training step is Q · K query passes without gradients and K with. What depends on the tokens alone, with K = 1 a
third of it, is computed once for all of them (see `predictor`); of the rest nine tenths are the MLP's matrix products.

Shapes: B batch · T frames of a clip · F = T − 1 frames predicted in training · K tokens of a frame · Q queries tried ·
C context frames · H horizon · S samples · P patches · D feature width · d token width · W query width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from deltactl.devices import products_in
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.kinds import Kind, Shapes
from deltactl.train.networks.losses import smooth_l1, smooth_l1_each
from deltactl.train.networks.network import Network
from deltactl.train.networks.predictor import Memory, Predictor, check_width, predictor_sizes, seeing_all
from deltactl.train.networks.rope import Grid, Rotation, time_rotation

QUERY_STD = 0.02
"""Standard deviation of the noise queries, as in the paper."""

SEARCH_ROWS = {"cuda": 262_144, "cpu": 2048}
"""Queries, one for each token, that pass through the network at once in the search. On a GPU up to 146 clips with 256
queries for each of 7 frames of one token (about 4 GB at width 768): a compiled search is unrolled once for every part.
On a CPU few, so that intermediate results stay in its caches (0.85 of the time of 32,768)."""


@dataclass(frozen=True)
class DeltaWorldConfig:
    """Sizes of the world model; the defaults are the published ViT-B ones."""

    token_dim: int = 768
    """Width of the tokens, the tokenizer's width."""

    width: int = 768
    """Width of the queries and the predictor; a multiple of 64."""

    depth: int = 12
    """Blocks of the predictor."""

    heads: int = 12
    """Attention heads, each 64 wide."""

    tokens_per_frame: int = 1
    """Tokens of a frame, K, as the tokenizer makes them."""

    def __post_init__(self) -> None:
        check_width(self.width, self.depth, self.heads)
        if self.tokens_per_frame < 1:
            raise ValueError(f"tokens_per_frame is {self.tokens_per_frame}, expected at least 1 token")


@dataclass(frozen=True)
class BestOfMany:
    """What one best-of-many step found. `loss` carries gradients, the rest none."""

    loss: Float[Tensor, ""]
    """Smooth-L1 of the predictions from the kept queries, mean over everything."""

    kept: Int[Tensor, "B F"]
    """Index of the kept query, 0 to Q − 1."""

    kept_queries: Float[Tensor, "B F W"]
    """The kept queries themselves."""

    best_loss: Float[Tensor, "B F"]
    """Selection loss of the kept query, the least of Q."""

    mean_loss: Float[Tensor, "B F"]
    """Selection loss, mean over all Q queries; its ratio to `best_loss` says what many tries are worth."""

    spread: Float[Tensor, "B F"]
    """Standard deviation of the predictions over the Q queries, mean over K · d; 0 when all futures are the same."""


class DeltaWorld(Network):
    """The generative world model over delta tokens (arXiv 2604.04913)."""

    def __init__(self, config: DeltaWorldConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DeltaWorldConfig()
        self.predictor = Predictor(config.token_dim, config.width, config.depth)
        self.token_embed: nn.Embedding | None = None
        if config.tokens_per_frame > 1:
            self.token_embed = nn.Embedding(config.tokens_per_frame, config.width)
            nn.init.zeros_(self.token_embed.weight)

    def forward(
        self,
        tokens: Float[Tensor, "B T K d"],
        times: Float[Tensor, "B T"],
        queries: Float[Tensor, "B T-1 Q W"],
        search_dtype: torch.dtype | None = None,
    ) -> BestOfMany:
        """Return one best-of-many training step.

        Q queries are tried for each of frames 1 to T − 1; the best one predicts again, with gradients.

        `search_dtype`: the type of the matrix products that try the queries; None is that of what is around.
        """
        targets = tokens[:, 1:]
        positions = time_rotation(times)
        memory = self._remember_past(tokens, positions)
        with torch.no_grad(), products_in(search_dtype, tokens.device):
            losses, spread = self._search(memory, positions, queries, targets)
            best_loss, kept = losses.min(dim=-1)
            kept_queries = queries.gather(2, kept[:, :, None, None].expand(-1, -1, 1, queries.shape[-1]))
        prediction = self._predict_frames(memory, positions, kept_queries)[:, :, 0].unflatten(2, targets.shape[2:])
        return BestOfMany(
            loss=smooth_l1(prediction, targets),
            kept=kept,
            kept_queries=kept_queries[:, :, 0],
            best_loss=best_loss,
            mean_loss=losses.mean(-1),
            spread=spread,
        )

    def predict(
        self, tokens: Float[Tensor, "B T K d"], times: Float[Tensor, "B T"], queries: Float[Tensor, "B T-1 W"]
    ) -> Float[Tensor, "B T-1 K d"]:
        """Return predictions of frames 1 to T − 1 from one query each, every frame from those before it."""
        positions = time_rotation(times)
        memory = self._remember_past(tokens, positions)
        predicted = self._predict_frames(memory, positions, queries[:, :, None])
        return predicted[:, :, 0].unflatten(2, tokens.shape[2:])

    @torch.no_grad()
    def rollout_tokens(
        self,
        tokens: Float[Tensor, "B C K d"],
        times: Float[Tensor, "B C"],
        target_times: Float[Tensor, "B H"],
        queries: Float[Tensor, "B S H W"],
    ) -> Float[Tensor, "B S H K d"]:
        """Return S futures of H frames' tokens: each query predicts the next frame's, which its own sample then sees.

        Samples do not meet, so a caller may roll out a few at a time.
        """
        samples, horizon = queries.shape[1:3]
        memory = self._remember(tokens, time_rotation(times)).for_samples(samples)
        rotations = time_rotation(target_times.repeat_interleave(samples, dim=0))
        future = []
        for step in range(horizon):
            rotation = rotations[:, step : step + 1]
            query = self._asking(queries[:, :, step].flatten(0, 1)[:, None, None])
            predicted = self.predictor(query, rotation, memory, seeing_all(memory))  # (B · S, 1, K, D)
            future.append(predicted[:, 0])
            if step + 1 < horizon:
                memory = memory.joined_by(self._remember(predicted, rotation))
        return torch.stack(future, dim=1).unflatten(0, queries.shape[:2])

    @torch.no_grad()
    def rollout(
        self,
        tokens: Float[Tensor, "B C K d"],
        times: Float[Tensor, "B C"],
        target_times: Float[Tensor, "B H"],
        last_features: Float[Tensor, "B P D"],
        tokenizer: DeltaTok,
        grid: Grid,
        queries: Float[Tensor, "B S H W"],
    ) -> Float[Tensor, "B S H P D"]:
        """Return S futures of H frames' features.

        `rollout_tokens` makes the tokens; the tokenizer decodes each from the frame before it, the first from
        `last_features`, those of the last context frame. Times of context and targets count from the same moment.
        """
        samples = queries.shape[1]
        future = self.rollout_tokens(tokens, times, target_times, queries)
        start = last_features.repeat_interleave(samples, dim=0)
        return tokenizer.decode_clip(future.flatten(0, 1), start, grid).unflatten(0, future.shape[:2])

    def _remember(self, tokens: Float[Tensor, "B F K d"], positions: Rotation) -> Memory:
        """Return the memory of frames' tokens, marked with their numbers.

        Raises:
            ValueError: the tokens are of another number or width than this network's.
        """
        wanted, found = (self.config.tokens_per_frame, self.config.token_dim), tuple(tokens.shape[2:])
        if found != wanted:
            raise ValueError(f"a frame has {found[0]} tokens of width {found[1]}, expected {wanted[0]} of {wanted[1]}")
        return self.predictor.remember(tokens, positions, None if self.token_embed is None else self.token_embed.weight)

    def _remember_past(self, tokens: Float[Tensor, "B T K d"], positions: Rotation) -> Memory:
        """Return the memory of all frames but the last, which no prediction may see."""
        return self._remember(tokens[:, :-1], positions[:, :-1])

    def _asking(self, queries: Float[Tensor, "B F Q W"]) -> Float[Tensor, "B F G W"]:
        """Return what is asked of the predictor, G = Q · K queries a frame: each of the Q once for every token."""
        if self.token_embed is None:
            return queries
        return (queries[:, :, :, None] + self.token_embed.weight).flatten(2, 3)

    def _predict_frames(
        self, memory: Memory, positions: Rotation, queries: Float[Tensor, "B F Q W"]
    ) -> Float[Tensor, "B F Q E"]:
        """Return predictions of frames 1 to T − 1, Q for each, as E = K · d entries; frame t sees t frames' tokens."""
        count, frames = self.config.tokens_per_frame, queries.shape[1]
        visible = range(count, count * frames + 1, count)
        predicted = self.predictor(self._asking(queries), positions[:, 1:], memory, visible)
        return predicted.unflatten(2, (-1, count)).flatten(3)

    def _search(
        self,
        memory: Memory,
        positions: Rotation,
        queries: Float[Tensor, "B F Q W"],
        targets: Float[Tensor, "B F K d"],
    ) -> tuple[Float[Tensor, "B F Q"], Float[Tensor, "B F"]]:
        """Return the selection loss of every query and the spread, a few clips (and of one, queries) at a time.

        Predictions are let go of clip by clip: with 32 tokens as wide as features, those of a batch would be 22 GB.
        """
        frames, tries = queries.shape[1:3]
        rows = SEARCH_ROWS["cuda" if queries.device.type == "cuda" else "cpu"] // self.config.tokens_per_frame
        clips, queries_at_once = max(1, rows // (frames * tries)), max(1, rows // frames)
        losses, spread = [], []
        for first in range(0, len(queries), clips):
            some = slice(first, first + clips)
            parts = queries[some].split(queries_at_once, dim=2)
            predicted = [self._predict_frames(memory[some], positions[some], part) for part in parts]
            predictions = torch.cat(predicted, dim=2)
            losses.append(smooth_l1_each(predictions, targets[some].flatten(2)[:, :, None]))
            spread.append(predictions.float().std(dim=2, correction=0).mean(-1))
        return torch.cat(losses), torch.cat(spread)


def draw_queries(
    generator: torch.Generator, *shape: int, out: Float[Tensor, " *shape"] | None = None
) -> Float[Tensor, " *shape"]:
    """Return noise queries, 0.02 · N(0, 1), of this shape, on the generator's device, written to `out` if given.

    A generator on the CPU draws the same queries for every device.
    """
    queries = torch.empty(shape, device=generator.device) if out is None else out
    return queries.normal_(generator=generator).mul_(QUERY_STD)


def _infer(weights: Shapes) -> DeltaWorldConfig | None:
    """Return the sizes that weights show."""
    if weights.begin_with("q_embed") or not (weights.have("predictor.blocks") or weights.have("predictor.head")):
        return None
    count = weights.size("token_embed.weight", 0, axes=2) if weights.have("token_embed") else 1
    return DeltaWorldConfig(*predictor_sizes(weights), tokens_per_frame=count)


WORLD = Kind(
    name="world",
    title="world model (DeltaWorld)",
    network=DeltaWorld,
    default=DeltaWorldConfig(),
    infer=_infer,
    paper=True,
    added=("tokens_per_frame",),
)
