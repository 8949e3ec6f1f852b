"""Calibration sees what the layers of the float model see: a lossless scheme against plain hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import tiny
from qcore import Gptq, quantize
from qcore.methods import InputStats

Batches = list[dict[str, Tensor]]


class Spy(Gptq):
    """Rounds without loss, and notes what calibration saw of each weight."""

    def quantize(self, w, stats, format, scale_dtype):  # type: ignore[no-untyped-def]
        seen.append((w.clone(), stats))
        return super().quantize(w, stats, format, scale_dtype)


seen: list[tuple[Tensor, InputStats]] = []

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2,
      "decoder_start_token_id": 0}  # fmt: skip
MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (tf.LlamaForCausalLM, tf.LlamaConfig, {**SIZES, "num_hidden_layers": 2}),
    "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config, {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}),
    "bert": (tf.BertModel, tf.BertConfig, {**SIZES, "num_hidden_layers": 2}),
    "distilbert": (
        tf.DistilBertModel,
        tf.DistilBertConfig,
        {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    ),
    "albert": (tf.AlbertModel, tf.AlbertConfig, {**SIZES, "num_hidden_layers": 3, "embedding_size": 16}),
    "deberta-v2": (
        tf.DebertaV2Model,
        tf.DebertaV2Config,
        {**SIZES, "num_hidden_layers": 2, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
         "position_buckets": 8, "share_att_key": True},
    ),
    "t5": (tf.T5ForConditionalGeneration, tf.T5Config, T5),
    "t5-encoder": (tf.T5EncoderModel, tf.T5Config, T5),
}  # fmt: skip


def made(name: str) -> nn.Module:
    model_class, config_class, arguments = MODELS[name]
    torch.manual_seed(0)
    return model_class(config_class(**arguments)).eval()  # type: ignore[no-any-return]


def batches_for(model: nn.Module, rows: int, count: int) -> Batches:
    batches: Batches = [{"input_ids": tiny.tokens(rows, 12, seed)} for seed in range(count)]
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        batches = [{**b, "decoder_input_ids": tiny.tokens(rows, 7, 9)} for b in batches]
    return batches


@torch.no_grad()
def expected(model: nn.Module, batches: Batches) -> dict[str, InputStats]:
    """What plain hooks see in the float model."""
    stats = {n: InputStats(m.in_features) for n, m in model.named_modules() if isinstance(m, nn.Linear)}

    def hook(name: str) -> Any:
        return lambda module, args: stats[name].add(args[0])

    handles = [model.get_submodule(n).register_forward_pre_hook(hook(n)) for n in stats]
    for batch in batches:
        model(**batch)
    for handle in handles:
        handle.remove()
    return stats


@pytest.mark.filterwarnings("ignore:.*calibrated as a whole", "ignore:only .* of the parameters")
@pytest.mark.filterwarnings("ignore:the quantized model cannot be saved", "ignore:.*no calibration token")
@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize(("rows", "count"), [(2, 1), (3, 2)])
@pytest.mark.parametrize("name", MODELS)
def test_inputs_are_those_of_the_float_model(name: str, rows: int, count: int, sequential: bool) -> None:
    model = made(name)
    batches = batches_for(model, rows, count)
    floats = expected(model, batches)
    weights = {n: model.get_submodule(n).weight.detach().clone() for n in floats}
    seen.clear()
    quantize(model, "W8A16_ASYM", Spy(sweeps=0), batches, group_size=1, sequential=sequential)
    met = 0
    for layer, stats in floats.items():
        for w, ours in seen:
            if w.shape == weights[layer].shape and torch.allclose(w, weights[layer], atol=1e-5):
                assert ours.tokens == stats.tokens, layer
                torch.testing.assert_close(ours.second_moment, stats.second_moment, rtol=1e-4, atol=1e-6)
                met += 1
    assert met >= len(seen) > 0 or name == "gpt2"


@pytest.mark.filterwarnings("ignore:only .* of the parameters")
def test_caches_of_composite_models_end_with_the_call() -> None:
    """Their parts' configurations decide; they are what they were afterwards."""
    text = {**SIZES, "num_hidden_layers": 2, "num_key_value_heads": 1}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    config = tf.LlavaConfig(
        text_config=tf.LlamaConfig(**text),
        vision_config=tf.CLIPVisionConfig(**vision),
        image_token_index=63,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model = tf.LlavaForConditionalGeneration(config).eval()
    batches: Batches = [{"input_ids": tiny.tokens(2, 12, seed) % 60} for seed in range(2)]
    floats = expected(model, batches)
    layers = [n for n in floats if "language_model.layers" in n]
    weights = {n: model.get_submodule(n).weight.detach().clone() for n in layers}
    seen.clear()
    with pytest.warns(UserWarning, match="no calibration token reached"):
        quantize(model, "W8A16_ASYM", Spy(sweeps=0), batches, group_size=1)
    for layer in layers:
        (ours,) = [
            s for w, s in seen if w.shape == weights[layer].shape and torch.allclose(w, weights[layer])
        ]
        assert ours.tokens == floats[layer].tokens == 48
        torch.testing.assert_close(ours.second_moment, floats[layer].second_moment, rtol=1e-4, atol=1e-6)
    assert model.config.text_config.use_cache
    report = model.qcore_report
    assert {n for n in report.without_tokens if "vision_tower" in n}
    assert not {n for n in report.without_tokens if "language_model" in n}
