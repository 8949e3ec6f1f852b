"""The embedding and the head, quantized where that is asked."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import qcore
import tiny
from gguf_cases import make, save
from qcore.cli import app
from qcore.formats import BLOCK_FORMATS, ELEMENTS, Float8, IntGroup, ScaledFormat
from qcore.formats.granularity import group
from qcore.formats.scales import Scales
from qcore.nn import QEmbedding, QLinear

NVFP4 = ScaledFormat(ELEMENTS["e2m1"], group(16), Scales(torch.float8_e4m3fn, second_level=True))
FORMATS = [
    *(IntGroup(bits, symmetric, 32) for bits in (2, 3, 4, 8) for symmetric in (True, False)),
    IntGroup(4, True, -1),
    qcore.Int8(),
    *(Float8(scales, None) for scales in ("channel", "tensor")),
    qcore.SCHEMES["FP8_BLOCK"],
    qcore.SCHEMES["NF4"],
    NVFP4,
    *(BLOCK_FORMATS[name] for name in ("Q4_0", "Q8_0", "Q4_K", "IQ4_NL")),
]


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_those_of_the_table(format: Any, dtype: torch.dtype) -> None:
    """Gathered and decoded rows are rows of the decoded table, in every format."""
    w = torch.randn(300, 256)
    weight = qcore.Rtn().quantize(w, None, format, torch.float32)
    module = QEmbedding(weight, dtype, 3.0)
    ids = torch.tensor([[0, 299, 128], [127, 5, 5]])
    assert torch.equal(module(ids), weight.dequantize().to(dtype)[ids] * torch.tensor(3.0, dtype=dtype))
    assert torch.equal(module(ids.int()), module(ids))
    assert module(torch.empty(0, 2, dtype=torch.long)).shape == (0, 2, 256)
    back = module.half().to_qweight()
    for name, tensor in back.tensors.items():
        assert torch.equal(tensor.view(torch.uint8), weight.tensors[name].view(torch.uint8))
    assert module(ids).dtype == torch.float16
    assert torch.equal(module.weight, weight.dequantize(torch.float16))
    if format.scaled is not None and format.scaled.elements.affine and format.scaled.bits <= 4:
        assert module.get_buffer("codes").numel() == w.numel() // 2  # two in a byte


def quantized(model: nn.Module, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "only .* of the parameters")
        return qcore.quantize(model, "W4A16", "rtn", group_size=32, **options)


def ends_of(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


CASES = [
    ("llama", {"quantize_embeddings": 8}, (8, None)),
    ("llama", {"quantize_head": 8}, (None, 8)),
    ("llama", {"quantize_embeddings": 4, "quantize_head": 8}, (4, 8)),
    ("llama-tied", {"quantize_embeddings": 8}, (8, 8)),
    ("llama-tied", {"quantize_head": 4}, (4, 4)),
    ("llama-tied", {"quantize_embeddings": 4, "quantize_head": 4}, (4, 4)),
    ("gemma3", {"quantize_embeddings": 8}, (8, 8)),
    ("opt", {"quantize_embeddings": 8}, (8, 8)),
    ("bloom", {"quantize_head": 8}, (8, 8)),
    ("gpt-neox", {"quantize_embeddings": 4}, (4, None)),
]


@pytest.mark.parametrize(("name", "options", "bits"), CASES, ids=str)
def test_models_and_folders(name: str, options: Any, bits: Any, tmp_path: Path) -> None:
    """In memory, saved and loaded, and from folder to folder: the same codes; tied ones are stored once."""
    folder = save(make(name), tmp_path / "hf")
    original = make(name)
    model: Any = quantized(make(name), **options)
    for module, expected in zip(ends_of(model), bits, strict=True):
        assert getattr(getattr(module, "format", None), "bits", None) == expected
    got = tiny.logits(model)
    reference: Any = quantized(original)
    table, head = ends_of(model)
    with torch.no_grad():
        if bits[0]:
            reference.get_input_embeddings().weight.copy_(table.to_qweight().dequantize())
        if bits[1]:
            reference.get_output_embeddings().weight.copy_(head.to_qweight().dequantize())
    assert tiny.distance(got, tiny.logits(reference)) < 1e-5
    qcore.save(model, tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "only .* of the parameters")
        qcore.quantize_folder(folder, tmp_path / "out", "W4A16", "rtn", group_size=32, **options)
    for path in (tmp_path / "saved", tmp_path / "out"):
        loaded: Any = qcore.load(path)
        assert torch.equal(tiny.logits(loaded), got), path
        keys = load_file(path / "model.safetensors").keys()
        ends = [key for key in keys if key.endswith(".weight_packed") and not any(p in key for p in BLOCKS)]
        tied = bits[0] is not None and bits[0] == bits[1] and table.format == head.format and name != "llama"
        assert len(ends) == (1 if tied else sum(b is not None for b in bits)), ends
        config = json.loads((path / "config.json").read_text())
        assert bool(config.get("tie_word_embeddings")) == tied or name not in ("llama", "llama-tied")
        qcore.save(loaded, tmp_path / "again", overwrite=True)
        assert torch.equal(tiny.logits(qcore.load(tmp_path / "again")), got)


BLOCKS = (".layers.", ".h.")


def test_one_weight_under_several_embeddings(tmp_path: Path) -> None:
    """T5: the table of encoder, decoder and head."""
    import transformers as tf

    config = tf.T5Config(vocab_size=64, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4,
                         decoder_start_token_id=0)  # fmt: skip
    torch.manual_seed(0)
    model: Any = tf.T5ForConditionalGeneration(config).eval()
    ids = tiny.tokens(2, 8)
    quantized(model, quantize_embeddings=8)
    got = model(input_ids=ids, decoder_input_ids=ids).logits.detach()
    assert isinstance(model.lm_head, QLinear)
    assert isinstance(model.encoder.embed_tokens, QEmbedding)
    qcore.save(model, tmp_path / "out")
    loaded = qcore.load(tmp_path / "out")
    again = loaded(input_ids=ids, decoder_input_ids=ids).logits.detach()
    assert tiny.distance(again, got) < 1e-6
    keys = load_file(tmp_path / "out" / "model.safetensors").keys()
    assert [k for k in keys if "block" not in k and k.endswith("weight_packed")] == ["shared.weight_packed"]


@torch.no_grad()
def test_encoders(tmp_path: Path) -> None:
    import transformers as tf

    torch.manual_seed(0)
    encoder: Any = tf.BertModel(make("bert").config).eval()  # type: ignore[arg-type]
    ids = tiny.tokens(2, 8)
    before = encoder(input_ids=ids).last_hidden_state
    quantized(encoder, quantize_embeddings=8)
    assert isinstance(encoder.get_input_embeddings(), QEmbedding)
    assert tiny.distance(encoder(input_ids=ids).last_hidden_state, before) < 0.5
    qcore.save(encoder, tmp_path / "out")
    assert torch.equal(
        qcore.load(tmp_path / "out")(input_ids=ids).last_hidden_state,
        encoder(input_ids=ids).last_hidden_state,
    )


def test_dtypes(tmp_path: Path) -> None:
    model: Any = quantized(make("llama-tied").bfloat16(), quantize_embeddings=4)
    model.config.dtype = torch.bfloat16
    assert model(input_ids=tiny.tokens()).logits.dtype == torch.bfloat16
    qcore.save(model, tmp_path / "out")
    loaded = qcore.load(tmp_path / "out")
    assert loaded(input_ids=tiny.tokens()).logits.dtype == torch.bfloat16
    assert tiny.distance(tiny.logits(loaded), tiny.logits(model)) < 0.05  # which has rotary tables in 16 bits
    assert qcore.load(tmp_path / "out", torch.float32)(input_ids=tiny.tokens()).logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llama", {"quantize_head": 5}, "quantize_head: expected 4 or 8 bits, got 5"),
        ("llama", {"quantize_embeddings": "8"}, "quantize_embeddings: expected 4 or 8 bits, got '8'"),
        (
            "llama-tied",
            {"quantize_head": 4, "quantize_embeddings": 8},
            "head and embedding are one weight, expected one number of bits, got 4 and 8",
        ),
    ],
)
def test_what_cannot_be(name: str, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        quantized(make(name), **options)
    with pytest.raises(ValueError, match=message):
        qcore.quantize_folder(save(make(name), tmp_path / "m"), tmp_path / "o", "W4A16", "rtn", **options)
    assert not (tmp_path / "o").exists()


def test_models_without_ends() -> None:
    encoder = make("bert").get_submodule("bert")
    with pytest.raises(ValueError, match="quantize_head: BertModel has no head that makes logits"):
        quantized(encoder, quantize_head=8)
    with pytest.raises(ValueError, match="quantize_embeddings: Sequential has no embedding of tokens"):
        quantized(nn.Sequential(nn.Linear(64, 64)), quantize_embeddings=8)


def test_a_calibrated_head(tmp_path: Path) -> None:
    """The head is a linear layer like others: the method sees its inputs."""
    ids = tiny.tokens(8, 32)
    one = qcore.quantize(make("llama"), "W4A16", "gptq", ids, group_size=32, quantize_head=4)
    other = qcore.quantize(make("llama"), "W4A16", "gptq", ids, group_size=32, ignore=())
    assert torch.equal(tiny.logits(one), tiny.logits(other))


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_transformers_reads_embeddings_of_the_layers_format(name: str, tmp_path: Path) -> None:
    """The configuration tells it to decode all on loading, and only if one format is right for all."""
    from transformers import AutoModelForCausalLM

    folder = save(make(name), tmp_path / "m")
    for bits in (4, 8):
        out = tmp_path / str(bits)
        qcore.quantize_folder(folder, out, "W4A16", "rtn", group_size=32, quantize_embeddings=bits)
        config = json.loads((out / "config.json").read_text())["quantization_config"]
        assert config.get("dequantize", False) == (bits == 4)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "4", dtype=torch.float32)
    assert tiny.distance(tiny.logits(theirs), tiny.logits(qcore.load(tmp_path / "4"))) < 1e-4


def test_command_line(tmp_path: Path) -> None:
    folder = save(make("llama-tied", vocab_size=512), tmp_path / "m")
    arguments = ["quantize", str(folder), "--method", "rtn"]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "a")])
    assert result.exit_code == 0, result.output
    assert "% of the file; --quantize-embeddings 8 and --quantize-head 8 (or 4)" in result.output
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "b"), "--quantize-embeddings", "8"])
    assert result.exit_code == 0, result.output
    assert "of the file" not in result.output
    assert "transformers (up to 5.24) only if all layers have its format" in result.output
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in "ab"]
    assert sizes[1] < 0.6 * sizes[0]
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / "c.gguf"), "--quantize-head", "8"])
    assert result.exit_code == 1
    assert "--quantize-head: is not for a GGUF file; see --override" in result.stderr
