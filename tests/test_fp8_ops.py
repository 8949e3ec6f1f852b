"""torch.ops.qcore.fp8_gemm and fp8_linear, by every CPU row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import DTYPES, by_name, cpu_kernels
from qcore import ops
from w8a8_cases import (
    FLOAT8,
    SHAPES,
    assert_fp8,
    random_float8,
    random_scales,
    random_x,
    rms_norm,
)


@pytest.fixture(params=cpu_kernels("fp8"))
def row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", request.param)


def blocks(size: int) -> int:
    return -(-size // 128)


def scale_pairs(m: int, n: int, k: int) -> list[tuple[Tensor, Tensor]]:
    return [
        (random_scales(1), random_scales(1, seed=8)),
        (random_scales(m, 1), random_scales(n, 1, seed=8)),
        (random_scales(1), random_scales(n, seed=8)),
        (random_scales(m), random_scales(1, seed=8)),
        (random_scales(m, blocks(k)), random_scales(blocks(n), blocks(k), seed=8)),
    ]


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("w_type", FLOAT8, ids=by_name)
@pytest.mark.parametrize("x_type", FLOAT8, ids=by_name)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_gemm(m: int, n: int, k: int, x_type: torch.dtype, w_type: torch.dtype) -> None:
    x, weight = random_float8(m, k, dtype=x_type), random_float8(n, k, dtype=w_type, seed=k)
    for x_scale, w_scale in scale_pairs(m, n, k):
        assert_fp8(ops.fp8_gemm(x, weight, x_scale, w_scale), x, weight, x_scale, w_scale)


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_gemm_of_every_dtype_with_bias(dtype: torch.dtype) -> None:
    x, weight = random_float8(9, 300), random_float8(140, 300, seed=5)
    for x_scale, w_scale in ((torch.rand(9), torch.rand(140)), (torch.rand(9, 3), torch.rand(2, 3))):
        for bias in (torch.randn(140), torch.randn(140).to(dtype)):
            y = ops.fp8_gemm(x, weight, x_scale * 1e-3, w_scale * 1e-3, bias, dtype)
            assert y.dtype == dtype
            assert_fp8(y, x, weight, x_scale * 1e-3, w_scale * 1e-3, bias)


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("to", FLOAT8, ids=by_name)
def test_every_code_is_read_exactly(to: torch.dtype) -> None:
    """One-hot rows of x read the weight: also its NaN and infinities, which reach no other row of it."""
    weight = torch.arange(256, dtype=torch.uint8).view(256, 1).expand(256, 130).contiguous().view(to)
    x = torch.zeros(130, 130)
    x.fill_diagonal_(1)
    one = torch.ones(1)
    y = ops.fp8_gemm(x[[0, 77, 129]].to(FLOAT8[0]), weight, one, one)
    expected = weight.float()[:, 0]
    for read in y:
        # 0 * inf is NaN
        finite = expected.isfinite()
        assert torch.equal(read[finite], expected[finite])
        assert read[~finite].isnan().all()
    y = ops.fp8_gemm(torch.ones(1, 1).to(FLOAT8[0]), weight[:, :1].contiguous(), one, one)[0]
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    y = ops.fp8_gemm(weight[:, :1].contiguous(), torch.ones(1, 1).to(FLOAT8[0]), one, one)[:, 0]
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("k", [4096, 16384])
def test_long_k_loses_no_precision(k: int) -> None:
    x, weight = random_float8(3, k), random_float8(20, k, seed=5)
    for x_scale, w_scale in scale_pairs(3, 20, k):
        assert_fp8(ops.fp8_gemm(x, weight, x_scale, w_scale), x, weight, x_scale, w_scale)
    same = torch.ones(2, k).to(FLOAT8[0])
    one = torch.ones(1)
    assert ops.fp8_gemm(same, same, one, one).eq(k).all()


@pytest.mark.usefixtures("row")
def test_a_row_depends_on_no_other_and_on_no_thread(torch_threads: None) -> None:
    x, weight = random_float8(37, 513), random_float8(203, 513, seed=5)
    for x_scale, w_scale in ((torch.rand(37), torch.rand(203)), (torch.rand(37, 5), torch.rand(2, 5))):
        torch.set_num_threads(1)
        y = ops.fp8_gemm(x, weight, x_scale, w_scale)
        torch.set_num_threads(2)
        assert torch.equal(y, ops.fp8_gemm(x, weight, x_scale, w_scale))
        for rows in (slice(0, 1), slice(36, 37), slice(3, 8), slice(2, 30)):
            assert torch.equal(ops.fp8_gemm(x[rows], weight, x_scale[rows], w_scale), y[rows])


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("norm", [False, True])
def test_linear_has_the_bits_of_two_ops(norm: bool, dtype: torch.dtype) -> None:
    norm_weight = (torch.rand(260) + 0.5).to(dtype) if norm else None
    bias = torch.randn(133).to(dtype)
    for w_type in FLOAT8:
        weight = random_float8(133, 260, dtype=w_type)
        for leading in ((1,), (5,), (2, 3), ()):
            x = random_x(*leading, 260, dtype=dtype)
            for w_scale, granularity in ((torch.rand(133), "token"), (torch.rand(2, 3), "block")):
                q, scale = ops.quantize_fp8(x, granularity=granularity, norm_weight=norm_weight)
                y = ops.fp8_linear(x, weight, w_scale, bias, norm_weight=norm_weight)
                assert y.dtype == dtype
                assert torch.equal(y, ops.fp8_gemm(q, weight, scale, w_scale, bias, dtype))
            scale = torch.tensor([0.02])
            q, _ = ops.quantize_fp8(x, scale, "tensor", norm_weight=norm_weight)
            y = ops.fp8_linear(x, weight, w_scale[:1, 0], bias, scale, norm_weight)
            assert torch.equal(y, ops.fp8_gemm(q, weight, scale, w_scale[:1, 0], bias, dtype))


@pytest.mark.usefixtures("row")
def test_linear_is_close_to_the_floats() -> None:
    x, norm_weight = random_x(11, 512), torch.rand(512) + 0.5
    weight, w_scale = random_float8(64, 512), torch.rand(64) * 0.01
    y = ops.fp8_linear(x, weight, w_scale, norm_weight=norm_weight)
    expected = rms_norm(x, norm_weight, 1e-6) @ (weight.double() * w_scale.double()[:, None]).T
    error = (y.double() - expected).norm() / expected.norm()
    assert error < 0.05
    assert error > 1e-4  # it did round


@pytest.mark.usefixtures("row")
def test_what_is_not_finite_stays_in_its_row() -> None:
    x = random_x(6, 300)
    x[1, 99], x[3, 0], x[4, 250] = float("inf"), float("nan"), -float("inf")
    for w_scale in (torch.rand(20), torch.rand(1, 3)):
        y = ops.fp8_linear(x, random_float8(20, 300), w_scale)
        assert y.isnan().any(1).tolist() == [False, True, False, True, True, False]
        assert y.isnan().all(1).tolist() == [False, True, False, True, True, False]


def test_strided_and_misaligned() -> None:
    memory = random_float8(40 * 131 + 64)
    weight = memory[3 : 3 + 30 * 131].view(30, 131)
    x = random_float8(12, 300)[:, 7:138]
    scale, w_scale = torch.rand(12), torch.rand(30)
    y = ops.fp8_gemm(x, weight, scale, w_scale)
    assert torch.equal(y, ops.fp8_gemm(x.contiguous(), weight.clone(), scale, w_scale))
    assert torch.equal(y, ops.fp8_gemm(x, weight.T.contiguous().T, scale, w_scale))


def test_nothing_to_do() -> None:
    weight, scale = random_float8(8, 16), torch.rand(8)
    assert ops.fp8_gemm(random_float8(2, 0, 16), weight, torch.rand(1), scale).shape == (2, 0, 8)
    assert ops.fp8_gemm(random_float8(2, 16), weight[:0], torch.rand(1), scale[:0]).shape == (2, 0)
    assert ops.fp8_linear(torch.empty(0, 16), weight, scale).shape == (0, 8)
