"""The single currency between methods, files and kernels: a quantized weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from qcore.formats import Format

__all__ = ["Inputs", "QWeight"]


@dataclass(frozen=True)
class Inputs:
    """What happens to a layer's input x in front of the product: `(x / divisor)[..., permutation]`, rounded.

    Attributes:
        divisor: float32 [K] or None. Methods that scale weights up by input channel leave it here where no
            earlier module could absorb it.
        permutation: int32 [K] or None: column j of the codes meets column `permutation[j]` of x (weights in
            activation order).
        scale: [1] in the dtype in which it is stored, or None: what the input is rounded with, where the
            format's activations are static. Calibration finds it.
        zero: int32 [1] or None, the zero point that goes with it.
    """

    divisor: Tensor | None = None
    permutation: Tensor | None = None
    scale: Tensor | None = None
    zero: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        return {f.name: tensor for f in fields(self) if (tensor := getattr(self, f.name)) is not None}

    def check(self, format: Format, k: int) -> None:
        """Raises, naming the tensor, if they do not fit a weight of this format with K columns."""
        for name in ("divisor", "permutation"):
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != (k,):
                raise ValueError(f"inputs.{name}: expected shape {(k,)}, got {tuple(tensor.shape)}")
        if self.permutation is not None and self.permutation.dtype != torch.int32:
            raise TypeError(f"inputs.permutation: expected int32, got {self.permutation.dtype}")
        scale, zero, activations = self.scale, self.zero, format.activations
        if scale is None and zero is None:
            return
        if activations is None or not activations.static:
            raise ValueError(
                f"inputs.scale: expected None, because the activations of {format} are not static"
            )
        if scale is None or tuple(scale.shape) != (1,) or not scale.is_floating_point():
            raise ValueError(f"inputs.scale: expected a float [1], got {_kind(scale)}")
        if activations.symmetric != (zero is None):
            raise ValueError("inputs.zero: expected None exactly when the activations are symmetric")
        if zero is not None and (tuple(zero.shape) != (1,) or zero.dtype != torch.int32):
            raise ValueError(f"inputs.zero: expected int32 [1], got {_kind(zero)}")


@dataclass(frozen=True)
class QWeight:
    """A weight [N, K], or weights of experts [E, N, K], as codes on a grid, in the one device-neutral layout
    of its format.

    The codes were decided once, by a method; nothing downstream rounds them again.

    Attributes:
        format: how the tensors become numbers; its class says which tensors there are.
        shape: N and K; E before them for experts.
        tensors: what a checkpoint stores, by name.
        inputs: what happens to the input in front of the product.
    """

    format: Format
    shape: tuple[int, ...]
    tensors: Mapping[str, Tensor]
    inputs: Inputs = Inputs()

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3):
            raise ValueError(f"shape: expected [N, K] or [E, N, K], got {self.shape}")
        self.format.check(self.shape, self.tensors)
        self.inputs.check(self.format, self.shape[-1])

    def with_inputs(self, **tensors: Tensor | None) -> QWeight:
        """The same weight with other inputs, by the names of `Inputs`."""
        return replace(self, inputs=replace(self.inputs, **tensors))

    def to(self, device: str | torch.device) -> QWeight:
        """The same weight on a device."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        inputs = Inputs(**{name: tensor.to(device) for name, tensor in self.inputs.tensors().items()})
        return replace(self, tensors=tensors, inputs=inputs)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales and zero points included."""
        weights = torch.Size(self.shape).numel()
        return self.format.stored_bits(self.tensors) / max(weights, 1)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight that x, as it comes, is multiplied by (computed in float32, then cast):
        `y = x @ dequantize().T`, columns in the order of x and divided where x is."""
        w = self.format.dequantize(self.tensors)
        if self.inputs.permutation is not None:
            in_order = torch.empty_like(w)
            in_order[..., self.inputs.permutation.long()] = w
            w = in_order
        if self.inputs.divisor is not None:
            w = w / self.inputs.divisor
        return w.to(dtype)


def _kind(tensor: Tensor | None) -> str:
    return "None" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
