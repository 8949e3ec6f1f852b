"""torch.ops.qcore.kquant_dequantize: the bits of the Python package gguf, for every block format.

The places of the scales are written here a second time, from the layout of GGUF, so that the random bytes
around them can be combined with chosen scales.
"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from numpy.typing import NDArray
from torch import Tensor

from cases import DTYPES, HOW, by_name
from qcore import _C, ops

# Offsets in a block of its half-precision scales and minima.
HALVES: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "MXFP4": (),
}
TYPES = tuple(HALVES)
INFO = {block["name"]: block for block in ops.block_formats()}
FINITE_HALVES = np.array([bits for bits in range(2**16) if bits & 0x7C00 != 0x7C00], dtype=np.uint16)
# Zero, the least and greatest subnormal, the least normal, one, the greatest; then the negative ones.
EDGES = np.array([s | m for s in (0, 0x8000) for m in (0, 1, 0x3FF, 0x400, 0x3C00, 0x7BFF)], dtype=np.uint16)

Blocks = NDArray[np.uint8]


def put_halves(blocks: Blocks, type: str, halves: NDArray[np.uint16]) -> Blocks:
    """Block i gets halves[i, j] as its half number j."""
    for j, offset in enumerate(HALVES[type]):
        blocks[:, offset : offset + 2] = halves[:, j : j + 1].astype("<u2").view(np.uint8)
    return blocks


def random_blocks(type: str, count: int, seed: int = 0) -> Blocks:
    """[count, bytes], with finite halves."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (count, INFO[type]["bytes"]), dtype=np.uint8)
    return put_halves(blocks, type, random.choice(FINITE_HALVES, (count, 2)))


def expected(type: str, blocks: Blocks) -> Tensor:
    """What gguf says: float32 [..., elements]."""
    with np.errstate(all="ignore"):  # the greatest scales of MXFP4 overflow
        return torch.from_numpy(quants.dequantize(blocks, gguf.GGMLQuantizationType[type]))


def dequantize(type: str, blocks: Blocks, dtype: torch.dtype = torch.float32) -> Tensor:
    k = blocks.shape[-1] // INFO[type]["bytes"] * INFO[type]["elements"]
    return ops.kquant_dequantize(torch.from_numpy(blocks), type, k, dtype)


def assert_same_bits(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype
    integers = torch.int32 if ours.dtype == torch.float32 else torch.int16
    torch.testing.assert_close(ours.view(integers), theirs.view(integers), rtol=0, atol=0)


# -- the table -------------------------------------------------------------------------------------


def test_table_agrees_with_gguf() -> None:
    assert set(INFO) == set(TYPES)
    for name, block in INFO.items():
        number = gguf.GGMLQuantizationType[name]
        assert (block["ggml_type"], (block["elements"], block["bytes"])) == (
            number.value,
            gguf.GGML_QUANT_SIZES[number],
        )
    assert set(INFO) <= {row["name"] for row in _C.formats()}


# -- the bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", TYPES)
def test_random_blocks(type: str) -> None:
    blocks = random_blocks(type, 2000)
    assert_same_bits(dequantize(type, blocks), expected(type, blocks))


@pytest.mark.parametrize("type", TYPES)
def test_every_value_of_every_byte(type: str) -> None:
    """In 256 blocks each byte takes all its values, in an order of its own."""
    random = np.random.default_rng(1)
    shape = (INFO[type]["bytes"], 256)
    values = np.broadcast_to(np.arange(256, dtype=np.uint8), shape)
    blocks = np.ascontiguousarray(random.permuted(values, axis=1).T)
    put_halves(blocks, type, random.choice(FINITE_HALVES, (256, 2)))
    assert_same_bits(dequantize(type, blocks), expected(type, blocks))


@pytest.mark.parametrize("type", [type for type in TYPES if HALVES[type]])
def test_scales_at_the_edges(type: str) -> None:
    pairs = np.stack([half.ravel() for half in np.meshgrid(EDGES, EDGES)], axis=1)
    for seed in range(4):
        blocks = put_halves(random_blocks(type, len(pairs), seed), type, pairs)
        assert_same_bits(dequantize(type, blocks), expected(type, blocks))


@pytest.mark.parametrize("type", ["Q8_0", "Q4_1"])
def test_every_finite_scale(type: str) -> None:
    halves = np.stack([FINITE_HALVES, FINITE_HALVES[::-1]], axis=1)
    blocks = put_halves(random_blocks(type, len(halves)), type, halves)
    assert_same_bits(dequantize(type, blocks), expected(type, blocks))


@pytest.mark.parametrize("type", TYPES)
def test_scales_that_are_not_finite(type: str) -> None:
    """The same elements are infinite or not a number; which NaN it is, nobody promises."""
    halves = np.array([[0x7C00, 0x3C00], [0xFC00, 0x7C00], [0x7E00, 0], [0x3C00, 0xFE01]], dtype=np.uint16)
    blocks = put_halves(random_blocks(type, 4), type, halves)
    torch.testing.assert_close(
        dequantize(type, blocks), expected(type, blocks), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=by_name)
@pytest.mark.parametrize("type", TYPES)
def test_narrow_outputs_round_to_nearest_even(type: str, dtype: torch.dtype) -> None:
    blocks = random_blocks(type, 2000)
    assert_same_bits(dequantize(type, blocks, dtype), expected(type, blocks).to(dtype))


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3), (2, 1, 2)], ids=str)
@pytest.mark.parametrize("type", ["Q4_0", "Q6_K", "MXFP4"])
def test_leading_dimensions(type: str, leading: tuple[int, ...]) -> None:
    rows = int(np.prod(leading))
    blocks = random_blocks(type, rows * 5).reshape(*leading, -1)
    ours = dequantize(type, blocks)
    assert ours.shape == (*leading, 5 * INFO[type]["elements"])
    assert_same_bits(ours, expected(type, blocks))


@pytest.mark.parametrize("type", ["Q4_0", "Q6_K", "MXFP4"])
def test_any_strides(type: str) -> None:
    elements, size = INFO[type]["elements"], INFO[type]["bytes"]
    dense = torch.from_numpy(random_blocks(type, 12).reshape(6, -1))
    theirs = expected(type, dense.numpy())
    wide = torch.zeros(6, 2 * size + 1, dtype=torch.uint8)
    wide[:, 1:] = dense
    views = {
        "columns": (wide[:, 1:], theirs),
        "transposed": (dense.t().contiguous().t(), theirs),
        "every other row": (dense[::2], theirs[::2]),
        "second block": (dense[:, size:], theirs[:, elements:]),
        "one row for all": (dense[:1].expand(4, -1), theirs[:1].expand(4, -1)),
    }
    for name, (view, values) in views.items():
        ours = ops.kquant_dequantize(view, type, values.shape[-1])
        assert ours.is_contiguous(), name
        assert_same_bits(ours, values)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_no_rows(dtype: torch.dtype) -> None:
    for leading in ((0,), (2, 0), (0, 3)):
        values = ops.kquant_dequantize(torch.empty(*leading, 288, dtype=torch.uint8), "Q4_K", 512, dtype)
        assert (values.shape, values.dtype) == ((*leading, 512), dtype)


# -- errors ----------------------------------------------------------------------------------------

GOOD = dict(blocks=torch.zeros(3, 288, dtype=torch.uint8), type="Q4_K", k=512, dtype=torch.float32)
BAD = {
    "blocks dtype": (dict(blocks=torch.zeros(3, 288)), r"blocks must be uint8 \[.*got float32 \[3, 288\]"),
    "blocks int8": (dict(blocks=torch.zeros(3, 288, dtype=torch.int8)), r"blocks must be .*, got int8"),
    "blocks size": (
        dict(blocks=torch.zeros(3, 287, dtype=torch.uint8)),
        r"blocks must be uint8 \[\.\.\., k / 256 \* 144\] for type=Q4_K k=512, got uint8 \[3, 287\]",
    ),
    "blocks scalar": (dict(blocks=torch.tensor(1, dtype=torch.uint8)), r"blocks must be .* got uint8 \[\]"),
    "blocks empty": (dict(blocks=torch.zeros(3, 0, dtype=torch.uint8)), r"blocks must .* got uint8 \[3, 0\]"),
    "type": (dict(type="Q8_K"), r"type must be one of Q4_0, .*, MXFP4, got Q8_K"),
    "type in lower case": (dict(type="q4_k"), r"type must be one of .*, got q4_k"),
    "type of another size": (dict(type="Q5_K"), r"blocks must be .* for type=Q5_K k=512, got"),
    "k 0": (dict(k=0), r"k must be a positive multiple of 256, the elements of a block of Q4_K, got 0"),
    "k negative": (dict(k=-512), r"k must be a positive multiple of 256.*, got -512"),
    "k part of a block": (dict(k=500), r"k must be a positive multiple of 256.*, got 500"),
    "k of another size": (dict(k=256), r"blocks must be .* k=256, got uint8 \[3, 288\]"),
    "k beyond memory": (dict(k=2**62), r"blocks must be .* k=4611686018427387904, got"),
    "dtype": (dict(dtype=torch.float64), r"dtype must be float32, float16 or bfloat16, got float64"),
    "dtype of integers": (dict(dtype=torch.uint8), r"dtype must be float32.*, got uint8"),
}


# No tensor has such sizes, which the fake kernel finds out while tracing.
WORDS_OF_FAKES = {"k negative": "negative dimension -512", "k beyond memory": "overflow"}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("how", HOW)
def test_bad_arguments(name: str, how: str) -> None:
    change, message = BAD[name]
    message = r"qcore.kquant_dequantize: " + message
    if how == "compiled":
        message = WORDS_OF_FAKES.get(name, message)
    with pytest.raises(RuntimeError, match=message):
        HOW[how](ops.kquant_dequantize)(**(GOOD | change))


# -- torch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("type", TYPES)
def test_opcheck(type: str, dtype: torch.dtype) -> None:
    blocks = torch.from_numpy(random_blocks(type, 6).reshape(3, -1))
    op = torch.ops.qcore.kquant_dequantize.default
    torch.library.opcheck(op, (blocks, type, 2 * INFO[type]["elements"], dtype))


def test_opcheck_without_rows_and_with_strides() -> None:
    op = torch.ops.qcore.kquant_dequantize.default
    blocks = torch.from_numpy(random_blocks("Q5_1", 6).reshape(3, -1))
    torch.library.opcheck(op, (blocks[:0], "Q5_1", 64, torch.float32))
    torch.library.opcheck(op, (blocks[::2, 24:], "Q5_1", 32, torch.float16))
    torch.library.opcheck(op, (blocks[0], "Q5_1", 64, torch.float32))


def test_compiles_as_one_graph() -> None:
    def product(x: Tensor, blocks: Tensor) -> Tensor:
        return x @ ops.kquant_dequantize(blocks, "Q4_K", 512, x.dtype).t()

    blocks = torch.from_numpy(random_blocks("Q4_K", 8).reshape(4, -1))
    blocks.view(4, 2, 144)[:, :, :4] = 1  # small scales
    x = torch.randn(3, 512, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, blocks), product(x, blocks), rtol=0, atol=0)
    dynamic = torch.compile(product, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(dynamic(x[:2], blocks[:3]), product(x[:2], blocks[:3]), rtol=0, atol=0)


def test_the_number_of_threads_changes_nothing(torch_threads: None) -> None:
    blocks = random_blocks("Q3_K", 4000)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert_same_bits(dequantize("Q3_K", blocks), expected("Q3_K", blocks))
