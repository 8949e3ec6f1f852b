"""Fake quantization: the very weight that is stored and multiplied by, and its gradients."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import qcore
import tiny
from cases import DTYPES, by_name, cpu_kernels
from qcore import SCHEMES, QLinear, Rtn, ScaledFormat, fake_quant, ops
from qcore.formats import BLOCK, BLOCK_FORMATS, ELEMENTS, ROW, TENSOR, Codebook, Granularity, Scales, group
from qcore.formats import fake as composed
from qcore.linears import linear_names
from qcore.methods import resolve_method

GRANULARITIES = (TENSOR, ROW, BLOCK, group(32), group(24), group(7), Granularity(3, 5))
SCALES = (
    Scales(),
    *(Scales(dtype) for dtype in (torch.float16, torch.float8_e8m0fnu, torch.float8_e4m3fn)),
    Scales(torch.float8_e4m3fn, second_level=True),
)
FORMATS = [
    ScaledFormat(elements, granularity, scales, zero_points=zero_points)
    for elements, granularity, scales, zero_points in itertools.product(
        ELEMENTS.values(), GRANULARITIES, SCALES, (False, True)
    )
    if not zero_points or (elements.affine and granularity.rows == 1)
]
SHAPES = ((5, 50), (130, 257), (1, 1), (3, 16), (7, 129))
GRIDS = ("Q4_0", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def weight(rng: np.random.Generator, dtype: torch.dtype = torch.float32, k: int | None = None) -> Tensor:
    """Rows of many magnitudes; some of zeros, some far out, some so small that scales are subnormal."""
    n, columns = SHAPES[rng.integers(len(SHAPES))]
    w = rng.standard_normal((n, k or columns)) * 10.0 ** rng.integers(-3, 3, (n, 1))
    w[rng.random(w.shape) < 0.01] *= 50
    w[rng.integers(n)] *= rng.choice([0, 1, 1e-30])
    return torch.from_numpy(w).to(dtype)


def some(rng: np.random.Generator, count: int, **wanted: Any) -> list[ScaledFormat]:
    """Formats at random, all of whose attributes of these names have these values."""
    fitting = [f for f in FORMATS if all(getattr(f, name) == value for name, value in wanted.items())]
    return [fitting[i] for i in rng.permutation(len(fitting))[:count]]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(torch.initial_seed() % 2**32)


@pytest.fixture(params=[name.removeprefix("fake_quantize_") for name in cpu_kernels("fake_quantize")])
def row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    isa = {"reference": "scalar"}.get(request.param, request.param)
    monkeypatch.setenv("QCORE_FORCE_ISA", isa)


# -- the value -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("elements", ELEMENTS)
def test_is_what_rounding_to_nearest_stores(elements: str, rng: np.random.Generator) -> None:
    for format in some(rng, 12, elements=ELEMENTS[elements]):
        for dtype in DTYPES:
            w = weight(rng, dtype)
            stored = Rtn().quantize(w.float(), None, format, dtype)
            assert torch.equal(fake_quant(w, format), stored.dequantize().to(dtype)), (format, dtype, w.shape)
            w = w.t()[1:]  # another order in memory
            if w.numel():
                assert torch.equal(fake_quant(w, format), fake_quant(w.contiguous(), format))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_is_what_gguf_stores(name: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    w = weight(rng, dtype, 512).requires_grad_()
    stored = Rtn().quantize(w.detach().float(), None, BLOCK_FORMATS[name], torch.float32)
    y = fake_quant(w, BLOCK_FORMATS[name])
    assert torch.equal(y, stored.dequantize().to(dtype))
    (dw,) = torch.autograd.grad(y, w, y.detach())
    assert torch.equal(dw, y)
    with pytest.raises(ValueError, match="scales: expected None, because Q"):
        fake_quant(w, BLOCK_FORMATS[name], torch.ones(1, 1))


@pytest.mark.parametrize(
    "scheme", ["W2A16_ASYM", "W3A16", "W4A16", "W4A16_ASYM", "W8A16", "W8A8", "FP8", "FP8_BLOCK"]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_is_what_a_saved_model_multiplies_by(tmp_path: Path, scheme: str, dtype: torch.dtype) -> None:
    model = tiny.make_model("llama-bias", dtype, hidden_size=128, intermediate_size=256)
    formats = {}
    trained = {}
    floats = {name: model.get_submodule(name).weight.detach().clone() for name in linear_names(model)}
    qcore.quantize(model, scheme, "rtn")
    qcore.save(model, tmp_path / "m")
    loaded = qcore.load(tmp_path / "m")
    for name, module in model.named_modules():
        if isinstance(module, QLinear):
            formats[name] = module.format
            trained[name] = fake_quant(floats[name], module.format)
    assert trained
    for name, expected in trained.items():
        for of in (model, loaded):
            layer = of.get_submodule(name)
            assert isinstance(layer, QLinear)
            assert torch.equal(layer.to_qweight().dequantize().to(dtype), expected)
        eye = torch.eye(expected.shape[1])
        if formats[name].activations is None:  # the product of ones and zeros is the weight
            product = loaded.get_submodule(name)(eye.to(dtype)) - (
                layer.bias if layer.bias is not None else 0
            )
            torch.testing.assert_close(product.T.float(), expected.float(), atol=0.02, rtol=0.02)


@pytest.mark.usefixtures("row")
def test_given_scales_by_their_definition(rng: np.random.Generator) -> None:
    """In numpy, number by number."""
    for format in some(rng, 12, scales=Scales()):
        w, elements, granularity = weight(rng), format.elements, format.granularity
        n, k = w.shape
        scale = torch.rand(granularity.shape(n, k)) * float(w.abs().max()) / elements.greatest + 1e-3
        zero = torch.rand(scale.shape) * (elements.count - 1) if format.zero_points else None
        got = fake_quant(w, ScaledFormat(elements, granularity, zero_points=format.zero_points), scale, zero)
        rows, columns = granularity.height(n), granularity.width(k)
        bands, groups = granularity.bands(n), granularity.groups(k)
        scales = scale.view(bands, groups).numpy()
        for i, j in itertools.product(range(n), range(k)):
            s = scales[i // rows, j // columns]
            z = 0.0 if zero is None else float(np.rint(zero[i // rows, j // columns].numpy()))
            assert got[i, j].item() == expected_number(elements, w[i, j].numpy(), s, z, format.zero_points)


def expected_number(elements: Any, w: np.float32, scale: np.float32, zero: float, zeros: bool) -> float:
    quotient = np.float32(w / scale)
    if isinstance(elements, Codebook):
        numbers = np.unique(np.array(elements.numbers, np.float32))
        borders = (numbers[1:] + numbers[:-1]) / np.float32(2)
        return float(numbers[(borders < quotient).sum()] * scale)
    if elements.bits == 8 and not elements.affine and elements.name != "s8":
        most = elements.greatest
        code = torch.tensor(np.clip(quotient, -most, most)).to(elements.dtype)
        return float(np.float32(code.float().item()) * scale)
    middle = zero if zeros else 2.0 ** (elements.bits - 1)
    code = np.clip(np.rint(quotient) + middle, 0, 2**elements.bits - 1)
    return float(np.float32(code - middle) * scale)


# -- gradients -----------------------------------------------------------------------------------


def lsq(format: ScaledFormat, w: Tensor, scale: Tensor, zero: Tensor | None, passes: bool) -> Tensor:
    """LSQ's own definition in float64: what rounds is detached, the rest differentiated by torch."""
    n, k = w.shape
    elements = format.elements
    s = scale.repeat_interleave(format.granularity.height(n), 0)[:n]
    s = s.repeat_interleave(format.granularity.width(k), 1)[:, :k]
    z: Tensor | float = elements.zero
    if zero is not None:
        z = zero.repeat_interleave(format.granularity.width(k), 1)[:, :k]
    quotient = w / s
    exact = (w.detach().float() / s.detach().float()).double()
    if isinstance(elements, Codebook):
        low, high = min(elements.numbers), max(elements.numbers)
    elif elements.affine or elements.name == "s8":
        quotient, low, high = quotient + z, 0, elements.count - 1
        exact = exact.round() + (z if isinstance(z, float) else z.detach())
    else:
        low, high = -elements.greatest, elements.greatest
    inside = (exact >= low) & (exact <= high)
    ends = torch.where(exact < low, float(low), float(high))
    chosen = torch.where(inside, quotient, ends)
    found = elements.nearest(
        w.detach().float(), s.detach().float(), z if isinstance(z, float) else z.detach().float()
    )
    value = elements.value(found, 0.0).double()
    rounded = chosen + (value - chosen).detach()
    y = s * (rounded - (z if elements.affine or elements.name == "s8" else 0))
    if passes:
        y = y + torch.where(inside, 0, w - w.detach())
    return y


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("elements", ELEMENTS)
def test_gradients_are_those_of_learned_steps(elements: str, passes: bool, rng: np.random.Generator) -> None:
    for format in some(rng, 8, elements=ELEMENTS[elements], scales=Scales()):
        w = weight(rng)
        n, k = w.shape
        tiles = (format.granularity.bands(n), format.granularity.groups(k))
        scale = (torch.rand(tiles) + 0.3) * float(w.abs().median() + 1e-3) / (0.2 * format.elements.greatest)
        count = format.elements.count
        zero = torch.randint(count, tiles).float() if format.zero_points else None
        dy = torch.randn(n, k)
        given = [t.clone().requires_grad_() for t in (w, scale, zero) if t is not None]
        wide = [t.double().requires_grad_() for t in (w, scale, zero) if t is not None]
        outside = "pass" if passes else "zero"
        shaped = [t.reshape(format.granularity.shape(n, k)) for t in given[1:]]
        y = fake_quant(given[0], format, *shaped, outside=outside)
        expected = lsq(format, wide[0], wide[1], wide[2] if zero is not None else None, passes)
        got = torch.autograd.grad(y, given, dy)
        exact = torch.autograd.grad(expected, wide, dy.double())
        for i, (g, e) in enumerate(zip(got, exact, strict=True)):
            bound = 1e-5 * float(e.abs().max() + (dy.abs().sum() if i else 0))
            assert float((g - e).abs().max()) <= bound, (format, i)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_torchs_own_ops_do_the_same(dtype: torch.dtype, rng: np.random.Generator) -> None:
    """What runs on devices without a kernel."""
    for format in some(rng, 60):
        w = weight(rng, dtype)
        tiles = (format.granularity.bands(w.shape[0]), format.granularity.groups(w.shape[1]))
        here, there = w.clone().requires_grad_(), w.clone().requires_grad_()
        dy = torch.randn(w.shape).to(dtype)
        y = fake_quant(here, format)
        same = composed._compose(there, format, None, None, True, format.scales.dtype or dtype)
        assert torch.equal(y, same)
        y.backward(dy)
        same.backward(dy)
        assert torch.equal(here.grad, there.grad)
        if format.scales.second_level:
            continue
        scale = torch.rand(tiles) * float(w.float().abs().max() + 1e-3) / format.elements.greatest
        zero = torch.randint(format.elements.count, tiles).float() if format.zero_points else None
        results = []
        for compose in (False, True):
            given = [t.clone().requires_grad_() for t in (w, scale, zero) if t is not None]
            if compose:
                stored = ScaledFormat(format.elements, format.granularity, zero_points=format.zero_points)
                y = composed._compose(given[0], stored, *(*given[1:], None)[:2], False, torch.float32)
            else:
                shape = format.granularity.shape(*w.shape)
                plain = ScaledFormat(format.elements, format.granularity, zero_points=format.zero_points)
                y = fake_quant(
                    given[0], plain, *(t.view(shape) for t in given[1:]), scale_dtype=torch.float32
                )
            results.append((y, *torch.autograd.grad(y, given, dy)))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
        for a, b in zip(results[0][2:], results[1][2:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_learned_scales_are_stored_ones() -> None:
    """A scale that has no float16 is rounded to one, and learns all the same."""
    w = torch.randn(4, 64, requires_grad=True)
    scale = (torch.rand(4, 2) * 0.1 + 0.1).requires_grad_()
    format = ScaledFormat(ELEMENTS["u4"], group(32), Scales(torch.float16))
    y = fake_quant(w, format, scale)
    assert torch.equal(y, fake_quant(w, format, scale.detach().half().float()))
    y.square().sum().backward()
    assert scale.grad is not None
    assert bool((scale.grad != 0).all())


@pytest.mark.usefixtures("row")
def test_nan_is_seen() -> None:
    for elements in ELEMENTS.values():
        w = torch.randn(3, 40)
        w[1, 5], w[2, 39] = torch.nan, torch.inf
        y = fake_quant(w, ScaledFormat(elements, group(16)))
        assert y[1, 5].isnan()
        assert y[0].isfinite().all()
        assert not y.isnan()[1, 16:].any()


@pytest.mark.usefixtures("row")
def test_threads_do_not_matter() -> None:
    w, dy = torch.randn(700, 130, requires_grad=True), torch.randn(700, 130)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        for granularity in (TENSOR, BLOCK, group(32)):
            scale = torch.full(granularity.shape(700, 130), 0.3, requires_grad=True)
            y = fake_quant(w, ScaledFormat(ELEMENTS["u3"], granularity), scale)
            dynamic = fake_quant(w, ScaledFormat(ELEMENTS["u3"], granularity))
            results.append((threads, granularity, y, dynamic, *torch.autograd.grad(y, (w, scale), dy)))
    torch.set_num_threads(before)
    for _, granularity, *got in results:
        first = next(r[2:] for r in results if r[1] == granularity)
        assert all(torch.equal(a, b) for a, b in zip(got, first, strict=True))


# -- what torch asks -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_opcheck(dtype: torch.dtype) -> None:
    w = torch.randn(6, 50).to(dtype).requires_grad_()
    numbers = torch.tensor([-1.0, 0.0, 1.0])
    scale, zero = torch.rand(6, 4, requires_grad=True), torch.ones(6, 4, requires_grad=True)
    for arguments in (
        (w, "u4", 1, 16),
        (w, "e4m3", 6, 50),
        (w, "u3", 1, 16, None, scale, zero, True),
        (w, "", 1, 16, numbers, scale),
    ):
        torch.library.opcheck(torch.ops.qcore.fake_quantize.default, arguments)


def test_compiles_once_for_all_sizes() -> None:
    format = SCHEMES["W4A16"]
    compiled = torch.compile(lambda w: fake_quant(w, format).sum(), fullgraph=True, backend="aot_eager")
    for n, k in ((16, 256), (24, 384), (40, 512)):
        w = torch.randn(n, k, requires_grad=True)
        compiled(w).backward()
        assert torch.equal(compiled(w), fake_quant(w, format).sum())
        assert w.grad is not None
        assert torch.equal(w.grad, torch.ones_like(w))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda w: fake_quant(w[0], SCHEMES["W4A16"]),
            r"w: expected float32, float16 or bfloat16 \[N, K\], got",
        ),
        (lambda w: fake_quant(w.double(), SCHEMES["W4A16"]), r"w: expected float32.* got torch.float64"),
        (
            lambda w: fake_quant(w, SCHEMES["W4A16"], outside="clip"),
            r"outside: expected one of zero, pass, got 'clip'",
        ),
        (
            lambda w: fake_quant(w, SCHEMES["W4A16"], torch.ones(3, 3)),
            r"scales: expected floats \[4, 1\], got",
        ),
        (
            lambda w: fake_quant(w, SCHEMES["W4A16_ASYM"], torch.ones(4, 1)),
            r"zeros: expected None exactly when",
        ),
        (lambda w: fake_quant(w, SCHEMES["W4A16"], None, torch.ones(4, 1)), r"zeros: expected None, because"),
        (lambda w: ops.fake_quantize(w, "u5", 1, 16), r"elements must be u2, .* got u5"),
        (lambda w: ops.fake_quantize(w, "u4", 0, 16), r"rows must be 1 or more, got 0"),
        (lambda w: ops.fake_quantize(w, "s8", 1, 16, zero_points=True), r"zero_points: expected false"),
        (lambda w: ops.fake_quantize(w, "u4", 1, 16, zero=torch.ones(4, 6)), r"zero must be None, because"),
        (
            lambda w: ops.fake_quantize(w, "u4", 1, 16, scale=torch.ones(4, 6), zero_points=True),
            r"zero must be float32",
        ),
        (lambda w: ops.fake_quantize(w, "u4", 1, 16, torch.ones(0)), r"numbers must be float32 of 1 .. 256"),
        (
            lambda w: ops.fake_quantize(w, "u4", 1, 16, scale_dtype=torch.int8),
            r"scale_dtype must be float32.* got int8",
        ),
    ],
)
def test_what_is_wrong_is_named(call: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        call(torch.randn(4, 96))


def test_nothing_is_nothing() -> None:
    for granularity in GRANULARITIES:
        w = torch.zeros(0, 32, requires_grad=True)
        y = fake_quant(w, ScaledFormat(ELEMENTS["u4"], granularity))
        assert y.shape == (0, 32)
        y.sum().backward()
        assert w.grad is not None


def test_methods_agree_with_it_where_they_round_plainly() -> None:
    """GPTQ's codes on its own grid, fake-quantized with its scales, are themselves."""
    w = torch.randn(16, 256)
    weight = resolve_method("rtn").quantize(w, None, SCHEMES["W3A16_ASYM"], torch.float32)
    scales, zeros = weight.tensors["scales"], weight.tensors["zeros"].float()
    assert torch.equal(
        fake_quant(weight.dequantize(), SCHEMES["W3A16_ASYM"], scales, zeros), weight.dequantize()
    )
