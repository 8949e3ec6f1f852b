"""What a linear layer is, and what the report says of all that is none."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import gguf_cases
import tiny
from qcore import QLinear, quantize, quantize_gguf
from qcore.linears import as_linear, gates, is_linear, linear_names, matrix_shape
from qcore.report import LeftOut, QuantizationReport


class Renamed(nn.Linear):
    """Nothing but another name."""


class Written(nn.Linear):
    """The same product, spelled out."""

    def forward(self, input: Tensor) -> Tensor:
        y = input @ self.weight.T
        return y if self.bias is None else y + self.bias


class Scaled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Routed(nn.Linear):
    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(input), input


class Transposing(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).mT


class Failing(nn.Linear):
    def forward(self, input: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input) * gate


class Extended(Written):
    def __init__(self, k: int, n: int) -> None:
        super().__init__(k, n)
        self.gain = nn.Parameter(torch.ones(n))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Linear, Renamed, Written])
def test_what_multiplies_like_a_linear_layer_is_one(kind: type[nn.Linear], bias: bool) -> None:
    layer = kind(6, 4, bias=bias)
    called: list[object] = []
    layer.register_forward_hook(lambda *_: called.append(1))
    assert is_linear(layer)
    assert not called  # nobody's hooks see the trial
    assert is_linear(kind(6, 4, bias=bias, device="meta"))


@pytest.mark.parametrize("kind", [Scaled, Routed, Transposing, Failing, Extended])
def test_what_computes_something_else_is_none(kind: type[nn.Linear]) -> None:
    assert not is_linear(kind(6, 4))


def test_modules_that_only_look_like_it() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    assert isinstance(normed, nn.Linear)
    for module in (normed, nn.Embedding(4, 6), nn.LayerNorm(6), nn.Conv1d(6, 4, 1), nn.Bilinear(3, 3, 3)):
        assert not is_linear(module)


def test_transposed_layers_stand_as_linear_ones() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(12, 8), nn.GELU(), Conv1D(8, 12))
    model.append(model[0])
    assert [matrix_shape(model[i]) for i in (0, 2)] == [(12, 8), (8, 12)]
    x, before, modules = torch.randn(3, 8), copy.deepcopy(model.state_dict()), list(model)
    expected = model(x)
    with as_linear(model):
        assert [isinstance(m, nn.Linear) for m in model] == [True, False, True, True]
        assert model[0] is model[3]
        assert model[0].weight.shape == (12, 8)
        torch.testing.assert_close(model(x), expected)
        model[0].weight = nn.Parameter(model[0].weight * 2)
        model[2] = QLinear(_weight(model[2]), model[2].bias)
    assert model[0] is modules[0]
    assert model[3] is modules[0]
    assert torch.equal(model[0].weight, 2 * before["0.weight"])
    assert model[0].weight.is_contiguous()
    assert isinstance(model[2], QLinear)


def _weight(linear: nn.Linear) -> Any:
    from qcore.formats import IntGroup
    from qcore.methods import Rtn

    return Rtn().quantize(linear.weight, None, IntGroup(8, False, 4), torch.float32)


FALCON = {
    "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def falcon() -> nn.Module:
    torch.manual_seed(0)
    return tf.FalconForCausalLM(tf.FalconConfig(**FALCON)).eval()


def gpt2(layers: int = 2) -> nn.Module:
    torch.manual_seed(0)
    config = tf.GPT2Config(
        vocab_size=64, n_positions=64, n_embd=64, n_layer=layers, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = tf.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


@pytest.mark.parametrize("method", ["rtn", "imatrix", "gptq", "awq", "awq+gptq"])
@pytest.mark.parametrize("make", [falcon, gpt2])
def test_falcon_and_gpt2_with_every_method(make: Any, method: str) -> None:
    model, scheme = make(), "W8A16_ASYM"
    expected = tiny.logits(model)
    quantize(model, scheme, method, tiny.tokens(), group_size=32)
    assert sum(isinstance(m, QLinear) for m in model.modules()) == 8
    assert not any(type(m).__name__ in ("Conv1D", "FalconLinear") for m in model.modules())
    assert tiny.distance(tiny.logits(model), expected) < 0.03
    report = model.qcore_report
    assert isinstance(report, QuantizationReport)
    assert report.formats == {"int8 g32 asym": 8}
    assert report.share > 0.97


def test_gpt2_layers_that_are_ignored_stay_what_they_were() -> None:
    model, before = gpt2(), gpt2().state_dict()
    quantize(model, "W8A16", "gptq", tiny.tokens(), ignore=("lm_head", "c_proj"), group_size=32)
    for block in model.transformer.h:
        assert type(block.mlp.c_proj) is Conv1D
        assert type(block.mlp.c_fc) is QLinear
    for name, tensor in model.state_dict().items():
        if "c_proj" in name:
            assert torch.equal(tensor, before[name]), name
    left = model.qcore_report.left_out["transformer.h.0.mlp.c_proj"]
    assert left == LeftOut(4 * 64 * 64, "ignored", asked=True)


def test_a_failure_puts_transposed_layers_back() -> None:
    model, before = gpt2(), gpt2().state_dict()
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"h\.1\.mlp.c_fc.weight: holds NaN"):
        quantize(model, "W8A16", "rtn")
    assert type(model.transformer.h[0].mlp.c_fc) is Conv1D
    assert torch.equal(model.transformer.h[0].mlp.c_fc.weight, before["transformer.h.0.mlp.c_fc.weight"])


# -- gates and routers --------------------------------------------------------------------------


class Experts(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(count, 32, 64))


class Moe(nn.Module):
    """A router of a module of its own, one beside it, and a gate of one row."""

    def __init__(self, experts: nn.Module, rows: int) -> None:
        super().__init__()
        self.experts, self.gate = experts, nn.Linear(64, rows, bias=False)
        self.router = nn.ModuleDict({"layer": nn.Linear(64, rows)})
        self.shared_expert = nn.Linear(64, 64)
        self.shared_expert_gate = nn.Linear(64, 1)


@pytest.mark.parametrize(
    "experts", [Experts(6), nn.ModuleList(nn.ModuleDict({"w": nn.Linear(64, 6)}) for _ in range(6))]
)
def test_gates_and_routers_are_known_by_what_they_choose_among(experts: nn.Module) -> None:
    model = nn.ModuleList([Moe(experts, 6)])
    found = gates(model, linear_names(model))
    one = {"0.shared_expert_gate": "has a single row"}
    assert found["0.gate"] == "chooses among 6 experts"
    assert one.items() <= found.items()
    assert "0.shared_expert" not in found
    assert not any(".experts." in name for name in found)
    # as many rows as nothing beside it has members: a layer like others
    other = nn.ModuleList([Moe(experts, 5)])
    assert gates(other, linear_names(other)) == one


@pytest.mark.parametrize(
    ("model", "config", "routers"),
    [
        ("SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig", 2),
        ("NllbMoeForConditionalGeneration", "NllbMoeConfig", 4),
        ("HunYuanMoEV1ForCausalLM", "HunYuanMoEV1Config", 2),
        ("GraniteMoeForCausalLM", "GraniteMoeConfig", 0),  # its router is none of nn.Linear
    ],
)
def test_routers_of_models_that_exist(model: str, config: str, routers: int) -> None:
    sizes: dict[str, Any] = {
        "SwitchTransformersConfig": {"d_model": 64, "num_layers": 2, "num_decoder_layers": 2,
                                     "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
                                     "num_experts": 3},
        "NllbMoeConfig": {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "num_experts": 3,
                          "encoder_sparse_step": 1, "decoder_sparse_step": 1},
        "HunYuanMoEV1Config": {**tiny.CONFIGS["llama"][1], "num_experts": 3, "moe_topk": 2, "pad_id": 0},
        "GraniteMoeConfig": {**tiny.CONFIGS["qwen2"][1], "num_local_experts": 3},
    }[config]  # fmt: skip
    with torch.device("meta"):
        made: nn.Module = getattr(tf, model)(getattr(tf, config)(**{"vocab_size": 64, **sizes}))
    found = gates(made, linear_names(made))
    assert len(found) == routers
    assert all("router" in name or ".gate." in name for name in found)


def test_a_convolution_is_no_expert() -> None:
    """Mamba's dt_proj has as many rows as the convolution beside it has channels."""
    convolution = nn.Conv1d(48, 48, 4, groups=48)
    model = nn.ModuleList([nn.ModuleDict({"conv1d": convolution, "dt": nn.Linear(32, 48)})])
    assert gates(model, linear_names(model)) == {}
    model.append(nn.Conv1d(64, 64, 3))
    with pytest.warns(UserWarning, match="only .*"):
        quantize(model, "W4A16", "rtn")
    report = model.qcore_report
    assert isinstance(report, QuantizationReport)
    assert report.left_out["1"].reason == "of Conv1d, which is no linear layer"


def test_a_mixture_of_experts_says_what_stays() -> None:
    torch.manual_seed(0)
    sizes = {**tiny.CONFIGS["qwen2"][1], "moe_intermediate_size": 32, "shared_expert_intermediate_size": 96,
             "num_experts": 4, "num_experts_per_tok": 2}  # fmt: skip
    model = tf.Qwen2MoeForCausalLM(tf.Qwen2MoeConfig(**sizes)).eval()
    with pytest.warns(UserWarning, match=r"only .* quantized; the largest left out: .*experts.gate_up_proj"):
        quantize(model, "W4A16", "rtn", group_size=32)
    report = model.qcore_report
    assert report.left_out["model.layers.1.mlp.experts.gate_up_proj"] == LeftOut(
        4 * 64 * 64, "experts in one tensor"
    )
    assert report.left_out["model.layers.0.mlp.shared_expert_gate"].reason == "has a single row"
    assert type(model.model.layers[0].mlp.shared_expert_gate) is nn.Linear
    assert isinstance(model.model.layers[0].mlp.shared_expert.up_proj, QLinear)
    inside = [p.numel() for n, p in tf.Qwen2MoeForCausalLM(model.config).named_parameters()
              if "embed" not in n and "lm_head" not in n]  # fmt: skip
    assert report.quantized + sum(left.parameters for left in report.left_out.values()) == sum(inside)
    assert any("2 x model.layers.#.mlp.experts.gate_up_proj (32,768" in line for line in report.lines())


def test_layers_that_are_left_on_purpose_are_no_surprise() -> None:
    model = tiny.make_model("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize(model, "W4A16", "rtn", ignore=("lm_head", "mlp.up_proj", "re:.*down"), group_size=32)
    assert model.qcore_report.left_out["model.layers.0.mlp.up_proj"].asked
    assert model.qcore_report.share > 0.95


def test_a_model_without_linear_layers_says_what_it_has() -> None:
    with pytest.raises(ValueError, match=r"no linear layer is left.*most parameters are in Conv1d"):
        quantize(nn.Sequential(nn.Conv1d(8, 8, 3), nn.LayerNorm(8)), "W4A16", "rtn")


# -- rows that a format does not fit ------------------------------------------------------------


def llama576(hidden: int = 576, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes = {**tiny.CONFIGS["llama"][1], "hidden_size": hidden, "num_hidden_layers": 1, **more}
    return tf.LlamaForCausalLM(tf.LlamaConfig(**sizes)).eval()


def test_groups_that_do_not_divide_a_row_become_smaller(tmp_path: Path) -> None:
    from qcore import load, quantize_folder, save

    model = llama576(intermediate_size=640)  # rows of 576, 64 (heads) and 640
    model.save_pretrained(tmp_path / "source")
    quantize(model, "W4A16", "rtn")
    layer = model.model.layers[0]
    assert str(layer.self_attn.q_proj.format) == "int4 g64 sym"
    assert str(layer.self_attn.o_proj.format) == "int4 g64 sym"
    assert str(layer.mlp.down_proj.format) == "int4 g128 sym"
    report = model.qcore_report
    assert report.formats == {"int4 g64 sym": 6, "int4 g128 sym": 1}
    assert list(report.narrowed) == ["int4 g64 sym instead of int4 g128 sym"]
    assert len(report.narrowed["int4 g64 sym instead of int4 g128 sym"]) == 6
    save(model, tmp_path / "saved")  # what memory took can be saved
    report = quantize_folder(tmp_path / "source", tmp_path / "out", "W4A16", "rtn")
    assert report.formats == {"int4 g64 sym": 6, "int4 g128 sym": 1}
    for folder in ("saved", "out"):
        assert torch.equal(tiny.logits(load(tmp_path / folder)), tiny.logits(model))


@pytest.mark.parametrize(
    ("scheme", "k", "expected"),
    [
        ("W4A16", 576, "int4 g64 sym"), ("W4A16", 96, "int4 g32 sym"), ("W3A16_ASYM", 48, "int3 g16 asym"),
        ("W4A16", 100, "int4 per row sym"), ("W4A16", 64, "int4 g64 sym"), ("W4A16", 256, "int4 g128 sym"),
        ("FP8_BLOCK", 576, "e4m3 per row, inputs e4m3 dynamic per token"),
        ("FP8_BLOCK", 512, "e4m3 128x128, inputs e4m3 dynamic per block"),
        ("FP8", 577, "e4m3 per row, inputs e4m3 dynamic per token"),
        ("NF4", 100, "nf4 g64, scales f32"),
    ],
)  # fmt: skip
def test_the_format_that_fits(scheme: str, k: int, expected: str) -> None:
    from qcore.schemes import SCHEMES

    format = SCHEMES[scheme].for_columns(k)
    assert str(format) == expected
    assert format.for_columns(k) == format


def test_a_gguf_file_says_which_types_it_got(tmp_path: Path) -> None:
    model = gguf_cases.make("llama", hidden_size=288, intermediate_size=512)
    source = gguf_cases.save(model, tmp_path / "source")
    report = quantize_gguf(source, tmp_path / "out.gguf", "Q2_K", "rtn")
    held: dict[str, int] = {}
    for type in (t for n, t in gguf_cases.types_in(tmp_path / "out.gguf").items() if "norm" not in n):
        held[type] = held.get(type, 0) + 1
    assert report.formats == held
    assert "Q2_K" not in held
    layers = model.config.num_hidden_layers
    assert len(report.narrowed["Q4_0 instead of Q2_K"]) == 4 * layers + 1  # q, k, gate, up, the embedding
    assert report.share > 0.98


@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 64), lambda: Conv1D(64, 64)])
def test_hooks_stay_where_they_were(make: Any) -> None:
    odd = make()
    seen = []
    odd.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    odd.register_forward_hook(lambda module, args, kwargs, y: 2 * y, with_kwargs=True)
    handle = odd.register_forward_hook(lambda module, args, y: seen.append(module))
    model = nn.Sequential(nn.Linear(64, 64), odd, nn.Linear(64, 64))
    x = torch.randn(6, 64)
    with torch.no_grad():
        expected = model(x)
        quantize(model, "W8A16", "rtn", group_size=16)
        y = model(x)
        assert (y - expected).norm() < 0.02 * expected.norm()
        assert seen == [odd, model[1]]
        handle.remove()
        model(x)
    assert len(seen) == 2


def test_a_forward_that_was_replaced_is_not_lost() -> None:
    odd = nn.Linear(64, 64)
    odd.forward = lambda x: nn.Linear.forward(odd, x) + 1  # type: ignore[method-assign]
    model = nn.Sequential(nn.Linear(64, 64), odd)
    with pytest.warns(UserWarning, match="whose forward was replaced"):
        quantize(model, "W8A16", "rtn", group_size=16)
    assert model[1] is odd
