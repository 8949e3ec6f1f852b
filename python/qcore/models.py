"""Hugging Face models: which layers to quantize, and how to build one empty and fill it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from qcore.formats import IntGroup
from qcore.io.checkpoint import Checkpoint

__all__ = [
    "choose_formats",
    "config_of",
    "empty_model",
    "is_ignored",
    "linear_names",
    "missing_tensors",
    "set_tensor",
    "stored_name",
]


def linear_names(model: nn.Module) -> list[str]:
    """Names of the model's `nn.Linear` layers, in the order of the model."""
    return [name for name, module in model.named_modules() if type(module) is nn.Linear]


def is_ignored(name: str, ignore: Sequence[str]) -> bool:
    """Whether a layer is named by `ignore`: whole names, their last parts ("lm_head", "down_proj"), or
    regular expressions after "re:", matched from the start of the name."""
    for pattern in ignore:
        if pattern.startswith("re:"):
            if re.match(pattern[3:], name):
                return True
        elif name == pattern or name.endswith("." + pattern):
            return True
    return False


def choose_formats(
    model: nn.Module, format: IntGroup, ignore: Sequence[str]
) -> dict[str, IntGroup]:
    """The format of each layer to quantize: all linear layers but those ignored."""
    names = linear_names(model)
    chosen = {name: format for name in names if not is_ignored(name, ignore)}
    if not chosen:
        raise ValueError(
            f"model: no nn.Linear layer is left to quantize ({len(names)} found, ignore={tuple(ignore)})"
        )
    return chosen


def config_of(checkpoint: Checkpoint) -> Any:
    """The transformers configuration, without its quantization: qcore itself reads the weights."""
    config = AutoConfig.from_pretrained(checkpoint.path)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    return config


def empty_model(config: Any) -> nn.Module:
    """The model of a configuration in evaluation mode: parameters on the meta device, buffers real."""
    import transformers

    architecture = (getattr(config, "architectures", None) or [None])[0]
    model_class = getattr(transformers, architecture or "", None)
    with init_empty_weights(include_buffers=False):
        if model_class is not None and hasattr(model_class, "_from_config"):
            model = model_class._from_config(config)
        elif type(config) in AutoModelForCausalLM._model_mapping:
            model = AutoModelForCausalLM.from_config(config)
        else:
            model = AutoModel.from_config(config)
    return model.eval()  # type: ignore[no-any-return]


def set_tensor(model: nn.Module, name: str, tensor: Tensor | None) -> None:
    """Replaces a parameter or buffer by a tensor; None leaves a parameter on the meta device."""
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    if leaf in owner._buffers:
        if tensor is not None:
            owner._buffers[leaf] = tensor
        return
    parameter = owner._parameters[leaf]
    if parameter is None:
        raise ValueError(f"{name}: the model has no such parameter")
    if tensor is None:
        tensor = torch.empty_like(parameter, device="meta")
    elif tensor.shape != parameter.shape:
        raise ValueError(
            f"{name}: expected shape {tuple(parameter.shape)}, got {tuple(tensor.shape)}"
        )
    owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def stored_name(model: nn.Module, present: Iterable[str], name: str) -> str:
    """The name under which a checkpoint stores a parameter: its own, or that of its tied twin."""
    ties: Mapping[str, str] = getattr(model, "_tied_weights_keys", None) or {}
    return ties.get(name, name) if name not in present else name


def missing_tensors(model: nn.Module, present: Iterable[str]) -> list[str]:
    """The model's parameters that a checkpoint does not have."""
    have = set(present)
    return [n for n, _ in model.named_parameters() if stored_name(model, have, n) not in have]
