"""How much an error in each column of a weight counts."""

from __future__ import annotations

from torch import Tensor

__all__ = ["relative"]

# What a column without any importance still counts, relative to the mean (as GPTQ's usual damping does).
_LEAST = 0.01


def relative(importance: Tensor) -> Tensor:
    """Relative to the mean, and never nothing: channels that calibration saw idle may wake up elsewhere."""
    return importance / importance.mean().clamp_min(1e-30) + _LEAST
