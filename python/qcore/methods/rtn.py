"""Round to nearest: no calibration, each weight to the nearest point of its group's grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats import Format
from qcore.methods.base import Method
from qcore.methods.statistics import InputStats
from qcore.qweight import QWeight

__all__ = ["Rtn"]


@dataclass(frozen=True)
class Rtn(Method):
    """Round to nearest.

    Attributes:
        search: shrink each group's range where that lowers the squared error, weighted by the mean squared
            input where a method around this one was calibrated. Off by default: plain min-max rounding.
    """

    search: bool = False

    name = "rtn"
    needs_calibration = False

    def quantize(
        self, w: Tensor, stats: InputStats | None, format: Format, scale_dtype: torch.dtype
    ) -> QWeight:
        importance = None if stats is None else stats.second_moment
        grid = format.fit(w.float(), scale_dtype, importance, self.search)
        n, k = w.shape
        return QWeight(format, (n, k), grid.store(grid.round(w)))
