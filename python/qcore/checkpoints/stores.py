"""The list of stores, and what they do for a path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from qcore.checkpoints.folder import FolderStore
from qcore.checkpoints.gguf.store import GgufStore
from qcore.checkpoints.pretrained import save_as_quantized
from qcore.checkpoints.store import Row, Store
from qcore.nn import QLinear

__all__ = ["STORES", "about", "inspect_checkpoint", "load", "store_at", "store_for"]

# The last one takes what no other recognises, and says what is wrong with it.
STORES: tuple[Store, ...] = (GgufStore(), FolderStore())


def store_at(path: str | os.PathLike[str]) -> Store:
    """The store of a model that is there."""
    return next((store for store in STORES if store.recognises(path)), STORES[-1])


def store_for(destination: str | os.PathLike[str]) -> Store:
    """The store of a destination, by its name."""
    return next((store for store in STORES if store.writes(Path(destination))), STORES[-1])


def load(
    path: str | os.PathLike[str],
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    float_activations: bool = False,
) -> nn.Module:
    """Loads a folder or a GGUF file for inference, quantized or not.

    Args:
        path: a folder, a Hugging Face id, or a GGUF file (see `qcore.checkpoints.gguf.load`). Quantized: in
            one of the containers of `qcore.checkpoints.containers`.
        dtype: of everything that is not quantized, and so of the activations: float32, float16 or bfloat16,
            by name or torch's. By default, or "auto", that which config.json states, else that of the first
            tensor, whatever others are stored in; what a model's code keeps in float32 stays so.
        device: where to put the model.
        trust_remote_code: run Python code that the folder brings (`auto_map`), where transformers has no
            class of its own for it. Nothing is ever asked.
        float_activations: multiply the inputs of quantized layers as they are, where a block format of GGUF,
            or a scheme with 8-bit inputs, would have them rounded to 8 bits first: slower, and what a program
            computes that does not round them (`QLinear.float_activations`, which may be set later, too).

    Raises:
        FileNotFoundError: a missing folder or shard, by name.
        ValueError: a file or tensor that is not what it should be, by name.
    """
    with about(path):
        model = store_at(path).load(path, _dtype(dtype), device, trust_remote_code)
    save_as_quantized(model)
    for module in model.modules():
        if isinstance(module, QLinear):
            module.float_activations = float_activations
    return model


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """None is for the checkpoint to say."""
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype: expected auto, float32, float16 or bfloat16, got {dtype!r}")
    return found


def inspect_checkpoint(path: str | os.PathLike[str]) -> list[Row]:
    """One row per weight, in the order of the names (in that of the file for a GGUF file)."""
    with about(path):
        return store_at(path).inspect(path)


@contextmanager
def about(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors say which model they are about."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
