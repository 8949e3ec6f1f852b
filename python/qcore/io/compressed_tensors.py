"""compressed-tensors `pack-quantized`: what vLLM, SGLang and transformers read. No package needed.

Per layer: `weight_packed` int32 [N, ceil(K * bits / 32)], `weight_scale` [N, G], `weight_shape` [2],
and for asymmetric weights `weight_zero_point` int32 [ceil(N * bits / 32), G], packed along N. Their
codes are signed; packing adds 2**(bits - 1), so that the stored bits are the unsigned codes of `QWeight`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from qcore.formats import Format, IntGroup
from qcore.io.bits import pack_int32, unpack_int32
from qcore.qweight import QWeight

__all__ = [
    "check_exportable",
    "from_tensors",
    "parts",
    "quantization_config",
    "read_formats",
    "to_tensors",
]

_METHOD, _FORMAT = "compressed-tensors", "pack-quantized"
# compressed-tensors cannot express an input scale. A folder that holds one says so by its format, so that
# other readers refuse it instead of answering nonsense.
_FORMAT_ACT_SCALE = "qcore-act-scale"
_PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "act_scale")


def parts(name: str, tensors: Container[str]) -> list[str]:
    """Names of the tensors that store layer `name`, among those given."""
    return [f"{name}.{part}" for part in _PARTS if f"{name}.{part}" in tensors]


def check_exportable(name: str, k: int, format: Format) -> IntGroup:
    """The format, if compressed-tensors can express it for a weight of K columns; else raises."""
    if not isinstance(format, IntGroup):
        raise ValueError(
            f"{name}.weight: compressed-tensors has no format {format.name}; a GGUF file stores it"
        )
    if format.group_size != -1 and k % format.group_size:
        fitting = [g for g in (256, 128, 96, 64, 48, 32, 16) if k % g == 0]
        hint = f" (of the usual ones, {', '.join(map(str, fitting))} fit)" if fitting else ""
        raise ValueError(
            f"{name}.weight: group_size {format.group_size} does not divide its {k} input features, "
            f"which compressed-tensors requires{hint}; choose another group_size, -1 for one group "
            f"per row, or ignore this layer"
        )
    return format


def to_tensors(name: str, weight: QWeight) -> dict[str, Tensor]:
    """The stored tensors of one layer."""
    bits = check_exportable(name, weight.shape[1], weight.format).bits
    tensors = {
        f"{name}.weight_packed": pack_int32(weight.tensors["codes"], bits),
        f"{name}.weight_scale": weight.tensors["scales"].contiguous(),
        f"{name}.weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    if (zeros := weight.tensors.get("zeros")) is not None:
        tensors[f"{name}.weight_zero_point"] = pack_int32(zeros.T.contiguous(), bits).T.contiguous()
    if weight.act_scale is not None:
        tensors[f"{name}.act_scale"] = weight.act_scale
    return tensors


def from_tensors(name: str, tensors: Mapping[str, Tensor], format: IntGroup) -> QWeight:
    """The layer's weight, from the tensors named by `parts`."""

    def part(which: str, dtype: torch.dtype | None = None) -> Tensor:
        key = f"{name}.{which}"
        if key not in tensors:
            raise ValueError(f"{key}: missing from the checkpoint")
        tensor = tensors[key]
        if dtype is not None and tensor.dtype != dtype:
            raise ValueError(f"{key}: expected {dtype}, got {tensor.dtype}")
        return tensor

    n, k = (int(size) for size in part("weight_shape"))
    packed, scales = part("weight_packed", torch.int32), part("weight_scale")
    words = -(-k * format.bits // 32)
    if tuple(packed.shape) != (n, words):
        raise ValueError(
            f"{name}.weight_packed: expected shape {(n, words)} for {format.bits}-bit codes of "
            f"{(n, k)}, got {tuple(packed.shape)}"
        )
    if not scales.is_floating_point():
        raise ValueError(f"{name}.weight_scale: expected a float dtype, got {scales.dtype}")
    if not torch.isfinite(scales).all():
        raise ValueError(f"{name}.weight_scale: holds NaN or infinity")
    stored_weight = {"codes": unpack_int32(packed, format.bits, k), "scales": scales}
    if not format.symmetric:
        stored = part("weight_zero_point", torch.int32)
        expected = (-(-n * format.bits // 32), format.groups(k))
        if tuple(stored.shape) != expected:
            raise ValueError(
                f"{name}.weight_zero_point: expected shape {expected}, got {tuple(stored.shape)}"
            )
        stored_weight["zeros"] = unpack_int32(stored.T.contiguous(), format.bits, n).T.contiguous()
    try:
        return QWeight(format, (n, k), stored_weight, tensors.get(f"{name}.act_scale"))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def quantization_config(
    formats: Mapping[str, Format], linears: Iterable[str], act_scale: bool = False
) -> dict[str, Any]:
    """The `quantization_config` of config.json.

    Args:
        formats: the format of each quantized layer.
        linears: names of all linear layers of the model; those not quantized are listed as ignored.
        act_scale: some layer carries an input scale.
    """
    stored_format = _FORMAT_ACT_SCALE if act_scale else _FORMAT
    by_format: dict[IntGroup, list[str]] = {}
    for name, format in formats.items():
        assert isinstance(format, IntGroup)  # see check_exportable
        by_format.setdefault(format, []).append(name)
    groups = {}
    for index, (format, names) in enumerate(by_format.items()):
        groups[f"group_{index}"] = {
            "targets": ["Linear"] if len(by_format) == 1 else names,
            "weights": {
                "num_bits": format.bits,
                "type": "int",
                "symmetric": format.symmetric,
                "strategy": "channel" if format.group_size == -1 else "group",
                "group_size": None if format.group_size == -1 else format.group_size,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
            "format": stored_format,
        }
    return {
        "quant_method": _METHOD,
        "format": stored_format,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [name for name in linears if name not in formats],
        "kv_cache_scheme": None,
    }


def read_formats(config: Mapping[str, Any], tensors: Collection[str]) -> dict[str, IntGroup]:
    """The format of each quantized layer of a checkpoint, by the names of its tensors."""
    for key, expected in (("quant_method", (_METHOD,)), ("format", (_FORMAT, _FORMAT_ACT_SCALE))):
        if config.get(key) not in expected:
            raise ValueError(f"quantization_config.{key}: expected {expected[0]!r}, got {config.get(key)!r}")
    for key in ("transform_config", "kv_cache_scheme"):
        if config.get(key):
            raise ValueError(f"quantization_config.{key}: not supported, got {config[key]}")
    groups = list(config.get("config_groups", {}).values())
    suffix = ".weight_packed"
    names = [t.removesuffix(suffix) for t in tensors if t.endswith(suffix)]
    for name in names:
        if f"{name}.weight_g_idx" in tensors:
            raise ValueError(f"{name}.weight_g_idx: groups in activation order are not supported")
    return {name: _format_of(name, groups) for name in names}


def _format_of(name: str, groups: list[Mapping[str, Any]]) -> IntGroup:
    group = next((g for g in groups if _targets(g, name)), None)
    group = group or next((g for g in groups if "Linear" in g.get("targets", ())), None)
    if group is None:
        raise ValueError(f"quantization_config.config_groups: none of them targets {name}")
    weights = group.get("weights") or {}
    if weights.get("type", "int") != "int" or weights.get("strategy") not in ("group", "channel"):
        raise ValueError(
            f"quantization_config: expected integer weights per group or channel for {name}, got "
            f"type {weights.get('type')!r}, strategy {weights.get('strategy')!r}"
        )
    if group.get("input_activations"):
        raise ValueError(f"quantization_config: quantized activations are not supported, {name} has them")
    group_size = weights.get("group_size", 0) if weights["strategy"] == "group" else -1
    try:
        return IntGroup(weights.get("num_bits", 0), weights.get("symmetric", True), group_size)
    except (ValueError, TypeError) as error:
        raise ValueError(f"quantization_config: weights of {name}: {error}") from error


def _targets(group: Mapping[str, Any], name: str) -> bool:
    """Whether a group targets a layer by name or regular expression (classes come after these)."""
    return any(
        re.match(target[3:], name) if target.startswith("re:") else target == name
        for target in group.get("targets", ())
    )
