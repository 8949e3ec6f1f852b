"""torch.ops.qcore.kquant_quantize: blocks that are close to what they encode, for every block format."""

from __future__ import annotations

import re

import gguf
import pytest
import torch
from gguf import quants
from torch import Tensor

from cases import DTYPES, HOW, by_name
from qcore import ops
from test_kquant import INFO, TYPES


def weights(type: str, rows: int = 6, blocks: int = 2) -> Tensor:
    k = blocks * INFO[type]["elements"]
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(0)) * 0.05


def decoded(blocks: Tensor, type: str) -> Tensor:
    k = blocks.shape[-1] // INFO[type]["bytes"] * INFO[type]["elements"]
    return ops.kquant_dequantize(blocks, type, k)


def plain(w: Tensor, codes: int) -> Tensor:
    """Symmetric rounding with one scale for each 32 weights, and as many codes."""
    groups = w.view(-1, 32)
    scale = groups.abs().amax(1, keepdim=True) / ((codes - 1) / 2)
    low = -(codes // 2)
    return ((groups / scale).round().clamp(low, low + codes - 1) * scale).view_as(w)


@pytest.mark.parametrize("type", TYPES)
def test_is_closer_than_plain_rounding(type: str) -> None:
    """What gguf itself encodes, or else as many codes with one scale for each 32 weights."""
    w = weights(type, rows=64)
    error = (decoded(ops.kquant_quantize(w, type), type) - w).square().mean()
    number = gguf.GGMLQuantizationType[type]
    try:
        other = torch.from_numpy(quants.dequantize(quants.quantize(w.numpy(), number), number))
    except NotImplementedError:
        other = plain(w, len(INFO[type]["values"]))
    assert error < (other - w).square().mean()


@pytest.mark.parametrize("type", TYPES)
def test_importance_lowers_the_error_that_it_weighs(type: str) -> None:
    w = weights(type, rows=64)
    importance = torch.rand(w.shape[1], generator=torch.Generator().manual_seed(1)) ** 4

    def error(importance_given: Tensor | None) -> Tensor:
        blocks = ops.kquant_quantize(w, type, importance_given)
        return ((decoded(blocks, type) - w).square() * importance).mean()

    assert error(importance) < error(None)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("type", ["Q4_0", "Q3_K"])
def test_dtypes_strides_and_leading_dimensions(type: str, dtype: torch.dtype) -> None:
    w = weights(type, rows=12).to(dtype)
    expected = ops.kquant_quantize(w.float(), type)
    assert torch.equal(ops.kquant_quantize(w, type), expected)
    assert torch.equal(ops.kquant_quantize(w.t().contiguous().t(), type), expected)
    assert torch.equal(ops.kquant_quantize(w.view(3, 4, -1)[::2], type), expected.view(3, 4, -1)[::2])
    assert torch.equal(ops.kquant_quantize(w[5], type), expected[5])
    assert ops.kquant_quantize(w[:0], type).shape == (0, expected.shape[1])
    importance = torch.rand(w.shape[1], 2)
    assert torch.equal(
        ops.kquant_quantize(w, type, importance[:, 0]),
        ops.kquant_quantize(w, type, importance[:, 0].contiguous()),
    )


def test_rows_and_threads_do_not_matter(torch_threads: None) -> None:
    w = weights("Q2_K", rows=40, blocks=9)
    whole = ops.kquant_quantize(w, "Q2_K")
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(ops.kquant_quantize(w, "Q2_K"), whole)
    assert torch.equal(ops.kquant_quantize(w[7:8], "Q2_K")[0], whole[7])


BAD = {
    "w dtype": (dict(w=torch.zeros(3, 512).double()), "w must be float32, float16 or bfloat16 [..., k], got"),
    "w scalar": (
        dict(w=torch.tensor(1.0)),
        "w must be float32, float16 or bfloat16 [..., k], got float32 []",
    ),
    "type": (dict(type="Q8_K"), "type must be one of Q4_0, "),
    "k": (dict(w=torch.zeros(3, 500)), "k must be a positive multiple of 256, the elements of a block of"),
    "no columns": (dict(w=torch.zeros(3, 0)), "k must be a positive multiple of 256"),
    "importance dtype": (dict(importance=torch.ones(512).half()), "importance must be float32 [512], got"),
    "importance shape": (dict(importance=torch.ones(3, 512)), "importance must be float32 [512], got"),
}


# The fake kernel refuses while tracing what leaves the sizes of the result unknown.
WORDS_OF_FAKES = {
    "w scalar": "the sizes of the result are unknown: w has no dimensions",
    "type": "the sizes of the result are unknown: there is no type Q8_K",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("how", HOW)
def test_bad_arguments(name: str, how: str) -> None:
    change, message = BAD[name]
    if how == "compiled":
        message = WORDS_OF_FAKES.get(name, message)
    arguments = {"w": torch.zeros(3, 512), "type": "Q4_K", **change}
    with pytest.raises(RuntimeError, match=re.escape(f"qcore.kquant_quantize: {message}")):
        HOW[how](ops.kquant_quantize)(**arguments)


def test_values_that_are_no_numbers() -> None:
    for bad in (float("nan"), float("inf")):
        w, importance = torch.zeros(3, 512), torch.ones(512)
        w[1, 3] = bad
        with pytest.raises(RuntimeError, match=r"qcore\.kquant_quantize: w: expected finite"):
            ops.kquant_quantize(w, "Q4_K")
        importance[4] = bad
        with pytest.raises(RuntimeError, match=r"qcore\.kquant_quantize: importance: expected finite"):
            ops.kquant_quantize(torch.zeros(3, 512), "Q4_K", importance)
    with pytest.raises(RuntimeError, match="importance: expected finite numbers from 0 on, got -1"):
        ops.kquant_quantize(torch.zeros(3, 512), "Q4_K", -torch.ones(512))


@pytest.mark.parametrize("type", ["Q4_0", "Q6_K", "MXFP4"])
def test_opcheck(type: str) -> None:
    w = weights(type)
    op = torch.ops.qcore.kquant_quantize.default
    torch.library.opcheck(op, (w, type))
    torch.library.opcheck(op, (w[:0], type, torch.ones(w.shape[1])))
