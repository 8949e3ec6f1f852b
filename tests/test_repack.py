"""qcore.repack: foreign checkpoint layers, against writers made from the formats' descriptions in numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import INT_GROUP_LAYOUTS, assert_gemm, make_x
from foreign_layers import Layer, awq_words, bit_stream, gptq, make_layer, tensor, whole_codes
from qcore import ops, repack

BITS = (2, 3, 4, 8)


def check(layer: Layer, packed: ops.PackedW4A16, perm: Tensor | None, symmetric: bool) -> None:
    """The packed weight, its columns put back, is the layer's, exactly; and it multiplies like it."""
    codes, scales, zeros = ops.w4a16_unpack(packed)
    k = layer.codes.shape[1]
    moved = np.arange(k) if perm is None else perm.numpy()
    assert sorted(moved) == list(range(k))
    assert np.array_equal(codes.numpy(), layer.codes[:, moved])
    assert np.array_equal(layer.g_idx[moved], np.arange(k) // layer.group_size)
    assert (perm is None) == np.array_equal(layer.g_idx, np.arange(k) // layer.group_size)
    assert np.array_equal(scales.numpy(), layer.scales)
    assert (zeros is None) == symmetric
    assert zeros is None or np.array_equal(zeros.numpy(), layer.zeros)
    assert packed.shape.shape[6] == (not symmetric)
    x = make_x(3, k)
    assert_gemm(ops.w4a16_gemm(x, *packed, perm=perm), x, torch.from_numpy(layer.dense))


# The last shape: sizes that the writers of these checkpoints avoid but their layout allows.
SHAPES = ((64, 256, 64), (32, 160, 128), (96, 96, 96), (24, 100, 32), (13, 77, 20))


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gptq(shape: tuple[int, int, int], bits: int, version: str) -> None:
    for symmetric, act_order in itertools.product((False, True), repeat=2):
        layer = make_layer(*shape, bits, symmetric, act_order)
        arguments = dict(bits=bits, group_size=shape[2], checkpoint_format=version)
        tensors = gptq(layer, bits, version)
        check(layer, *repack.from_gptq(**tensors, **arguments), symmetric)
        check(layer, *repack.from_gptq(**tensors, **arguments, symmetric=symmetric), symmetric)
        if symmetric:
            check(layer, *repack.from_gptq(**(tensors | {"qzeros": None}), **arguments, symmetric=True), True)
            check(layer, *repack.from_gptq(**tensors, **arguments, symmetric=False), False)
        if not act_order:
            known = {} if shape[1] % 32 == 0 else {"k": shape[1]}
            check(layer, *repack.from_gptq(**(tensors | {"g_idx": None}), **arguments, **known), symmetric)


def test_gptq_one_group_per_row() -> None:
    layer = make_layer(32, 96, 96, 4)
    packed, perm = repack.from_gptq(**gptq(layer, 4, "gptq"), bits=4, group_size=-1)
    check(layer, packed, perm, symmetric=False)


@pytest.mark.parametrize("bits", BITS)
def test_gptq_zero_points_of_zero_borrow_from_their_neighbours(bits: int) -> None:
    layer = make_layer(64, 64, 32, bits)
    largest = 2**bits - 1
    for first, second in ((0, 0), (0, 1), (0, largest), (largest, 0), (1, 0)):
        layer.zeros[::2], layer.zeros[1::2] = first, second
        tensors = gptq(layer, bits, "gptq")
        check(layer, *repack.from_gptq(**tensors, bits=bits, group_size=32), symmetric=False)


@pytest.mark.parametrize(("n", "bits"), [(64, 3), (45, 3), (13, 3)])
def test_gptq_3_bit_words_of_old_writers(n: int, bits: int) -> None:
    """GPTQModel before 7.0 subtracted these constants, of which the outer two are swapped."""
    layer = make_layer(n, 64, 32, bits, symmetric=True)
    words = bit_stream(layer.zeros.T, bits).view(np.uint32).astype(np.int64)
    constants = (
        0b00100100100100100100100100100100,
        0b10010010010010010010010010010010,
        0b01001001001001001001001001001001,
    )
    for i, constant in enumerate(constants):
        words[:, i::3] -= constant
    stored = {"qzeros": tensor((words % 2**32).astype(np.uint32).view(np.int32))}
    tensors = gptq(layer, bits, "gptq")
    assert not torch.equal(stored["qzeros"], tensors["qzeros"])
    for symmetric in (None, True):
        packed, perm = repack.from_gptq(**(tensors | stored), bits=bits, group_size=32, symmetric=symmetric)
        check(layer, packed, perm, symmetric=True)


@pytest.mark.parametrize(("version", "word"), [("gptq", 0x77777777), ("gptq_v2", -0x77777778)])
def test_gptq_zero_points_of_symmetric_layers(version: str, word: int) -> None:
    """The words that the description of the format gives."""
    qzeros = torch.full((2, 4), word, dtype=torch.int32)
    qweight, scales = torch.zeros(8, 32, dtype=torch.int32), torch.ones(2, 32)
    packed, _ = repack.from_gptq(
        qweight, qzeros, scales, bits=4, group_size=32, checkpoint_format=version, symmetric=True
    )
    assert ops.w4a16_unpack(packed)[2] is None


@pytest.mark.parametrize(("written", "said"), [("gptq", "gptq_v2"), ("gptq_v2", "gptq")])
@pytest.mark.parametrize("bits", BITS)
def test_gptq_of_the_other_version_says_so(bits: int, written: str, said: str) -> None:
    tensors = gptq(make_layer(64, 64, 32, bits, symmetric=True), bits, written)
    options = dict(bits=bits, group_size=32, checkpoint_format=said)
    with pytest.raises(ValueError, match=r"is symmetric, got \d+: is checkpoint_format right\?$"):
        repack.from_gptq(**tensors, **options, symmetric=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(64, 256, 64), (8, 33, 33), (40, 100, 32)], ids=str)
def test_awq(shape: tuple[int, int, int], symmetric: bool) -> None:
    layer = make_layer(*shape, 4, symmetric)
    packed, perm = repack.from_awq(
        tensor(awq_words(layer.codes.T)),
        tensor(awq_words(layer.zeros.T)),
        tensor(layer.scales.T),
        group_size=shape[2],
    )
    check(layer, packed, perm, symmetric)


@pytest.mark.parametrize("words", [bit_stream, whole_codes])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compressed_tensors(shape: tuple[int, int, int], bits: int, words: object) -> None:
    assert callable(words)
    if bits == 3 and shape[1] % 32:
        words = bit_stream  # either way may take as many words
    for symmetric, act_order in itertools.product((False, True), repeat=2):
        layer = make_layer(*shape, bits, symmetric, act_order)
        packed, perm = repack.from_compressed_tensors(
            tensor(words(layer.codes, bits)),
            tensor(layer.scales),
            None if symmetric else tensor(words(layer.zeros.T, bits).T),
            torch.tensor(shape[:2]),
            tensor(layer.g_idx) if act_order else torch.full(shape[1:2], -1),
            bits=bits,
            group_size=shape[2],
        )
        check(layer, packed, perm, symmetric)


@pytest.mark.parametrize("bits", BITS)
def test_compressed_tensors_own_packer(bits: int) -> None:
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    layer = make_layer(40, 192, 64, bits)
    signed = [tensor((t.astype(int) - 2 ** (bits - 1)).astype(np.int8)) for t in (layer.codes, layer.zeros)]
    packed, perm = repack.from_compressed_tensors(
        helpers.pack_to_int32(signed[0], bits),
        tensor(layer.scales),
        helpers.pack_to_int32(signed[1], bits, packed_dim=0),
        (40, 192),
        bits=bits,
        group_size=64,
    )
    check(layer, packed, perm, symmetric=False)


@pytest.mark.parametrize("layout", INT_GROUP_LAYOUTS)
@pytest.mark.parametrize("bits", BITS)
def test_every_layout_gets_the_bytes_of_pack(bits: int, layout: int) -> None:
    layer = make_layer(40, 200, 64, bits)
    scales, zeros = tensor(layer.scales), tensor(layer.zeros)
    perm = torch.from_numpy(np.random.default_rng(1).permutation(200))
    sources = {
        "gptq": bit_stream(layer.codes, bits).T,
        "compressed_tensors": bit_stream(layer.codes, bits),
        "awq": awq_words(layer.codes.T),
    }
    for order, words in sources.items():
        if order == "awq" and bits != 4:
            continue
        for index in (None, perm, perm.int()):
            codes = tensor(layer.codes) if index is None else tensor(layer.codes)[:, index.long()]
            expected = ops.w4a16_pack(codes, scales, zeros, 64, bits, layout)
            got = ops.w4a16_repack(
                tensor(words), scales.t().contiguous().t(), zeros, order, 40, 200, 64, bits, index, layout
            )
            for a, b in zip(got, expected, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                assert torch.equal(a, b)


# -- errors ----------------------------------------------------------------------------------------

GPTQ = gptq(make_layer(32, 96, 32, 4, act_order=True), 4, "gptq")
UNEVEN = torch.tensor([0] * 31 + [1] * 33 + [2] * 32)
BAD_GPTQ: dict[str, tuple[dict[str, object], str]] = {
    "qweight": (dict(qweight=GPTQ["qweight"].long()), r"qweight: expected int32 \[any, any\], got int64"),
    "qzeros": (dict(qzeros=GPTQ["qzeros"][1:]), r"qzeros: expected int32 \[3, 4\], got int32 \[2, 4\]"),
    "no qzeros": (dict(qzeros=None), r"qzeros: missing, and the weight is not said to be symmetric"),
    "scales": (dict(scales=GPTQ["scales"].t()), r"scales: expected .* \[3, 32\], got float16 \[32, 3\]"),
    "g_idx": (dict(g_idx=GPTQ["g_idx"][None]), r"g_idx: expected \[96\], got int32 \[1, 96\]"),
    "g_idx uneven": (
        dict(g_idx=UNEVEN),
        r"g_idx: expected 32 columns .*; .* column 31 is of group 1 instead",
    ),
    "g_idx range": (
        dict(g_idx=GPTQ["g_idx"] + 1),
        r"g_idx: expected 32 .* column 0 is of group 1 instead of 0",
    ),
    "bits": (dict(bits=5), r"bits: expected 2, 3, 4 or 8, got 5"),
    "group_size": (dict(group_size=97), r"group_size: expected -1 or 1 .. K \(96\), got 97"),
    "format": (
        dict(checkpoint_format="marlin"),
        r"checkpoint_format: expected gptq or gptq_v2, got 'marlin'",
    ),
    "symmetric": (
        dict(symmetric=True),
        r"qzeros: expected only 8, because the weight is symmetric, got \d+$",
    ),
    "too few words": (
        dict(qweight=GPTQ["qweight"][1:]),
        r"qweight: expected int32 \[12, 32\], got int32 \[11, 32\]",
    ),
    "k": (dict(k=64, g_idx=None), r"qweight: expected int32 \[8, 32\], got int32 \[12, 32\]"),
    "k and g_idx": (dict(k=95), r"g_idx: expected \[95\], got int32 \[96\]"),
    "no columns": (dict(k=0), r"expected a weight of at least one column, got K = 0"),
    "float64": (
        dict(scales=GPTQ["scales"].double()),
        r"scales: expected float32 or float16 or bfloat16 \[3, 32\], got float64 \[3, 32\]",
    ),
    "device": (dict(scales=GPTQ["scales"].to("meta")), r"scales: expected on cpu like qweight, got meta"),
}


@pytest.mark.parametrize(("change", "message"), BAD_GPTQ.values(), ids=BAD_GPTQ)
def test_bad_gptq(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        repack.from_gptq(**(GPTQ | dict(bits=4, group_size=32) | change))  # type: ignore[arg-type]


def test_bad_awq_and_compressed_tensors() -> None:
    qweight, scales = torch.zeros(64, 4, dtype=torch.int32), torch.ones(2, 32)
    with pytest.raises(ValueError, match=r"qzeros: expected int32 \[2, 4\], got int32 \[1, 4\]"):
        repack.from_awq(qweight, qweight[:1], scales, group_size=32)
    with pytest.raises(ValueError, match=r"scales: expected .* \[2, 32\], got float32 \[1, 32\]"):
        repack.from_awq(qweight, None, scales[:1], group_size=32)
    with pytest.raises(ValueError, match=r"scales: expected .* \[2, 32\], got float64 \[2, 32\]"):
        repack.from_awq(qweight, None, scales.double(), group_size=32)
    words = torch.zeros(32, 8, dtype=torch.int32)
    shape = dict(weight_shape=(32, 64), bits=4, group_size=32)
    with pytest.raises(ValueError, match=r"weight_packed: expected int32 \[32, any\], got int32 \[31, 8\]"):
        repack.from_compressed_tensors(words[1:], scales.t(), None, **shape)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight_packed: expected int32 \[32, 8\], got int32 \[32, 7\]"):
        repack.from_compressed_tensors(words[:, 1:], scales.t(), None, **shape)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight_scale: expected .* \[32, 2\], got float64 \[32, 2\]"):
        repack.from_compressed_tensors(words, scales.t().double(), None, **shape)  # type: ignore[arg-type]
    unpacked = torch.zeros(32, 2, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"weight_zero_point: expected int32 \[any, 2\], got int8 \[32, 2\]"):
        repack.from_compressed_tensors(words, scales.t(), unpacked, **shape)  # type: ignore[arg-type]
    zeros = torch.zeros(3, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"weight_zero_point: expected 4 words for 32 codes .* got 3"):
        repack.from_compressed_tensors(words, scales.t(), zeros, **shape)  # type: ignore[arg-type]
