"""Products of 8-bit activations and 8-bit weights under scales: ``int8_*`` and ``fp8_*``.

Weights are plain tensors [N, K] of int8 or float8: there is nothing to pack, on any device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qcore.ops.common import bias_gradient, input_gradient, need
from qcore.ops.quantize import BLOCK, used_eps
from qcore.ops.transforms import differentiable, follow_linear, overload, refuse_gradients, register_fakes


def int8_gemm(
    x: Tensor,
    weight: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    x_zero: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
    w_sum: Tensor | None = None,
    offsets: Tensor | None = None,
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
        offsets: the rows of each expert, see :func:`w4a16_gemm`. The weight is then [E, N, K], w_scale of E
            or E * N elements, bias [E, N], w_sum [E, N].

    Returns:
        [..., N] in out_dtype. It has no gradients; :func:`int8_linear` has.
    """
    gemm = overload(torch.ops.qcore.int8_gemm, x_scale, w_scale, bias)
    y: Tensor = gemm(x, weight, x_scale, w_scale, x_zero, bias, out_dtype, w_sum, offsets)
    return y


@register_fakes("int8_gemm")
def _fake_int8_gemm(
    x: Tensor,
    weight: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    x_zero: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    w_sum: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Tensor:
    return _fake_product("int8_gemm", x, weight, out_dtype or torch.float32)


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
    gemm = overload(torch.ops.qcore.fp8_gemm, x, weight, x_scale, w_scale, bias)
    y: Tensor = gemm(x, weight, x_scale, w_scale, bias, out_dtype)
    return y


@register_fakes("fp8_gemm")
def _fake_fp8_gemm(
    x: Tensor,
    weight: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    return _fake_product("fp8_gemm", x, weight, out_dtype or torch.float32)


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
    offsets: Tensor | None = None,
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
        offsets: see :func:`int8_gemm`.

    Returns:
        [..., N] in the dtype of x.
    """
    linear = overload(torch.ops.qcore.int8_linear, x, bias, norm_weight)
    y: Tensor = linear(
        x,
        weight,
        w_scale,
        w_sum,
        bias,
        symmetric,
        x_scale,
        x_zero,
        norm_weight,
        used_eps(norm_weight, norm_eps),
        offsets,
    )
    return y


@register_fakes("int8_linear")
def _fake_int8_linear(
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
    offsets: Tensor | None = None,
) -> Tensor:
    return _fake_product("int8_linear", x, weight, x.dtype)


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
    linear = overload(torch.ops.qcore.fp8_linear, x, bias, norm_weight)
    y: Tensor = linear(x, weight, w_scale, bias, x_scale, norm_weight, used_eps(norm_weight, norm_eps))
    return y


@register_fakes("fp8_linear")
def _fake_fp8_linear(
    x: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    x_scale: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> Tensor:
    return _fake_product("fp8_linear", x, weight, x.dtype)


def _fake_product(op: str, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    need(weight.dim() > 1, op, f"weight has the sizes {list(weight.shape)}")
    return x.new_empty(*x.shape[:-1], weight.shape[-2], dtype=dtype)


# Gradients: those of a linear layer whose activations are not quantized, behind an RMSNorm if there is one.


def _dequantize(weight: Tensor, w_scale: Tensor) -> Tensor:
    *experts, n, k = weight.shape
    if experts:
        scale = w_scale.reshape(*experts, -1, 1)
    elif w_scale.dim() == 2 and w_scale.numel() > 1 and w_scale.shape != (n, 1):
        scale = w_scale.repeat_interleave(BLOCK, 0)[:n].repeat_interleave(BLOCK, 1)[:, :k]
    else:
        scale = w_scale.reshape(-1, 1)
    return weight.float() * scale


def _linear_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of x, bias and norm_weight."""
    x, weight, w_scale, norm_weight, offsets = ctx.saved_tensors
    dbias = None if ctx.bias_dtype is None else bias_gradient(dy, ctx.bias_dtype, offsets)
    dz = input_gradient(dy, _dequantize(weight, w_scale), offsets)
    if norm_weight is None:
        return dz.to(dy.dtype), dbias, None
    wide = x.float()
    factor = torch.rsqrt(wide.square().mean(-1, keepdim=True) + ctx.norm_eps)
    normal = wide * factor
    dnormal = dz * norm_weight.float()
    dx = factor * (dnormal - normal * (dnormal * normal).mean(-1, keepdim=True))
    dweight = dz * normal
    dweight = dweight.flatten(0, -2).sum(0) if dweight.dim() > 1 else dweight
    return dx.to(dy.dtype), dbias, dweight.to(norm_weight.dtype)


def _save(
    ctx: Any, x: Tensor, weight: Tensor, w_scale: Tensor, bias: Any, norm: Any, eps: float, offsets: Any
) -> None:
    ctx.save_for_backward(x, weight, w_scale, norm, offsets)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.norm_eps = eps


def _save_int8(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, w_scale, _, bias, _, _, _, norm_weight, norm_eps, offsets = inputs
    _save(ctx, x, weight, w_scale, bias, norm_weight, norm_eps, offsets)


def _int8_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx, dbias, dnorm = _linear_backward(ctx, dy)
    return dx, None, None, None, dbias, None, None, None, dnorm, None, None


def _save_fp8(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, w_scale, bias, _, norm_weight, norm_eps = inputs
    _save(ctx, x, weight, w_scale, bias, norm_weight, norm_eps, None)


def _fp8_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx, dbias, dnorm = _linear_backward(ctx, dy)
    return dx, None, None, dbias, None, dnorm, None


differentiable("int8_linear", _int8_backward, _save_int8)
differentiable("fp8_linear", _fp8_backward, _save_fp8)
follow_linear("int8_linear")
follow_linear("fp8_linear")
refuse_gradients("int8_gemm", "detach its arguments, or use int8_linear")
refuse_gradients("fp8_gemm", "detach its arguments, or use fp8_linear")
