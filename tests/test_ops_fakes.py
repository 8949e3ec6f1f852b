"""What a fake kernel promises, of every op: sizes, dtypes and device of what the real kernel gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from cases import WeightCase, make_weight, make_x
from qcore import ops
from w8a8_cases import random_float8, random_int8, random_scales

W = make_weight(WeightCase(48, 300, 64, asymmetric=True))
FLOATS = random_float8(48, 300)
PACKED, PACKED_FLOATS = W.pack(), ops.w4a16_pack(FLOATS, W.scales, None, 64, 8)
WORDS = torch.zeros(48, 38, dtype=torch.int32)
BLOCKS = ops.kquant_quantize(make_x(20, 512), "Q6_K")
X, HALF = make_x(2, 3, 300), make_x(2, 3, 300, dtype=torch.float16)
INT8, SCALE = random_int8(48, 300), random_scales(48)
OFFSETS = torch.tensor([0, 2, 6], dtype=torch.int32)  # of two experts
EXPERTS = ops.w4a16_pack(*(torch.stack([t, t]) for t in (W.codes, W.scales, W.zeros)), 64)
Q, Q_SCALE, Q_ZERO = ops.quantize_int8(X, False)
F, F_SCALE = ops.quantize_fp8(X, granularity="block")

# Valid arguments. No default layout: that is another one on each device.
CALLS: dict[str, list[tuple[object, ...]]] = {
    "w4a16_pack": [
        *((W.codes, W.scales, W.zeros, 64, 4, layout) for layout in (1, 2)),
        (W.codes, W.scales[:, :1].half(), None, -1, 4, 1),
        (FLOATS, W.scales, None, 64, 8, 2),
        *((W.codes[None], W.scales[None], None, 64, 4, layout) for layout in (1, 2)),
    ],
    "w4a16_repack": [
        (WORDS, W.scales, W.zeros, "compressed_tensors", 48, 300, 64, 4, None, 1),
        (WORDS.t().contiguous(), W.scales, None, "gptq", 48, 300, 64, 4, torch.arange(300), 2),
        (torch.zeros(300, 6, dtype=torch.int32), W.scales, W.zeros, "awq", 48, 300, 64, 4, None, 2),
    ],
    "w4a16_unpack": [(*PACKED,), (*PACKED_FLOATS,), (*ops.w4a16_pack(W.codes, W.scales, None, 64),), EXPERTS],
    "w4a16_gemm": [
        (X, *PACKED),
        (HALF, *PACKED_FLOATS, torch.arange(300), torch.ones(48), True),
        (X[0, 0], *PACKED),
        (X, *EXPERTS, None, torch.ones(2, 48), False, OFFSETS),
    ],
    "experts_matmul": [(torch.ones(6, 3), torch.ones(2, 3, 5), OFFSETS)],
    "kquant_quantize": [
        (make_x(2, 3, 512, dtype=torch.bfloat16), "Q4_K", torch.ones(512)),
        (X[0, 0, :32], "Q8_0"),
    ],
    "kquant_dequantize": [(BLOCKS, "Q6_K", 512, dtype) for dtype in (torch.float32, torch.bfloat16)],
    "kquant_split": [(BLOCKS, "Q6_K", 512), (BLOCKS[0], "Q6_K", 512)],
    "kquant_join": [(BLOCKS, "Q6_K", 512, ops.kquant_split(BLOCKS, "Q6_K", 512)[0])],
    "kquant_pack": [(b, "Q6_K", 512, layout) for b in (BLOCKS, BLOCKS[None]) for layout in (3, 4)],
    "kquant_unpack": [
        (ops.kquant_pack(b, "Q6_K", 512, layout), "Q6_K", 20, 512)
        for b in (BLOCKS, BLOCKS[None])
        for layout in (3, 4)
    ],
    "kquant_gemm": [
        (make_x(4, 512, dtype=torch.float16), ops.kquant_pack(BLOCKS, "Q6_K", 512), "Q6_K", 20, 512),
        (make_x(512), ops.kquant_pack(BLOCKS, "Q6_K", 512), "Q6_K", 20, 512, torch.ones(20), True),
        (
            make_x(6, 512),
            ops.kquant_pack(BLOCKS.expand(2, -1, -1), "Q6_K", 512),
            "Q6_K",
            20,
            512,
            None,
            0,
            OFFSETS,
        ),
    ],
    "quantize_int8": [
        (x, symmetric, token) for x in (X, HALF[0, 0]) for symmetric in (0, 1) for token in (0, 1)
    ],
    "quantize_fp8": [
        *((X, None, granularity) for granularity in ("token", "tensor", "block")),
        (HALF, torch.ones(1), "tensor", torch.float8_e5m2, torch.ones(300)),
    ],
    "fake_quantize": [
        (make_x(5, 50), "u4", 1, 16, None, None, None, True),
        (make_x(5, 50, dtype=torch.float16), "e4m3", 5, 50),
        (make_x(5, 50), "", 2, 16, torch.tensor([-1.0, 1]), torch.ones(3, 4)),
    ],
    "fake_quantize_backward": [
        (X[0], X[0], "u4", 1, 300, None, torch.ones(3, 1), zero, False, learns)
        for zero in (None, torch.ones(3, 1))
        for learns in (False, True)
    ],
    "int8_gemm": [
        (Q, INT8, Q_SCALE, SCALE, Q_ZERO, torch.ones(48), torch.bfloat16),
        (Q, INT8, Q_SCALE, SCALE, None, None, None, INT8.sum(1, dtype=torch.int32)),
        (Q, INT8.expand(2, -1, -1), Q_SCALE, torch.ones(2), None, None, None, None, OFFSETS),
    ],
    "fp8_gemm": [
        (F, FLOATS, F_SCALE, random_scales(1, 3), None, torch.float16),
        (F[0, 0], FLOATS, torch.ones(1), SCALE, torch.ones(48)),
    ],
    "int8_linear": [
        (X, INT8, SCALE),
        (HALF, INT8, SCALE, None, torch.ones(48), False, None, None, torch.ones(300)),
        (HALF, INT8[None], SCALE, None, None, True, None, None, None, 1e-6, OFFSETS[[0, 2]]),
    ],
    "fp8_linear": [(HALF, FLOATS, SCALE), (X[0, 0], FLOATS, random_scales(1, 3), torch.ones(48))],
}


def test_every_op_is_here() -> None:
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("qcore::")}
    assert {name.partition(".")[0] for name in names} == {f"qcore::{name}" for name in CALLS}
    assert {name.partition(".")[2] for name in names} == {"", "no_grad", "out", "workspace_bytes"}


@pytest.mark.parametrize("device", ["cpu", "meta", "cuda"])
@pytest.mark.parametrize("name", CALLS)
def test_gives_what_the_kernel_gives(name: str, device: str) -> None:
    packet = getattr(torch.ops.qcore, name)

    def there(value: object) -> object:
        """Without data, on a device that need not exist."""
        if isinstance(value, Tensor):
            return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=device)
        return value

    overloads: list[Callable[..., object]] = [
        getattr(packet, overload) for overload in packet.overloads() if overload in ("default", "no_grad")
    ]
    for op, arguments in product(overloads, CALLS[name]):
        real = tree_leaves(op(*arguments))
        with nullcontext() if device == "meta" else FakeTensorMode():
            fake = tree_leaves(op(*tree_map(there, arguments)))
        assert [(t.shape, t.stride(), t.dtype) for t in fake] == [
            (t.shape, t.stride(), t.dtype) for t in real
        ]
        assert {t.device.type for t in fake} == {device}
