"""torch.ops.qcore.kquant_* on a GPU."""

from __future__ import annotations

import pytest
import torch

from cases import DTYPES, by_name
from gpu_cases import MARKS, poisoned
from qcore import ops
from test_kquant import INFO, TYPES, assert_same_bits, random_blocks

pytestmark = MARKS


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("type", TYPES)
def test_dequantize_gives_the_bits_of_the_cpu(type: str, dtype: torch.dtype) -> None:
    elements = INFO[type]["elements"]
    for rows, per_row in ((1, 1), (3, 5), (0, 2), (1000, 4096 // elements), (7, 50000 // elements)):
        k = per_row * elements
        blocks = torch.from_numpy(random_blocks(type, rows * per_row, rows)).reshape(rows, -1)
        if rows == 0:
            blocks = torch.empty(0, per_row * INFO[type]["bytes"], dtype=torch.uint8)
        with poisoned():
            out = ops.kquant_dequantize(blocks.cuda(), type, k, dtype)
        assert_same_bits(out.cpu(), ops.kquant_dequantize(blocks, type, k, dtype))


@pytest.mark.parametrize("type", TYPES)
def test_dequantize_takes_any_address(type: str) -> None:
    blocks = torch.from_numpy(random_blocks(type, 40)).reshape(40, -1)
    k = INFO[type]["elements"]
    assert_same_bits(
        ops.kquant_dequantize(blocks.cuda()[3:], type, k, torch.bfloat16).cpu(),
        ops.kquant_dequantize(blocks[3:], type, k, torch.bfloat16),
    )
