"""The metadata of a GGUF file as a transformers configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np

from qcore.checkpoints.gguf.architectures import (
    ARCHITECTURES,
    NUMBERS,
    YARN,
    Architecture,
    attention_scalar,
    default_window,
)

__all__ = ["config_of"]


def config_of(
    metadata: Mapping[str, Any], vocabulary: int, has: Callable[[str], bool]
) -> tuple[Architecture, dict[str, Any]]:
    """The architecture of a file, and the attributes of the transformers configuration for it, of which
    "model_type" names the class.

    Args:
        vocabulary: rows of the embedding.
        has: whether the file holds a tensor of that name.
    """
    name = metadata.get("general.architecture")
    if name is None:
        raise ValueError("metadata lacks general.architecture")
    if name not in ARCHITECTURES:
        raise ValueError(f"general.architecture: expected one of {', '.join(ARCHITECTURES)}, got {name!r}")
    architecture = ARCHITECTURES[name]
    values = _Values(metadata, f"{name}.")
    config = _sizes(architecture, values) | {"vocab_size": vocabulary}
    layers, context = config["num_hidden_layers"], config["max_position_embeddings"]
    # Before anything as long as the claimed number of layers is made.
    for layer in chain([layers - 1], range(layers)):
        if not has(needed := f"blk.{layer}.attn_q.weight"):
            raise ValueError(f"lacks the tensor {needed}")
    config |= _window(architecture, values, layers, context)
    config["rope_parameters"] = _rope(architecture, values, context)
    if architecture.window_period:
        config["query_pre_attn_scalar"] = attention_scalar(architecture, SimpleNamespace(**config))
    config["tie_word_embeddings"] = not has("output.weight")
    config["attention_bias"] = has("blk.0.attn_q.bias")
    config["mlp_bias"] = has("blk.0.ffn_up.bias")
    config["use_cache"] = True
    if architecture.name == "llama" and config.get("sliding_window"):
        config["model_type"] = "mistral"
    # Nothing is filled in for a token that the file does not name: a default of the class would be wrong.
    for key, attribute in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")):
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        config[attribute] = token if type(token) is int and 0 <= token < vocabulary else None
    return architecture, config


class _Values:
    """Metadata behind one prefix. Errors name the key."""

    def __init__(self, metadata: Mapping[str, Any], prefix: str) -> None:
        self._metadata, self._prefix = metadata, prefix

    def get(self, key: str) -> Any:
        return self._metadata.get(self._prefix + key)

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self._or_default(key, default)
        # Some writers give one number per layer; where all are the same, that is the number.
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if type(value) is not int or not least <= value < 1 << 31:
            raise ValueError(f"{self._prefix}{key}: expected an integer of at least {least}, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._or_default(key, default)
        if type(value) not in (int, float) or not 0 <= value < float("inf"):
            raise ValueError(f"{self._prefix}{key}: expected a finite number, not negative, got {value!r}")
        return float(value)

    def _or_default(self, key: str, default: float | None) -> Any:
        value = self.get(key)
        if value is None and default is None:
            raise ValueError(f"metadata lacks {self._prefix}{key}")
        return default if value is None else value


def _sizes(architecture: Architecture, values: _Values) -> dict[str, Any]:
    """Everything of the configuration that is one number."""
    config: dict[str, Any] = {
        "model_type": architecture.model_types[0],
        "hidden_act": architecture.activation,
        "hidden_activation": architecture.activation,
    }
    for key, attribute in NUMBERS:
        if attribute == "rms_norm_eps":
            config[attribute] = values.number(key)
        elif attribute.endswith("softcapping"):
            config[attribute] = values.number(key) if values.get(key) is not None else None
        elif attribute == "num_key_value_heads":
            config[attribute] = values.integer(key, config["num_attention_heads"])
        elif attribute != "vocab_size":
            config[attribute] = values.integer(key)
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    size = config["head_dim"] = values.integer("attention.key_length", max(1, hidden // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if values.integer(key, size) != size:
            raise ValueError(f"{architecture.name}.{key}: expected {size}, as attention.key_length is")
    if heads % config["num_key_value_heads"] or size % 2:
        raise ValueError(
            f"{architecture.name}.attention: expected heads of an even size, and a multiple of the key-value "
            f"heads; got {heads} of {size} and {config['num_key_value_heads']}"
        )
    if values.integer("expert_count", 0, least=0):
        raise ValueError(f"{architecture.name}.expert_count: mixtures of experts are not supported")
    return config


def _window(architecture: Architecture, values: _Values, layers: int, context: int) -> dict[str, Any]:
    window = values.integer("attention.sliding_window", 0, least=0)
    if architecture.name == "llama":
        return {"sliding_window": window} if window else {}
    if not architecture.window_period:
        return {}
    pattern = values.get("attention.sliding_window_pattern")
    if pattern is None:
        kinds = default_window(architecture.window_period, layers)
    elif isinstance(pattern, np.ndarray):
        kinds = [bool(kind) for kind in pattern]
    else:
        kinds = default_window(values.integer("attention.sliding_window_pattern"), layers)
    if len(kinds) != layers:
        raise ValueError(
            f"{architecture.name}.attention.sliding_window_pattern: expected {layers} values, one for each "
            f"block, got {len(kinds)}"
        )
    if not window:
        kinds = [False] * layers
    return {
        "sliding_window": window or context,  # transformers makes its mask even where no layer looks at it
        "layer_types": ["sliding_attention" if kind else "full_attention" for kind in kinds],
    }


def _rope(architecture: Architecture, values: _Values, context: int) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": values.number("rope.freq_base", 10000.0)}
    kind = values.get("rope.scaling.type") or "none"
    factor = values.number("rope.scaling.factor", 0.0)
    if not factor:  # an older key for the same
        factor = values.number("rope.scale_linear", 0.0)
        kind = "linear" if factor and kind == "none" else kind
    if kind in ("linear", "yarn") and factor:
        rope |= {"rope_type": kind, "factor": factor}
    elif kind != "none":
        raise ValueError(f"{architecture.name}.rope.scaling: {kind!r} by {factor} is not supported")
    if rope["rope_type"] == "yarn":
        original = values.integer("rope.scaling.original_context_length", context)
        rope["original_max_position_embeddings"] = original
        for key, attribute in YARN:
            if values.get(f"rope.{key}") is not None:
                rope[attribute] = values.number(f"rope.{key}")
    if architecture.name != "gemma3":
        return rope
    local = values.number("rope.freq_base_swa", 10000.0)
    return {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": local}}
