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
        input_scale: [1] in the dtype in which it is stored, or None: what the input is rounded with, where
            the format's activations are static. Calibration adds it.
        input_zero: int32 [1] or None, the zero point that goes with it.
    """

    format: Format
    shape: tuple[int, int]
    tensors: Mapping[str, Tensor]
    act_scale: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero: Tensor | None = None

    def __post_init__(self) -> None:
        self.format.check(self.shape, self.tensors)
        k = self.shape[1]
        if self.act_scale is not None and tuple(self.act_scale.shape) != (k,):
            raise ValueError(f"act_scale: expected shape {(k,)}, got {tuple(self.act_scale.shape)}")
        self._check_inputs()

    def _check_inputs(self) -> None:
        scale, zero, inputs = self.input_scale, self.input_zero, self.format.activations
        if scale is None and zero is None:
            return
        if inputs is None or not inputs.static:
            raise ValueError(
                f"input_scale: expected None, because the activations of {self.format} are not static"
            )
        if scale is None or tuple(scale.shape) != (1,) or not scale.is_floating_point():
            raise ValueError(f"input_scale: expected a float [1], got {_kind(scale)}")
        if inputs.symmetric != (zero is None):
            raise ValueError("input_zero: expected None exactly when the activations are symmetric")
        if zero is not None and (tuple(zero.shape) != (1,) or zero.dtype != torch.int32):
            raise ValueError(f"input_zero: expected int32 [1], got {_kind(zero)}")

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


def _kind(tensor: Tensor | None) -> str:
    return "None" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
