"""Hugging Face folders to GGUF files, and GGUF files to models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFReader

import qcore
import tiny
from gguf_cases import ROPES, byte_level, make, plain_metadata, save, types_in, wrap, write_gguf
from qcore.checkpoints.gguf import GgufFile

NAMES = ("llama", "llama-tied", "llama-bias", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3")
# Longer than the windows of the tiny models.
IDS = tiny.tokens(2, 40, seed=5)


KINDS = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
KINDS |= {f"{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
# Wide enough for blocks of 256.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


def convert(model: torch.nn.Module, tmp_path: Path, scheme: str, method: str = "rtn", **options: Any) -> Path:
    save(model, tmp_path / "hf")
    qcore.quantize_gguf(tmp_path / "hf", tmp_path / "model.gguf", scheme, method, **options)
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("name", NAMES)
def test_float_files_change_nothing(name: str, tmp_path: Path) -> None:
    model = make(name)
    loaded = qcore.load(convert(model, tmp_path, "F32"))
    assert type(loaded) is type(model)
    assert tiny.distance(tiny.logits(loaded, IDS), tiny.logits(model, IDS)) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_quantized_files_stay_close(name: str, tmp_path: Path) -> None:
    model = make(name)
    loaded = qcore.load(convert(model, tmp_path, "Q8_0"))
    assert 0 < tiny.distance(tiny.logits(loaded, IDS), tiny.logits(model, IDS)) < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_mixed_files_hold_what_quantizing_the_weights_gives(name: str, tmp_path: Path) -> None:
    """The model of a file is the original with each weight rounded to the type that the file has it in."""
    model = make(name, **{**WIDE, **({"query_pre_attn_scalar": 64} if name in ("gemma2", "gemma3") else {})})
    path = convert(model, tmp_path, "Q3_K_M")
    loaded, types = qcore.load(path, float_activations=True), types_in(path)
    assert len(set(types.values())) >= 4, types  # F32, the base, that of the head, and one that a rule chose
    with torch.no_grad():
        for layer, block in enumerate(model.get_submodule("model.layers")):
            for part, module in block.named_modules():
                if isinstance(module, torch.nn.Linear):
                    type = types[f"blk.{layer}.{KINDS[part.rpartition('.')[2]]}.weight"]
                    chosen = qcore.Rtn().quantize(module.weight, None, qcore.BlockFormat(type), torch.float32)
                    module.weight.copy_(chosen.dequantize())
        head = model.get_output_embeddings().weight
        table = model.get_input_embeddings().weight
        if "output.weight" in types:
            head.copy_(rounded(head, types["output.weight"]))
        table.copy_(rounded(table, types["token_embd.weight"]))
    assert tiny.distance(tiny.logits(loaded, IDS), tiny.logits(model, IDS)) < 1e-5


def rounded(w: torch.Tensor, type: str) -> torch.Tensor:
    return qcore.ops.kquant_dequantize(qcore.ops.kquant_quantize(w, type), type, w.shape[1])


@pytest.mark.filterwarnings("ignore:the quantized model cannot be saved")
@pytest.mark.parametrize("method", ["imatrix", "gptq", "awq"])
def test_methods(method: str, tmp_path: Path) -> None:
    """Streamed through a file, each layer gets the very codes that quantizing in memory gives it."""
    model = make("llama", **WIDE)
    ids = tiny.tokens(8, 32, seed=7)
    path = convert(model, tmp_path, "Q3_K_M", method, calibration=ids)
    loaded, types = qcore.load(path), types_in(path)

    def scheme(layer: qcore.schemes.Layer) -> qcore.BlockFormat:
        part = KINDS[layer.name.rpartition(".")[2]]
        return qcore.BlockFormat(types[f"blk.{layer.block}.{part}.weight"])

    chosen = qcore.Awq(keeps_divisors=False) if method == "awq" else method
    qcore.quantize(model, scheme, chosen, ids)
    compared = 0
    for name, module in model.named_modules():
        if isinstance(module, qcore.QLinear):
            other = loaded.get_submodule(name).to_qweight()
            assert other.format == module.format
            assert torch.equal(other.tensors["blocks"], module.to_qweight().tensors["blocks"]), name
            compared += 1
    assert compared == 14
    norms = [n for n, _ in model.named_parameters() if n.endswith("layernorm.weight")]
    for name in norms:  # into which awq moves scales
        assert torch.equal(loaded.get_parameter(name), model.get_parameter(name))


def test_calibration_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="calibration: this method needs token ids"):
        convert(make("llama"), tmp_path, "Q4_0", "gptq")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_overrides(tmp_path: Path) -> None:
    overrides = [r"re:blk\.1\.ffn_(up|gate)=f16", "ffn_=Q5_K", "output=Q8_0"]
    path = convert(make("llama", **WIDE), tmp_path, "Q4_K_S", overrides=overrides)
    types = types_in(path)
    assert types["blk.1.ffn_up.weight"] == types["blk.1.ffn_gate.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == types["blk.1.ffn_down.weight"] == "Q5_K"
    assert types["output.weight"] == types["blk.0.attn_output.weight"] == "Q8_0"
    assert types["blk.0.attn_q.weight"] == "Q4_K"
    qcore.load(path)(IDS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ffn_up", "override: expected PATTERN=TYPE, got 'ffn_up'"),
        ("=Q4_K", "override: expected PATTERN=TYPE"),
        ("ffn_up=Q9_K", "expected one of F32, F16, .*, got 'Q9_K'"),
        ("ffn_(=Q4_K", "no regular expression"),
        ("attn_norm=F16", "override attn_norm: fits no matrix"),
        ("ffn_down=Q4_K", r"blk\.0\.ffn_down\.weight has rows of 96, no multiple of 256"),
    ],
)
def test_wrong_overrides(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        convert(make("llama"), tmp_path, "Q8_0", overrides=[override])
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_long_contexts(name: str, rope: str, tmp_path: Path) -> None:
    model = make(name, rope_parameters=dict(ROPES[rope]))
    loaded = qcore.load(convert(model, tmp_path, "F32"))
    got, expected = tiny.logits(loaded, IDS), tiny.logits(model, IDS)
    assert tiny.distance(got, expected) < 1e-5
    plain = make(name, rope_parameters={"rope_type": "default", "rope_theta": ROPES[rope]["rope_theta"]})
    assert tiny.distance(tiny.logits(plain, IDS), expected) > 1e-3  # else this would test nothing


@pytest.mark.parametrize("window", [8, None])
def test_layers_with_and_without_windows(window: int | None, tmp_path: Path) -> None:
    """An order of windows other than the usual, which the file must then say."""
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    if window is None:
        kinds = ["full_attention"] * 3
    model = make("gemma3", num_hidden_layers=3, layer_types=kinds, sliding_window=8)
    loaded = qcore.load(convert(model, tmp_path, "F32"))
    assert loaded.config.layer_types == kinds
    assert tiny.distance(tiny.logits(loaded, IDS), tiny.logits(model, IDS)) < 1e-6


def test_a_file_without_windows(tmp_path: Path) -> None:
    kinds = ["full_attention"] * 2
    path = convert(make("gemma3", layer_types=kinds), tmp_path, "F32")
    expected = tiny.logits(qcore.load(path), IDS)
    metadata = plain_metadata(GgufFile(path))
    for key in ("gemma3.attention.sliding_window", "gemma3.attention.sliding_window_pattern"):
        del metadata[key]
    tensors = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in GGUFReader(path).tensors}
    path.unlink()
    loaded = qcore.load(write_gguf(path, metadata, tensors, "gemma3"))
    assert loaded.config.layer_types == kinds
    assert torch.equal(tiny.logits(loaded, IDS), expected)


def test_the_package_gguf_reads_the_same_tensors(tmp_path: Path) -> None:
    model = make("llama", num_key_value_heads=2)
    path = convert(model, tmp_path, "Q8_0")
    ours = GgufFile(path)
    theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    assert list(ours.tensors) == list(theirs)
    for name, tensor in theirs.items():
        assert ours.tensors[name].type == tensor.tensor_type
        assert ours.tensors[name].shape == tuple(tensor.shape[::-1])
        assert bytes(ours.data(name).numpy()) == tensor.data.tobytes()
    fields = {n: f.contents() for n, f in GGUFReader(path).fields.items() if not n.startswith("GGUF.")}
    assert fields == {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in ours.metadata.items()}


def test_rows_of_queries_and_keys_are_interleaved(tmp_path: Path) -> None:
    """llama.cpp rotates neighbours, transformers halves of a head."""
    model = make("llama")
    path = convert(model, tmp_path, "F32")
    theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    state = model.state_dict()
    for ours, name, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        w = state[f"model.layers.1.self_attn.{ours}.weight"]
        expected = torch.empty_like(w)
        for head in range(heads):
            for i in range(8):
                expected[head * 16 + 2 * i] = w[head * 16 + i]
                expected[head * 16 + 2 * i + 1] = w[head * 16 + 8 + i]
        assert np.array_equal(theirs[f"blk.1.{name}.weight"].data, expected.numpy())
    v = state["model.layers.1.self_attn.v_proj.weight"]
    assert np.array_equal(theirs["blk.1.attn_v.weight"].data, v.numpy())


def test_norms_of_gemma_are_stored_with_their_one(tmp_path: Path) -> None:
    model = make("gemma")
    path = convert(model, tmp_path, "F16")
    theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    expected = model.state_dict()["model.layers.0.input_layernorm.weight"] + 1
    assert np.array_equal(theirs["blk.0.attn_norm.weight"].data, expected.numpy())
    assert "output.weight" not in theirs


def test_dtypes(tmp_path: Path) -> None:
    model = make("llama").to(torch.bfloat16)
    assert qcore.load(convert(model, tmp_path, "BF16")).dtype == torch.bfloat16
    path = convert(model, tmp_path, "Q8_0", overwrite=True)
    assert qcore.load(path).dtype == torch.float32
    half = qcore.load(path, dtype=torch.float16)
    assert half(IDS).logits.dtype == torch.float16
    full = qcore.load(path)
    for module in (*half.modules(), *full.modules()):
        if isinstance(module, qcore.QLinear):
            module.float_activations = True  # rounded to 8 bits, small differences become large ones
    assert tiny.distance(tiny.logits(half, IDS), tiny.logits(full, IDS)) < 0.01


def test_types_that_only_gguf_decodes(tmp_path: Path) -> None:
    """A tensor of a type without kernels is decoded once, on loading."""
    source = convert(make("llama", hidden_size=256, head_dim=64), tmp_path, "F32")
    file, rng = GgufFile(source), np.random.default_rng(0)
    path = tmp_path / "iq.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in file.metadata.items():
        if key.startswith("llama."):
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    blocks = rng.integers(0, 256, (256, 98), dtype=np.uint8)
    blocks[:, :2] = np.float16([0.01]).view(np.uint8)
    for name, tensor in file.tensors.items():
        if name == "blk.0.attn_q.weight":
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.IQ3_XXS)
        else:
            writer.add_tensor(name, file.data(name).numpy().view(np.float32).reshape(tensor.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    q = qcore.load(path).get_submodule("model.layers.0.self_attn.q_proj").weight
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.IQ3_XXS)
    order = [head * 64 + (2 * i if i < 32 else 2 * (i - 32) + 1) for head in range(4) for i in range(64)]
    assert np.array_equal(q.detach().numpy(), expected[order])


def test_the_embedding_stays_in_the_file(tmp_path: Path) -> None:
    model = make("gemma")
    path = convert(model, tmp_path, "Q8_0")
    loaded = qcore.load(path)
    table = loaded.get_input_embeddings()
    assert isinstance(table, qcore.nn.embedding.QEmbedding)
    stored = GgufFile(path).tensors["token_embd.weight"]
    assert table.blocks.numel() == stored.nbytes
    assert table(IDS).dtype == torch.float32
    rows = torch.nn.functional.embedding(IDS, table.weight)
    assert torch.equal(table(IDS), rows * table.scale)
    assert loaded.half()(IDS).logits.dtype == torch.float16


def test_generation(tmp_path: Path) -> None:
    model = make("llama")
    loaded = qcore.load(convert(model, tmp_path, "F32"))
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(loaded.generate(IDS[:1], **options), model.generate(IDS[:1], **options))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("phi", {}, "GGUF files are written for gemma, gemma2"),
        ("llama", {"hidden_act": "relu"}, "activation 'relu'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "'dynamic'",
        ),
        ("gemma2", {"query_pre_attn_scalar": 100}, "query_pre_attn_scalar 100"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "sliding_window",
        ),
    ],
)
def test_models_that_a_file_cannot_hold(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(make(name, **changes), tmp_path, "F16")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_values_that_a_type_cannot_hold(tmp_path: Path) -> None:
    model = make("llama")
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.up_proj").weight[3, 4] = 1e5
    with pytest.raises(
        ValueError, match=r"layers\.1\.mlp\.up_proj\.weight: has values beyond the range of F16"
    ):
        convert(model, tmp_path, "F16")
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.up_proj").weight[3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight: holds NaN"):
        convert(model, tmp_path, "Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_destinations(tmp_path: Path) -> None:
    path = convert(make("llama"), tmp_path, "F16")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        qcore.quantize_gguf(tmp_path / "hf", path, "Q8_0", "rtn")
    with pytest.raises(ValueError, match="scheme: expected one of"):
        qcore.quantize_gguf(tmp_path / "hf", path, "Q9_K", "rtn", overwrite=True)
    assert path.read_bytes() == before
    qcore.quantize_gguf(tmp_path / "hf", path, "q8_0", "rtn", overwrite=True)
    assert types_in(path)["blk.0.attn_q.weight"] == "Q8_0"
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(FileExistsError, match="is a folder"):
        qcore.quantize_gguf(tmp_path / "hf", tmp_path / "folder.gguf", "F16", "rtn", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.gguf", "hf", "model.gguf"]


def test_a_wider_embedding_than_the_tokenizer(tmp_path: Path) -> None:
    backend = byte_level(None, 300)
    model = make("llama", vocab_size=320)
    save(model, tmp_path / "hf", wrap(backend, eos_token="<|end|>"))
    qcore.quantize_gguf(tmp_path / "hf", tmp_path / "model.gguf", "F16", "rtn")
    tokens = GgufFile(tmp_path / "model.gguf").metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == len(set(tokens)) == 320
    assert tokens[310] == "[PAD310]"
    # One that the model cannot embed is left out if it is no part of words.
    save(make("llama", vocab_size=299), tmp_path / "less", wrap(backend, eos_token="<|end|>"))
    qcore.quantize_gguf(tmp_path / "less", tmp_path / "less.gguf", "F16", "rtn")
    assert "<tool>" not in GgufFile(tmp_path / "less.gguf").metadata["tokenizer.ggml.tokens"]
    assert max(qcore.load_tokenizer(tmp_path / "less.gguf")("a <tool> b")["input_ids"]) < 299
    save(make("llama", vocab_size=290), tmp_path / "small", wrap(backend, eos_token="<|end|>"))
    with pytest.raises(ValueError, match="the embedding only 290 rows"):
        qcore.quantize_gguf(tmp_path / "small", tmp_path / "small.gguf", "F16", "rtn")


@pytest.mark.parametrize("name", ["qwen2", "llama-bias"])
def test_tensors_that_are_missing_or_too_many(name: str, tmp_path: Path) -> None:
    """A bias that another block has is not zero, and what nothing uses is counted."""
    path = convert(make(name), tmp_path, "F32")
    metadata = plain_metadata(GgufFile(path))
    tensors = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in GGUFReader(path).tensors}
    architecture = GgufFile(path).metadata["general.architecture"]

    def load(changed: dict[str, torch.Tensor]) -> torch.nn.Module:
        path.unlink()
        return qcore.load(write_gguf(path, metadata, changed, architecture))

    for missing in [*[*tensors][:: max(1, len(tensors) // 8)], "blk.1.attn_q.bias"]:
        with pytest.raises(ValueError, match=rf"lacks the tensor {missing}|bias: the model has no such bias"):
            load({key: tensor for key, tensor in tensors.items() if key != missing})
    with pytest.warns(
        UserWarning, match=r"1 of its tensors are not used, the first is blk\.0\.extra\.weight"
    ):
        load({**tensors, "blk.0.extra.weight": torch.ones(4)})
    load({key: tensor for key, tensor in tensors.items() if not key.endswith("attn_output.bias")})
