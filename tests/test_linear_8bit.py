"""QLinear on int8 and float8: the product of rounded inputs, and what moving and casting leave alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qcore import Activations, Float8, Format, Int8, QLinear, QWeight, Rtn
from qcore.schemes import SCHEMES

N, K = 150, 260
NAMES = ["W8A8", "W8A8_STATIC", "W8A8_ASYM", "FP8", "FP8_STATIC", "FP8_BLOCK", "W8A16_FP8"]
# Not among the schemes, but in checkpoints of others.
OTHERS: list[Format] = [
    Int8(Activations("int8", symmetric=False)),
    Float8("tensor"),
    Float8("channel", Activations("e4m3", "tensor")),
    Float8("tensor", None),
]
FORMATS = [SCHEMES[name] for name in NAMES] + OTHERS
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def make(format: Format, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> QWeight:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(N, K, generator=generator) * 0.1 * torch.rand(N, 1, generator=generator).exp()
    q = Rtn().quantize(w, None, format, dtype)
    inputs = format.activations
    if inputs is None or not inputs.static:
        return q
    scale, zero = inputs.static_scale(torch.tensor(-1.5), torch.tensor(2.5), dtype)  # clips
    return q.with_inputs(scale=scale, zero=zero)


def data(dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of different sizes, so that scales of the wrong row show; one of zeros."""
    x = torch.randn(2, 5, K, generator=torch.Generator().manual_seed(7))
    x *= torch.tensor([0.01, 1, 3, 100, 0])[:, None]
    return x.to(dtype)


def rounded(x: Tensor, weight: QWeight) -> Tensor:
    """The inputs as they are once rounded, float64: written from the formats' definitions."""
    inputs = weight.format.activations
    x = x.float()
    if inputs is None:
        return x.double()
    if inputs.granularity.columns == 128:
        parts = [rounded(p, QWeight(Float8(), (1, 1), make_one())) for p in x.split(128, -1)]
        return torch.cat(parts, -1)
    low, high = x.amin(-1, keepdim=True).clamp_max(0), x.amax(-1, keepdim=True).clamp_min(0)
    greatest = 127.0 if inputs.elements.name == "s8" else 448.0
    if weight.inputs.scale is not None:
        scale = weight.inputs.scale.float()
    else:
        scale = torch.maximum(-low, high) / greatest if inputs.symmetric else (high - low) / 255
        scale = torch.where(scale == 0, 1.0, scale)
    if inputs.elements.name == "e4m3":
        return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).double() * scale.double()
    if weight.inputs.zero is not None:
        zero = weight.inputs.zero.float()
    else:
        zero = torch.zeros(1) if inputs.symmetric else (-128 - low / scale).round().clamp(-128, 127)
    return (((x / scale).round() + zero).clamp(-128, 127) - zero).double() * scale.double()


def make_one() -> dict[str, Tensor]:
    return dict(Rtn().quantize(torch.ones(1, 1), None, Float8(), torch.float32).tensors)


def bits(tensor: Tensor) -> Tensor:
    """What torch can compare."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor


def same(a: QWeight, b: QWeight) -> bool:
    pairs = [(t, b.tensors[name]) for name, t in a.tensors.items()]
    pairs += [(a.inputs.scale, b.inputs.scale), (a.inputs.zero, b.inputs.zero)]  # type: ignore[list-item]
    return all(
        (x is None and y is None) or (x.dtype == y.dtype and torch.equal(bits(x), bits(y))) for x, y in pairs
    )


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_forward_is_the_product_of_rounded_inputs(format: Format, bias: bool, dtype: torch.dtype) -> None:
    weight = make(format)
    b = torch.randn(N, generator=torch.Generator().manual_seed(1)) if bias else None
    layer, x = QLinear(weight, b).to(dtype), data(dtype)
    shift = torch.zeros(1) if b is None else b.to(dtype).double()
    w = weight.dequantize().double()
    expected = rounded(x, weight) @ w.T + shift
    y = layer(x)
    assert y.dtype == dtype
    assert y.shape == (2, 5, N)

    def error(reference: Tensor, inputs: Tensor) -> float:
        """Relative to the sums of magnitudes, which rounding errors follow."""
        size = (inputs.abs() @ w.abs().T).amax(-1, keepdim=True) + shift.abs().max() + 1e-3
        return float(((layer(x).double() - reference).abs() / size).max())

    assert error(expected, rounded(x, weight)) < TOLERANCE[dtype]
    exact = x.double() @ w.T + shift
    if format.activations is not None:  # rounding is seen, so that the switch is known to do something
        assert error(exact, x.double()) > 1e-4
    layer.float_activations = True
    assert error(exact, x.double()) < TOLERANCE[dtype]


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_is_lost_on_the_way_back(format: Format, dtype: torch.dtype) -> None:
    weight = make(format, dtype)
    layer = QLinear(weight)
    assert same(weight, layer.to_qweight())
    assert torch.equal(layer.weight, weight.dequantize(dtype))
    assert layer.weight.dtype == dtype


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_casting_moves_no_scale(format: Format) -> None:
    weight = make(format)
    layer = QLinear(weight, torch.randn(N))
    y = layer(data())
    layer.half().to(torch.bfloat16).float().to("cpu")
    assert same(weight, layer.to_qweight())
    scales = {t.dtype for name, t in layer.named_buffers() if "scale" in name}
    assert scales == {torch.bfloat16 if format.activations is None else torch.float32}
    assert (layer(data()) - y).abs().max() < 0.02  # the bias alone was rounded


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_state_copies_and_meta(format: Format) -> None:
    layer, x = QLinear(make(format), torch.randn(N)), data()
    y = layer(x)
    other = QLinear(make(format, seed=5), torch.zeros(N))
    assert not torch.equal(other(x), y)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), y)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    moved = copy.deepcopy(layer).to("meta")
    assert {t.device.type for t in moved.state_dict().values()} == {"meta"}
    moved.to_empty(device="cpu").load_state_dict(layer.state_dict())
    assert torch.equal(moved(x), y)
    assert same(moved.to_qweight(), layer.to_qweight())


@pytest.mark.parametrize("format", [SCHEMES["W8A8_ASYM"], SCHEMES["FP8_BLOCK"]], ids=str)
def test_inputs_are_divided(format: Format) -> None:
    weight = make(format)
    s = torch.rand(K, generator=torch.Generator().manual_seed(2)) + 0.5
    scaled = weight.with_inputs(divisor=s)
    layer, x = QLinear(scaled), data()
    assert torch.equal(layer(x), QLinear(weight)(x / s))
    assert torch.equal(layer.to_qweight().dequantize(), weight.dequantize() / s)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_whole(name: str) -> None:
    layer = nn.Sequential(QLinear(make(SCHEMES[name])), nn.ReLU())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(data()), layer(data()))


def test_a_row_of_x_does_not_depend_on_the_others() -> None:
    for name in NAMES:
        layer, x = QLinear(make(SCHEMES[name])), data()
        if SCHEMES[name].activations is not None:  # torch's own product promises nothing
            assert torch.equal(layer(x)[1, 2], layer(x[1, 2]))


def test_static_scales_are_wanted() -> None:
    for name in ("W8A8_STATIC", "W8A8_ASYM", "FP8_STATIC"):
        bare = Rtn().quantize(torch.randn(8, 16), None, SCHEMES[name], torch.float32)
        with pytest.raises(ValueError, match="needs a static input scale; quantize it with calibration"):
            QLinear(bare)


def test_repr_says_what_it_is() -> None:
    assert "int8 per row, inputs int8 static per tensor with zero point, bias=False" in repr(
        QLinear(make(SCHEMES["W8A8_ASYM"]))
    )
    assert "e4m3 128x128, inputs e4m3 dynamic per block" in repr(QLinear(make(SCHEMES["FP8_BLOCK"])))
    assert "e4m3 per row, bias=False" in repr(QLinear(make(SCHEMES["W8A16_FP8"])))
