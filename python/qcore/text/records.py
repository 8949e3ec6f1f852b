"""What calibration and evaluation data is made of: texts, chats, token ids, and calls that are ready."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcore.text.files import read_file

__all__ = ["ROW_KINDS", "Call", "Chat", "Ids", "Record", "RowKind", "Text", "Turn", "records"]


@dataclass(frozen=True)
class Text:
    """A text; `whole` if it is all of a file, which is cut into sequences of one length."""

    text: str
    field: str = "texts"
    whole: bool = False


@dataclass(frozen=True)
class Chat:
    """Messages, each with "role" and "content", and the tools that the model is told of."""

    messages: Sequence[Mapping[str, Any]]
    field: str = "chats"
    tools: Any = None


@dataclass(frozen=True)
class Turn:
    """What was asked and what was answered: a chat where the tokenizer has a template, else one text."""

    asked: str
    answered: str
    field: str
    between: str = ""


@dataclass(frozen=True)
class Ids:
    """Token ids of one sequence."""

    ids: Sequence[int]
    field: str = "sequences of token ids"


@dataclass(frozen=True)
class Call:
    """Token ids [sequences, T], or keyword arguments of forward: tensors."""

    call: Tensor | Mapping[str, Any]


Record = Text | Chat | Turn | Ids | Call


@dataclass(frozen=True)
class RowKind:
    """Rows of data sets that have certain fields.

    Attributes:
        fields: all of which a row must have.
        read: the record of a row.
        listed: whether the fields hold lists themselves; else a list in them is a column of rows.
    """

    fields: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Record]
    listed: bool = False


def records(data: Any, name: str = "calibration") -> Iterator[Record]:
    """What is in data of any kind.

    Args:
        data: a file (its path), texts, chats, lists of token ids, rows of a data set, batches of a
            DataLoader, tensors, keyword arguments of forward; or any iterable of such.
        name: what it is for, for messages.

    Raises:
        ValueError: what is none of these, and where it stands.
    """
    if isinstance(data, (str, os.PathLike)):
        found = read_file(data, name)
        if isinstance(found, str):
            yield Text(found, whole=True)
            return
        data, name = found, str(data)
    if isinstance(data, (bytes, bytearray)) or not isinstance(data, (Iterable, Mapping)):
        raise ValueError(f"{name}: {_EXPECTED}, got a {type(data).__name__}")
    if isinstance(data, (Mapping, Tensor, np.ndarray)) or _is_chat(data) or _is_ids(data):
        yield from _records(data, name)
        return
    for index, item in enumerate(data):
        yield from _records(item, f"{name}: item {index}")


_EXPECTED = (
    "expected the path of a file, texts, chats (messages with role and content), token ids, rows of a data "
    "set, or keyword arguments of forward"
)


def _records(item: Any, where: str) -> Iterator[Record]:
    if isinstance(item, str):
        yield Text(item)
    elif isinstance(item, Tensor):
        yield Ids(item.tolist()) if item.dim() == 1 and not item.is_floating_point() else Call(item)
    elif isinstance(item, np.ndarray):
        yield from _records(torch.from_numpy(np.array(item)), where)
    elif isinstance(item, Mapping):
        yield from _from_mapping(item, where)
    elif _is_chat(item):
        yield Chat(_messages(item, where))
    elif _is_ids(item):
        yield Ids([int(i) for i in item])
    elif isinstance(item, (list, tuple)):
        if len(item) > 1 and all(isinstance(part, Tensor) for part in item):
            shapes = ", ".join(str(list(part.shape)) for part in item)
            raise ValueError(
                f"{where}: a list of {len(item)} tensors ({shapes}), and nothing says what they are; give "
                f"{{'input_ids': ..., 'attention_mask': ...}}"
            )
        for part in item:
            yield from _records(part, where)
    else:
        raise ValueError(f"{where}: {_EXPECTED}, got a {type(item).__name__}")


def _from_mapping(row: Mapping[str, Any], where: str) -> Iterator[Record]:
    if _is_message(row):
        yield Chat(_messages([row], where))
        return
    if any(isinstance(value, Tensor) for value in row.values()):
        yield Call({key: _in_batch(key, value) for key, value in row.items() if not isinstance(value, str)})
        return
    row = {key: value for key, value in row.items() if value is not None}
    if "input_ids" in row:
        yield from _from_ids(row, where)
        return
    for kind in ROW_KINDS:
        if all(field in row for field in kind.fields):
            for each in _rows(kind, row):
                yield _read(kind, each, where)
            return
    if row and all(hasattr(value, "column_names") for value in row.values()):
        raise ValueError(
            f"{where}: is a data set in parts ({', '.join(row)}); give one of them, as data['train']"
        )
    known = ", ".join(" + ".join(kind.fields) for kind in ROW_KINDS)
    raise ValueError(
        f"{where}: expected a row with one of the fields input_ids, {known}; got "
        f"{', '.join(map(str, row)) or 'none'}"
    )


def _rows(kind: RowKind, row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The row, or those whose columns it holds, as slices of data sets do."""
    columns = [row[field] for field in kind.fields]
    depth = 2 if kind.listed else 1
    if not all(_depth(column) >= depth and not _is_chat(column) for column in columns):
        return [row]
    return [dict(zip(kind.fields, values, strict=True)) for values in zip(*columns, strict=True)]


def _depth(value: Any) -> int:
    """How many lists are inside each other."""
    depth = 0
    while isinstance(value, (list, tuple)):
        depth, value = depth + 1, value[0] if value else None
    return depth


def _read(kind: RowKind, row: Mapping[str, Any], where: str) -> Record:
    try:
        return kind.read(row)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _from_ids(row: Mapping[str, Any], where: str) -> Iterator[Ids]:
    """Lists of ids: of one sequence or of several, without what a mask of theirs excludes."""
    ids, mask = row["input_ids"], row.get("attention_mask")
    if _depth(ids) == 0 and isinstance(ids, np.ndarray):
        ids, mask = ids.tolist(), None if mask is None else np.asarray(mask).tolist()
    if _depth(ids) == 1:
        ids, mask = [ids], None if mask is None else [mask]
    for index, sequence in enumerate(ids):
        if not _is_ids(sequence):
            raise ValueError(
                f"{where}: input_ids: expected token ids or lists of them (of a data set of tensors: "
                f"set_format('torch')), got {type(sequence).__name__}"
            )
        kept = [True] * len(sequence) if mask is None else mask[index]
        if len(kept) != len(sequence):
            raise ValueError(f"{where}: {len(sequence)} input_ids, but an attention_mask of {len(kept)}")
        yield Ids([int(i) for i, keep in zip(sequence, kept, strict=True) if keep])


def _in_batch(key: str, value: Any) -> Any:
    """A sequence of its own as a batch of one."""
    of_tokens = key in ("input_ids", "attention_mask", "token_type_ids", "position_ids", "labels")
    return value[None] if of_tokens and isinstance(value, Tensor) and value.dim() == 1 else value


def _is_ids(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in value)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(value.get(role), str) and (said in value or "tool_calls" in value)
        for role, said in (("role", "content"), ("from", "value"))
    )


def _is_chat(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_message, value))


# The names that ShareGPT gives to roles.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}


def _messages(value: Any, where: str) -> list[dict[str, Any]]:
    """Messages with role and content, whatever they are called."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where}: expected a list of messages, got a {type(value).__name__}")
    messages = []
    for index, message in enumerate(value):
        if not _is_message(message):
            got = ", ".join(message) if isinstance(message, Mapping) else type(message).__name__
            raise ValueError(
                f"{where}: message {index}: expected role and content (or from and value), got {got}"
            )
        found = {key: part for key, part in message.items() if part is not None}
        if "from" in found and "role" not in found:
            role = found.pop("from")
            found["role"], found["content"] = _ROLES.get(role, role), found.pop("value", "")
        found["content"] = _plain(found.get("content", ""), f"{where}: message {index}")
        messages.append(found)
    return messages


def _plain(content: Any, where: str) -> str:
    """The text of a message, of which some writers make a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else [content]
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"{where}: expected a text, got a part of type {kind}")
    return "".join(part["text"] for part in parts)


def _chat_in(field: str) -> Callable[[Mapping[str, Any]], Record]:
    def read(row: Mapping[str, Any]) -> Chat:
        tools = row.get("tools") or None
        tools = json.loads(tools) if isinstance(tools, str) else tools
        return Chat(_messages(row[field], field), f"chats ({field})", tools)

    return read


def _text_in(field: str) -> Callable[[Mapping[str, Any]], Record]:
    return lambda row: Text(_expect_text(row, field), f"texts ({field})")


def _turn_in(
    asked: str, answered: str, more: str = "", between: str = ""
) -> Callable[[Mapping[str, Any]], Record]:
    def read(row: Mapping[str, Any]) -> Record:
        label = f"({asked} + {answered})"
        if isinstance(row[asked], (list, tuple)):  # of messages
            return Chat(
                [*_messages(row[asked], asked), *_messages(row[answered], answered)], f"chats {label}"
            )
        question = _expect_text(row, asked)
        if row.get(more):
            question = f"{question}\n\n{_expect_text(row, more)}"
        return Turn(question, _expect_text(row, answered), f"pairs {label}", between)

    return read


def _expect_text(row: Mapping[str, Any], field: str) -> str:
    if not isinstance(row[field], str):
        raise ValueError(f"{field}: expected a text, got a {type(row[field]).__name__}")
    return str(row[field])


# Ordered: the first of whose fields a row has all is what it is read as.
ROW_KINDS = (
    RowKind(("messages",), _chat_in("messages"), listed=True),
    RowKind(("conversations",), _chat_in("conversations"), listed=True),
    RowKind(("conversation",), _chat_in("conversation"), listed=True),
    RowKind(("prompt", "completion"), _turn_in("prompt", "completion")),
    RowKind(("prompt", "response"), _turn_in("prompt", "response", between="\n\n")),
    RowKind(("instruction", "output"), _turn_in("instruction", "output", "input", "\n\n")),
    RowKind(("instruction", "response"), _turn_in("instruction", "response", "context", "\n\n")),
    RowKind(("question", "answer"), _turn_in("question", "answer", "context", "\n\n")),
    RowKind(("text",), _text_in("text")),
    RowKind(("content",), _text_in("content")),
    RowKind(("sentence",), _text_in("sentence")),
)
