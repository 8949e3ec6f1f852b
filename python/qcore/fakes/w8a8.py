"""Fake kernels of the ops on 8-bit activations, and the gradients of ``int8_linear`` and ``fp8_linear``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch  # before _C, which links against the libraries that torch loads
from torch import Tensor

from qcore import _C  # noqa: F401 - registers the ops
from qcore.fakes.checks import FLOATS, expect, expect_bias, expect_same_device

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
BLOCK = 128
MAX_K_INT8 = 2**17 - 1


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _check_floats(op: str, x: Tensor, norm_weight: Tensor | None) -> None:
    expect(
        x.dtype in FLOATS and x.dim() >= 1 and x.shape[-1] >= 1,
        op,
        "x",
        "float32, float16 or bfloat16 [..., K] with K of 1 or more",
        x,
    )
    if norm_weight is not None:
        k = x.shape[-1]
        expect(
            norm_weight.dtype in FLOATS and norm_weight.shape == (k,),
            op,
            "norm_weight",
            f"float32, float16 or bfloat16 [{k}]",
            norm_weight,
        )
        expect_same_device(op, "norm_weight", norm_weight, "x", x)


def _check_given(op: str, name: str, given: Tensor, dtype: torch.dtype, per_token: bool, x: Tensor) -> None:
    expected = (*x.shape[:-1], 1) if per_token else (1,)
    text = "[..., 1] with the leading sizes of x, because it is per token"
    expect(
        given.dtype == dtype and given.shape == expected,
        op,
        name,
        f"{str(dtype).removeprefix('torch.')} {text if per_token else '[1], because it is per tensor'}",
        given,
    )
    expect_same_device(op, name, given, "x", x)


def _check_zero(op: str, prefix: str, symmetric: bool, scale: Tensor | None, zero: Tensor | None) -> None:
    torch._check(
        zero is None or (scale is not None and not symmetric),
        lambda: (
            f"qcore.{op}: {prefix}zero must be None, because "
            f"{'zero points are 0 (symmetric)' if symmetric else f'{prefix}scale is None'}"
        ),
    )
    torch._check(
        scale is None or symmetric or zero is not None,
        lambda: (
            f"qcore.{op}: {prefix}zero must be int32 like {prefix}scale, because that is given and symmetric "
            "is False, got None"
        ),
    )


def _check_scales(
    op: str, name: str, scales: Tensor, dtype: torch.dtype, count: int, with_name: str, with_: Tensor
) -> None:
    expect(
        scales.dtype == dtype and (scales.numel() == 1 or scales.numel() == count),
        op,
        name,
        f"{str(dtype).removeprefix('torch.')} of 1 or {count} elements",
        scales,
    )
    expect_same_device(op, name, scales, with_name, with_)


def _check_out_dtype(op: str, dtype: torch.dtype | None) -> torch.dtype:
    out = torch.float32 if dtype is None else dtype
    torch._check(
        out in FLOATS,
        lambda: (
            f"qcore.{op}: out_dtype must be float32, float16 or bfloat16, got "
            f"{str(out).removeprefix('torch.')}"
        ),
    )
    return out


@torch.library.register_fake("qcore::quantize_int8")
def _fake_quantize_int8(
    x: Tensor,
    symmetric: bool = True,
    per_token: bool = True,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    op = "quantize_int8"
    _check_floats(op, x, norm_weight)
    _check_zero(op, "", symmetric, scale, zero)
    if scale is not None:
        _check_given(op, "scale", scale, torch.float32, per_token, x)
    if zero is not None:
        _check_given(op, "zero", zero, torch.int32, per_token, x)
    sizes = (*x.shape[:-1], 1) if per_token else (1,)
    return (
        x.new_empty(x.shape, dtype=torch.int8),
        x.new_empty(sizes, dtype=torch.float32),
        x.new_empty((0,) if symmetric else sizes, dtype=torch.int32),
    )


@torch.library.register_fake("qcore::quantize_fp8")
def _fake_quantize_fp8(
    x: Tensor,
    scale: Tensor | None = None,
    granularity: str = "token",
    dtype: torch.dtype | None = None,
    norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    op = "quantize_fp8"
    _check_floats(op, x, norm_weight)
    torch._check(
        granularity in ("token", "tensor", "block"),
        lambda: f"qcore.{op}: granularity must be token, tensor or block, got {granularity}",
    )
    used = torch.float8_e4m3fn if dtype is None else dtype
    torch._check(
        used in FLOAT8,
        lambda: (
            f"qcore.{op}: dtype must be float8_e4m3fn or float8_e5m2, got {str(used).removeprefix('torch.')}"
        ),
    )
    torch._check(
        scale is None or granularity != "block",
        lambda: f"qcore.{op}: scale must be None, because scales of blocks come from x",
    )
    if scale is not None:
        _check_given(op, "scale", scale, torch.float32, granularity == "token", x)
    columns = _blocks(x.shape[-1]) if granularity == "block" else 1
    sizes = (1,) if granularity == "tensor" else (*x.shape[:-1], columns)
    return x.new_empty(x.shape, dtype=used), x.new_empty(sizes, dtype=torch.float32)


def _check_int8_weight(
    op: str, x: Tensor, weight: Tensor, w_scale: Tensor, w_sum: Tensor | None, bias: Tensor | None
) -> tuple[int, int]:
    """N and K."""
    expect(
        weight.dtype == torch.int8 and weight.dim() == 2 and weight.shape[1] >= 1,
        op,
        "weight",
        "int8 [N, K] with K of 1 or more",
        weight,
    )
    n, k = weight.shape
    torch._check(
        k <= MAX_K_INT8,
        lambda: f"qcore.{op}: weight must have at most {MAX_K_INT8} columns, so that sums fit into 32 bits",
    )
    expect_same_device(op, "weight", weight, "x", x)
    if w_sum is not None:
        expect(w_sum.dtype == torch.int32 and w_sum.shape == (n,), op, "w_sum", f"int32 [{n}]", w_sum)
        expect_same_device(op, "w_sum", w_sum, "weight", weight)
    _check_scales(op, "w_scale", w_scale, torch.float32, n, "weight", weight)
    expect_bias(op, bias, n, weight)
    return n, k


@torch.library.register_fake("qcore::int8_gemm")
def _fake_int8_gemm(
    x: Tensor,
    weight: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    x_zero: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    w_sum: Tensor | None = None,
) -> Tensor:
    op = "int8_gemm"
    dtype = _check_out_dtype(op, out_dtype)
    n, k = _check_int8_weight(op, x, weight, w_scale, w_sum, bias)
    expect(x.dtype == torch.int8 and x.dim() >= 1 and x.shape[-1] == k, op, "x", f"int8 [..., {k}]", x)
    m = x.numel() // k
    _check_scales(op, "x_scale", x_scale, torch.float32, m, "x", x)
    if x_zero is not None:
        _check_scales(op, "x_zero", x_zero, torch.int32, m, "x", x)
        expect(
            x_zero.numel() == x_scale.numel(),
            op,
            "x_zero",
            f"of {x_scale.numel()} elements like x_scale",
            x_zero,
        )
    return x.new_empty(*x.shape[:-1], n, dtype=dtype)


@torch.library.register_fake("qcore::int8_linear")
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
) -> Tensor:
    op = "int8_linear"
    _check_floats(op, x, norm_weight)
    n, k = _check_int8_weight(op, x, weight, w_scale, w_sum, bias)
    expect(x.shape[-1] == k, op, "x", f"of the sizes [..., {k}]", x)
    _check_zero(op, "x_", symmetric, x_scale, x_zero)
    if x_scale is not None:
        _check_scales(op, "x_scale", x_scale, torch.float32, 1, "x", x)
    if x_zero is not None:
        _check_scales(op, "x_zero", x_zero, torch.int32, 1, "x", x)
    return x.new_empty(*x.shape[:-1], n)


def _check_fp8_weight(
    op: str, x: Tensor, weight: Tensor, w_scale: Tensor, bias: Tensor | None
) -> tuple[int, int, bool]:
    """N, K and whether the scales are those of blocks."""
    expect(
        weight.dtype in FLOAT8 and weight.dim() == 2 and weight.shape[1] >= 1,
        op,
        "weight",
        "float8_e4m3fn or float8_e5m2 [N, K] with K of 1 or more",
        weight,
    )
    n, k = weight.shape
    expect_same_device(op, "weight", weight, "x", x)
    by_rows = w_scale.numel() == 1 or w_scale.shape in ((n,), (n, 1))
    blocks = (_blocks(n), _blocks(k))
    expect(
        w_scale.dtype == torch.float32 and (by_rows or w_scale.shape == blocks),
        op,
        "w_scale",
        f"float32 [1], [{n}] or, in blocks of 128 x 128, [{blocks[0]}, {blocks[1]}]",
        w_scale,
    )
    expect_same_device(op, "w_scale", w_scale, "weight", weight)
    expect_bias(op, bias, n, weight)
    return n, k, not by_rows


@torch.library.register_fake("qcore::fp8_gemm")
def _fake_fp8_gemm(
    x: Tensor,
    weight: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    op = "fp8_gemm"
    dtype = _check_out_dtype(op, out_dtype)
    n, k, in_blocks = _check_fp8_weight(op, x, weight, w_scale, bias)
    expect(
        x.dtype in FLOAT8 and x.dim() >= 1 and x.shape[-1] == k,
        op,
        "x",
        f"float8_e4m3fn or float8_e5m2 [..., {k}]",
        x,
    )
    m = x.numel() // k
    if in_blocks:
        columns = _blocks(k)
        expect(
            x_scale.dtype == torch.float32
            and x_scale.dim() >= 1
            and x_scale.shape[-1] == columns
            and x_scale.numel() == m * columns,
            op,
            "x_scale",
            f"float32 [..., {columns}], because w_scale has blocks of 128 x 128",
            x_scale,
        )
        expect_same_device(op, "x_scale", x_scale, "x", x)
    else:
        _check_scales(op, "x_scale", x_scale, torch.float32, m, "x", x)
    return x.new_empty(*x.shape[:-1], n, dtype=dtype)


@torch.library.register_fake("qcore::fp8_linear")
def _fake_fp8_linear(
    x: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    x_scale: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> Tensor:
    op = "fp8_linear"
    _check_floats(op, x, norm_weight)
    n, k, in_blocks = _check_fp8_weight(op, x, weight, w_scale, bias)
    expect(x.shape[-1] == k, op, "x", f"of the sizes [..., {k}]", x)
    torch._check(
        x_scale is None or not in_blocks,
        lambda: f"qcore.{op}: x_scale must be None, because w_scale has blocks of 128 x 128",
    )
    if x_scale is not None:
        _check_scales(op, "x_scale", x_scale, torch.float32, 1, "x", x)
    return x.new_empty(*x.shape[:-1], n)


# Gradients: those of a linear layer whose activations are not quantized, behind an RMSNorm if there is one.


def _dequantize(weight: Tensor, w_scale: Tensor) -> Tensor:
    n, k = weight.shape
    if w_scale.dim() == 2 and w_scale.numel() > 1 and w_scale.shape != (n, 1):
        scale = w_scale.repeat_interleave(BLOCK, 0)[:n].repeat_interleave(BLOCK, 1)[:, :k]
    else:
        scale = w_scale.reshape(-1, 1)
    return weight.float() * scale


def _linear_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of x, bias and norm_weight."""
    x, weight, w_scale, norm_weight = ctx.saved_tensors
    dbias = None
    if ctx.bias_dtype is not None:
        dbias = (dy.float().flatten(0, -2).sum(0) if dy.dim() > 1 else dy).to(ctx.bias_dtype)
    dz = dy.float() @ _dequantize(weight, w_scale)
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


def _save(ctx: Any, x: Tensor, weight: Tensor, w_scale: Tensor, bias: Any, norm: Any, eps: float) -> None:
    ctx.save_for_backward(x, weight, w_scale, norm)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.norm_eps = eps


def _save_int8(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, w_scale, _, bias, _, _, _, norm_weight, norm_eps = inputs
    _save(ctx, x, weight, w_scale, bias, norm_weight, norm_eps)


def _int8_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx, dbias, dnorm = _linear_backward(ctx, dy)
    return dx, None, None, None, dbias, None, None, None, dnorm, None


def _save_fp8(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, w_scale, bias, _, norm_weight, norm_eps = inputs
    _save(ctx, x, weight, w_scale, bias, norm_weight, norm_eps)


def _fp8_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dx, dbias, dnorm = _linear_backward(ctx, dy)
    return dx, None, None, dbias, None, dnorm, None


torch.library.register_autograd("qcore::int8_linear", _int8_backward, setup_context=_save_int8)
torch.library.register_autograd("qcore::fp8_linear", _fp8_backward, setup_context=_save_fp8)


def _refuse(op: str, instead: str) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"qcore.{op}: has no gradients, because it rounds: {instead}")

    return backward


for _op, _instead in (
    ("quantize_int8", "detach x, or use int8_linear"),
    ("quantize_fp8", "detach x, or use fp8_linear"),
    ("int8_gemm", "detach its arguments, or use int8_linear"),
    ("fp8_gemm", "detach its arguments, or use fp8_linear"),
):
    torch.library.register_autograd(f"qcore::{_op}", _refuse(_op, _instead))
