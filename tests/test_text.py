"""Calibration and evaluation data as people have it: files, texts, chats, rows, loaders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import qcore
import tiny
from gguf_cases import byte_level, make, save, wrap
from qcore.cli import app
from qcore.text import forward_calls, read_sequences, token_chunks

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if tools %}<{{ tools | length }} tools>{% endif %}"
)
TEXTS = ["A first text, of some words.", "Another.", "def f(x):\n    return x ** 2  # squared"]
CHATS = [
    [{"role": "user", "content": f"What is {i} + {i}?"}, {"role": "assistant", "content": f"It is {i + i}."}]
    for i in range(4)
]
SHARE_GPT = [
    [{"from": {"user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]} for m in chat]
    for chat in CHATS
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import processors

    backend = byte_level(None, 600)
    ids = [(token, backend.token_to_id(token)) for token in ("<|begin|>",)]
    backend.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=ids)
    made = wrap(backend, bos_token="<|begin|>", eos_token="<|end|>")
    made.chat_template = TEMPLATE
    assert made("a")["input_ids"][0] == made.bos_token_id
    return made


@pytest.fixture(scope="module")
def model() -> Any:
    return make("llama", vocab_size=640)


def rendered(tokenizer: Any, chats: list[Any], **options: Any) -> list[list[int]]:
    return [list(tokenizer.apply_chat_template(c, return_dict=True, **options)["input_ids"]) for c in chats]


def plain(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [list(tokenizer(text)["input_ids"]) for text in texts]


def seen(data: Any, model: Any, tokenizer: Any = None) -> list[list[int]]:
    """The sequences that the model is called with, without padding, sorted."""
    calls, _ = forward_calls(data, model, tokenizer)
    found = []
    for call in calls:
        ids = call if isinstance(call, torch.Tensor) else call["input_ids"]
        mask = torch.ones_like(ids) if isinstance(call, torch.Tensor) else call.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        assert ids.shape == mask.shape
        found += [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
    return sorted(found)


def lines(rows: list[Any], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# How chats are written down: each gives what the tokenizer's template makes of CHATS.
AS_CHATS: dict[str, Callable[[Path], Any]] = {
    "chats": lambda _: CHATS,
    "generator": lambda _: (chat for chat in CHATS),
    "rows": lambda _: [{"messages": chat, "id": i} for i, chat in enumerate(CHATS)],
    "column": lambda _: {"messages": CHATS, "id": [0, 1, 2, 3]},
    "share_gpt": lambda _: [{"conversations": chat} for chat in SHARE_GPT],
    "bare share_gpt": lambda _: SHARE_GPT,
    "pairs": lambda _: [{"prompt": a["content"], "completion": b["content"]} for a, b in CHATS],
    "chat pairs": lambda _: [{"prompt": [a], "completion": [b]} for a, b in CHATS],
    "alpaca": lambda _: [
        {"instruction": a["content"], "input": "", "output": b["content"]} for a, b in CHATS
    ],
    "parts": lambda _: [
        [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in chat]
        for chat in CHATS
    ],
    "empty columns": lambda _: [{"text": None, "messages": chat} for chat in CHATS],
    "jsonl": lambda path: lines([{"messages": chat} for chat in CHATS], path / "c.jsonl"),
    "jsonl, as text": lambda path: lines([{"messages": chat} for chat in CHATS], path / "c.txt"),
    "jsonl of chats": lambda path: str(lines(CHATS, path / "c.jsonl")),
    "jsonl share_gpt": lambda path: lines([{"conversations": chat} for chat in SHARE_GPT], path / "data"),
    "json": lambda path: lines([[{"messages": chat} for chat in CHATS]], path / "c.json"),
}


@pytest.mark.parametrize("kind", AS_CHATS)
def test_chats(kind: str, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    got = seen(AS_CHATS[kind](tmp_path), model, tokenizer)
    assert got == sorted(rendered(tokenizer, CHATS))
    assert all(ids.count(tokenizer.bos_token_id) == 1 for ids in got)


def csv_of(path: Path) -> Path:
    import csv

    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([i, text] for i, text in enumerate(TEXTS))])
    return path


AS_TEXTS: dict[str, Callable[[Path], Any]] = {
    "texts": lambda _: TEXTS,
    "tuple": lambda _: tuple(TEXTS),
    "loader": lambda _: DataLoader(TEXTS, batch_size=2),  # type: ignore[arg-type]
    "rows": lambda _: [{"text": text, "meta": 1} for text in TEXTS],
    "column": lambda _: {"text": TEXTS},
    "loader of rows": lambda _: DataLoader([{"text": t} for t in TEXTS], batch_size=2),  # type: ignore[arg-type]
    "jsonl": lambda path: lines([{"text": text} for text in TEXTS], path / "t.jsonl"),
    "jsonl of texts": lambda path: lines(TEXTS, path / "t.jsonl"),
    "json": lambda path: lines([TEXTS], path / "t.json"),
    "csv": lambda path: csv_of(path / "t.csv"),
    "with their own beginning": lambda _: ["<|begin|>" + text for text in TEXTS],
    "blank ones left out": lambda _: [*TEXTS, "", " \n"],
}


@pytest.mark.parametrize("kind", AS_TEXTS)
def test_texts(kind: str, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    assert seen(AS_TEXTS[kind](tmp_path), model, tokenizer) == sorted(plain(tokenizer, TEXTS))


IDS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [14]]


class Rows:
    """As a data set: neither a list nor a generator."""

    column_names = ("input_ids",)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"input_ids": ids, "attention_mask": [1] * len(ids), "idx": 3} for ids in IDS)


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    rows = [torch.tensor(ids) for ids in IDS]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids, (torch.arange(4)[None] < torch.tensor([len(r) for r in rows])[:, None]).long()


AS_IDS: dict[str, Callable[[Any], Any]] = {
    "lists": lambda _: IDS,
    "arrays": lambda _: [np.array(ids) for ids in IDS],
    "tensors": lambda _: [torch.tensor(ids) for ids in IDS],
    "rows": lambda _: Rows(),
    "rows of tensors": lambda _: [{"input_ids": torch.tensor(ids)} for ids in IDS],
    "padded lists": lambda _: dict(
        zip(("input_ids", "attention_mask"), (t.tolist() for t in padded()), strict=True)
    ),
    "padded tensors": lambda _: dict(zip(("input_ids", "attention_mask"), padded(), strict=True)),
    "loader": lambda _: DataLoader(
        [{"input_ids": i, "attention_mask": m} for i, m in zip(*padded(), strict=True)],  # type: ignore[arg-type]
        batch_size=3,
    ),
}


@pytest.mark.parametrize("kind", AS_IDS)
def test_ids(kind: str, model: Any) -> None:
    assert seen(AS_IDS[kind](None), model) == sorted(IDS)


def test_loaders_of_tensors(model: Any) -> None:
    ids = tiny.tokens(5, 8)
    assert seen(DataLoader(TensorDataset(ids), batch_size=2), model) == sorted(ids.tolist())


@pytest.mark.parametrize(("padding", "tensors"), [(False, None), ("longest", None), ("longest", "pt")])
def test_batch_encodings(padding: Any, tensors: Any, model: Any, tokenizer: Any) -> None:
    tokenizer.pad_token = "<|end|>"
    encoded = tokenizer(TEXTS, padding=padding, return_tensors=tensors)
    assert seen(encoded, model) == sorted(plain(tokenizer, TEXTS))


def test_padding_does_not_count(model: Any, tokenizer: Any) -> None:
    """Quantizing on texts of many lengths is quantizing on each alone."""
    texts = [text * (1 + i % 3) for i, text in enumerate(TEXTS * 3)]
    calls, origin = forward_calls(texts, model, tokenizer)
    assert len(calls) == 1  # else nothing is padded
    assert origin.startswith(f"9 texts: 9 sequences, {sum(map(len, plain(tokenizer, texts)))} tokens")
    alone = [torch.tensor([ids]) for ids in plain(tokenizer, texts)]
    one, other = make("llama", vocab_size=640), make("llama", vocab_size=640)
    qcore.quantize(one, "W4A16", "gptq", texts, tokenizer=tokenizer, group_size=32)
    qcore.quantize(other, "W4A16", "gptq", alone, group_size=32)
    same = [
        (a.to_qweight().tensors["codes"] == b.to_qweight().tensors["codes"]).float().mean()
        for a, b in zip(one.modules(), other.modules(), strict=True)
        if isinstance(a, qcore.QLinear) and isinstance(b, qcore.QLinear)
    ]
    assert len(same) == 14
    assert min(same) > 0.995  # sums in another order
    assert one.qcore_report.calibration == origin
    assert any(origin in line for line in one.qcore_report.lines())


class NoMask(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = torch.nn.Embedding(64, 32), torch.nn.Linear(32, 32)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.linear(self.embedding(input_ids))  # type: ignore[no-any-return]


def test_a_model_that_takes_no_mask() -> None:
    calls, _ = forward_calls([*IDS, *IDS], NoMask())
    assert [sorted(call) for call in calls] == [["input_ids"]] * 4
    assert seen([*IDS, *IDS], NoMask()) == sorted([*IDS, *IDS])
    qcore.quantize(NoMask(), "W4A16", "gptq", IDS, group_size=32)


def test_what_is_long_becomes_several(model: Any, tokenizer: Any) -> None:
    """The model has positions for 64 tokens. Nothing is lost, and each part of a text begins as texts do."""
    text = " ".join(f"word{i}" for i in range(60))
    ids = plain(tokenizer, [text])[0]
    calls, _ = forward_calls([text], model, tokenizer)
    rows = [row for call in calls for row in seen([call], model)]
    assert len(ids) > 128
    assert max(map(len, rows)) == 64
    assert all(row[0] == tokenizer.bos_token_id for row in rows)
    assert sorted(t for row in rows for t in row[1:]) == sorted(ids[1:])


def test_processors_and_paths_have_tokenizers(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    from types import SimpleNamespace

    expected = sorted(plain(tokenizer, TEXTS))
    assert seen(TEXTS, model, SimpleNamespace(tokenizer=tokenizer)) == expected
    assert seen(TEXTS, model, save(model, tmp_path / "m", tokenizer)) == expected


def test_tools_reach_the_template(model: Any, tokenizer: Any) -> None:
    tools = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}]
    rows = [{"messages": CHATS[0], "tools": tools}, {"messages": CHATS[1], "tools": json.dumps(tools)}]
    assert seen(rows, model, tokenizer) == sorted(rendered(tokenizer, CHATS[:2], tools=tools))


def test_without_a_template(model: Any, tokenizer: Any) -> None:
    bare = wrap(tokenizer.backend_tokenizer, bos_token="<|begin|>", eos_token="<|end|>")
    with pytest.raises(ValueError, match="item 0: is a chat, but the tokenizer has no chat template"):
        forward_calls(CHATS, model, bare)
    pairs = [{"prompt": "Two and two", "completion": " is four."}]
    assert seen(pairs, model, bare) == plain(bare, ["Two and two is four."])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("wikitext", r"calibration: wikitext: no such file.*load_dataset\('wikitext'"),
        ("HuggingFaceH4/ultrachat_200k", "no such file.*nothing is downloaded here"),
        ([{"a": 1, "b": 2}], r"item 0: expected a row with one of the fields input_ids, messages.*got a, b"),
        ({"train": Rows(), "test": Rows()}, r"is a data set in parts \(train, test\)"),
        ([3.5], "item 0: expected .* got a float"),
        (7, "calibration: expected .* got a int"),
        (b"text", "got a bytes"),
        ([["a", 3.5]], "item 0: expected .* got a float"),
        ([{"text": 3}], "item 0: text: expected a text, got a int"),
        ([{"messages": [{"role": "user"}]}], "item 0: messages: message 0: expected role and content"),
        ([{"messages": "hello"}], "item 0: messages: expected a list of messages, got a str"),
        ([[torch.zeros(2, 3), torch.zeros(2)]], "a list of 2 tensors .*nothing says what they are"),
        ([{"input_ids": [1, 2], "attention_mask": [1]}], "2 input_ids, but an attention_mask of 1"),
        ([{"input_ids": [torch.tensor([1, 2])]}], "input_ids: expected token ids or lists of them"),
        ([""], "expected at least one sequence of tokens, got none"),
        ([], "expected at least one sequence of tokens, got none"),
        (
            [[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]],
            "message 0: expected a text, got a part of type image_url",
        ),
    ],
)
def test_what_is_not_understood(data: Any, message: str, model: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=message):
        forward_calls(data, model, tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"text": "a"}\nno json\n',
            "line 2: expected a JSON object, as in other lines, got 'no json'",
        ),
        ("a.txt", '{"text": "a"}\n{"text": "b"}\n{"text": \n', "line 3: expected a JSON object"),
        ("a.jsonl", "plain prose\n", "line 1: expected a JSON object"),
        ("a.jsonl", '{"body": "a"}\n', "item 0: expected a row with one of the fields .* got body"),
        ("a.csv", "x,y\n1,2\n", "item 0: expected a row with one of the fields .* got x, y"),
        ("a.txt", " \n", "is empty"),
        ("a.parquet", "PAR1", ".parquet files are not read"),
    ],
)
def test_bad_files(name: str, content: str, message: str, model: Any, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        forward_calls(tmp_path / name, model, tokenizer)


def test_missing_files_and_folders(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.txt: no such file$"):
        forward_calls(tmp_path / "none.txt", model, tokenizer)
    with pytest.raises(ValueError, match="is a folder, expected a file of texts or chats"):
        forward_calls(tmp_path, model, tokenizer)


def test_braces_do_not_make_json(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    text = "{ a set }\n[1] a footnote\n" + "more prose\n" * 20
    (tmp_path / "a.txt").write_text(text)
    found = read_sequences(tmp_path / "a.txt", tokenizer, 16)
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [ids.tolist() for ids in found] == [
        [tokenizer.bos_token_id, *bare[at : at + 15]] for at in range(0, len(bare) - 14, 15)
    ]


def test_a_text_in_chunks(tokenizer: Any, model: Any, tmp_path: Path) -> None:
    folder = save(model, tmp_path / "m", tokenizer)
    (tmp_path / "a.txt").write_text("some words again. " * 40)
    chunks = token_chunks(folder, tmp_path / "a.txt", 20, 3)
    assert chunks.shape == (3, 20)
    assert (chunks[:, 0] == tokenizer.bos_token_id).all()
    with pytest.raises(ValueError, match="expected at least 9999 tokens, got"):
        token_chunks(folder, tmp_path / "a.txt", 9999)
    with pytest.raises(ValueError, match="expected one text, got 4 chats"):
        token_chunks(folder, lines(CHATS, tmp_path / "c.jsonl"), 20)


def test_folders_bring_their_tokenizer(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """The command line, the folder's own tokenizer, and quantizing in memory see the same tokens."""
    folder = save(model, tmp_path / "m", tokenizer)
    data = lines([{"messages": chat} for chat in CHATS * 3], tmp_path / "chats.jsonl")
    report = qcore.quantize_folder(folder, tmp_path / "out", "W4A16", "gptq", data, group_size=32)
    assert report.calibration.startswith(
        "12 chats (messages), by the tokenizer's chat template: 12 sequences"
    )
    result = CliRunner().invoke(
        app,
        ["quantize", str(folder), str(tmp_path / "cli"), "--calibration", str(data), "--group-size", "32"],
    )
    assert result.exit_code == 0, result.output
    one, other = qcore.load(tmp_path / "out"), qcore.load(tmp_path / "cli")
    assert torch.equal(tiny.logits(one), tiny.logits(other))
    result = CliRunner().invoke(app, ["quantize", str(folder), str(tmp_path / "x"), "--calibration", "c4"])
    assert result.exit_code == 1
    assert "load_dataset('c4'" in result.stderr
    assert not (tmp_path / "x").exists()
