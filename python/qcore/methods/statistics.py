"""What calibration learns of the inputs of a layer. It stands here and not with calibration, because methods
are made of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from qcore.formats import Activations
from qcore.methods.ranges import Histogram, best_range, best_symmetric_range

__all__ = ["InputStats"]


class InputStats:
    """What calibration learns of a linear layer's input x [tokens, K].

    Attributes:
        tokens: how many tokens were seen.
        gram: float64 [K, K], the sum of x^T x, before `scale`.
        abs_sum: float64 [K], the sum of |x|, before `scale`.
        low, high: float64 [K], the least and the greatest x, or 0 if that is beyond them; before `scale`.
        sensitivity: float64 [K] or None: the squared norms of the columns of the weights, by which a squared
            error of a column of x counts in what is made of it; before `scale`.
        histogram: of x, or None; before `scale`.
        scale: float64 [K] or None: these are the statistics of x / scale.

    Without `moments` there is no gram, which costs most of the time. A histogram, and a sensitivity, there is
    only with `weights`: all [N, K] that x is multiplied by once it is rounded by the same static scale.
    """

    def __init__(
        self,
        k: int,
        device: torch.device | str = "cpu",
        moments: bool = True,
        weights: Sequence[Tensor] = (),
    ) -> None:
        self.tokens = 0
        self.moments = moments
        self.gram = torch.zeros(k, k, dtype=torch.float64, device=device) if moments else torch.empty(0)
        self.abs_sum = torch.zeros(k, dtype=torch.float64, device=device)
        self.low, self.high = torch.zeros_like(self.abs_sum), torch.zeros_like(self.abs_sum)
        self.sensitivity = _squared_norms(weights) if weights else None
        self.histogram = Histogram(k, device) if weights else None
        self.scale: Tensor | None = None

    def add(self, x: Tensor, keep: Tensor | None = None) -> None:
        """Adds inputs [..., K]; where `keep` [...] is given, only those where it is not zero.

        Products are in float64, so that neither the order of the batches nor the way in which a matrix
        product was split over threads decides a code.
        """
        x = x.detach()
        if keep is not None and keep.shape == x.shape[:-1]:
            x = x[keep.to(x.device, torch.bool)]
        x = x.reshape(-1, self.abs_sum.shape[0]).to(self.abs_sum)
        if self.moments:
            self.gram.addmm_(x.T, x)
        self.abs_sum += x.abs().sum(0)
        self.tokens += x.shape[0]
        if x.shape[0]:
            if self.histogram is not None:
                self.histogram.add(x)
            low, high = x.aminmax(dim=0)
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)

    def merge(self, other: InputStats) -> None:
        """Adds what another one saw of the same layer's input: on other data, by another process.

        Raises:
            ValueError: they are not statistics of the same kind, of the same number of columns.
        """
        same = self.moments == other.moments and self.abs_sum.shape == other.abs_sum.shape
        for name in ("scale", "histogram", "sensitivity"):
            same &= (getattr(self, name) is None) == (getattr(other, name) is None)
        for name in ("scale", "sensitivity"):
            mine, its = getattr(self, name), getattr(other, name)
            same = same and (mine is None or torch.equal(mine, its.to(mine)))
        if not same:
            raise ValueError("other: expected statistics of the same layer, gathered in the same way")
        self.tokens += other.tokens
        if self.moments:
            self.gram += other.gram.to(self.gram)
        self.abs_sum += other.abs_sum.to(self.abs_sum)
        self.low = torch.minimum(self.low, other.low.to(self.low))
        self.high = torch.maximum(self.high, other.high.to(self.high))
        if self.histogram is not None and other.histogram is not None:
            self.histogram.counts += other.histogram.counts.to(self.histogram.counts)

    def to(self, device: torch.device) -> InputStats:
        """The same statistics on a device; shares what is there already."""
        moved = copy.copy(self)
        for name in ("gram", "abs_sum", "low", "high", "sensitivity", "scale"):
            tensor = getattr(self, name)
            setattr(moved, name, None if tensor is None else tensor.to(device))
        if self.histogram is not None:
            moved.histogram = copy.copy(self.histogram)
            moved.histogram.counts = self.histogram.counts.to(device)
        return moved

    @property
    def hessian(self) -> Tensor:
        """Mean of x^T x, float64 [K, K]: the Hessian of the layer's squared error, up to a factor 2."""
        hessian = self.gram / max(self.tokens, 1)
        return hessian if self.scale is None else hessian.div_(self.scale[:, None]).div_(self.scale)

    @property
    def second_moment(self) -> Tensor:
        """Mean of x^2, float64 [K]: the diagonal of the Hessian."""
        moment = self.gram.diagonal() / max(self.tokens, 1)
        return moment if self.scale is None else moment / self.scale.square()

    @property
    def abs_mean(self) -> Tensor:
        """Mean of |x|, float64 [K]."""
        mean = self.abs_sum / max(self.tokens, 1)
        return mean if self.scale is None else mean / self.scale

    @property
    def range(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest value of all columns, and 0; float64 scalars."""
        low, high = self.low, self.high
        if self.scale is not None:
            low, high = low / self.scale, high / self.scale
        return low.amin(), high.amax()

    def static_range(self, inputs: Activations) -> tuple[Tensor, Tensor]:
        """What of x a static scale is to cover, float64 scalars, at most 0 and at least 0: the whole range if
        nothing may be left out or there is no histogram, else the range of the least output error."""
        low, high = self.range
        if not inputs.clips or self.histogram is None or self.sensitivity is None:
            return low, high
        weight = self.sensitivity if self.scale is None else self.sensitivity * self.scale.square()
        counts = self.histogram.total(weight, self.scale)
        if inputs.symmetric:
            end = best_symmetric_range(counts, float(torch.maximum(-low, high)))
            ends = (-end, end)
        else:
            ends = best_range(counts, float(low), float(high))
        return low.new_tensor(ends[0]), low.new_tensor(ends[1])

    def output_error(self, delta: Tensor) -> float:
        """Mean squared norm of x @ delta^T per token, for an error delta [N, K] of the weight."""
        d = delta.double() if self.scale is None else delta.double() / self.scale
        return float(((d @ self.gram) * d).sum() / max(self.tokens, 1))

    def divided_by(self, scale: Tensor) -> InputStats:
        """The statistics of x / scale, scale [K]; shares the sums."""
        scaled = copy.copy(self)
        scaled.scale = scale.double() if self.scale is None else self.scale * scale
        return scaled


def _squared_norms(weights: Sequence[Tensor]) -> Tensor:
    """Of the columns of all weights [N, K] together, float64 [K]."""
    parts = [part for w in weights for part in w.detach().split(1024)]  # never all in float64
    return torch.stack([part.double().square().sum(0) for part in parts]).sum(0)
