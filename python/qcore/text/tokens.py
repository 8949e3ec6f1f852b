"""Records as sequences of token ids."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from qcore.text.records import Call, Chat, Ids, Record, Text, Turn, records
from qcore.text.tokenizers import Encoder, TokenizerOf

__all__ = ["Collector", "Sequences", "read_sequences", "token_chunks"]


@dataclass(frozen=True)
class Sequences:
    """Sequences of token ids.

    Attributes:
        ids: int64 [T] each.
        origin: what they were made of, for people.
    """

    ids: tuple[Tensor, ...]
    origin: str

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> int:
        return sum(len(ids) for ids in self.ids)


class Collector:
    """Encodes records, and counts what came of which.

    Args:
        length: the most tokens of a sequence; a longer text or chat becomes several.
        name: what the data is for, for messages.
        fit: cut texts and chats to what the tokenizer says that the model takes, too.
    """

    def __init__(self, tokenizer: Any, length: int, name: str, fit: bool = False) -> None:
        self.encoder, self._length, self.name, self.fit = Encoder(tokenizer, name), length, name, fit
        self.counts: dict[str, int] = {}
        self.left_out: dict[str, int] = {}

    @property
    def length(self) -> int:
        return min(self._length, self.encoder.longest) if self.fit else self._length

    def sequences(self, record: Record, index: int) -> list[list[int]]:
        """The sequences of a record; none if it is empty."""
        if isinstance(record, Turn):
            record = self._as_chat_or_text(record)
        if isinstance(record, Text):
            label = "chunks of the text" if record.whole else record.field
            found = self._of_text(record)
        elif isinstance(record, Chat):
            label = f"{record.field}, by the tokenizer's chat template"
            found = self._of_chat(record, index)
        else:
            assert isinstance(record, Ids)
            label, found = record.field, [list(record.ids)] if record.ids else []
        counts = self.counts if found else self.left_out
        counts[label] = counts.get(label, 0) + (len(found) if label.startswith("chunks") else 1)
        return found

    def _as_chat_or_text(self, turn: Turn) -> Record:
        if not self.encoder.has_template:
            return Text(f"{turn.asked}{turn.between}{turn.answered}", turn.field)
        asked, answered = (("user", turn.asked), ("assistant", turn.answered))
        return Chat([{"role": role, "content": said} for role, said in (asked, answered)], turn.field)

    def _of_text(self, text: Text) -> list[list[int]]:
        if not text.text.strip():
            return []
        before, after = self.encoder.around()
        ids = self.encoder.bare(text.text)
        if before and ids[: len(before)] == before:  # the text spells out what the tokenizer would put
            ids = ids[len(before) :]
        if after and ids[-len(after) :] == after:
            ids = ids[: -len(after)]
        room = self.length - len(before) - len(after)
        if room < 1:
            raise ValueError(
                f"{self.name}: sequences of {self.length} tokens have no room beside special tokens"
            )
        pieces = _pieces(ids, room)
        if text.whole:
            pieces = [piece for piece in pieces if len(piece) == room]  # what is left at the end is dropped
            if not pieces:
                raise ValueError(
                    f"{self.name}: expected at least {self.length} tokens, got {len(ids)}; give a longer "
                    f"text or a shorter chunk length"
                )
        return [[*before, *piece, *after] for piece in pieces]

    def _of_chat(self, chat: Chat, index: int) -> list[list[int]]:
        if not chat.messages:
            return []
        try:
            ids = self.encoder.chat(chat.messages, chat.tools)
        except ValueError as error:
            raise ValueError(f"{self.name}: item {index}: {error}") from error
        return _pieces(ids, self.length)

    def origin(self, sequences: int, tokens: int) -> str:
        """What was read, and what of it was left out."""
        parts = ", ".join(f"{count} {label}" for label, count in self.counts.items())
        empty = ", ".join(
            f"{count} empty {label.partition(',')[0]}" for label, count in self.left_out.items()
        )
        left = f"; left out: {empty}" if empty else ""
        return f"{parts}: {sequences} sequences, {tokens:,} tokens{left}"


def _pieces(ids: list[int], length: int) -> list[list[int]]:
    return [ids[start : start + length] for start in range(0, len(ids), length)]


def read_sequences(
    data: Any, tokenizer: Any, length: int, limit: int | None = None, name: str = "calibration"
) -> Sequences:
    """Texts, chats or token ids, from a file or from memory, as sequences of token ids.

    A text that is all of a file is cut into sequences of `length`. Rows and chats are sequences of their own,
    of at most so many tokens; a longer one becomes several. Each text has the special tokens that the
    tokenizer puts around it, chats go through its chat template.

    Args:
        data: see `qcore.text.records.records`.
        tokenizer: of transformers, or the path of a model.
        limit: the most sequences to take; rows beyond are not read.

    Raises:
        ValueError: data that is not understood, or in which there is nothing.
    """
    collector = Collector(tokenizer, length, str(data) if isinstance(data, (str, os.PathLike)) else name)

    def each() -> Iterator[list[int]]:
        for index, record in enumerate(_without_calls(records(data, name), name)):
            yield from collector.sequences(record, index)

    ids = tuple(torch.tensor(sequence, dtype=torch.int64) for sequence in islice(each(), limit))
    if not ids:
        raise ValueError(
            f"{collector.name}: expected at least one text, chat or sequence of token ids, got none"
        )
    return Sequences(ids, collector.origin(len(ids), sum(map(len, ids))))


def _without_calls(found: Iterable[Record], name: str) -> Iterator[Record]:
    for record in found:
        if not isinstance(record, Call):
            yield record
            continue
        ids = record.call if isinstance(record.call, Tensor) else record.call.get("input_ids")
        if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
            raise ValueError(f"{name}: expected token ids int64 [sequences, T]")
        mask = None if isinstance(record.call, Tensor) else record.call.get("attention_mask")
        for row, sequence in enumerate(ids):
            yield Ids((sequence if mask is None else sequence[mask[row].bool()]).tolist())


def token_chunks(
    model: str | os.PathLike[str],
    file: str | os.PathLike[str],
    length: int,
    limit: int | None = None,
    trust_remote_code: bool = False,
) -> Tensor:
    """A text file as token ids int64 [chunks, length], each with the special tokens that the tokenizer puts
    around a text.

    Args:
        model: the folder, Hugging Face id or GGUF file whose tokenizer is used.
        length: tokens per chunk; what is left at the end is dropped.
        limit: the most chunks to take.
        trust_remote_code: see `load_tokenizer`.

    Raises:
        ValueError: a file of rows or chats, which have lengths of their own: see `read_sequences`.
    """
    found = read_sequences(file, TokenizerOf(model, trust_remote_code), length, limit)
    if any(len(ids) != length for ids in found):
        raise ValueError(f"{file}: expected one text, got {found.origin}; use qcore.text.read_sequences")
    return torch.stack(found.ids)
