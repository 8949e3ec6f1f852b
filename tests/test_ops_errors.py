"""Wrong arguments: the message names the argument, what was expected and what came."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import WeightCase, make_weight, make_x, under_compile
from qcore import ops

WEIGHT = make_weight(WeightCase(48, 300, 64, asymmetric=True))
PACKED = WEIGHT.pack()
X = make_x(2, 300)
BAD_GEMM = {
    "x dtype": (dict(x=X.double()), r"x must be float32.* got float64 \[2, 300\]"),
    "x integers": (dict(x=torch.zeros(2, 300, dtype=torch.int32)), r"x must be.* got int32"),
    "x columns": (dict(x=X[:, :299]), r"x must have the sizes \[\.\.\., 300\].*\[2, 299\]"),
    "x scalar": (dict(x=torch.tensor(1.0)), r"x must have the sizes.* got float32 \[\]"),
    "qweight dtype": (dict(qweight=PACKED.qweight.char()), r"qweight must be uint8.* got int8"),
    "qweight size": (dict(qweight=PACKED.qweight[1:]), r"qweight must have \d+ elements for n=48"),
    "scales dtype": (dict(scales=PACKED.scales.double()), r"scales must be float32.* got float64"),
    "scales size": (dict(scales=PACKED.scales[1:]), r"scales must have \d+ elements"),
    "zeros dtype": (dict(zeros=PACKED.zeros.int()), r"zeros must be uint8.* got int32"),
    "zeros size": (dict(zeros=PACKED.zeros[1:]), r"zeros must have \d+ elements"),
    "shape rank": (dict(shape=torch.empty(0, 1, dtype=torch.uint8)), r"shape must be the descrip"),
    "shape dtype": (dict(shape=PACKED.shape.float()), r"shape must be the descriptor.* float32"),
    "shape layout": (
        dict(shape=torch.empty(0, 99, 48, 300, 64, 4, 1, dtype=torch.uint8)),
        r"shape names layout 99, expected one of 1 \(panel16\), 2 \(fragment16\)",
    ),
    "shape layout of another device": (
        ops.w4a16_pack(WEIGHT.codes, WEIGHT.scales, WEIGHT.zeros, 64, layout=2)._asdict(),
        r"the weight is packed for cuda \(layout fragment16\), x is on cpu: move it with QLinear.to or "
        r"pack it again on cpu",
    ),
    "shape bits": (
        dict(shape=torch.empty(0, 1, 48, 300, 64, 5, 1, dtype=torch.uint8)),
        r"bits: expected 2, 3, 4 or 8, got 5",
    ),
    "shape larger than the buffers": (
        dict(shape=torch.empty(0, 1, 4800, 300, 64, 4, 1, dtype=torch.uint8)),
        r"qweight must have \d+ elements for n=4800",
    ),
    "shape codes": (
        dict(shape=torch.empty(0, 1, 48, 300, 64, 4, 4, dtype=torch.uint8)),
        r"shape must be the descriptor",
    ),
    "zeros lost": (
        dict(zeros=torch.empty(0, dtype=torch.uint8)),
        r"zeros must have \d+ elements for n=48.* asymmetric, got uint8 \[0\]",
    ),
    "zeros of a symmetric weight": (
        dict(shape=torch.empty(0, 1, 48, 300, 64, 4, 0, dtype=torch.uint8)),
        r"zeros must have 0 elements for n=48.* symmetric, got uint8",
    ),
    "perm dtype": (dict(perm=torch.zeros(300)), r"perm must be int32 or int64, got float32"),
    "perm size": (dict(perm=torch.arange(299)), r"perm must have the sizes \[300\]"),
    "perm range": (dict(perm=torch.arange(1, 301)), r"perm.*expected.* got 300"),
    "perm negative": (dict(perm=torch.arange(-1, 299).int()), r"perm.*expected.* got -1"),
    "perm beyond int32": (dict(perm=torch.arange(300) + 2**32), r"perm.*expected.* got 4294967296"),
    "bias dtype": (dict(bias=torch.zeros(48, dtype=torch.int64)), r"bias must be.* got int64"),
    "bias size": (dict(bias=torch.zeros(47)), r"bias must be.*\[48\], got float32 \[47\]"),
}


@pytest.mark.parametrize(("change", "message"), BAD_GEMM.values(), ids=BAD_GEMM)
def test_bad_gemm_arguments(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=r"qcore.w4a16_gemm: " + message):
        torch.ops.qcore.w4a16_gemm(**({"x": X} | PACKED._asdict() | change))


GOOD_PACK = dict(codes=WEIGHT.codes, scales=WEIGHT.scales, zeros=WEIGHT.zeros, group_size=64)
BAD_PACK = {
    "codes dtype": (
        dict(codes=WEIGHT.codes.int()),
        r"codes must be uint8, float8_e4m3fn or float8_e5m2 \[N, K\], got int32",
    ),
    "codes rank": (
        dict(codes=WEIGHT.codes[0]),
        r"codes must be uint8, float8_e4m3fn or float8_e5m2 \[N, K\], got uint8 \[300\]",
    ),
    "codes empty": (dict(codes=WEIGHT.codes[:, :0]), r"k: expected 1 \.\."),
    "scales dtype": (dict(scales=WEIGHT.scales.double()), r"scales must be float32.*got float64"),
    "scales shape": (
        dict(scales=WEIGHT.scales[:, 1:]),
        r"scales must have the sizes \[48, 5\].*4\]",
    ),
    "zeros dtype": (
        dict(zeros=WEIGHT.codes[:, :5].int()),
        r"zeros must be uint8 \[48, 5\], got int",
    ),
    "zeros shape": (dict(zeros=WEIGHT.codes[:, :4]), r"zeros must be uint8 \[48, 5\], got.*48, 4"),
    "group_size 0": (dict(group_size=0), r"group_size: expected 1 .. k \(300\), got 0"),
    "group_size -2": (dict(group_size=-2), r"group_size: expected"),
    "group_size above k": (dict(group_size=301), r"group_size: expected.* got 301"),
    "bits": (dict(bits=6), r"bits: expected 2, 3, 4 or 8, got 6"),
    "layout": (dict(layout=3), r"layout must be 0 or one of 1 \(panel16\), 2 \(fragment16\), got 3"),
    "layout negative": (dict(layout=-1), r"layout must be 0 or one of.* got -1"),
}


@pytest.mark.parametrize(("change", "message"), BAD_PACK.values(), ids=BAD_PACK)
def test_bad_pack_arguments(change: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeError, match=r"qcore.w4a16_pack: " + message):
        ops.w4a16_pack(**(GOOD_PACK | change))  # type: ignore[arg-type]


# Fake kernels take wrong arguments as they come: the core refuses them when the compiled graph runs. What
# leaves the sizes of a result unknown is refused while tracing, in the words of the fake or of what it asks.
WORDS_OF_FAKES = {
    "shape rank": r"the sizes of the result are unknown: shape is \[0, 1\]",
    "codes rank": r"the sizes of the result are unknown: codes have the sizes \[300\]",
    "scales dtype": r"dtype must be float32, float16 or bfloat16, got float64",
}


@pytest.mark.parametrize("name", BAD_GEMM)
def test_bad_gemm_arguments_under_compile(name: str) -> None:
    change, message = BAD_GEMM[name]
    message = WORDS_OF_FAKES[name] if name == "shape rank" else message
    with pytest.raises(RuntimeError, match=r"qcore.w4a16_gemm: " + message):
        under_compile(torch.ops.qcore.w4a16_gemm)(**({"x": X} | PACKED._asdict() | change))


@pytest.mark.parametrize("name", BAD_PACK)
def test_bad_pack_arguments_under_compile(name: str) -> None:
    change, message = BAD_PACK[name]
    with pytest.raises(RuntimeError, match=WORDS_OF_FAKES.get(name, message)):
        under_compile(ops.w4a16_pack)(**(GOOD_PACK | change))  # type: ignore[arg-type]


WORDS = torch.zeros(48, 38, dtype=torch.int32)
GOOD_REPACK = dict(
    **dict(qweight=WORDS, scales=WEIGHT.scales, zeros=WEIGHT.zeros, order="compressed_tensors"),
    **dict(n=48, k=300, group_size=64, perm=torch.arange(300)),
)
BAD_REPACK = {
    "qweight dtype": (dict(qweight=WORDS.long()), r"qweight must be int32 \[48, 38\].*, got int64"),
    "qweight shape": (
        dict(qweight=WORDS[:, 1:]),
        r"qweight must be int32 \[48, 38\].*, got int32 \[48, 37\]",
    ),
    "qweight order": (dict(order="gptq"), r"qweight must be int32 \[38, 48\].*, got int32 \[48, 38\]"),
    "qweight awq": (dict(order="awq"), r"qweight must be int32 \[300, 6\].*, got int32 \[48, 38\]"),
    "order": (dict(order="marlin"), r"order must be .*gptq.* got marlin"),
    "scales shape": (dict(scales=WEIGHT.scales.t()), r"scales must .* got float32 \[5, 48\]"),
    "scales dtype": (dict(scales=WEIGHT.scales.double()), r"scales must be float32.* got float64"),
    "zeros dtype": (dict(zeros=WEIGHT.scales.int()), r"zeros must be uint8 \[48, 5\], got int32"),
    "perm dtype": (dict(perm=torch.zeros(300)), r"perm must be int32 or int64.*, got float32"),
    "perm size": (dict(perm=torch.arange(299)), r"perm must .*\[300\].*, got int64 \[299\]"),
    "group_size": (dict(group_size=0), r"group_size: expected"),
    "layout": (dict(layout=3), r"layout must be 0 or one of"),
}
DATA_OF_REPACK = {
    "n": (dict(n=-1), r"n: expected 0 .. "),
    "perm range": (dict(perm=torch.arange(1, 301)), r"perm\[299\]: expected 0 .. 299, got 300"),
    "perm range of int32": (dict(perm=torch.arange(1, 301).int()), r"perm: expected .* got 300 at 299"),
    "zeros range": (dict(zeros=torch.full((48, 5), 16, dtype=torch.uint8)), r"zeros: expected .*below 16"),
    "n of awq": (
        dict(order="awq", n=44, scales=WEIGHT.scales[:44], zeros=None),
        r"n: expected a multiple of 8 .*AWQ, got 44",
    ),
    "bits of awq": (dict(order="awq", bits=8), r"bits: expected 4.* AWQ .*, got 8"),
}


@pytest.mark.parametrize(
    ("change", "message"), (BAD_REPACK | DATA_OF_REPACK).values(), ids=BAD_REPACK | DATA_OF_REPACK
)
def test_bad_repack_arguments(change: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeError, match=r"qcore.w4a16_repack: " + message):
        ops.w4a16_repack(**(GOOD_REPACK | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BAD_REPACK)
def test_bad_repack_arguments_under_compile(name: str) -> None:
    change, message = BAD_REPACK[name]
    with pytest.raises(RuntimeError, match=WORDS_OF_FAKES.get(name, message)):
        under_compile(ops.w4a16_repack)(**(GOOD_REPACK | change))  # type: ignore[arg-type]


def test_bad_unpack_arguments() -> None:
    with pytest.raises(RuntimeError, match=r"qcore.w4a16_unpack: zeros must have \d+ elements"):
        ops.w4a16_unpack(PACKED._replace(zeros=PACKED.zeros[:0]))
    with pytest.raises(RuntimeError, match=r"qcore.w4a16_unpack: qweight must have"):
        ops.w4a16_unpack(PACKED._replace(qweight=PACKED.qweight[:-1]))
