"""Calibration of static input scales: which inputs they are made of, who shares them, what goes wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from qcore.calibration.layers import calibrate
from qcore.formats import Activations, Float8, Format, Int8, IntGroup
from qcore.linears import linear_names
from qcore.methods import Awq, Gptq, InputStats, Method, Rtn
from qcore.quantization import quantize
from qcore.qweight import Inputs, QWeight

SYMMETRIC = Int8(Activations("int8", "tensor"))
ASYMMETRIC = Int8(Activations("int8", "tensor", symmetric=False))
FLOAT8 = Float8("tensor", Activations("e4m3", "tensor"))
METHODS = [Rtn(), Gptq(), Awq(keeps_divisors=False)]
SHARING = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def calibrated(
    model: nn.Module, format: Format, method: Method | None = None, ids: Tensor | None = None, **batch: Any
) -> dict[str, QWeight]:
    """The quantized layers of a model, whose weights become the dequantized ones."""
    seen: dict[str, QWeight] = {}
    formats = dict.fromkeys((n for n in linear_names(model) if "head" not in n), format)
    batches = [{"input_ids": part, **batch} for part in (tiny.tokens() if ids is None else ids).split(2)]
    with torch.no_grad():
        calibrate(model, formats, batches, method or Rtn(), seen.__setitem__)
    return seen


def inputs(model: nn.Module, ids: Tensor | None = None) -> dict[str, Tensor]:
    """What each linear layer reads, float64 [tokens, K]."""
    seen: dict[str, list[Tensor]] = {}

    def hook(name: str):  # type: ignore[no-untyped-def]
        return lambda module, args: seen.setdefault(name, []).append(args[0].flatten(0, -2).double())

    handles = [model.get_submodule(n).register_forward_pre_hook(hook(n)) for n in linear_names(model)]
    tiny.logits(model, tiny.tokens() if ids is None else ids)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def output_error(x: Tensor, w: Tensor, scale: float, zero: Tensor | None) -> float:
    """Squared error of x [tokens, K] @ w [N, K]^T where x is rounded, columns taken as independent."""
    offset = 0 if zero is None else int(zero)
    rounded = ((x / scale).round() + offset).clamp(-128, 127).sub(offset) * scale
    return float((rounded - x).square().sum(0) @ w.double().square().sum(0))


def least_error(x: Tensor, w: Tensor, symmetric: bool) -> float:
    """The least of many ranges, all of them tried."""
    low, high = float(x.min().clamp_max(0)), float(x.max().clamp_min(0))
    parts = [0.95**i for i in range(20)]
    if symmetric:
        return min(output_error(x, w, part * max(-low, high) / 127, None) for part in parts)
    steps = [((b * high - a * low) / 255, a * low) for a in parts for b in parts]
    return min(output_error(x, w, s, torch.tensor(-128 - end / s).round()) for s, end in steps)


@pytest.mark.parametrize("format", [SYMMETRIC, ASYMMETRIC, FLOAT8], ids=str)
@pytest.mark.parametrize("method", [Rtn(), Gptq()], ids=str)
def test_scales_are_those_of_the_inputs_behind_quantized_layers(format: Format, method: Method) -> None:
    model, original = tiny.make_model("llama"), tiny.make_model("llama")
    weights = calibrated(model, format, method)
    # The model now has the dequantized weights, so it sees again what calibration saw; with rtn a block is
    # measured once, before any of its own layers is quantized, so that only its first inputs are the same.
    compared = 0
    for name, x in inputs(model).items():
        if name not in weights or (isinstance(method, Rtn) and not name.endswith(SHARING[0])):
            continue
        scale, zero = weights[name].inputs.scale, weights[name].inputs.zero
        assert scale is not None
        if format is FLOAT8:
            assert float(scale) == pytest.approx(float(x.abs().max()) / 448, rel=1e-5)
            assert zero is None
        else:
            assert (zero is None) == (format is SYMMETRIC)
            parent, _, last = name.rpartition(".")
            same = next((names for names in SHARING if last in names), (last,))
            w = torch.cat([original.get_submodule(f"{parent}.{n}").weight for n in same]).detach()  # type: ignore[arg-type]
            # Of so few inputs the errors are not quite what those of many are on average.
            assert output_error(x, w, float(scale), zero) <= 1.15 * least_error(x, w, format is SYMMETRIC)
        compared += 1
    assert compared == (6 if isinstance(method, Rtn) else 14)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("format", [ASYMMETRIC, FLOAT8], ids=str)
def test_layers_that_read_one_tensor_share_its_scale(format: Format, method: Method) -> None:
    weights = calibrated(tiny.make_model("llama"), format, method)
    for block in range(2):
        for parent, names in zip(("self_attn", "mlp"), SHARING, strict=True):
            layers = [weights[f"model.layers.{block}.{parent}.{name}"] for name in names]
            scales, zeros = [w.inputs.scale for w in layers], [w.inputs.zero for w in layers]
            assert len({float(s) for s in scales}) == 1  # type: ignore[arg-type]
            assert len({None if z is None else int(z) for z in zeros}) == 1
    scales = {float(w.inputs.scale) for w in weights.values()}  # type: ignore[arg-type]
    # Where a range ends at one of few numbers, it may be that of another layer by chance.
    assert len(scales) == 8 if format is FLOAT8 else len(scales) > 4


@pytest.mark.parametrize("format", [SYMMETRIC, FLOAT8], ids=str)
def test_masked_tokens_do_not_count(format: Format) -> None:
    def model() -> nn.Module:
        planted = tiny.make_model("llama")
        planted.model.layers[0].input_layernorm.weight.data.fill_(1)  # type: ignore[index, union-attr]
        planted.get_input_embeddings().weight.data[5] = torch.eye(64)[0]  # type: ignore[operator, union-attr]
        return planted  # whose token 5 becomes 8 in one column

    ids = tiny.tokens()
    ids[ids == 5] = 6
    short, ids[:, 12:] = ids[:, :12].clone(), 5
    mask = torch.ones(2, ids.shape[1])
    name = "model.layers.0.self_attn.q_proj"
    whole = calibrated(model(), format, ids=ids, attention_mask=mask)[name].inputs.scale
    mask[:, 12:] = 0
    masked = calibrated(model(), format, ids=ids, attention_mask=mask)[name].inputs.scale
    expected = calibrated(model(), format, ids=short)[name].inputs.scale
    assert whole is not None
    assert masked is not None
    if format is FLOAT8:
        assert float(whole) == pytest.approx(8 / 448, rel=1e-3)
    assert float(masked) < 0.9 * float(whole)
    assert torch.equal(masked, expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", [SYMMETRIC, ASYMMETRIC], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_order_of_batches_and_threads_decide_nothing(format: Format, method: Method) -> None:
    weights = calibrated(tiny.make_model("llama"), format, method)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        turned = calibrated(tiny.make_model("llama"), format, method, ids=tiny.tokens().roll(2, 0))
    finally:
        torch.set_num_threads(threads)
    for name, weight in weights.items():
        assert torch.equal(weight.inputs.scale, turned[name].inputs.scale)  # type: ignore[arg-type]
        if format is ASYMMETRIC:
            assert torch.equal(weight.inputs.zero, turned[name].inputs.zero)  # type: ignore[arg-type]


def test_activations_do_not_move_codes() -> None:
    dynamic = calibrated(tiny.make_model("llama"), Int8(), Gptq())
    static = calibrated(tiny.make_model("llama"), SYMMETRIC, Gptq())
    for name, weight in dynamic.items():
        assert torch.equal(weight.dequantize(), static[name].dequantize())
        assert weight.inputs.scale is None


def test_rounding_without_static_scales_needs_no_data_and_with_them_the_same_codes() -> None:
    model = tiny.make_model("llama")
    quantize(model, "W8A8", "rtn")
    static = tiny.make_model("llama")
    quantize(static, "W8A8_STATIC", "rtn", tiny.tokens())
    layer, other = model.model.layers[0].mlp.up_proj, static.model.layers[0].mlp.up_proj
    assert torch.equal(layer.weight, other.weight)
    with pytest.raises(
        ValueError, match="calibration: this method needs token ids to calibrate on, got None; so do static"
    ):
        quantize(tiny.make_model("llama"), "FP8_STATIC", "rtn")


def test_the_scale_of_divided_inputs() -> None:
    stats, generator = InputStats(16), torch.Generator().manual_seed(0)
    x, s = torch.randn(100, 16, generator=generator), torch.rand(16, generator=generator) + 0.1
    for part in x.split([1, 0, 99]):
        stats.add(part)
    twice = stats.divided_by(s).divided_by(s)
    low, high = twice.range
    # Nothing is known of the weights, so nothing is left out.
    assert twice.static_range(Activations("int8", "tensor")) == (low, high)
    assert float(low) == pytest.approx(float((x / s / s).min()))
    assert float(high) == pytest.approx(float((x / s / s).max()))
    positive = InputStats(16, moments=False)
    positive.add(x.abs() + 1)
    assert float(positive.range[0]) == 0
    assert float(positive.range[1]) == pytest.approx(float(x.abs().max() + 1))


class Half(nn.Module):
    """Two layers of which one is never reached."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, input: Tensor) -> Tensor:
        return self.used(input)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:Half is no simple chain")
def test_layers_without_inputs_have_no_scale() -> None:
    batch = {"input": torch.randn(4, 32)}
    with pytest.raises(
        ValueError, match="idle: no calibration token reached this layer, so its inputs have no"
    ):
        quantize(Half(), "W8A8_STATIC", "rtn", [batch])

    def mixed(layer: Any) -> Format:
        return SYMMETRIC if layer.name == "used" else IntGroup(4)

    with pytest.warns(UserWarning, match="idle: no calibration token reached"):
        quantize(Half(), mixed, "gptq", [batch])
    model = quantize(Half(), mixed, "rtn", [batch])  # which needs no inputs for the other layer
    assert model.used.to_qweight().inputs.scale is not None  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_inputs_that_are_no_numbers(method: str) -> None:
    model = tiny.make_model("llama")
    model.model.layers[1].input_layernorm.weight.data[3] = torch.inf
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.q_proj: calibration gives this layer NaN"):
        quantize(model, "W8A8_STATIC", method, tiny.tokens())


@pytest.mark.parametrize(
    ("format", "scale", "zero", "message"),
    [
        (
            Int8(),
            torch.ones(1),
            None,
            "inputs.scale: expected None, because the activations .* are not static",
        ),
        (IntGroup(8, True, -1), torch.ones(1), None, "inputs.scale: expected None"),
        (SYMMETRIC, torch.ones(2), None, r"inputs.scale: expected a float \[1\], got torch.float32 \[2\]"),
        (SYMMETRIC, torch.ones(1).int(), None, r"inputs.scale: expected a float \[1\], got torch.int32"),
        (SYMMETRIC, torch.ones(1), torch.zeros(1).int(), "inputs.zero: expected None exactly when"),
        (ASYMMETRIC, torch.ones(1), None, "inputs.zero: expected None exactly when"),
        (ASYMMETRIC, None, torch.zeros(1).int(), r"inputs.scale: expected a float \[1\], got None"),
        (ASYMMETRIC, torch.ones(1), torch.zeros(1), r"inputs.zero: expected int32 \[1\], got torch.float32"),
    ],
)
def test_bad_input_scales(format: Format, scale: Tensor | None, zero: Tensor | None, message: str) -> None:
    q = Rtn().quantize(torch.randn(8, 16), None, format, torch.float32)
    with pytest.raises(ValueError, match=message):
        QWeight(format, q.shape, q.tensors, Inputs(scale=scale, zero=zero))


@pytest.mark.parametrize("name", tiny.CONFIGS)
@pytest.mark.parametrize("scheme", ["W8A8", "W8A8_ASYM", "FP8_STATIC"])
def test_every_architecture(name: str, scheme: str) -> None:
    model = tiny.make_model(name)
    expected = tiny.logits(model)
    quantize(model, scheme, "rtn", tiny.tokens())
    assert tiny.distance(tiny.logits(model), expected) < (0.1 if scheme.startswith("W8A8") else 0.25)
