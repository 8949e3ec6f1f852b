"""Formats of codes under scales: elements x granularity x how scales are stored, written once for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qcore.formats.activations import TOKEN_BLOCK, Activations
from qcore.formats.elements import ELEMENTS, Elements, Floats
from qcore.formats.granularity import BLOCK, ROW, TENSOR, Granularity, group
from qcore.formats.importance import relative
from qcore.formats.parts import bands_of, chunks, gathered, part_of, pieces
from qcore.formats.scales import Scales, StoredScale

__all__ = ["ScaledFormat", "ScaledGrid"]

_PLAIN = Scales()

# Groups that readers of checkpoints take where a larger one does not divide a row.
_GROUPS = (256, 128, 64, 32, 16)
# How the search moves one end of a range with a zero point: factors of its lower and upper end.
_ENDS = ((0.9, 1.0), (0.8, 1.0), (0.65, 1.0), (1.0, 0.9), (1.0, 0.8), (1.0, 0.65))


@dataclass(frozen=True)
class ScaledFormat:
    """`W[n, k] = scale * (element[n, k] - zero)`, scale and zero of the tile that n, k is in.

    The tensors of a `QWeight`:
        codes: [N, K] in the elements' dtype.
        scales: as `granularity.shape` says, in the dtype in which they are stored.
        zeros: like scales, in the dtype of zero points; only with these.
        second_scale: float32 [1], by which scales are multiplied; only with a second level.

    Attributes:
        elements: what codes stand for.
        granularity: which of them share a scale.
        scales: how those are stored.
        zero_points: whether there is one with each scale; else it is the elements' own.
        activations: how the layer's inputs are rounded; None: they are multiplied as they are.
    """

    elements: Elements
    granularity: Granularity
    scales: Scales = _PLAIN
    zero_points: bool = False
    activations: Activations | None = None

    def __post_init__(self) -> None:
        if self.zero_points and not (self.elements.affine and self.granularity.rows == 1):
            raise ValueError(
                f"zero_points: expected unsigned integers with scales per row or group, got "
                f"{self.elements.name} {self.granularity}"
            )

    @property
    def name(self) -> str:
        """What weights are stored as, e.g. "int4 g128 sym"."""
        kind = f" {'asym' if self.zero_points else 'sym'}" if self.elements.affine else ""
        stored = "" if self.scales.dtype is None else f", scales {_short(self.scales.dtype)}"
        second = " of two levels" if self.scales.second_level else ""
        second += ", zeros f32" if self.zero_points and self.scales.zeros.is_floating_point else ""
        return f"{self.elements.label} {self.granularity}{kind}{stored}{second}"

    def __str__(self) -> str:
        return self.name if self.activations is None else f"{self.name}, inputs {self.activations}"

    @property
    def bits(self) -> int:
        return self.elements.bits

    @property
    def symmetric(self) -> bool:
        return not self.zero_points

    @property
    def group_size(self) -> int:
        """Columns that share a scale, -1 for all."""
        return self.granularity.columns

    @property
    def scaled(self) -> ScaledFormat:
        return self

    @property
    def op(self) -> str:
        """Which ops pack and multiply such weights: w4a16, int8, fp8, or none of them: "decoded"."""
        inputs, e4m3 = self.activations, ELEMENTS["e4m3"]
        if self.scales != _PLAIN:
            plain = self.scales.dtype in (torch.float32, torch.float16, torch.bfloat16)
            if not plain or self.scales.second_level or self.scales.zeros != torch.uint8:
                return "decoded"
        if inputs is None:
            integers = self.elements.affine and self.bits in (2, 3, 4, 8) and self.granularity.rows == 1
            floats = isinstance(self.elements, Floats) and self.granularity in (ROW, TENSOR)
            return "w4a16" if integers or floats else "decoded"
        if self.elements == ELEMENTS["s8"] and self.granularity == ROW and inputs.is_integer:
            return "int8"
        in_blocks = (self.granularity == BLOCK, inputs.granularity == TOKEN_BLOCK)
        fits = all(in_blocks) or (self.granularity in (ROW, TENSOR) and not any(in_blocks))
        return "fp8" if fits and self.elements == e4m3 and inputs.elements == e4m3 else "decoded"

    def with_group_size(self, columns: int) -> ScaledFormat:
        if self.activations is not None or isinstance(self.elements, Floats):
            raise ValueError(f"group_size: the scheme {self} has its own, got {columns}")
        return replace(self, granularity=group(columns))

    def for_columns(self, k: int) -> ScaledFormat:
        """The format itself if its groups, or blocks, divide rows of K columns; else with the largest of the
        usual groups that do, the whole row if none does. Blocks become scales per row of the weight.

        Kernels take any K (tiles at the edges may be smaller), but what reads checkpoints of integers and
        floats does not.
        """
        width = self.granularity.columns
        stored = self.elements.affine or isinstance(self.elements, Floats)
        if width == -1 or k % width == 0 or not stored:
            return self
        if self.granularity.rows == 1:
            fitting = (g for g in _GROUPS if g < width and k % g == 0)
            return replace(self, granularity=group(next(fitting, -1)))
        inputs = self.activations
        if inputs is not None and inputs.granularity == TOKEN_BLOCK:
            inputs = replace(inputs, granularity=ROW)
        return replace(self, granularity=ROW, activations=inputs)

    def stored_bits(self, tensors: Mapping[str, Tensor]) -> int:
        """Bits in a checkpoint, which packs the codes and zero points."""
        scales = tensors["scales"]
        zero_bits = 32 if self.scales.zeros == torch.float32 else self.bits
        per_tile = scales.itemsize * 8 + (zero_bits if self.zero_points else 0)
        second = 32 if self.scales.second_level else 0
        return tensors["codes"].numel() * self.bits + scales.numel() * per_tile + second

    def check(self, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> None:
        """Raises, naming the tensor, if these do not store a weight [N, K] or, of experts, [E, N, K]."""
        for name in ("codes", "scales"):
            if name not in tensors:
                raise ValueError(f"{name}: missing")
        codes, scales, zeros = tensors["codes"], tensors["scales"], tensors.get("zeros")
        self.elements.check(codes)
        if tuple(codes.shape) != shape:
            raise ValueError(f"codes: expected shape {shape}, got {tuple(codes.shape)}")
        expected = (*shape[:-2], *self.granularity.shape(*shape[-2:]))
        if tuple(scales.shape) != expected:
            raise ValueError(
                f"scales: expected shape {expected} for a weight {shape} with scales {self.granularity}, "
                f"got {tuple(scales.shape)}"
            )
        self.scales.check(scales, tensors.get("second_scale"))
        if self.zero_points != (zeros is not None):
            raise ValueError("zeros: expected None exactly when the format is symmetric")
        if zeros is not None and tuple(zeros.shape) != expected:
            raise ValueError(f"zeros: expected shape {expected}, got {tuple(zeros.shape)}")
        if zeros is not None and zeros.dtype != self.scales.zeros:
            kind = str(self.scales.zeros).removeprefix("torch.")
            raise TypeError(f"zeros: expected {kind}, got {zeros.dtype}")

    def zeros(
        self, n: int, k: int, scale_dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> dict[str, Tensor]:
        """The tensors that store a weight [N, K], all of their bits 0."""
        tiles, dtype = self.granularity.shape(n, k), self.scales.dtype or scale_dtype
        tensors = {
            "codes": torch.zeros(n, k, dtype=self.elements.dtype, device=device),
            "scales": torch.zeros(tiles, dtype=torch.uint8, device=device).to(dtype),
        }
        if self.zero_points:
            tensors["zeros"] = torch.zeros(tiles, dtype=self.scales.zeros, device=device)
        if self.scales.second_level:
            tensors["second_scale"] = torch.zeros(1, device=device)
        return tensors

    # -- choosing a grid ------------------------------------------------------------------------

    def fit(
        self,
        w: Tensor,
        scale_dtype: torch.dtype,
        importance: Tensor | None = None,
        search: bool = False,
    ) -> ScaledGrid:
        """The grid for a weight.

        Args:
            w: [N, K] float32.
            scale_dtype: what scales are stored in, unless the format says it. They are rounded to it before
                anything is rounded with them, so that a saved weight dequantizes to what was chosen here.
            importance: [K], how much an error in each column counts; only used by the search.
            search: shrink the range and refit the scale to lower the weighted squared error. Without it the
                grid covers the range: min to max with zero points, else -amax to amax.
        """
        if self.scales.zeros != torch.uint8:
            raise ValueError(f"format: codes are not chosen under zero points in float32, got {self}")
        n, k = w.shape
        granularity = self.granularity
        bands, groups, height = granularity.bands(n), granularity.groups(k), granularity.height(n)
        stored = self.stored_scale(w, scale_dtype)
        shape = (bands, groups)
        scales = w.new_empty(shape, dtype=stored.dtype)
        zeros = w.new_empty(shape, dtype=torch.uint8) if self.zero_points else None
        counts = torch.ones(k, device=w.device) if importance is None else importance.float()
        search_for = _Search(self, stored, relative(counts)) if search else None
        for part, rows in bands_of(bands, height, n, k):
            tiles = granularity.tiles(w[rows].float())
            scale, zero = self._cover(tiles, 1.0, stored)
            if search_for is not None:
                scale, zero = search_for(tiles, scale, zero)
            scales[part] = stored.stored(scale).flatten(1)
            if zeros is not None and isinstance(zero, Tensor):
                zeros[part] = zero.flatten(1).to(torch.uint8)
        shaped = scales.view(granularity.shape(n, k))
        return ScaledGrid(self, (n, k), shaped, zeros, stored.second)

    def stored_scale(self, w: Tensor, dtype: torch.dtype) -> StoredScale:
        """How the scales of w are rounded; `dtype` where the format leaves that open."""
        greatest = w.abs().amax().float() if self.scales.second_level and w.numel() else w.new_zeros(())
        return self.scales.rule(greatest / self.elements.greatest, dtype)

    def _cover(self, tiles: Tensor, shrink: float, stored: StoredScale) -> tuple[Tensor, Tensor | float]:
        """Scale and zero, float32 [bands, 1, groups, 1], for the range of tiles, shrunk at both ends."""
        if not self.zero_points:
            scale = tiles.abs().amax((1, 3), keepdim=True) * shrink / self.elements.greatest
            return stored.storable(scale), self.elements.zero
        bottom = tiles.amin((1, 3), keepdim=True).clamp_max(0) * shrink
        top = tiles.amax((1, 3), keepdim=True).clamp_min(0) * shrink
        scale = stored.storable((top - bottom) / (self.elements.count - 1))
        return scale, self._nearest_zero(bottom, scale)

    def _nearest_zero(self, bottom: Tensor, scale: Tensor) -> Tensor:
        return (-bottom / scale).round().clamp(0, self.elements.count - 1)

    # -- values ---------------------------------------------------------------------------------

    def dequantize(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The values of a stored weight, float32 [N, K] or [E, N, K]."""
        return self._decode(tensors, self.granularity)

    def decode_rows(self, tensors: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """The values of some rows of a stored weight [N, K]: int64 [M] to float32 [M, K]."""
        codes, granularity = tensors["codes"], self.granularity
        chosen = {**tensors, "codes": gathered(codes, rows)}
        if granularity.rows != -1:
            band = rows // granularity.height(codes.shape[0])
            chosen |= {name: gathered(tensors[name], band) for name in ("scales", "zeros") if name in tensors}
            granularity = replace(granularity, rows=1)
        return self._decode(chosen, granularity)

    def _decode(self, tensors: Mapping[str, Tensor], granularity: Granularity) -> Tensor:
        codes, zeros, second = tensors["codes"], tensors.get("zeros"), tensors.get("second_scale")
        n, k = codes.shape[-2:]
        scales = tensors["scales"].float()
        scales = scales if second is None else scales * second
        zero: Tensor | float = self.elements.zero
        if zeros is not None:
            zero = granularity.spread(zeros.float(), n, k)
        return self.elements.decode(codes, zero).mul_(granularity.spread(scales, n, k))


@dataclass(frozen=True)
class _Search:
    """Looks for the scale, and zero, of the least weighted squared error in each tile."""

    format: ScaledFormat
    stored: StoredScale
    importance: Tensor  # float32 [K]

    def __call__(self, tiles: Tensor, scale: Tensor, zero: Tensor | float) -> tuple[Tensor, Tensor | float]:
        format, stored, elements = self.format, self.stored, self.format.elements
        importance = format.granularity.tiles(self.importance[None])
        best_error = self._error(tiles, importance, scale, zero)

        def consider(s: Tensor, z: Tensor | float) -> None:
            nonlocal scale, zero, best_error
            error = self._error(tiles, importance, s, z)
            better = error < best_error
            scale, best_error = torch.where(better, s, scale), torch.where(better, error, best_error)
            if isinstance(z, Tensor) and isinstance(zero, Tensor):
                zero = torch.where(better, z, zero)

        for shrink in elements.shrinks:
            consider(*format._cover(tiles, shrink, stored))
        if isinstance(zero, Tensor):
            for low, high in _ENDS:
                bottom, top = -zero * scale, (elements.count - 1 - zero) * scale
                s = stored.storable((top * high - bottom * low) / (elements.count - 1))
                consider(s, format._nearest_zero(bottom * low, s))
        for _ in range(elements.refits):
            # Least squares: the scale that fits the codes best, then codes that fit the scale.
            products, squares = torch.zeros_like(scale), torch.zeros_like(scale)
            for part in pieces(tiles):
                q = elements.value(elements.nearest(part, scale, zero), zero)
                products += (importance * part * q).sum((1, 3), keepdim=True)
                squares += (importance * q * q).sum((1, 3), keepdim=True)
            fitted = products / squares.clamp_min(1e-30)
            consider(stored.storable(torch.where(fitted > 0, fitted, scale)), zero)
        return scale, zero

    def _error(self, tiles: Tensor, importance: Tensor, scale: Tensor, zero: Tensor | float) -> Tensor:
        elements, total = self.format.elements, torch.zeros_like(scale)
        for part in pieces(tiles):
            delta = elements.value(elements.nearest(part, scale, zero), zero).mul_(scale).sub_(part)
            total += delta.square_().mul_(importance).sum((1, 3), keepdim=True)
        return total


@dataclass(frozen=True)
class ScaledGrid:
    """The values that codes may stand for.

    Attributes:
        shape: of the weight, [N, K].
        scales: in the stored dtype.
        zeros: like scales, or None without zero points.
        second_scale: float32 [1], or None with one level of scales.
    """

    format: ScaledFormat
    shape: tuple[int, int]
    scales: Tensor
    zeros: Tensor | None = None
    second_scale: Tensor | None = None

    def round(self, w: Tensor) -> Tensor:
        """The nearest codes, uint8 [N, K], for w [N, K]."""
        n, k = self.shape
        elements, granularity = self.format.elements, self.format.granularity
        codes = torch.empty(self.shape, dtype=torch.uint8, device=w.device)
        scales, zeros = self.values()
        height = granularity.height(n)
        for part, band in bands_of(granularity.bands(n), height, n, k):
            rows = range(n)[band]
            # One tile has one scale, however many rows it has.
            scale = granularity.spread(scales[part] if scales.dim() > 1 else scales, len(rows), k)
            zero = granularity.spread(zeros[part], len(rows), k) if isinstance(zeros, Tensor) else zeros
            for at in chunks(len(rows), k):
                chunk = slice(rows.start + at.start, rows.start + at.stop)
                found = elements.nearest(w[chunk].float(), part_of(scale, at), part_of(zero, at))
                codes[chunk] = elements.pattern(found)
        return codes

    def points(self, columns: Tensor) -> _ScaledPoints:
        """The grid at the given columns, int64 [C]."""
        scales, zeros = self.values()
        zero = self._at(zeros, columns) if isinstance(zeros, Tensor) else zeros
        return _ScaledPoints(self.format.elements, self._at(scales, columns), zero)

    def values(self) -> tuple[Tensor, Tensor | float]:
        """Scales and zeros as they are stored, in float32."""
        scales = self.scales.float() if self.second_scale is None else self.scales.float() * self.second_scale
        return scales, self.format.elements.zero if self.zeros is None else self.zeros.float()

    def _at(self, stored: Tensor, columns: Tensor) -> Tensor:
        """Scales or zeros of the rows at some columns, [C, N]."""
        n, granularity = self.shape[0], self.format.granularity
        if granularity.columns == -1:  # not written out: every column has the same ones
            return stored.reshape(1, -1).expand(len(columns), n)
        if granularity.rows != 1:
            stored = stored.repeat_interleave(granularity.height(n), 0)[:n]
        return stored.T[columns // granularity.width(self.shape[1])].contiguous()

    def store(self, codes: Tensor) -> dict[str, Tensor]:
        """The tensors of a weight with these codes, uint8 [N, K]."""
        tensors = {"codes": self.format.elements.stored(codes), "scales": self.scales}
        optional = {"zeros": self.zeros, "second_scale": self.second_scale}
        return tensors | {name: tensor for name, tensor in optional.items() if tensor is not None}


@dataclass(frozen=True)
class _ScaledPoints:
    elements: Elements
    scale: Tensor  # float32 [C, N]
    zero: Tensor | float

    def round(self, w: Tensor, at: int | slice) -> tuple[Tensor, Tensor]:
        scale, zero = self.scale[at], self.zero[at] if isinstance(self.zero, Tensor) else self.zero
        found = self.elements.nearest(w, scale, zero)
        return self.elements.pattern(found), self.elements.value(found, zero) * scale


def _short(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.").removeprefix("float8_").removesuffix("fn").removesuffix("fnu")
    return {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}.get(name, name)
