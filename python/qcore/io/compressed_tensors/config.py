"""`quantization_config` in config.json: which layers are quantized, and how."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from qcore.formats import FLOAT8_BLOCK, Activations, Float8, Format, Int8, IntGroup

__all__ = ["quantization_config", "read_formats"]

_METHOD = "compressed-tensors"
_PACKED, _INT, _FLOAT, _NAIVE, _MIXED = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision",
)  # fmt: skip
# compressed-tensors cannot express an input scale per channel. A folder that holds one says so by its format,
# so that other readers refuse it instead of answering nonsense.
_ACT_SCALE = "qcore-act-scale"
_FORMATS = (_PACKED, _INT, _FLOAT, _NAIVE, _MIXED, _ACT_SCALE)


# -- writing ------------------------------------------------------------------------------------


def quantization_config(
    formats: Mapping[str, Format], linears: Iterable[str], act_scale: bool = False
) -> dict[str, Any]:
    """The `quantization_config` of config.json.

    Args:
        formats: the format of each quantized layer.
        linears: names of all linear layers of the model; those not quantized are listed as ignored.
        act_scale: some layer carries an input scale per channel.
    """
    by_format: dict[Format, list[str]] = {}
    for name, format in formats.items():
        by_format.setdefault(format, []).append(name)
    groups = {}
    for index, (format, names) in enumerate(by_format.items()):
        groups[f"group_{index}"] = {
            "targets": ["Linear"] if len(by_format) == 1 else names,
            "weights": _weights(format),
            "input_activations": _input_activations(format),
            "output_activations": None,
            "format": _ACT_SCALE if act_scale else _format_name(format),
        }
    stored = {group["format"] for group in groups.values()}
    return {
        "quant_method": _METHOD,
        "format": stored.pop() if len(stored) == 1 else _MIXED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [name for name in linears if name not in formats],
        "kv_cache_scheme": None,
    }


def _format_name(format: Format) -> str:
    if isinstance(format, IntGroup):
        return _PACKED
    return _INT if isinstance(format, Int8) else _FLOAT


def _weights(format: Format) -> dict[str, Any]:
    if isinstance(format, IntGroup):
        strategy = "channel" if format.group_size == -1 else "group"
        group_size = None if format.group_size == -1 else format.group_size
        return _args("int", strategy, group_size, bits=format.bits, symmetric=format.symmetric)
    if isinstance(format, Int8):
        return _args("int", "channel")
    assert isinstance(format, Float8)  # see check_exportable
    block = {"block_structure": [FLOAT8_BLOCK, FLOAT8_BLOCK]} if format.scales == "block" else {}
    return {**_args("float", format.scales), **block}


def _input_activations(format: Format) -> dict[str, Any] | None:
    inputs = format.activations
    if inputs is None:
        return None
    type = "int" if inputs.type == "int8" else "float"
    by_block = inputs.scales == "block"
    strategy, group_size = ("group", FLOAT8_BLOCK) if by_block else (inputs.scales, None)
    return {**_args(type, strategy, group_size, symmetric=inputs.symmetric), "dynamic": not inputs.static}


def _args(
    type: str, strategy: str, group_size: int | None = None, bits: int = 8, symmetric: bool = True
) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": type,
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group_size,
        "dynamic": False,
    }


# -- reading ------------------------------------------------------------------------------------


def read_formats(config: Mapping[str, Any], tensors: Collection[str]) -> dict[str, Format]:
    """The format of each quantized layer of a checkpoint, by the names of its tensors."""
    for key, expected in (("quant_method", (_METHOD,)), ("format", _FORMATS)):
        if config.get(key) not in expected:
            choices = " or ".join(map(repr, expected[:-1] if len(expected) > 1 else expected))
            raise ValueError(f"quantization_config.{key}: expected {choices}, got {config.get(key)!r}")
    for key in ("transform_config", "kv_cache_scheme"):
        if config.get(key):
            raise ValueError(f"quantization_config.{key}: not supported, got {config[key]}")
    groups = list(config.get("config_groups", {}).values())
    formats: dict[str, Format] = {}
    for tensor in tensors:
        name, _, part = tensor.rpartition(".")
        packed = part == "weight_packed"
        if packed or (part == "weight_scale" and f"{name}.weight_packed" not in tensors):
            group = _group_of(name, groups)
            formats[name] = _packed_format(name, group) if packed else _plain_format(name, group)
        if part == "weight_g_idx":
            raise ValueError(f"{tensor}: groups in activation order are not supported")
    return formats


def _group_of(name: str, groups: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The group that targets a layer: by name or regular expression, or else by its class."""
    group = next((g for g in groups if _targets(g, name)), None)
    group = group or next((g for g in groups if "Linear" in g.get("targets", ())), None)
    if group is None:
        raise ValueError(f"quantization_config.config_groups: none of them targets {name}")
    if group.get("output_activations"):
        raise ValueError(f"quantization_config: quantized outputs are not supported, {name} has them")
    return group


def _targets(group: Mapping[str, Any], name: str) -> bool:
    return any(
        re.match(target[3:], name) if target.startswith("re:") else target == name
        for target in group.get("targets", ())
    )


def _packed_format(name: str, group: Mapping[str, Any]) -> IntGroup:
    weights = group.get("weights") or {}
    if weights.get("type", "int") != "int" or weights.get("strategy") not in ("group", "channel"):
        raise ValueError(
            f"quantization_config: expected integer weights per group or channel for {name}, got "
            f"{_described(weights)}"
        )
    if group.get("input_activations"):
        raise ValueError(
            f"quantization_config: packed weights with quantized activations are not supported, {name} has "
            f"them"
        )
    group_size = weights.get("group_size", 0) if weights["strategy"] == "group" else -1
    with _naming(name):
        return IntGroup(weights.get("num_bits", 0), weights.get("symmetric", True), group_size)


def _plain_format(name: str, group: Mapping[str, Any]) -> Format:
    weights = group.get("weights") or {}
    type, strategy = weights.get("type", "int"), _strategy(weights)
    inputs = _activations(name, group.get("input_activations"))
    fits = weights.get("num_bits", 8) == 8 and weights.get("symmetric", True)
    with _naming(name):
        if fits and type == "int" and strategy in ("channel", "tensor") and inputs is not None:
            return Int8(inputs)
        if fits and type == "float" and strategy in ("channel", "tensor"):
            return Float8(strategy, inputs)
        if fits and type == "float" and _blocks(weights) == (FLOAT8_BLOCK, FLOAT8_BLOCK):
            return Float8("block", inputs)
    raise ValueError(
        f"quantization_config: expected symmetric 8-bit weights for {name}, integer per channel with 8-bit "
        f"activations, or float per tensor, channel or block of 128 x 128; got {_described(weights)}"
    )


def _strategy(args: Mapping[str, Any]) -> str:
    """What scales are per; compressed-tensors lets it follow from the group size."""
    return args.get("strategy") or {None: "tensor", -1: "channel"}.get(args.get("group_size"), "group")


def _blocks(weights: Mapping[str, Any]) -> tuple[int, ...] | None:
    structure = weights.get("block_structure")
    if weights.get("strategy") != "block" or not structure:
        return None
    if isinstance(structure, str):  # how early versions wrote it: "128x128"
        structure = structure.split("x")
    return tuple(int(size) for size in structure)


def _activations(name: str, args: Mapping[str, Any] | None) -> Activations | None:
    if not args:
        return None
    type, strategy, dynamic = args.get("type", "int"), _strategy(args), args.get("dynamic", False)
    by_block = strategy == "group" and args.get("group_size") == FLOAT8_BLOCK
    known: dict[tuple[Any, Any], str] = {("token", True): "token", ("tensor", False): "tensor"}
    scales = "block" if by_block and dynamic is True else known.get((strategy, dynamic))
    if scales is None or args.get("num_bits", 8) != 8 or type not in ("int", "float"):
        raise ValueError(
            f"quantization_config: expected 8-bit activations for {name}, dynamic per token or group of 128, "
            f"or static per tensor; got {_described(args)}, dynamic {dynamic!r}"
        )
    kind = "int8" if type == "int" else "e4m3"
    with _naming(name):
        return Activations(kind, scales, args.get("symmetric", True))


def _described(args: Mapping[str, Any]) -> str:
    keys = ("num_bits", "type", "symmetric", "strategy", "group_size", "block_structure")
    return ", ".join(f"{key} {args[key]!r}" for key in keys if args.get(key) is not None) or "nothing"


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """What a format does not take is an error that names the layer."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"quantization_config: {name}: {error}") from error
