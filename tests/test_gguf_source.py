"""GGUF files as what is quantized: into folders, and into other files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import qcore
import tiny
from gguf_cases import ROPES, TEXTS, byte_level, make, plain_metadata, save, types_in, wrap, write_gguf
from qcore.checkpoints.gguf import GgufFile
from qcore.cli import app

IDS = tiny.tokens(2, 40, seed=5)
NAMES = ("llama", "llama-tied", "llama-bias", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3")


def file_of(model: Any, tmp_path: Path, scheme: str, tokenizer: Any = None) -> Path:
    path = tmp_path / f"{scheme}.gguf"
    qcore.quantize_gguf(save(model, tmp_path / "hf", tokenizer), path, scheme, "rtn")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_float_file_is_the_folder_it_came_from(name: str, tmp_path: Path) -> None:
    """Codes and logits are those of quantizing the folder; nothing is said of quantizing twice."""
    path = file_of(make(name), tmp_path, "F32")
    for source in ("hf", path.name):
        report = qcore.quantize_folder(
            tmp_path / source, tmp_path / f"of-{source.partition('.')[0]}", "W4A16", "rtn", group_size=32
        )
        assert report.notes == []
    one, other = qcore.load(tmp_path / "of-hf"), qcore.load(tmp_path / "of-F32")
    assert type(one) is type(other)
    assert tiny.distance(tiny.logits(other, IDS), tiny.logits(one, IDS)) < 1e-5
    compared = 0
    for key, module in one.named_modules():
        if isinstance(module, qcore.QLinear):
            codes = other.get_submodule(key).to_qweight().tensors["codes"]
            same = (codes == module.to_qweight().tensors["codes"]).float().mean()
            assert same > 0.999, key  # norms and rows of Gemma go through one more rounding
            compared += 1
    assert compared == 14


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    model = make("llama").to(dtype)
    path = file_of(model, tmp_path, "F16" if dtype == torch.float16 else "BF16")
    qcore.quantize_checkpoint(path, tmp_path / "out", "W8A16", "rtn", group_size=32)
    loaded: Any = qcore.load(tmp_path / "out")
    assert loaded.config.dtype == loaded.get_input_embeddings().weight.dtype == dtype
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)  # type: ignore[operator]


def test_a_quantized_file_is_quantized_again(tmp_path: Path) -> None:
    """Of what the file's blocks stand for, and it is said."""
    path = file_of(make("llama"), tmp_path, "Q8_0")
    decoded = qcore.load(path)
    with pytest.warns(
        UserWarning, match=r"Q8_0\.gguf is quantized already \(16 x Q8_0\), and is quantized again"
    ):
        report = qcore.quantize_checkpoint(path, tmp_path / "out", "W4A16", "rtn", group_size=32)
    assert "quantized already (16 x Q8_0)" in report.notes[0]
    loaded = qcore.load(tmp_path / "out")
    for key, module in loaded.named_modules():
        if isinstance(module, qcore.QLinear):
            w = decoded.get_submodule(key).to_qweight().dequantize()
            expected = qcore.Rtn().quantize(w, None, module.format, torch.float32)
            assert torch.equal(module.to_qweight().tensors["codes"], expected.tensors["codes"]), key


def test_file_to_file(tmp_path: Path) -> None:
    path = file_of(make("gemma3"), tmp_path, "Q8_0")
    with pytest.warns(UserWarning, match="is quantized again"):
        qcore.quantize_gguf(path, tmp_path / "b.gguf", "Q4_0", "rtn")
    assert "Q4_0" in types_in(tmp_path / "b.gguf").values()
    a, b = qcore.load(path), qcore.load(tmp_path / "b.gguf")
    assert 0 < tiny.distance(tiny.logits(b, IDS), tiny.logits(a, IDS)) < 0.5
    before, after = (plain_metadata(GgufFile(p)) for p in (path, tmp_path / "b.gguf"))
    changed = {key for key in before if key not in after or str(before[key]) != str(after[key])}
    assert changed <= {"general.file_type", "general.name"}
    with pytest.raises(ValueError, match=r"b\.gguf: is the source itself"):
        qcore.quantize_gguf(tmp_path / "b.gguf", tmp_path / "b.gguf", "Q4_0", "rtn", overwrite=True)


def test_tokenizer_and_other_readers(tmp_path: Path) -> None:
    """The folder has the file's tokenizer, and transformers loads both."""
    tokenizer = wrap(byte_level(None, 400), bos_token="<|begin|>", eos_token="<|end|>")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    path = file_of(make("llama", vocab_size=512), tmp_path, "F16", tokenizer)
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    qcore.quantize_folder(path, tmp_path / "out", "W4A16", "gptq", chats, group_size=32)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.chat_template == tokenizer.chat_template
    assert [theirs(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert tiny.distance(tiny.logits(model), tiny.logits(qcore.load(tmp_path / "out", torch.float32))) < 1e-2
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("rope", ROPES)
def test_long_contexts(rope: str, tmp_path: Path) -> None:
    model = make("llama", rope_parameters=dict(ROPES[rope]))
    path = file_of(model, tmp_path, "F32")
    qcore.quantize_folder(path, tmp_path / "out", "W8A16", "rtn", group_size=16)
    assert tiny.distance(tiny.logits(qcore.load(tmp_path / "out"), IDS), tiny.logits(model, IDS)) < 0.03


def test_frequencies_that_no_config_can_say(tmp_path: Path) -> None:
    path = file_of(make("llama", rope_parameters=dict(ROPES["llama3"])), tmp_path, "F32")
    file = GgufFile(path)
    tensors = {
        name: file.data(name).clone().view(torch.float32).view(t.shape) for name, t in file.tensors.items()
    }
    tensors["rope_freqs.weight"] = 1 + torch.rand_like(tensors["rope_freqs.weight"])
    other = write_gguf(tmp_path / "other.gguf", plain_metadata(file), tensors, "llama")
    with pytest.raises(
        ValueError, match=r"other\.gguf: rope_freqs\.weight: its factors are not those of llama3"
    ):
        qcore.quantize_folder(other, tmp_path / "out", "W4A16", "rtn")
    assert not (tmp_path / "out").exists()


def test_command_line(tmp_path: Path) -> None:
    path = file_of(make("llama"), tmp_path, "Q4_0")
    arguments = ["quantize", str(path), str(tmp_path / "out"), "--method", "rtn", "--group-size", "32"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(app, [*arguments, "--quantize-embeddings", "8"])
    assert result.exit_code == 0, result.output
    assert "is quantized already (15 x Q4_0, 1 x Q8_0), and is quantized again" in result.output
    qcore.load(tmp_path / "out")
    result = CliRunner().invoke(app, ["quantize", str(tmp_path / "none.gguf"), str(tmp_path / "x")])
    assert result.exit_code == 1
    assert "none.gguf: no such file" in result.stderr
