"""Weights of 8-bit floats and their scales, packed and multiplied by the ops of w4a16 (W8A16-FP8)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import DTYPES, assert_gemm, by_name, cpu_kernels, make_x
from qcore import ops

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def random_codes(n: int, k: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """All codes but NaN and infinities."""
    bytes = torch.randint(0, 256, (n, k), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    codes = bytes.view(dtype)
    return torch.where(codes.float().isfinite(), bytes, 0).view(dtype)


def random_weight(n: int, k: int, group_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and what they stand for, in float64."""
    codes = random_codes(n, k, dtype)
    width = k if group_size == -1 else group_size
    scales = torch.rand(n, -(-k // width), generator=torch.Generator().manual_seed(1)) * 0.01 + 1e-3
    dense = codes.double() * scales.double().repeat_interleave(width, 1)[:, :k]
    return codes, scales, dense


@pytest.fixture(params=cpu_kernels("w4a16"))
def row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", request.param)


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("dtype", FLOAT8, ids=by_name)
@pytest.mark.parametrize(
    ("n", "k", "group_size"), [(1, 1, 1), (33, 200, 64), (17, 300, -1), (128, 1024, 128)]
)
def test_gemm(n: int, k: int, group_size: int, dtype: torch.dtype) -> None:
    codes, scales, dense = random_weight(n, k, group_size, dtype)
    packed = ops.w4a16_pack(codes, scales, None, group_size, 8)
    for m in (1, 2, 5, 13, 40):
        for x_type in DTYPES:
            # Small, so that float16 does not overflow.
            x = (make_x(m, k).float() * 2.0**-8).to(x_type)
            y = ops.w4a16_gemm(x, *packed, bias=make_x(n))
            assert_gemm(y, x, dense, bias=make_x(n))
            assert torch.equal(ops.w4a16_gemm(x[:1], *packed, bias=make_x(n)), y[:1])


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("dtype", FLOAT8, ids=by_name)
@pytest.mark.parametrize("m", [1, 40])
def test_every_code_is_read_exactly(m: int, dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(256, 1).expand(256, 32).contiguous().view(dtype)
    packed = ops.w4a16_pack(codes[:, :1].contiguous(), torch.ones(256, 1), None, 1, 8)
    y = ops.w4a16_gemm(torch.ones(m, 1), *packed)
    expected = codes.float()[:, 0].expand(m, 256)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    finite = torch.where(codes.float().isfinite(), codes.view(torch.uint8), 0).view(dtype)
    packed = ops.w4a16_pack(finite, torch.ones(256, 1), None, -1, 8)
    x = torch.zeros(m, 32)
    x[:, 21] = 1
    assert torch.equal(ops.w4a16_gemm(x, *packed), finite.float()[:, 0].expand(m, 256))


@pytest.mark.parametrize("layout", [1, 2])
@pytest.mark.parametrize("dtype", FLOAT8, ids=by_name)
def test_unpack_gives_every_code_back(dtype: torch.dtype, layout: int) -> None:
    bytes = torch.randint(0, 256, (70, 300), dtype=torch.uint8)
    scales = torch.rand(70, 3).bfloat16()
    packed = ops.w4a16_pack(bytes.view(dtype), scales, None, 128, 8, layout)
    codes, got_scales, zeros = ops.w4a16_unpack(packed)
    assert codes.dtype == dtype
    assert torch.equal(codes.view(torch.uint8), bytes)
    assert torch.equal(got_scales, scales)
    assert zeros is None


@pytest.mark.parametrize("dtype", FLOAT8, ids=by_name)
def test_gradient_and_opcheck(dtype: torch.dtype) -> None:
    codes, scales, dense = random_weight(33, 200, 64, dtype)
    utils = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    arguments = (codes, scales, None, 64, 8)
    torch.library.opcheck(torch.ops.qcore.w4a16_pack.default, arguments, test_utils=utils)
    packed = ops.w4a16_pack(*arguments)
    torch.library.opcheck(torch.ops.qcore.w4a16_unpack.default, packed, test_utils=utils)
    torch.library.opcheck(torch.ops.qcore.w4a16_gemm.default, (make_x(3, 200), *packed))
    x = make_x(3, 200).requires_grad_()
    (dx,) = torch.autograd.grad(ops.w4a16_gemm(x, *packed).sum(), x)
    torch.testing.assert_close(dx.double(), dense.sum(0).expand(3, 200), rtol=1e-4, atol=1e-3)


def test_errors() -> None:
    codes, scales, _ = random_weight(4, 8, 8, FLOAT8[0])
    with pytest.raises(RuntimeError, match=r"bits: expected 8, because the codes are floats, got 4"):
        ops.w4a16_pack(codes, scales, None, 8, 4)
    with pytest.raises(RuntimeError, match=r"has_zeros: expected false, because the codes are floats"):
        ops.w4a16_pack(codes, scales, torch.zeros(4, 1, dtype=torch.uint8), 8, 8)
    with pytest.raises(RuntimeError, match=r"codes must be uint8, float8_e4m3fn or float8_e5m2 \[N, K\]"):
        ops.w4a16_pack(codes.float(), scales, None, 8, 8)
