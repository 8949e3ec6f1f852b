"""The single currency between methods, files and kernels: a quantized weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats import Grid, IntGroup

__all__ = ["QWeight"]


@dataclass(frozen=True)
class QWeight:
    """A weight [N, K] as integer codes on a grid, in the one device-neutral layout of its format.

    The codes were decided once, by a method; nothing downstream rounds them again.

    Attributes:
        format: how codes become numbers (bits, group size, symmetric or not).
        codes: uint8 [N, K], unsigned codes in [0, 2**bits).
        scales: [N, G], G = ceil(K / group_size), in the dtype in which they are stored.
        zeros: uint8 [N, G], or None for a symmetric format, whose zero point is 2**(bits - 1).
        act_scale: float32 [K] or None; the input is divided by it before the product. Methods that
            scale weights up by input channel leave it here where no earlier module could absorb it.
    """

    format: IntGroup
    codes: Tensor
    scales: Tensor
    zeros: Tensor | None = None
    act_scale: Tensor | None = None

    def __post_init__(self) -> None:
        n, k = self.codes.shape
        expected = (n, self.format.groups(k))
        if self.codes.dtype != torch.uint8:
            raise TypeError(f"codes: expected uint8, got {self.codes.dtype}")
        if tuple(self.scales.shape) != expected:
            raise ValueError(
                f"scales: expected shape {expected} for codes {(n, k)} and group size "
                f"{self.format.group_size}, got {tuple(self.scales.shape)}"
            )
        if self.format.symmetric != (self.zeros is None):
            raise ValueError("zeros: expected None exactly when the format is symmetric")
        if self.zeros is not None and tuple(self.zeros.shape) != expected:
            raise ValueError(f"zeros: expected shape {expected}, got {tuple(self.zeros.shape)}")
        if self.act_scale is not None and tuple(self.act_scale.shape) != (k,):
            raise ValueError(f"act_scale: expected shape {(k,)}, got {tuple(self.act_scale.shape)}")

    @property
    def shape(self) -> tuple[int, int]:
        n, k = self.codes.shape
        return n, k

    @property
    def grid(self) -> Grid:
        return Grid(self.scales, self.zeros)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales and zero points included."""
        n, k = self.shape
        return self.format.stored_bits(n, k, self.scales.dtype) / max(n * k, 1)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [N, K] that the kernels multiply by (computed in float32, then cast).

        With an `act_scale` the result is already divided by it: `y = x @ dequantize().T`.
        """
        w = self.format.dequantize(self.codes, self.grid)
        if self.act_scale is not None:
            w = w / self.act_scale
        return w.to(dtype)
