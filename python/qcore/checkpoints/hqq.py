"""HQQ, as its own package and transformers 4 write it into safetensors: `quant_method: hqq`.

Per layer: `W_q`, the codes of the weight reshaped to [N * K / group_size, group_size]; `scale` and `zero` of
each row of that, floats: W = (q - zero) * scale. Further tensors say how: `shape` [2], `nbits`, `group_size`,
`axis`, `packing` (a name in bytes), `view_as_float`. Packed, row r of codes shares its bytes (or int32 words)
with rows r + R, r + 2 R, ..., the first in the highest bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from qcore.checkpoints.container import Container, Header, StoredLayer, expect_parts, naming
from qcore.checkpoints.fields import NUMBER, OBJECT, expect_fields
from qcore.checkpoints.words import FLOATS, along_rows, check_tensor
from qcore.formats import ELEMENTS, ScaledFormat, Scales, group
from qcore.qweight import QWeight

__all__ = ["Hqq"]

# By packing: bits of a code there, how many share a word, its dtype, and the elements that hold the code.
_PACKINGS = {
    "8bit_u8": (8, 1, torch.uint8, "u8"),
    "4bit_u8": (4, 2, torch.uint8, "u4"),
    "3bit_32": (3, 10, torch.int32, "u3"),
    "2bit_u8": (2, 4, torch.uint8, "u2"),
    "1bit_u8": (1, 8, torch.uint8, "u2"),
}
_NEEDED = ("W_q", "scale", "zero", "shape", "nbits", "group_size", "axis", "packing")
_CLAIMED = ("nbits", "group_size", "axis")
_IDLE = (
    "view_as_float", "quant_scale", "quant_zero", "unpack_view_dtype", "compute_dtype", "offload_meta",
    "encoded_state_dict", "stores_quant_config", "channel_wise", "optimize", "round_zero",
)  # fmt: skip


class Hqq(Container):
    """1 to 8 bits, groups along rows (axis 1); only read. No kernel multiplies under zero points that are no
    codes: such weights are decoded in every call."""

    method = "hqq"
    marks = frozenset(("W_q",))
    fields = MappingProxyType({"quant_config": OBJECT})

    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        found: list[StoredLayer] = []
        for key in header:
            name, _, part = key.rpartition(".")
            if part != "W_q":
                continue
            expect_parts(name, header, _NEEDED, _IDLE, ("weight",))
            parts = tuple(f"{name}.{p}" for p in (*_NEEDED, *_IDLE) if f"{name}.{p}" in header)
            said = {
                p: header.tensor(f"{name}.{p}") for p in (*_NEEDED[3:], *_IDLE) if f"{name}.{p}" in header
            }
            with naming(name, (*_NEEDED, *_IDLE)):
                _, _, _, elements = _packing(said)
                shape, size = _sizes(said)
                _expect_served(said, config)
            columns = group(gcd(size, shape[1]))
            format = ScaledFormat(ELEMENTS[elements], columns, Scales(zeros=torch.float32), zero_points=True)
            found.append(StoredLayer(name, format, shape, parts))
        return found

    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        given = {key.removeprefix(f"{layer.name}."): tensor for key, tensor in tensors.items()}
        with naming(layer.name, (*_NEEDED, *_IDLE)):
            (n, k), size = _sizes(given)
            rows = n * k // size
            both = []
            for part in ("scale", "zero"):
                value = given[part].flatten()
                check_tensor(part, value.expand(rows) if value.numel() == 1 else value, FLOATS, (rows,))
                if not torch.isfinite(value).all():
                    raise ValueError(f"{part}: holds NaN or infinity")
                both.append(along_rows(value.expand(rows), (n, k), size))
            tensors = {
                "codes": _codes(given, rows, size).view(n, k),
                "scales": both[0],
                "zeros": both[1].float(),
            }
            return QWeight(layer.format, (n, k), tensors)


def _packing(said: Mapping[str, Tensor]) -> tuple[int, int, torch.dtype, str]:
    name = bytes(said["packing"].to(torch.uint8).flatten().tolist()).decode("latin-1")
    if name not in _PACKINGS:
        raise ValueError(f"packing: expected one of {', '.join(_PACKINGS)}, got {name!r}")
    if not 0 < float(said["nbits"]) <= _PACKINGS[name][0]:
        raise ValueError(f"nbits: expected at most those of {name}, got {float(said['nbits']):g}")
    return _PACKINGS[name]


def _sizes(said: Mapping[str, Tensor]) -> tuple[tuple[int, int], int]:
    """N and K, and the codes of a group."""
    shape, size = said["shape"], int(said["group_size"])
    whole = not shape.is_floating_point() and not shape.is_complex() and shape.dtype != torch.bool
    if shape.shape != (2,) or not whole or int(shape.min()) < 1:
        raise ValueError(f"shape: expected two sizes, got {shape.tolist()}")
    n, k = int(shape[0]), int(shape[1])
    if size < 1 or n * k % size:
        raise ValueError(f"group_size: expected a divisor of the {n * k} weights, got {size}")
    return (n, k), size


def _expect_served(said: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    if int(said["axis"]) != 1:
        raise ValueError(
            f"axis: expected 1 (groups along rows), got {int(said['axis'])}, whose groups run across rows"
        )
    for part in ("quant_scale", "quant_zero"):
        if part in said and bool(said[part].any()):
            raise ValueError(f"{part}: scales and zeros that are quantized in turn are not supported")
    quant_config = config.get("quant_config") or {}
    expect_fields("quantization_config.quant_config", quant_config, {"weight_quant_params": OBJECT})
    claimed = quant_config.get("weight_quant_params") or {}
    where = "quantization_config.quant_config.weight_quant_params"
    expect_fields(where, claimed, dict.fromkeys(_CLAIMED, NUMBER))
    for part in _CLAIMED:
        if claimed.get(part) is not None and float(claimed[part]) != float(said[part]):
            raise ValueError(
                f"{part}: is {float(said[part]):g}, but {claimed[part]} in quantization_config.quant_config"
            )


def _codes(given: Mapping[str, Tensor], rows: int, size: int) -> Tensor:
    """uint8 [rows, size]."""
    bits, each, dtype, _ = _packing(given)
    words = given["W_q"]
    if words.is_floating_point() and "view_as_float" in given and bool(given["view_as_float"].any()):
        words = words.contiguous().view(dtype)
    check_tensor("W_q", words, dtype, (-(-rows // each), size))
    shifts = torch.arange(each - 1, -1, -1, device=words.device) * bits
    codes = (words.int()[None] >> shifts[:, None, None]) & ((1 << bits) - 1)
    return codes.to(torch.uint8).reshape(-1, size)[:rows].contiguous()
