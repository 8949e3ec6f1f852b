"""Granularity: which elements share a scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BLOCK", "ROW", "TENSOR", "Granularity", "group"]


@dataclass(frozen=True)
class Granularity:
    """Scales are shared in tiles of a matrix [N, K], from its first row and column on; the last tile of each
    direction may be smaller.

    Attributes:
        rows: of a tile; -1: all.
        columns: of a tile; -1: all.
    """

    rows: int
    columns: int

    @property
    def kind(self) -> str:
        """tensor, row, group (of columns in a row) or block."""
        if self.rows == 1:
            return "row" if self.columns == -1 else "group"
        return "tensor" if self.rows == self.columns == -1 else "block"

    def width(self, k: int) -> int:
        """Columns of a tile of a matrix of K columns (at least 1, so that K = 0 works)."""
        return max(k, 1) if self.columns == -1 else min(self.columns, max(k, 1))

    def height(self, n: int) -> int:
        """Rows of a tile of a matrix of N rows."""
        return max(n, 1) if self.rows == -1 else min(self.rows, max(n, 1))

    def groups(self, k: int) -> int:
        """Tiles in a row of K columns."""
        return 1 if self.kind == "tensor" else -(-k // self.width(k))

    def bands(self, n: int) -> int:
        """Tiles in a column of N rows."""
        return 1 if self.rows == -1 else -(-n // self.height(n))

    def shape(self, n: int, k: int) -> tuple[int, ...]:
        """Of the scales of a matrix [N, K]."""
        return (1,) if self.kind == "tensor" else (self.bands(n), self.groups(k))

    def tiles(self, w: Tensor) -> Tensor:
        """[N, K] -> [bands, height, groups, width], padded with zeros (which move no range and no error)."""
        n, k = w.shape
        bands, height, groups, width = self.bands(n), self.height(n), self.groups(k), self.width(k)
        if (bands * height, groups * width) != (n, k):
            w = torch.nn.functional.pad(w, (0, groups * width - k, 0, bands * height - n))
        return w.reshape(bands, height, groups, width)

    def spread(self, scales: Tensor, n: int, k: int) -> Tensor:
        """Scales [*, bands, groups], or [*, 1] of whole matrices, in a shape that broadcasts to [*, N, K]."""
        if self.kind == "tensor":
            return scales.unsqueeze(-1) if scales.dim() > 1 else scales
        if self.rows != 1:
            scales = scales.repeat_interleave(self.height(n), -2)[..., :n, :]
        return scales if self.columns == -1 else scales.repeat_interleave(self.width(k), -1)[..., :k]

    def __str__(self) -> str:
        if self.kind == "block":
            return f"{self.rows}x{self.columns}"
        return f"g{self.columns}" if self.kind == "group" else f"per {self.kind}"


TENSOR = Granularity(-1, -1)
ROW = Granularity(1, -1)
# Of DeepSeek's fine-grained FP8.
BLOCK = Granularity(128, 128)


def group(columns: int) -> Granularity:
    """Groups of columns in each row; -1 is one group per row."""
    if columns != -1 and columns < 1:
        raise ValueError(
            f"group_size: expected a positive number, or -1 for one group per row, got {columns}"
        )
    return Granularity(1, columns)
