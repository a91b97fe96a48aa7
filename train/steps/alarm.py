"""Says when a tokenizer's tokens do nothing, from its z-swap ratio (`health`). Importing it costs nothing."""

from __future__ import annotations

from dataclasses import dataclass

SICK_Z_SWAP = 1.05
PATIENCE = 5
"""Readings in a row below the threshold before a warning."""


@dataclass
class ZSwapAlarm:
    """Says once, in words, that the tokens do nothing."""

    warmup_steps: int
    low: int = 0
    """Readings in a row below the threshold so far."""
    _said: bool = False

    def read(self, step: int, z_swap: float) -> str | None:
        """Take one reading; return the warning when it is time for it."""
        if step <= self.warmup_steps:
            return None
        self.low = self.low + 1 if z_swap < SICK_Z_SWAP else 0
        if self.low < PATIENCE or self._said:
            return None
        self._said = True
        return (
            f"at step {step:,} the z-swap ratio is {z_swap:.3f}: with the tokens of other samples the reconstruction "
            f"is hardly worse (healthy is well above {SICK_Z_SWAP}). The decoder ignores the tokens, and a world model "
            "would have nothing to predict. Try a lower learning rate, larger layer scales (network.layer_scale) or "
            "clips with more motion"
        )
