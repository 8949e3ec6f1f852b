"""The format int8: a scale per row, and inputs that are rounded to int8 too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats.activations import Activations
from qcore.formats.base import Points
from qcore.formats.int_group import IntGrid, IntGroup

__all__ = ["Int8", "Int8Grid"]

# The grid is that of 8 unsigned bits with one group per row; what is stored has the center taken off.
_ROWS = IntGroup(8, symmetric=True, group_size=-1)
_PER_TOKEN = Activations("int8")


@dataclass(frozen=True)
class Int8:
    """int8 codes with a scale per row, multiplied as integers by inputs in int8.

    `W[n, k] = scale[n] * code[n, k]`.

    The tensors of a `QWeight`:
        codes: int8 [N, K].
        scales: [N, 1], in the dtype in which they are stored.

    Attributes:
        activations: how inputs are rounded to int8: per token, or per tensor by a calibrated scale.
    """

    activations: Activations = _PER_TOKEN

    name = "int8"

    def __post_init__(self) -> None:
        if self.activations.type != "int8":
            raise ValueError(f"activations: expected int8, got {self.activations}")

    def supports(self, k: int) -> bool:
        """Rows of any length."""
        return True

    def stored_bits(self, tensors: Mapping[str, Tensor]) -> int:
        """Bits in a checkpoint."""
        scales = tensors["scales"]
        return 8 * (tensors["codes"].numel() + scales.numel() * scales.itemsize)

    def check(self, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> None:
        """Raises, naming the tensor, if these do not store a weight [N, K]."""
        codes, scales = tensors["codes"], tensors["scales"]
        if codes.dtype != torch.int8:
            raise TypeError(f"codes: expected int8, got {codes.dtype}")
        if tuple(codes.shape) != shape:
            raise ValueError(f"codes: expected shape {shape}, got {tuple(codes.shape)}")
        if tuple(scales.shape) != (shape[0], 1):
            raise ValueError(f"scales: expected shape {(shape[0], 1)}, got {tuple(scales.shape)}")

    def fit(
        self,
        w: Tensor,
        scale_dtype: torch.dtype,
        importance: Tensor | None = None,
        search: bool = False,
    ) -> Int8Grid:
        """The grid for a weight, as `IntGroup` chooses it: scales are `amax / 127.5`, or what a search of
        smaller ranges finds.

        Args:
            w: [N, K] float32.
            scale_dtype: what the scales are stored in.
            importance: [K], how much an error in each column counts; only used by the search.
            search: shrink the range and refit the scale to lower the weighted squared error.
        """
        return Int8Grid(_ROWS.fit(w, scale_dtype, importance, search))

    def dequantize(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The values of a stored weight, float32 [N, K]."""
        return tensors["codes"].float() * tensors["scales"].float()


@dataclass(frozen=True)
class Int8Grid:
    """The values that codes may stand for: multiples of a scale per row.

    Attributes:
        unsigned: the same grid in codes of 0 to 255.
    """

    unsigned: IntGrid

    def round(self, w: Tensor) -> Tensor:
        """The nearest codes, uint8 [N, K] with 128 for zero, for w [N, K]."""
        return self.unsigned.round(w)

    def points(self, columns: Tensor) -> Points:
        """The grid at the given columns, int64 [C]."""
        return self.unsigned.points(columns)

    def store(self, codes: Tensor) -> dict[str, Tensor]:
        """The tensors of a weight with these codes."""
        return {"codes": (codes ^ 0x80).view(torch.int8), "scales": self.unsigned.scales}
