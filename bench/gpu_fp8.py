"""Times torch.ops.qcore.fp8_gemm, fp8_linear and quantize_fp8 on the present GPU beside torch._scaled_mm.

bench/gpu --only time              the way to run it: builds and finds the package first
python bench/gpu_fp8.py --out DIR [--quick] [--seconds S]
"""

from __future__ import annotations

import sys

import gpu_w8a8
import torch
from gpu_w8a8 import Call, Kind, Operands
from torch import Tensor

E4M3 = torch.float8_e4m3fn
MOST = torch.finfo(E4M3).max


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    scale = rows.float().abs().amax(1, keepdim=True) / MOST
    return (rows.float() / scale).clamp(-MOST, MOST).to(E4M3), scale


def gemm(o: Operands) -> Call:
    arguments = (o.xq, o.wq, o.x_scale, o.w_scale, None, torch.bfloat16)
    return lambda: torch.ops.qcore.fp8_gemm(*arguments)


def block_gemm(o: Operands) -> Call:
    """Scales of 1x128 and 128x128 blocks; the numbers do not matter for the time."""
    (m, k), n = o.x.shape, len(o.wq)
    blocks = -(-k // 128)
    x_scale = torch.ones(m, blocks, device=o.x.device)
    w_scale = torch.ones(-(-n // 128), blocks, device=o.x.device)
    return lambda: torch.ops.qcore.fp8_gemm(o.xq, o.wq, x_scale, w_scale, None, torch.bfloat16)


def linear(o: Operands) -> Call:
    """Quantizes x as well."""
    return lambda: torch.ops.qcore.fp8_linear(o.x, o.wq, o.w_scale)


def scaled_mm(o: Operands) -> Call:
    """cuBLASLt or CUTLASS, with the same scales."""
    weight, w_scale = o.wq.t(), o.w_scale.t()
    return lambda: torch._scaled_mm(o.xq, weight, o.x_scale, w_scale, out_dtype=torch.bfloat16)


def scaled_mm_tensor(o: Operands) -> Call:
    """cuBLASLt, with one scale for each matrix and its faster accumulation."""
    weight, one = o.wq.t(), torch.ones((), device=o.x.device)
    return lambda: torch._scaled_mm(o.xq, weight, one, one, out_dtype=torch.bfloat16, use_fast_accum=True)


def ours(x: Tensor) -> tuple[Tensor, Tensor]:
    q, scale = torch.ops.qcore.quantize_fp8(x, None, "token", E4M3)
    return q, scale


KIND = Kind(
    "fp8",
    quantize,
    gemm,
    {
        "fp8_linear": linear,
        "fp8_gemm, blocks": block_gemm,
        "_scaled_mm, rows": scaled_mm,
        "_scaled_mm, tensor": scaled_mm_tensor,
    },
    {"quantize_fp8": ours},
)

if __name__ == "__main__":
    sys.exit(gpu_w8a8.main(KIND, __doc__))
