"""Where there is no memory, an op ends in the error of torch, which names the size, as callers expect."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cases import WeightCase, make_weight, make_x
from qcore import SCHEMES, QLinear, Rtn, ops
from w8a8_cases import random_float8, random_int8, random_scales

N, K = 48, 256
ROWS = 2**44  # more bytes than a process can address, whatever the system promises
PACKED = make_weight(WeightCase(N, K, 64)).pack()
BLOCKS = ops.kquant_quantize(make_x(N, K), "Q4_K")
X = make_x(1, K).expand(ROWS, K)

CALLS: dict[str, Callable[[Tensor], object]] = {
    "w4a16_gemm": lambda x: torch.ops.qcore.w4a16_gemm(x, *PACKED),
    "kquant_gemm": lambda x: torch.ops.qcore.kquant_gemm(x, ops.kquant_pack(BLOCKS, "Q4_K", K), "Q4_K", N, K),
    "int8_linear": lambda x: torch.ops.qcore.int8_linear(x, random_int8(N, K), random_scales(N)),
    "fp8_linear": lambda x: torch.ops.qcore.fp8_linear(x, random_float8(N, K), random_scales(N)),
    "quantize_int8": lambda x: torch.ops.qcore.quantize_int8(x),
    "quantize_fp8": lambda x: torch.ops.qcore.quantize_fp8(x),
    "kquant_quantize": lambda x: torch.ops.qcore.kquant_quantize(x, "Q4_K"),
    "fake_quantize": lambda x: torch.ops.qcore.fake_quantize(x, "u4", 1, 128),
    "a layer": lambda x: QLinear(Rtn().quantize(make_x(N, K), None, SCHEMES["W4A16"], torch.float32))(x),
}
NO_MEMORY = r"can't allocate memory: you tried to allocate \d{14,} bytes"


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_no_memory_is_torchs_error(name: str, gradients: bool) -> None:
    with torch.set_grad_enabled(gradients), pytest.raises(torch.OutOfMemoryError, match=NO_MEMORY):
        CALLS[name](X)


def test_no_memory_on_the_way_to_a_gradient() -> None:
    x = make_x(1, K).requires_grad_().expand(ROWS, K)
    with pytest.raises(torch.OutOfMemoryError, match=NO_MEMORY):
        torch.ops.qcore.w4a16_gemm(x, *PACKED)


def test_no_memory_for_a_copy() -> None:
    """Of blocks that do not lie side by side, which torch makes for us."""
    blocks = BLOCKS[:1].expand(ROWS, -1)
    with pytest.raises(torch.OutOfMemoryError, match=NO_MEMORY):
        torch.ops.qcore.kquant_dequantize(blocks, "Q4_K", K, torch.float32)


def test_sizes_that_overflow_are_no_matter_of_memory() -> None:
    with pytest.raises(RuntimeError, match="overflow") as caught:
        torch.ops.qcore.w4a16_gemm(make_x(1, K).expand(2**56, K), *PACKED)
    assert not isinstance(caught.value, torch.OutOfMemoryError)
