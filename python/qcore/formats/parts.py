"""Parts of weights: chunks that stay in the cache while they are worked on, and rows that are picked out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["bands_of", "chunks", "gathered", "part_of", "pieces"]

_Spread = TypeVar("_Spread", Tensor, Tensor | float)

# A fit works on chunks of rows of about this many elements, so that its temporaries stay in the cache.
_CHUNK = 1 << 17


def gathered(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows of a tensor; 8-bit floats as bytes, for which there are kernels everywhere."""
    if tensor.element_size() > 1:
        return tensor[rows]
    return tensor.view(torch.uint8)[rows].view(tensor.dtype)


def part_of(spread: _Spread, rows: slice) -> _Spread:
    """Some rows of what broadcasts to [N, K]."""
    return spread[rows] if isinstance(spread, Tensor) and spread.dim() > 1 else spread


def bands_of(bands: int, height: int, n: int, k: int) -> Iterator[tuple[slice, slice]]:
    """Bands of tiles in chunks of about `_CHUNK` elements, and the rows that they are made of."""
    for part in chunks(bands, height * k):
        yield part, slice(part.start * height, min(part.stop * height, n))


def pieces(tiles: Tensor) -> tuple[Tensor, ...]:
    """Tiles [bands, height, groups, width] of many elements, cut between rows."""
    bands, height, groups, width = tiles.shape
    return tiles.split(max(1, _CHUNK // max(bands * groups * width, 1)), 1) if height > 1 else (tiles,)


def chunks(rows: int, columns: int) -> Iterator[slice]:
    """Rows of so many columns in chunks of about `_CHUNK` elements."""
    step = max(1, _CHUNK // max(columns, 1))
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))
