"""The ops on 8-bit activations on a GPU: quantizers and int8 give the CPU's bits, fp8 is close to exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import DTYPES, HALF_ULP, by_name, make_x
from gpu_cases import MARKS, poisoned
from qcore import ops

pytestmark = MARKS

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SHAPES = ((96, 512), (300, 1024), (33, 272), (5, 100), (1000, 4096))  # N, K; 100 is left to the reference


def rows_of(op: str) -> list[str]:
    return [row["name"] for row in ops.kernels() if row["device"] == "cuda" and row["op"] == op]


def skip_unless_it_runs(kernel: str) -> None:
    row = next(row for row in ops.kernels() if row["name"] == kernel)
    capability = torch.cuda.get_device_capability()
    sm = capability[0] * 10 + capability[1]
    if row["sm"] > sm or (kernel.endswith("_sm90") and sm != 90):  # Hopper's own instructions
        pytest.skip(f"{kernel} needs another GPU")


def random_int8(*sizes: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, sizes, generator=random, dtype=torch.int8)


def random_scales(*sizes: int, seed: int = 0) -> Tensor:
    return torch.rand(*sizes, generator=torch.Generator().manual_seed(seed)) * 0.01 + 1e-4


def magnitudes(m: int, k: int, dtype: torch.dtype) -> Tensor:
    """Rows of many magnitudes; one of zeros, one with an infinity, one with NaN."""
    x = make_x(m, k, seed=m) * torch.logspace(-6, 3, m)[:, None]
    if m > 3:
        x[0], x[1, 3 % k], x[2, 5 % k] = 0, float("inf"), float("nan")
    return x.to(dtype)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """The same bits, but any NaN for any NaN."""
    assert ours.dtype == theirs.dtype
    if not ours.dtype.is_floating_point:
        assert torch.equal(ours.cpu(), theirs)
        return
    ours, theirs = ours.cpu().float(), theirs.float()
    assert torch.equal(ours.isnan(), theirs.isnan())
    bits = [torch.where(t.isnan(), 0, t).view(torch.int32) for t in (ours, theirs)]
    assert torch.equal(*bits)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("symmetric", [True, False])
def test_quantize_int8(symmetric: bool, dtype: torch.dtype) -> None:
    for m, k in ((1, 1), (5, 100), (33, 4096), (7, 20000), (300, 512)):
        for x in (magnitudes(m, k, dtype), magnitudes(m, k + 3, dtype)[:, :k]):
            for per_token in (True, False):
                with poisoned():
                    ours = ops.quantize_int8(x.cuda(), symmetric, per_token)
                for a, b in zip(ours, ops.quantize_int8(x, symmetric, per_token), strict=True):
                    assert_same(a, b)
        scale, zero = torch.tensor([0.02]), None if symmetric else torch.tensor([-7], dtype=torch.int32)
        x = magnitudes(m, k, dtype)
        there = None if zero is None else zero.cuda()
        ours = ops.quantize_int8(x.cuda(), symmetric, False, scale.cuda(), there)
        assert_same(ours[0], ops.quantize_int8(x, symmetric, False, scale, zero)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("type", FP8, ids=by_name)
@pytest.mark.parametrize("granularity", ["token", "tensor", "block"])
def test_quantize_fp8(granularity: str, type: torch.dtype, dtype: torch.dtype) -> None:
    for m, k in ((1, 1), (5, 100), (33, 4096), (7, 20000), (300, 512)):
        x = magnitudes(m, k, dtype)
        with poisoned():
            q, scale = ops.quantize_fp8(x.cuda(), None, granularity, type)
        expected, expected_scale = ops.quantize_fp8(x, None, granularity, type)
        assert_same(q, expected)
        assert_same(scale, expected_scale)
    scale = torch.tensor([0.02])
    ours = ops.quantize_fp8(x.cuda(), scale.cuda(), "tensor", type)[0]
    assert_same(ours, (x.float() / scale).clamp(-torch.finfo(type).max, torch.finfo(type).max).to(type))


def test_norm_is_close_to_the_exact_one() -> None:
    for k in (100, 4096, 20000):
        x, weight = make_x(17, k, dtype=torch.bfloat16), make_x(k, seed=3)
        q, scale, _ = ops.quantize_int8(x.cuda(), norm_weight=weight.cuda())
        exact = x.double() * torch.rsqrt(x.double().square().mean(1, keepdim=True) + 1e-6) * weight
        assert ((q.cpu() * scale.cpu().double() - exact).abs() <= 0.5001 * scale.cpu()).all()


@pytest.mark.parametrize("kernel", rows_of("int8"))
def test_int8_gives_the_bits_of_the_cpu(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_unless_it_runs(kernel)
    for n, k in SHAPES:
        weight, w_scale, bias = random_int8(n, k), random_scales(n), make_x(n, seed=2)
        for m in (1, 2, 9, 17, 33, 64, 130, 257):
            x, x_scale = random_int8(m, k, seed=m), random_scales(m, 1, seed=m)
            zero = torch.randint(-128, 128, (m, 1), dtype=torch.int32)
            for out in DTYPES:
                for use_zero, use_bias, use_sum in ((0, 0, 0), (1, 1, 0), (1, 0, 1)):
                    arguments = [
                        *(x, weight, x_scale, w_scale, zero if use_zero else None),
                        *(bias if use_bias else None, out, weight.sum(1).int() if use_sum else None),
                    ]
                    there = [a.cuda() if isinstance(a, Tensor) else a for a in arguments]
                    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
                    if k == 100 and "reference" not in kernel:
                        with pytest.raises(RuntimeError, match=kernel):
                            ops.int8_gemm(*there)
                        continue
                    with poisoned():
                        y = ops.int8_gemm(*there)
                    monkeypatch.delenv("QCORE_FORCE_KERNEL")
                    assert_same(y, ops.int8_gemm(*arguments))


def test_int8_of_the_largest_sums() -> None:
    k = 2**17 - 16
    x, weight = torch.full((3, k), -128, dtype=torch.int8), torch.full((9, k), -128, dtype=torch.int8)
    zero = torch.full((3, 1), 127, dtype=torch.int32)
    y = ops.int8_gemm(x.cuda(), weight.cuda(), torch.ones(3, 1).cuda(), torch.ones(9).cuda(), zero.cuda())
    assert (y == float(255 * 128 * k)).all()


def fp8_case(
    m: int, n: int, k: int, scales: str, types: tuple[torch.dtype, ...]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Operands on the GPU; the exact product and the sum of its terms' sizes."""
    blocks = -(-k // 128)
    sizes = {
        "tensor": ((1,), (1,)),
        "row": ((m, 1), (n,)),
        "block": ((m, blocks), (-(-n // 128), blocks)),
    }[scales]
    spread = 4.0 ** torch.randint(-6, 6, sizes[1], generator=torch.Generator().manual_seed(n)).float()
    x, w = make_x(m, k, seed=m).cuda().to(types[0]), make_x(n, k, seed=n).cuda().to(types[1])
    x_scale, w_scale = random_scales(*sizes[0]).cuda(), (random_scales(*sizes[1]) * spread).cuda()
    wide_x, wide_w = x.double(), w.double()
    if scales == "block":
        wide_x = wide_x * x_scale.double().repeat_interleave(128, 1)[:, :k]
        wide = w_scale.double().repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
        wide_w = wide_w * wide
    else:
        wide_x = wide_x * x_scale.double().view(-1, 1)
        wide_w = wide_w * w_scale.double().view(-1, 1)
    return [x, w, x_scale, w_scale], wide_x @ wide_w.T, wide_x.abs() @ wide_w.abs().T


@pytest.mark.parametrize("kernel", rows_of("fp8"))
@pytest.mark.parametrize("scales", ["tensor", "row", "block"])
@pytest.mark.parametrize("types", [(a, b) for a in FP8 for b in FP8], ids=str)
def test_fp8(
    types: tuple[torch.dtype, ...], scales: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_unless_it_runs(kernel)
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    for n, k in SHAPES:
        for m in (1, 9, 17, 64, 130):
            operands, exact, magnitude = fp8_case(m, n, k, scales, types)
            for out in DTYPES:
                if k % 16 and "reference" not in kernel:
                    with pytest.raises(RuntimeError, match=kernel):
                        ops.fp8_gemm(*operands, None, out)
                    continue
                with poisoned():
                    y = ops.fp8_gemm(*operands, None, out)
                # The matrix unit keeps about 14 bits of the largest term of 32.
                bound = 2.0**-12 * magnitude + 1.01 * HALF_ULP[out] * exact.abs() + 1e-30
                excess = ((y.double() - exact).abs() - bound).max().item()
                assert excess <= 0, f"off by {excess:.3g} more than allowed"


def test_fp8_sums_of_a_long_k_are_promoted() -> None:
    """One large product among many small ones, which a sum of few bits would drop."""
    k = 16384
    x, w = torch.full((3, k), 0.125), torch.full((9, k), 0.125)
    x[:, 5] = w[:, 5] = 448
    y = ops.fp8_gemm(*(t.cuda().to(FP8[0]) for t in (x, w)), *(torch.ones(1).cuda(),) * 2)
    exact = 448.0**2 + (k - 1) / 64
    assert ((y.double() - exact).abs() <= 127 / 64 + 1e-6 * exact).all()  # the block with the large one


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_linear_gives_the_bits_of_its_two_steps(dtype: torch.dtype) -> None:
    for n, k in SHAPES:
        weight, w_scale, bias = random_int8(n, k).cuda(), random_scales(n).cuda(), make_x(n).cuda()
        w8 = make_x(n, k).to(FP8[0]).cuda()
        w_blocks = random_scales(-(-n // 128), -(-k // 128)).cuda()
        norm = make_x(k, seed=4).cuda()
        for m in (1, 8, 40, 300):
            x = make_x(m, k, dtype=dtype, seed=m).cuda()
            for symmetric in (True, False):
                q, scale, zero = ops.quantize_int8(x, symmetric, norm_weight=norm)
                two = ops.int8_gemm(q, weight, scale, w_scale, None if symmetric else zero, bias, dtype)
                with poisoned():
                    one = ops.int8_linear(x, weight, w_scale, None, bias, symmetric, norm_weight=norm)
                assert torch.equal(one, two)
            for scales, granularity in ((w_scale, "token"), (w_blocks, "block")):
                q, scale = ops.quantize_fp8(x, None, granularity)
                two = ops.fp8_gemm(q, w8, scale, scales, None, dtype)
                with poisoned():
                    one = ops.fp8_linear(x, w8, scales)
                assert torch.equal(one, two)


def test_captured_calls_give_the_same_bits() -> None:
    n, k = 300, 4096
    weight, w_scale = random_int8(n, k).cuda(), random_scales(n).cuda()
    w8 = make_x(n, k).to(FP8[0]).cuda()
    x = make_x(3, k, dtype=torch.float16).cuda()
    for call in (
        lambda: ops.int8_linear(x, weight, w_scale),
        lambda: ops.fp8_linear(x, w8, w_scale),
        lambda: ops.quantize_int8(x, True, False)[0],
        lambda: ops.quantize_fp8(x)[1],
    ):
        expected = call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = call()
        y.zero_()
        graph.replay()
        assert torch.equal(y, expected)


def test_mixed_devices_are_named() -> None:
    x, weight, scale = make_x(3, 64).cuda(), random_int8(96, 64), random_scales(96).cuda()
    with pytest.raises(RuntimeError, match=r"weight must be on cuda:0 like x, got int8 \[96, 64\] on cpu"):
        ops.int8_linear(x, weight, scale)
    with pytest.raises(RuntimeError, match=r"w_scale must be on cuda:0 like weight, got float32 .* on cpu"):
        ops.int8_linear(x, weight.cuda(), scale.cpu())
    with pytest.raises(RuntimeError, match=r"scale must be on cuda:0 like x, got float32 \[1\] on cpu"):
        ops.quantize_fp8(x, torch.ones(1), "tensor")
