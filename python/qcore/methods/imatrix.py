"""Importance matrix: round to nearest on grids that are fitted where the inputs are large.

The name is llama.cpp's for the mean squared input of each column, by which the error of that column counts
when the scales of a group are chosen. It is what the diagonal of GPTQ's Hessian says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats import Format
from qcore.methods.base import InputStats
from qcore.methods.rtn import Rtn
from qcore.qweight import QWeight

__all__ = ["Imatrix"]


@dataclass(frozen=True)
class Imatrix:
    """Rounds to nearest, with scales for the least error weighted by the mean squared input."""

    name = "imatrix"
    needs_calibration = True

    def quantize(
        self, w: Tensor, stats: InputStats | None, format: Format, scale_dtype: torch.dtype
    ) -> QWeight:
        if stats is None or stats.tokens == 0:
            raise ValueError("stats: imatrix needs calibration inputs, and this layer saw no token")
        return Rtn(search=True).quantize(w, stats, format, scale_dtype)
