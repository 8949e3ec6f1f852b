"""torch.ops.qcore.kquant_pack, kquant_unpack and kquant_gemm: results, layouts of the arguments, errors."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from cases import DTYPES, by_name, cpu_kernels, expected_isa, make_x
from kquant_cases import INFO, TYPES, assert_product, block_weight, in_eight_bits
from qcore import _C, ops

WEIGHT = block_weight("Q4_K", 20, 2)
PACKED = WEIGHT.pack()
BLOCK_LAYOUTS = [row["number"] for row in ops.layouts() if row["format"] == "blocks"]


def gemm(x: Tensor, packed: Tensor = PACKED, **options: object) -> Tensor:
    return ops.kquant_gemm(x, packed, *WEIGHT.arguments(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", BLOCK_LAYOUTS)
@pytest.mark.parametrize("type", TYPES)
def test_round_trip_is_exact(type: str, layout: int) -> None:
    for n, blocks_per_row in ((0, 1), (1, 1), (16, 3), (33, 2)):
        size = blocks_per_row * INFO[type]["bytes"]
        blocks = torch.randint(0, 256, (n, size), dtype=torch.uint8)
        k = blocks_per_row * INFO[type]["elements"]
        packed = ops.kquant_pack(blocks, type, k, layout)
        assert packed.dim() == 1
        assert torch.equal(ops.kquant_unpack(packed, type, n, k), blocks)
        assert torch.equal(ops.kquant_pack(blocks.mT.contiguous().mT, type, k, layout), packed)


def test_sizes_of_layouts_differ() -> None:
    """So that a weight on the wrong device is an error and not a wrong product."""
    for type in TYPES:
        for n in (1, 16, 17, 64, 4096):
            sizes = [row["elements"] for row in _C.packed_blocks(type, n, 1024)]
            assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("type", TYPES)
def test_product(type: str, floats: bool, dtype: torch.dtype) -> None:
    weight = block_weight(type, 37, 3)
    packed, bias = weight.pack(), make_x(37, seed=7)
    for leading in ((), (1,), (5,), (2, 3), (40,)):
        x = make_x(*leading, weight.k, dtype=dtype)
        y = ops.kquant_gemm(x, packed, *weight.arguments(), float_activations=floats)
        assert_product(y, x, weight, floats=floats)
        y = ops.kquant_gemm(x, packed, *weight.arguments(), bias, floats)
        assert_product(y, x, weight, bias, floats)


def test_eight_bits_are_not_floats() -> None:
    x = make_x(4, WEIGHT.k)
    with pytest.raises(AssertionError, match="off by"):
        assert_product(gemm(x), x, WEIGHT, floats=True)
    error = (in_eight_bits(x, "Q4_K") - x).norm() / x.norm()
    assert 0.001 < error < 0.01


@pytest.mark.parametrize("kernel", cpu_kernels("kquant"))
@pytest.mark.parametrize("type", TYPES)
def test_every_kernel_gives_the_same_bits(type: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = block_weight(type, 50, 2, seed=3)
    x, packed = make_x(9, weight.k), weight.pack()
    expected = ops.kquant_gemm(x, packed, *weight.arguments())
    floats = ops.kquant_gemm(x, packed, *weight.arguments(), float_activations=True)
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    assert _C.explain_kquant(type, 9, 50, weight.k)[0] == kernel
    assert torch.equal(ops.kquant_gemm(x, weight.pack(), *weight.arguments()), expected)
    assert torch.equal(ops.kquant_gemm(x, packed, *weight.arguments(), float_activations=True), floats)


@pytest.mark.parametrize("isa", _C.isas())
def test_forced_isa_is_taken(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gemm(x := make_x(3, WEIGHT.k))
    monkeypatch.setenv("QCORE_FORCE_ISA", isa)
    chosen, _, _ = _C.explain_kquant("Q4_K", 3, WEIGHT.n, WEIGHT.k)
    isa_of = {row["name"]: row["isa"] for row in ops.kernels()}
    assert isa_of[chosen] == expected_isa(isa, "kquant")
    assert torch.equal(gemm(x), expected)


def test_gemm_obeys_the_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", "kquant_unheard_of")
    with pytest.raises(RuntimeError, match=r"kquant_unheard_of.*expected one of.*kquant_reference"):
        gemm(make_x(1, WEIGHT.k))
    with pytest.raises(ValueError, match="kquant_unheard_of"):
        _C.explain_kquant("Q4_K", 1, WEIGHT.n, WEIGHT.k)


def test_every_row_alone() -> None:
    x = make_x(30, WEIGHT.k)
    y = gemm(x)
    for i in range(30):
        assert torch.equal(gemm(x[i]), y[i])
    assert torch.equal(gemm(x[7:19]), y[7:19])


def test_any_strides() -> None:
    wide = make_x(6, 2 * WEIGHT.k + 3)
    for x in (
        wide[:, 1 : WEIGHT.k + 1],
        wide[::2, : WEIGHT.k],
        wide[:, : 2 * WEIGHT.k : 2],
        wide[:1, : WEIGHT.k].expand(4, -1),
        make_x(WEIGHT.k, 5).mT,
        make_x(2, 3, 2 * WEIGHT.k)[..., 5 : WEIGHT.k + 5],
    ):
        assert torch.equal(gemm(x), gemm(x.contiguous()))
    bias = make_x(2 * WEIGHT.n)
    x = make_x(3, WEIGHT.k)
    assert torch.equal(gemm(x, bias=bias[::2]), gemm(x, bias=bias[::2].contiguous()))
    doubled = torch.stack((PACKED, PACKED), 1)
    assert torch.equal(gemm(x, doubled[:, 0]), gemm(x))


@pytest.mark.parametrize("leading", [(0,), (2, 0), (0, 3)], ids=str)
def test_empty_batches(leading: tuple[int, ...]) -> None:
    assert gemm(torch.empty(*leading, WEIGHT.k)).shape == (*leading, WEIGHT.n)


def test_a_weight_without_rows() -> None:
    packed = ops.kquant_pack(torch.empty(0, 144, dtype=torch.uint8), "Q4_K", 256)
    assert ops.kquant_gemm(make_x(3, 256), packed, "Q4_K", 0, 256).shape == (3, 0)


def test_what_is_not_finite_stays_in_its_row() -> None:
    x = make_x(3, WEIGHT.k)
    x[1, 5] = torch.inf
    y = gemm(x)
    assert y[1].isnan().all()
    assert y[::2].isfinite().all()


X = make_x(2, WEIGHT.k)
GOOD = dict(x=X, packed=PACKED, type="Q4_K", n=WEIGHT.n, k=WEIGHT.k)
BAD_GEMM = {
    "x dtype": (dict(x=X.double()), r"x must be float32.* got float64 \[2, 512\]"),
    "x columns": (dict(x=X[:, :511]), r"x must have the sizes \[..., 512\], got float32 \[2, 511\]"),
    "x scalar": (dict(x=torch.tensor(1.0)), r"x must have the sizes"),
    "type": (dict(type="Q4_k"), r"type must be one of Q4_0, .*, got Q4_k"),
    "other type": (dict(type="Q5_K"), r"packed must be what kquant_pack returned for type=Q5_K n=20 k=512"),
    "n": (dict(n=36), r"packed must be .* n=36 k=512, uint8 of size \d+ \(on cpu\).*, got uint8"),
    "negative n": (dict(n=-1), r"n: expected 0 .. \d+, got -1"),
    "k": (dict(k=256), r"packed must be what kquant_pack returned for type=Q4_K n=20 k=256"),
    "k of no whole block": (dict(k=500), r"k must be a positive multiple of 256.*got 500"),
    "huge k": (dict(k=2**62), r"k: expected 1 .. \d+ and a multiple of 256.*got \d+"),
    "packed dtype": (dict(packed=PACKED.char()), r"packed must be what kquant_pack returned.*got int8"),
    "packed size": (dict(packed=PACKED[:-1]), r"packed must be what kquant_pack returned"),
    "packed rank": (dict(packed=PACKED[None]), r"packed must be what kquant_pack returned.*\[1, "),
    "bias dtype": (dict(bias=torch.zeros(20, dtype=torch.int64)), r"bias must be.* got int64"),
    "bias size": (dict(bias=torch.zeros(21)), r"bias must be.*\[20\], got float32 \[21\]"),
}


@pytest.mark.parametrize(("change", "message"), BAD_GEMM.values(), ids=BAD_GEMM)
def test_bad_gemm_arguments(change: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeError, match="qcore.kquant_gemm: " + message):
        torch.ops.qcore.kquant_gemm(**(GOOD | change))


def test_a_weight_for_another_device() -> None:
    others = [row for row in ops.layouts() if row["format"] == "blocks" and row["device"] != "cpu"]
    for layout in others:
        packed = ops.kquant_pack(WEIGHT.blocks, "Q4_K", WEIGHT.k, layout["number"])
        message = f"the weight is packed for cuda (layout {layout['name']}), x is on cpu: move it"
        with pytest.raises(RuntimeError, match=re.escape(message)):
            gemm(X, packed)


GOOD_PACK = dict(blocks=WEIGHT.blocks, type="Q4_K", k=WEIGHT.k)
BAD_PACK = {
    "dtype": (dict(blocks=WEIGHT.blocks.char()), r"blocks must be uint8 \[.*got int8"),
    "columns": (dict(blocks=WEIGHT.blocks[:, 1:]), r"blocks must be uint8 \[..., k / 256 \* 144\].*got"),
    "rank": (dict(blocks=WEIGHT.blocks[None, None]), r"blocks must have two dimensions.*\[1, 1, 20, 288\]"),
    "type": (dict(type="F16"), r"type must be one of .*, got F16"),
    "k": (dict(k=0), r"k must be a positive multiple of 256.*got 0"),
    "layout": (dict(layout=1), r"layout must be 0, for the one of cpu, or one of 3 \(block16\).*, got 1"),
}


@pytest.mark.parametrize(("change", "message"), BAD_PACK.values(), ids=BAD_PACK)
def test_bad_pack_arguments(change: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeError, match="qcore.kquant_pack: " + message):
        torch.ops.qcore.kquant_pack(**(GOOD_PACK | change))


def test_bad_unpack_arguments() -> None:
    with pytest.raises(RuntimeError, match=r"qcore\.kquant_unpack: packed must be what kquant_pack returned"):
        ops.kquant_unpack(PACKED[1:], *WEIGHT.arguments())
