"""Fake quantization: weights as they will be read back, with gradients, for models that learn it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qcore import ops
from qcore.formats.base import Format
from qcore.formats.elements import Codebook
from qcore.formats.scaled import ScaledFormat

__all__ = ["fake_quant"]

_OUTSIDE = ("zero", "pass")


def fake_quant(
    w: Tensor,
    format: Format,
    scales: Tensor | None = None,
    zeros: Tensor | None = None,
    outside: str | None = None,
    scale_dtype: torch.dtype | None = None,
) -> Tensor:
    """w [N, K] rounded to a format: bit for bit what `rtn` writes, files hold and kernels multiply by, in the
    dtype of w, with straight-through gradients.

    Learned scales and zero points get the gradients of LSQ (Esser et al., 2020) and LSQ+ (Bhalgat et al.,
    2020), and may be anything: they are rounded to what the format stores, straight through as well. Without
    them the plain rule of the format finds both anew in each call, and w alone has a gradient.

    Args:
        w: float32, float16 or bfloat16 [N, K], any strides.
        format: one of elements under scales, or a block format of GGUF (which finds its own scales).
        scales: what elements are multiplied by, a float of the shape `format.granularity.shape(N, K)`.
        zeros: a float of that shape; with scales, if the format has zero points.
        outside: the gradient of numbers that the format clamps: "zero", or "pass" it on. Default: "zero" with
            given scales; else "pass", because then the range covers all of them.
        scale_dtype: what scales are stored in where the format leaves that open; default: the dtype of w.

    Returns:
        [N, K] in the dtype of w, contiguous.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    if w.dim() != 2 or w.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"w: expected float32, float16 or bfloat16 [N, K], got {w.dtype} {list(w.shape)}")
    if outside not in (None, *_OUTSIDE):
        raise ValueError(f"outside: expected one of {', '.join(_OUTSIDE)}, got {outside!r}")
    scaled = format.scaled
    if scaled is None:
        if scales is not None or zeros is not None:
            raise ValueError(f"scales: expected None, because {format} finds its own")
        return _straight_through(w, _as_read_back(w.detach(), format))
    passes = scales is None if outside is None else outside == "pass"
    return _fake_scaled(w, scaled, scales, zeros, passes, scale_dtype or w.dtype)


def _fake_scaled(
    w: Tensor,
    format: ScaledFormat,
    scales: Tensor | None,
    zeros: Tensor | None,
    passes: bool,
    scale_dtype: torch.dtype,
) -> Tensor:
    n, k = w.shape
    granularity, elements = format.granularity, format.elements
    if w.numel() == 0:
        return w.clone()
    tiles = (granularity.bands(n), granularity.groups(k))
    scale, zero, second = None, None, 0.0
    if scales is None:
        if zeros is not None:
            raise ValueError("zeros: expected None, because scales are None")
        if format.scales.zeros != torch.uint8:
            raise ValueError(f"format: codes are not chosen under zero points in float32, got {format}")
        stored = format.stored_scale(w.detach(), scale_dtype)
        second = 0.0 if stored.second is None else float(stored.second)
    else:
        _expect_tiles("scales", scales, granularity.shape(n, k))
        if format.zero_points != (zeros is not None):
            raise ValueError("zeros: expected None exactly when the format has no zero points")
        stored = format.scales.rule(scales.detach().float().amax(), scale_dtype)
        scale = _straight_through(scales, stored.storable(scales.detach().float())).view(tiles)
    if zeros is not None:
        _expect_tiles("zeros", zeros, granularity.shape(n, k))
        whole = zeros.detach().float()
        if format.scales.zeros == torch.uint8:
            whole = whole.round().clamp_(0, elements.count - 1)
        zero = _straight_through(zeros, whole).view(tiles)
    if w.device.type != "cpu":
        return _compose(w, format, scale, zero, passes, stored.dtype)
    numbers = elements.ascending(w.device) if isinstance(elements, Codebook) else None
    return ops.fake_quantize(
        w, elements.name, granularity.height(n), granularity.width(k), numbers, scale, zero,
        format.zero_points, stored.dtype, second, passes,
    )[0]  # fmt: skip


def _expect_tiles(name: str, given: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(given.shape) != shape or not given.is_floating_point():
        raise ValueError(f"{name}: expected floats {list(shape)}, got {given.dtype} {list(given.shape)}")


def _as_read_back(w: Tensor, format: Format, scale_dtype: torch.dtype = torch.float32) -> Tensor:
    """What rounding to nearest stores, in the dtype of w."""
    grid = format.fit(w.float(), scale_dtype)
    return format.dequantize(grid.store(grid.round(w.float()))).to(w.dtype)


def _compose(
    w: Tensor,
    format: ScaledFormat,
    scale: Tensor | None,
    zero: Tensor | None,
    passes: bool,
    scale_dtype: torch.dtype,
) -> Tensor:
    """`_fake_scaled` made of torch's ops, for devices without a kernel of ours."""
    if scale is None:
        grid = format.fit(w.detach().float(), scale_dtype)
        tiles = (format.granularity.bands(w.shape[0]), format.granularity.groups(w.shape[1]))
        scale, found = grid.values()
        scale, zero = scale.view(tiles), found.view(tiles) if isinstance(found, Tensor) else None
    y: Tensor = _Composed.apply(w, scale, zero, format, passes)  # type: ignore[no-untyped-call]
    return y


class _Composed(torch.autograd.Function):
    """scale and zero are float32 [bands, groups]; a zero of None is the elements' own."""

    @staticmethod
    def forward(
        ctx: Any, w: Tensor, scale: Tensor, zero: Tensor | None, format: ScaledFormat, passes: bool
    ) -> Tensor:
        s, z = _spread(format, w, scale), _spread(format, w, zero)
        ctx.save_for_backward(w, scale, zero)
        ctx.format, ctx.passes = format, passes
        y: Tensor = format.elements.value(format.elements.nearest(w.float(), s, z), z) * s
        return y.to(w.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        w, scale, zero = ctx.saved_tensors
        elements, granularity = ctx.format.elements, ctx.format.granularity
        s, z = _spread(ctx.format, w, scale), _spread(ctx.format, w, zero)
        quotient, gradient = w.float() / s, dy.float()
        inside = elements.inside(quotient, z)
        value = elements.value(elements.nearest(w.float(), s, z), z)

        def of_tiles(each: Tensor) -> Tensor:
            total: Tensor = granularity.tiles(each).sum((1, 3))
            return total

        dw = dy.to(w.dtype) if ctx.passes else torch.where(inside, dy, 0).to(w.dtype)
        dscale = of_tiles(gradient * (value - torch.where(inside, quotient, 0)))
        dzero = None if zero is None else of_tiles(torch.where(inside, 0, gradient)) * -scale
        return dw, dscale, dzero, None, None


def _spread(format: ScaledFormat, w: Tensor, tiles: Tensor | None) -> Any:
    if tiles is None:
        return format.elements.zero
    rows, columns = format.granularity.height(w.shape[0]), format.granularity.width(w.shape[1])
    each = tiles.repeat_interleave(rows, 0)[: w.shape[0]]
    return each.repeat_interleave(columns, 1)[:, : w.shape[1]]


class _Through(torch.autograd.Function):
    """The second argument, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, rounded: Tensor) -> Tensor:
        ctx.dtype = exact.dtype
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy.to(ctx.dtype), None


def _straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    y: Tensor = _Through.apply(exact, rounded)  # type: ignore[no-untyped-call]
    return y
