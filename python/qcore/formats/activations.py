"""How the inputs of a layer are rounded to 8 bits before the product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats.scales import storable_scale

__all__ = ["E4M3_MAX", "Activations"]

# Above it, e4m3 has only NaN.
E4M3_MAX = 448.0

_TYPES = ("int8", "e4m3")
_SCALES = ("token", "tensor", "block")


@dataclass(frozen=True)
class Activations:
    """The rounding of a layer's inputs.

    Scales per token and per block come from the input itself. A scale per tensor comes from calibration: one
    taken from the input would let a row's result depend on what else is in the batch.

    Attributes:
        type: "int8" or "e4m3".
        scales: "token", "tensor" or "block" (1 token x 128 columns).
        symmetric: no zero point.
    """

    type: str
    scales: str = "token"
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.type not in _TYPES:
            raise ValueError(f"type: expected one of {', '.join(_TYPES)}, got {self.type!r}")
        if self.scales not in _SCALES:
            raise ValueError(f"scales: expected one of {', '.join(_SCALES)}, got {self.scales!r}")
        if self.type == "e4m3" and not self.symmetric:
            raise ValueError("symmetric: e4m3 has no zero point")
        if self.type == "int8" and self.scales == "block":
            raise ValueError("scales: expected per token or tensor for int8, got per block")

    @property
    def static(self) -> bool:
        """Whether the scale comes from calibration and is stored with the weight."""
        return self.scales == "tensor"

    @property
    def clips(self) -> bool:
        """Whether a static scale may leave out the largest inputs: integers lose the small ones to it, floats
        do not."""
        return self.static and self.type == "int8"

    def static_scale(self, low: Tensor, high: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Scale, in dtype, and zero point, int32 or None if symmetric, both [1], for inputs from low to high.

        `x ~ scale * (q - zero)`; zero itself is always on the grid.
        """
        low, high = low.float().reshape(1).clamp_max(0), high.float().reshape(1).clamp_min(0)
        if self.symmetric:
            greatest = 127 if self.type == "int8" else E4M3_MAX
            return storable_scale(torch.maximum(-low, high) / greatest, dtype).to(dtype), None
        scale = storable_scale((high - low) / 255, dtype)
        zero = (-128 - low / scale).round().clamp(-128, 127)
        return scale.to(dtype), zero.to(torch.int32)

    def __str__(self) -> str:
        zero = "" if self.symmetric else " with zero point"
        return f"{self.type} {'static' if self.static else 'dynamic'} per {self.scales}{zero}"
