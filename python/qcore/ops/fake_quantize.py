"""``fake_quantize``: a weight as it is read back once it was quantized, with gradients through that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qcore.ops.common import need
from qcore.ops.transforms import differentiable, overload, refuse_gradients, register_fakes


def fake_quantize(
    w: Tensor,
    elements: str,
    rows: int,
    columns: int,
    numbers: Tensor | None = None,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    zero_points: bool = False,
    scale_dtype: torch.dtype = torch.float32,
    second: float = 0.0,
    passes_outside: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds w to ``scale * (element - zero)``, elements under scales in tiles of w; CPU tensors.

    All is computed in float32, rounding to nearest even, and rounded to the dtype of w at the end.
    Integers of b bits: ``clamp(round(w / scale) + zero, 0, 2 ** b - 1)``, of which s8 counts from 128.
    Floats: ``(w / scale).clamp(-max, max)`` as torch casts it. A codebook: the nearest number, the smaller of
    two. NaN stays NaN.

    The gradient is that of learned steps (Esser et al., LSQ, 2020; Bhalgat et al., LSQ+, 2020), not
    yet multiplied by their 1 / sqrt(N Qp). For a number that was not clamped it is dy, and ``element - zero -
    w / scale`` for its scale; for a clamped one 0 (see `passes_outside`), ``element - zero`` for its scale
    and ``-scale`` for its zero point. Where scales come from w they have no gradient.

    Args:
        w: float32, float16 or bfloat16 [N, K], any strides.
        elements: "u2", "u3", "u4", "u8", "s8", "e4m3" or "e5m2"; whatever it is if there are numbers.
        rows: of a tile.
        columns: of a tile; tiles at the edges may be smaller.
        numbers: float32 [2 .. 256], ascending: the codebook.
        scale: float32 [ceil(N / rows), ceil(K / columns)], taken as it is. None: from w, by the plain rule of
            `qcore.formats.ScaledFormat.fit`.
        zero: float32 like scale; with it if there are zero points, else None.
        zero_points: of unsigned integers; else the zero point is ``2 ** (b - 1)``.
        scale_dtype: what scales from w are rounded to: float32, float16, bfloat16, float8_e4m3fn or
            float8_e8m0fnu.
        second: if not 0, what scales in that dtype are multiplied by.
        passes_outside: the gradient of numbers that were clamped is dy, too.

    Returns:
        y like w, contiguous; the scales, float32; the zero points, float32, without elements if there
        are none.
    """
    quantize = overload(torch.ops.qcore.fake_quantize, w, scale, zero)
    y, used, used_zero = quantize(
        w, elements, rows, columns, numbers, scale, zero, zero_points,
        str(scale_dtype).removeprefix("torch."), second, passes_outside,
    )  # fmt: skip
    return y, used, used_zero


def _tiles(w: Tensor, rows: int, columns: int) -> tuple[int, int]:
    return -(-w.shape[0] // rows), -(-w.shape[1] // columns)


@register_fakes("fake_quantize")
def _fake_forward(
    w: Tensor,
    elements: str,
    rows: int,
    columns: int,
    numbers: Tensor | None = None,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    zero_points: bool = False,
    scale_dtype: str = "float32",
    second: float = 0.0,
    passes_outside: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    need(w.dim() == 2, "fake_quantize", "w has not two dimensions")
    need(rows >= 1 and columns >= 1, "fake_quantize", "rows or columns are below 1")
    tiles = _tiles(w, rows, columns)
    return (
        w.new_empty(w.shape),
        w.new_empty(tiles, dtype=torch.float32),
        w.new_empty(tiles if zero_points else (0,), dtype=torch.float32),
    )


@register_fakes("fake_quantize_backward")
def _fake_backward(
    dy: Tensor,
    w: Tensor,
    elements: str,
    rows: int,
    columns: int,
    numbers: Tensor | None,
    scale: Tensor,
    zero: Tensor | None = None,
    passes_outside: bool = False,
    learns: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    tiles = _tiles(w, rows, columns)
    return (
        w.new_empty(w.shape),
        w.new_empty(tiles if learns else (0,), dtype=torch.float32),
        w.new_empty(tiles if learns and zero is not None else (0,), dtype=torch.float32),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    w, elements, rows, columns, numbers = inputs[:5]
    _, scale, zero = output
    ctx.mark_non_differentiable(scale, zero)
    ctx.save_for_backward(w, numbers, scale, zero)
    ctx.grid = elements, rows, columns
    ctx.zero_points, ctx.passes_outside = inputs[7], inputs[10]


def _backward(ctx: Any, dy: Tensor, *others: Any) -> tuple[Any, ...]:
    w, numbers, scale, zero = ctx.saved_tensors
    learns = ctx.needs_input_grad[5] or ctx.needs_input_grad[6]
    dw, dscale, dzero = torch.ops.qcore.fake_quantize_backward.no_grad(
        dy.to(w.dtype), w, *ctx.grid, numbers, scale, zero if ctx.zero_points else None,
        ctx.passes_outside, learns,
    )  # fmt: skip
    of_scale = dscale if ctx.needs_input_grad[5] else None
    of_zero = dzero if ctx.needs_input_grad[6] else None
    return dw, None, None, None, None, of_scale, of_zero, None, None, None, None


differentiable("fake_quantize", _backward, _keep)
refuse_gradients("fake_quantize_backward", "it has no second derivative")
