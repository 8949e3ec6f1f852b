"""Schemes: the preset names that users type, and the format that each gives to a layer's weight."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from qcore.formats import BLOCK_FORMATS, INTEGER_BITS, NF4, Activations, Float8, Format, Int8, IntGroup

__all__ = [
    "ALIASES",
    "SCHEMES",
    "Layer",
    "Rule",
    "Scheme",
    "find_scheme",
    "is_static",
    "parse_rules",
    "resolve_scheme",
    "split_override",
]


@dataclass(frozen=True)
class Layer:
    """What a scheme may know of the layer whose format it chooses.

    Attributes:
        name: of the linear layer in its model: "model.layers.3.self_attn.v_proj".
        shape: of its weight, [N, K].
        block: which of the model's blocks it is in, from 0; None if in none (the head).
        blocks: how many the model has.
    """

    name: str
    shape: tuple[int, int]
    block: int | None
    blocks: int


# The format of a layer's weight; None leaves the layer as it is.
Scheme = Callable[[Layer], Format | None]

# Weight-only integer schemes, e.g. W4A16 (symmetric) and W4A16_ASYM (with zero points); schemes with 8-bit
# inputs too, whose scales are found at run time, or by calibration (STATIC and W8A8_ASYM, which adds a zero
# point to the inputs); weight-only float8; QLoRA's NF4; and the block formats of GGUF.
#
# What compressed-tensors calls the same: W4A16, W4A16_ASYM, W8A16, W8A8 (and INT8), FP8_DYNAMIC, FP8_BLOCK;
# its FP8 is FP8_STATIC here, since vLLM's `quantization="fp8"` is the dynamic one. The others have no preset.
SCHEMES: dict[str, Format] = {
    **{
        f"W{bits}A16{suffix}": IntGroup(bits=bits, symmetric=not suffix)
        for bits in INTEGER_BITS
        for suffix in ("", "_ASYM")
    },
    "W8A8": Int8(),
    "W8A8_STATIC": Int8(Activations("int8", "tensor")),
    "W8A8_ASYM": Int8(Activations("int8", "tensor", symmetric=False)),
    "FP8": Float8(),
    "FP8_DYNAMIC": Float8(),
    "FP8_STATIC": Float8("tensor", Activations("e4m3", "tensor")),
    "FP8_BLOCK": Float8("block", Activations("e4m3", "block")),
    "W8A16_FP8": Float8("channel", None),
    "NF4": NF4,
    **BLOCK_FORMATS,
}

# What other tools, and people, call them: the first that a destination takes is meant. Bits alone are those
# of weights; `int8` is compressed-tensors' INT8, which rounds inputs too, and `Q4_K` llama.cpp's short form.
ALIASES: dict[str, tuple[str, ...]] = {
    "2BIT": ("W2A16", "Q2_K"),
    "3BIT": ("W3A16", "Q3_K_M"),
    "4BIT": ("W4A16", "Q4_K_M"),
    "5BIT": ("Q5_K_M",),
    "6BIT": ("Q6_K",),
    "8BIT": ("W8A16", "Q8_0"),
    "INT4": ("W4A16", "Q4_K_M"),
    "INT8": ("W8A8", "Q8_0"),
    "W8A8_INT8": ("W8A8",),
    "W8A8_FP8": ("FP8",),
    "Q3_K": ("Q3_K_M",),
    "Q4_K": ("Q4_K_M",),
    "Q5_K": ("Q5_K_M",),
    "FP16": ("F16",),
    "FP32": ("F32",),
}


def find_scheme(name: str, known: Iterable[str]) -> str:
    """The known name that is meant: upper and lower case are the same, hyphens and underscores may
    be left out, and ALIASES count.

    Raises:
        ValueError: none is; the nearest ones are named.
    """
    by_key = {_key(each): each for each in known}
    aliases = {_key(alias): meant for alias, meant in ALIASES.items()}
    wanted = _key(name)
    for each in (wanted, *map(_key, aliases.get(wanted, ()))):
        if each in by_key:
            return by_key[each]
    near = [by_key[each] for each in get_close_matches(wanted, by_key, cutoff=0.5)]
    hint = f"; the nearest are {', '.join(near)}" if near else ""
    raise ValueError(f"scheme: expected one of {', '.join(by_key.values())}, got {name!r}{hint}")


def _key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).upper()


def resolve_scheme(scheme: str | Format | Scheme, group_size: int | None = None) -> Scheme:
    """A scheme by name, of one format for all layers, or the scheme itself.

    Args:
        group_size: overrides that of a format of groups.
    """
    if isinstance(scheme, str):
        scheme = SCHEMES[find_scheme(scheme, SCHEMES)]
    if group_size is not None:
        if callable(scheme):
            raise ValueError(f"group_size: the scheme {scheme!r} has its own, got {group_size}")
        scheme = scheme.with_group_size(group_size)
    if callable(scheme):
        return scheme
    format = scheme
    return lambda layer: format


def is_static(format: Format) -> bool:
    """Whether the format rounds inputs with a scale from calibration."""
    return format.activations is not None and format.activations.static


# What a rule says instead of a scheme's name for layers that it leaves alone.
_FLOAT = "FLOAT"


@dataclass(frozen=True)
class Rule:
    """An exception from the scheme.

    Attributes:
        pattern: found anywhere in the names of the layers that it is for.
        format: of their weights; None leaves them as they are.
    """

    pattern: re.Pattern[str]
    format: Format | None

    def __str__(self) -> str:
        return f"override {self.pattern.pattern}"


def split_override(text: str, what: str) -> tuple[re.Pattern[str], str]:
    """PATTERN and WHAT of an override PATTERN=WHAT; a leading "re:" is allowed."""
    pattern, equals, name = text.removeprefix("re:").rpartition("=")
    if not equals or not pattern:
        raise ValueError(f"override: expected PATTERN={what}, got {text!r}")
    try:
        return re.compile(pattern), name.upper()
    except re.error as error:
        raise ValueError(f"override {text!r}: no regular expression: {error}") from None


def parse_rules(texts: Iterable[str]) -> list[Rule]:
    """Rules as a user types them: PATTERN=SCHEME, or PATTERN=float, where PATTERN is found anywhere in a
    layer's name, and the first that fits counts."""
    rules = []
    for text in texts:
        pattern, name = split_override(text, "SCHEME")
        try:
            rules.append(Rule(pattern, SCHEMES.get(find_scheme(name, (*SCHEMES, _FLOAT)))))
        except ValueError:
            raise ValueError(
                f"override {text!r}: expected float or one of {', '.join(SCHEMES)}, got {name!r}"
            ) from None
    return rules
