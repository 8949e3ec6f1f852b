"""Encoders: models whose output is one vector for each text, of the hidden states of its tokens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["POOLINGS", "embeddings", "is_encoder", "pooling_of"]

POOLINGS = ("mean", "cls", "max", "lasttoken")


def is_encoder(model: nn.Module) -> bool:
    """Whether a model of transformers predicts no next tokens."""
    can_generate: Any = getattr(model, "can_generate", None)
    return can_generate is not None and not can_generate()


def pooling_of(path: str | os.PathLike[str]) -> str:
    """How the sentence encoder of a folder makes one vector of its hidden states; "mean" if it does not say.

    Raises:
        ValueError: in a way that is not known here.
    """
    file = Path(path) / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    config = json.loads(file.read_text(encoding="utf-8"))
    prefix = "pooling_mode_"
    chosen = [key.removeprefix(prefix) for key, on in config.items() if key.startswith(prefix) and on is True]
    chosen += [config["pooling_mode"]] if isinstance(config.get("pooling_mode"), str) else []
    names = [name.removesuffix("_tokens").removesuffix("_token") for name in chosen]
    if len(names) != 1 or names[0] not in POOLINGS:
        raise ValueError(f"{file}: expected one of {', '.join(POOLINGS)}, got {', '.join(names) or 'none'}")
    return str(names[0])


@torch.no_grad()
def embeddings(model: Any, ids: Tensor, pooling: str = "mean") -> Tensor:
    """The vector, float32 [K], of one text: token ids int64 [T]."""
    if pooling not in POOLINGS:
        raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}")
    if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "get_encoder"):
        model = model.get_encoder()
    out = model(input_ids=ids[None].to(next(model.parameters()).device), output_hidden_states=True)
    last = getattr(out, "last_hidden_state", None)
    states: Tensor = out.hidden_states[-1] if last is None else last
    hidden = states[0].float()
    if pooling == "mean":
        return hidden.mean(0)
    return hidden.amax(0) if pooling == "max" else hidden[0 if pooling == "cls" else -1]
