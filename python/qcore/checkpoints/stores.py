"""The list of stores, and what they do for a path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qcore.checkpoints.arguments import device_from, dtype_from
from qcore.checkpoints.folder import FolderStore
from qcore.checkpoints.gguf.store import GgufStore
from qcore.checkpoints.pretrained import save_as_quantized
from qcore.checkpoints.store import Row, Store
from qcore.formats import Format
from qcore.nn import QLinear
from qcore.schemes import SCHEMES, Scheme, find_scheme, resolve_scheme

__all__ = ["STORES", "about", "inspect_checkpoint", "load", "scheme_in_memory", "store_at", "store_for"]

# The last one takes what no other recognises, and says what is wrong with it.
STORES: tuple[Store, ...] = (GgufStore(), FolderStore())


def store_at(path: str | os.PathLike[str]) -> Store:
    """The store of a model that is there."""
    return next((store for store in STORES if store.recognises(path)), STORES[-1])


def store_for(destination: str | os.PathLike[str]) -> Store:
    """The store of a destination, by its name."""
    return next((store for store in STORES if store.writes(Path(destination))), STORES[-1])


def scheme_in_memory(
    scheme: str | Format | Scheme, group_size: int | None, model: nn.Module, calibrated: bool
) -> Scheme:
    """A scheme for a model that stays in memory: by name, one of SCHEMES or of a store's own, as llama.cpp's
    mixes of types; of one format for all layers; or the scheme itself."""
    if isinstance(scheme, str):
        owners = {name: store for store in STORES for name in store.schemes}
        name = find_scheme(scheme, dict.fromkeys((*SCHEMES, *owners)))
        mixed = None if name in SCHEMES else owners[name].mixed(name, model, calibrated)
        if mixed is not None and group_size is not None:
            raise ValueError(f"group_size: the scheme {name} has its own, got {group_size}")
        scheme = SCHEMES[name] if mixed is None else mixed
    return resolve_scheme(scheme, group_size)


def load(
    path: str | os.PathLike[str],
    dtype: torch.dtype | str | None = None,
    device: str | int | torch.device | None = None,
    trust_remote_code: bool = False,
    float_activations: bool = False,
    *,
    mmap: bool = True,
    torch_dtype: torch.dtype | str | None = None,
    device_map: Any = None,
) -> nn.Module:
    """Loads a folder or a GGUF file for inference, quantized or not.

    Args:
        path: a folder, a Hugging Face id, or a GGUF file (see `qcore.checkpoints.gguf.load`). Quantized: in
            one of the containers of `qcore.checkpoints.containers`.
        dtype: of everything that is not quantized, and so of the activations: float32, float16 or bfloat16,
            by name or torch's. By default, or "auto", that which config.json states, else that of the first
            tensor, whatever others are stored in; what a model's code keeps in float32 stays so.
        device: where to put the model, by default the CPU.
        trust_remote_code: run Python code that the folder brings (`auto_map`), where transformers has no
            class of its own for it. Nothing is ever asked.
        float_activations: multiply the inputs of quantized layers as they are, where a block format of GGUF,
            or a scheme with 8-bit inputs, would have them rounded to 8 bits first: slower, and what a program
            computes that does not round them (`QLinear.float_activations`, which may be set later, too).
        mmap: leave what is used as it is stored (the embedding of a GGUF file, tensors of an unquantized
            folder) in the file, which is mapped. Such a file must not be changed or cut off in place while
            the model is used: its values would change, and **reading behind its new end kills the process**.
            Replacing it by another file of that name (as qcore does) is harmless. False reads everything
            into memory.
        torch_dtype, device_map: other words for `dtype` and `device`. A map names one device for the whole
            model, `{"": 0}`; "auto" is the GPU if there is one.

    Raises:
        FileNotFoundError: a missing folder or shard, by name.
        ValueError: a file or tensor that is not what it should be, by name.
    """
    wanted, where = dtype_from(dtype, torch_dtype), device_from(device, device_map)
    with about(path):
        model = store_at(path).load(path, wanted, where, trust_remote_code, mmap)
    save_as_quantized(model)
    for module in model.modules():
        if isinstance(module, QLinear):
            module.float_activations = float_activations
    return model


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
