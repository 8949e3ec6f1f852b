"""``quantize_int8`` and ``quantize_fp8``: activations to 8 bits, behind an RMSNorm if there is one."""

from __future__ import annotations

import torch
from torch import Tensor

from qcore.ops.common import need
from qcore.ops.transforms import overload, refuse_gradients, register_fakes

BLOCK = 128
"""Columns of activations, and rows and columns of a weight, that share a scale in blocks."""


def used_eps(norm_weight: Tensor | None, norm_eps: float) -> float:
    """Without a norm a literal: torch.compile takes a float for a variable first, and starts again."""
    return 1e-6 if norm_weight is None else norm_eps


def quantize_int8(
    x: Tensor,
    symmetric: bool = True,
    per_token: bool = True,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds x to 8-bit integers: x is about ``scale * (q - zero)``.

    All is computed in float32, rounding to nearest even. Symmetric: ``scale = max|x| / 127``. Asymmetric,
    with ``lo = min(x, 0)`` and ``hi = max(x, 0)``: ``scale = (hi - lo) / 255`` and
    ``zero = clamp(round(-128 - lo / scale))``. Then ``q = clamp(round(x / scale) + zero)``, where clamp is
    to [-128, 127]. A scale of 0 is replaced by 1. Where an x is infinite or NaN the scale is NaN, and so is
    what is multiplied with it; with a given scale infinities saturate and NaN becomes the least integer.

    Args:
        x: float32, float16 or bfloat16 [..., K], any strides.
        symmetric: without zero points.
        per_token: a scale for each row of K; else one for all of x.
        scale: float32, static: [..., 1] with the leading sizes of x, or [1] if not `per_token`. None: from x.
        zero: int32 like scale, in [-128, 127]; with it if not symmetric, else None.
        norm_weight: [K], float32, float16 or bfloat16: RMSNorm comes first, ``x / sqrt(mean(x ** 2) +
            norm_eps) * norm_weight``, in float32 and not rounded to the dtype of x in between.
        norm_eps: see norm_weight.

    Returns:
        q int8 like x; scale float32 [..., 1] or [1]; zero int32 of the sizes of scale, or without elements
        if symmetric.
    """
    quantize = overload(torch.ops.qcore.quantize_int8, x, scale, norm_weight)
    q, used, used_zero = quantize(
        x, symmetric, per_token, scale, zero, norm_weight, used_eps(norm_weight, norm_eps)
    )
    return q, used, used_zero


@register_fakes("quantize_int8")
def _fake_quantize_int8(
    x: Tensor,
    symmetric: bool = True,
    per_token: bool = True,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = (*x.shape[:-1], 1) if per_token else (1,)
    return (
        x.new_empty(x.shape, dtype=torch.int8),
        x.new_empty(sizes, dtype=torch.float32),
        x.new_empty((0,) if symmetric else sizes, dtype=torch.int32),
    )


def quantize_fp8(
    x: Tensor,
    scale: Tensor | None = None,
    granularity: str = "token",
    dtype: torch.dtype = torch.float8_e4m3fn,
    norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Rounds x to 8-bit floats: x is about ``scale * q``.

    ``scale = max|x| / torch.finfo(dtype).max``, 1 if that is 0; an infinity or NaN in x gives one in scale.
    ``q = (x.float() / scale).clamp(-max, max).to(dtype)``, bit for bit as torch computes it but for the
    sign of NaN.

    Args:
        x: float32, float16 or bfloat16 [..., K], any strides.
        scale: float32, static: [..., 1] with the leading sizes of x for "token", [1] for "tensor".
            None: from x.
        granularity: "token", a scale for each row of K; "tensor", one for all; "block", one for each 128
            elements of a row (the last of which may be fewer).
        dtype: torch.float8_e4m3fn or torch.float8_e5m2.
        norm_weight: see :func:`quantize_int8`.
        norm_eps: see there.

    Returns:
        q in dtype like x; scale float32 [..., 1], [1] or [..., ceil(K / 128)].
    """
    quantize = overload(torch.ops.qcore.quantize_fp8, x, scale, norm_weight)
    q, used = quantize(x, scale, granularity, dtype, norm_weight, used_eps(norm_weight, norm_eps))
    return q, used


@register_fakes("quantize_fp8")
def _fake_quantize_fp8(
    x: Tensor,
    scale: Tensor | None = None,
    granularity: str = "token",
    dtype: torch.dtype | None = None,
    norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    need(x.dim() > 0, "quantize_fp8", "x has no dimensions")
    columns = -(-x.shape[-1] // BLOCK) if granularity == "block" else 1
    sizes = (1,) if granularity == "tensor" else (*x.shape[:-1], columns)
    return x.new_empty(x.shape, dtype=dtype or torch.float8_e4m3fn), x.new_empty(sizes, dtype=torch.float32)


refuse_gradients("quantize_int8", "detach x, or use int8_linear")
refuse_gradients("quantize_fp8", "detach x, or use fp8_linear")
