"""The formats int8 and float8, beside numpy written from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcore.formats import Activations, Float8, Format, Grid, Int8, ScaledFormat
from qcore.formats.scales import storable_scale
from qcore.qweight import QWeight

SHAPES = [(5, 50), (1, 1), (130, 300), (128, 256), (3, 1000)]
PER_BLOCK = Float8("block", Activations("e4m3", "block"))
FLOATS = [Float8("tensor"), Float8("channel"), PER_BLOCK]
FORMATS: list[Format] = [Int8(), *FLOATS]
SCALE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def weight(n: int, k: int, seed: int = 0) -> Tensor:
    """Rows and columns of different sizes, so that a scale in the wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=generator) * 0.05
    rows = torch.rand(n, 1, generator=generator) * 4 - 2
    columns = torch.rand(1, k, generator=generator) * 4 - 2
    return w * rows.exp() * columns.exp()


# -- the references -----------------------------------------------------------------------------


def e4m3_values() -> NDArray[np.float64]:
    """What the 256 codes stand for: 1 sign, 4 exponent bits with bias 7, 3 of mantissa; no infinity, and NaN
    only where all other bits are set."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, (codes & 7).astype(np.float64)
    value = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    value = np.where(codes & 0x7F == 0x7F, np.nan, value)
    return np.where(codes & 0x80, -value, value)


def nearest_e4m3(x: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The code nearest to each x, of two as near the one with the even code, by looking at all of them."""
    positive = e4m3_values()[:0x7F]
    distance = np.abs(np.abs(x)[..., None] - positive)
    odd = (np.arange(0x7F) & 1) * 1e-300  # decides only where two are as near
    best = np.lexsort((np.broadcast_to(odd, distance.shape), distance), axis=-1)[..., 0]
    return (best | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8)


def reference_dequantize(format: Format, weight: QWeight) -> NDArray[np.float64]:
    """Element by element, from the definition."""
    n, k = weight.shape
    scales = weight.tensors["scales"].double().numpy()
    out = np.empty((n, k))
    if format.elements.name == "s8":
        codes = weight.tensors["codes"].numpy().astype(np.float64)
    else:
        codes = e4m3_values()[weight.tensors["codes"].view(torch.uint8).numpy()]
    for row in range(n):
        for column in range(k):
            if scales.shape == (1,):
                scale = scales[0]
            elif scales.shape[1] == 1 and scales.shape[0] == n and n > 1:
                scale = scales[row, 0]
            else:
                scale = scales[row // 128, column // 128]
            out[row, column] = scale * codes[row, column]
    return out


def quantize(format: Format, w: Tensor, dtype: torch.dtype = torch.float32, search: bool = False) -> QWeight:
    grid = format.fit(w, dtype, search=search)
    return QWeight(format, (w.shape[0], w.shape[1]), grid.store(grid.round(w)))


# -- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dequantizes_as_defined(format: Format, shape: tuple[int, int]) -> None:
    q = quantize(format, weight(*shape), torch.bfloat16)
    expected = reference_dequantize(format, q).astype(np.float32)
    assert np.array_equal(q.dequantize().numpy(), expected)
    assert q.bits_per_weight == 8 + q.tensors["scales"].numel() * 16 / (shape[0] * shape[1])


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", SCALE_DTYPES)
@pytest.mark.parametrize("search", [True, False])
def test_every_path_rounds_alike(
    format: Format, shape: tuple[int, int], dtype: torch.dtype, search: bool
) -> None:
    w = weight(*shape)
    grid = format.fit(w, dtype, search=search)
    codes = grid.round(w)
    columns = torch.randperm(shape[1], generator=torch.Generator().manual_seed(1))
    points = grid.points(columns)
    swept, values = points.round(w.T[columns].contiguous(), slice(None))
    assert torch.equal(swept, codes.T[columns])
    stored = QWeight(format, shape, grid.store(codes))
    assert stored.tensors["scales"].dtype == dtype
    assert torch.equal(stored.dequantize().T[columns], values)
    for at in (0, len(columns) - 1):
        code, value = points.round(w[:, columns[at]], at)
        assert torch.equal(code, swept[at])
        assert torch.equal(value, values[at])


@pytest.mark.parametrize("format", FLOATS, ids=str)
def test_floats_are_rounded_as_torch_casts_and_as_defined(format: ScaledFormat) -> None:
    shape = (40, 260)
    w = weight(*shape)
    grid = format.fit(w, torch.float32)
    # Ties, and values around the smallest and beyond the largest number, under the scale of their block.
    spread = format.granularity.spread(grid.scales, *shape).expand(shape).clone()
    exact = torch.tensor(np.nan_to_num(e4m3_values()), dtype=torch.float32).sort().values
    ties = (exact[1:] + exact[:-1]) / 2
    w[3, :255] = ties * spread[3, :255]
    w[4, :8] = torch.tensor([448.0, 449, 464, 480, 1e6, -1e6, 2.0**-10, -(2.0**-11)]) * spread[4, :8]
    codes = grid.round(w)
    ratio = w / spread
    torch_bits = ratio.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
    assert torch.equal(codes, torch_bits)
    expected = nearest_e4m3(ratio.clamp(-448, 448).double().numpy())
    assert np.array_equal(codes.numpy(), expected)
    assert not torch.isnan(format.dequantize(grid.store(codes))).any()


def test_integers_are_the_nearest_and_use_the_range() -> None:
    w = weight(20, 300)
    q = quantize(Int8(), w)
    codes, scales = q.tensors["codes"].double().numpy(), q.tensors["scales"].double().numpy()
    distance = np.abs(w.double().numpy() - codes * scales)
    assert (distance <= scales * (0.5 + 2e-5)).all()
    assert (np.abs(codes).max(1) >= 127).all()


# -- choosing scales ----------------------------------------------------------------------------


@pytest.mark.parametrize("format", FLOATS, ids=str)
def test_plain_scales_of_floats_cover_the_range(format: ScaledFormat) -> None:
    w = weight(200, 300)
    scales = format.fit(w, torch.float32).scales.double().numpy()
    if format.granularity.kind == "tensor":
        blocks = [w]
    elif format.granularity.kind == "row":
        blocks = list(w)
    else:
        blocks = [b for rows in w.split(128) for b in rows.split(128, 1)]
    amax = np.array([float(b.abs().max()) for b in blocks])
    np.testing.assert_allclose(scales.reshape(-1), amax / 448, rtol=1e-6)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_search_lowers_the_weighted_error(format: Format) -> None:
    w = weight(150, 300)
    importance = torch.rand(300, generator=torch.Generator().manual_seed(1)) ** 4

    def error(grid: Grid) -> Tensor:
        delta = format.dequantize(grid.store(grid.round(w))) - w
        return (delta.square() * importance).sum(1)

    plain = error(format.fit(w, torch.float16))
    searched = error(format.fit(w, torch.float16, importance, search=True))
    least = 0.97 if format.elements.name == "e4m3" and format != Float8("tensor") else 1.0
    assert searched.sum() < least * plain.sum()
    if format.elements.name == "s8":
        assert (searched <= plain * (1 + 1e-5)).all()


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", SCALE_DTYPES)
@pytest.mark.parametrize("search", [True, False])
def test_zeros_and_tiny_and_huge_weights_stay_finite(
    format: Format, dtype: torch.dtype, search: bool
) -> None:
    w = torch.zeros(260, 260)
    assert torch.equal(quantize(format, w, dtype, search).dequantize(), w)
    w[1] = 1e-30
    w[2, ::2] = 3e4
    w[200, 5] = -2.0
    q = quantize(format, w, dtype, search)
    assert torch.isfinite(q.tensors["scales"]).all()
    assert (q.tensors["scales"] > 0).all()
    assert torch.isfinite(q.dequantize()).all()
    assert torch.equal(q.dequantize()[0], torch.zeros(260))
    assert (q.dequantize() - w).abs().max() <= 3e4 / 15


@pytest.mark.parametrize("format", [Int8(), Float8("channel")], ids=str)
@pytest.mark.parametrize("search", [True, False])
def test_rows_do_not_depend_on_each_other(
    format: Format, search: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = weight(20, 64)
    whole = quantize(format, w, search=search)
    monkeypatch.setattr("qcore.formats.parts._CHUNK", 100)
    assert torch.equal(quantize(format, w, search=search).dequantize(), whole.dequantize())
    for row in (0, 7, 19):
        assert torch.equal(
            quantize(format, w[row : row + 1], search=search).dequantize()[0], whole.dequantize()[row]
        )


# -- activations --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SCALE_DTYPES)
@pytest.mark.parametrize(
    ("low", "high"), [(-3.0, 9.5), (-7.25, 1.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0), (-1e-9, 1e4)]
)
def test_static_scales(low: float, high: float, dtype: torch.dtype) -> None:
    ends = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)
    for type, greatest in (("int8", 127), ("e4m3", 448)):
        scale, zero = Activations(type, "tensor").static_scale(*ends, dtype)
        assert zero is None
        assert (scale.dtype, scale.shape) == (dtype, (1,))
        expected = storable_scale(torch.tensor([max(abs(low), abs(high)) / greatest]), dtype)
        torch.testing.assert_close(
            scale.float(), expected, rtol=2e-7 if dtype is torch.float32 else 0, atol=0
        )
    scale, zero = Activations("int8", "tensor", symmetric=False).static_scale(*ends, dtype)
    assert zero is not None
    assert (zero.dtype, zero.shape) == (torch.int32, (1,))
    assert -128 <= int(zero) <= 127
    # Both ends, and zero, are on the grid within half a step (and what rounding the scale moved).
    step = float(scale)
    for value in (low, high, 0.0):
        q = np.clip(np.rint(value / step) + int(zero), -128, 127)
        slack = {torch.float32: 1e-5, torch.float16: 0.2, torch.bfloat16: 1.1}[dtype]
        assert abs((q - int(zero)) * step - value) <= (0.5 + slack) * step + 1e-12
    assert float((np.rint(0 / step) + int(zero)) - int(zero)) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Activations("int4"), "elements: expected one of int8, e4m3, got 'int4'"),
        (lambda: Activations("int8", "row"), "granularity: expected one of token, tensor, block, got 'row'"),
        (lambda: Activations("e4m3", symmetric=False), "symmetric: e4m3 has no zero point"),
        (lambda: Activations("int8", "block"), "granularity: expected per token or tensor for int8"),
        (lambda: Int8(Activations("e4m3")), "activations: expected int8, got e4m3 dynamic per token"),
        (lambda: Float8("row"), "scales: expected one of tensor, channel, block, got 'row'"),
        (lambda: Float8("channel", Activations("int8")), "activations: expected e4m3, got int8"),
        (lambda: Float8("block"), "activations: expected per block exactly when"),
        (lambda: Float8("block", None), "activations: expected per block exactly when"),
        (lambda: Float8("channel", Activations("e4m3", "block")), "activations: expected per block exactly"),
    ],
)
def test_bad_formats(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("format", "name", "tensor", "error", "message"),
    [
        (Int8(), "codes", torch.zeros(4, 6).byte(), TypeError, "codes: expected int8, got torch.uint8"),
        (Int8(), "codes", torch.zeros(4, 5).char(), ValueError, r"codes: expected shape \(4, 6\)"),
        (Int8(), "scales", torch.zeros(4), ValueError, r"scales: expected shape \(4, 1\)"),
        (Float8(), "codes", torch.zeros(4, 6).char(), TypeError, "codes: expected float8_e4m3fn"),
        (Float8(), "scales", torch.zeros(1), ValueError, r"scales: expected shape \(4, 1\).*per row"),
        (Float8("tensor"), "scales", torch.zeros(4, 1), ValueError, r"scales: expected shape \(1,\)"),
        (PER_BLOCK, "scales", torch.zeros(4, 1), ValueError, r"scales: expected shape \(1, 1\)"),
    ],
)
def test_bad_tensors(format: Format, name: str, tensor: Tensor, error: type[Exception], message: str) -> None:
    good = quantize(format, weight(4, 6)).tensors
    with pytest.raises(error, match=message):
        QWeight(format, (4, 6), {**good, name: tensor})
