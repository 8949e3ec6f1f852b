"""torchao, as it and transformers write it into safetensors today: `quant_method: torchao`.

Per layer: `_weight_qdata`, `_weight_scale` and maybe `_weight_zero_point`; what they are, JSON under the key
`<layer>.weight` of the file's metadata: `_type`, the class of the tensor, `_data`, its attributes, among them
`block_size` (what shares a scale) and how inputs are rounded, and `_tensor_data_names`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from qcore.checkpoints.container import Container, Header, StoredLayer, expect_matrix, expect_parts, naming
from qcore.checkpoints.fields import INT, NAMES, OBJECT, TEXT, expect_fields, given
from qcore.checkpoints.words import FLOATS, check_tensor, signed_codes
from qcore.formats import Activations, Float8, Format, Int8, IntGroup
from qcore.qweight import QWeight

__all__ = ["TorchAo"]

_PARTS = ("_weight_qdata", "_weight_scale", "_weight_zero_point")
_TARGETS = {"int2": 2, "int3": 3, "int4": 4, "int8": 8}


class TorchAo(Container):
    """`Int8Tensor`, `IntxUnpackedToInt8Tensor` and `Float8Tensor`, weights alone or with inputs per token;
    only read."""

    method = "torchao"
    marks = frozenset(("_weight_qdata",))

    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        found: list[StoredLayer] = []
        for key in header:
            name, _, part = key.rpartition(".")
            if not part.startswith("_weight_"):
                continue
            if part != "_weight_qdata":
                if f"{name}._weight_qdata" not in header:
                    raise ValueError(f"{name}._weight_qdata: missing from the checkpoint, which has {part}")
                continue
            said = _said(f"{name}.weight", header)
            needed = [f"_weight_{part}" for part in said.get("_tensor_data_names") or ("qdata", "scale")]
            with naming(f"{name}.weight: metadata"):
                unknown = set(needed) - set(_PARTS)
                if unknown or said.get("_type") not in _FORMATS:
                    known = ", ".join(_FORMATS)
                    raise ValueError(
                        f"_type: expected one of {known}, got {said.get('_type')!r} {sorted(unknown)}"
                    )
            expect_parts(name, header, needed, (), ("weight", *_PARTS))
            zero = "_weight_zero_point" in needed and bool(
                (header.tensor(f"{name}._weight_zero_point") != 0).any()
            )
            shape = expect_matrix(f"{name}._weight_qdata", header)
            with naming(f"{name}.weight: metadata"):
                format = _FORMATS[said["_type"]](said.get("_data") or {}, shape, zero)
            found.append(StoredLayer(name, format, shape, tuple(f"{name}.{part}" for part in needed)))
        return found

    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        given = {key.removeprefix(f"{layer.name}."): tensor for key, tensor in tensors.items()}
        codes, scales, zeros = (given.get(part) for part in _PARTS)
        scaled, (n, k) = layer.format.scaled, layer.shape
        assert codes is not None
        assert scales is not None
        assert scaled is not None  # see layers
        with naming(layer.name, _PARTS):
            expected = scaled.granularity.shape(n, k)
            kind = torch.float8_e4m3fn if scaled.elements.name == "e4m3" else torch.int8
            check_tensor("_weight_qdata", codes, kind, (n, k))
            if scales.numel() == 1:
                scales = scales.reshape([1] * len(expected))
            check_tensor("_weight_scale", scales, FLOATS, expected)
            if not torch.isfinite(scales).all():
                raise ValueError("_weight_scale: holds NaN or infinity")
            stored = {"codes": codes, "scales": scales}
            if kind == torch.float8_e4m3fn and bool((codes.view(torch.uint8) & 0x7F == 0x7F).any()):
                raise ValueError("_weight_qdata: holds NaN")
            if scaled.elements.affine:  # unsigned: with the middle added
                stored["codes"] = signed_codes("_weight_qdata", codes, scaled.bits)
            if zeros is not None:
                check_tensor("_weight_zero_point", zeros, None, expected)
            if not scaled.symmetric and zeros is not None:
                check_tensor("_weight_zero_point", zeros, torch.int8, expected)
                stored["zeros"] = signed_codes("_weight_zero_point", zeros, scaled.bits)
            return QWeight(layer.format, layer.shape, stored)


def _said(key: str, header: Header) -> dict[str, Any]:
    try:
        said = json.loads(header.metadata[key])
    except KeyError:
        raise ValueError(f"{key}: the file's metadata do not say what it is") from None
    except ValueError as error:
        raise ValueError(f"{key}: metadata: no valid JSON: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{key}: metadata: expected an object, got {said!r}")
    expect_fields(f"{key}: metadata", said, {"_type": TEXT, "_data": OBJECT, "_tensor_data_names": NAMES})
    return said


def _object(data: Mapping[str, Any], which: str) -> Mapping[str, Any]:
    """A field that is an object; empty if it is absent."""
    if not isinstance(value := given(data, which, {}), Mapping):
        raise ValueError(f"{which}: expected an object, got {value!r}")
    return value


def _group_size(data: Mapping[str, Any], shape: tuple[int, int]) -> int:
    """Of scales in rows; -1 for one per row."""
    block = data.get("block_size")
    if not isinstance(block, list) or len(block) != 2 or block[0] != 1 or not INT.fits(block[1]):
        raise ValueError(f"block_size: expected [1, columns], got {block!r}")
    return -1 if block[1] == shape[1] else block[1]


def _per_token(data: Mapping[str, Any], which: str) -> bool:
    """Whether inputs are rounded, dynamically and per token; False: not at all."""
    if data.get(which) is None:
        return False
    inputs = _object(data, which)
    said = _object(inputs, "_data")
    granularity, mapping = (
        _object(said, "granularity"),
        {"_data": "SYMMETRIC", **_object(said, "mapping_type")},
    )
    if granularity.get("_type") != "PerRow" or mapping.get("_data") != "SYMMETRIC":
        raise ValueError(f"{which}: expected none, or symmetric ones PerRow, got {inputs!r}")
    return True


def _int8(data: Mapping[str, Any], shape: tuple[int, int], zero: bool) -> Format:
    size = _group_size(data, shape)
    if _per_token(data, "act_quant_kwargs"):
        if size != -1 or zero:
            raise ValueError("act_quant_kwargs: expected weights per row, without zero points")
        return Int8(Activations("int8"))
    return IntGroup(8, not zero, size)


def _intx(data: Mapping[str, Any], shape: tuple[int, int], zero: bool) -> Format:
    target = _object(data, "target_dtype").get("_data")
    if not isinstance(target, str) or target not in _TARGETS:
        raise ValueError(f"target_dtype: expected one of {', '.join(_TARGETS)}, got {target!r}")
    if data.get("activation_quantization") is not None:
        raise ValueError(f"activation_quantization: expected none, got {data['activation_quantization']!r}")
    return IntGroup(_TARGETS[target], not zero, _group_size(data, shape))


def _float8(data: Mapping[str, Any], shape: tuple[int, int], zero: bool) -> Format:
    whole = data.get("block_size") == list(shape) and shape[0] != 1
    if not whole and _group_size(data, shape) != -1:
        raise ValueError(f"block_size: expected a row or the whole weight, got {data.get('block_size')}")
    inputs = Activations("e4m3") if _per_token(data, "act_quant_kwargs") else None
    return Float8("tensor" if whole else "channel", inputs)


_FORMATS: dict[str, Callable[[Mapping[str, Any], tuple[int, int], bool], Format]] = {
    "Int8Tensor": _int8,
    "IntxUnpackedToInt8Tensor": _intx,
    "Float8Tensor": _float8,
}
