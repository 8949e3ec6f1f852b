"""Calibration: folding, block-by-block statistics, and quantizing whole models of every architecture."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny
from qcore import QLinear, quantize
from qcore.blocks import find_blocks, record_calls
from qcore.calibrate import calibrate
from qcore.formats import IntGroup
from qcore.methods import Awq, Gptq, InputStats, Rtn
from qcore.models import linear_names
from qcore.qweight import QWeight

FORMAT = IntGroup(4, False, 32)


class Exact(Rtn):
    """Rounds nothing: shows what calibration alone does to a model."""

    def __init__(self) -> None:
        pass

    def quantize(  # type: ignore[override]
        self, w: torch.Tensor, stats: InputStats | None, format: IntGroup, scale_dtype: torch.dtype
    ) -> QWeight:
        return _Verbatim(w)  # type: ignore[return-value]


class _Verbatim:
    def __init__(self, w: torch.Tensor) -> None:
        self.w = w

    def dequantize(self) -> torch.Tensor:
        return self.w.float()


class Stretch(Awq):
    """AWQ with large scales instead of searched ones, and no rounding."""

    def input_scale(self, weights, stats, format, scale_dtype, tied=None):  # type: ignore[no-untyped-def]
        generator = torch.Generator().manual_seed(weights[0].shape[0])
        s = torch.rand(weights[0].shape[1], generator=generator) * 4 + 0.25
        if tied is not None:
            shared = torch.ones(int(tied.max()) + 1)
            shared[tied] = s
            s = shared[tied]
        return s


# Invariant 6.
@pytest.mark.parametrize("name", tiny.CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folding_leaves_the_float_model_unchanged(name: str, dtype: torch.dtype) -> None:
    model = tiny.make_model(name, dtype)
    wide = tiny.make_model(name, dtype).float()
    expected = tiny.logits(wide)
    formats = dict.fromkeys((n for n in linear_names(model) if "head" not in n), FORMAT)
    seen: dict[str, torch.Tensor] = {}

    def emit(name: str, weight: QWeight) -> None:
        seen[name] = weight.dequantize()

    method = Stretch(inner=Exact(), act_scale=False)
    batches = [{"input_ids": tiny.tokens()}]
    with torch.no_grad():
        calibrate(model, formats, batches, method, emit)
    folded = model.float()
    moved = 0
    for layer, w in seen.items():
        linear = folded.get_submodule(layer)
        moved += not torch.allclose(w, wide.get_submodule(layer).weight)
        linear.weight.data = w
    # Norm weights that are kept in bfloat16 are rounded, but the scale that is used is the one that they
    # really absorbed, so even then nothing but float32 rounding moves. (A LayerNorm's bias is rounded too.)
    has_norm_bias = name in ("phi", "gpt-neox", "bert")
    bound = 2e-3 if dtype == torch.bfloat16 and has_norm_bias else 2e-5
    assert tiny.distance(tiny.logits(folded), expected) < bound
    assert moved >= 4, "no fold was found"
    if name in tiny.FULLY_FOLDABLE:
        assert moved == len(seen)


@pytest.mark.parametrize("name", tiny.CONFIGS)
@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "awq+gptq"])
def test_every_architecture(name: str, method: str) -> None:
    model = tiny.make_model(name)
    expected = tiny.logits(model)
    quantize(model, "W8A16_ASYM", method, calibration=tiny.tokens(), group_size=32)
    layers = [m for m in model.modules() if isinstance(m, QLinear)]
    linears = [n for n, m in model.named_modules() if type(m) is nn.Linear]
    assert layers
    assert all(n.endswith(("lm_head", "embed_out")) for n in linears) or name in (
        "bert",
        "gpt-neox",
    )
    assert 0 < tiny.distance(tiny.logits(model), expected) < 0.03


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models(dtype: torch.dtype) -> None:
    model = tiny.make_model("llama", dtype)
    expected = tiny.logits(model)
    quantize(model, "W8A16", "awq+gptq", calibration=tiny.tokens(), group_size=32)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.model.layers[0].mlp.up_proj.scales.dtype == dtype
    assert 0 < tiny.distance(tiny.logits(model), expected) < 0.05


def test_calibrated_methods_beat_rounding() -> None:
    errors = {}
    for method in ("rtn", "gptq", "awq+gptq"):
        model = tiny.make_model("llama")
        ids = tiny.tokens(32, seed=5)
        expected = tiny.logits(model, ids)
        quantize(model, "W3A16", method, calibration=tiny.tokens(64), group_size=32)
        errors[method] = tiny.distance(tiny.logits(model, ids), expected)
    assert errors["gptq"] < 0.9 * errors["rtn"]
    assert errors["awq+gptq"] < 0.9 * errors["rtn"]


def test_layers_are_calibrated_behind_quantized_ones() -> None:
    """The statistics of each layer are those of its inputs in the model quantized so far."""
    model = tiny.make_model("llama")
    ids = tiny.tokens()
    grams: dict[str, torch.Tensor] = {}
    order: list[str] = []

    class Spy(Gptq):
        def quantize(self, w, stats, format, scale_dtype):  # type: ignore[no-untyped-def]
            grams[str(len(order))] = stats.gram
            return super().quantize(w, stats, format, scale_dtype)

    done: dict[str, QWeight] = {}

    def emit(name: str, weight: QWeight) -> None:
        order.append(name)
        done[name] = weight

    formats = dict.fromkeys((n for n in linear_names(model) if n != "lm_head"), IntGroup(2, True, 32))
    with torch.no_grad():
        calibrate(model, formats, [{"input_ids": ids}], Spy(), emit)
    for index in (4, len(order) - 1):  # gate_proj of the first block, down_proj of the last
        replay = tiny.make_model("llama")
        for name in order[:index]:
            if name.rpartition(".")[2] == "up_proj" and order[index].endswith("gate_proj"):
                continue
            replay.get_submodule(name).weight.data = done[name].dequantize()
        stats = InputStats(replay.get_submodule(order[index]).in_features)
        handle = replay.get_submodule(order[index]).register_forward_pre_hook(
            lambda module, args, stats=stats: stats.add(args[0])
        )
        tiny.logits(replay, ids)
        handle.remove()
        torch.testing.assert_close(grams[str(index)], stats.gram, rtol=1e-3, atol=1e-3)


def test_blocks_on_their_own_are_the_model() -> None:
    for name in tiny.CONFIGS:
        model = tiny.make_model(name)
        names = find_blocks(model, linear_names(model))
        assert len(names) == 2, name
        with torch.no_grad():
            calls = record_calls(model, names, [{"input_ids": tiny.tokens()}])
            assert calls is not None, name
            last: list[torch.Tensor] = []
            handle = model.get_submodule(names[-1]).register_forward_hook(
                lambda module, args, out, last=last: last.append(out[0] if isinstance(out, tuple) else out)
            )
            tiny.logits(model, tiny.tokens())
            handle.remove()
            for index in range(2):
                calls.hidden[0] = calls.run(model, index, 0)
        torch.testing.assert_close(calls.hidden[0], last[0], msg=name)


class NoBlocks(nn.Module):
    """Not a transformers model at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(32, 48), nn.LayerNorm(48), nn.Linear(48, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x).relu()))


@pytest.mark.parametrize("method", ["gptq", "awq", "awq+gptq"])
def test_any_module(method: str) -> None:
    torch.manual_seed(0)
    model, x = NoBlocks(), torch.randn(64, 32)
    expected = model(x).detach()
    quantize(model, "W8A16_ASYM", method, calibration=[{"x": x}], group_size=16)
    assert isinstance(model.first, QLinear)
    assert isinstance(model.second, QLinear)
    assert 0 < tiny.distance(model(x).detach(), expected) < 0.02


def test_a_quantized_head_leaves_the_tied_embedding_alone() -> None:
    model = tiny.make_model("llama-tied")
    embedding = model.model.embed_tokens.weight.detach().clone()
    expected = tiny.logits(model)
    quantize(model, "W4A16", "gptq", calibration=tiny.tokens(), ignore=(), group_size=32)
    assert isinstance(model.lm_head, QLinear)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert tiny.distance(tiny.logits(model), expected) < 0.5


def test_act_scale_stays_on_layers_that_nothing_can_absorb() -> None:
    kept = tiny.make_model("gpt-neox")
    expected = tiny.logits(kept)
    quantize(kept, "W4A16", "awq", calibration=tiny.tokens(), group_size=32)
    assert any(m.act_scale is not None for m in kept.modules() if isinstance(m, QLinear))
    assert tiny.distance(tiny.logits(kept), expected) < 0.3
    without = tiny.make_model("gpt-neox")
    quantize(without, "W4A16", Awq(act_scale=False), calibration=tiny.tokens(), group_size=32)
    assert all(m.act_scale is None for m in without.modules() if isinstance(m, QLinear))


def test_ignore_and_unreached_layers() -> None:
    model = tiny.make_model("llama")
    quantize(model, "W4A16", "rtn", ignore=("lm_head", "down_proj", r"re:.*layers\.0\..*"))
    quantized = [n for n, m in model.named_modules() if isinstance(m, QLinear)]
    assert len(quantized) == 6
    assert all(n.startswith("model.layers.1.") and "down_proj" not in n for n in quantized)

    model = NoBlocks()
    model.unused = nn.Linear(16, 16)
    with pytest.warns(UserWarning, match="unused: no calibration token reached this layer"):
        quantize(model, "W4A16", "gptq", calibration=[{"x": torch.randn(8, 32)}], group_size=16)
    assert isinstance(model.unused, QLinear)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheme": "W5A16"}, "scheme: expected one of W2A16, .*, got 'W5A16'"),
        ({"method": "magic"}, "method: expected one of rtn, .*, got 'magic'"),
        (
            {"calibration": None},
            "calibration: this method needs token ids to calibrate on, got None",
        ),
        ({"calibration": []}, "calibration: expected at least one sequence of tokens, got none"),
        ({"calibration": torch.zeros(0, 8, dtype=torch.long)}, "at least one sequence of tokens"),
        ({"calibration": torch.zeros(2, 8)}, "calibration: expected integer token ids"),
        ({"ignore": ("re:.*",)}, "no nn.Linear layer is left to quantize"),
        ({"group_size": 0}, "group_size: expected a positive number"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    model = tiny.make_model("llama")
    before = tiny.logits(model)
    with pytest.raises(ValueError, match=message):
        quantize(model, **{"calibration": tiny.tokens(), **arguments})  # type: ignore[arg-type]
    assert torch.equal(tiny.logits(model), before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_weights_that_are_no_numbers(bad: float, method: str) -> None:
    model = tiny.make_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = bad
    with pytest.raises(ValueError, match=r"model.layers.1.mlp.up_proj.weight: holds NaN or inf"):
        quantize(model, "W4A16", method, calibration=tiny.tokens(), group_size=32)
