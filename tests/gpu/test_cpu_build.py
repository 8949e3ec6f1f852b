"""A build without CUDA kernels, on a machine with a GPU: it says what is missing."""

from __future__ import annotations

import pytest
import torch

from cases import WeightCase, make_weight, make_x
from gpu_cases import KERNELS
from qcore import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(KERNELS), reason="this build of qcore has CUDA kernels"),
]


def test_every_op_says_so() -> None:
    weight = make_weight(WeightCase(48, 300, 64))
    packed = ops.w4a16_pack(weight.codes, weight.scales, None, 64, layout=2)
    there = ops.PackedW4A16(*(tensor.cuda() for tensor in packed))
    words = torch.zeros(48, 38, dtype=torch.int32, device="cuda")
    blocks = torch.zeros(48, 144, dtype=torch.uint8)
    blocks_there = ops.kquant_pack(blocks, "Q4_K", 256, layout=4).cuda()
    calls = {
        "kquant_dequantize": lambda: ops.kquant_dequantize(blocks.cuda(), "Q4_K", 256),
        "kquant_pack": lambda: ops.kquant_pack(blocks.cuda(), "Q4_K", 256),
        "kquant_unpack": lambda: ops.kquant_unpack(blocks_there, "Q4_K", 48, 256),
        "kquant_gemm": lambda: ops.kquant_gemm(make_x(3, 256).cuda(), blocks_there, "Q4_K", 48, 256),
        "w4a16_pack": lambda: ops.w4a16_pack(weight.codes.cuda(), weight.scales.cuda(), None, 64),
        "w4a16_unpack": lambda: ops.w4a16_unpack(there),
        "w4a16_gemm": lambda: ops.w4a16_gemm(make_x(3, 300).cuda(), *there),
        "w4a16_repack": lambda: ops.w4a16_repack(
            words, weight.scales.cuda(), None, "compressed_tensors", 48, 300, 64
        ),
    }
    for name, call in calls.items():
        with pytest.raises(RuntimeError, match=f"qcore.{name}: this build of qcore has no CUDA kernels"):
            call()
