"""The single currency between methods, files and kernels: a quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats import Format

__all__ = ["QWeight"]


@dataclass(frozen=True)
class QWeight:
    """A weight [N, K] as integer codes on a grid, in the one device-neutral layout of its format.

    The codes were decided once, by a method; nothing downstream rounds them again.

    Attributes:
        format: how the tensors become numbers; its class says which tensors there are.
        shape: N and K.
        tensors: what a checkpoint stores, by name.
        act_scale: float32 [K] or None; the input is divided by it before the product. Methods that
            scale weights up by input channel leave it here where no earlier module could absorb it.
    """

    format: Format
    shape: tuple[int, int]
    tensors: Mapping[str, Tensor]
    act_scale: Tensor | None = None

    def __post_init__(self) -> None:
        self.format.check(self.shape, self.tensors)
        k = self.shape[1]
        if self.act_scale is not None and tuple(self.act_scale.shape) != (k,):
            raise ValueError(f"act_scale: expected shape {(k,)}, got {tuple(self.act_scale.shape)}")

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales and zero points included."""
        n, k = self.shape
        return self.format.stored_bits(self.tensors) / max(n * k, 1)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [N, K] that the kernels multiply by (computed in float32, then cast).

        With an `act_scale` the result is already divided by it: `y = x @ dequantize().T`.
        """
        w = self.format.dequantize(self.tensors)
        if self.act_scale is not None:
            w = w / self.act_scale
        return w.to(dtype)
