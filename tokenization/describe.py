"""What a token store's tokens look like: figures for `deltactl info`, and a picture of them.

From a sample of clips, spread evenly over the store; the first frame's token is left out where there are others, since
it stands for a whole frame and not for a difference. The figures are those of `deltactl.train.steps.token_spread`, and
a sample is a clip.

Shapes: C clips · T frames · K tokens a frame · N tokens of a clip · D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from deltactl.featurize.pictures.picture import save_figure
from deltactl.featurize.store.reader import TokenStore
from deltactl.train.steps.token_spread import (
    dead,
    deviations,
    distances,
    effective_rank,
    nearness,
    spread,
    token_spread,
)

SAMPLE_CLIPS = 256


@dataclass(frozen=True)
class TokenSample:
    """Tokens of clips spread evenly over a store."""

    tokens: Float32[Tensor, "C N D"]

    @classmethod
    def of(cls, store: TokenStore, clips: int = SAMPLE_CLIPS) -> TokenSample:
        """Read at most so many clips of a store that has some.

        Raises:
            DamagedError: a clip's bytes are damaged.
        """
        samples = np.unique(np.linspace(0, len(store) - 1, min(clips, len(store))).astype(int)).tolist()
        tokens = store.read_clips(samples)
        return cls((tokens[:, 1:] if tokens.shape[1] > 1 else tokens).flatten(1, 2).float())

    def figures(self) -> dict[str, str]:
        """Return the figures, in words; only how many there are where one token cannot tell."""
        clips, each, width = self.tokens.shape
        found = {"of a sample": f"{clips:,} clips, {clips * each:,} tokens"}
        if clips * each < 2:
            return found
        values = {name: value.item() for name, value in token_spread(self.tokens).items()}
        found["effective rank"] = f"{values['token_rank']:.1f} of at most {min(width, clips * each - 1)}"
        found["spread"] = f"{values['token_spread']:.3f} of their size (0: all the same, 1: their mean is zero)"
        found["dead dimensions"] = f"{values['dead_dimensions']:.1%}"
        if clips > 1:
            found["nearest neighbour"] = f"{values['token_nearest']:.3f} of the distance of two clips' tokens"
        return found

    def draw(self, file: Path, title: str) -> None:
        """Write a picture: singular values, deviations of the dimensions, distances, the two widest directions.

        Raises:
            ConfigError: the file's ending names no picture format.
        """
        from matplotlib.figure import Figure

        clips, each, _ = self.tokens.shape
        flat = self.tokens.flatten(0, 1)
        centred = flat - flat.mean(dim=0)
        left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
        figure = Figure(figsize=(12, 3.4), layout="constrained")
        figure.suptitle(f"{title}: {clips:,} clips, {len(flat):,} tokens, spread {spread(centred, flat).item():.3f}")
        spectrum, varying, apart, map_ = figure.subplots(1, 4)
        rank = effective_rank(singular).item()
        spectrum.semilogy(np.arange(1, len(singular) + 1), (singular / singular[0].clamp_min(1e-30)).numpy())
        spectrum.axvline(rank, color="gray", linestyle=":")
        _label(spectrum, "singular values", "number", "share of the largest", f"effective rank {rank:.1f}")
        deviation = deviations(flat).sort(descending=True).values
        varying.plot(np.arange(1, len(deviation) + 1), deviation.numpy())
        gone = int(dead(deviation).sum())
        varying.set_ylim(bottom=0)
        _label(varying, "dimensions", "number, widest first", "standard deviation", f"{gone:,} dead")
        note = ""
        if clips > 1:
            nearest, pairs = distances(self.tokens)
            note = f"nearest neighbour {nearness(nearest, pairs).item():.3f}"
            top = max(nearest.max().item(), pairs.max().item()) or 1.0
            for values, name in ((nearest, "to the nearest"), (pairs, "of two clips")):
                apart.hist(values.numpy(), bins=40, range=(0, top), density=True, alpha=0.6, label=name)
            apart.legend(frameon=False, fontsize=8)
        _label(apart, "distances", "distance", "density", note)
        places = (left[:, :2] * singular[:2]).numpy()
        frame = np.tile(np.arange(each), clips)
        map_.scatter(places[:, 0], places[:, -1], c=frame, cmap="viridis", s=6, linewidths=0)
        _label(map_, "two widest directions", "first", "second", "dark: early in the clip")
        save_figure(figure, file)


def draw_tokens(store: TokenStore, file: Path) -> int:
    """Draw a sample of a store's clips, and return how many; see `TokenSample.draw`."""
    sample = TokenSample.of(store)
    sample.draw(file, str(store.root).rstrip("/").rpartition("/")[2])
    return len(sample.tokens)


def _label(axes: Any, title: str, x: str, y: str, note: str) -> None:
    """Say what a panel shows."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(f"{x}\n{note}" if note else x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
