"""Formats: how a weight is stored. A new one is a file here that fulfils `Format`."""

from __future__ import annotations

from qcore.formats.base import Format, Grid, Points
from qcore.formats.block import BLOCK_FORMATS, BlockFormat, BlockGrid
from qcore.formats.int_group import IntGrid, IntGroup

__all__ = ["BLOCK_FORMATS", "BlockFormat", "BlockGrid", "Format", "Grid", "IntGrid", "IntGroup", "Points"]
