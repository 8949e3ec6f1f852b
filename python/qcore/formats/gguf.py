"""The block formats of GGUF: a row is a sequence of blocks, which hold codes and scales of 32 or 256 columns.

A weight is `scale * values[code] - min`: scale and min per row and group of columns, values the integers that
codes stand for, in most formats even, in some from a table. Scale and min are themselves products of a float
and small integers; only the encoder knows about those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from qcore import ops
from qcore.formats.importance import relative

__all__ = ["BLOCK_FORMATS", "BlockFormat", "BlockGrid"]

_INFO = {info["name"]: info for info in ops.block_formats()}
# Rows are rounded in chunks of about this many elements, so that temporaries stay in the cache.
_CHUNK = 1 << 17
# Codes that no encoder writes and that other runtimes need not handle: a fourth value of ternary weights, and
# -128, whose absolute value is no int8.
_UNUSED = {"TQ2_0": (2,), "Q8_0": (-128,)}

# What stores rows that are no whole blocks of 256, with at least as many bits, in blocks of 32.
_NARROWER = {
    "Q2_K": "IQ4_NL",
    "Q3_K": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
}


@dataclass(frozen=True)
class BlockFormat:
    """A block format of GGUF, byte for byte as llama.cpp lays it out.

    The tensors of a `QWeight`:
        blocks: uint8 [N, K / elements * bytes].

    Attributes:
        name: as GGUF writes it: "Q4_K"; one of `BLOCK_FORMATS`.
    """

    name: str

    activations = None
    scaled = None
    op = "kquant"

    def __post_init__(self) -> None:
        if self.name not in _INFO:
            raise ValueError(f"name: expected one of {', '.join(_INFO)}, got {self.name!r}")

    @property
    def elements(self) -> int:
        """Columns per block."""
        return _INFO[self.name]["elements"]

    @property
    def bytes(self) -> int:
        """Bytes per block."""
        return _INFO[self.name]["bytes"]

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return _INFO[self.name]["group"]

    def _fits(self, k: int) -> bool:
        return k > 0 and k % self.elements == 0

    def with_group_size(self, columns: int) -> BlockFormat:
        raise ValueError(f"group_size: the scheme {self.name} has its own, got {columns}")

    def for_columns(self, k: int) -> BlockFormat | None:
        """The format, if rows of K columns are whole blocks, else one of narrower blocks with at least as
        many bits; None if those do not fit either."""
        names = (self.name, _NARROWER.get(self.name))
        return next((BLOCK_FORMATS[n] for n in names if n and BLOCK_FORMATS[n]._fits(k)), None)

    def row_bytes(self, k: int) -> int:
        """Bytes of a row of K columns."""
        if not self._fits(k):
            raise ValueError(f"{self.name} stores rows of a multiple of {self.elements} columns, got {k}")
        return k // self.elements * self.bytes

    def stored_bits(self, tensors: Mapping[str, Tensor]) -> int:
        """Bits in a checkpoint: those of the blocks."""
        return tensors["blocks"].numel() * 8

    def __str__(self) -> str:
        return self.name

    def check(self, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> None:
        """Raises, naming the tensor, if these do not store a weight [N, K] or, of experts, [E, N, K]."""
        blocks, expected = tensors["blocks"], (*shape[:-1], self.row_bytes(shape[-1]))
        if blocks.dtype != torch.uint8:
            raise TypeError(f"blocks: expected uint8, got {blocks.dtype}")
        if tuple(blocks.shape) != expected:
            raise ValueError(
                f"blocks: expected shape {expected} for {self.name} {shape}, got {tuple(blocks.shape)}"
            )

    def zeros(
        self, n: int, k: int, scale_dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> dict[str, Tensor]:
        """The blocks that store a weight [N, K], all of their bits 0."""
        return {"blocks": torch.zeros(n, self.row_bytes(k), dtype=torch.uint8, device=device)}

    def fit(
        self,
        w: Tensor,
        scale_dtype: torch.dtype,
        importance: Tensor | None = None,
        search: bool = False,
    ) -> BlockGrid:
        """The grid for a weight, as the encoder chooses it.

        Args:
            w: [N, K] float32.
            scale_dtype: of no meaning here, blocks have their own.
            importance: [K], how much an error in each column counts; only used by the search.
            search: let the importance count. The encoder always searches.
        """
        self.row_bytes(w.shape[1])
        weight_of = None
        if search and importance is not None:
            weight_of = relative(importance).float().cpu()
        # The encoder, like split and join, works on the CPU.
        return BlockGrid(self, ops.kquant_quantize(w.cpu(), self.name, weight_of).to(w.device))

    def dequantize(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The values of a stored weight, float32 [N, K]."""
        return ops.kquant_dequantize(tensors["blocks"], self.name, self._columns(tensors["blocks"]))

    def decode_rows(self, tensors: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """The values of some rows of a stored weight: int64 [M] to float32 [M, K]."""
        return self.dequantize({"blocks": tensors["blocks"][rows]})

    def _columns(self, blocks: Tensor) -> int:
        return blocks.shape[-1] // self.bytes * self.elements


BLOCK_FORMATS = {name: BlockFormat(name) for name in _INFO}


@dataclass(frozen=True)
class BlockGrid:
    """The grid that the scales in some blocks span, whatever codes they hold.

    Attributes:
        blocks: uint8 [N, K / elements * bytes].
    """

    format: BlockFormat
    blocks: Tensor

    @cached_property
    def _scales(self) -> tuple[Tensor, Tensor]:
        """Scales and minima, float32 [N, G]."""
        _, scale, low = ops.kquant_split(self.blocks.cpu(), self.format.name, self._k)
        return scale.to(self.blocks.device), low.to(self.blocks.device)

    @property
    def _k(self) -> int:
        return self.format._columns(self.blocks)

    def round(self, w: Tensor) -> Tensor:
        """The nearest codes, uint8 [N, K], for w [N, K]."""
        n, k = w.shape
        grouped = (n, k // self.format.group, self.format.group)
        values, codes = _values(self.format.name, w.device), w.new_empty(grouped, dtype=torch.uint8)
        step = max(1, _CHUNK // k)
        for begin in range(0, n, step):
            rows = slice(begin, begin + step)
            scale, low = (t[rows].unsqueeze(-1) for t in self._scales)
            codes[rows] = values.nearest(w[rows].float().view(-1, *grouped[1:]), scale, low)[0]
        return codes.view(n, k)

    def points(self, columns: Tensor) -> _BlockPoints:
        """The grid at the given columns, int64 [C]."""
        of = columns // self.format.group
        scale, low = (t.T[of].contiguous() for t in self._scales)
        return _BlockPoints(_values(self.format.name, scale.device), scale, low)

    def store(self, codes: Tensor) -> dict[str, Tensor]:
        """The tensors of a weight with these codes."""
        blocks = ops.kquant_join(self.blocks.cpu(), self.format.name, self._k, codes.cpu())
        return {"blocks": blocks.to(self.blocks.device)}


@dataclass(frozen=True)
class _BlockPoints:
    values: _Values
    scale: Tensor  # float32 [C, N]
    low: Tensor

    def round(self, w: Tensor, at: int | slice) -> tuple[Tensor, Tensor]:
        scale, low = self.scale[at], self.low[at]
        code, value = self.values.nearest(w, scale, low)
        return code, value * scale - low


@dataclass(frozen=True)
class _Values:
    """The integers that codes stand for."""

    first: int | None  # codes stand for first, first + 1, ...; None: for those of the table
    least: int
    greatest: int
    table: Tensor  # float32, ascending
    codes: Tensor  # of the table
    borders: Tensor  # between the table's entries

    def nearest(self, w: Tensor, scale: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, uint8, and the integers that they stand for, float32, nearest to w: the only rounding."""
        # Under a scale of zero all codes are the same; take that of zero.
        target = torch.where(scale == 0, 0.0, (w + low) / scale)
        if self.first is not None:
            value = target.round_().clamp_(self.least, self.greatest)
            return (value - self.first).to(torch.uint8), value
        at = torch.bucketize(target, self.borders)
        return self.codes[at], self.table[at]


@lru_cache
def _values(name: str, device: torch.device) -> _Values:
    values: dict[int, int] = {}
    for code, value in enumerate(_INFO[name]["values"]):
        if value not in _UNUSED.get(name, ()):
            values.setdefault(value, code)
    table = sorted(values)
    first = _INFO[name]["values"][0]
    even = all(code == value - first for value, code in values.items())
    entries = torch.tensor(table, dtype=torch.float32, device=device)
    codes = torch.tensor([values[value] for value in table], dtype=torch.uint8, device=device)
    borders = (entries[1:] + entries[:-1]) / 2
    return _Values(first if even else None, table[0], table[-1], entries, codes, borders)
