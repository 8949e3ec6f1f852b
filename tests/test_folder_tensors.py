"""Every tensor of a model is in its folder, and every tensor of a model comes from its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import foreign_layers as foreign
import tiny
from qcore import QLinear, load, quantize, quantize_folder, save
from qcore.checkpoints.containers import expect_plain
from qcore.checkpoints.files import Checkpoint
from test_foreign_folders import write

UP = "model.layers.0.mlp.up_proj"


def change_tensors(folder: Path, changes: dict[str, Tensor | None]) -> None:
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata={"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


# -- one tensor under several names ---------------------------------------------------------------


def olmo2() -> nn.Module:
    sizes: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "num_key_value_heads": 2, "pad_token_id": 0,
    }  # fmt: skip
    return tf.Olmo2ForCausalLM(tf.Olmo2Config(**sizes)).eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [olmo2, lambda: tiny.make_model("bert")])
def test_layers_of_one_input_share_their_divisor(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = quantize(make(), "W4A16", "awq", tiny.tokens(), group_size=32)
    divisors = [m.divisor for m in model.modules() if isinstance(m, QLinear) and m.divisor is not None]
    assert len({d.data_ptr() for d in divisors}) < len(divisors)
    for shard_bytes in (1 << 30, 20000):
        save(model, tmp_path / "out", overwrite=True, shard_bytes=shard_bytes)
        assert torch.equal(tiny.logits(load(tmp_path / "out")), tiny.logits(model))


def tied_head(model: Any) -> None:
    model.lm_head.weight = model.model.embed_tokens.weight


def tied_embedding(model: Any) -> None:
    model.model.embed_tokens.weight = model.lm_head.weight


def one_block_twice(model: Any) -> None:
    model.model.layers[1] = model.model.layers[0]


def one_layer_in_two_places(model: Any) -> None:
    model.model.layers[1].mlp.up_proj = model.model.layers[0].mlp.gate_proj


def one_norm_weight(model: Any) -> None:
    model.model.layers[1].input_layernorm.weight = model.model.norm.weight


def one_bias(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.bias = model.model.layers[0].mlp.up_proj.bias


def a_view(model: Any) -> None:
    both = torch.randn(2, 64)
    model.model.norm.weight.data = both[0]
    model.model.layers[0].input_layernorm.weight.data = both[1]


@pytest.mark.parametrize(
    "tie",
    [tied_head, tied_embedding, one_block_twice, one_layer_in_two_places, one_norm_weight, one_bias, a_view],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_tied_by_hand_is_kept(tie: Callable[[Any], None], when: str, tmp_path: Path) -> None:
    model: Any = tiny.make_model("llama-bias")
    model.config.use_cache = False  # a block that runs twice has one place in it
    if when == "before":
        tie(model)
    quantize(model, "W8A16", "rtn", group_size=32)
    if when == "after":
        tie(model)
    for name, module in model.named_modules(remove_duplicate=False):
        assert type(module) is not nn.Linear or name == "lm_head"
    save(model, tmp_path / "out")
    loaded = load(tmp_path / "out")
    assert torch.equal(tiny.logits(loaded), tiny.logits(model))
    theirs = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert tiny.distance(tiny.logits(theirs), tiny.logits(model)) < 1e-5
    save(loaded, tmp_path / "again")
    assert torch.equal(tiny.logits(load(tmp_path / "again")), tiny.logits(model))


def test_what_was_untied_by_hand_is_kept(tmp_path: Path) -> None:
    """The configuration says tied, the values differ: two tensors, as in transformers."""
    model: Any = tiny.make_model("llama-tied")
    model.lm_head.weight = nn.Parameter(torch.randn(64, 64) / 8)
    quantize(model, "W8A16", "rtn", group_size=32)
    save(model, tmp_path / "out")
    loaded: Any = load(tmp_path / "out")
    assert torch.equal(tiny.logits(loaded), tiny.logits(model))
    # So is a source of this kind, straight from folder to folder.
    tiny_model: Any = tiny.make_model("llama-tied")
    tiny_model.lm_head.weight = nn.Parameter(torch.randn(64, 64) / 8)
    tiny_model.save_pretrained(tmp_path / "source")
    change_tensors(tmp_path / "source", {"lm_head.weight": tiny_model.lm_head.weight.detach()})
    for method in ("rtn", "gptq"):
        out = tmp_path / method
        quantize_folder(tmp_path / "source", out, "W8A16", method, tiny.tokens(), group_size=32)
        assert torch.equal(load(out).lm_head.weight, tiny_model.lm_head.weight)
        assert tiny.distance(tiny.logits(load(out)), tiny.logits(tiny_model)) < 0.05


def test_a_buffer_in_two_places(tmp_path: Path) -> None:
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    model: Any = tf.ResNetForImageClassification(config).eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean = norms[0].running_mean
    norms[0].running_mean.normal_()
    with pytest.warns(UserWarning, match="Conv2d"):
        quantize(model, "W8A16", "rtn", group_size=-1, ignore=())
    save(model, tmp_path / "m")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "m")(x).logits, model(x).logits)


def test_a_parameter_that_is_named_like_a_part(tmp_path: Path) -> None:
    """What the model itself has is no quantized layer."""
    model: Any = tiny.make_model("llama")
    change = {"model.norm.weight": None, "model.norm.weight_scale": torch.ones(64)}
    model.save_pretrained(tmp_path / "m")
    change_tensors(tmp_path / "m", change)
    with pytest.raises(ValueError, match="belongs to a quantized layer"):
        load(tmp_path / "m")
    names = [*load_file(tmp_path / "m" / "model.safetensors")]
    expect_plain(Checkpoint(tmp_path / "m"), names)


@pytest.mark.parametrize("stated", [torch.float32, torch.bfloat16, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_that_was_cast(stated: torch.dtype | None, dtype: torch.dtype, tmp_path: Path) -> None:
    """It is saved as what it is, not as what its configuration says that it was."""
    model: Any = quantize(tiny.make_model("llama"), "W8A16", "rtn", group_size=32)
    model.config.dtype = stated
    model.to(dtype)
    save(model, tmp_path / "m")
    loaded: Any = load(tmp_path / "m")
    assert loaded.model.norm.weight.dtype == dtype
    assert torch.equal(loaded.model.norm.weight, model.model.norm.weight)
    assert model.config.dtype == stated


def t5() -> nn.Module:
    config = tf.T5Config(
        vocab_size=64, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return tf.T5ForConditionalGeneration(config).eval()  # type: ignore[no-any-return]


def test_other_ties_are_kept_where_the_head_is_quantized(tmp_path: Path) -> None:
    model: Any = t5()
    model.save_pretrained(tmp_path / "source")
    ids = {"input_ids": tiny.tokens(), "decoder_input_ids": tiny.tokens(seed=1)}
    with torch.no_grad():
        expected = model(**ids).logits
    quantize_folder(tmp_path / "source", tmp_path / "out", "W8A16", "rtn", ignore=(), group_size=32)
    save(quantize(model, "W8A16", "rtn", ignore=(), group_size=32), tmp_path / "saved")
    for name in ("out", "saved"):
        loaded = load(tmp_path / name)
        assert isinstance(loaded.lm_head, QLinear)
        with torch.no_grad():
            assert tiny.distance(loaded(**ids).logits, expected) < 0.05


def test_a_tensor_without_values_is_named(tmp_path: Path) -> None:
    model: Any = quantize(tiny.make_model("llama"), "W8A16", "rtn", group_size=32)
    model.model.norm.to("meta")
    with pytest.raises(ValueError, match=r"model\.norm\.weight: has no values to write"):
        save(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


# -- tensors that are missing ---------------------------------------------------------------------


PACKED = ["compressed-tensors", "gptq", "awq"]


@pytest.fixture(params=["plain", *PACKED])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    out = tmp_path / "m"
    config = {"quant_method": request.param, "bits": 4, "group_size": 32, "sym": False}
    if request.param == "plain":
        tiny.make_model("llama-bias").save_pretrained(out)  # type: ignore[operator]
    elif request.param == "compressed-tensors":
        save(quantize(tiny.make_model("llama-bias"), "W4A16", "rtn", group_size=32), out)
    elif request.param == "gptq":
        write(out, config, lambda layer: foreign.gptq(layer, 4, "gptq"))
    else:
        write(out, config, foreign.awq)
    return out


@pytest.mark.parametrize(
    "name",
    [
        "model.norm.weight",
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.q_proj.bias",
        "model.layers.1.input_layernorm.weight",
    ],
)
def test_a_missing_tensor_is_named(folder: Path, name: str) -> None:
    change_tensors(folder, {name: None})
    with pytest.raises(ValueError, match=rf"1 of the model's tensors .* the first is {name}"):
        load(folder)


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    for name, shape in (("model.norm.weight", (3,)), (f"{UP}.bias", (192,)), ("lm_head.weight", (64, 32))):
        original = load_file(folder / "model.safetensors")[name]
        change_tensors(folder, {name: torch.zeros(shape)})
        with pytest.raises(ValueError, match=rf"{name}: expected shape .*got \({shape[0]},"):
            load(folder)
        change_tensors(folder, {name: original})
    load(folder)


def test_buffers_come_from_the_file_too(tmp_path: Path) -> None:
    """And what transformers itself computes, or passes over, may be missing."""
    config = tf.BartConfig(
        vocab_size=64, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, max_position_embeddings=32,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    model: Any = tf.BartForConditionalGeneration(config).eval()
    model.final_logits_bias += torch.randn(1, 64)
    quantize(model, "W8A16", "rtn", group_size=32)
    save(model, tmp_path / "m")
    assert torch.equal(load(tmp_path / "m").final_logits_bias, model.final_logits_bias)
    change_tensors(tmp_path / "m", {"final_logits_bias": None})  # _keys_to_ignore_on_load_missing
    assert not load(tmp_path / "m").final_logits_bias.any()
    change_tensors(tmp_path / "m", {"model.shared.weight": None})
    with pytest.raises(ValueError, match=r"tensors are not in the checkpoint"):
        load(tmp_path / "m")


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_what_transformers_computes_may_be_missing(method: str, tmp_path: Path) -> None:
    """Marian's table of positions is in no checkpoint."""
    config = tf.MarianConfig(
        vocab_size=64, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, max_position_embeddings=32,
        decoder_vocab_size=64, pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0,
        forced_eos_token_id=0,
    )  # fmt: skip
    tf.MarianMTModel(config).eval().save_pretrained(tmp_path / "source")
    assert not any("positions" in key for key in load_file(tmp_path / "source" / "model.safetensors"))
    model: Any = load(tmp_path / "source")
    ids = {"input_ids": tiny.tokens() % 63 + 1, "decoder_input_ids": tiny.tokens(seed=1)}
    quantize_folder(tmp_path / "source", tmp_path / "out", "W8A16", method, [ids], group_size=32)
    loaded: Any = load(tmp_path / "out")
    positions = "model.encoder.embed_positions.weight"
    assert torch.equal(loaded.get_parameter(positions), model.get_parameter(positions))
    with torch.no_grad():
        assert tiny.distance(loaded(**ids).logits, model(**ids).logits) < 0.05


def test_numbers_of_another_kind_are_no_floats(folder: Path) -> None:
    for name in ("model.norm.weight", f"{UP}.bias"):
        original = load_file(folder / "model.safetensors")[name]
        change_tensors(folder, {name: torch.ones(original.shape, dtype=torch.int8)})
        with pytest.raises(ValueError, match=rf"{name}: holds codes \(I8\)"):
            load(folder)
        change_tensors(folder, {name: original})


def test_buffers_that_a_source_lacks(tmp_path: Path) -> None:
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    tf.ResNetForImageClassification(config).eval().save_pretrained(tmp_path / "m")
    name = "resnet.embedder.embedder.normalization.running_mean"
    change_tensors(tmp_path / "m", {name: None})
    with pytest.raises(ValueError, match=rf"has no tensor {name}"):
        quantize_folder(tmp_path / "m", tmp_path / "out", "W8A16", "rtn", group_size=-1)


def test_batch_statistics_are_no_constants(tmp_path: Path) -> None:
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    model: Any = tf.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "m")
    load(tmp_path / "m")
    name = "resnet.embedder.embedder.normalization.running_mean"
    change_tensors(tmp_path / "m", {name: None})
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        load(tmp_path / "m")


# -- packed tensors whose configuration is elsewhere ----------------------------------------------


def test_the_old_key_of_the_configuration(tmp_path: Path) -> None:
    model = quantize(tiny.make_model("llama"), "W4A16", "rtn", group_size=32)
    save(model, tmp_path / "m")
    stored = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    for old in (stored, {k: v for k, v in stored.items() if k != "quant_method"}):
        change_config(tmp_path / "m", quantization_config=None, compression_config=old)
        assert torch.equal(tiny.logits(load(tmp_path / "m")), tiny.logits(model))
    save(load(tmp_path / "m"), tmp_path / "again")
    assert "compression_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    with pytest.raises(ValueError, match="is quantized already"):
        quantize_folder(tmp_path / "m", tmp_path / "out", "W4A16", "rtn", group_size=32)


@pytest.mark.parametrize("folder", PACKED, indirect=True)
def test_packed_tensors_without_a_configuration(folder: Path, tmp_path: Path) -> None:
    change_config(folder, quantization_config=None)
    with pytest.raises(ValueError, match=r"belongs to a quantized layer.*no quantization_config"):
        load(folder)
    with pytest.raises(ValueError, match=r"belongs to a quantized layer.*no quantization_config"):
        quantize_folder(folder, tmp_path / "out", "W4A16", "rtn", group_size=32)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheme", ["FP8", "W8A8"])
def test_codes_without_a_configuration(scheme: str, tmp_path: Path) -> None:
    save(quantize(tiny.make_model("llama"), scheme, "rtn"), tmp_path / "m")
    change_config(tmp_path / "m", quantization_config=None)
    with pytest.raises(ValueError, match=r"no quantization_config"):
        load(tmp_path / "m")
    scales = [k for k in load_file(tmp_path / "m" / "model.safetensors") if k.endswith("_scale")]
    change_tensors(tmp_path / "m", dict.fromkeys(scales))
    with pytest.raises(ValueError, match=r"weight: holds codes"):
        load(tmp_path / "m")


# -- shapes of quantized layers -------------------------------------------------------------------


@pytest.mark.parametrize("container", ["compressed-tensors", "gptq", "awq", "W8A8", "FP8"])
@pytest.mark.parametrize("wrong", ["rows", "columns"])
def test_layers_of_another_shape_than_the_models(container: str, wrong: str, tmp_path: Path) -> None:
    """All layers of the file fit together, but its sizes are not those of config.json."""
    change = {"intermediate_size": 192} if wrong == "rows" else {"hidden_size": 128, "head_dim": 16}
    out = tmp_path / "m"
    config = {"quant_method": container, "bits": 4, "group_size": 32, "sym": False}
    if container in ("gptq", "awq"):
        only = ("up_proj",)
        parts = foreign.awq if container == "awq" else lambda layer: foreign.gptq(layer, 4, "gptq")
        write(out, config, parts, only=only)
    else:
        scheme = "W4A16" if container == "compressed-tensors" else container
        model = tiny.make_model("llama-bias")
        group = {"group_size": 32} if scheme == "W4A16" else {}
        save(quantize(model, scheme, "rtn", ignore=("re:.*(?<!up_proj)$",), **group), out)  # type: ignore[arg-type]
    load(out)
    change_config(out, **change)
    with pytest.raises(ValueError, match=r"up_proj: expected a weight of shape \[.*got \[96, 64\]"):
        load(out)


def test_biases_that_the_model_does_not_have(tmp_path: Path) -> None:
    """AutoGPTQ writes zeros; anything else would be lost."""
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
    write(tmp_path / "m", config, lambda layer: foreign.gptq(layer, 4, "gptq"), name="llama")
    change_tensors(tmp_path / "m", {f"{UP}.bias": torch.zeros(96)})
    load(tmp_path / "m")
    change_tensors(tmp_path / "m", {f"{UP}.bias": torch.ones(96)})
    with pytest.raises(ValueError, match=r"up_proj\.bias: is not zero, but the model has no bias"):
        load(tmp_path / "m")
