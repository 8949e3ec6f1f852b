"""Checkpoints whose tensors are not those of the model: transposed layers, merged experts, fused layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter
from transformers.pytorch_utils import Conv1D

import gguf_cases
import tiny
from qcore import QLinear, evaluate, load, quantize, quantize_folder, quantize_gguf, save
from test_linears import gpt2

pytestmark = pytest.mark.filterwarnings("ignore:only .* of the parameters:UserWarning")

_MOE: dict[str, Any] = {**tiny.CONFIGS["qwen2"][1], "num_experts_per_tok": 2}
MIXTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4}),
    "qwen2": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {"num_experts": 12, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64},
    ),
    "qwen3": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {"num_experts": 4, "moe_intermediate_size": 32}),
}


def mixture(name: str) -> nn.Module:
    model, config, sizes = MIXTURES[name]
    torch.manual_seed(0)
    made: nn.Module = getattr(tf, model)(getattr(tf, config)(**_MOE, **sizes)).to(torch.bfloat16).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.2)
    return made


def ignored(folder: Path) -> list[str]:
    config = json.loads((folder / "config.json").read_text())
    names: list[str] = config["quantization_config"]["ignore"]
    return names


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq+gptq"])
@pytest.mark.parametrize("name", MIXTURES)
def test_experts_that_are_stored_one_by_one(name: str, method: str, tmp_path: Path) -> None:
    model = mixture(name)
    model.save_pretrained(tmp_path / "source")
    source = load_file(tmp_path / "source" / "model.safetensors")
    ids = tiny.tokens()
    quantize_folder(tmp_path / "source", tmp_path / "out", "W8A16_ASYM", method, ids, group_size=32)
    written = load_file(tmp_path / "out" / "model.safetensors")
    experts = [key for key in source if ".experts." in key]
    assert len(experts) == 2 * 3 * (12 if name == "qwen2" else 4)
    for key in experts:  # under the source's names, as they were
        assert torch.equal(written[key], source[key]), key
    routers = {key for key in source if key.endswith((".gate.weight", ".shared_expert_gate.weight"))}
    assert len(routers) == (4 if name == "qwen2" else 2)
    assert {key.removesuffix(".weight") for key in (*experts, *routers)} <= set(ignored(tmp_path / "out"))
    assert not any("experts.gate_up_proj" in key for key in written)
    again = load(tmp_path / "out")
    assert tiny.distance(tiny.logits(again), tiny.logits(model)) < 0.05
    # in memory the same, and saved the same
    whole = load(tmp_path / "source")
    quantize(whole, "W8A16_ASYM", method, ids, group_size=32)
    save(whole, tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == written.keys()
    if method == "rtn":
        for key in written:
            assert torch.equal(saved[key], written[key]), key
    assert sorted(ignored(tmp_path / "saved")) == sorted(ignored(tmp_path / "out"))
    assert torch.equal(tiny.logits(load(tmp_path / "saved")), tiny.logits(whole))
    # and once more, from what was loaded
    save(again, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == written.keys()


def test_experts_that_are_stored_together_are_ignored_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = tf.GptOssConfig(**_MOE, num_local_experts=4, head_dim=16, layer_types=["full_attention"] * 2)
    model = tf.GptOssForCausalLM(config).to(torch.bfloat16).eval()
    model.save_pretrained(tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "out", "W8A16", "rtn", group_size=32)
    assert {"lm_head", *(f"model.layers.{i}.mlp.experts" for i in range(2))} <= set(ignored(tmp_path / "out"))
    assert tiny.distance(tiny.logits(load(tmp_path / "out")), tiny.logits(model)) < 0.05


def test_tensors_that_the_model_does_not_have_are_ignored_by_name(tmp_path: Path) -> None:
    model = tiny.make_model("llama", torch.bfloat16)
    model.save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "model.safetensors"
    extra = {
        "mtp.fc.weight": torch.randn(64, 128), "mtp.layers.0.mlp.up_proj.weight": torch.randn(96, 64),
        "mtp.norm.weight": torch.randn(64),
    }  # fmt: skip
    save_file({**load_file(path), **extra}, path, {"format": "pt"})
    quantize_folder(
        tmp_path / "source", tmp_path / "out", "W4A16", "rtn", ignore=("k_proj", "lm_head"), group_size=32
    )
    names = ignored(tmp_path / "out")
    assert set(names) == {"lm_head", "mtp.fc", "mtp.layers.0.mlp.up_proj"} | {
        f"model.layers.{i}.self_attn.k_proj" for i in range(2)
    }
    assert torch.equal(
        load_file(tmp_path / "out" / "model.safetensors")["mtp.fc.weight"], extra["mtp.fc.weight"]
    )


# -- GPT-2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
@pytest.mark.parametrize("scheme", ["W4A16_ASYM", "W8A8"])
def test_gpt2_there_and_back(scheme: str, method: str, tmp_path: Path) -> None:
    ids, model = tiny.tokens(), gpt2()
    model.save_pretrained(tmp_path / "source")
    options: dict[str, Any] = {} if scheme == "W8A8" else {"group_size": 32}
    quantize(model, scheme, method, ids, **options)
    save(model, tmp_path / "saved")
    quantize_folder(tmp_path / "source", tmp_path / "out", scheme, method, ids, **options)
    for folder in ("saved", "out"):
        again = load(tmp_path / folder)
        assert isinstance(again.transformer.h[1].mlp.c_proj, QLinear)
        if method != "awq" or folder == "saved":  # in a folder, inputs are divided nowhere
            assert torch.equal(tiny.logits(again), tiny.logits(model))
        result = evaluate(again, tiny.tokens(2, 32, seed=5), gpt2())
        assert result.kl is not None
        assert result.kl < 1
        save(again, tmp_path / f"{folder}-again")
        assert torch.equal(tiny.logits(load(tmp_path / f"{folder}-again")), tiny.logits(again))


def test_what_of_gpt2_is_not_quantized_keeps_its_layout(tmp_path: Path) -> None:
    model = gpt2()
    model.save_pretrained(tmp_path / "source")
    source = load_file(tmp_path / "source" / "model.safetensors")
    for method in ("rtn", "gptq"):
        out = tmp_path / method
        quantize_folder(
            tmp_path / "source", out, "W8A16", method, tiny.tokens(), ("lm_head", "c_fc"), group_size=32
        )
        written = load_file(out / "model.safetensors")
        key = next(key for key in source if key.endswith("h.0.mlp.c_fc.weight"))
        assert torch.equal(written[key], source[key])
        assert type(load(out).transformer.h[0].mlp.c_fc) is Conv1D
        assert any(name.endswith("h.0.mlp.c_fc") for name in ignored(out))


def test_other_readers_refuse_transposed_layers_by_name(tmp_path: Path) -> None:
    model = gpt2()
    quantize(model, "W4A16", "rtn", group_size=32)
    save(model, tmp_path / "out")
    with pytest.raises(Exception, match="qcore-transposed"):
        tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


# -- rules that cut and that join ---------------------------------------------------------------


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of Llama with one matrix for queries, keys and values."""
    rule = WeightConverter(
        source_patterns="self_attn.qkv.weight",
        target_patterns=["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
        operations=[Chunk(dim=0)],
    )
    conversion_mapping.get_checkpoint_conversion_mapping("llama")  # fills the cache
    cache = conversion_mapping._checkpoint_conversion_mapping_cache
    monkeypatch.setitem(cache, "llama", [rule])


def fused_llama(folder: Path, **sizes: Any) -> nn.Module:
    model = gguf_cases.make("llama", num_key_value_heads=4, **sizes).to(torch.bfloat16)
    model.save_pretrained(folder)
    assert "model.layers.0.self_attn.qkv.weight" in load_file(folder / "model.safetensors")
    return model


@pytest.mark.parametrize("ignore", [("lm_head",), ("lm_head", "k_proj"), ("lm_head", "self_attn.*")])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_layers_that_a_checkpoint_fuses(
    fused: None, method: str, ignore: tuple[str, ...], tmp_path: Path
) -> None:
    ignore = tuple(f"re:.*{part}" if "*" in part else part for part in ignore)
    model = fused_llama(tmp_path / "source")
    ids = tiny.tokens()
    quantize_folder(tmp_path / "source", tmp_path / "out", "W8A16", method, ids, ignore, group_size=32)
    again = load(tmp_path / "out")
    assert tiny.distance(tiny.logits(again), tiny.logits(model)) < 0.05
    attention = again.model.layers[1].self_attn
    written = load_file(tmp_path / "out" / "model.safetensors")
    untouched = ignore[-1].endswith("*")
    assert ("model.layers.1.self_attn.qkv.weight" in written) == untouched
    assert isinstance(attention.q_proj, QLinear) != untouched
    assert torch.equal(attention.v_proj.weight, model.model.layers[1].self_attn.v_proj.weight) == untouched
    if ignore[-1] == "k_proj":
        assert torch.equal(attention.k_proj.weight, model.model.layers[1].self_attn.k_proj.weight)
    save(again, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == written.keys()


def test_a_fused_checkpoint_as_a_gguf_file(fused: None, tmp_path: Path) -> None:
    fused_llama(tmp_path / "source", hidden_size=64)
    quantize_gguf(tmp_path / "source", tmp_path / "out.gguf", "Q8_0", "gptq", tiny.tokens())
    expected = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.float32)
    assert tiny.distance(tiny.logits(load(tmp_path / "out.gguf")), tiny.logits(expected)) < 0.05


def test_pieces_that_do_not_fit_together(tmp_path: Path) -> None:
    mixture("qwen3").save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "model.safetensors"
    tensors = load_file(path)
    key = "model.layers.1.mlp.experts.2.up_proj.weight"
    for bad, message in (
        ({**tensors, key: torch.zeros(31, 64)}, r"experts.gate_up_proj: cannot be made of model.layers.1"),
        ({k: v for k, v in tensors.items() if k != key}, "experts.gate_up_proj: cannot be made of"),
        ({k: v for k, v in tensors.items() if ".1.mlp.experts.2." not in k}, r"expected shape \(4,"),
        ({k: v for k, v in tensors.items() if ".1.mlp.experts." not in k}, "has no tensor .*experts.gate_up"),
    ):
        save_file(bad, path, {"format": "pt"})
        with pytest.raises(ValueError, match=message):
            quantize_folder(tmp_path / "source", tmp_path / "out", "W4A16", "rtn", group_size=32)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
