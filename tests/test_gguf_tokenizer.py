"""Tokenizers in GGUF files: what is written for them, and that reading it gives the same tokens."""

from __future__ import annotations

import json
import random
import tracemalloc
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

import qcore
from conftest import REPOSITORY
from gguf_cases import LLAMA3, QWEN2, TEXTS, byte_level, make, save, sentence_piece, wrap
from qcore.checkpoints.gguf import GgufFile
from qcore.checkpoints.gguf.tokenizer_read import HUGGING_FACE, read_tokenizer

BEGIN_END = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}


def convert(tokenizer: Any, tmp_path: Path) -> tuple[Any, Path]:
    """The tokenizer as transformers reads it from a folder, and a GGUF file of that folder."""
    folder = save(make("llama", vocab_size=640), tmp_path / "hf", tokenizer)
    path = tmp_path / "model.gguf"
    qcore.quantize_gguf(folder, path, "F16", "rtn")
    return AutoTokenizer.from_pretrained(folder), path


def assert_same(ours: Any, theirs: Any) -> None:
    specials = [f"{token} a{token}b  {token}" for token in theirs.get_added_vocab()]
    for text in [*TEXTS, *specials]:
        for special in (False, True):
            ids = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours(text, add_special_tokens=special)["input_ids"] == ids, text
            assert ours.decode(ids) == theirs.decode(ids), text
    for attribute in ("bos_token_id", "eos_token_id", "pad_token_id", "chat_template"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)


@pytest.mark.parametrize(
    ("name", "pattern", "options"),
    [
        ("gpt-2", None, {}),
        ("smollm", None, {"digits": True}),
        ("llama-bpe", LLAMA3, {"whole_words": True}),
        ("dbrx", LLAMA3, {}),
        ("qwen2", QWEN2, {"nfc": True}),
    ],
)
def test_byte_level(name: str, pattern: str | None, options: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = wrap(byte_level(pattern, 600, **options), **BEGIN_END)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    theirs, path = convert(tokenizer, tmp_path)
    metadata = GgufFile(path).metadata
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert metadata["tokenizer.ggml.pre"] == name
    assert HUGGING_FACE not in metadata
    kinds = dict(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True))
    assert (kinds["<|begin|>"], kinds["<tool>"], kinds["[PAD630]"], kinds["e"]) == (3, 4, 5, 1)
    ours = qcore.load_tokenizer(path)
    assert_same(ours, theirs)
    conversation = [{"role": "user", "content": "Hi there"}]
    assert ours.apply_chat_template(conversation, tokenize=False) == "Hi there"


@pytest.mark.parametrize("begin", [False, True])
def test_tokens_of_begin_and_end(begin: bool, tmp_path: Path) -> None:
    backend = byte_level(None, 600)
    parts = ["<|begin|>", "$A"] if begin else ["$A", "<|end|>"]
    ids = [(part, backend.token_to_id(part)) for part in parts if part != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=parts, special_tokens=ids)
    theirs, path = convert(wrap(backend, **BEGIN_END), tmp_path)
    metadata = GgufFile(path).metadata
    assert metadata["tokenizer.ggml.add_bos_token"] is begin
    assert metadata["tokenizer.ggml.add_eos_token"] is not begin
    assert_same(qcore.load_tokenizer(path), theirs)


@pytest.mark.parametrize("prefix", [False, True])
def test_sentence_piece(prefix: bool, tmp_path: Path) -> None:
    tokenizer = wrap(sentence_piece(prefix), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    theirs, path = convert(tokenizer, tmp_path)
    metadata = GgufFile(path).metadata
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is prefix
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    kinds = dict(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True))
    assert (kinds["<unk>"], kinds["<s>"], kinds["<table>"], kinds["<0x0A>"], kinds["▁the"]) == (2, 3, 4, 6, 1)
    assert HUGGING_FACE not in metadata
    assert_same(qcore.load_tokenizer(path), theirs)


def test_unigram(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((f"<0x{b:02X}>", -9.0) for b in range(256))]
    words = ["▁", "▁the", "▁a", "e", "t", "h", "r", "in", "er", "▁of", "and", "▁and", "s", "n", "o", "i"]
    pieces += [(word, -1.0 - i * 0.25) for i, word in enumerate(words)]
    backend = Tokenizer(models.Unigram(pieces, 0, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    theirs, path = convert(wrap(backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"), tmp_path)
    assert GgufFile(path).metadata["tokenizer.ggml.model"] == "t5"
    assert_same(qcore.load_tokenizer(path), theirs)


def test_what_names_cannot_say_goes_along_whole(tmp_path: Path) -> None:
    """Lower case is nothing that a GGUF file knows of."""
    backend = byte_level(None, 600)
    backend.normalizer = normalizers.Lowercase()
    theirs, path = convert(wrap(backend, **BEGIN_END), tmp_path)
    assert HUGGING_FACE in GgufFile(path).metadata
    assert_same(qcore.load_tokenizer(path), theirs)


def test_unknown_words_are_refused(tmp_path: Path) -> None:
    backend = byte_level(None, 600)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(ValueError, match="splits words in a way that no name"):
        convert(wrap(backend, **BEGIN_END), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    folder = save(make("llama"), tmp_path / "hf")
    qcore.quantize_gguf(folder, tmp_path / "model.gguf", "F16", "rtn")
    assert GgufFile(tmp_path / "model.gguf").metadata["tokenizer.ggml.model"] == "none"
    with pytest.raises(
        ValueError, match=r"model\.gguf: tokenizer\.ggml\.model: expected one of .* got 'none'"
    ):
        qcore.load_tokenizer(tmp_path / "model.gguf")


def test_the_bundled_model(tmp_path: Path) -> None:
    folder = REPOSITORY / "models" / "pydoc-llama-7m"
    qcore.quantize_gguf(folder, tmp_path / "model.gguf", "F16", "rtn")
    assert_same(qcore.load_tokenizer(tmp_path / "model.gguf"), AutoTokenizer.from_pretrained(folder))


TOKENS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.merges": ["a b"],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "rwkv"}, "expected one of gpt2, llama, t5, got 'rwkv'"),
        ({"tokenizer.ggml.tokens": None}, "tokens: expected a list of strings"),
        ({"tokenizer.ggml.tokens": 5}, "tokens: expected a list of strings"),
        ({"tokenizer.ggml.merges": None}, "merges: expected a list of strings"),
        ({"tokenizer.ggml.merges": ["a x"]}, "tokenizer.ggml: "),
        ({"tokenizer.ggml.merges": ["ab"]}, "tokenizer.ggml: "),
        ({"tokenizer.ggml.pre": "klingon"}, "pre: expected one of gpt-2, .* got 'klingon'"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "token_type: expected 3 numbers"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": "high"}, "scores: expected 3 numbers"),
        ({HUGGING_FACE: "{}"}, "tokenizer.huggingface.json: "),
    ],
)
def test_malformed_metadata(changes: dict[str, Any], message: str) -> None:
    assert read_tokenizer(TOKENS)("ab")["input_ids"] == [2]
    with pytest.raises(ValueError, match=message):
        read_tokenizer({k: v for k, v in {**TOKENS, **changes}.items() if v is not None})


def with_templates(templates: dict[str, str]) -> Any:
    tokenizer = wrap(byte_level(None, 600), **BEGIN_END)
    tokenizer.chat_template = templates
    return tokenizer


@pytest.mark.parametrize("default", [True, False])
def test_named_chat_templates(default: bool, tmp_path: Path) -> None:
    templates = {"tool_use": "{{ tools }}", "rag": "{{ documents }}"}
    templates |= {"default": "{{ messages[0]['content'] }}"} if default else {}
    theirs, path = convert(with_templates(templates), tmp_path)
    assert theirs.chat_template == templates
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if "chat_template" in name}
    assert sorted(fields.pop("tokenizer.chat_templates")) == ["rag", "tool_use"]
    assert fields == {
        "tokenizer.chat_template" + ("" if name == "default" else f".{name}"): text
        for name, text in templates.items()
    }
    ours = qcore.load_tokenizer(path)
    assert ours.chat_template == templates
    if default:
        assert ours.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"


def test_names_of_chat_templates(tmp_path: Path) -> None:
    """As in gguf, letters, digits and _ alone; two of one name are refused."""
    _, path = convert(with_templates({"default": "a", "tool-use": "b"}), tmp_path / "a")
    assert qcore.load_tokenizer(path).chat_template == {"default": "a", "tool_use": "b"}
    with pytest.raises(ValueError, match=r"chat_template: 'tool_use' has the name of another one"):
        convert(with_templates({"default": "a", "tool-use": "b", "tool_use": "c"}), tmp_path / "b")


def test_chat_templates_that_are_listed_and_missing() -> None:
    vocabulary = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.merges": []}
    with pytest.raises(ValueError, match=r"chat_templates: lists 'rag', but there is no"):
        read_tokenizer({**vocabulary, "tokenizer.chat_templates": ["rag"]})
    with pytest.raises(ValueError, match=r"chat_template: expected a text for 'rag', got 7"):
        read_tokenizer({**vocabulary, "tokenizer.chat_template.rag": 7})


HOSTILE = {
    "runs": ["a" * n for n in range(1, 513)],
    "runs of two": ["a" * n + "b" * m for n in range(60) for m in range(60) if n + m],
    "all words of two letters": [bin(n)[3:] for n in range(2, 1 << 14)],
}


def sentence_piece_of(tokens: list[str]) -> dict[str, Any]:
    return {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens}


@pytest.mark.parametrize("name", HOSTILE)
def test_tokens_with_more_merges_than_the_file_has_room_for(name: str) -> None:
    """Each could be put together in as many ways as it is long, which took 500 to 2000 times the file."""
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"tokenizer.ggml.tokens: there are more ways to put them together"):
        read_tokenizer(sentence_piece_of(HOSTILE[name]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * sum(len(token) + 16 for token in HOSTILE[name])


def test_merges_of_a_dense_vocabulary() -> None:
    """Every word of four letters up to a length, as one of DNA is: what its merges are, by definition."""
    words = ["".join(word) for n in range(1, 6) for word in product("acgt", repeat=n)]
    tokens = random.Random(0).sample(words, len(words))
    scores = [random.Random(1).randrange(50) / 8 for _ in tokens]
    stored = {**sentence_piece_of(tokens), "tokenizer.ggml.scores": scores}
    rank = {token: (-score, place) for place, (token, score) in enumerate(zip(tokens, scores, strict=True))}
    expected = sorted(
        ((word[:cut], word[cut:]) for word in tokens for cut in range(1, len(word))),
        key=lambda pair: (rank["".join(pair)][0], -len(pair[0]), -len(pair[1])),
    )
    merges = json.loads(read_tokenizer(stored).backend_tokenizer.to_str())["model"]["merges"]
    assert [tuple(pair) for pair in merges] == expected
