"""`quantization_config` in config.json: which layers are quantized, and how."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from qcore.checkpoints.compressed_tensors.groups import Groups, arguments
from qcore.checkpoints.container import Header, QWeightInfo, naming
from qcore.formats import BLOCK, ROW, TENSOR, Activations, Float8, Format, Int8, IntGroup
from qcore.formats.activations import TOKEN_BLOCK

__all__ = ["METHOD", "dequantized", "quantization_config", "read_formats"]

METHOD = "compressed-tensors"
_PACKED, _INT, _FLOAT, _NAIVE, _MIXED = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision",
)  # fmt: skip
# compressed-tensors cannot express that an input is divided by a vector. A folder that holds such a layer
# says so by its format, so that other readers refuse it instead of answering nonsense.
_DIVIDED = "qcore-act-scale"
# Nor that a layer is none of `nn.Linear`, as GPT-2's, whose weight is [K, N]: transformers would leave it at
# random values.
_TRANSPOSED = "qcore-transposed"
_FORMATS = (_PACKED, _INT, _FLOAT, _NAIVE, _MIXED, _DIVIDED, _TRANSPOSED)


# -- writing ------------------------------------------------------------------------------------


def quantization_config(weights: Mapping[str, QWeightInfo], linears: Collection[str]) -> dict[str, Any]:
    """The `quantization_config` of config.json; see `Container.config`."""
    by_format: dict[tuple[Format, bool], list[str]] = {}
    for name, weight in weights.items():
        by_format.setdefault((weight.format, weight.permuted), []).append(name)
    marks = [_TRANSPOSED] if any(weight.transposed for weight in weights.values()) else []
    marks += [_DIVIDED] if any(weight.divided for weight in weights.values()) else []
    groups = {}
    for index, ((format, permuted), names) in enumerate(by_format.items()):
        order = {"actorder": "group"} if permuted else {}
        tables = [name for name in names if weights[name].table]
        groups[f"group_{index}"] = {
            "targets": ["Linear", *tables] if len(by_format) == 1 else names,
            "weights": {**_weights(format), **order},
            "input_activations": _input_activations(format),
            "output_activations": None,
            "format": marks[-1] if marks else _format_name(format),
        }
    stored = {group["format"] for group in groups.values()}
    has_tables = any(weight.table for weight in weights.values())
    return (dequantized if has_tables else dict)(
        {
            "quant_method": METHOD,
            "format": stored.pop() if len(stored) == 1 else _MIXED,
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": [name for name in linears if name not in weights],
            "kv_cache_scheme": None,
        }
    )


def dequantized(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with a word to transformers to decode on loading; else it does so in a hook before
    the first call, which some programs pass by, and fails on embeddings. It decodes all by the first group,
    so that the word is left out where there are several."""
    return {**config, "dequantize": True} if len(config["config_groups"]) == 1 else dict(config)


def _format_name(format: Format) -> str:
    assert format.scaled is not None  # see CompressedTensors.why_not
    if format.scaled.elements.affine:
        return _PACKED
    return _INT if format.scaled.elements.label == "int8" else _FLOAT


# What scales are per, in their words.
_STRATEGIES = {"tensor": "tensor", "row": "channel", "group": "group", "block": "block"}


def _weights(format: Format) -> dict[str, Any]:
    scaled = format.scaled
    assert scaled is not None
    granularity, type = scaled.granularity, "float" if _format_name(format) == _FLOAT else "int"
    group_size = granularity.columns if granularity.kind == "group" else None
    block = {"block_structure": [granularity.rows, granularity.columns]} if granularity == BLOCK else {}
    args = _args(type, _STRATEGIES[granularity.kind], group_size, scaled.bits, scaled.symmetric)
    return {**args, **block}


def _input_activations(format: Format) -> dict[str, Any] | None:
    inputs = format.activations
    if inputs is None:
        return None
    strategy = {ROW: "token", TENSOR: "tensor", TOKEN_BLOCK: "group"}[inputs.granularity]
    group_size = TOKEN_BLOCK.columns if inputs.granularity == TOKEN_BLOCK else None
    type = "int" if inputs.is_integer else "float"
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


def read_formats(config: Mapping[str, Any], tensors: Header) -> dict[str, Format]:
    """The format of each quantized layer of a checkpoint, by the names of its tensors."""
    for key, expected in (("quant_method", (METHOD,)), ("format", _FORMATS)):
        if config.get(key) not in expected:
            choices = " or ".join(map(repr, expected[:-1] if len(expected) > 1 else expected))
            raise ValueError(f"quantization_config.{key}: expected {choices}, got {config.get(key)!r}")
    if config.get("transform_config"):
        raise ValueError(
            f"quantization_config.transform_config: not supported, got {config['transform_config']}"
        )
    sparse = (config.get("sparsity_config") or {}).get("format")
    if sparse not in (None, "dense"):
        raise ValueError(f"quantization_config.sparsity_config.format: expected 'dense', got {sparse!r}")
    groups = Groups(config, _FORMATS)
    formats: dict[str, Format] = {}
    for tensor in tensors:
        name, _, part = tensor.rpartition(".")
        if part in _MARKS and name not in formats:
            group = groups.of(name)
            _expect_order(name, arguments(group, "weights"), tensors)
            packed = _is_packed(
                name, group.get("format") or config["format"], arguments(group, "weights"), tensors
            )
            formats[name] = _packed_format(name, group) if packed else _plain_format(name, group)
    return formats


# Any of these parts makes a layer a quantized one; which others it then lacks is said by name.
_MARKS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")


def _expect_order(name: str, weights: Mapping[str, Any], tensors: Header) -> None:
    """Groups in activation order are no groups without the list of their columns."""
    ordered = weights.get("actorder") in ("group", "dynamic", True)
    if ordered and weights.get("strategy") == "group" and f"{name}.weight_g_idx" not in tensors:
        raise ValueError(
            f"{name}.weight_g_idx: missing from the checkpoint (expected, because quantization_config says "
            f"actorder {weights['actorder']!r})"
        )


def _is_packed(name: str, stored: str, weights: Mapping[str, Any], tensors: Header) -> bool:
    if any(f"{name}.{part}" in tensors for part in ("weight_packed", "weight_shape", "weight_g_idx")):
        return True
    return f"{name}.weight" not in tensors and (stored == _PACKED or weights.get("num_bits", 8) != 8)


def _packed_format(name: str, group: Mapping[str, Any]) -> Format:
    weights = arguments(group, "weights")
    by = weights.get("strategy")
    one_scale = by == "tensor" and weights.get("symmetric", True)
    if weights.get("type", "int") != "int" or not (by in ("group", "channel") or one_scale):
        raise ValueError(
            f"quantization_config: expected integer weights per group or channel for {name}, got "
            f"{_described(weights)}"
        )
    if group.get("input_activations"):
        raise ValueError(
            f"quantization_config: packed weights with quantized activations are not supported, {name} has "
            f"them"
        )
    group_size = weights.get("group_size", 0) if by == "group" else -1
    with naming(f"quantization_config: {name}"):
        return IntGroup(weights.get("num_bits", 8), weights.get("symmetric", True), group_size)


def _plain_format(name: str, group: Mapping[str, Any]) -> Format:
    weights = arguments(group, "weights")
    type, strategy = weights.get("type", "int"), weights.get("strategy")
    inputs = _activations(name, arguments(group, "input_activations"))
    fits = weights.get("num_bits", 8) == 8 and weights.get("symmetric", True)
    with naming(f"quantization_config: {name}"):
        if type == "int" and inputs is None and strategy in ("group", "channel", "tensor"):
            size = weights.get("group_size", 0) if strategy == "group" else -1
            return IntGroup(weights.get("num_bits", 8), weights.get("symmetric", True), size)
        if fits and type == "int" and strategy in ("channel", "tensor") and inputs is not None:
            return Int8(inputs)
        if fits and type == "float" and strategy in ("channel", "tensor"):
            return Float8(strategy, inputs)
        if fits and type == "float" and _blocks(weights) == (BLOCK.rows, BLOCK.columns):
            return Float8("block", inputs)
    raise ValueError(
        f"quantization_config: expected symmetric 8-bit weights for {name}, integer per channel with 8-bit "
        f"activations (or integers without activations), or float per tensor, channel or block of 128 x 128; "
        f"got {_described(weights)}"
    )


def _blocks(weights: Mapping[str, Any]) -> tuple[int, ...] | None:
    structure = weights.get("block_structure")
    if weights.get("strategy") != "block" or not structure:
        return None
    if isinstance(structure, str):  # how early versions wrote it: "128x128"
        structure = structure.split("x")
    return tuple(int(size) for size in structure)


def _activations(name: str, args: Mapping[str, Any]) -> Activations | None:
    if not args:
        return None
    type, strategy, dynamic = args.get("type", "int"), args["strategy"], args.get("dynamic", False)
    by_block = strategy == "group" and args.get("group_size") == TOKEN_BLOCK.columns
    known: list[tuple[Any, str]] = [(("token", True), "token"), (("tensor", False), "tensor")]
    found = next((scales for kind, scales in known if kind == (strategy, dynamic)), None)
    scales = "block" if by_block and dynamic is True else found
    if scales is None or args.get("num_bits", 8) != 8 or type not in ("int", "float"):
        raise ValueError(
            f"quantization_config: expected 8-bit activations for {name}, dynamic per token or group of 128, "
            f"or static per tensor; got {_described(args)}, dynamic {dynamic!r}"
        )
    kind = "int8" if type == "int" else "e4m3"
    with naming(f"quantization_config: {name}"):
        return Activations(kind, scales, args.get("symmetric", True))


def _described(args: Mapping[str, Any]) -> str:
    keys = ("num_bits", "type", "symmetric", "strategy", "group_size", "block_structure")
    return ", ".join(f"{key} {args[key]!r}" for key in keys if args.get(key) is not None) or "nothing"
