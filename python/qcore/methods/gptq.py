"""GPTQ: round column by column, and let the columns still to come make up for each rounding error.

Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023. The sweep runs in float64: the codes then do not depend on the
block size or on how a matrix product was split over threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats import Format
from qcore.methods.base import InputStats
from qcore.qweight import QWeight

__all__ = ["Gptq", "inverse_factor"]


@dataclass(frozen=True)
class Gptq:
    """GPTQ with static groups.

    Attributes:
        damping: added to the Hessian's diagonal, as a fraction of its mean.
        act_order: take the columns with the largest inputs first. Groups stay what they are (static
            groups), so nothing has to be permuted at run time.
        search: choose each group's range by a search that weighs columns by their mean squared input.
        block: columns per lazy update; changes the speed, not the result.
    """

    damping: float = 0.01
    act_order: bool = True
    search: bool = True
    block: int = 64

    name = "gptq"
    needs_calibration = True

    def quantize(
        self, w: Tensor, stats: InputStats | None, format: Format, scale_dtype: torch.dtype
    ) -> QWeight:
        if stats is None or stats.tokens == 0:
            raise ValueError("stats: GPTQ needs calibration inputs, and this layer saw no token")
        hessian = stats.hessian
        n, k = w.shape
        diagonal = hessian.diagonal()
        importance = diagonal if diagonal.sum() > 0 else torch.ones_like(diagonal)
        grid = format.fit(w.float(), scale_dtype, importance, self.search)
        order = (
            torch.argsort(diagonal, descending=True, stable=True)
            if self.act_order
            else torch.arange(k, device=w.device)
        )
        upper = inverse_factor(hessian[order][:, order], self.damping)
        # Transposed, so that what the inner loop touches, one column of the weight, is contiguous.
        work = w.double().T[order].contiguous()
        points = grid.points(order)
        codes = torch.empty_like(work, dtype=torch.uint8)
        for begin in range(0, k, self.block):
            end = min(begin + self.block, k)
            errors = work.new_empty(end - begin, n)
            for i in range(begin, end):
                codes[i], value = points.round(work[i].float(), i)
                error = torch.div(work[i] - value, upper[i, i], out=errors[i - begin])
                work[i + 1 : end].addr_(upper[i, i + 1 : end], error, alpha=-1)
            work[end:].addmm_(upper[begin:end, end:].T, errors, alpha=-1)
        original = torch.empty_like(codes)
        original[order] = codes
        return QWeight(format, (n, k), grid.store(original.T.contiguous()))


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper triangular U with `U^T U = (H + damping * mean(diag H) * I)^-1`, float64 [K, K].

    A Hessian that is not positive definite with the given damping is tried again with ten times as much,
    up to the size of its own diagonal; then it is an error, never a silent fall back to rounding.
    """
    mean = hessian.diagonal().mean()
    if not torch.isfinite(mean):
        raise ValueError("stats: the calibration inputs of this layer hold NaN or infinity")
    if mean <= 0:  # the layer's input is zero on all of the calibration data: any codes are as good
        return torch.eye(hessian.shape[0], dtype=hessian.dtype, device=hessian.device)
    flipped = (hessian / mean).flip(0, 1)  # relative to the mean, so that H and c * H are one problem
    while True:
        damped = flipped + damping * torch.eye(hessian.shape[0], dtype=hessian.dtype, device=hessian.device)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            break
        if damping >= 1:
            raise ValueError(
                f"stats: the Hessian of the calibration inputs is not positive definite even with "
                f"damping {damping:g}; use more calibration tokens"
            )
        damping = min(max(damping * 10, 1e-6), 1.0)
    # J H J = L L^T with J the reversal, so H = R R^T with R = J L J upper, and U = R^-1.
    upper = factor.flip(0, 1)
    identity = torch.eye(hessian.shape[0], dtype=hessian.dtype, device=hessian.device)
    inverse: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
    return inverse
