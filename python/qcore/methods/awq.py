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

from qcore.formats import Format
from qcore.methods.base import Method, Wrapped, tied_means
from qcore.methods.rtn import Rtn
from qcore.methods.statistics import InputStats

__all__ = ["Awq"]


@dataclass(frozen=True)
class Awq(Wrapped):
    """Activation-aware scales around another method.

    Attributes:
        inner: the method that rounds the scaled weight.
        keeps_divisors: where no earlier module can absorb the scale, the layer divides its input itself. Off:
            such layers are left unscaled, so that every runtime can load the result.
        steps: how many exponents between 0 (scale = 1: no change) and 1 are tried.
        least_gain: a scale is used only if it lowers the layer's error by this fraction, with the inner
            method itself. Smaller gains do not survive on other data.
    """

    inner: Method = field(default_factory=lambda: Rtn(search=True))
    steps: int = 20
    least_gain: float = 0.05

    @property
    def name(self) -> str:
        return "awq" if self.inner.name == "rtn" else f"awq+{self.inner.name}"

    def divisor(
        self,
        weights: Sequence[Tensor],
        stats: InputStats,
        format: Format,
        scale_dtype: torch.dtype,
        tied: Tensor | None = None,
    ) -> Tensor:
        """The scale s, float32 [K], for the weights [N_i, K] that share one input; see `Scaling.divisor`."""
        w = torch.cat([weight.float() for weight in weights])
        magnitude = stats.abs_mean.float()
        if tied is not None:
            magnitude = tied_means(magnitude, tied)
        one = torch.ones_like(magnitude)
        if not magnitude.gt(0).any():
            return one
        magnitude = magnitude.clamp_min(magnitude[magnitude > 0].min())

        def error(method: Method, s: Tensor) -> float:
            q = method.quantize(w * s, stats.divided_by(s), format, scale_dtype)
            return stats.output_error(w - q.dequantize() / s)

        # Rounding to nearest ranks the exponents as well as a costly inner method does.
        ranking = Rtn(search=True)
        best, best_error = one, error(ranking, one)
        for step in range(1, self.steps + 1):
            s = magnitude ** (step / self.steps)
            s = s / (s.max() * s.min()).sqrt()
            if (e := error(ranking, s)) < best_error:
                best, best_error = s, e
        if best is one or error(self.inner, best) <= (1 - self.least_gain) * error(self.inner, one):
            return best
        return one
