"""A transformers configuration as the metadata of a GGUF file."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qcore.checkpoints.gguf.architectures import (
    ARCHITECTURES,
    NUMBERS,
    YARN,
    Architecture,
    attention_scalar,
    default_window,
    head_dim,
)

__all__ = ["architecture_of", "metadata_of", "rope_factors"]


def architecture_of(config: Any) -> Architecture:
    """The architecture for a transformers configuration; raises if a file could not say what it needs."""
    for architecture in ARCHITECTURES.values():
        if config.model_type in architecture.model_types:
            _check(architecture, config)
            return architecture
    known = sorted(t for a in ARCHITECTURES.values() for t in a.model_types)
    raise ValueError(f"model_type: GGUF files are written for {', '.join(known)}; got {config.model_type}")


def _check(architecture: Architecture, config: Any) -> None:
    """Refuses what a reader of the file would silently compute otherwise."""
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    # Gemma's first configurations say "gelu" and mean its approximation.
    if activation.replace("gelu_pytorch_tanh", "gelu") != architecture.activation.replace(
        "gelu_pytorch_tanh", "gelu"
    ):
        raise ValueError(
            f"config: activation {activation!r} cannot be stored in a GGUF file of {architecture.name}"
        )
    if getattr(config, "use_sliding_window", False):
        raise ValueError(f"config: use_sliding_window cannot be stored in a GGUF file of {architecture.name}")
    if getattr(config, "use_bidirectional_attention", None):
        raise ValueError("config: bidirectional attention is not supported")
    scalar = getattr(config, "query_pre_attn_scalar", None)
    if architecture.window_period and scalar != attention_scalar(architecture, config):
        raise ValueError(
            f"config: query_pre_attn_scalar {scalar} cannot be stored in a GGUF file; its readers take "
            f"{attention_scalar(architecture, config)} for this model"
        )


def metadata_of(architecture: Architecture, config: Any) -> dict[str, Any]:
    """The metadata that describes a model's computation."""
    prefix = architecture.name
    found: dict[str, Any] = {}
    for key, attribute in NUMBERS:
        value = getattr(config, attribute, None)
        if value is not None:
            found[f"{prefix}.{key}"] = value
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        found[f"{prefix}.{key}"] = head_dim(config)
    found |= {f"{prefix}.{key}": value for key, value in _window(architecture, config).items()}
    found |= {f"{prefix}.rope.{key}": value for key, value in _rope(config).items()}
    return found


def _window(architecture: Architecture, config: Any) -> dict[str, Any]:
    window = getattr(config, "sliding_window", None)
    if not window or architecture.name.startswith("qwen"):
        return {}
    found = {"attention.sliding_window": int(window)}
    if period := architecture.window_period:
        kinds = [kind == "sliding_attention" for kind in config.layer_types]
        if kinds != default_window(period, len(kinds)):
            found["attention.sliding_window_pattern"] = kinds  # type: ignore[assignment]
    return found


def _rope(config: Any) -> dict[str, Any]:
    everywhere = config.rope_parameters
    rope = everywhere.get("full_attention", everywhere)
    found: dict[str, Any] = {"freq_base": float(rope["rope_theta"])}
    if local := everywhere.get("sliding_attention"):
        if local.get("rope_type", "default") != "default":
            raise ValueError(f"config: rope_type {local['rope_type']!r} of sliding windows cannot be stored")
        found["freq_base_swa"] = float(local["rope_theta"])
    if float(rope.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ValueError("config: partial_rotary_factor is not supported")
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        found["scaling.type"] = kind
        found["scaling.factor"] = float(rope["factor"])
    if kind == "yarn":
        context = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        found["scaling.original_context_length"] = int(context)
        for key, attribute in YARN:
            if rope.get(attribute) is not None:
                found[key] = float(rope[attribute])
        if rope.get("mscale") is not None or rope.get("truncate") is False:
            raise ValueError("config: yarn with mscale or without truncation cannot be stored")
    if kind not in ("default", "linear", "yarn", "llama3"):
        raise ValueError(f"config: rope_type {kind!r} cannot be stored in a GGUF file")
    return found


def rope_factors(config: Any) -> Tensor | None:
    """For Llama 3's scaling of long contexts: by what each rotary frequency is divided, float32."""
    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    size = head_dim(config)
    inverse = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    wavelength = 2 * math.pi / inverse
    context, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    # Short waves stay, long ones are stretched by the factor, and between the two it is blended in.
    blend = ((context / wavelength - low) / (high - low)).clamp(0, 1)
    factors: Tensor = 1 / ((1 - blend) / factor + blend)
    return factors.float()
