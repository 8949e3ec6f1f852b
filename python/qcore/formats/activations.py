"""How the inputs of a layer are rounded before the product: in the words of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from qcore.formats.elements import ELEMENTS, Elements
from qcore.formats.granularity import ROW, TENSOR, Granularity
from qcore.formats.scales import storable_scale

__all__ = ["TOKEN_BLOCK", "Activations"]

# The 128 columns of a token that share a scale, where the weight's scales are per block of 128 x 128.
TOKEN_BLOCK = Granularity(1, 128)

_T = TypeVar("_T")

_ELEMENTS = {"int8": ELEMENTS["s8"], "e4m3": ELEMENTS["e4m3"]}
# Rows of x are tokens.
_GRANULARITIES = {"token": ROW, "tensor": TENSOR, "block": TOKEN_BLOCK}


@dataclass(frozen=True, init=False)
class Activations:
    """The rounding of a layer's inputs.

    Scales per token and per block come from the input itself. A scale per tensor comes from calibration: one
    taken from the input would let a row's result depend on what else is in the batch.

    Attributes:
        elements: s8 or e4m3; may be given by name, "int8" or "e4m3".
        granularity: of a token, the tensor or blocks (1 token x 128 columns); may be given by these names.
        symmetric: no zero point.
    """

    elements: Elements
    granularity: Granularity
    symmetric: bool

    def __init__(
        self, elements: Elements | str, granularity: Granularity | str = ROW, symmetric: bool = True
    ) -> None:
        values = {
            "elements": _chosen("elements", elements, _ELEMENTS),
            "granularity": _chosen("granularity", granularity, _GRANULARITIES),
            "symmetric": symmetric,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if not self.is_integer and not self.symmetric:
            raise ValueError(f"symmetric: {self.elements.label} has no zero point")
        if self.is_integer and self.granularity == TOKEN_BLOCK:
            raise ValueError("granularity: expected per token or tensor for int8, got per block")

    @property
    def is_integer(self) -> bool:
        """Whether they are rounded to integers."""
        return self.elements == ELEMENTS["s8"]

    @property
    def static(self) -> bool:
        """Whether the scale comes from calibration and is stored with the weight."""
        return self.granularity == TENSOR

    @property
    def clips(self) -> bool:
        """Whether a static scale may leave out the largest inputs: integers lose the small ones to it, floats
        do not."""
        return self.static and self.is_integer

    def static_scale(self, low: Tensor, high: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Scale, in dtype, and zero point, int32 or None if symmetric, both [1], for inputs from low to high.

        `x ~ scale * (q - zero)`; zero itself is always on the grid.
        """
        low, high = low.float().reshape(1).clamp_max(0), high.float().reshape(1).clamp_min(0)
        if self.symmetric:
            greatest = 127 if self.is_integer else self.elements.greatest
            return storable_scale(torch.maximum(-low, high) / greatest, dtype).to(dtype), None
        scale = storable_scale((high - low) / 255, dtype)
        zero = (-128 - low / scale).round().clamp(-128, 127)
        return scale.to(dtype), zero.to(torch.int32)

    def __str__(self) -> str:
        zero = "" if self.symmetric else " with zero point"
        per = next(name for name, granularity in _GRANULARITIES.items() if granularity == self.granularity)
        return f"{self.elements.label} {'static' if self.static else 'dynamic'} per {per}{zero}"


def _chosen(field: str, given: _T | str, choices: Mapping[str, _T]) -> _T:
    chosen = choices.get(given) if isinstance(given, str) else given
    if chosen is None or chosen not in choices.values():
        raise ValueError(f"{field}: expected one of {', '.join(choices)}, got {given!r}")
    return chosen
