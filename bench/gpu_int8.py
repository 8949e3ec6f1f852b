"""Times torch.ops.qcore.int8_gemm, int8_linear and quantize_int8 on the present GPU beside torch._int_mm.

bench/gpu --only time              the way to run it: builds and finds the package first
python bench/gpu_int8.py --out DIR [--quick] [--seconds S]
"""

from __future__ import annotations

import sys

import gpu_w8a8
import torch
from gpu_w8a8 import Call, Kind, Operands
from torch import Tensor


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    scale = rows.float().abs().amax(1, keepdim=True) / 127
    return (rows.float() / scale).round().clamp(-128, 127).to(torch.int8), scale


def gemm(o: Operands) -> Call:
    arguments = (o.xq, o.wq, o.x_scale, o.w_scale, None, None, torch.bfloat16, None)
    return lambda: torch.ops.qcore.int8_gemm(*arguments)


def linear(o: Operands) -> Call:
    """Quantizes x as well."""
    return lambda: torch.ops.qcore.int8_linear(o.x, o.wq, o.w_scale)


def int_mm(o: Operands) -> Call:
    """The integer sums alone: no scales, and 4 bytes for each of them."""
    weight = o.wq.t()
    return lambda: torch._int_mm(o.xq, weight)


def ours(x: Tensor) -> tuple[Tensor, Tensor]:
    q, scale, _ = torch.ops.qcore.quantize_int8(x)
    return q, scale


KIND = Kind(
    "int8",
    quantize,
    gemm,
    {"int8_linear": linear, "torch._int_mm": int_mm},
    {"quantize_int8": ours},
)

if __name__ == "__main__":
    sys.exit(gpu_w8a8.main(KIND, __doc__))
