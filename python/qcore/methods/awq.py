"""AWQ: scale the input channels that matter up before rounding, and their inputs down.

Lin, Tang, Tang, Yang, Dang, Gan, Han: "AWQ: Activation-aware Weight Quantization for LLM Compression and
Acceleration", MLSys 2024. `x @ W^T = (x / s) @ (W * s)^T`: the product is the same, but rounding hurts
the channels with a large s less. The search is exact: the squared error of a layer's output on the
calibration data is the trace of `D H D^T`, D the error of the weight and H the mean of x^T x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcore.formats import IntGroup
from qcore.methods.base import InputStats, Method
from qcore.methods.rtn import Rtn
from qcore.qweight import QWeight

__all__ = ["Awq", "output_error"]


@dataclass(frozen=True)
class Awq:
    """Activation-aware scales around another method.

    Attributes:
        inner: the method that rounds the scaled weight.
        steps: how many exponents between 0 (scale = 1: no change) and 1 are tried.
        act_scale: where no earlier module can absorb the scale, keep it on the layer. Off: such layers
            are left unscaled, so that every runtime can load the result.
    """

    inner: Method = field(default_factory=lambda: Rtn(search=True))
    steps: int = 20
    act_scale: bool = True

    needs_calibration = True

    @property
    def name(self) -> str:
        return "awq" if isinstance(self.inner, Rtn) else f"awq+{self.inner.name}"

    def quantize(
        self, w: Tensor, stats: InputStats | None, format: IntGroup, scale_dtype: torch.dtype
    ) -> QWeight:
        return self.inner.quantize(w, stats, format, scale_dtype)

    def input_scale(
        self,
        weights: Sequence[Tensor],
        stats: InputStats,
        format: IntGroup,
        scale_dtype: torch.dtype,
        tied: Tensor | None = None,
    ) -> Tensor:
        """The scale s, float32 [K], for the weights [N_i, K] that share one input.

        Args:
            tied: int64 [K]; columns with the same number get the same scale (query heads that read one
                value head).
        """
        magnitude = stats.abs_mean.float()
        weight = torch.cat([w.float() for w in weights])
        if tied is not None:
            magnitude = _tie(magnitude, tied)
        best = torch.ones_like(magnitude)
        best_error = self._error(weight, best, stats, format, scale_dtype)
        if not magnitude.gt(0).any():
            return best
        magnitude = magnitude.clamp_min(magnitude[magnitude > 0].min())
        for step in range(1, self.steps + 1):
            s = magnitude ** (step / self.steps)
            s = s / (s.max() * s.min()).sqrt()
            error = self._error(weight, s, stats, format, scale_dtype)
            if error < best_error:
                best, best_error = s, error
        return best

    def _error(
        self, w: Tensor, s: Tensor, stats: InputStats, format: IntGroup, scale_dtype: torch.dtype
    ) -> float:
        q = self.inner.quantize(w * s, stats.divided_by(s), format, scale_dtype)
        return output_error(w, q.dequantize() / s, stats)


def output_error(w: Tensor, quantized: Tensor, stats: InputStats) -> float:
    """Mean squared error of the layer's output per token, summed over the N outputs."""
    delta = (w - quantized).double()
    return float(((delta @ stats.hessian) * delta).sum())


def _tie(values: Tensor, tied: Tensor) -> Tensor:
    groups = int(tied.max()) + 1
    sums = torch.zeros(groups).index_add_(0, tied, values)
    counts = torch.zeros(groups).index_add_(0, tied, torch.ones_like(values))
    return (sums / counts)[tied]
