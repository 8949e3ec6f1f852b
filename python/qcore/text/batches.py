"""Data of any kind as forward calls of a model."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from qcore.text.records import Call, records
from qcore.text.tokens import Collector, Sequences

__all__ = ["forward_calls"]

# Texts and chats are cut into sequences of at most so many tokens.
_LONGEST = 2048
# The most tokens of a batch, padding included.
_BATCH = 4096


def forward_calls(
    data: Any, model: nn.Module, tokenizer: Any = None, name: str = "calibration"
) -> tuple[list[Tensor | Mapping[str, Any]], str]:
    """What a model is called with, and what that was made of, for people.

    Args:
        data: see `qcore.text.records.records`, or `Sequences`.
        tokenizer: for texts and chats.
    """
    if isinstance(data, Sequences):
        return batched(data.ids, model), data.origin
    called = str(data) if isinstance(data, (str, os.PathLike)) else name
    collector = Collector(tokenizer, _longest(model), called, fit=True)
    ready: list[Tensor | Mapping[str, Any]] = []
    ids: list[Tensor] = []
    for index, record in enumerate(records(data, name)):
        if isinstance(record, Call):
            ready.append(record.call)
        else:
            ids += [torch.tensor(each, dtype=torch.int64) for each in collector.sequences(record, index)]
    if not ids and not ready:
        raise ValueError(f"{name}: expected at least one sequence of tokens, got none")
    parts = [collector.origin(len(ids), sum(map(len, ids)))] if ids else []
    parts += [f"{len(ready)} forward calls"] if ready else []
    return ready + batched(ids, model), "; ".join(parts)


def _longest(model: nn.Module) -> int:
    """Tokens that the model has positions for, as far as its configuration says, at most _LONGEST."""
    config = getattr(model, "config", None)
    limits = [getattr(config, key, None) for key in ("max_position_embeddings", "n_positions")]
    return min([_LONGEST, *(limit for limit in limits if isinstance(limit, int) and limit > 0)])


def batched(sequences: Sequence[Tensor], model: nn.Module) -> list[Tensor | Mapping[str, Any]]:
    """Sequences of like lengths together, padded at the end, with a mask that says so. A model that takes no
    mask gets sequences of one length in each call."""
    takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
    ordered = sorted(sequences, key=len, reverse=True)
    together = [ordered] if takes_mask else [list(same) for _, same in groupby(ordered, len)]
    return [_padded(batch, _padding(model)) for part in together for batch in _groups(part)]


def _groups(ordered: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    start = 0
    while start < len(ordered):
        count = max(1, _BATCH // max(len(ordered[start]), 1))
        yield ordered[start : start + count]
        start += count


def _padded(sequences: Sequence[Tensor], padding: int) -> Mapping[str, Any]:
    lengths = [len(ids) for ids in sequences]
    ids = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True, padding_value=padding)
    if len(set(lengths)) == 1:
        return {"input_ids": ids}
    mask = torch.arange(ids.shape[1])[None] < torch.tensor(lengths)[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def _padding(model: nn.Module) -> int:
    """The id of the token that stands where there is none; some models look for theirs."""
    config = getattr(model, "config", None)
    found, size = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", 0)
    return found if isinstance(found, int) and isinstance(size, int) and 0 <= found < size else 0
