"""Says when a tokenizer's tokens do nothing, from its z-swap ratio (`health`). Importing it costs nothing.

The one rule of training and `watch`: tokens matter where the ratio is above 1.02. Within 2 % of 1 the decoder does as
well with the tokens of other samples, so it ignores them; below 0.98 it does better with them, so they mislead it.

A run begins there, and leaves it during the warm-up or a few times as many steps later. So the warning waits until no
reading was above 1.02 over three times as many steps as the warm-up took: 15,000 for the published stages, 1.5 % of
their first. It waits for five readings at least, since one is of 16 samples of each process, and at the last step for
no more than one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MARGIN = 0.02
"""How near to 1 the ratio is where the tokens do nothing."""
HEALTHY_Z_SWAP = 1 + MARGIN
"""Above it the tokens matter."""
WARM_UPS = 3
"""How often the steps of the warm-up pass after it, at least, before a warning."""
PATIENCE = 5
"""Readings in a row that it takes, at least, for a warning and for taking it back."""
LAYER_SCALE = 0.3
"""What layer scales should start from where the tokens do nothing."""


def is_sick(z_swap: float) -> bool:
    """Whether a reading says that the tokens do nothing, or mislead; one that is no number says nothing."""
    return z_swap <= HEALTHY_Z_SWAP


@dataclass
class ZSwapAlarm:
    """Says once, in words, that the tokens do nothing, and once if they come to matter after all."""

    warmup_steps: int = 0
    last_step: int | None = None
    """At which the run ends; None where it is not known."""
    lr: float | None = None
    """Learning rate after the warm-up; None where it is not known."""
    layer_scale: float | None = None
    """What the layer scales started from; None where it is not known."""

    low: int = 0
    """Readings in a row so far that were not above the threshold."""
    low_since: int | None = None
    """The step of the first of them; None where there is none, or it is not known."""
    warning: str | None = None
    """What was said, while it holds."""
    _warned_at: int = 0
    _high: int = 0
    """Readings in a row above the threshold, since the warning."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ZSwapAlarm:
        """Return the alarm of a run with these settings, those of its `config.yaml`."""
        network = settings.get("network")
        scale = network.get("layer_scale") if isinstance(network, Mapping) else None
        steps = _number(settings.get("steps"))
        return cls(
            int(_number(settings.get("warmup_steps")) or 0),
            None if steps is None else int(steps),
            _number(settings.get("lr")),
            _number(scale),
        )

    def read(self, step: int, z_swap: float) -> str | None:
        """Take one reading; return a sentence when it is time for it: a warning, or that it holds no more."""
        if step <= self.warmup_steps:
            return None
        if not is_sick(z_swap):
            self.low, self.low_since = 0, None
            return self._take_back(step, z_swap)
        self._high = 0
        self.low += 1
        self.low_since = step if self.low_since is None else self.low_since
        waited = self.low >= PATIENCE and step - self.low_since >= WARM_UPS * self.warmup_steps
        if self.warning is not None or not (waited or step == self.last_step):
            return None
        self._warned_at = step
        self.warning = f"{self._finding(step, z_swap)} {self._advice(step)}"
        return self.warning

    def _take_back(self, step: int, z_swap: float) -> str | None:
        self._high += 1
        if self.warning is None or self._high < PATIENCE:
            return None
        self.warning = None
        return (
            f"at step {step:,} the z-swap ratio is {z_swap:.3f}, and was above {HEALTHY_Z_SWAP} in {PATIENCE} readings "
            f"in a row: the tokens matter now, and the warning of step {self._warned_at:,} holds no more"
        )

    def _finding(self, step: int, z_swap: float) -> str:
        since = "" if self.low == 1 else f", and never above {HEALTHY_Z_SWAP} since step {self.low_since:,}"
        if z_swap < 1 - MARGIN:
            what = "is better. The tokens mislead the decoder"
        else:
            what = f"is as good (within {100 * MARGIN:g} %). The decoder ignores the tokens"
        return (
            f"at step {step:,} the z-swap ratio is {z_swap:.3f}{since}: with the tokens of other samples the "
            f"reconstruction {what}, and a world model would have nothing to predict."
        )

    def _advice(self, step: int) -> str:
        """Return what to do, what helps most first."""
        ways = []
        if self.layer_scale is None or self.layer_scale < LAYER_SCALE:
            ways.append(f"--set network.layer_scale={LAYER_SCALE:g}{_here(self.layer_scale)}")
        ways.append("a lower --lr" + _here(self.lr))
        ways.append(f"a longer warm-up, --set warmup_steps=N{_here(self.warmup_steps)}")
        ways.append("clips with more motion, from larger gaps between frames (deltactl ingest --stride)")
        start = "Start" if step == self.last_step else "Stop it, and start"
        return f"{start} anew from scratch with, in this order, {'; '.join(ways)}"


def _number(value: object) -> float | None:
    """Return a number of a settings file, None for anything else, and for what is too large to be meant."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18 else None


def _here(value: float | None) -> str:
    return "" if value is None else f" (here {value:g})"
