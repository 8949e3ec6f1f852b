"""torch.ops.qcore.w4a16_*: results, layouts of the arguments, choice of the kernel."""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import (
    DTYPES,
    INT_GROUP_LAYOUTS,
    ISAS,
    WEIGHT_CASES,
    WeightCase,
    assert_gemm,
    by_name,
    cpu_kernels,
    expected_isa,
    make_weight,
    make_x,
)
from qcore import _C, ops

WEIGHT = make_weight(WeightCase(48, 300, 64, asymmetric=True))
PACKED = WEIGHT.pack()


@pytest.mark.parametrize("case", WEIGHT_CASES, ids=str)
def test_round_trip_is_exact(case: WeightCase) -> None:
    weight = make_weight(case)
    codes, scales, zeros = ops.w4a16_unpack(weight.pack())
    assert torch.equal(codes, weight.codes)
    assert torch.equal(scales, weight.scales)
    assert scales.dtype == case.scale_dtype
    assert (zeros is None) == (weight.zeros is None)
    if zeros is not None and weight.zeros is not None:
        assert torch.equal(zeros, weight.zeros)


@pytest.mark.parametrize("layout", INT_GROUP_LAYOUTS)
@pytest.mark.parametrize("case", WEIGHT_CASES, ids=str)
def test_round_trip_of_every_layout(case: WeightCase, layout: int) -> None:
    """In host memory, whatever device the layout is for."""
    weight = make_weight(case)
    packed = ops.w4a16_pack(
        weight.codes, weight.scales, weight.zeros, case.group_size, case.bits, layout=layout
    )
    assert packed.shape.shape[1] == layout
    codes, scales, zeros = ops.w4a16_unpack(packed)
    assert torch.equal(codes, weight.codes)
    assert torch.equal(scales.view(torch.uint8), weight.scales.view(torch.uint8))
    assert (zeros is None) == (weight.zeros is None)
    assert zeros is None or weight.zeros is None or torch.equal(zeros, weight.zeros)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_no_rows(asymmetric: bool) -> None:
    zeros = torch.empty(0, 5, dtype=torch.uint8) if asymmetric else None
    packed = ops.w4a16_pack(torch.empty(0, 300, dtype=torch.uint8), torch.empty(0, 5), zeros, 64)
    codes, scales, unpacked = ops.w4a16_unpack(packed)
    assert codes.shape == (0, 300)
    assert scales.shape == (0, 5)
    assert (unpacked is None) == (not asymmetric)
    assert unpacked is None or unpacked.shape == (0, 5)
    assert ops.w4a16_gemm(make_x(2, 300), *packed).shape == (2, 0)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 70),
    k=st.integers(1, 300),
    group=st.integers(1, 300),
    bits=st.sampled_from([2, 3, 4, 8]),
    asymmetric=st.booleans(),
    m=st.integers(1, 9),
)
def test_any_shape(n: int, k: int, group: int, bits: int, asymmetric: bool, m: int) -> None:
    weight = make_weight(WeightCase(n, k, min(group, k), bits, asymmetric))
    packed = weight.pack()
    assert torch.equal(ops.w4a16_unpack(packed)[0], weight.codes)
    x = make_x(m, k)
    assert_gemm(ops.w4a16_gemm(x, *packed), x, weight.dense)


@pytest.mark.parametrize("kernel", cpu_kernels())
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("case", WEIGHT_CASES, ids=str)
def test_gemm(case: WeightCase, dtype: torch.dtype, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    weight = make_weight(case)
    packed = weight.pack()
    bias = make_x(case.n, seed=2)
    perm = torch.randperm(case.k, generator=torch.Generator().manual_seed(3))
    for m in (1, 2, 5, 33):
        x = make_x(m, case.k, dtype=dtype)
        assert_gemm(ops.w4a16_gemm(x, *packed), x, weight.dense)
        y = ops.w4a16_gemm(x, *packed, perm=perm, bias=bias)
        assert_gemm(y, x, weight.dense, perm, bias)


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (2, 1, 4), (0,), (3, 0), (0, 2)])
def test_leading_shapes(leading: tuple[int, ...]) -> None:
    x = make_x(*leading, 300)
    assert_gemm(ops.w4a16_gemm(x, *PACKED), x, WEIGHT.dense)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_strides(dtype: torch.dtype) -> None:
    views = {
        "transposed": make_x(300, 6, dtype=dtype).t(),
        "wider rows": make_x(6, 500, dtype=dtype)[:, 100:400],
        "every second row": make_x(12, 300, dtype=dtype)[::2],
        "every second column": make_x(6, 600, dtype=dtype)[:, ::2],
        "repeated row": make_x(1, 300, dtype=dtype).expand(6, 300),
        "swapped batch": make_x(3, 2, 300, dtype=dtype).transpose(0, 1),
        "overlapping": make_x(310, dtype=dtype).as_strided((6, 300), (2, 1)),
        "1-D": make_x(600, dtype=dtype)[::2],
        "offset": make_x(1801, dtype=dtype)[1:].view(6, 300),
    }
    for name, x in views.items():
        assert torch.equal(ops.w4a16_gemm(x, *PACKED), ops.w4a16_gemm(x.clone().contiguous(), *PACKED)), name


def test_other_arguments_need_not_be_contiguous() -> None:
    codes = WEIGHT.codes.t().contiguous().t()
    scales = WEIGHT.scales.repeat_interleave(2, dim=1)[:, ::2]
    assert WEIGHT.zeros is not None
    zeros = WEIGHT.zeros.t().contiguous().t()
    packed = ops.w4a16_pack(codes, scales, zeros, 64)
    for got, expected in zip(packed, PACKED, strict=True):
        assert torch.equal(got, expected)
        assert got.shape == expected.shape

    spread = [tensor.repeat_interleave(3)[::3] for tensor in PACKED[:3]]
    x, bias = make_x(2, 300), make_x(96)[::2]
    perm = torch.randperm(600)[::2].argsort()
    assert not spread[0].is_contiguous()
    assert torch.equal(
        ops.w4a16_gemm(x, *spread, PACKED.shape, perm, bias),
        ops.w4a16_gemm(x, *PACKED, perm.contiguous(), bias.contiguous()),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_bias_of_any_float_dtype(dtype: torch.dtype) -> None:
    x = make_x(3, 300, dtype=dtype)
    for bias_dtype in DTYPES:
        bias = make_x(48, dtype=bias_dtype)
        assert_gemm(ops.w4a16_gemm(x, *PACKED, bias=bias), x, WEIGHT.dense, bias=bias)


def test_perm_of_either_width() -> None:
    x = make_x(3, 300)
    perm = torch.randperm(300)
    expected = ops.w4a16_gemm(x[:, perm], *PACKED)
    assert torch.equal(ops.w4a16_gemm(x, *PACKED, perm), expected)
    assert torch.equal(ops.w4a16_gemm(x, *PACKED, perm.int()), expected)


def test_descriptor_follows_copies_and_files(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    assert PACKED.shape.numel() == 0
    assert list(PACKED.shape.shape)[2:] == [48, 300, 64, 4, 1]
    save_file(PACKED._asdict(), tmp_path / "packed.safetensors")
    torch.save(PACKED._asdict(), tmp_path / "packed.pt")
    copies = [
        load_file(tmp_path / "packed.safetensors"),
        torch.load(tmp_path / "packed.pt", weights_only=True),
        copy.deepcopy(PACKED._asdict()),
    ]
    x = make_x(2, 300)
    for loaded in copies:
        assert loaded["shape"].shape == PACKED.shape.shape
        assert torch.equal(ops.w4a16_gemm(x, **loaded), ops.w4a16_gemm(x, *PACKED))


def test_outputs_alias_no_input() -> None:
    inputs = {t.data_ptr() for t in (WEIGHT.codes, WEIGHT.scales, WEIGHT.zeros) if t is not None}
    outputs = itertools.chain(PACKED[:3], ops.w4a16_unpack(PACKED))
    assert not inputs & {t.data_ptr() for t in outputs if t is not None}


# -- the same bits whatever surrounds the row ------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("kernel", cpu_kernels())
def test_bits_depend_on_neither_threads_nor_batch(
    kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, torch_threads: None
) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    weight = make_weight(WeightCase(200, 1100, 128, asymmetric=True))
    packed = weight.pack()
    x = make_x(67, 1100, dtype=dtype)
    torch.set_num_threads(1)
    whole = ops.w4a16_gemm(x, *packed)
    single = torch.cat([ops.w4a16_gemm(row[None], *packed) for row in x])
    assert torch.equal(single, whole)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(ops.w4a16_gemm(x, *packed), whole)
        assert torch.equal(ops.w4a16_gemm(x[:1], *packed), whole[:1])
        assert torch.equal(ops.w4a16_gemm(x[3:8], *packed), whole[3:8])
        assert torch.equal(ops.w4a16_gemm(x[3:8], *packed, batch_invariant=True), whole[3:8])
        for got, expected in zip(weight.pack(), packed, strict=True):
            assert torch.equal(got, expected)


# A scale and activations so small that flushing subnormals would show.
@pytest.mark.parametrize("kernel", cpu_kernels())
def test_bits_do_not_depend_on_the_flush_mode(
    kernel: str, monkeypatch: pytest.MonkeyPatch, torch_threads: None
) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    packed = make_weight(WeightCase(400, 1100, 128, asymmetric=True)).pack()
    x = make_x(5, 1100) * 1e-38
    expected = ops.w4a16_gemm(x, *packed)
    assert (expected != 0).all()
    try:
        assert torch.set_flush_denormal(True)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.equal(ops.w4a16_gemm(x, *packed).view(torch.int32), expected.view(torch.int32))
    finally:
        torch.set_flush_denormal(False)


# -- next to the zero point ------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 300])
@pytest.mark.parametrize("zero", [0, 255])
@pytest.mark.parametrize("kernel", cpu_kernels())
def test_full_accuracy_next_to_the_zero_point(
    kernel: str, zero: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    near = torch.randint(0, 3, (40, k), generator=torch.Generator().manual_seed(4))
    codes = (near if zero == 0 else 255 - near).to(torch.uint8)
    zeros = torch.full((40, 1), zero, dtype=torch.uint8)
    scales = torch.full((40, 1), 0.01)
    packed = ops.w4a16_pack(codes, scales, zeros, -1, 8)
    dense = scales.double() * (codes.double() - zero)
    for m in (1, 3, 40):
        x = make_x(m, k)
        y = ops.w4a16_gemm(x, *packed)
        assert_gemm(y, x, dense)
        assert (y[:, (near == 0).all(1)] == 0).all()


# -- choice of the kernel --------------------------------------------------------------------------


def explain(**changes: object) -> tuple[str, list[tuple[str, str]], str]:
    problem = {"op": "w4a16", "m": 1, "n": 48, "k": 300, "group_size": 64} | changes
    return _C.explain(**problem)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", cpu_kernels())
def test_forced_kernel_is_taken(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", kernel)
    assert explain()[0] == kernel


@pytest.mark.parametrize("isa", _C.isas())
def test_forced_isa_is_taken(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_FORCE_ISA", isa)
    assert _C.cpu_isa() == isa
    chosen, rejected, _ = explain()
    isa_of = {row["name"]: row["isa"] for row in ops.kernels()}
    assert isa_of[chosen] == expected_isa(isa)
    for name, reason in rejected:
        if isa_of[name] in ISAS and ISAS.index(isa_of[name]) > ISAS.index(isa):
            assert "QCORE_FORCE_ISA" in reason
    x = make_x(5, 300)
    assert_gemm(ops.w4a16_gemm(x, *PACKED), x, WEIGHT.dense)


def test_gemm_obeys_the_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    """What explain() says is also what gemm does: each refuses what the other refuses."""
    x = make_x(1, 300)
    monkeypatch.setenv("QCORE_FORCE_KERNEL", "w4a16_unheard_of")
    with pytest.raises(RuntimeError, match=r"w4a16_unheard_of.*expected one of.*w4a16_reference"):
        ops.w4a16_gemm(x, *PACKED)
    monkeypatch.delenv("QCORE_FORCE_KERNEL")
    monkeypatch.setenv("QCORE_FORCE_ISA", "mmx")
    with pytest.raises(RuntimeError, match="QCORE_FORCE_ISA=mmx"):
        ops.w4a16_gemm(x, *PACKED)
    strong = [name for name in cpu_kernels() if not name.endswith("_reference")]
    if strong:
        monkeypatch.setenv("QCORE_FORCE_ISA", "scalar")
        monkeypatch.setenv("QCORE_FORCE_KERNEL", strong[0])
        with pytest.raises(RuntimeError, match=strong[0]):
            ops.w4a16_gemm(x, *PACKED)
        with pytest.raises(ValueError, match=strong[0]):
            explain()


def test_lists_agree() -> None:
    layouts = {layout["number"]: layout for layout in ops.layouts()}
    assert [(n, layouts[n]["name"], layouts[n]["device"]) for n in (1, 2)] == [
        (1, "panel16", "cpu"),
        (2, "fragment16", "cuda"),
    ]
    for row in ops.kernels():
        if row["layout"] == 0:  # it reads canonical tensors
            assert row["format"] == ""
        else:
            assert row["device"] == layouts[row["layout"]]["device"]
            assert row["format"] == layouts[row["layout"]]["format"]
        assert (row["sm"] > 0) == (row["device"] == "cuda") == (row["isa"] == "")


def test_reference_is_last_and_always_able() -> None:
    rows = [row for row in ops.kernels() if row["op"] == "w4a16" and row["device"] == "cpu"]
    assert rows[-1]["name"] == "w4a16_reference"
    formats = {f["name"] for f in _C.formats()} | {"blocks", ""}  # any of ops.block_formats(); canonical
    assert {row["format"] for row in ops.kernels()} <= formats
    names = [row["name"] for row in ops.kernels()]
    assert len(set(names)) == len(names)


@pytest.mark.skipif(not _C.cuda_built(), reason="this build has no CUDA kernels")
@pytest.mark.parametrize(
    ("sm", "m", "invariant", "kernel", "reason"),
    [
        (90, 1, False, "w4a16_marlin_sm80", "33 tokens or more, these are 1"),
        (90, 32, False, "w4a16_marlin_sm80", "33 tokens or more, these are 32"),
        (90, 33, False, "w4a16_marlin_sm90", ""),
        (90, 4096, False, "w4a16_marlin_sm90", ""),
        (90, 4096, True, "w4a16_marlin_sm80", "depends on the number of tokens"),
        # Cards without a row of their own run what runs everywhere.
        (80, 4096, False, "w4a16_marlin_sm80", "needs compute capability 9.0"),
        (89, 4096, False, "w4a16_marlin_sm80", "needs compute capability 9.0"),
        (100, 4096, False, "w4a16_marlin_sm80", "9.0 alone"),
        (120, 4096, False, "w4a16_marlin_sm80", "9.0 alone"),
    ],
)
def test_which_kernel_a_gpu_runs(sm: int, m: int, invariant: bool, kernel: str, reason: str) -> None:
    shape = {"n": 14336, "k": 4096, "group_size": 128, "dtype": "bfloat16", "device": "cuda"}
    chosen, rejected, plan = explain(**shape, m=m, sm=sm, multiprocessors=132, batch_invariant=invariant)
    assert chosen == kernel
    assert [name for name, why in rejected if reason in why] == (["w4a16_marlin_sm90"] if reason else [])
    assert re.search(r"\d+ (tiles|blocks) of \d+ rows x \d+ tokens", plan)
    assert explain(**shape, m=m, sm=sm, batch_invariant=invariant)[2] == ""  # how many multiprocessors?


def test_explain_refuses_what_is_no_problem() -> None:
    with pytest.raises(ValueError, match="bits"):
        explain(bits=5)
    with pytest.raises(ValueError, match="group_size"):
        explain(group_size=0)
    with pytest.raises(ValueError, match="dtype must be"):
        explain(dtype="int8")
    with pytest.raises(ValueError, match="device must be"):
        explain(device="tpu")
    with pytest.raises(ValueError, match="w9a9"):
        explain(op="w9a9")
