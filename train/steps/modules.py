"""What one training step and one validation step compute, for each network: the Lightning modules.

A step: the batch passes through the frozen networks (`frozen`), the network and its loss; the gradients are clipped;
AdamW steps with the learning rate of the step's number (`optimization`). What happens around it is in `loop`.

A module holds the network that trains under `network`, and nothing else that has weights, so a checkpoint holds the
trained parameters and no more. Every random draw of a step is a function of the seed, the step and the samples' places
in the stream (`draws`): no random state has to be saved, and neither the number of devices nor interruptions change it.
Queries are drawn on the device that uses them: a GPU draws others than a CPU.

Shapes: B batch · T frames of a clip · Q queries tried · P patches · D width · C outputs of a head · y × x points of a
label · H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from deltactl.tasks.record import Task
from deltactl.train.data.batches import Batch
from deltactl.train.data.draws import seed_of
from deltactl.train.networks.deltatok import DeltaTok
from deltactl.train.networks.deltaworld import BestOfMany, DeltaWorld, draw_queries
from deltactl.train.networks.dinoworld import DinoWorld
from deltactl.train.networks.losses import LOG_COSH, Loss, psnr, smooth_l1
from deltactl.train.networks.rgb_head import NormalisationValues, RGBHead
from deltactl.train.steps.frozen import Frozen
from deltactl.train.steps.health import ratios, tokenizer_health
from deltactl.train.steps.optimization import OptimizerConfig, build_optimizer, set_step

Sums = dict[str, Float[Tensor, ""]]
"""Figures of one batch: means over its samples."""

HEALTH_SAMPLES = 16
"""Samples of a training batch that the health figures are computed on."""


class TrainingModule(pl.LightningModule):
    """What all networks' training has in common; subclasses say what a batch's loss is."""

    network: nn.Module
    has_search = False
    """Whether a step computes a part of itself without gradients; see `compiling`."""

    def __init__(self, network: nn.Module, settings: OptimizerConfig, frozen: Frozen, seed: int) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.seed = seed
        self.graphs = False
        """Whether the step is replayed as a CUDA graph."""
        # In a tuple, where neither nn.Module nor Lightning looks for parameters.
        self._frozen = (frozen,)
        self.figures: Sums = {}
        """What the last step found besides its loss; read by the metrics callback."""
        self.wants_figures = False
        """Whether the metrics callback will read the figures of this step, which cost something."""
        self.gradient_norm: Tensor | None = None
        """Norm of the last gradients before clipping, where figures were wanted."""

    @property
    def frozen(self) -> Frozen:
        """The networks in front."""
        return self._frozen[0]

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the loss of a training batch; figures go to `self.figures` where they are wanted."""
        raise NotImplementedError

    def figures_of(self, batch: Batch) -> Sums:
        """Return the figures of a validation batch, `loss` among them."""
        raise NotImplementedError

    def health_of(self, figures: Mapping[str, float]) -> dict[str, float]:  # noqa: ARG002 (subclasses use it)
        """Return the ratios of mean figures that say whether the network learns what it should (`health`)."""
        return {}

    # --- what Lightning calls ---

    def configure_optimizers(self) -> AdamW:
        """Return AdamW."""
        return build_optimizer(self.network, self.settings)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let AdamW's kernel be that of this start, not that of the start before, which may have been elsewhere."""
        for state in checkpoint["optimizer_states"]:
            for group in state["param_groups"]:
                group["fused"] = self.settings.fused

    def on_fit_start(self) -> None:
        """Move the frozen networks to this device."""
        self.frozen.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return the loss; the random draws of a step are the same on all devices."""
        torch.manual_seed(seed_of(self.seed, "step", self.global_step))
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()  # what the step before gave out may be overwritten
        return self.loss(batch)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Set this step's learning rate and decay; measure the gradients before they are clipped."""
        set_step(optimizer, self.settings, self.global_step)
        if self.wants_figures:
            gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
            self.gradient_norm = torch.nn.utils.get_total_norm(gradients)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002 (the signature is Lightning's)
    ) -> None:
        """Clip the gradients' norm.

        Lightning's own way refuses fused optimizers in every mixed precision, since one of them, float16's, would clip
        scaled gradients; ours are fused in bfloat16 and float32 only, where nothing is scaled.
        """
        if gradient_clip_val:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def validation_step(self, batch: Batch, batch_idx: int) -> Sums:  # noqa: ARG002
        """Return the batch's figures; the validation callback averages them."""
        return self.figures_of(batch)


class TokenizerModule(TrainingModule):
    """DeltaTok on pairs of consecutive frames (arXiv 2604.04913)."""

    network: DeltaTok

    def __init__(
        self, network: DeltaTok, settings: OptimizerConfig, frozen: Frozen, seed: int, minimised: Loss = LOG_COSH
    ) -> None:
        super().__init__(network, settings, frozen, seed)
        self.minimised = minimised

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the loss of the reconstruction of each pair's second frame."""
        batch = self.frozen.features(batch)
        assert batch.grid is not None
        previous, current = batch.data.unbind(1)
        loss = self.minimised.compute(self.network(previous, current, batch.grid), current)
        if self.wants_figures:
            few = batch.few(HEALTH_SAMPLES)
            self.figures = tokenizer_health(self.network, previous[few], current[few], batch.grid, self.minimised)
        return loss

    def figures_of(self, batch: Batch) -> Sums:
        """Return the losses with the right tokens, with swapped ones, and of copying."""
        batch = self.frozen.features(batch)
        assert batch.grid is not None
        previous, current = batch.data.unbind(1)
        return tokenizer_health(self.network, previous, current, batch.grid, self.minimised)

    def health_of(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the z-swap ratio and the copy ratio."""
        return ratios(figures) if figures else {}


class WorldModule(TrainingModule):
    """DeltaWorld on clips of tokens, the best of many queries (arXiv 2604.04913)."""

    network: DeltaWorld
    has_search = True

    def __init__(
        self,
        network: DeltaWorld,
        settings: OptimizerConfig,
        frozen: Frozen,
        seed: int,
        queries: int,
        search_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(network, settings, frozen, seed)
        self.queries = queries
        self.search_dtype = search_dtype

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the smooth-L1 loss of the predictions from the best of Q queries."""
        found = self._best_of_many(batch, "queries")
        if self.wants_figures:
            self.figures = _world_figures(found)
        return found.loss

    def figures_of(self, batch: Batch) -> Sums:
        """Return the loss, the mean over the queries, and their spread."""
        return _world_figures(self._best_of_many(batch, "validation"))

    def health_of(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the loss of the mean query over that of the best one, and the spread of the predictions."""
        if not figures.get("best"):
            return {}
        return {"mean_over_best": figures["mean"] / figures["best"], "spread": figures["spread"]}

    def _best_of_many(self, batch: Batch, purpose: str) -> BestOfMany:
        batch = self.frozen.tokens(batch)
        found: BestOfMany = self.network(batch.data, batch.times, self._draw(batch, purpose), self.search_dtype)
        return found

    def _draw(self, batch: Batch, purpose: str) -> Float[Tensor, "B future Q W"]:
        """Return the queries of each sample, which depend on its place and not on the batch around it.

        A query is one future of a frame: all tokens of the frame share it.
        """
        shape = (len(batch.places), batch.data.shape[1] - 1, self.queries, self.network.config.width)
        generator, drawn = torch.Generator(self.device), torch.empty(shape, device=self.device)
        for queries, place in zip(drawn, batch.places.tolist(), strict=True):
            generator.manual_seed(seed_of(self.seed, purpose, place))
            draw_queries(generator, *shape[1:], out=queries)
        return drawn


class DinoWorldModule(TrainingModule):
    """DINO-world, the discriminative baseline, on clips of patch features."""

    network: DinoWorld

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the smooth-L1 loss of the next frames' features."""
        batch = self.frozen.features(batch)
        assert batch.grid is not None
        return smooth_l1(self.network(batch.data, batch.times, batch.grid), batch.data[:, 1:])

    def figures_of(self, batch: Batch) -> Sums:
        """Return the loss, and that of copying the frame before."""
        batch = self.frozen.features(batch)
        return {"loss": self.loss(batch), "copied": smooth_l1(batch.data[:, :-1], batch.data[:, 1:])}

    def health_of(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the copy ratio."""
        return {"copy": figures["loss"] / figures["copied"]} if figures.get("copied") else {}


class HeadModule(TrainingModule):
    """A head on frozen features, which learns what its task says (`tasks`).

    Outputs are resized bilinearly to the labels' points.
    """

    def __init__(self, network: nn.Module, settings: OptimizerConfig, frozen: Frozen, seed: int, task: Task) -> None:
        super().__init__(network, settings, frozen, seed)
        self.task = task

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the loss over the points that count."""
        assert batch.labels is not None
        return self.task.loss(self._output(batch), batch.labels)

    def figures_of(self, batch: Batch) -> Sums:
        """Return the loss, and what the task shows beside it."""
        assert batch.labels is not None
        output = self._output(batch)
        return {"loss": self.task.loss(output, batch.labels), **self.task.figures(output, batch.labels)}

    def _output(self, batch: Batch) -> Float32[Tensor, "B C y x"]:
        assert batch.grid is not None
        assert batch.labels is not None
        features = batch.data[:, 0].float().mT.unflatten(-1, batch.grid)
        size = (int(batch.labels.shape[1]), int(batch.labels.shape[2]))
        return F.interpolate(self.network(features).float(), size=size, mode="bilinear", align_corners=False)


class RGBModule(TrainingModule):
    """The RGB head on single frames: L1 between pixels, each channel normalised as the backbone does."""

    network: RGBHead

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the mean distance of the pixels, in standard deviations of their channel."""
        return self._distance(*self._pictures(batch))

    def figures_of(self, batch: Batch) -> Sums:
        """Return the loss, and how near the pictures are (PSNR, in dB), beside the mean colour of each frame."""
        pictures, frames = self._pictures(batch)
        plain = frames.mean((2, 3), keepdim=True).expand_as(frames)
        return {
            "loss": self._distance(pictures, frames),
            "psnr": psnr(pictures.clamp(0, 1), frames).mean(),
            "plain_psnr": psnr(plain, frames).mean(),
        }

    def _pictures(self, batch: Batch) -> tuple[Float32[Tensor, "B 3 H W"], Float32[Tensor, "B 3 H W"]]:
        """Return what the head makes of the features, and the frames, as RGB in [0, 1]."""
        assert batch.grid is not None
        assert batch.pixels is not None
        features = batch.data[:, 0].float().mT.unflatten(-1, batch.grid)
        return self.network(features, self._undone), batch.pixels.float() / 255

    def _distance(
        self, pictures: Float32[Tensor, "B 3 H W"], frames: Float32[Tensor, "B 3 H W"]
    ) -> Float32[Tensor, ""]:
        deviations = self._undone.image_std[:, None, None]
        return F.l1_loss(pictures / deviations, frames / deviations)

    @property
    def _undone(self) -> NormalisationValues:
        assert self.frozen.undone is not None, "the backbone behind the store was loaded"
        return self.frozen.undone


def _world_figures(found: BestOfMany) -> Sums:
    return {
        "loss": found.loss.detach(),
        "best": found.best_loss.mean(),
        "mean": found.mean_loss.mean(),
        "spread": found.spread.mean(),
    }
