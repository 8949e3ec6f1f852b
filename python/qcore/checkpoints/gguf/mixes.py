"""Schemes of GGUF files: which type each tensor gets.

A scheme is a base type and a few rules that give some tensors more bits. The rules are those of llama.cpp's
quantizer, so that a file of the same name has the same types, whoever made it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as Type
from torch import nn

from qcore.checkpoints.gguf.architectures import ARCHITECTURES
from qcore.formats import BLOCK_FORMATS, Format
from qcore.schemes import Layer, Scheme, split_override

__all__ = ["GGUF_SCHEMES", "Mix", "MixModel", "asked_types", "choose_types", "mixed", "parse_overrides"]


@dataclass(frozen=True)
class MixModel:
    """What the rules look at besides a tensor's name.

    Attributes:
        heads_per_kv: query heads that share a key-value head.
        tied: the embedding also makes the logits; there is no output.weight.
        calibrated: codes are chosen with knowledge of the inputs.
    """

    architecture: str
    layers: int
    heads_per_kv: int
    tied: bool
    calibrated: bool


# A rule for one kind of tensor: layer and model -> its type, or None for the base type.
Rule = Callable[[int, MixModel], Type | None]


def _always(type: Type) -> Rule:
    return lambda layer, model: type


def _first(type: Type, part: int) -> Rule:
    """For the first 1/part of the layers."""
    return lambda layer, model: type if layer < model.layers // part else None


def _outer(type: Type) -> Rule:
    """For the first and the last eighth of the layers, and every third one between."""

    def rule(layer: int, model: MixModel) -> Type | None:
        eighth = model.layers // 8
        outer = layer < eighth or layer >= 7 * model.layers // 8 or (layer - eighth) % 3 == 2
        return type if outer else None

    return rule


def _layers(count: int, type: Type, rest: Type | None = None) -> Rule:
    """For the first so many layers, whatever the depth."""
    return lambda layer, model: type if layer < count else rest


def _shared(type: Type, otherwise: Type | None = None) -> Rule:
    """Where at least four query heads share a key-value head, so that attn_v is small."""
    return lambda layer, model: type if model.heads_per_kv >= 4 else otherwise


def _if_calibrated(rule: Rule) -> Rule:
    return lambda layer, model: rule(layer, model) if model.calibrated else None


def _unless_calibrated(rule: Rule) -> Rule:
    return lambda layer, model: None if model.calibrated else rule(layer, model)


def _or(first: Rule, second: Rule) -> Rule:
    return lambda layer, model: first(layer, model) or second(layer, model)


@dataclass(frozen=True)
class Mix:
    """One scheme.

    Attributes:
        base: the type of every matrix that no rule names.
        file_type: its number in `general.file_type`.
        rules: by kind of tensor, as its name has it.
        output: of output.weight, or of the embedding where that makes the logits; None: the base.
        embedding: of token_embd.weight otherwise; None: the base.
    """

    base: Type
    file_type: LlamaFileType
    rules: Mapping[str, Rule] = field(default_factory=dict)
    output: Type | None = Type.Q6_K
    embedding: Type | None = None


_F = LlamaFileType

GGUF_SCHEMES: dict[str, Mix] = {
    "F32": Mix(Type.F32, _F.ALL_F32, output=None),
    "F16": Mix(Type.F16, _F.MOSTLY_F16, output=None),
    "BF16": Mix(Type.BF16, _F.MOSTLY_BF16, output=None),
    "Q8_0": Mix(Type.Q8_0, _F.MOSTLY_Q8_0, output=None),
    "Q4_0": Mix(Type.Q4_0, _F.MOSTLY_Q4_0, {"ffn_down": _if_calibrated(_first(Type.Q4_1, 8))}),
    "Q4_1": Mix(Type.Q4_1, _F.MOSTLY_Q4_1),
    "Q5_0": Mix(Type.Q5_0, _F.MOSTLY_Q5_0, {"ffn_down": _if_calibrated(_first(Type.Q5_1, 8))}),
    "Q5_1": Mix(Type.Q5_1, _F.MOSTLY_Q5_1),
    "Q2_K": Mix(Type.Q2_K, _F.MOSTLY_Q2_K, {
        "attn_v": _shared(Type.Q4_K, Type.Q3_K),
        "attn_output": _always(Type.Q3_K),
        "ffn_down": _always(Type.Q3_K),
    }),
    "Q3_K_S": Mix(Type.Q3_K, _F.MOSTLY_Q3_K_S),
    "Q3_K_M": Mix(Type.Q3_K, _F.MOSTLY_Q3_K_M, {
        "attn_v": _layers(2, Type.Q5_K, Type.Q4_K),
        "attn_output": _always(Type.Q4_K),
        "ffn_down": _or(_first(Type.Q5_K, 16), _always(Type.Q4_K)),
    }),
    "Q3_K_L": Mix(Type.Q3_K, _F.MOSTLY_Q3_K_L, {
        "attn_v": _always(Type.Q5_K),
        "attn_output": _always(Type.Q5_K),
        "ffn_down": _always(Type.Q5_K),
    }),
    "Q4_K_S": Mix(Type.Q4_K, _F.MOSTLY_Q4_K_S, {
        "attn_v": _layers(4, Type.Q5_K),
        "ffn_down": _first(Type.Q5_K, 8),
    }),
    "Q4_K_M": Mix(Type.Q4_K, _F.MOSTLY_Q4_K_M, {
        "attn_v": _outer(Type.Q6_K),
        "ffn_down": _outer(Type.Q6_K),
    }),
    "Q5_K_S": Mix(Type.Q5_K, _F.MOSTLY_Q5_K_S),
    "Q5_K_M": Mix(Type.Q5_K, _F.MOSTLY_Q5_K_M, {
        "attn_v": _outer(Type.Q6_K),
        "ffn_down": _outer(Type.Q6_K),
    }),
    "Q6_K": Mix(Type.Q6_K, _F.MOSTLY_Q6_K),
    "IQ4_NL": Mix(Type.IQ4_NL, _F.MOSTLY_IQ4_NL, {
        "attn_v": _shared(Type.Q5_K),
        "ffn_down": _unless_calibrated(_first(Type.Q5_K, 8)),
    }),
    "IQ4_XS": Mix(Type.IQ4_XS, _F.MOSTLY_IQ4_XS, {
        "attn_v": _shared(Type.Q5_K),
        "ffn_down": _unless_calibrated(_first(Type.Q5_K, 8)),
    }),
    "TQ1_0": Mix(Type.TQ1_0, _F.MOSTLY_TQ1_0, embedding=Type.Q4_K),
    "TQ2_0": Mix(Type.TQ2_0, _F.MOSTLY_TQ2_0, embedding=Type.Q4_K),
    # llama.cpp gives this type to experts only and Q8_0 to the rest; here every linear layer gets it.
    "MXFP4": Mix(Type.MXFP4, _F.MOSTLY_MXFP4_MOE, output=Type.Q8_0, embedding=Type.Q8_0),
}  # fmt: skip

# What stands in for a type whose blocks of 256 do not divide a row.
_NARROWER = {
    Type.Q2_K: Type.Q4_0, Type.Q3_K: Type.Q4_0, Type.TQ1_0: Type.Q4_0, Type.TQ2_0: Type.Q4_0,
    Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0, Type.IQ4_XS: Type.IQ4_NL,
}  # fmt: skip

Override = tuple[re.Pattern[str], Type]


def parse_overrides(texts: Sequence[str]) -> list[Override]:
    """Overrides as a user types them: PATTERN=TYPE, where PATTERN is found anywhere in a tensor's name
    (a leading "re:" is allowed), and the first that fits counts."""
    overrides = []
    for text in texts:
        pattern, name = split_override(text, "TYPE")
        if name not in _writable():
            raise ValueError(f"override {text!r}: expected one of {', '.join(_writable())}, got {name!r}")
        overrides.append((pattern, Type[name]))
    return overrides


def _writable() -> list[str]:
    types = {mix.base for mix in GGUF_SCHEMES.values()}
    return [type.name for type in sorted(types)]


def choose_types(
    shapes: Mapping[str, tuple[int, ...]],
    scheme: str,
    model: MixModel,
    overrides: Iterable[Override] = (),
) -> dict[str, Type]:
    """The type of each tensor, by its name in the file: what it is asked to be (see `asked_types`), or the
    next one whose blocks divide its rows."""
    asked = asked_types(shapes, scheme, model, overrides)
    return {name: _fitting(type, shapes[name][-1]) for name, type in asked.items()}


def asked_types(
    shapes: Mapping[str, tuple[int, ...]],
    scheme: str,
    model: MixModel,
    overrides: Iterable[Override] = (),
) -> dict[str, Type]:
    """The type that the scheme and the overrides give to each tensor, whether it fits or not.

    Args:
        shapes: all tensors of the file, in torch's order. Vectors and norms stay in float32.
        scheme: a key of GGUF_SCHEMES.
        overrides: see `parse_overrides`.

    Raises:
        ValueError: an override that fits no matrix, or a type that cannot store what it was asked to.
    """
    mix, overrides = GGUF_SCHEMES[scheme], list(overrides)
    chosen, unused = {}, dict.fromkeys(range(len(overrides)))
    for name, shape in shapes.items():
        if len(shape) < 2 or not name.endswith(".weight") or name.endswith("_norm.weight"):
            chosen[name] = Type.F32
            continue
        for index, (pattern, type) in enumerate(overrides):
            if pattern.search(name):
                unused.pop(index, None)
                if shape[-1] % _block(type):
                    raise ValueError(
                        f"override {pattern.pattern}={type.name}: {name} has rows of {shape[-1]}, no "
                        f"multiple of {_block(type)}"
                    )
                chosen[name] = type
                break
        else:
            chosen[name] = _choose(name, shape[-1], mix, model)
    for index in unused:
        raise ValueError(f"override {overrides[index][0].pattern}: fits no matrix of the model")
    return chosen


def mixed(name: str, model: nn.Module, calibrated: bool) -> Scheme:
    """A scheme of GGUF_SCHEMES for a model in memory: each layer gets the type that it would have in a file.
    Models of other architectures are taken for a Llama, and layers without a name in its files get the base
    type."""
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    architecture = next((a for a in ARCHITECTURES.values() if kind in a.model_types), ARCHITECTURES["llama"])
    weights = [weight for weight, _ in model.named_parameters(remove_duplicate=False)]
    stored = architecture.tensor_names(weights, getattr(config, "num_hidden_layers", 0))
    heads = getattr(config, "num_attention_heads", 1)
    shared = heads // (getattr(config, "num_key_value_heads", None) or heads)
    tied = bool(getattr(config, "tie_word_embeddings", False))

    def scheme(layer: Layer) -> Format | None:
        about = MixModel(architecture.name, layer.blocks, shared, tied, calibrated)
        there = stored.get(f"{layer.name}.weight", f"{layer.name}.weight")
        return BLOCK_FORMATS.get(choose_types({there: layer.shape}, name, about)[there].name)

    return scheme


def _choose(name: str, k: int, mix: Mix, model: MixModel) -> Type:
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        if mix.output is None:
            return mix.base
        return mix.output if k % _block(mix.base) == 0 else Type.Q8_0
    if name == "token_embd.weight":
        return mix.embedding or mix.base
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in mix.rules:
        type = mix.base
    else:
        type = mix.rules[match[2]](int(match[1]), model) or mix.base
    # Where eight query heads share a small attn_v, llama.cpp gives it more bits in its largest models.
    large = model.layers == 80 and (model.architecture == "qwen2" or model.heads_per_kv > 1)
    if large and model.architecture in ("llama", "qwen2") and name.endswith(".attn_v.weight"):
        return Type.Q5_K if type in (Type.Q3_K, Type.Q4_K) else type
    return type


def _fitting(type: Type, k: int) -> Type:
    """The type, or the next one whose blocks divide a row of k."""
    if k % _block(type):
        type = _NARROWER.get(type, type)
    return type if k % _block(type) == 0 else Type.F16


def _block(type: Type) -> int:
    return int(GGML_QUANT_SIZES[type][0])
