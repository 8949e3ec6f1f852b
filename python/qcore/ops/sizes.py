"""Sizes of packed weights, for fake kernels: as formulas, because the sizes of a trace may be symbols.

Sizes that are numbers are the core's to say, and to refuse. For symbols there are formulas: a layout cuts a
weight into tiles and pads it to whole ones. How large tiles are is found by asking the core for a few small
weights; nothing of it is written down here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from torch import SymInt

from qcore import _C

__all__ = ["packed_blocks", "packed_groups"]


def _symbolic(*sizes: object) -> bool:
    return any(isinstance(size, SymInt) for size in sizes)


def _first_step(size: Callable[[int], int], step: int = 1) -> int:
    """The largest argument, from `step` on in such steps, whose size is that of the first one."""
    at = step
    while size(at + step) == size(step):
        at += step
    return at


def _tiles(length: int, tile: int) -> int:
    return (length + tile - 1) // tile


class _Groups(NamedTuple):
    """Of weights in groups: rows of a panel, columns of a unit, to which each group is padded, units of a
    chunk, to which a row is, and the bytes of a chunk of a panel."""

    rows: int
    columns: int
    units: int
    bytes: int


def packed_groups(
    n: int, k: int, width: int, bits: int, has_zeros: bool, scale_dtype: str, device: str, layout: int
) -> tuple[int, int, int, int]:
    """What packing a weight [n, k] in groups of `width` columns gives: the number of the layout, bytes of
    qweight, elements of scales, bytes of zeros. `layout` 0: the one that is chosen on the device."""
    if not _symbolic(n, k, width):
        return _C.packed_sizes("w4a16", n, k, width, bits, has_zeros, scale_dtype, device, layout)
    number = _C.packed_sizes("w4a16", 1, 1, 1, bits, has_zeros, scale_dtype, device, layout)[0]
    tile = _groups(bits, number)
    panels, groups = _tiles(n, tile.rows), _tiles(k, width)
    last = k - (groups - 1) * width
    units = (groups - 1) * _tiles(width, tile.columns) + _tiles(last, tile.columns)
    parameters = panels * groups * tile.rows
    return number, panels * _tiles(units, tile.units) * tile.bytes, parameters, parameters if has_zeros else 0


@cache
def _groups(bits: int, layout: int) -> _Groups:
    def size(n: int, k: int, width: int) -> int:
        return _C.packed_sizes("w4a16", n, k, width, bits, False, "float32", "cpu", layout)[1]

    units = _first_step(lambda k: size(1, k, 1))  # groups of one column take a unit each
    columns = _first_step(lambda k: size(1, k, k)) // units
    return _Groups(_first_step(lambda n: size(n, 1, 1)), columns, units, size(1, 1, 1))


class _Blocks(NamedTuple):
    """Of weights in blocks: rows and columns of a tile, and its bytes."""

    rows: int
    columns: int
    bytes: int


# From one expert to the next: whole lines, whose number tells the layout (cpp/formats/experts.cpp).
_LINE, _LAYOUTS = 64, 16


def packed_blocks(type: str, n: int, k: int, experts: bool, layout: int) -> int:
    """Elements of a packed weight [n, k] of blocks in a layout, or of each expert."""
    if not _symbolic(n, k):
        rows = {row["layout"]: row for row in _C.packed_blocks(type, n, k)}
        return rows[layout]["expert_elements" if experts else "elements"]
    tile = _blocks(type, layout)
    used = _tiles(n, tile.rows) * _tiles(k, tile.columns) * tile.bytes
    return _tiles(used, _LINE * _LAYOUTS) * _LINE * _LAYOUTS + layout * _LINE if experts else used + layout


@cache
def _blocks(type: str, layout: int) -> _Blocks:
    elements = next(block["elements"] for block in _C.block_formats() if block["name"] == type)

    def size(n: int, k: int) -> int:
        sizes = {row["layout"]: row["elements"] for row in _C.packed_blocks(type, n, k)}
        return sizes[layout] - layout

    columns = _first_step(lambda k: size(1, k), elements)
    return _Blocks(_first_step(lambda n: size(n, elements)), columns, size(1, elements))
