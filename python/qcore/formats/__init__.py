"""Formats: how a weight is stored. A new one is a line in `presets`, over the lists that it is made of."""

from __future__ import annotations

from qcore.formats.activations import Activations
from qcore.formats.base import Format, Grid, Points
from qcore.formats.elements import ELEMENTS, Codebook, Elements, Floats, Integers
from qcore.formats.fake import fake_quant
from qcore.formats.gguf import BLOCK_FORMATS, BlockFormat, BlockGrid
from qcore.formats.granularity import BLOCK, ROW, TENSOR, Granularity, group
from qcore.formats.presets import INTEGER_BITS, NF4, Float8, Int8, IntGroup
from qcore.formats.scaled import ScaledFormat, ScaledGrid
from qcore.formats.scales import Scales

__all__ = [
    "BLOCK",
    "BLOCK_FORMATS",
    "ELEMENTS",
    "INTEGER_BITS",
    "NF4",
    "ROW",
    "TENSOR",
    "Activations",
    "BlockFormat",
    "BlockGrid",
    "Codebook",
    "Elements",
    "Float8",
    "Floats",
    "Format",
    "Granularity",
    "Grid",
    "Int8",
    "IntGroup",
    "Integers",
    "Points",
    "ScaledFormat",
    "ScaledGrid",
    "Scales",
    "fake_quant",
    "group",
]
