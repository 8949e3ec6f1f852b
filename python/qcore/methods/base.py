"""What every method has in common: it turns a weight, and what is known of its inputs, into a QWeight."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from qcore.formats import IntGroup
from qcore.qweight import QWeight

__all__ = ["InputStats", "Method"]


class InputStats:
    """What calibration learns of a linear layer's input x [tokens, K].

    Attributes:
        tokens: how many tokens were seen.
        gram: float64 [K, K], the sum of x^T x.
        abs_sum: float64 [K], the sum of |x|.
    """

    def __init__(self, k: int, device: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self.gram = torch.zeros(k, k, dtype=torch.float64, device=device)
        self.abs_sum = torch.zeros(k, dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        """Adds inputs of any leading shape.

        Products are in float64, so that neither the order of the batches nor the way in which a matrix
        product was split over threads decides a code.
        """
        x = x.detach().reshape(-1, self.gram.shape[0]).to(self.gram)
        self.gram.addmm_(x.T, x)
        self.abs_sum += x.abs().sum(0)
        self.tokens += x.shape[0]

    @property
    def hessian(self) -> Tensor:
        """Mean of x^T x, float64 [K, K]: the Hessian of the layer's squared error, up to a factor 2."""
        return self.gram / max(self.tokens, 1)

    @property
    def abs_mean(self) -> Tensor:
        """Mean of |x|, float64 [K]."""
        return self.abs_sum / max(self.tokens, 1)

    def divided_by(self, scale: Tensor) -> InputStats:
        """The statistics of x / scale, scale [K]."""
        s = scale.double()
        scaled = InputStats(0)
        scaled.tokens = self.tokens
        scaled.gram = self.gram / s[:, None] / s[None, :]
        scaled.abs_sum = self.abs_sum / s
        return scaled


class Method(Protocol):
    """Chooses the codes of one weight. Knows formats; knows no kernel and no file."""

    @property
    def name(self) -> str: ...

    @property
    def needs_calibration(self) -> bool: ...

    def quantize(
        self, w: Tensor, stats: InputStats | None, format: IntGroup, scale_dtype: torch.dtype
    ) -> QWeight:
        """Quantizes w [N, K] (any float dtype, computed in float32 or better)."""
        ...
