"""Elements x granularity x scales: every composition against definitions written in numpy."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
import torch
from torch import Tensor

import qcore
import tiny
from qcore import QLinear, ScaledFormat
from qcore.formats import BLOCK, ELEMENTS, NF4, ROW, TENSOR, Granularity, Scales, group
from qcore.linears import linear_names
from qcore.methods import InputStats, resolve_method
from qcore.nn import PRODUCTS
from qcore.qweight import Inputs, QWeight

N, K = 37, 150
GRANULARITIES = (TENSOR, ROW, group(32), group(150), Granularity(16, 64), BLOCK)
SCALES = (
    Scales(),
    *(Scales(dtype) for dtype in (torch.float32, torch.float16, torch.float8_e8m0fnu, torch.float8_e4m3fn)),
    Scales(torch.float8_e4m3fn, second_level=True),
)
# All elements with all else, thinned out: each pair of them meets.
COMPOSED = [
    ScaledFormat(elements, granularity, scales)
    for i, (elements, granularity, scales) in enumerate(
        itertools.product(ELEMENTS.values(), GRANULARITIES, SCALES)
    )
    if i % 7 in (0, 3)
] + [
    ScaledFormat(ELEMENTS[f"u{bits}"], granularity, scales, zero_points=True)
    for bits, granularity, scales in itertools.product((2, 3, 4, 8), (ROW, group(32)), SCALES[:3])
]


def weight(n: int = N, k: int = K, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=generator) * torch.rand(n, 1, generator=generator)


def e8m0(bits: int) -> float:
    return 2.0 ** (int(bits) - 127)


def small_float(bits: int, exponents: int, mantissas: int, bias: int) -> float:
    """A float of few bits by its definition; the largest exponent has no special meaning but in e5m2."""
    mantissa, exponent = bits & ((1 << mantissas) - 1), bits >> mantissas & ((1 << exponents) - 1)
    sign = -1.0 if bits >> (exponents + mantissas) else 1.0
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissas)
    return sign * (1 + mantissa / (1 << mantissas)) * 2.0 ** (exponent - bias)


def nf4() -> list[float]:
    """Appendix E of the QLoRA paper, with the offset of bitsandbytes: quantiles of the normal distribution,
    8 above zero, 7 below, and zero."""
    quantile, offset = statistics.NormalDist().inv_cdf, 0.9677083
    above = [quantile(offset + (0.5 - offset) * i / 8) for i in range(8)]
    below = [-quantile(offset + (0.5 - offset) * i / 7) for i in range(7)]
    values = sorted([*above, *below, 0.0])
    return [value / max(values) for value in values]


def element(name: str, bits: int) -> float:
    """What a code stands for."""
    if name in ("e4m3", "e5m2", "e2m1"):
        exponents, mantissas, bias = {"e4m3": (4, 3, 7), "e5m2": (5, 2, 15), "e2m1": (2, 1, 1)}[name]
        return small_float(bits, exponents, mantissas, bias)
    if name == "ternary":
        return float(bits - 1)
    if name == "fp4":  # E2M1 over 6, but for the least: 1/32 over 6
        return (-1.0) ** (bits >> 3) * float(
            np.float32((0, 1 / 32, 4, 6, 2, 3, 1, 1.5)[bits & 7]) / np.float32(6)
        )
    if name == "nf4":
        return float(ELEMENTS["nf4"].numbers[bits])  # type: ignore[attr-defined] - compared with nf4() below
    return float(bits - 256 if name == "s8" and bits > 127 else bits)


def decoded(format: ScaledFormat, tensors: dict[str, Tensor]) -> np.ndarray:
    """A stored weight, element by element, in float64."""
    scales = tensors["scales"]
    if scales.dtype == torch.float8_e8m0fnu:
        values = np.vectorize(e8m0)(scales.view(torch.uint8).numpy())
    elif scales.dtype == torch.float8_e4m3fn:
        values = np.vectorize(lambda bits: element("e4m3", int(bits)))(scales.view(torch.uint8).numpy())
    else:
        values = scales.double().numpy()
    if "second_scale" in tensors:  # one product of two float32
        values = (values.astype(np.float32) * tensors["second_scale"].numpy()).astype(np.float64)
    codes = tensors["codes"].view(torch.uint8).numpy()
    n, k = codes.shape
    rows, columns = format.granularity.rows, format.granularity.columns
    result = np.empty((n, k))
    for row, column in np.ndindex(n, k):
        tile = (0 if rows == -1 else row // rows, 0 if columns == -1 else column // columns)
        tile = tile if values.ndim == 2 else (0,)
        zero = 0.0
        if "zeros" in tensors:
            zero = float(tensors["zeros"][tile])
        elif format.elements.name.startswith("u"):
            zero = 2.0 ** (format.bits - 1)
        result[row, column] = values[tile] * (element(format.elements.name, int(codes[row, column])) - zero)
    return result


def test_the_numbers_of_codebooks() -> None:
    stored = np.array(ELEMENTS["nf4"].numbers)  # type: ignore[attr-defined]
    np.testing.assert_allclose(stored, nf4(), atol=2e-7)
    assert [element("e2m1", bits) for bits in range(8)] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert list(ELEMENTS["e2m1"].numbers) == [element("e2m1", bits) for bits in range(16)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("format", COMPOSED, ids=str)
def test_every_composition(format: ScaledFormat) -> None:
    """Codes are the nearest, sweeps and files see the same values, and a search makes nothing worse."""
    w = weight()
    importance = torch.rand(K, generator=torch.Generator().manual_seed(1))
    errors = []
    for search in (False, True):
        grid = format.fit(w, torch.bfloat16, importance, search)
        codes = grid.round(w)
        tensors = grid.store(codes)
        q = QWeight(format, (N, K), tensors)
        value = q.dequantize()
        np.testing.assert_allclose(value.double().numpy(), decoded(format, tensors), rtol=2e-7, atol=0)
        order = torch.randperm(K, generator=torch.Generator().manual_seed(2))
        swept, values = grid.points(order).round(w.T[order], slice(None))
        assert torch.equal(swept, codes.T[order])
        assert torch.equal(values, value.T[order])
        column = grid.points(order).round(w.T[order][5], 5)
        assert torch.equal(column[0], swept[5])
        # No code that some element has is nearer.
        used = torch.unique(codes)
        for other in used[:: max(1, len(used) // 8)]:
            there = format.dequantize(grid.store(torch.full_like(codes, int(other))))
            assert ((value - w).abs() <= (there - w).abs() + 1e-6).all()
        errors.append(float(((value - w).square() * importance).sum()))
    assert errors[1] <= errors[0] * (1 + 1e-5)
    assert 0 < QWeight(format, (N, K), tensors).bits_per_weight < 17


@pytest.mark.parametrize("format", COMPOSED[:: max(1, len(COMPOSED) // 24)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (5, 0), (16, 64), (128, 129), (3, 1000)], ids=str)
def test_any_shape(format: ScaledFormat, shape: tuple[int, int]) -> None:
    w = weight(*shape)
    grid = format.fit(w, torch.float32)
    tensors = grid.store(grid.round(w))
    QWeight(format, shape, tensors)
    assert torch.isfinite(format.dequantize(tensors)).all()
    assert format.dequantize(format.fit(w * 0, torch.float32).store(grid.round(w * 0))).numel() == w.numel()


def test_experts_are_stored_as_one_weight() -> None:
    for format in (qcore.IntGroup(4, False, 32), qcore.Float8("tensor", None), NF4, BLOCKS):
        parts = [format.fit(weight(64, 128, seed), torch.float32) for seed in range(3)]
        each = [grid.store(grid.round(weight(64, 128, seed))) for seed, grid in enumerate(parts)]
        stacked = {name: torch.stack([tensors[name] for tensors in each]) for name in each[0]}
        q = QWeight(format, (3, 64, 128), stacked)
        assert torch.equal(q.dequantize(), torch.stack([format.dequantize(t) for t in each]))
        with pytest.raises(ValueError, match="scales: expected shape"):
            QWeight(format, (3, 64, 128), {**stacked, "scales": stacked["scales"][:2]})


BLOCKS = ScaledFormat(ELEMENTS["e2m1"], Granularity(16, 64))
FLOAT_ZEROS = ScaledFormat(ELEMENTS["u3"], group(24), Scales(zeros=torch.float32), zero_points=True)


def test_zero_points_between_codes() -> None:
    random = np.random.default_rng(0)
    codes, scales = random.integers(0, 8, (5, 60), dtype=np.uint8), random.uniform(0.01, 0.02, (5, 3))
    zeros = random.uniform(-1, 9, (5, 3)).astype(np.float32)
    tensors = {"codes": codes, "scales": scales.astype(np.float16), "zeros": zeros}
    weight = QWeight(FLOAT_ZEROS, (5, 60), {name: torch.from_numpy(array) for name, array in tensors.items()})
    expected = decoded(FLOAT_ZEROS, dict(weight.tensors))
    np.testing.assert_allclose(weight.dequantize().numpy(), expected, rtol=3e-7, atol=1e-9)
    assert FLOAT_ZEROS.op == "decoded"
    assert str(FLOAT_ZEROS) == "int3 g24 asym, zeros f32"
    assert weight.bits_per_weight == 3 + (16 + 32) * 3 / 60
    x = torch.randn(2, 60)
    torch.testing.assert_close(qcore.QLinear(weight)(x), x @ weight.dequantize().T)
    with pytest.raises(TypeError, match="zeros: expected float32, got"):
        QWeight(FLOAT_ZEROS, (5, 60), {**weight.tensors, "zeros": weight.tensors["zeros"].byte()})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ScaledFormat(NF4.elements, ROW, zero_points=True),
            "zero_points: expected unsigned integers",
        ),
        (lambda: ScaledFormat(ELEMENTS["u4"], TENSOR, zero_points=True), "zero_points: .* got u4 per tensor"),
        (lambda: Scales(torch.float64), "scales.dtype: expected None or one of float32"),
        (lambda: Scales(zeros=torch.int8), "scales.zeros: expected uint8 or float32, got torch.int8"),
        (lambda: FLOAT_ZEROS.fit(weight(4, 64), torch.float32), "codes are not chosen under zero points in"),
        (lambda: group(0), "group_size: expected a positive number"),
    ],
)
def test_bad_compositions(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_tensors() -> None:
    format = ScaledFormat(ELEMENTS["e2m1"], group(16), Scales(torch.float8_e4m3fn, second_level=True))
    grid = format.fit(weight(4, 32), torch.float32)
    good = grid.store(grid.round(weight(4, 32)))
    for change, error, message in (
        ({"codes": good["codes"] + 16}, ValueError, "codes: expected below 16, got"),
        ({"scales": good["scales"].float()}, TypeError, "scales: expected torch.float8_e4m3fn"),
        ({"second_scale": None}, ValueError, "second_scale: expected None exactly when"),
        ({"second_scale": torch.ones(2)}, ValueError, r"second_scale: expected float32 \[1\]"),
    ):
        tensors = {name: t for name, t in {**good, **change}.items() if t is not None}
        with pytest.raises(error, match=message):
            QWeight(format, (4, 32), tensors)


# -- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", COMPOSED[:: max(1, len(COMPOSED) // 24)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_composition_has_a_layer(format: ScaledFormat, dtype: torch.dtype) -> None:
    w = weight(24, 96)
    grid = format.fit(w, torch.float32)
    generator = torch.Generator().manual_seed(3)
    inputs = Inputs(torch.rand(96, generator=generator) + 0.5, torch.randperm(96, generator=generator).int())
    q = QWeight(format, (24, 96), grid.store(grid.round(w)), inputs)
    layer, x = QLinear(q, torch.randn(24)), torch.randn(5, 96, generator=generator).to(dtype)
    assert format.op in PRODUCTS
    assert (format.op == "decoded") == ("decoded in every call" in repr(layer))
    y = layer.to(dtype)(x)
    assert y.dtype == dtype
    expected = x.double() @ q.dequantize().double().T + layer.bias.double()  # type: ignore[union-attr]
    tolerance = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(
        y.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())
    )
    back = layer.to_qweight()
    assert back.inputs.tensors().keys() == {"divisor", "permutation"}
    for name, tensor in q.tensors.items():
        assert torch.equal(back.tensors[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert torch.equal(back.dequantize(), q.dequantize())
    other = QLinear(QWeight(format, (24, 96), {n: t.clone() for n, t in q.tensors.items()}), torch.zeros(24))
    assert other.state_dict().keys() <= layer.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"codes": torch.full((4, 64), 200).byte()}, ValueError, "codes: expected below 16, got 200"),
        ({"codes": None}, ValueError, "codes: missing"),
        ({"scales": torch.ones(4, 2).int()}, TypeError, "scales: expected floats, got torch.int32"),
        ({"zeros": torch.full((4, 2), 7.5)}, TypeError, "zeros: expected uint8, got torch.float32"),
    ],
)
def test_what_no_method_makes(change: dict[str, Tensor | None], error: type, message: str) -> None:
    format = qcore.IntGroup(4, False, 32)
    grid = format.fit(weight(4, 64), torch.float32)
    tensors = {**grid.store(grid.round(weight(4, 64))), **change}
    with pytest.raises(error, match=message):
        QWeight(format, (4, 64), {name: tensor for name, tensor in tensors.items() if tensor is not None})


def test_permutation_must_fit() -> None:
    grid = NF4.fit(weight(4, 64), torch.float32)
    tensors = grid.store(grid.round(weight(4, 64)))
    with pytest.raises(ValueError, match=r"inputs.permutation: expected shape \(64,\), got \(3,\)"):
        QWeight(NF4, (4, 64), tensors, Inputs(permutation=torch.arange(3).int()))
    with pytest.raises(TypeError, match=r"inputs\.permutation: expected int32, got torch.int64"):
        QWeight(NF4, (4, 64), tensors, Inputs(permutation=torch.arange(64)))


# -- NF4 ------------------------------------------------------------------------------------------


def test_nf4_is_that_of_bitsandbytes() -> None:
    """The largest magnitude of 64 columns, and the nearest of the 16 numbers."""
    w = weight(24, 256)
    grid = NF4.fit(w, torch.bfloat16)
    blocks = w.view(24, 4, 64).double().numpy()
    largest = np.abs(blocks).max(-1, keepdims=True)
    assert np.array_equal(grid.scales.double().numpy(), largest[..., 0])
    assert grid.scales.dtype == torch.float32
    numbers = np.array(ELEMENTS["nf4"].numbers, dtype=np.float32).astype(np.float64)  # type: ignore[attr-defined]
    nearest = np.abs(blocks[..., None] / largest[..., None] - numbers).argmin(-1)
    assert (nearest.reshape(24, 256) != grid.round(w).numpy()).mean() < 1e-3  # ties and their roundings


@pytest.mark.filterwarnings("ignore:the quantized model cannot be saved")
@pytest.mark.parametrize("method", ["rtn", "imatrix", "gptq", "awq", "awq+gptq"])
def test_nf4_by_every_method(method: str) -> None:
    model, floats = tiny.make_model("llama"), tiny.make_model("llama")
    qcore.quantize(model, "NF4", method, None if method == "rtn" else tiny.tokens())
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QLinear)}
    assert len(layers) == 14
    assert linear_names(model) == ["lm_head"]
    result = qcore.evaluate(model, tiny.tokens(2, 32, seed=5), floats)
    assert result.kl is not None
    assert 0 < result.kl < 0.2  # of 64 tokens that are next to equally likely
    for name, layer in layers.items():
        assert layer.format == NF4
        floats.get_submodule(name).weight.data = layer.to_qweight().dequantize()  # type: ignore[union-attr]
    if not method.startswith("awq"):  # which changes norms too
        assert tiny.distance(tiny.logits(model), tiny.logits(floats)) < 1e-5


def test_gptq_beats_rounding_in_nf4() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 128, generator=generator) @ torch.randn(128, 128, generator=generator)
    stats = InputStats(128)
    stats.add(x)
    w = weight(64, 128)
    errors = {
        name: stats.output_error(w - resolve_method(name).quantize(w, stats, NF4, torch.float32).dequantize())
        for name in ("rtn", "imatrix", "gptq")
    }
    assert errors["gptq"] < 0.8 * errors["imatrix"] < 0.8 * errors["rtn"]
