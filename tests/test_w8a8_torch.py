"""The ops on 8-bit activations: opcheck, fake tensors, errors, gradients, torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from cases import DTYPES, HOW, by_name, make_x
from qcore import ops
from w8a8_cases import FLOAT8, random_float8, random_int8, random_scales, rms_norm

OPS = ("quantize_int8", "quantize_fp8", "int8_gemm", "int8_linear", "fp8_gemm", "fp8_linear")
N, K = 140, 260
INT8, INT8_SCALE = random_int8(N, K), random_scales(N, 1) * 1e-3
FP8, FP8_SCALE, FP8_BLOCKS = random_float8(N, K), random_scales(N, 1), random_scales(2, 3)
BIAS, NORM = torch.randn(N), torch.rand(K) + 0.5


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("device", ["CPU", "CUDA", "Meta"])
def test_registered_in_every_build(op: str, device: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"qcore::{op}", device)


# torch cannot compare float8 tensors, as `test_schema` does to see that arguments do not change.
WITHOUT_SCHEMA = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def opcheck(name: str, *args: object, **kwargs: object) -> None:
    op = getattr(torch.ops.qcore, name).default
    if name in ("fp8_gemm", "fp8_linear"):
        torch.library.opcheck(op, args, kwargs, test_utils=WITHOUT_SCHEMA)
    else:
        torch.library.opcheck(op, args, kwargs)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,)], ids=str)
def test_opcheck_quantize(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    x = make_x(*leading, K, dtype=dtype)
    for symmetric in (True, False):
        for per_token in (True, False):
            opcheck("quantize_int8", x, symmetric, per_token)
    scale = torch.rand(*leading, 1)
    opcheck("quantize_int8", x, False, True, scale, torch.zeros_like(scale).int(), NORM)
    for granularity in ("token", "tensor", "block"):
        opcheck("quantize_fp8", x, None, granularity, FLOAT8[1], NORM.to(dtype))
    opcheck("quantize_fp8", x, scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,)], ids=str)
def test_opcheck_products(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    x = make_x(*leading, K, dtype=dtype)
    q, scale, zero = ops.quantize_int8(x, False)
    opcheck("int8_gemm", q, INT8, scale, INT8_SCALE, zero, BIAS, dtype)
    opcheck("int8_gemm", q, INT8, scale, INT8_SCALE, w_sum=INT8.sum(1, dtype=torch.int32))
    opcheck("int8_linear", x, INT8, INT8_SCALE, None, BIAS, False, norm_weight=NORM)
    q, scale = ops.quantize_fp8(x, granularity="block")
    opcheck("fp8_gemm", q, FP8, scale, FP8_BLOCKS, BIAS, dtype)
    opcheck("fp8_linear", x, FP8, FP8_SCALE, BIAS, torch.ones(1))


def test_traces_for_cuda_without_a_gpu() -> None:
    with FakeTensorMode():
        x = torch.empty(2, 3, K, dtype=torch.float16, device="cuda")
        weight = torch.empty(N, K, dtype=torch.int8, device="cuda")
        scale = torch.empty(N, device="cuda")
        q, x_scale, zero = ops.quantize_int8(x, False)
        assert [(t.shape, t.dtype) for t in (q, x_scale, zero)] == [
            ((2, 3, K), torch.int8),
            ((2, 3, 1), torch.float32),
            ((2, 3, 1), torch.int32),
        ]
        y = ops.int8_gemm(q, weight, x_scale, scale, zero, out_dtype=torch.bfloat16)
        assert (y.shape, y.dtype, y.device.type) == ((2, 3, N), torch.bfloat16, "cuda")
        y = ops.fp8_linear(x, torch.empty(N, K, dtype=FLOAT8[0], device="cuda"), scale)
        assert (y.shape, y.dtype, y.device.type) == ((2, 3, N), torch.float16, "cuda")


# -- errors ----------------------------------------------------------------------------------------

X, Q, QF = make_x(3, K), random_int8(3, K), random_float8(3, K)
ONE, ROWS, WIDE = torch.ones(1), torch.ones(3, 1), random_int8(1, 2**17)
ZERO = torch.zeros(3, 1, dtype=torch.int32)
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "x double": (lambda: ops.quantize_int8(X.double()), r"x must be float32.* got float64 \[3, 260\]"),
    "x scalar": (lambda: ops.quantize_fp8(torch.tensor(1.0)), r"x must be float32.* got float32 \[\]"),
    "x empty": (lambda: ops.quantize_int8(X[:, :0]), r"K of 1 or more, got float32 \[3, 0\]"),
    "scale dtype": (lambda: ops.quantize_int8(X, scale=ROWS.double()), r"scale must be float32.*float64"),
    "scale sizes": (lambda: ops.quantize_int8(X, scale=ONE), r"leading sizes of x.*got float32 \[1\]"),
    "scale rows": (
        lambda: ops.quantize_int8(X, per_token=False, scale=ROWS),
        r"scale must be float32 \[1\], because it is per tensor, got float32 \[3, 1\]",
    ),
    "zero alone": (
        lambda: ops.quantize_int8(X, False, zero=ZERO),
        r"zero must be None, because scale is None",
    ),
    "zero symmetric": (
        lambda: ops.quantize_int8(X, scale=ROWS, zero=ZERO),
        r"zero points are 0 \(symmetric\)",
    ),
    "zero missing": (
        lambda: ops.quantize_int8(X, False, scale=ROWS),
        r"zero must be int32 like scale.*got None",
    ),
    "norm": (
        lambda: ops.quantize_int8(X, norm_weight=NORM[1:]),
        r"norm_weight must be.* \[260\], got .*\[259\]",
    ),
    "granularity": (lambda: ops.quantize_fp8(X, granularity="row"), r"token, tensor or block, got row"),
    "fp8 dtype": (
        lambda: ops.quantize_fp8(X, dtype=torch.int8),
        r"dtype must be float8_e4m3fn or.* got int8",
    ),
    "fp8 block scale": (lambda: ops.quantize_fp8(X, ROWS, "block"), r"scale must be None, because scales of"),
    "q dtype": (lambda: ops.int8_gemm(X, INT8, ONE, INT8_SCALE), r"x must be int8 \[..., 260\], got float32"),
    "q columns": (lambda: ops.int8_gemm(Q[:, 1:], INT8, ONE, ONE), r"x must be int8 .*got int8 \[3, 259\]"),
    "weight dtype": (lambda: ops.int8_gemm(Q, INT8.byte(), ONE, ONE), r"weight must be int8 .*got uint8"),
    "weight rank": (lambda: ops.int8_gemm(Q, INT8[0], ONE, ONE), r"weight must be int8 \[N, K\].*\[260\]"),
    "weight wide": (
        lambda: ops.int8_gemm(WIDE, WIDE, ONE, ONE),
        r"weight must have at most 131071 columns",
    ),
    "x_scale": (
        lambda: ops.int8_gemm(Q, INT8, torch.ones(2), ONE),
        r"x_scale must be float32 of 1 or 3 elements, got float32 \[2\]",
    ),
    "w_scale": (lambda: ops.int8_gemm(Q, INT8, ONE, ROWS), r"w_scale must be float32 of 1 or 140 elements"),
    "x_zero dtype": (lambda: ops.int8_gemm(Q, INT8, ROWS, ONE, ROWS), r"x_zero must be int32 .*got float32"),
    "x_zero count": (
        lambda: ops.int8_gemm(Q, INT8, ROWS, ONE, ZERO[0]),
        r"x_zero must (have 3|be of 3) elements like x_scale, got int32 \[1\]",
    ),
    "bias": (
        lambda: ops.int8_gemm(Q, INT8, ONE, ONE, bias=ONE),
        r"bias must be .*\[140\], got float32 \[1\]",
    ),
    "out_dtype": (
        lambda: ops.int8_gemm(Q, INT8, ONE, ONE, out_dtype=torch.int32),
        r"out_dtype must be float32, float16 or bfloat16, got int32",
    ),
    "w_sum": (lambda: ops.int8_gemm(Q, INT8, ONE, ONE, w_sum=ZERO[0]), r"w_sum must be int32 \[140\], got"),
    "linear x": (lambda: ops.int8_linear(X[:, 1:], INT8, ONE), r"x must (have|be of) the sizes \[..., 260\]"),
    "linear x_scale": (
        lambda: ops.int8_linear(X, INT8, ONE, x_scale=ROWS),
        r"x_scale must be float32 of 1 or 1",
    ),
    "linear x_zero": (
        lambda: ops.int8_linear(X, INT8, ONE, x_zero=ZERO[0]),
        r"x_zero must be None, because zero",
    ),
    "fp8 x": (lambda: ops.fp8_gemm(X, FP8, ONE, ONE), r"x must be float8_e4m3fn or float8_e5m2.*got float32"),
    "fp8 weight": (lambda: ops.fp8_gemm(QF, INT8, ONE, ONE), r"weight must be float8_e4m3fn .*got int8"),
    "fp8 w_scale": (
        lambda: ops.fp8_gemm(QF, FP8, ONE, ROWS),
        r"w_scale must be float32 \[1\], \[140\] or, in blocks of 128 x 128, \[2, 3\], got float32 \[3, 1\]",
    ),
    "fp8 x_scale": (
        lambda: ops.fp8_gemm(QF, FP8, ROWS, FP8_BLOCKS),
        r"x_scale must be float32 \[..., 3\], because w_scale has blocks of 128 x 128, got float32 \[3, 1\]",
    ),
    "fp8 static": (lambda: ops.fp8_linear(X, FP8, FP8_BLOCKS, x_scale=ONE), r"x_scale must be None, because"),
}


# Where tracing cannot go on, because sizes are unknown.
WORDS_OF_FAKES = {
    "weight rank": r"qcore.int8_gemm: the sizes of the result are unknown: weight has the sizes \[260\]",
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name: str, how: str) -> None:
    call, message = BAD[name]
    if how == "compiled":
        message = WORDS_OF_FAKES.get(name, message)
    with pytest.raises(RuntimeError, match=message):
        HOW[how](call)()


def test_zero_points_out_of_range_are_refused() -> None:
    zero = torch.full((1,), 128, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"zero: expected -128 .. 127, got 128"):
        ops.quantize_int8(X, False, False, ONE, zero)
    with pytest.raises(RuntimeError, match=r"x_zero: expected -128 .. 127, got 128"):
        ops.int8_gemm(Q, INT8, ONE, ONE, zero)


# -- gradients -------------------------------------------------------------------------------------


def dense(weight: Tensor, scale: Tensor) -> Tensor:
    wide = scale.double()
    if scale is FP8_BLOCKS:
        wide = wide.repeat_interleave(128, 0)[:N].repeat_interleave(128, 1)[:, :K]
    return weight.double() * wide


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,)], ids=str)
def test_gradients(leading: tuple[int, ...], norm: bool, dtype: torch.dtype) -> None:
    for op, weight, scale in (
        (ops.int8_linear, INT8, INT8_SCALE),
        (ops.fp8_linear, FP8, FP8_SCALE),
        (ops.fp8_linear, FP8, FP8_BLOCKS),
    ):
        x = make_x(*leading, K, dtype=dtype).requires_grad_()
        bias = BIAS.clone().requires_grad_()
        norm_weight = NORM.clone().requires_grad_() if norm else None
        wrt = [t for t in (x, bias, norm_weight) if t is not None]
        dy = make_x(*leading, N, dtype=dtype, seed=5)
        y = op(x, weight, scale, bias=bias, norm_weight=norm_weight)
        got = torch.autograd.grad(y, wrt, dy)
        expected = rms_norm(x, norm_weight, 1e-6) @ dense(weight, scale).T + bias.double()
        for a, b in zip(got, torch.autograd.grad(expected, wrt, dy.double()), strict=True):
            assert a.dtype == b.dtype
            tolerance = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}[a.dtype]
            atol = tolerance * (b.abs().max().item() if b.numel() else 0)
            torch.testing.assert_close(a, b, rtol=tolerance, atol=atol)


def test_what_rounds_has_no_gradients() -> None:
    x = X.clone().requires_grad_()
    for call in (lambda: ops.quantize_int8(x)[1], lambda: ops.quantize_fp8(x)[1]):
        with pytest.raises(RuntimeError, match=r"quantize_\w+: has no gradients, because it rounds"):
            call().sum().backward()
    bias = BIAS.clone().requires_grad_()
    with pytest.raises(RuntimeError, match=r"int8_gemm: has no gradients.*int8_linear"):
        ops.int8_gemm(Q, INT8, ONE, ONE, bias=bias).sum().backward()
    with pytest.raises(RuntimeError, match=r"fp8_gemm: has no gradients.*fp8_linear"):
        ops.fp8_gemm(QF, FP8, ONE, ONE, bias=bias).sum().backward()


# -- torch.compile ---------------------------------------------------------------------------------


def both(x: Tensor) -> tuple[Tensor, ...]:
    q, scale, zero = ops.quantize_int8(x, False)
    f, f_scale = ops.quantize_fp8(x, granularity="block")
    return (
        ops.int8_gemm(q, INT8, scale, INT8_SCALE, zero, BIAS, x.dtype) + 1,
        ops.fp8_gemm(f, FP8, f_scale, FP8_BLOCKS, out_dtype=x.dtype) + 1,
        ops.int8_linear(x, INT8, INT8_SCALE, norm_weight=NORM) + 1,
        ops.fp8_linear(x, FP8, FP8_SCALE, BIAS) + 1,
    )


def assert_same(compiled: Callable[..., Any], x: Tensor) -> None:
    for a, b in zip(compiled(x), both(x), strict=True):
        torch.testing.assert_close(a, b)


def test_compile_static() -> None:
    assert_same(torch.compile(both, fullgraph=True, dynamic=False), X)


def test_compile_dynamic_m_compiles_once() -> None:
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    x = make_x(4, K)
    torch._dynamo.mark_dynamic(x, 0)
    assert_same(compiled, x)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 17, 64):
            assert_same(compiled, make_x(m, K))
