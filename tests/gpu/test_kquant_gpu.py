"""torch.ops.qcore.kquant_* on a GPU. Needs no gguf: what a block says is what the CPU says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import DTYPES, HALF_ULP, by_name, make_x
from gpu_cases import KQUANT_KERNELS, MARKS, poisoned
from qcore import _C, ops

pytestmark = MARKS

INFO = {block["name"]: block for block in ops.block_formats()}
TYPES = tuple(INFO)
HALVES = (torch.float16, torch.bfloat16)


def random_blocks(type: str, rows: int, per_row: int, seed: int = 0) -> Tensor:
    """Any bytes."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, per_row * INFO[type]["bytes"]), generator=random, dtype=torch.uint8)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """The same bits, but any NaN for any NaN."""
    assert ours.dtype == theirs.dtype
    integers = torch.int32 if ours.dtype == torch.float32 else torch.int16
    there = ~theirs.isnan()
    assert torch.equal(ours.isnan(), ~there)
    assert torch.equal(ours[there].view(integers), theirs[there].view(integers))


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("type", TYPES)
def test_dequantize_gives_the_bits_of_the_cpu(type: str, dtype: torch.dtype) -> None:
    elements = INFO[type]["elements"]
    for rows, per_row in ((1, 1), (3, 5), (0, 2), (1000, 4096 // elements), (7, 50000 // elements)):
        blocks = random_blocks(type, rows, per_row, rows)
        with poisoned():
            out = ops.kquant_dequantize(blocks.cuda(), type, per_row * elements, dtype)
        assert_same(out.cpu(), ops.kquant_dequantize(blocks, type, per_row * elements, dtype))


@pytest.mark.parametrize("type", TYPES)
def test_dequantize_takes_any_address(type: str) -> None:
    blocks, k = random_blocks(type, 40, 1), INFO[type]["elements"]
    there = ops.kquant_dequantize(blocks.cuda()[3:], type, k, torch.bfloat16)
    assert_same(there.cpu(), ops.kquant_dequantize(blocks[3:], type, k, torch.bfloat16))


@pytest.mark.parametrize("type", TYPES)
def test_packs_the_bytes_of_the_cpu(type: str) -> None:
    for rows, per_row in ((1, 1), (33, 3), (70, 2), (0, 1)):
        blocks, k = random_blocks(type, rows, per_row, 5), per_row * INFO[type]["elements"]
        with poisoned():
            packed = ops.kquant_pack(blocks.cuda(), type, k)
            back = ops.kquant_unpack(packed, type, rows, k)
        assert torch.equal(packed.cpu(), ops.kquant_pack(blocks, type, k, layout=4))
        assert torch.equal(back.cpu(), blocks)


def product(x: Tensor, packed: Tensor, *arguments: object) -> Tensor:
    with poisoned():
        return ops.kquant_gemm(x, packed, *arguments)  # type: ignore[arg-type]


def assert_product(y: Tensor, x: Tensor, dense: Tensor, bias: Tensor | None = None) -> None:
    """y is x @ dense.T + bias up to float32 sums and one rounding to the dtype of x."""
    wide = x.double()
    add = torch.zeros(()).double().to(x.device) if bias is None else bias.to(x.dtype).double()
    expected = wide @ dense.T + add
    # A minimum cancels a part of what the codes give, so errors are relative to both.
    magnitude = wide.abs() @ (dense.abs() + 4 * dense.abs().amax()).T + add.abs()
    bound = 4e-6 * magnitude + 1.01 * HALF_ULP[x.dtype] * expected.abs()
    excess = ((y.double() - expected).abs() - bound).max().item()
    assert excess <= 0, f"off by {excess:.3g} more than allowed"


@pytest.mark.parametrize("kernel", KQUANT_KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("type", TYPES)
def test_gemm(type: str, dtype: torch.dtype, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row by name; what explain() says it refuses, gemm refuses."""
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    for n, k in ((96, 512), (300, 1024), (33, 256)):
        blocks = ops.kquant_quantize(make_x(n, k, seed=n) * 0.05 + 0.01, type)
        dense = ops.kquant_dequantize(blocks, type, k).double().cuda()
        packed = ops.kquant_pack(blocks.cuda(), type, k)
        bias = make_x(n, seed=2).cuda()
        for m in (1, 2, 9, 33, 130):
            x = make_x(m, k, dtype=dtype, seed=m).cuda()
            try:
                _C.explain_kquant(type, m, n, k, by_name(dtype), "cuda")
            except ValueError:
                with pytest.raises(RuntimeError, match=kernel):
                    ops.kquant_gemm(x, packed, type, n, k)
                continue
            assert_product(product(x, packed, type, n, k), x, dense)
            assert_product(product(x, packed, type, n, k, bias), x, dense, bias)


@pytest.mark.parametrize("dtype", HALVES, ids=by_name)
@pytest.mark.parametrize("type", TYPES)
def test_large(type: str, dtype: torch.dtype) -> None:
    n, k = 1500, 4096
    blocks = random_blocks("Q8_0", n, k // 32).float()  # cheap numbers, quantized once per type
    blocks = ops.kquant_quantize((blocks[:, :k] - 128) * 0.001, type)
    dense = ops.kquant_dequantize(blocks, type, k).double().cuda()
    packed = ops.kquant_pack(blocks.cuda(), type, k)
    for m in (1, 7, 16, 61, 200):
        x = make_x(m, k, dtype=dtype, seed=m).cuda()
        assert_product(product(x, packed, type, n, k), x, dense)


def test_unaligned_and_strided_activations() -> None:
    n, k = 70, 512
    blocks = ops.kquant_quantize(make_x(n, k), "Q4_K")
    packed = ops.kquant_pack(blocks.cuda(), "Q4_K", k)
    wide = make_x(9, 2 * k + 3, dtype=torch.bfloat16).cuda()
    for x in (wide[:, 1 : k + 1], wide[::2, :k], wide[:, 8 : k + 8], wide[:, : 2 * k : 2]):
        assert torch.equal(product(x, packed, "Q4_K", n, k), product(x.contiguous(), packed, "Q4_K", n, k))


def test_a_captured_call_gives_the_same_bits() -> None:
    n, k = 300, 4096
    packed = ops.kquant_pack(ops.kquant_quantize(make_x(n, k), "Q6_K").cuda(), "Q6_K", k)
    x = make_x(3, k, dtype=torch.float16).cuda()
    expected = ops.kquant_gemm(x, packed, "Q6_K", n, k)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ops.kquant_gemm(x, packed, "Q6_K", n, k)
    y.zero_()
    graph.replay()
    assert torch.equal(y, expected)


def test_mixed_devices_are_named() -> None:
    n, k = 70, 512
    blocks, x = ops.kquant_quantize(make_x(n, k), "Q4_K"), make_x(3, k)
    here, there = ops.kquant_pack(blocks, "Q4_K", k), ops.kquant_pack(blocks.cuda(), "Q4_K", k)
    bad = (
        (
            (x.cuda(), here.cuda()),
            r"the weight is packed for cpu \(layout block16\), x is on cuda:0: move it",
        ),
        ((x.cuda(), there.cpu()), r"packed must be on cuda:0 like x, got uint8 \[\d+\] on cpu"),
        ((x.cuda(), there, torch.ones(n)), r"bias must be on cuda:0 like x, got float32 \[70\] on cpu"),
    )
    for (x_, packed, *bias), message in bad:
        with pytest.raises(RuntimeError, match="qcore.kquant_gemm: " + message):
            ops.kquant_gemm(x_, packed, "Q4_K", n, k, *bias)
