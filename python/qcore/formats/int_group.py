"""The format int_group: integer codes, with a scale and maybe a zero point per row and group of columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats.scales import storable_scale

__all__ = ["IntGrid", "IntGroup"]

# A fit works on chunks of rows of about this many elements, so that its temporaries stay in the cache.
_CHUNK = 1 << 17

# The clip search: how far the range shrinks, and how often the scale is refitted to its codes.
_SHRINKS = 24
_SMALLEST_SHRINK = 0.36
_REFITS = 3
# What a column without any importance still counts, relative to the mean (as GPTQ's usual damping does).
_LEAST_IMPORTANCE = 0.01


@dataclass(frozen=True)
class IntGroup:
    """Integer codes with a scale and optional zero point per row and group of columns.

    `W[n, k] = scale[n, g] * (code[n, k] - zero[n, g])`, `g = k // group_size`; the last group may be
    shorter. Symmetric formats have the constant zero point `2**(bits - 1)`.

    The tensors of a `QWeight`:
        codes: uint8 [N, K], unsigned codes in [0, 2**bits).
        scales: [N, G], G = ceil(K / group_size), in the dtype in which they are stored.
        zeros: uint8 [N, G]; absent for a symmetric format.

    Attributes:
        bits: 2, 3, 4 or 8.
        symmetric: no zero points.
        group_size: columns per group; -1 is one group per row.
    """

    bits: int = 4
    symmetric: bool = True
    group_size: int = 128

    name = "int_group"
    activations = None

    def __post_init__(self) -> None:
        if self.bits not in (2, 3, 4, 8):
            raise ValueError(f"bits: expected 2, 3, 4 or 8, got {self.bits}")
        if self.group_size != -1 and self.group_size < 1:
            raise ValueError(
                f"group_size: expected a positive number, or -1 for one group per row, got {self.group_size}"
            )

    @property
    def levels(self) -> int:
        return 1 << self.bits

    @property
    def center(self) -> int:
        return 1 << (self.bits - 1)

    def width(self, k: int) -> int:
        """Columns per group for a weight of K columns (at least 1, so that K = 0 works)."""
        return max(k, 1) if self.group_size == -1 else min(self.group_size, max(k, 1))

    def groups(self, k: int) -> int:
        return -(-k // self.width(k))

    def supports(self, k: int) -> bool:
        """Rows of any length: the last group may be shorter."""
        return True

    def stored_bits(self, tensors: Mapping[str, Tensor]) -> int:
        """Bits in a checkpoint, which packs the codes and zero points."""
        scales = tensors["scales"]
        per_group = scales.dtype.itemsize * 8 + (0 if self.symmetric else self.bits)
        return tensors["codes"].numel() * self.bits + scales.numel() * per_group

    def check(self, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> None:
        """Raises, naming the tensor, if these do not store a weight [N, K]."""
        codes, zeros = tensors["codes"], tensors.get("zeros")
        if codes.dtype != torch.uint8:
            raise TypeError(f"codes: expected uint8, got {codes.dtype}")
        if tuple(codes.shape) != shape:
            raise ValueError(f"codes: expected shape {shape}, got {tuple(codes.shape)}")
        expected = (shape[0], self.groups(shape[1]))
        if tuple(tensors["scales"].shape) != expected:
            raise ValueError(
                f"scales: expected shape {expected} for codes {shape} and group size "
                f"{self.group_size}, got {tuple(tensors['scales'].shape)}"
            )
        if self.symmetric != (zeros is None):
            raise ValueError("zeros: expected None exactly when the format is symmetric")
        if zeros is not None and tuple(zeros.shape) != expected:
            raise ValueError(f"zeros: expected shape {expected}, got {tuple(zeros.shape)}")

    # -- choosing a grid ------------------------------------------------------------------------

    def fit(
        self,
        w: Tensor,
        scale_dtype: torch.dtype,
        importance: Tensor | None = None,
        search: bool = False,
    ) -> IntGrid:
        """The grid for a weight.

        Args:
            w: [N, K] float32.
            scale_dtype: what the scales are stored in. They are rounded to it before anything is
                rounded with them, so that a saved weight dequantizes to what was chosen here.
            importance: [K], how much an error in each column counts; only used by the search.
            search: shrink the range and refit the scale to lower the weighted squared error. Without
                it the grid covers the range: min to max if asymmetric, -amax to amax if symmetric.
        """
        n, k = w.shape
        g, width = self.groups(k), self.width(k)
        weight_of = torch.ones(k, device=w.device) if importance is None else importance.float()
        # Relative, and never nothing: channels that calibration saw idle may wake up on other data.
        weight_of = weight_of / weight_of.mean().clamp_min(1e-30) + _LEAST_IMPORTANCE
        weight_of = _grouped(weight_of[None], g, width)
        scales = w.new_empty(n, g, dtype=scale_dtype)
        zeros = None if self.symmetric else w.new_empty(n, g, dtype=torch.uint8)
        for rows in _row_chunks(n, g * width):
            part = _grouped(w[rows].float(), g, width)
            s, z = self._range_grid(part, 1.0, 1.0, scale_dtype)
            if search:
                s, z = self._search(part, weight_of, s, z, scale_dtype)
            scales[rows] = s.to(scale_dtype)
            if zeros is not None:
                zeros[rows] = z.to(torch.uint8)
        return IntGrid(self, scales, zeros)

    def _range_grid(self, w: Tensor, low: float, high: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Scale and zero, float32 [n, G], for the range shrunk by `low` and `high` at its two ends."""
        if self.symmetric:
            # amax / (center - 1/2): the positive end is clipped by half a step, and the grid is finer
            # than amax / (center - 1) by more than that costs.
            scale = w.abs().amax(-1) * high / (self.center - 0.5)
            scale = storable_scale(scale, dtype)
            return scale, torch.full_like(scale, self.center)
        bottom = w.amin(-1).clamp_max(0) * low
        top = w.amax(-1).clamp_min(0) * high
        scale = storable_scale((top - bottom) / (self.levels - 1), dtype)
        return scale, self._nearest_zero(bottom, scale)

    def _nearest_zero(self, bottom: Tensor, scale: Tensor) -> Tensor:
        return (-bottom / scale).round().clamp(0, self.levels - 1)

    def _search(
        self, w: Tensor, importance: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        best_error = self._error(w, importance, scale, zero)

        def consider(s: Tensor, z: Tensor) -> None:
            nonlocal scale, zero, best_error
            error = self._error(w, importance, s, z)
            better = error < best_error
            scale, zero = torch.where(better, s, scale), torch.where(better, z, zero)
            best_error = torch.where(better, error, best_error)

        for shrink in torch.linspace(1.0, _SMALLEST_SHRINK, _SHRINKS).tolist()[1:]:
            consider(*self._range_grid(w, shrink, shrink, dtype))
        if not self.symmetric:
            for ends in ((0.9, 1.0), (0.8, 1.0), (0.65, 1.0), (1.0, 0.9), (1.0, 0.8), (1.0, 0.65)):
                bottom, top = -zero * scale, (self.levels - 1 - zero) * scale
                s = storable_scale((top * ends[1] - bottom * ends[0]) / (self.levels - 1), dtype)
                consider(s, self._nearest_zero(bottom * ends[0], s))
        for _ in range(_REFITS):
            # Least squares: the scale that fits the codes best, then codes that fit the scale.
            q = self.nearest(w, scale.unsqueeze(-1), zero.unsqueeze(-1)).sub_(zero.unsqueeze(-1))
            fitted = (importance * w * q).sum(-1) / (importance * q * q).sum(-1).clamp_min(1e-30)
            consider(storable_scale(torch.where(fitted > 0, fitted, scale), dtype), zero)
        return scale, zero

    def _error(self, w: Tensor, importance: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        scale, zero = scale.unsqueeze(-1), zero.unsqueeze(-1)
        delta = self.nearest(w, scale, zero).sub_(zero).mul_(scale).sub_(w)
        return delta.square_().mul_(importance).sum(-1)

    # -- codes ----------------------------------------------------------------------------------

    def nearest(self, w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The nearest codes, as float32, for w, scale and zero float32 of matching shapes: the one rounding
        rule, used by every path."""
        return (w / scale).round_().add_(zero).clamp_(0, self.levels - 1)

    def dequantize(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The values of a stored weight, float32 [N, K]."""
        codes, zeros = tensors["codes"], tensors.get("zeros")
        k = codes.shape[1]
        width = self.width(k)
        w = codes.float()
        if zeros is None:
            w -= self.center
        else:
            w -= zeros.float().repeat_interleave(width, 1)[:, :k]
        w *= tensors["scales"].float().repeat_interleave(width, 1)[:, :k]
        return w


@dataclass(frozen=True)
class IntGrid:
    """The values that codes may stand for: `scale * (code - zero)` per row and group.

    Attributes:
        scales: [N, G] in the stored dtype.
        zeros: uint8 [N, G], or None if symmetric.
    """

    format: IntGroup
    scales: Tensor
    zeros: Tensor | None

    def round(self, w: Tensor) -> Tensor:
        """The nearest codes, uint8 [N, K], for w [N, K]."""
        n, k = w.shape
        g, width = self.format.groups(k), self.format.width(k)
        codes = w.new_empty(n, k, dtype=torch.uint8)
        for rows in _row_chunks(n, g * width):
            scale = self.scales[rows].float().unsqueeze(-1)
            zero = self._zeros(scale, rows)
            q = self.format.nearest(_grouped(w[rows].float(), g, width), scale, zero)
            codes[rows] = q.flatten(1)[:, :k].to(torch.uint8)
        return codes

    def points(self, columns: Tensor) -> _IntPoints:
        """The grid at the given columns, int64 [C]."""
        of = columns // (self.format.group_size if self.format.group_size != -1 else 1 << 62)
        scale = self.scales.float().T[of].contiguous()
        if self.zeros is None:
            return _IntPoints(self.format, scale, torch.full_like(scale, self.format.center))
        return _IntPoints(self.format, scale, self.zeros.float().T[of].contiguous())

    def store(self, codes: Tensor) -> dict[str, Tensor]:
        """The tensors of a weight with these codes."""
        tensors = {"codes": codes, "scales": self.scales}
        return tensors if self.zeros is None else {**tensors, "zeros": self.zeros}

    def _zeros(self, scale: Tensor, rows: slice) -> Tensor:
        if self.zeros is None:
            return torch.full_like(scale, self.format.center)
        return self.zeros[rows].float().unsqueeze(-1)


@dataclass(frozen=True)
class _IntPoints:
    format: IntGroup
    scale: Tensor  # float32 [C, N]
    zero: Tensor

    def round(self, w: Tensor, at: int | slice) -> tuple[Tensor, Tensor]:
        scale, zero = self.scale[at], self.zero[at]
        code = self.format.nearest(w, scale, zero)
        return code.to(torch.uint8), (code - zero) * scale


def _grouped(w: Tensor, groups: int, width: int) -> Tensor:
    """[n, K] -> [n, G, width], the last group padded with zeros (which move no range and no error)."""
    n, k = w.shape
    if k < groups * width:
        w = torch.nn.functional.pad(w, (0, groups * width - k))
    return w.reshape(n, groups, width)


def _row_chunks(rows: int, row_elements: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(row_elements, 1))
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))
