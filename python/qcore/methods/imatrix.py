"""Importance matrix: round to nearest on grids that are fitted where the inputs are large.

The name is llama.cpp's for the mean squared input of each column, by which the error of that column counts
when the scales of a group are chosen: the diagonal of GPTQ's Hessian.

The grid of least squares makes weights smaller: what it rounds to is orthogonal to its error. All columns do
so at once, and outputs shrink. So each row is stretched by the factor that is best for its outputs, and
rounded again; its codes stay nearly the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats import Format
from qcore.methods.base import Method
from qcore.methods.rtn import Rtn
from qcore.methods.statistics import InputStats
from qcore.qweight import QWeight

__all__ = ["Imatrix"]

# The inputs of rows with a larger factor than this are hardly seen.
_MOST = 1.25


@dataclass(frozen=True)
class Imatrix(Method):
    """Rounds to nearest, with scales for the least error weighted by the mean squared input.

    Attributes:
        stretch: make up for what rounding takes from each row's outputs.
    """

    stretch: bool = True

    name = "imatrix"
    needs_calibration = True

    def quantize(
        self, w: Tensor, stats: InputStats | None, format: Format, scale_dtype: torch.dtype
    ) -> QWeight:
        if stats is None or stats.tokens == 0:
            raise ValueError("stats: imatrix needs calibration inputs, and this layer saw no token")
        method = Rtn(search=True)
        q = method.quantize(w, stats, format, scale_dtype)
        if not self.stretch:
            return q
        hessian, exact, rounded = stats.hessian, w.double(), q.dequantize().double()
        factor = _inner(rounded, exact, hessian) / _inner(rounded, rounded, hessian).clamp_min(1e-30)
        factor = torch.where(factor > 0, factor.clamp(1 / _MOST, _MOST), 1.0)
        stretched = method.quantize(w * factor.float(), stats, format, scale_dtype).dequantize().double()
        error, before = exact - stretched, exact - rounded
        # Scales that are powers of two hardly stretch.
        better = _inner(error, error, hessian) < _inner(before, before, hessian)
        mixed = method.quantize(w * torch.where(better, factor, 1.0).float(), stats, format, scale_dtype)
        # Where rows share a scale, what helps one may cost others.
        error = exact - mixed.dequantize().double()
        return mixed if _inner(error, error, hessian).sum() < _inner(before, before, hessian).sum() else q


def _inner(a: Tensor, b: Tensor, hessian: Tensor) -> Tensor:
    """The mean product of the outputs of each row of a and b, [N, 1]."""
    return ((a @ hessian) * b).sum(1, keepdim=True)
