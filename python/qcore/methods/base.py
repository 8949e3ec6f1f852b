"""What every method has in common: it turns a weight, and what is known of its inputs, into a QWeight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from qcore.formats import Format
from qcore.methods.statistics import InputStats
from qcore.qweight import QWeight

__all__ = ["Method", "Scaling", "Wrapped", "tied_means"]


class Scaling(Protocol):
    """A pass in front of rounding: `x @ W^T = (x / s) @ (W * s)^T`, s a vector over the channels of an input.

    Attributes:
        keeps_divisors: where no earlier module can absorb 1 / s, the layer divides its input itself; else
            such layers stay as they are.
    """

    @property
    def keeps_divisors(self) -> bool: ...

    def divisor(
        self,
        weights: Sequence[Tensor],
        stats: InputStats,
        format: Format,
        scale_dtype: torch.dtype,
        tied: Tensor | None = None,
    ) -> Tensor:
        """The vector s, float32 [K], for the weights [N_i, K] that share one input.

        Args:
            tied: int64 [K]; columns with the same number get the same scale (query heads that read one
                value head).
        """
        ...


class Method(ABC):
    """Chooses the codes of one weight, maybe behind scalings. Knows formats; knows no kernel and no file."""

    scalings: tuple[Scaling, ...] = ()
    """Passes over the layers of a block, in this order, before codes are chosen."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def needs_calibration(self) -> bool: ...

    @property
    def remeasures(self) -> bool:
        """Whether it looks at inputs so closely that they are worth measuring again behind layers of the same
        block that are quantized by then."""
        return self.needs_calibration

    def without_divisors(self) -> Method:
        """The method for destinations that have no place for a divisor of inputs."""
        return self

    @abstractmethod
    def quantize(
        self, w: Tensor, stats: InputStats | None, format: Format, scale_dtype: torch.dtype
    ) -> QWeight:
        """Quantizes w [N, K] (any float dtype, computed in float32 or better)."""


@dataclass(frozen=True)
class Wrapped(Method):
    """A method behind one more scaling: what wraps another one derives from this and says `divisor`.

    Attributes:
        inner: the method that rounds the scaled weight.
        keeps_divisors: see `Scaling`.
    """

    inner: Method
    keeps_divisors: bool = True

    needs_calibration = True

    @property
    def scalings(self) -> tuple[Scaling, ...]:  # type: ignore[override]
        return (self, *self.inner.scalings)

    @property
    def remeasures(self) -> bool:
        return self.inner.remeasures

    def without_divisors(self) -> Wrapped:
        return replace(self, inner=self.inner.without_divisors(), keeps_divisors=False)

    @abstractmethod
    def divisor(
        self,
        weights: Sequence[Tensor],
        stats: InputStats,
        format: Format,
        scale_dtype: torch.dtype,
        tied: Tensor | None = None,
    ) -> Tensor:
        """See `Scaling.divisor`."""

    def quantize(
        self, w: Tensor, stats: InputStats | None, format: Format, scale_dtype: torch.dtype
    ) -> QWeight:
        return self.inner.quantize(w, stats, format, scale_dtype)


def tied_means(values: Tensor, tied: Tensor) -> Tensor:
    """Each of the values [K] as the mean of those with the same number in `tied`, int64 [K]."""
    sums = values.new_zeros(int(tied.max()) + 1).index_add_(0, tied, values)
    return (sums / torch.bincount(tied))[tied]
