"""torch.compile over weights of many shapes: sizes in a trace are symbols and stay so, as with F.linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from cases import make_x
from qcore import _C, SCHEMES, QLinear, Rtn, ops
from qcore.ops import sizes
from w8a8_cases import random_float8, random_int8, random_scales

SHAPES = [(n, k) for k in (256, 512, 768) for n in (40, 64, 96, 130)]  # more than dynamo compiles anew


# -- formulas ----------------------------------------------------------------------------------------------


@pytest.fixture
def formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are taken as symbols would be."""
    monkeypatch.setattr(sizes, "_symbolic", lambda *of: True)


@pytest.mark.usefixtures("formulas")
@pytest.mark.parametrize("layout", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_sizes_in_groups_are_those_of_the_core(bits: int, layout: int) -> None:
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
    for _ in range(300):
        n, k, width = (int(torch.randint(1, high, (), generator=generator)) for high in (400, 1500, 1500))
        for zeros in (False, True):
            problem = (n, k, min(width, k), bits, zeros, "float16", "cpu", layout)
            assert sizes.packed_groups(*problem) == _C.packed_sizes("w4a16", *problem), problem


@pytest.mark.usefixtures("formulas")
@pytest.mark.parametrize("type", [block["name"] for block in ops.block_formats()])
def test_sizes_in_blocks_are_those_of_the_core(type: str) -> None:
    elements = next(block["elements"] for block in ops.block_formats() if block["name"] == type)
    for n in (1, 15, 16, 17, 31, 32, 33, 100, 1000):
        for blocks in range(1, 40):
            for row in _C.packed_blocks(type, n, blocks * elements):
                layout, k = row["layout"], blocks * elements
                assert sizes.packed_blocks(type, n, k, False, layout) == row["elements"]
                assert sizes.packed_blocks(type, n, k, True, layout) == row["expert_elements"]


# -- traces ------------------------------------------------------------------------------------------------


def packed(n: int, k: int) -> tuple[Any, ...]:
    codes = torch.randint(16, (n, k), dtype=torch.uint8)
    return codes, torch.rand(n, k // 64), torch.randint(16, (n, k // 64), dtype=torch.uint8)


def blocks(n: int, k: int) -> Tensor:
    return torch.randint(256, (n, k // 256 * 144), dtype=torch.uint8) & 0x3B  # no infinite scales


# A function of tensors and sizes, and its arguments for a weight [n, k].
CASES: dict[str, tuple[Callable[..., Any], Callable[[int, int], tuple[Any, ...]]]] = {
    "w4a16_gemm": (
        lambda x, *w: torch.ops.qcore.w4a16_gemm(x, *w),
        lambda n, k: (make_x(3, k), *ops.w4a16_pack(*packed(n, k), 64)),
    ),
    "w4a16_gemm, the wrapper": (
        lambda x, *w: ops.w4a16_gemm(x, *w, bias=x.new_ones(w[3].shape[2])),
        lambda n, k: (make_x(3, k), *ops.w4a16_pack(*packed(n, k), 64)),
    ),
    "w4a16_gemm with gradients": (
        lambda x, *w: ops.w4a16_gemm(x, *w),
        lambda n, k: (make_x(3, k).requires_grad_(), *ops.w4a16_pack(*packed(n, k), 64)),
    ),
    "w4a16_pack": (
        lambda c, s, z: torch.ops.qcore.w4a16_pack(c, s, z, 64),
        lambda n, k: packed(n, k),
    ),
    "w4a16_pack for cuda, by row": (
        lambda c, s, z: torch.ops.qcore.w4a16_pack(c, s[:, :1], None, -1, 4, 2),
        lambda n, k: packed(n, k),
    ),
    "w4a16_repack": (
        lambda q, s: torch.ops.qcore.w4a16_repack(
            q, s, None, "compressed_tensors", q.shape[0], q.shape[1] * 8, 64
        ),
        lambda n, k: (torch.zeros(n, k // 8, dtype=torch.int32), torch.rand(n, k // 64)),
    ),
    "w4a16_unpack": (
        lambda *w: torch.ops.qcore.w4a16_unpack(*w),
        lambda n, k: ops.w4a16_pack(*packed(n, k), 64),
    ),
    "kquant_gemm": (
        lambda x, w, n, k: torch.ops.qcore.kquant_gemm(x, w, "Q4_K", n, k),
        lambda n, k: (make_x(3, k), ops.kquant_pack(blocks(n, k), "Q4_K", k), n, k),
    ),
    "kquant_gemm with gradients": (
        lambda x, w, n, k: ops.kquant_gemm(x, w, "Q4_K", n, k),
        lambda n, k: (make_x(3, k).requires_grad_(), ops.kquant_pack(blocks(n, k), "Q4_K", k), n, k),
    ),
    "kquant_pack": (
        lambda b, k: torch.ops.qcore.kquant_pack(b, "Q4_K", k, 4),
        lambda n, k: (blocks(n, k), k),
    ),
    "kquant_unpack": (
        lambda w, n, k: torch.ops.qcore.kquant_unpack(w, "Q4_K", n, k),
        lambda n, k: (ops.kquant_pack(blocks(n, k), "Q4_K", k), n, k),
    ),
    "kquant_dequantize": (
        lambda b, k: torch.ops.qcore.kquant_dequantize(b, "Q4_K", k, torch.float32),
        lambda n, k: (blocks(n, k), k),
    ),
    "int8_linear": (
        lambda x, w, s: torch.ops.qcore.int8_linear(x, w, s),
        lambda n, k: (make_x(3, k), random_int8(n, k), random_scales(n)),
    ),
    "fp8_linear": (
        lambda x, w, s: ops.fp8_linear(x, w, s),
        lambda n, k: (make_x(3, k), random_float8(n, k), random_scales(n)),
    ),
    "quantize_fp8": (lambda x: ops.quantize_fp8(x, granularity="block"), lambda n, k: (make_x(n, k),)),
}


@pytest.mark.parametrize("name", ["F.linear", *CASES])
def test_compiles_once_for_all_shapes(name: str) -> None:
    linear = torch.nn.functional.linear, lambda n, k: (make_x(3, k), make_x(n, k))
    function, arguments = CASES.get(name, linear)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    compiled(*arguments(*SHAPES[0]))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n, k in SHAPES:
            given = arguments(n, k)
            torch.testing.assert_close(compiled(*given), function(*given), rtol=0, atol=0, equal_nan=True)


def test_backward_compiles_once() -> None:
    def step(x: Tensor, *weight: Tensor) -> Tensor:
        return ops.w4a16_gemm(x, *weight).square().sum()

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, backend=counter, dynamic=True)
    for n, k in SHAPES:
        x, weight = make_x(3, k).requires_grad_(), ops.w4a16_pack(*packed(n, k), 64)
        (dx,) = torch.autograd.grad(compiled(x, *weight), x)
        torch.testing.assert_close(dx, torch.autograd.grad(step(x, *weight), x)[0])
    assert counter.frame_count == 1


@pytest.mark.parametrize("scheme", ["W4A16", "Q4_K", "W8A8", "FP8"])
def test_layers_compile_no_more_than_linear_layers(scheme: str) -> None:
    """One compiled function through which layers of many shapes go."""

    def count(make: Callable[[int, int], nn.Module]) -> int:
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(lambda layer, x: layer(x) + 1, fullgraph=True, backend=counter, dynamic=True)
        for n, k in SHAPES[:5]:
            layer, x = make(n, k), make_x(3, k)
            torch.testing.assert_close(compiled(layer, x), layer(x) + 1)
        return int(counter.frame_count)

    def quantized(n: int, k: int) -> nn.Module:
        return QLinear(Rtn().quantize(make_x(n, k), None, SCHEMES[scheme], torch.float32))

    assert count(quantized) <= count(lambda n, k: nn.Linear(k, n))
