"""torch.ops.qcore.w4a16_* on a GPU: the numbers."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cases import DTYPES, WEIGHT_CASES, WeightCase, assert_gemm, by_name, make_weight, make_x
from gpu_cases import KERNELS, LAYOUTS, MARKS, cuda_weight, gemm, poisoned, refusal
from qcore import ops, repack

pytestmark = MARKS

HALVES = (torch.float16, torch.bfloat16)
LARGE_CASES = (
    WeightCase(1024, 4096, 128, 4, False, torch.float16),
    WeightCase(4096, 1024, 64, 4, True, torch.bfloat16),
    WeightCase(64, 8192, 128, 8, True, torch.float32),  # few rows, much K: work must be split along K
    WeightCase(520, 2056, -1, 3, True, torch.float16),
)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("case", WEIGHT_CASES, ids=str)
def test_gemm(case: WeightCase, dtype: torch.dtype, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row by name; what explain() says it refuses, gemm refuses."""
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    weight = cuda_weight(case)
    packed = weight.pack()
    bias = make_x(case.n, seed=2).cuda()
    perm = torch.randperm(case.k, generator=torch.Generator().manual_seed(3)).cuda()
    for m in (1, 2, 5, 33, 130):
        x = make_x(m, case.k, dtype=dtype).cuda()
        if refusal(kernel, case, dtype, m):
            with pytest.raises(RuntimeError, match=kernel):
                ops.w4a16_gemm(x, *packed)
            continue
        assert_gemm(gemm(x, *packed), x, weight.dense)
        assert_gemm(gemm(x, *packed, perm=perm, bias=bias), x, weight.dense, perm, bias)
        if not refusal(kernel, case, dtype, m, batch_invariant=True):
            y = gemm(x, *packed, bias=bias, batch_invariant=True)
            assert_gemm(y, x, weight.dense, None, bias)


@pytest.mark.parametrize("dtype", HALVES, ids=by_name)
@pytest.mark.parametrize("case", LARGE_CASES, ids=str)
def test_large(case: WeightCase, dtype: torch.dtype) -> None:
    weight = cuda_weight(case)
    packed = weight.pack()
    for m in (1, 7, 16, 61, 200):
        x = make_x(m, case.k, dtype=dtype, seed=m).cuda()
        assert_gemm(gemm(x, *packed), x, weight.dense)


def random_problem(random: random.Random) -> tuple[WeightCase, torch.dtype, int]:
    n, k = random.randint(1, 600), random.randint(1, 1500)
    case = WeightCase(
        n,
        k,
        min(k, random.choice([16, 32, 64, 128, random.randint(1, k)])),
        random.choice([2, 3, 4, 8]),
        random.random() < 0.5,
        random.choice(DTYPES),
    )
    return case, random.choice([*HALVES, *HALVES, torch.float32]), random.choice([1, 2, 3, 8, 17, 64, 130])


@pytest.mark.parametrize("seed", range(100))
def test_random_problem(seed: int) -> None:
    choose = random.Random(seed)
    case, dtype, m = random_problem(choose)
    weight = cuda_weight(case, seed)
    rows, columns = choose.choice([(m, case.k), (m, case.k + 8), (2 * m, case.k), (m, case.k + 3)])
    x = make_x(rows, columns, dtype=dtype, seed=seed).cuda()[:: rows // m, columns - case.k :]
    perm = torch.randperm(case.k, generator=torch.Generator().manual_seed(seed)).cuda()
    perm = choose.choice([None, perm, perm.int()])
    bias = choose.choice([None, make_x(case.n, dtype=choose.choice(DTYPES), seed=2).cuda()])
    y = gemm(x, *weight.pack(), perm=perm, bias=bias, batch_invariant=choose.random() < 0.3)
    assert_gemm(y, x, weight.dense, perm, bias)


# One column at a time, so that nothing is summed: a result that is off by one bit is wrong.
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_one_hot_rows_give_the_weight(
    bits: int, dtype: torch.dtype, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    for asymmetric, scale_dtype in itertools.product((False, True), DTYPES):
        case = WeightCase(200, 300, 64, bits, asymmetric, scale_dtype)
        if refusal(kernel, case, dtype, 300):
            pytest.skip(f"{kernel} does not take {by_name(dtype)}")
        weight = cuda_weight(case)
        packed = weight.pack()
        group = torch.arange(300, device="cuda") // 64
        zero = float(2 ** (bits - 1)) if weight.zeros is None else weight.zeros[:, group].float()
        exact = (weight.scales.float()[:, group] * (weight.codes.float() - zero)).to(dtype).t()
        perm = torch.randperm(300, generator=torch.Generator().manual_seed(3)).cuda()
        eye = torch.eye(300, dtype=dtype, device="cuda")
        assert torch.equal(gemm(eye, *packed), exact)
        assert torch.equal(gemm(eye, *packed, perm=perm)[perm], exact)
        assert torch.equal(gemm(eye * -0.25, *packed), exact * -0.25)
        for k in () if refusal(kernel, case, dtype, 1) else (0, 63, 64, 299):
            assert torch.equal(gemm(eye[k : k + 1], *packed), exact[k : k + 1])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("type", [torch.float8_e4m3fn, torch.float8_e5m2], ids=by_name)
def test_float_codes_are_read_exactly(
    type: torch.dtype, dtype: torch.dtype, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every finite code in every column of a fragment."""
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    codes = (torch.arange(256)[:, None] + torch.arange(64)).to(torch.uint8).view(type)
    codes = torch.where(codes.float().isfinite(), codes.view(torch.uint8), 1).view(type)
    packed = ops.w4a16_pack(codes.cuda(), torch.full((256, 1), 0.25).cuda(), None, -1, 8)
    assert torch.equal(ops.w4a16_unpack(packed)[0].cpu().view(torch.uint8), codes.view(torch.uint8))
    eye = torch.eye(64, dtype=dtype, device="cuda")
    try:
        y = gemm(eye, *packed)
    except RuntimeError as error:
        pytest.skip(str(error))  # fp32 activations
    assert torch.equal(y.cpu(), (codes.float() * 0.25).to(dtype).T)


@pytest.mark.parametrize("k", [1, 300])
@pytest.mark.parametrize("zero", [0, 255])
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_full_accuracy_next_to_the_zero_point(dtype: torch.dtype, zero: int, k: int) -> None:
    near = torch.randint(0, 3, (40, k), generator=torch.Generator().manual_seed(4)).cuda()
    codes = (near if zero == 0 else 255 - near).to(torch.uint8)
    zeros = torch.full((40, 1), zero, dtype=torch.uint8, device="cuda")
    scales = torch.full((40, 1), 0.01, device="cuda")
    packed = ops.w4a16_pack(codes, scales, zeros, -1, 8)
    dense = scales.double() * (codes.double() - zero)
    for m in (1, 3, 40):
        x = make_x(m, k, dtype=dtype).cuda()
        y = gemm(x, *packed)
        assert_gemm(y, x, dense)
        assert (y[:, (near == 0).all(1)] == 0).all()


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (2, 1, 4), (0,), (3, 0), (0, 2)])
def test_leading_shapes(leading: tuple[int, ...]) -> None:
    weight = cuda_weight(WeightCase(48, 300, 64, asymmetric=True))
    x = make_x(*leading, 300, dtype=torch.float16).cuda()
    assert_gemm(gemm(x, *weight.pack()), x, weight.dense)


def test_no_rows_in_the_weight() -> None:
    codes = torch.empty(0, 300, dtype=torch.uint8, device="cuda")
    packed = ops.w4a16_pack(codes, torch.empty(0, 5, device="cuda"), None, 64)
    assert [tuple(t.shape) for t in ops.w4a16_unpack(packed)[:2]] == [(0, 300), (0, 5)]
    assert ops.w4a16_gemm(make_x(2, 300).cuda(), *packed).shape == (2, 0)


@pytest.mark.parametrize("rows", [6, 40])  # on Hopper for two kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_strides(dtype: torch.dtype, rows: int) -> None:
    packed = cuda_weight(WeightCase(48, 304, 64, asymmetric=True)).pack()
    views = {
        "transposed": make_x(304, rows, dtype=dtype).cuda().t(),
        "wider rows": make_x(rows, 504, dtype=dtype).cuda()[:, 104:408],
        "wider rows, not aligned": make_x(rows, 501, dtype=dtype).cuda()[:, 101:405],
        "every second row": make_x(2 * rows, 304, dtype=dtype).cuda()[::2],
        "every second column": make_x(rows, 608, dtype=dtype).cuda()[:, ::2],
        "repeated row": make_x(1, 304, dtype=dtype).cuda().expand(rows, 304),
        "swapped batch": make_x(rows // 2, 2, 304, dtype=dtype).cuda().transpose(0, 1),
        "overlapping": make_x(304 + 2 * rows, dtype=dtype).cuda().as_strided((rows, 304), (2, 1)),
        "overlapping, aligned": make_x(304 + 8 * rows, dtype=dtype).cuda().as_strided((rows, 304), (8, 1)),
        "1-D": make_x(608, dtype=dtype).cuda()[::2],
        "offset": make_x(304 * rows + 1, dtype=dtype).cuda()[1:].view(rows, 304),
    }
    for name, x in views.items():
        assert torch.equal(gemm(x, *packed), gemm(x.clone().contiguous(), *packed)), name


def test_weight_in_views_that_are_not_aligned() -> None:
    packed = cuda_weight(WeightCase(48, 300, 64, asymmetric=True, scale_dtype=torch.float16)).pack()
    shifted = [torch.cat([t[:1], t])[1:] for t in packed[:3]]
    spread = [t.repeat_interleave(3)[::3] for t in packed[:3]]
    assert all(t.data_ptr() % 16 for t in shifted)
    x = make_x(5, 300, dtype=torch.float16).cuda()
    expected = gemm(x, *packed)
    for views in (shifted, spread):
        assert torch.equal(gemm(x, *views, packed.shape), expected)
        assert torch.equal(
            ops.w4a16_unpack(ops.PackedW4A16(*views, packed.shape))[0], ops.w4a16_unpack(packed)[0]
        )


@pytest.mark.parametrize("k", [300, 304, 320, 1000])
@pytest.mark.parametrize("dtype", HALVES, ids=by_name)
def test_nothing_around_x_and_no_other_row_is_seen(dtype: torch.dtype, k: int) -> None:
    """NaN before, between and behind the rows, and in one of them."""
    packed = cuda_weight(WeightCase(200, k, 64, asymmetric=True)).pack()
    x = make_x(19, k, dtype=dtype).cuda()
    expected = gemm(x, *packed)
    for before, after in ((8, 8), (0, 8), (3, 2)):
        island = torch.full((21, before + k + after), torch.nan, dtype=dtype, device="cuda")
        view = island[1:-1, before : before + k]
        view.copy_(x)
        assert torch.equal(gemm(view, *packed), expected)
    x[7] = torch.nan
    y = gemm(x, *packed)
    assert y[7].isnan().all()
    others = torch.arange(19, device="cuda") != 7
    assert torch.equal(y[others], expected[others])


def test_perm_out_of_range_gives_nan() -> None:
    packed = cuda_weight(WeightCase(48, 300, 64)).pack()
    perm = torch.arange(300, device="cuda")
    for bad in (300, -1):
        perm[7] = bad
        for dtype in DTYPES:
            assert gemm(make_x(3, 300, dtype=dtype).cuda(), *packed, perm=perm).isnan().all()


SUBSETS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 129, 130)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize(
    "case",
    [WeightCase(200, 4096, 128, 4, True), WeightCase(64, 1100, 100, 8), WeightCase(2048, 512, 64)],
    ids=str,
)
def test_batch_invariant_rows_have_the_same_bits(
    case: WeightCase, dtype: torch.dtype, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    if why := refusal(kernel, case, dtype, 130, batch_invariant=True):
        pytest.skip(why)
    packed = cuda_weight(case).pack()
    perm = torch.randperm(case.k, generator=torch.Generator().manual_seed(3)).cuda()
    x = make_x(130, case.k, dtype=dtype).cuda()
    for index in (None, perm):
        whole = gemm(x, *packed, perm=index, batch_invariant=True)
        for m in SUBSETS:
            first = 130 - m if m % 2 else 0
            part = gemm(x[first : first + m], *packed, perm=index, batch_invariant=True)
            assert torch.equal(part, whole[first : first + m]), m


def test_repeated_calls_give_the_same_bits() -> None:
    case = WeightCase(64, 8192, 128, asymmetric=True)
    packed, x = cuda_weight(case).pack(), make_x(3, case.k, dtype=torch.bfloat16).cuda()
    expected = gemm(x, *packed)
    for _ in range(20):
        assert torch.equal(gemm(x, *packed), expected)


# -- packing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", WEIGHT_CASES, ids=str)
def test_device_and_host_pack_the_same_bytes(case: WeightCase, layout: int) -> None:
    here, there = make_weight(case), cuda_weight(case)
    expected = ops.w4a16_pack(here.codes, here.scales, here.zeros, case.group_size, case.bits, layout)
    with poisoned():
        packed = ops.w4a16_pack(there.codes, there.scales, there.zeros, case.group_size, case.bits, layout)
        unpacked = ops.w4a16_unpack(packed)
        moved = ops.w4a16_unpack(ops.PackedW4A16(*(t.cuda() for t in expected)))
    for device, host in zip(packed, expected, strict=True):
        assert (device.shape, device.dtype) == (host.shape, host.dtype)
        assert torch.equal(device.cpu().view(torch.uint8), host.view(torch.uint8))
    for got, also, source in zip(unpacked, moved, (there.codes, there.scales, there.zeros), strict=True):
        assert (got is None) == (also is None) == (source is None)
        if got is not None and also is not None and source is not None:
            assert got.dtype == source.dtype
            assert torch.equal(got, source)
            assert torch.equal(also, source)


def test_default_layout_is_that_of_the_kernels() -> None:
    weight = cuda_weight(WeightCase(48, 300, 64))
    assert weight.pack().shape.shape[1] in LAYOUTS


def test_codes_that_are_too_large() -> None:
    weight = cuda_weight(WeightCase(48, 300, 64, asymmetric=True))
    codes = weight.codes.clone()
    codes[3, 17] = 16
    with pytest.raises(RuntimeError, match=r"w4a16_pack: codes: expected .* below 16 \(bits = 4\)"):
        replace(weight, codes=codes).pack()
    assert torch.equal(ops.w4a16_unpack(weight.pack())[0], weight.codes)  # the GPU is none the worse


def words(*sizes: int) -> Tensor:
    return torch.randint(
        -(2**31), 2**31, sizes, dtype=torch.int32, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("order", ["gptq", "awq", "compressed_tensors"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("n", "k", "group_size"), [(64, 256, 128), (200, 100, 32), (40, 77, 77)])
def test_device_and_host_repack_the_same_bytes(
    n: int, k: int, group_size: int, bits: int, order: str
) -> None:
    if order == "awq" and bits != 4:
        pytest.skip("AWQ has 4 bits")
    along_k, groups = -(-k * bits // 32), -(-k // group_size)
    sizes = {"gptq": (along_k, n), "awq": (k, n // 8), "compressed_tensors": (n, along_k)}[order]
    qweight, scales = words(*sizes), make_x(groups, n, dtype=torch.float16).t()
    zeros = words(n, groups).view(torch.uint8)[:, ::4] & (2**bits - 1)
    perm = torch.randperm(k, generator=torch.Generator().manual_seed(3))
    for index in (None, perm, perm.int()):
        rest = (order, n, k, group_size, bits)
        expected = ops.w4a16_repack(qweight, scales, zeros, *rest, index, LAYOUTS[0])
        there = None if index is None else index.cuda()
        with poisoned():
            packed = ops.w4a16_repack(qweight.cuda(), scales.cuda(), zeros.cuda(), *rest, there)
        for device, host in zip(packed, expected, strict=True):
            assert torch.equal(device.cpu(), host)


def test_checkpoint_layers_are_packed_on_the_gpu() -> None:
    g_idx = (torch.arange(256) // 64)[torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    scales = make_x(4, 64, dtype=torch.float16).abs()
    layer = (words(32, 64), words(4, 8), scales, g_idx)
    here, perm = repack.from_gptq(*layer, bits=4, group_size=64)
    there, cuda_perm = repack.from_gptq(*(t.cuda() for t in layer), bits=4, group_size=64)
    assert perm is not None
    assert cuda_perm is not None
    assert torch.equal(perm, cuda_perm.cpu())
    for a, b in zip(ops.w4a16_unpack(here), ops.w4a16_unpack(there), strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b.cpu())
    x = make_x(3, 256, dtype=torch.float16)
    y = ops.w4a16_gemm(x.cuda(), *there, perm=cuda_perm).cpu()
    torch.testing.assert_close(y, ops.w4a16_gemm(x, *here, perm=perm), rtol=2e-3, atol=1e-2)
    awq = (words(256, 8), words(4, 8), scales)
    for a, b in zip(
        ops.w4a16_unpack(repack.from_awq(*awq, group_size=64)[0]),
        ops.w4a16_unpack(repack.from_awq(*(t.cuda() for t in awq), group_size=64)[0]),
        strict=True,
    ):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b.cpu())
