"""What methods see of a format: it fits a grid to a weight, and codes are chosen on the grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from qcore.formats.activations import Activations

if TYPE_CHECKING:
    from qcore.formats.scaled import ScaledFormat

__all__ = ["Format", "Grid", "Points"]


class Points(Protocol):
    """The values that the codes of C columns may stand for, laid out for a sweep over columns."""

    def round(self, w: Tensor, at: int | slice) -> tuple[Tensor, Tensor]:
        """The nearest codes to w, uint8, and the values that they stand for, float32.

        Args:
            w: float32 [N], or [C, N] for a slice of columns.
            at: which of the C columns.
        """
        ...


class Grid(Protocol):
    """The values that the codes of a weight may stand for: scales and the like, as they are stored."""

    def round(self, w: Tensor) -> Tensor:
        """The nearest codes, uint8 [N, K], for w [N, K]."""
        ...

    def points(self, columns: Tensor) -> Points:
        """The grid at the given columns, int64 [C]."""
        ...

    def store(self, codes: Tensor) -> dict[str, Tensor]:
        """The tensors of a `QWeight` with these codes, uint8 [N, K], on this grid."""
        ...


class Format(Protocol):
    """How a weight is stored: codes on a grid, in one device-neutral layout, the only one that is saved.

    Formats are compared and hashed by what they store.
    """

    @property
    def name(self) -> str:
        """What weights are stored as, in a few words."""
        ...

    @property
    def activations(self) -> Activations | None:
        """How the layer's inputs are rounded; None: they are multiplied as they are, or in a way that
        belongs to the kernel."""
        ...

    @property
    def op(self) -> str:
        """Which ops pack and multiply such weights: a key of `qcore.nn.PRODUCTS`."""
        ...

    @property
    def scaled(self) -> ScaledFormat | None:
        """The format as elements x granularity x scales; None if it is not made of them."""
        ...

    def with_group_size(self, columns: int) -> Format:
        """The same with another number of columns per scale; a ValueError if it has its own."""
        ...

    def for_columns(self, k: int) -> Format | None:
        """What stores rows of K columns: the format itself, or one near to it; None if there is none."""
        ...

    def zeros(
        self, n: int, k: int, scale_dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> dict[str, Tensor]:
        """The tensors that store a weight [N, K], all of their bits 0."""
        ...

    def fit(
        self,
        w: Tensor,
        scale_dtype: torch.dtype,
        importance: Tensor | None = None,
        search: bool = False,
    ) -> Grid:
        """The grid for a weight.

        Args:
            w: [N, K] float32.
            scale_dtype: what scales are stored in, where the format leaves that open.
            importance: [K], how much an error in each column counts; only used by the search.
            search: lower the weighted squared error by more than the plain rule of the format.
        """
        ...

    def dequantize(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The values of a stored weight, float32 of its shape: bit for bit those of `Points.round`."""
        ...

    def decode_rows(self, tensors: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """The values of some rows of a weight [N, K]: int64 [M] to float32 [M, K]. No others are read."""
        ...

    def check(self, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> None:
        """Raises, naming the tensor, if these do not store a weight [N, K] or, of experts, [E, N, K]."""
        ...

    def stored_bits(self, tensors: Mapping[str, Tensor]) -> int:
        """Bits that these tensors take in a checkpoint."""
        ...
