"""A model of transformers from a Hugging Face folder, quantized or not."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from qcore.checkpoints.containers import container_of
from qcore.checkpoints.files import Checkpoint
from qcore.models import (
    config_of,
    empty_model,
    linear_names,
    renamer,
    replace_linear,
    set_tensor,
    stored_names,
    tie_weights,
)
from qcore.progress import track

__all__ = ["FLOATS", "load_folder"]

# What weights may be stored in, as safetensors names it.
FLOATS = ("F32", "F16", "BF16")


def load_folder(checkpoint: Checkpoint, dtype: torch.dtype | None, trust_remote_code: bool) -> nn.Module:
    """The model of a checkpoint on the CPU; see `qcore.load`."""
    stored = checkpoint.config.get("quantization_config")
    if not stored:
        return _load_plain(checkpoint, dtype, trust_remote_code)
    return _load_quantized(checkpoint, stored, dtype, trust_remote_code)


def _load_plain(checkpoint: Checkpoint, dtype: torch.dtype | None, trust_remote_code: bool) -> nn.Module:
    """An unquantized model, by transformers' own loader."""
    config = config_of(checkpoint.path, trust_remote_code)
    model_class: Any = type(empty_model(config, trust_remote_code))
    model = model_class.from_pretrained(
        checkpoint.path, config=config, dtype=dtype or "auto", trust_remote_code=trust_remote_code
    )
    return model.eval()  # type: ignore[no-any-return]


def _load_quantized(
    checkpoint: Checkpoint, stored: Mapping[str, Any], dtype: torch.dtype | None, trust_remote_code: bool
) -> nn.Module:
    container = container_of(stored, checkpoint.files)
    layers = container.layers(stored, checkpoint)
    if not layers:
        raise ValueError(
            f"{checkpoint.path}: quantization_config says {container.method}, but no layer is quantized"
        )
    model = empty_model(config_of(checkpoint.path, trust_remote_code), trust_remote_code)
    linears, rename = set(linear_names(model)), renamer(model)
    for layer in track(layers, "loading layers"):
        name = rename(f"{layer.name}.weight").removesuffix(".weight")
        if name not in linears:
            raise ValueError(
                f"{checkpoint.path}: {layer.name} is quantized, but is no linear layer of the model"
            )
        tensors = {key: checkpoint.tensor(key) for key in layer.parts}
        replace_linear(model, name, container.read(layer, stored, tensors))
    parts = {key for layer in layers for key in layer.parts}
    _fill(model, checkpoint, [key for key in checkpoint if key not in parts], dtype)
    return model


def _fill(model: nn.Module, checkpoint: Checkpoint, keys: Sequence[str], dtype: torch.dtype | None) -> None:
    """Everything besides the quantized layers: what these keys hold."""
    stored = stored_names(model, keys)
    for name, key in stored.items():
        tensor = checkpoint.tensor(key)
        if name.endswith("weight") and checkpoint.dtype(key) not in (*FLOATS, "F64"):
            raise ValueError(
                f"{key}: holds codes ({checkpoint.dtype(key)}), but nothing says what they stand for"
            )
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        set_tensor(model, name, tensor)
    tie_weights(model)
    if unused := sorted(set(keys) - set(stored.values())):
        warnings.warn(
            f"{checkpoint.path}: {len(unused)} of its tensors are not used, the first is {unused[0]}",
            stacklevel=4,
        )
    missing = [n for n, p in model.named_parameters() if p.is_meta]
    if missing:
        raise ValueError(
            f"{checkpoint.path}: {len(missing)} of the model's tensors are not in the checkpoint, "
            f"the first is {missing[0]}"
        )
    if (checkpoint.path / "generation_config.json").exists() and model.can_generate():  # type: ignore[operator]
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(checkpoint.path)
    model.name_or_path = str(checkpoint.path)  # type: ignore[assignment]
