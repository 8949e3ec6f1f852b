"""torch.ops.qcore.int8_gemm and int8_linear, by every CPU row."""

from __future__ import annotations

import pytest
import torch

from cases import DTYPES, HALF_ULP, by_name, cpu_kernels
from qcore import ops
from w8a8_cases import (
    SHAPES,
    exact_int8,
    generator,
    random_int8,
    random_scales,
    random_x,
    rms_norm,
    rounded_int8,
)


@pytest.fixture(params=cpu_kernels("int8"))
def row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", request.param)


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_gemm_is_exact_before_scaling(m: int, n: int, k: int, zeros: bool) -> None:
    x, weight = random_int8(m, k), random_int8(n, k, seed=k)
    x_scale, w_scale = random_scales(m, 1), random_scales(n, 1, seed=9)
    zero = torch.randint(-128, 128, (m, 1), dtype=torch.int32, generator=generator(m)) if zeros else None
    y = ops.int8_gemm(x, weight, x_scale, w_scale, zero)
    assert torch.equal(y, rounded_int8(x, weight, x_scale, w_scale, zero))
    sums = weight.sum(1, dtype=torch.int32)
    assert torch.equal(y, ops.int8_gemm(x, weight, x_scale, w_scale, zero, w_sum=sums))


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_gemm_rounds_once_to_every_dtype(dtype: torch.dtype) -> None:
    x, weight = random_int8(7, 300), random_int8(41, 300, seed=7)
    for x_scale in (torch.tensor([0.01]), torch.rand(7) * 0.01):
        for bias in (None, torch.randn(41), torch.randn(41).to(dtype)):
            zero = torch.arange(x_scale.numel(), dtype=torch.int32) - 3
            w_scale = torch.rand(41) * 0.01
            y = ops.int8_gemm(x, weight, x_scale, w_scale, zero, bias, dtype)
            assert y.dtype == dtype
            expected = exact_int8(x, weight, x_scale, w_scale, zero, bias)
            bound = 3e-7 * (expected - (0 if bias is None else bias.double())).abs()
            bound += 1.01 * HALF_ULP[dtype] * expected.abs() + 1e-7 * expected.abs() + 2.0**-25
            assert ((y.double() - expected).abs() <= bound).all()


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("value", [-128, 127])
def test_gemm_of_extremes_at_the_largest_k(value: int) -> None:
    """Sums near 2 ** 31, zero points that take them past it."""
    k = 2**17 - 1
    x = torch.full((2, k), -128, dtype=torch.int8)
    weight = torch.full((3, k), value, dtype=torch.int8)
    one = torch.ones(1)
    assert torch.equal(ops.int8_gemm(x, weight, one, one), rounded_int8(x, weight, one, one, None))
    zero = torch.tensor([127], dtype=torch.int32)
    assert torch.equal(ops.int8_gemm(x, weight, one, one, zero), rounded_int8(x, weight, one, one, zero))


@pytest.mark.usefixtures("row")
def test_a_row_depends_on_no_other_and_on_no_thread(torch_threads: None) -> None:
    x, weight = random_int8(37, 513), random_int8(203, 513, seed=5)
    x_scale, w_scale = random_scales(37), random_scales(203)
    bias, zero = torch.randn(203), torch.randint(-128, 128, (37,), dtype=torch.int32)
    torch.set_num_threads(1)
    y = ops.int8_gemm(x, weight, x_scale, w_scale, zero, bias)
    torch.set_num_threads(2)
    assert torch.equal(y, ops.int8_gemm(x, weight, x_scale, w_scale, zero, bias))
    for rows in (slice(0, 1), slice(36, 37), slice(3, 8), slice(2, 30)):
        part = ops.int8_gemm(x[rows], weight, x_scale[rows], w_scale, zero[rows], bias)
        assert torch.equal(part, y[rows])


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
def test_linear_has_the_bits_of_two_ops(symmetric: bool, norm: bool, dtype: torch.dtype) -> None:
    weight, w_scale, bias = random_int8(33, 260), random_scales(33), torch.randn(33).to(dtype)
    norm_weight = (torch.rand(260) + 0.5).to(dtype) if norm else None
    for leading in ((1,), (5,), (2, 3), ()):
        x = random_x(*leading, 260, dtype=dtype)
        q, scale, zero = ops.quantize_int8(x, symmetric, norm_weight=norm_weight)
        y = ops.int8_linear(x, weight, w_scale, bias=bias, symmetric=symmetric, norm_weight=norm_weight)
        points = None if symmetric else zero
        assert y.dtype == dtype
        assert torch.equal(y, ops.int8_gemm(q, weight, scale, w_scale, points, bias, dtype))
        scale = torch.tensor([0.02])
        given = None if symmetric else torch.tensor([-7], dtype=torch.int32)
        q, _, _ = ops.quantize_int8(x, symmetric, False, scale, given, norm_weight)
        y = ops.int8_linear(x, weight, w_scale, None, bias, symmetric, scale, given, norm_weight=norm_weight)
        assert torch.equal(y, ops.int8_gemm(q, weight, scale, w_scale, given, bias, dtype))


@pytest.mark.usefixtures("row")
def test_linear_is_close_to_the_floats() -> None:
    x = random_x(11, 512)
    weight, w_scale = random_int8(64, 512), torch.rand(64) * 0.01
    norm_weight = torch.rand(512) + 0.5
    for symmetric in (True, False):
        y = ops.int8_linear(x, weight, w_scale, symmetric=symmetric, norm_weight=norm_weight)
        expected = rms_norm(x, norm_weight, 1e-6) @ (weight.double() * w_scale.double()[:, None]).T
        error = (y.double() - expected).norm() / expected.norm()
        assert error < 0.02
        assert error > 1e-5  # it did round


@pytest.mark.usefixtures("row")
def test_what_is_not_finite_stays_in_its_row() -> None:
    x = random_x(6, 100)
    x[1, 99], x[3, 0], x[4, 50] = float("inf"), float("nan"), -float("inf")
    for symmetric in (True, False):
        y = ops.int8_linear(x, random_int8(20, 100), random_scales(20), symmetric=symmetric)
        assert y.isnan().any(1).tolist() == [False, True, False, True, True, False]
        assert y.isnan().all(1).tolist() == [False, True, False, True, True, False]


def test_strided_and_misaligned() -> None:
    memory = random_int8(40 * 131 + 64)
    weight = memory[3 : 3 + 30 * 131].view(30, 131)
    x = random_int8(12, 300)[:, 7:138]
    scale, w_scale = random_scales(12), random_scales(30)
    y = ops.int8_gemm(x, weight, scale, w_scale)
    assert torch.equal(y, ops.int8_gemm(x.contiguous(), weight.clone(), scale, w_scale))
    assert torch.equal(y, ops.int8_gemm(x, weight.T.contiguous().T, scale, w_scale))
    assert torch.equal(y[:1].expand(4, -1), ops.int8_gemm(x[:1].expand(4, -1), weight, scale[0], w_scale))


def test_nothing_to_do() -> None:
    weight, scale = random_int8(8, 16), torch.rand(8)
    assert ops.int8_gemm(random_int8(2, 0, 16), weight, torch.rand(1), scale).shape == (2, 0, 8)
    assert ops.int8_gemm(random_int8(2, 16), weight[:0], torch.rand(1), scale[:0]).shape == (2, 0)
    assert ops.int8_linear(torch.empty(0, 16), weight, scale).shape == (0, 8)
