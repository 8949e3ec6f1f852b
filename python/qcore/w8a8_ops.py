"""The operators on 8-bit activations and 8-bit weights, as Python functions; :mod:`qcore.ops` gives them all.

Weights are plain tensors [N, K] of int8 or float8: there is nothing to pack, on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcore import fakes  # noqa: F401 - registers the fake kernels and the gradients

__all__ = ["fp8_gemm", "fp8_linear", "int8_gemm", "int8_linear", "quantize_fp8", "quantize_int8"]


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
    q, used, used_zero = torch.ops.qcore.quantize_int8(
        x, symmetric, per_token, scale, zero, norm_weight, norm_eps
    )
    return q, used, used_zero


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
    q, used = torch.ops.qcore.quantize_fp8(x, scale, granularity, dtype, norm_weight, norm_eps)
    return q, used


def int8_gemm(
    x: Tensor,
    weight: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    x_zero: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
    w_sum: Tensor | None = None,
) -> Tensor:
    """``x_scale * w_scale * ((x - x_zero) @ weight.T) + bias``, with exact integer sums.

    The integers are rounded once, to float32; what follows is float32 too. The result of a row depends
    neither on the number of threads nor on the other rows of x.

    Args:
        x: int8 [..., K], from :func:`quantize_int8`.
        weight: int8 [N, K], K below 2 ** 17.
        x_scale: float32 of 1 or M elements (one for each row of x).
        w_scale: float32 of 1 or N elements.
        x_zero: int32 of as many elements as x_scale, in [-128, 127]; None: zeros.
        bias: float32, float16 or bfloat16 [N], not rounded.
        out_dtype: torch.float32, torch.float16 or torch.bfloat16.
        w_sum: int32 [N], ``weight.sum(1)``; used with x_zero, found in the call if None.

    Returns:
        [..., N] in out_dtype. It has no gradients; :func:`int8_linear` has.
    """
    y: Tensor = torch.ops.qcore.int8_gemm(x, weight, x_scale, w_scale, x_zero, bias, out_dtype, w_sum)
    return y


def fp8_gemm(
    x: Tensor,
    weight: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``(x_scale * x) @ (w_scale * weight).T + bias``, accumulated in float32.

    The result of a row depends neither on the number of threads nor on the other rows of x on the CPU.

    Args:
        x: float8_e4m3fn or float8_e5m2 [..., K], from :func:`quantize_fp8`.
        weight: float8_e4m3fn or float8_e5m2 [N, K].
        x_scale: float32 of 1 or M elements (one for each row of x); with blocks [..., ceil(K / 128)].
        w_scale: float32 of 1 or N elements, or [ceil(N / 128), ceil(K / 128)], of blocks of 128 x 128.
        bias: float32, float16 or bfloat16 [N], not rounded.
        out_dtype: torch.float32, torch.float16 or torch.bfloat16.

    Returns:
        [..., N] in out_dtype. It has no gradients; :func:`fp8_linear` has.
    """
    y: Tensor = torch.ops.qcore.fp8_gemm(x, weight, x_scale, w_scale, bias, out_dtype)
    return y


def int8_linear(
    x: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_sum: Tensor | None = None,
    bias: Tensor | None = None,
    symmetric: bool = True,
    x_scale: Tensor | None = None,
    x_zero: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> Tensor:
    """:func:`quantize_int8` and :func:`int8_gemm` in one call, to the same bits.

    Gradients flow to x, as if it had not been quantized, to bias and to norm_weight; not to the weight.

    Args:
        x: float32, float16 or bfloat16 [..., K], any strides.
        weight: int8 [N, K].
        w_scale: float32 of 1 or N elements.
        w_sum: int32 [N], ``weight.sum(1)``; used if not symmetric, found in the call if None.
        bias: float32, float16 or bfloat16 [N], not rounded.
        symmetric: quantize x without zero points.
        x_scale: float32 of one element, static; None: dynamic, one for each row of x.
        x_zero: int32 of one element, with x_scale if not symmetric.
        norm_weight: see :func:`quantize_int8`.
        norm_eps: see there.

    Returns:
        [..., N] in the dtype of x.
    """
    y: Tensor = torch.ops.qcore.int8_linear(
        x, weight, w_scale, w_sum, bias, symmetric, x_scale, x_zero, norm_weight, norm_eps
    )
    return y


def fp8_linear(
    x: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    x_scale: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> Tensor:
    """:func:`quantize_fp8` (to float8_e4m3fn) and :func:`fp8_gemm` in one call, to the same bits.

    Gradients flow to x, as if it had not been quantized, to bias and to norm_weight; not to the weight.

    Args:
        x: float32, float16 or bfloat16 [..., K], any strides.
        weight: float8_e4m3fn or float8_e5m2 [N, K].
        w_scale: float32 of 1 or N elements, or [ceil(N / 128), ceil(K / 128)]: then x is quantized in
            blocks of 128 too.
        bias: float32, float16 or bfloat16 [N], not rounded.
        x_scale: float32 of one element, static; None: dynamic, one for each row (or block) of x.
        norm_weight: see :func:`quantize_int8`.
        norm_eps: see there.

    Returns:
        [..., N] in the dtype of x.
    """
    y: Tensor = torch.ops.qcore.fp8_linear(x, weight, w_scale, bias, x_scale, norm_weight, norm_eps)
    return y
