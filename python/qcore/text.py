"""Tokenizers, and texts as token ids."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qcore.checkpoints.stores import store_at

__all__ = ["load_tokenizer", "token_chunks"]


def load_tokenizer(model: str | os.PathLike[str], trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model, as transformers has it.

    Args:
        model: a folder, a Hugging Face id, or a GGUF file.
        trust_remote_code: run a tokenizer's code that the folder brings.
    """
    return store_at(model).tokenizer(model, trust_remote_code)


def token_chunks(
    model: str | os.PathLike[str],
    file: str | os.PathLike[str],
    length: int,
    limit: int | None = None,
    trust_remote_code: bool = False,
) -> Tensor:
    """A text file as token ids int64 [chunks, length], without special tokens between them.

    Args:
        model: the folder, Hugging Face id or GGUF file whose tokenizer is used.
        length: tokens per chunk; what is left at the end is dropped.
        limit: the most chunks to take.
        trust_remote_code: see `load_tokenizer`.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a UTF-8 text: {error}") from error
    tokenizer = load_tokenizer(model, trust_remote_code)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    count = len(ids) // length
    if count == 0:
        raise ValueError(
            f"{path}: expected at least {length} tokens, got {len(ids)}; give a longer text or a "
            f"shorter chunk length"
        )
    count = min(count, limit) if limit is not None else count
    return torch.tensor(ids[: count * length], dtype=torch.int64).view(count, length)
