"""GPTQ: round column by column, and let the columns still to come make up for each rounding error.

Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023. A column that was rounded early knows nothing of the errors that came
after it. So the result is descended further: column by column each code moves to the point that is best given
all others, sweep after sweep. All of it runs in float64: the codes then do not depend on the block size or on
how a matrix product was split over threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats import Format, Points
from qcore.methods.base import Method
from qcore.methods.statistics import InputStats
from qcore.qweight import QWeight

__all__ = ["Gptq", "inverse_factor"]


@dataclass(frozen=True)
class Gptq(Method):
    """GPTQ with static groups, and coordinate descent from there.

    Attributes:
        damping: added to the Hessian's diagonal, as a fraction of its mean.
        act_order: take the columns with the largest inputs first. Groups stay what they are (static
            groups), so nothing has to be permuted at run time.
        search: choose each group's range by a search that weighs columns by the root of their mean squared
            input: an error that is passed on to other columns counts less than one that stays.
        block: columns per lazy update; changes the speed, not the result.
        sweeps: of the descent, at most; each costs about twice what GPTQ itself costs. 0: GPTQ alone.
    """

    damping: float = 0.01
    act_order: bool = True
    search: bool = True
    block: int = 64
    sweeps: int = 4

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
        importance = diagonal.sqrt() if diagonal.sum() > 0 else torch.ones_like(diagonal)
        grid = format.fit(w.float(), scale_dtype, importance, self.search)
        order = (
            torch.argsort(diagonal, descending=True, stable=True)
            if self.act_order
            else torch.arange(k, device=w.device)
        )
        hessian = hessian[order][:, order]
        points = grid.points(order)
        # Transposed, so that what the inner loops touch, one column of the weight, is contiguous.
        target = w.double().T[order].contiguous()
        codes, values = self._feed_back(target, points, inverse_factor(hessian, self.damping))
        if self.sweeps:
            error = target.sub_(values)
            self._descend(_relative(hessian, self.damping), error, points, codes, values)
        original = torch.empty_like(codes)
        original[order] = codes
        return QWeight(format, (n, k), grid.store(original.T.contiguous()))

    def _feed_back(self, target: Tensor, points: Points, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Codes uint8 and values float32 [K, N] for a weight [K, N]: each column's error goes to the columns
        after it."""
        work = target.clone()
        codes = torch.empty_like(work, dtype=torch.uint8)
        values = torch.empty_like(work, dtype=torch.float32)
        for begin, end in self._blocks(len(work)):
            errors = torch.empty_like(work[begin:end])
            for i in range(begin, end):
                codes[i], values[i] = points.round(work[i].float(), i)
                error = torch.div(work[i] - values[i], upper[i, i], out=errors[i - begin])
                work[i + 1 : end].addr_(upper[i, i + 1 : end], error, alpha=-1)
            work[end:].addmm_(upper[begin:end, end:].T, errors, alpha=-1)
        return codes, values

    def _descend(self, hessian: Tensor, error: Tensor, points: Points, codes: Tensor, values: Tensor) -> None:
        """Moves codes and values, whose error is D [K, N], in place to a lower trace of D^T H D."""
        slope = hessian @ error
        curvature = hessian.diagonal().clamp_min(1e-30)  # 0 where damping is 0 and an input always was
        for _ in range(self.sweeps):
            before = codes.clone()
            for begin, end in self._blocks(len(slope)):
                moves = torch.empty_like(slope[begin:end])
                near = slope[begin:end].clone()
                for i in range(begin, end):
                    best = values[i] + near[i - begin] / curvature[i]
                    codes[i], value = points.round(best.float(), i)
                    move = torch.sub(value, values[i], out=moves[i - begin])
                    values[i] = value
                    near.addr_(hessian[begin:end, i], move, alpha=-1)
                slope.addmm_(hessian[:, begin:end], moves, alpha=-1)
            if torch.equal(codes, before):
                return

    def _blocks(self, columns: int) -> list[tuple[int, int]]:
        return [(begin, min(begin + self.block, columns)) for begin in range(0, columns, self.block)]


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper triangular U with `U^T U = (H + damping * mean(diag H) * I)^-1`, float64 [K, K].

    A Hessian that is not positive definite with the given damping is tried again with ten times as much,
    up to the size of its own diagonal; then it is an error, never a silent fall back to rounding.
    """
    while True:
        factor, failed = torch.linalg.cholesky_ex(_relative(hessian, damping).flip(0, 1))
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


def _relative(hessian: Tensor, damping: float) -> Tensor:
    """H / mean(diag H) + damping * I: relative to the mean, so that H and c * H are one problem."""
    identity = torch.eye(hessian.shape[0], dtype=hessian.dtype, device=hessian.device)
    mean = hessian.diagonal().mean()
    if not torch.isfinite(mean):
        raise ValueError("stats: the calibration inputs of this layer hold NaN or infinity")
    if mean <= 0:  # the layer's input is zero on all of the calibration data: any codes are as good
        return identity
    return hessian / mean + damping * identity
