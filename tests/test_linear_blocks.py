"""QLinear with weights in the block formats of GGUF, alone and in models."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tiny
from qcore import BlockFormat, Inputs, QLinear, QWeight, Rtn, ops, quantize, save
from qcore.formats import Format
from qcore.schemes import Layer
from test_kquant import INFO, TYPES

N = 40


def make(type: str, blocks: int = 2) -> QWeight:
    w = torch.randn(N, blocks * INFO[type]["elements"], generator=torch.Generator().manual_seed(0)) * 0.1
    return Rtn().quantize(w, None, BlockFormat(type), torch.float32)


def exact(layer: QLinear) -> QLinear:
    layer.float_activations = True
    return layer


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_forward_is_the_dequantized_product(type: str, bias: bool, dtype: torch.dtype) -> None:
    weight = make(type)
    b = torch.randn(N) if bias else None
    layer = QLinear(weight, b).to(dtype)
    x = torch.randn(2, 3, weight.shape[1]).to(dtype)
    expected = x.double() @ weight.dequantize().double().T + (0 if b is None else b.to(dtype).double())
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert not layer.float_activations
    assert tiny.distance(layer(x), expected) < 0.02
    torch.testing.assert_close(exact(layer)(x).double(), expected, rtol=tolerance, atol=tolerance)


# Invariant 8 of calibration: what a method simulates is what the kernel multiplies by.
@pytest.mark.parametrize("type", TYPES)
def test_fake_quantization_is_the_packed_weight_bit_for_bit(type: str) -> None:
    k = 2 * INFO[type]["elements"]
    w = torch.randn(24, k, generator=torch.Generator().manual_seed(1)) * 0.1
    grid = BlockFormat(type).fit(w, torch.float32)
    fake = grid.points(torch.arange(k)).round(w.T, slice(None))[1].T
    weight = QWeight(BlockFormat(type), (24, k), grid.store(grid.round(w)))
    layer = exact(QLinear(weight))
    assert torch.equal(layer.to_qweight().tensors["blocks"], weight.tensors["blocks"])
    assert torch.equal(layer.weight, fake)
    assert torch.equal(layer(torch.eye(k)).T, fake)  # the kernel itself: a column for each unit vector


def test_inputs_are_divided() -> None:
    weight = make("Q4_0")
    s = torch.rand(64) + 0.5
    layer, x = (
        exact(QLinear(QWeight(weight.format, weight.shape, weight.tensors, Inputs(s)))),
        torch.randn(5, 64),
    )
    torch.testing.assert_close(layer(x), x / s @ weight.dequantize().T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(x), x @ layer.weight.T, rtol=1e-5, atol=1e-5)


def test_state_and_copies() -> None:
    layer, x = QLinear(make("Q3_K"), torch.randn(N)), torch.randn(3, 512)
    other = QLinear(make("Q3_K"), torch.zeros(N))
    other.qweight.zero_()
    other.load_state_dict(layer.state_dict())
    assert set(layer.state_dict()) == {"qweight", "bias"}
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert repr(layer) == "QLinear(in_features=512, out_features=40, Q3_K, bias=True)"
    before = layer.qweight
    layer.half().to(torch.bfloat16)
    assert layer.bias is not None
    assert layer.bias.dtype == torch.bfloat16
    assert torch.equal(layer.qweight, before)


def test_float_activations_reach_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def gemm(x: Tensor, *packed: object, bias: Tensor | None, float_activations: bool) -> Tensor:
        seen.append((packed[1:], float_activations))
        return x

    monkeypatch.setattr("qcore.nn.products.ops.kquant_gemm", gemm)
    layer, x = QLinear(make("Q4_K")), torch.randn(3, 512)
    layer(x)
    layer.float_activations = True
    layer(x)
    copy.deepcopy(layer)(x)
    assert seen == [(("Q4_K", N, 512), on) for on in (False, True, True)]
    assert layer.packed[0] is layer.qweight


def test_from_meta_and_back() -> None:
    source = QLinear(make("Q5_K"), torch.randn(N))
    state, x = source.state_dict(), torch.randn(3, 512)
    layer = copy.deepcopy(source).to("meta")
    assert {tensor.device.type for tensor in layer.state_dict().values()} == {"meta"}
    layer.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(layer(x), source(x))


@pytest.mark.parametrize("where", ["unpack", "pack"])
def test_a_layer_that_cannot_be_packed_anew_stays_as_it_was(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = QLinear(make("Q6_K"), torch.randn(N)), torch.randn(3, 512)
    state, y = layer.state_dict(), layer(x)

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no kernels there")

    moved = copy.deepcopy(layer).to("meta")
    with monkeypatch.context() as patched:
        patched.setattr(f"qcore.nn.products.ops.kquant_{where}", fail)
        with pytest.raises(RuntimeError, match="no kernels there"):
            moved.to_empty(device="cpu")
        assert {tensor.device.type for tensor in moved.state_dict().values()} == {"meta"}
    moved.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(moved(x), y)


def test_compiles_whole() -> None:
    layer, x = nn.Sequential(QLinear(make("Q4_K")), nn.ReLU()), torch.randn(3, 512)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), layer(x))


# -- models ----------------------------------------------------------------------------------------


def formats(model: nn.Module) -> dict[str, str]:
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QLinear)}
    return {name: layer.format.name for name, layer in layers.items()}


@pytest.mark.filterwarnings("ignore:the quantized model cannot be saved")
@pytest.mark.parametrize("method", ["rtn", "imatrix", "gptq", "awq"])
@pytest.mark.parametrize("scheme", ["Q8_0", "q8_0", BlockFormat("Q8_0")], ids=str)
def test_quantizes_a_model(scheme: str | Format, method: str) -> None:
    model = tiny.make_model("llama")
    expected = tiny.logits(model)
    quantize(model, scheme, method, calibration=tiny.tokens())
    assert set(formats(model).values()) == {"Q8_0"}
    assert 0 < tiny.distance(tiny.logits(model), expected) < 0.03


def test_layers_that_do_not_fit_get_narrower_blocks() -> None:
    model = tiny.make_model("llama")  # with rows of 64 and 96
    quantize(model, "Q4_K", "rtn")
    assert set(formats(model).values()) == {"Q5_0"}


def test_a_scheme_sees_the_layer_and_may_leave_it() -> None:
    seen: list[Layer] = []

    def scheme(layer: Layer) -> Format | None:
        seen.append(layer)
        if layer.block == 1 and layer.name.endswith("down_proj"):
            return None
        return BlockFormat("Q5_1" if layer.name.endswith("v_proj") else "Q4_0")

    model = tiny.make_model("llama")
    quantize(model, scheme, "rtn", ignore=())
    chosen = formats(model)
    assert chosen["model.layers.0.self_attn.v_proj"] == "Q5_1"
    assert chosen["model.layers.0.mlp.down_proj"] == "Q4_0"
    assert "model.layers.1.mlp.down_proj" not in chosen
    assert seen[0] == Layer("model.layers.0.self_attn.q_proj", (64, 64), 0, 2)
    assert seen[-1] == Layer("lm_head", (tiny.VOCABULARY, 64), None, 2)


def test_group_sizes_are_not_for_blocks() -> None:
    with pytest.raises(ValueError, match="group_size: the scheme Q4_0 has its own, got 32"):
        quantize(tiny.make_model("llama"), "Q4_0", "rtn", group_size=32)


def test_folders_of_compressed_tensors_cannot_hold_blocks(tmp_path: Path) -> None:
    model = tiny.make_model("llama")
    quantize(model, "Q4_0", "rtn")
    with pytest.raises(ValueError, match="has no format Q4_0; a GGUF file stores it"):
        save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_cpu_kernel_is_the_ops() -> None:
    """The layer packs nothing of its own."""
    weight, x = make("Q4_1"), torch.randn(3, 64)
    packed = ops.kquant_pack(weight.tensors["blocks"], "Q4_1", 64)
    assert torch.equal(QLinear(weight)(x), ops.kquant_gemm(x, packed, "Q4_1", N, 64))
