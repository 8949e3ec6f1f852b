"""Calibration: folding, block-by-block statistics, and quantizing whole models of every architecture."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny
from qcore import QLinear, quantize
from qcore.calibration.block import Group, stages_of
from qcore.calibration.layers import calibrate
from qcore.calibration.passes import Passes, no_caches
from qcore.calibration.stacks import find_blocks
from qcore.formats import IntGroup
from qcore.linears import linear_names
from qcore.methods import Awq, Gptq, InputStats, Rtn
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

    def divisor(self, weights, stats, format, scale_dtype, tied=None):  # type: ignore[no-untyped-def]
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

    method = Stretch(inner=Exact(), keeps_divisors=False)
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
    has_norm_bias = name in ("phi", "gpt-neox", "bert", "opt", "gptj", "bloom")
    bound = 2e-3 if dtype == torch.bfloat16 and has_norm_bias else 2e-5
    assert tiny.distance(tiny.logits(folded), expected) < bound
    assert moved >= 4, "no fold was found"
    if name in tiny.FULLY_FOLDABLE:
        assert moved == len(seen)


@pytest.mark.parametrize("name", ["gpt-neox", "phi", "gemma", "llama"])
def test_folds_are_judged_token_by_token(name: str) -> None:
    """One token with a massive activation, as large models have, must not hide what a fold does to others."""
    model, original = tiny.make_model(name), tiny.make_model(name)
    for each in (model, original):
        each.get_input_embeddings().weight.data[0, 3] = 1e4
    ids = tiny.tokens()
    ids[:, 0] = 0
    ids[:, 1:][ids[:, 1:] == 0] = 1
    formats = dict.fromkeys((n for n in linear_names(model) if "head" not in n), FORMAT)

    def emit(name: str, weight: QWeight) -> None:
        model.get_submodule(name).weight.data = weight.dequantize()

    with torch.no_grad():
        calibrate(model, formats, [{"input_ids": ids}], Stretch(inner=Exact(), keeps_divisors=False), emit)
    after, before = tiny.logits(model, ids)[:, 1:], tiny.logits(original, ids)[:, 1:]
    assert tiny.distance(after, before) < 1e-3


def test_a_scale_is_not_folded_into_layers_that_stay_as_they_are() -> None:
    """They are kept in bfloat16 and would be rounded."""
    model, original = tiny.make_model("llama", torch.bfloat16), tiny.make_model("llama", torch.bfloat16)
    ignored = ("lm_head", "v_proj", "up_proj")
    formats = dict.fromkeys((n for n in linear_names(model) if not n.endswith(ignored)), FORMAT)
    seen: dict[str, QWeight] = {}
    method = Stretch(inner=Exact(), keeps_divisors=False)
    with torch.no_grad():
        calibrate(model, formats, [{"input_ids": tiny.tokens()}], method, seen.__setitem__)
    for layer in ("v_proj", "up_proj"):
        for name, module in model.named_modules():
            if name.endswith(layer):
                assert torch.equal(module.weight, original.get_submodule(name).weight), name


def test_stages_keep_the_layers_of_a_block_apart() -> None:
    def groups(*names: str) -> list[Group]:
        return [Group([name], []) for name in names]

    def stages(prefix: str, *names: str) -> list[list[str]]:
        return [[g.names[0] for g in stage] for stage in stages_of(groups(*names), prefix)]

    assert stages("layers.0", "layers.0.fc1", "layers.0.fc2") == [["layers.0.fc1"], ["layers.0.fc2"]]
    experts = ["m.3.experts.0.up", "m.3.experts.0.down", "m.3.experts.1.up", "m.3.experts.1.down"]
    assert stages("m.3", *experts) == [[experts[0], experts[2]], [experts[1], experts[3]]]
    assert stages("", "h.0.q", "h.1.q") == [["h.0.q"], ["h.1.q"]]


class Shared(nn.Module):
    """A layer that is used twice, and one that is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(input=self.a(self.a(x).relu()))


@pytest.mark.parametrize("method", ["gptq", "awq+gptq"])
def test_shared_layers_and_keyword_calls(method: str) -> None:
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(64, 32)
    expected = model(x).detach()
    seen: list[str] = []
    from qcore.methods import resolve_method

    with torch.no_grad():
        formats = {"a": IntGroup(8, False, 16), "b": IntGroup(8, False, 16)}
        emit = lambda name, weight: seen.append(name)  # noqa: E731
        calibrate(model, formats, [{"x": x}], resolve_method(method), emit)
    assert seen == ["a", "b"]
    assert tiny.distance(model(x).detach(), expected) < 0.5


def test_masked_tokens_do_not_count() -> None:
    ids = tiny.tokens()
    mask = torch.ones_like(ids)
    mask[:, 17:] = 0
    counts: list[int] = []

    class Spy(Rtn):
        needs_calibration = True

        def quantize(self, w, stats, format, scale_dtype):  # type: ignore[no-untyped-def]
            counts.append(stats.tokens)
            return super().quantize(w, stats, format, scale_dtype)

    batches = [{"input_ids": ids, "attention_mask": mask}]
    quantize(tiny.make_model("llama"), "W8A16", Spy(), batches, ignore=(), group_size=32)
    assert set(counts) == {4 * 17}


@pytest.mark.parametrize("method", ["imatrix", "gptq", "awq", "awq+gptq"])
def test_activations_that_are_no_numbers(method: str) -> None:
    model = tiny.make_model("llama", torch.bfloat16).train()
    model.model.layers[1].eval()
    model.model.embed_tokens.weight.data[5] = torch.inf
    ids = tiny.tokens()
    ids[0, 3] = 5
    with pytest.raises(ValueError, match="calibration gives this layer NaN or infinity as input"):
        quantize(model, "W4A16", method, calibration=ids, group_size=32)
    # The model still runs, in its own dtype and modes.
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.training
    assert not model.model.layers[1].training
    assert torch.isfinite(tiny.logits(model.eval(), torch.tensor([[1, 2, 3]]))).all()


@pytest.mark.parametrize("name", ["gptj", "llama"])
def test_the_head_sees_every_token(name: str) -> None:
    model = tiny.make_model(name)
    expected = tiny.logits(model)
    quantize(model, "W8A16_ASYM", "gptq", calibration=tiny.tokens(), ignore=(), group_size=32)
    assert tiny.distance(tiny.logits(model), expected) < 0.03


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_architecture_is_a_chain(name: str, recwarn: pytest.WarningsRecorder) -> None:
    quantize(tiny.make_model(name), "W4A16", "gptq", calibration=tiny.tokens(), group_size=32)
    assert not [w for w in recwarn if "chain" in str(w.message)]


@pytest.mark.parametrize("name", tiny.CONFIGS)
@pytest.mark.parametrize("method", ["rtn", "imatrix", "gptq", "awq", "awq+gptq"])
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
        assert len(names) == model.config.num_hidden_layers, name
        with torch.no_grad(), no_caches(model):
            last: list[torch.Tensor] = []
            handle = model.get_submodule(names[-1]).register_forward_hook(
                lambda module, args, out, last=last: last.append(out[0] if isinstance(out, tuple) else out)
            )
            tiny.logits(model, tiny.tokens())
            handle.remove()
            passes = Passes(model, [{"input_ids": tiny.tokens()}])
            for part, (call,) in passes.stopping_at(names):
                looked = call.look()
                if part != names[-1]:
                    call.finish()
        looked = looked[0] if isinstance(looked, tuple) else looked
        torch.testing.assert_close(looked, last[0], msg=name)


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
    assert any(m.divisor is not None for m in kept.modules() if isinstance(m, QLinear))
    assert tiny.distance(tiny.logits(kept), expected) < 0.3
    without = tiny.make_model("gpt-neox")
    quantize(without, "W4A16", Awq(keeps_divisors=False), calibration=tiny.tokens(), group_size=32)
    assert all(m.divisor is None for m in without.modules() if isinstance(m, QLinear))


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
        ({"calibration": [torch.zeros(2, 8)]}, "calibration: expected integer token ids"),
        ({"calibration": ["text"]}, "tokenizer: calibration holds texts, .* got None"),
        ({"calibration": [1.5]}, "item 0: expected .* token ids.* or keyword arguments .* got a float"),
        ({"calibration": torch.full((2, 8), 64)}, "token ids of 0 to 64, exclusive, got 64 to 64"),
        ({"ignore": ("re:.*",)}, "no linear layer is left to quantize"),
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
