"""The format float8: e4m3 codes under scales per tensor, row or block of 128 x 128."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.formats.activations import E4M3_MAX, Activations
from qcore.formats.scales import storable_scale

__all__ = ["FLOAT8_BLOCK", "Float8", "Float8Grid"]

# Rows and columns of a weight that share a scale, where scales are per block.
FLOAT8_BLOCK = 128

_E4M3 = torch.float8_e4m3fn
_PER_TOKEN = Activations("e4m3")
_SCALES = ("tensor", "channel", "block")
# Temporaries of a fit have at most about this many elements.
_CHUNK = 1 << 18

# A float keeps its precision under any scale but for where its steps fall: the search tries scales over an
# octave (beyond it the same steps come again) and some that clip.
_SEARCH = [2.0 ** (step / 16) for step in range(-3, 17)]
# What a column without any importance still counts, relative to the mean (as GPTQ's usual damping does).
_LEAST_IMPORTANCE = 0.01


@dataclass(frozen=True)
class Float8:
    """e4m3 codes with scales, multiplied by inputs in e4m3, or by inputs as they are.

    `W[n, k] = scale * code[n, k]`, rounded as torch casts: to nearest, ties to even, saturating at 448.

    The tensors of a `QWeight`:
        codes: float8_e4m3fn [N, K], no NaN.
        scales: [1], [N, 1] or [ceil(N / 128), ceil(K / 128)], in the dtype in which they are stored.

    Attributes:
        scales: "tensor", "channel" (a row) or "block" (128 x 128).
        activations: how inputs are rounded to e4m3; None: they are not. Blocks of the weight and blocks of
            the inputs come together.
    """

    scales: str = "channel"
    activations: Activations | None = _PER_TOKEN

    name = "float8"

    def __post_init__(self) -> None:
        if self.scales not in _SCALES:
            raise ValueError(f"scales: expected one of {', '.join(_SCALES)}, got {self.scales!r}")
        inputs = self.activations
        if (self.scales == "block") != (inputs is not None and inputs.scales == "block"):
            raise ValueError(
                f"activations: expected per block exactly when the weight's scales are, got {inputs} with "
                f"scales per {self.scales}"
            )
        if inputs is not None and inputs.type != "e4m3":
            raise ValueError(f"activations: expected e4m3, got {inputs}")

    def supports(self, k: int) -> bool:
        """Rows of any length: blocks at the edges may be smaller."""
        return True

    def stored_bits(self, tensors: Mapping[str, Tensor]) -> int:
        """Bits in a checkpoint."""
        scales = tensors["scales"]
        return 8 * (tensors["codes"].numel() + scales.numel() * scales.itemsize)

    def scale_shape(self, n: int, k: int) -> tuple[int, ...]:
        """The shape of the scales of a weight [N, K]."""
        if self.scales == "tensor":
            return (1,)
        return (n, 1) if self.scales == "channel" else (-(-n // FLOAT8_BLOCK), -(-k // FLOAT8_BLOCK))

    def check(self, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> None:
        """Raises, naming the tensor, if these do not store a weight [N, K]."""
        codes, scales = tensors["codes"], tensors["scales"]
        if codes.dtype != _E4M3:
            raise TypeError(f"codes: expected float8_e4m3fn, got {codes.dtype}")
        if tuple(codes.shape) != shape:
            raise ValueError(f"codes: expected shape {shape}, got {tuple(codes.shape)}")
        expected = self.scale_shape(*shape)
        if tuple(scales.shape) != expected:
            raise ValueError(
                f"scales: expected shape {expected} for a weight {shape} with scales per {self.scales}, "
                f"got {tuple(scales.shape)}"
            )

    def spread(self, scales: Tensor, shape: tuple[int, int]) -> Tensor:
        """The scales, float32, in a shape that broadcasts to the weight's."""
        if self.scales != "block":
            return scales.float()
        rows = scales.float().repeat_interleave(FLOAT8_BLOCK, 0)[: shape[0]]
        return rows.repeat_interleave(FLOAT8_BLOCK, 1)[:, : shape[1]]

    # -- choosing a grid ------------------------------------------------------------------------

    def fit(
        self,
        w: Tensor,
        scale_dtype: torch.dtype,
        importance: Tensor | None = None,
        search: bool = False,
    ) -> Float8Grid:
        """The grid for a weight.

        Args:
            w: [N, K] float32.
            scale_dtype: what the scales are stored in. They are rounded to it before anything is rounded
                with them.
            importance: [K], how much an error in each column counts; only used by the search.
            search: try other scales than the plain `amax / 448`, for less weighted squared error.
        """
        shape = (w.shape[0], w.shape[1])
        plain = storable_scale(self._reduce(w.abs(), "amax") / E4M3_MAX, scale_dtype)
        if not search or w.numel() == 0:
            return Float8Grid(self, shape, plain.to(scale_dtype))
        weight_of = torch.ones(shape[1], device=w.device) if importance is None else importance.float()
        weight_of = weight_of / weight_of.mean().clamp_min(1e-30) + _LEAST_IMPORTANCE
        best, best_error = plain, self._error(w, plain, weight_of)
        for factor in _SEARCH:
            scale = storable_scale(plain * factor, scale_dtype)
            error = self._error(w, scale, weight_of)
            better = error < best_error
            best, best_error = torch.where(better, scale, best), torch.where(better, error, best_error)
        return Float8Grid(self, shape, best.to(scale_dtype))

    def _error(self, w: Tensor, scales: Tensor, weight_of: Tensor) -> Tensor:
        """The weighted squared error under each scale."""
        spread, errors = self.spread(scales, (w.shape[0], w.shape[1])), torch.empty_like(w)
        for rows in _row_chunks(*w.shape):
            scale = spread if len(spread) == 1 else spread[rows]
            value = _nearest(w[rows], scale).float() * scale
            errors[rows] = (value - w[rows]).square_() * weight_of
        return self._reduce(errors, "sum")

    def _reduce(self, values: Tensor, how: str) -> Tensor:
        """The maximum or the sum, of values >= 0, over what shares a scale."""
        n, k = values.shape
        if self.scales == "tensor":
            return (values.sum() if how == "sum" else values.amax()).reshape(1)
        if self.scales == "channel":
            return values.sum(1, keepdim=True) if how == "sum" else values.amax(1, keepdim=True)
        rows, columns = self.scale_shape(n, k)
        padded = torch.nn.functional.pad(values, (0, columns * FLOAT8_BLOCK - k, 0, rows * FLOAT8_BLOCK - n))
        blocks = padded.view(rows, FLOAT8_BLOCK, columns, FLOAT8_BLOCK)
        return blocks.sum((1, 3)) if how == "sum" else blocks.amax((1, 3))

    # -- values ---------------------------------------------------------------------------------

    def dequantize(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The values of a stored weight, float32 [N, K]."""
        codes = tensors["codes"]
        return codes.float() * self.spread(tensors["scales"], (codes.shape[0], codes.shape[1]))


@dataclass(frozen=True)
class Float8Grid:
    """The values that codes may stand for: those of e4m3 times a scale.

    Attributes:
        shape: of the weight, [N, K].
        scales: in the stored dtype.
    """

    format: Float8
    shape: tuple[int, int]
    scales: Tensor

    def round(self, w: Tensor) -> Tensor:
        """The nearest codes, their bits as uint8 [N, K], for w [N, K]."""
        spread = self.format.spread(self.scales, self.shape)
        codes = torch.empty(self.shape, dtype=torch.uint8, device=w.device)
        for rows in _row_chunks(*self.shape):
            scale = spread if len(spread) == 1 else spread[rows]
            codes[rows] = _nearest(w[rows].float(), scale).view(torch.uint8)
        return codes

    def points(self, columns: Tensor) -> _Float8Points:
        """The grid at the given columns, int64 [C]."""
        spread = self.format.spread(self.scales, self.shape)
        if self.format.scales == "block":
            return _Float8Points(spread.T[columns].contiguous())
        # Every column's scales are the same ones.
        scale = spread.reshape(1, -1).expand(len(columns), self.shape[0])
        return _Float8Points(scale)

    def store(self, codes: Tensor) -> dict[str, Tensor]:
        """The tensors of a weight with these codes."""
        return {"codes": codes.view(_E4M3), "scales": self.scales}


@dataclass(frozen=True)
class _Float8Points:
    scale: Tensor  # float32 [C, N]

    def round(self, w: Tensor, at: int | slice) -> tuple[Tensor, Tensor]:
        scale = self.scale[at]
        code = _nearest(w, scale)
        return code.view(torch.uint8), code.float() * scale


def _nearest(w: Tensor, scale: Tensor) -> Tensor:
    """The nearest e4m3 for w under a scale: the one rounding rule, used by every path. Clamped first, because
    torch casts what is above the largest number to NaN."""
    return (w / scale).clamp_(-E4M3_MAX, E4M3_MAX).to(_E4M3)


def _row_chunks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(columns, 1))
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))
