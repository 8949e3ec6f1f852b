"""Encoders of sentences: quantized with all that makes vectors of texts, and compared by these vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from typer.testing import CliRunner, Result

import qcore
import tiny
from gguf_cases import byte_level, save, wrap
from qcore.cli import app
from qcore.encoders import embeddings, is_encoder, pooling_of

LINES = [f"the {a} {b} sees a {c}" for a in ("red", "old") for b in ("cat", "dog") for c in ("bird", "man")]


def tokenizer() -> Any:
    from tokenizers import processors

    backend = byte_level(None, 400)
    ids = [(token, backend.token_to_id(token)) for token in ("<|begin|>", "<|end|>")]
    backend.post_processor = processors.TemplateProcessing(single="<|begin|> $A <|end|>", special_tokens=ids)
    return wrap(backend, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>")


def encoder(seed: int = 0) -> Any:
    sizes = {**tiny.CONFIGS["bert"][1], "vocab_size": 512}
    torch.manual_seed(seed)
    model = tf.BertModel(tf.BertConfig(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model


def sentence_folder(folder: Path, pooling: dict[str, Any]) -> Path:
    save(encoder(), folder, tokenizer())
    kinds = {
        "": "sentence_transformers.models.Transformer",
        "1_Pooling": "sentence_transformers.models.Pooling",
    }
    modules = [{"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(kinds.items())]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


POOLINGS: dict[str, Any] = {
    "mean": {
        "word_embedding_dimension": 64,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls_token": False,
    },
    "cls": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    "max": {"pooling_mode_max_tokens": True},
    "lasttoken": {"pooling_mode": "lasttoken", "include_prompt": True},
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_eval_compares_vectors(pooling: str, tmp_path: Path) -> None:
    """Figures by their definition, with transformers' own output."""
    folder = sentence_folder(tmp_path / "m", POOLINGS[pooling])
    out, text = tmp_path / "w4", tmp_path / "lines.txt"
    text.write_text("\n\n".join(LINES) + "\n")
    result = run("quantize", folder, out, "--method", "rtn", "--group-size", 32)
    assert result.exit_code == 0, result.output
    assert (out / "1_Pooling" / "config.json").exists()
    assert pooling_of(out) == pooling
    # sentence-transformers calls the model past the hook in which transformers would decode it.
    assert json.loads((out / "config.json").read_text())["quantization_config"]["dequantize"]
    arguments = ("eval", out, "--text", text, "--reference", folder)
    got = json.loads(run(*arguments, "--json").stdout)

    def vectors(path: Path) -> torch.Tensor:
        model, tokenize, rows = qcore.load(path), qcore.load_tokenizer(path), []
        for line in LINES:
            with torch.no_grad():
                hidden = model(**tokenize(line, return_tensors="pt")).last_hidden_state[0]
            rows.append({"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0).values,
                         "lasttoken": hidden[-1]}[pooling])  # fmt: skip
        return torch.stack(rows).double()

    ours, theirs = vectors(out), vectors(folder)
    cosines = torch.cosine_similarity(ours, theirs)
    nearest = []
    for found in (ours, theirs):
        table = torch.cosine_similarity(found[:, None], found[None], dim=-1) - 2 * torch.eye(len(LINES))
        nearest.append(table.argmax(1))
    assert got == {
        "texts": 8,
        "cosine": pytest.approx(float(cosines.mean()), abs=1e-6),
        "cosine_min": pytest.approx(float(cosines.min()), abs=1e-6),
        "neighbours": pytest.approx(float((nearest[0] == nearest[1]).double().mean())),
    }
    assert 0.5 < got["cosine_min"] <= got["cosine"] < 1
    table = run(*arguments).stdout
    assert "nearest neighbours kept" in table
    same = json.loads(run("eval", folder, "--text", text, "--reference", folder, "--json").stdout)
    assert same["cosine_min"] == pytest.approx(1)
    assert same["neighbours"] == 1


def test_what_eval_needs(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "m", POOLINGS["mean"])
    (tmp_path / "t.txt").write_text("a\nb\n")
    result = run("eval", folder, "--text", tmp_path / "t.txt")
    assert result.exit_code == 1
    assert "error: --reference: MODEL is an encoder" in result.stderr
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    with pytest.raises(ValueError, match="expected one of mean, cls, max, lasttoken, got weightedmean"):
        pooling_of(folder)
    with pytest.raises(ValueError, match=r"BertModel predicts no next tokens; qcore.evaluate_embeddings"):
        qcore.evaluate(encoder(), tiny.tokens())
    with pytest.raises(ValueError, match="texts: expected at least one"):
        qcore.evaluate_embeddings(encoder(), [], encoder())
    with pytest.raises(ValueError, match=r"pooling: expected one of mean, .* got 'sum'"):
        embeddings(encoder(), torch.tensor([1, 2]), "sum")


def test_what_is_an_encoder() -> None:
    sizes = {**tiny.CONFIGS["bert"][1]}
    assert is_encoder(tf.BertForMaskedLM(tf.BertConfig(**sizes)))
    assert is_encoder(tf.LlamaModel(tf.LlamaConfig(**tiny.CONFIGS["llama"][1])))
    assert not is_encoder(tiny.make_model("llama"))
    assert not is_encoder(torch.nn.Linear(2, 2))
    t5 = tf.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    result = qcore.evaluate_embeddings(
        tf.T5Model(t5), [torch.tensor([1, 2, 3])], tf.T5Model(t5)
    )  # by its encoder
    assert -1 <= result.cosine <= 1
    assert result.neighbours is None
    masked: Any = tf.BertForMaskedLM(tf.BertConfig(**sizes)).eval()
    ids = torch.tensor([3, 4, 5])
    expected = masked.bert(input_ids=ids[None]).last_hidden_state[0, 0]
    assert torch.allclose(embeddings(masked, ids, "cls"), expected.detach())
    with pytest.raises(ValueError, match="T5ForConditionalGeneration needs an input and an output text"):
        qcore.evaluate(tf.T5ForConditionalGeneration(t5), tiny.tokens())


def test_calibration_on_chats_and_lines(tmp_path: Path) -> None:
    """An encoder, its embedding too, by gptq on texts."""
    folder = sentence_folder(tmp_path / "m", POOLINGS["mean"])
    report = qcore.quantize_folder(
        folder, tmp_path / "o", "W4A16", "gptq", LINES, group_size=32, quantize_embeddings=8
    )
    assert report.calibration.startswith("8 texts: 8 sequences")
    ids = [torch.tensor(qcore.load_tokenizer(folder)(line)["input_ids"]) for line in LINES]
    result = qcore.evaluate_embeddings(qcore.load(tmp_path / "o"), ids, encoder())
    assert result.cosine_min > 0.9


@pytest.mark.peers
def test_sentence_transformers(tmp_path: Path) -> None:
    """Beside the package itself, where it is installed."""
    package = pytest.importorskip("sentence_transformers")
    folder = sentence_folder(tmp_path / "m", POOLINGS["mean"])
    qcore.quantize_folder(folder, tmp_path / "o", "W8A16", "rtn", group_size=32)
    vectors = torch.tensor(package.SentenceTransformer(str(tmp_path / "o"), device="cpu").encode(LINES))
    model, tokenize = qcore.load(tmp_path / "o"), qcore.load_tokenizer(tmp_path / "o")
    ours = torch.stack([embeddings(model, torch.tensor(tokenize(line)["input_ids"])) for line in LINES])
    assert tiny.distance(ours, vectors) < 1e-3
