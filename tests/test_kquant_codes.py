"""torch.ops.qcore.kquant_split and kquant_join: the codes and scales of blocks, and other codes for them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import HOW
from qcore import ops
from test_kquant import INFO, TYPES, random_blocks

ROWS, BLOCKS = 7, 3


def random_rows(type: str, seed: int = 0) -> tuple[Tensor, int]:
    blocks = torch.from_numpy(random_blocks(type, ROWS * BLOCKS, seed)).view(ROWS, -1)
    return blocks, BLOCKS * INFO[type]["elements"]


def random_codes(type: str, k: int, seed: int = 1) -> Tensor:
    codes = np.random.default_rng(seed).integers(0, len(INFO[type]["values"]), (ROWS, k), dtype=np.uint8)
    return torch.from_numpy(codes)


def by_definition(type: str, codes: Tensor, scales: Tensor, mins: Tensor) -> Tensor:
    group = INFO[type]["group"]
    value = torch.tensor(INFO[type]["values"], dtype=torch.float32)[codes.long()]
    return scales.repeat_interleave(group, -1) * value - mins.repeat_interleave(group, -1)


@pytest.mark.parametrize("type", TYPES)
def test_split_is_the_definition_of_dequantizing(type: str) -> None:
    blocks, k = random_rows(type)
    codes, scales, mins = ops.kquant_split(blocks, type, k)
    assert codes.shape == (ROWS, k)
    assert scales.shape == mins.shape == (ROWS, k // INFO[type]["group"])
    assert INFO[type]["has_min"] == bool(mins.any())
    torch.testing.assert_close(
        by_definition(type, codes, scales, mins),
        ops.kquant_dequantize(blocks, type, k),
        rtol=0,
        atol=0,
        equal_nan=True,
    )


@pytest.mark.parametrize("type", TYPES)
def test_join_replaces_the_codes_and_nothing_else(type: str) -> None:
    blocks, k = random_rows(type)
    before = blocks.clone()
    codes, scales, mins = ops.kquant_split(blocks, type, k)
    assert torch.equal(ops.kquant_join(blocks, type, k, codes), blocks)
    others = random_codes(type, k)
    joined = ops.kquant_join(blocks, type, k, others)
    assert torch.equal(blocks, before)
    assert joined.shape == blocks.shape
    again = ops.kquant_split(joined, type, k)
    for ours, expected in zip(again, (others, scales, mins), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


def test_any_strides_and_leading_dimensions() -> None:
    blocks, k = random_rows("Q3_K")
    codes = random_codes("Q3_K", k)
    joined = ops.kquant_join(blocks, "Q3_K", k, codes)
    rows = ops.kquant_join(blocks.view(7, 1, -1)[::2], "Q3_K", k, codes.t().contiguous().t()[::2, None])
    assert torch.equal(rows[:, 0], joined[::2])
    for ours, expected in zip(
        ops.kquant_split(blocks.view(7, 1, -1)[::2], "Q3_K", k),
        ops.kquant_split(blocks, "Q3_K", k),
        strict=True,
    ):
        assert torch.equal(ours[:, 0], expected[::2])
    assert torch.equal(ops.kquant_join(blocks[3], "Q3_K", k, codes[3]), joined[3])
    assert ops.kquant_join(blocks[:0], "Q3_K", k, codes[:0]).shape == (0, blocks.shape[1])


def test_the_number_of_threads_changes_nothing(torch_threads: None) -> None:
    blocks = torch.from_numpy(random_blocks("Q5_K", 6000)).view(60, -1)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        codes, scales, mins = ops.kquant_split(blocks, "Q5_K", 25600)
        results.append((codes, scales, mins, ops.kquant_join(blocks, "Q5_K", 25600, codes.flip(0))))
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def good() -> dict[str, object]:
    return {
        "blocks": torch.zeros(3, 288, dtype=torch.uint8),
        "type": "Q4_K",
        "k": 512,
        "codes": torch.zeros(3, 512, dtype=torch.uint8),
    }


BAD = {
    "type": (dict(type="Q8_K"), "type must be one of Q4_0, "),
    "k": (dict(k=500), "k must be a positive multiple of 256, the elements of a block of Q4_K, got 500"),
    "blocks": (
        dict(blocks=torch.zeros(3, 287, dtype=torch.uint8)),
        "blocks must be uint8 [..., k / 256 * 144] for type=Q4_K k=512, got uint8 [3, 287]",
    ),
}
BAD_CODES = {
    "codes dtype": (dict(codes=torch.zeros(3, 512)), "codes must be uint8 [..., k], with the rows of blocks"),
    "codes shape": (dict(codes=torch.zeros(2, 512).byte()), "codes must be uint8 [..., k], with the rows of"),
}


@pytest.mark.parametrize(("change", "message"), (BAD | BAD_CODES).values(), ids=(BAD | BAD_CODES).keys())
@pytest.mark.parametrize("how", HOW)
def test_bad_arguments(change: dict[str, object], message: str, how: str) -> None:
    arguments = good() | change
    with pytest.raises(RuntimeError, match=re.escape(f"qcore.kquant_join: {message}")):
        HOW[how](ops.kquant_join)(**arguments)
    if "codes" not in change:
        del arguments["codes"]
        if how == "compiled" and "type" in change:  # without which the fake does not know the groups
            message = "the sizes of the result are unknown: there is no type Q8_K"
        with pytest.raises(RuntimeError, match=re.escape(f"qcore.kquant_split: {message}")):
            HOW[how](ops.kquant_split)(**arguments)


@pytest.mark.parametrize("type", [type for type in TYPES if len(INFO[type]["values"]) < 256])
def test_codes_that_do_not_exist(type: str) -> None:
    blocks, k = random_rows(type)
    codes = random_codes(type, k)
    codes[-1, -1] = len(INFO[type]["values"])
    message = f"qcore.kquant_join: codes must be below {codes[-1, -1]} for type={type}"
    with pytest.raises(RuntimeError, match=message):
        ops.kquant_join(blocks, type, k, codes)


@pytest.mark.parametrize("type", ["Q4_0", "Q6_K", "MXFP4"])
def test_opcheck(type: str) -> None:
    blocks, k = random_rows(type)
    torch.library.opcheck(torch.ops.qcore.kquant_split.default, (blocks, type, k))
    torch.library.opcheck(torch.ops.qcore.kquant_split.default, (blocks[:0], type, k))
    codes = random_codes(type, k)
    torch.library.opcheck(torch.ops.qcore.kquant_join.default, (blocks, type, k, codes))
    torch.library.opcheck(torch.ops.qcore.kquant_join.default, (blocks[0], type, k, codes[0]))
