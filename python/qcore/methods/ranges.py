"""The range that a static scale of integers covers: less than all inputs, if a few outliers are in the way.

What is beyond the range is cut off, so that all else is rounded in smaller steps. What counts is the error of
the layer's output. The errors of different columns of x are next to independent, so that its square is the
sum of theirs, each times the squared norm of the column of the weight that it meets. Inputs are counted by
their leading bits: then the order of batches decides nothing, and every range can be tried.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Histogram", "best_range", "best_symmetric_range"]

# A bin is a sixteenth of the way from one power of 2 to the next, from 2^-16 to 2^16. The first also holds
# what is smaller, 0 included, and the last what is larger.
_SHIFT = 23 - 4
_FIRST = (127 - 16) << 4
_BINS = 32 << 4
# Numbers per step of `Histogram.add`, whole columns; few enough for the cache.
_CHUNK = 1 << 17


class Histogram:
    """How often which values occur in each column of x [tokens, K]; 4 KB per column, however many tokens.

    Attributes:
        counts: int32 [K, 2, bins], of negative and of other values, by magnitude.
    """

    def __init__(self, k: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(k, 2, _BINS, dtype=torch.int32, device=device)

    def add(self, x: Tensor) -> None:
        """Counts x [tokens, K]."""
        one = self.counts.new_ones(1)
        columns = max(1, _CHUNK // max(len(x), 1))
        for part, counts in zip(x.T.split(columns), self.counts.flatten(1).split(columns), strict=True):
            part = part.float().contiguous()
            at = _bin(part).add_(part >= 0, alpha=_BINS).long()
            counts.scatter_add_(1, at, one.expand(at.shape))

    def total(self, weight: Tensor, scale: Tensor | None = None) -> Tensor:
        """The counts of x / scale, each column times its weight, summed over columns: float64 [2, bins].

        Args:
            weight, scale: float64 [K]. A scale moves whole bins to where their middles go.
        """
        # On the CPU: on a GPU a scatter adds floats in any order.
        counts = self.counts.cpu().double() * weight.cpu()[:, None, None]
        if scale is None:
            return counts.sum(0)
        edges = _edges()
        at = _bin((edges[1:] + edges[:-1]) / 2 / scale.cpu()[:, None])
        total = counts.new_zeros(2, _BINS)
        for sign in range(2):
            total[sign].scatter_add_(0, at.view(-1), counts[:, sign].reshape(-1))
        return total


def best_symmetric_range(counts: Tensor, greatest: float, steps: int = 127) -> float:
    """The end c of the range from -c to c with the least squared error, in `steps` steps from 0 to c.

    Args:
        counts: as `Histogram.total` makes them.
        greatest: the largest magnitude; the range is not changed if none is better.
    """
    side = _Side(counts.sum(0), greatest)
    errors = side.clipped + _Rounding(counts)(side.ends / steps, side.inside)
    return float(side.ends[_least(errors)])


def best_range(counts: Tensor, low: float, high: float, steps: int = 255) -> tuple[float, float]:
    """The ends, not above and not below 0, of the range with the least squared error, in `steps` steps.

    Args:
        counts: as `Histogram.total` makes them.
        low, high: the whole range; it is not changed if none is better.
    """
    below, above = _Side(counts[0], -low), _Side(counts[1], high)
    step = (below.ends[:, None] + above.ends) / steps
    errors = below.clipped[:, None] + above.clipped
    errors += _Rounding(counts)(step, below.inside[:, None] + above.inside)
    i, j = divmod(_least(errors.view(-1)), _BINS)
    return -float(below.ends[i]), float(above.ends[j])


class _Side:
    """Where a range may end among the values of one sign.

    Attributes:
        ends: [bins], ascending: the upper edges of the bins; the last is the largest magnitude.
        clipped: [bins], the squared error of the values beyond each end.
        inside: [bins], the number of the others.
    """

    def __init__(self, counts: Tensor, greatest: float) -> None:
        edges = _edges()
        edges[-1] = max(greatest, float(edges[-1]))
        lower, self.ends = edges.clamp_max(greatest).unfold(0, 2, 1).T
        mean, square = _moments(lower, self.ends)
        beyond, first, second = (_after(counts * m) for m in (torch.ones_like(mean), mean, square))
        self.clipped = (second - 2 * self.ends * first + self.ends.square() * beyond).clamp_min(0)
        self.inside = counts.sum() - beyond


class _Rounding:
    """The squared error of rounding what is inside a range: a twelfth of the squared step, and for what is
    rounded to 0 its own square."""

    def __init__(self, counts: Tensor) -> None:
        counts, edges = counts.sum(0), _edges()
        none = counts.new_zeros(1)
        self.upper = edges[1:].contiguous()
        self.number = torch.cat([none, counts.cumsum(0)])
        self.squares = torch.cat([none, (counts * _moments(edges[:-1], edges[1:])[1]).cumsum(0)])

    def __call__(self, step: Tensor, inside: Tensor) -> Tensor:
        vanish = torch.searchsorted(self.upper, step / 2, right=True)
        others = (inside - self.number[vanish]).clamp_min(0)
        return self.squares[vanish] + others * step.square() / 12


def _bin(x: Tensor) -> Tensor:
    """The bin of each |x|, int32."""
    bits = x.float().view(torch.int32)
    return (bits & 0x7FFFFFFF).bitwise_right_shift_(_SHIFT).sub_(_FIRST).clamp_(0, _BINS - 1)


def _edges() -> Tensor:
    """Of the bins: bin i is from edge i to edge i + 1; float64 [bins + 1]."""
    bits = torch.arange(_FIRST, _FIRST + _BINS + 1, dtype=torch.int32) << _SHIFT
    edges = bits.view(torch.float32).double()
    edges[0] = 0
    return edges


def _moments(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of values spread evenly over each bin, and of their squares."""
    mean = (lower + upper) / 2
    return mean, mean.square() + (upper - lower).square() / 12


def _after(values: Tensor) -> Tensor:
    """For each element the sum of those that follow."""
    return values.flip(0).cumsum(0).flip(0) - values


def _least(errors: Tensor) -> int:
    """Where the least error is; the last one, which cuts nothing off, unless another is less."""
    best = int(errors.argmin())
    return best if errors[best] < errors[-1] else len(errors) - 1
