"""Formats: how a weight is stored. A new one is a file here that fulfils `Format`."""

from __future__ import annotations

from qcore.formats.activations import Activations
from qcore.formats.base import Format, Grid, Points
from qcore.formats.block import BLOCK_FORMATS, BlockFormat, BlockGrid
from qcore.formats.float8 import FLOAT8_BLOCK, Float8, Float8Grid
from qcore.formats.int8 import Int8, Int8Grid
from qcore.formats.int_group import IntGrid, IntGroup

__all__ = [
    "BLOCK_FORMATS",
    "FLOAT8_BLOCK",
    "Activations",
    "BlockFormat",
    "BlockGrid",
    "Float8",
    "Float8Grid",
    "Format",
    "Grid",
    "Int8",
    "Int8Grid",
    "IntGrid",
    "IntGroup",
    "Points",
]
