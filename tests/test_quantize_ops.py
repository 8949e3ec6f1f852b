"""torch.ops.qcore.quantize_int8 and quantize_fp8, by every CPU row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import DTYPES, by_name, cpu_kernels
from qcore import ops
from w8a8_cases import FLOAT8, generator, quantized_int8, random_x, rms_norm

LEADING = ((5,), (2, 3), (1,), ())
COLUMNS = (1, 7, 16, 127, 128, 300, 1029)


@pytest.fixture(params=cpu_kernels("quantize_int8"))
def int8_row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", request.param)


@pytest.fixture(params=cpu_kernels("quantize_fp8"))
def fp8_row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", request.param)


def assert_int8(got: tuple[Tensor, Tensor, Tensor], expected: tuple[Tensor, Tensor, Tensor]) -> None:
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1].flatten(), expected[1].flatten())
    if got[2].numel():
        assert torch.equal(got[2].flatten(), expected[2].flatten())


@pytest.mark.usefixtures("int8_row")
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_int8_dynamic(leading: tuple[int, ...], dtype: torch.dtype, symmetric: bool) -> None:
    for k in COLUMNS:
        x = random_x(*leading, k, dtype=dtype, seed=k)
        got = ops.quantize_int8(x, symmetric)
        assert got[0].shape == x.shape
        assert got[1].shape == (*leading, 1)
        assert got[2].shape == ((0,) if symmetric else (*leading, 1))
        assert_int8(got, quantized_int8(x, symmetric))
        whole = ops.quantize_int8(x, symmetric, per_token=False)
        assert whole[1].shape == (1,)
        assert_int8(whole, quantized_int8(x, symmetric, whole=True))


@pytest.mark.usefixtures("int8_row")
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_int8_static(dtype: torch.dtype) -> None:
    x = random_x(4, 3, 77, dtype=dtype)
    for scale in (torch.tensor([0.013]), torch.rand(4, 3, 1) * 0.1 + 1e-3):
        per_token = scale.dim() > 1
        got = ops.quantize_int8(x, per_token=per_token, scale=scale)
        assert_int8(got, quantized_int8(x, True, scale))
        assert got[2].numel() == 0
        zero = torch.randint(-128, 128, scale.shape, dtype=torch.int32)
        got = ops.quantize_int8(x, False, per_token, scale, zero)
        assert_int8(got, quantized_int8(x, False, scale, zero))


@pytest.mark.usefixtures("int8_row")
def test_int8_rounds_half_to_even_and_clamps() -> None:
    x = torch.tensor([[0.5, 1.5, -0.5, -1.5, 2.5, 126.5, 127.5, 1000.0, -127.5, -128.5, -1e30, float("inf")]])
    q, _, _ = ops.quantize_int8(x, per_token=False, scale=torch.ones(1))
    assert q.tolist() == [[0, 2, 0, -2, 2, 126, 127, 127, -128, -128, -128, 127]]
    nan = torch.full((1, 40), float("nan"))
    assert ops.quantize_int8(nan, per_token=False, scale=torch.ones(1))[0].eq(-128).all()


@pytest.mark.usefixtures("int8_row")
@pytest.mark.parametrize("symmetric", [True, False])
def test_int8_of_zeros_and_of_what_is_not_finite(symmetric: bool) -> None:
    x = random_x(6, 50)
    x[0] = 0
    x[1, 49] = float("inf")
    x[2, 3] = float("nan")
    x[3] = 1e-45  # its scale would be 0
    x[4, 0] = -float("inf")
    q, scale, zero = ops.quantize_int8(x, symmetric)
    assert torch.isnan(scale).flatten().tolist() == [False, True, True, False, True, False]
    assert scale[[0, 3]].eq(1).all()
    assert q[[0, 3]].eq(0 if symmetric else -128).all()
    if not symmetric:
        assert zero[[0, 3]].eq(-128).all()
    rest = quantized_int8(x[5:], symmetric)
    assert torch.equal(q[5:], rest[0])
    assert ops.quantize_int8(x, symmetric, per_token=False)[1].isnan().all()


@pytest.mark.usefixtures("int8_row")
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_int8_behind_a_norm(dtype: torch.dtype) -> None:
    for k in COLUMNS:
        x = random_x(9, k, dtype=dtype, seed=k)
        weight = (torch.rand(k, generator=generator(k)) + 0.5).to(dtype)
        q, scale, _ = ops.quantize_int8(x, norm_weight=weight, norm_eps=1e-3)
        expected = rms_norm(x, weight, 1e-3)
        torch.testing.assert_close(
            scale.double(), expected.abs().amax(-1, keepdim=True) / 127, rtol=1e-5, atol=0
        )
        assert ((q.double() * scale.double() - expected).abs() <= 0.5001 * scale.double()).all()


@pytest.mark.usefixtures("fp8_row")
@pytest.mark.parametrize("to", FLOAT8, ids=by_name)
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("granularity", ["token", "tensor", "block"])
def test_fp8_has_the_bits_of_torch(granularity: str, dtype: torch.dtype, to: torch.dtype) -> None:
    most = torch.finfo(to).max
    for leading in LEADING:
        for k in COLUMNS:
            x = random_x(*leading, k, dtype=dtype, seed=k)
            q, scale = ops.quantize_fp8(x, granularity=granularity, dtype=to)
            wide = x.float()
            if granularity == "block":
                padded = torch.nn.functional.pad(wide, (0, -k % 128)).unflatten(-1, (-1, 128))
                expected = padded.abs().amax(-1) / most
            elif granularity == "token":
                expected = wide.abs().amax(-1, keepdim=True) / most
            else:
                expected = wide.abs().amax().reshape(1) / most
            assert torch.equal(scale, expected)
            spread = scale.repeat_interleave(128, -1)[..., :k] if granularity == "block" else scale
            bits = (wide / spread).clamp(-most, most).to(to)
            assert torch.equal(q.view(torch.uint8), bits.view(torch.uint8))


@pytest.mark.usefixtures("fp8_row")
@pytest.mark.parametrize("to", FLOAT8, ids=by_name)
def test_fp8_of_every_half_has_the_bits_of_torch(to: torch.dtype) -> None:
    most = torch.finfo(to).max
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).reshape(64, -1)
    for value in (1.0, 0.37, 3e-5, 1e4):
        q, _ = ops.quantize_fp8(x, torch.tensor([value]), "tensor", to)
        bits = (x.float() / torch.tensor([value])).clamp(-most, most).to(to)
        same = q.view(torch.uint8) == bits.view(torch.uint8)
        assert (same | (q.float().isnan() & bits.float().isnan())).all()


@pytest.mark.usefixtures("fp8_row")
def test_fp8_of_zeros_and_of_what_is_not_finite() -> None:
    x = random_x(5, 300)
    x[0] = 0
    x[1, 299] = float("inf")
    x[2, 3] = float("nan")
    x[3, :128] = 1e-45
    q, scale = ops.quantize_fp8(x, granularity="block")
    assert scale[0].eq(1).all()
    assert q[0].float().eq(0).all()
    assert scale[1].isinf().tolist() == [False, False, True]
    assert q[1].float().isnan().nonzero().flatten().tolist() == [299]
    assert scale[2].isnan().tolist() == [True, False, False]
    assert q[2].float().isnan().tolist() == [True] * 128 + [False] * 172
    assert scale[3, 0] == 1
    assert ops.quantize_fp8(x, granularity="tensor")[1].isnan().all()


@pytest.mark.usefixtures("fp8_row")
@pytest.mark.parametrize("to", FLOAT8, ids=by_name)
def test_fp8_behind_a_norm(to: torch.dtype) -> None:
    x = random_x(9, 300, dtype=torch.bfloat16)
    weight = (torch.rand(300) + 0.5).bfloat16()
    q, scale = ops.quantize_fp8(x, dtype=to, norm_weight=weight)
    expected = rms_norm(x, weight, 1e-6)
    most = torch.finfo(to).max
    torch.testing.assert_close(
        scale.double(), expected.abs().amax(-1, keepdim=True) / most, rtol=1e-5, atol=0
    )
    step = 2.0 ** (-4 if to == FLOAT8[0] else -3)
    least = scale.double() * 2.0**-16
    assert ((q.double() * scale - expected).abs() <= 1.001 * step * expected.abs() + 600 * least).all()


def test_strided_x() -> None:
    wide = random_x(6, 200)
    views = (
        wide[:, 3:90],
        wide[::2],
        wide.T,
        wide[:, ::2],
        wide[0].expand(4, 200),
        wide.view(2, 3, 200)[:, 1],
    )
    for x in views:
        same = x.contiguous()
        for got, expected in zip(ops.quantize_int8(x, False), ops.quantize_int8(same, False), strict=True):
            assert torch.equal(got, expected)
        for got, expected in zip(ops.quantize_fp8(x), ops.quantize_fp8(same), strict=True):
            assert torch.equal(got.float(), expected.float())


def test_no_rows() -> None:
    x = torch.empty(2, 0, 64)
    q, scale, zero = ops.quantize_int8(x, False)
    assert (q.shape, scale.shape, zero.shape) == ((2, 0, 64), (2, 0, 1), (2, 0, 1))
    q, scale, zero = ops.quantize_int8(x, False, per_token=False)
    assert (scale.item(), zero.item()) == (1, -128)
    q, scale = ops.quantize_fp8(x, granularity="block")
    assert (q.shape, scale.shape) == ((2, 0, 64), (2, 0, 1))
    assert ops.quantize_fp8(x, granularity="tensor")[1].item() == 1
