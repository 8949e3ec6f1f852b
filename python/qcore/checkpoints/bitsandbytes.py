"""bitsandbytes, as transformers saves it: `quant_method: bitsandbytes`, 4-bit and 8-bit.

4 bits, per layer: `weight` uint8 [N * K / 2, 1] (or the same bytes as another dtype), two codes in a byte,
the first in the high bits, rows one after another; `weight.absmax`, a scale for each `blocksize` codes of
that sequence; `weight.quant_map` [16], what codes stand for; `weight.quant_state.bitsandbytes__nf4`, or
`fp4`, JSON in bytes. Where scales were quantized in turn, `absmax` are codes of `weight.nested_quant_map`
[256] under the scales `weight.nested_absmax`, to which the JSON's `nested_offset` is added.

8 bits: `weight` int8 [N, K], `SCB` float32 [N], the largest magnitude of each row, and `weight_format`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import gcd
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from qcore.checkpoints.container import (
    Container,
    Header,
    QWeightInfo,
    StoredLayer,
    expect_matrix,
    expect_parts,
    expect_plain_inputs,
    naming,
)
from qcore.checkpoints.fields import TEXT
from qcore.checkpoints.words import FLOATS, along_rows, check_tensor
from qcore.formats import ELEMENTS, Format, IntGroup, ScaledFormat, Scales, group
from qcore.qweight import QWeight

__all__ = ["BitsAndBytes"]

_KINDS = ("nf4", "fp4")
# What the bytes of codes may be seen as, where nothing says it.
_STORAGES = ("uint8", "int8", "float16", "bfloat16", "float32")
_STATE = "quant_state.bitsandbytes__"
_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_NESTED = ("nested_absmax", "nested_quant_map")
_PARTS = ("weight", "weight.absmax", "weight.quant_map", *(f"weight.{part}" for part in _NESTED))
_PARTS_8 = ("weight", "SCB", "weight_format")


class BitsAndBytes(Container):
    """NF4 and FP4, read and written; int8, read.

    Scales of two levels are multiplied out on reading, in float32 as bitsandbytes does it, and written as one
    level: nothing is rounded, a file grows by less than half a bit per weight. int8 weights meet inputs as
    they are, not rounded to int8 except for outliers.
    """

    method = "bitsandbytes"
    marks = frozenset(("absmax", "quant_map", *_NESTED, *(f"bitsandbytes__{kind}" for kind in _KINDS), "SCB"))

    fields = MappingProxyType({"bnb_4bit_quant_storage": TEXT})

    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        found: dict[str, StoredLayer] = {}
        for key in header:
            name, _, part = key.rpartition(".")
            if part == "SCB":
                expect_parts(name, header, ("weight", "SCB"), ("weight_format",), _PARTS)
                found[name] = _int8(name, header)
            elif part in self.marks:
                name = name.removesuffix(".quant_state").removesuffix(".weight")
                if name not in found:
                    found[name] = _four(name, header)
        return list(found.values())

    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        given = {key.removeprefix(f"{layer.name}."): tensor for key, tensor in tensors.items()}
        with naming(layer.name, (*_PARTS, *_PARTS_8)):
            if "SCB" in given:
                return _read_int8(layer, given)
            return _read_four(layer, given, config.get("bnb_4bit_quant_storage"))

    def why_not(self, format: Format, k: int | None = None) -> str | None:
        scaled = format.scaled
        fits = (
            scaled is not None
            and scaled.elements in (ELEMENTS[kind] for kind in _KINDS)
            and scaled.granularity.kind == "group"
            and scaled.scales == Scales(torch.float32)
        )
        if scaled is None or not fits:
            return f"{self.method} has no format {format}; it stores nf4 and fp4"
        width = scaled.group_size
        if width not in _BLOCKS or (k is not None and k % width):
            blocks = ", ".join(map(str, _BLOCKS))
            return f"group_size: expected one of {blocks}, and a divisor of K ({k}), got {width}"
        return None

    def write(self, name: str, weight: QWeight) -> dict[str, Tensor]:
        expect_plain_inputs(name, weight)
        scaled = weight.format.scaled
        assert scaled is not None  # see why_not
        codes = weight.tensors["codes"].reshape(-1, 2)
        # Multiplying in float32 rounds nothing; readers cast to the dtype that they compute in.
        state = {
            "quant_type": scaled.elements.name,
            "blocksize": scaled.group_size,
            "dtype": "float32",
            "shape": list(weight.shape),
        }
        written = {
            "weight": (codes[:, :1] << 4) | codes[:, 1:],
            "weight.absmax": weight.tensors["scales"].flatten(),
            "weight.quant_map": _table(scaled.elements.name),
            f"weight.{_STATE}{scaled.elements.name}": torch.tensor(
                list(json.dumps(state).encode()), dtype=torch.uint8
            ),
        }
        return {f"{name}.{part}": tensor for part, tensor in written.items()}

    def config(self, weights: Mapping[str, QWeightInfo], linears: Collection[str]) -> dict[str, Any]:
        kinds = {w.format.scaled.elements.name for w in weights.values() if w.format.scaled is not None}
        if len(kinds) != 1:
            raise ValueError(f"{self.method}: expected nf4 or fp4 for all layers, got {sorted(kinds)}")
        return {
            "quant_method": self.method,
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": kinds.pop(),
            "bnb_4bit_use_double_quant": False,
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": [name for name in linears if name not in weights],
        }


def _table(kind: str) -> Tensor:
    codes = torch.arange(16, dtype=torch.uint8)
    return ELEMENTS[kind].decode(codes, 0.0)


# -- 8 bits -------------------------------------------------------------------------------------


def _int8(name: str, header: Header) -> StoredLayer:
    parts = tuple(f"{name}.{part}" for part in _PARTS_8 if f"{name}.{part}" in header)
    # With the middle added, codes are unsigned ones whose zero point is the middle.
    return StoredLayer(name, IntGroup(8, group_size=-1), expect_matrix(f"{name}.weight", header), parts)


def _read_int8(layer: StoredLayer, given: Mapping[str, Tensor]) -> QWeight:
    n, k = layer.shape
    check_tensor("weight", given["weight"], torch.int8, (n, k))
    check_tensor("SCB", given["SCB"].reshape(-1), FLOATS, (n,))
    order = given.get("weight_format")
    if order is not None and bool((order != 0).any()):
        raise ValueError(f"weight_format: expected 0 (rows), got {order.tolist()}")
    if not torch.isfinite(given["SCB"]).all():
        raise ValueError("SCB: holds NaN or infinity")
    codes = given["weight"].view(torch.uint8) ^ 128
    return QWeight(layer.format, (n, k), {"codes": codes, "scales": given["SCB"].float().reshape(n, 1) / 127})


# -- 4 bits -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _State:
    """What the JSON of a layer says."""

    kind: str
    blocksize: int
    shape: tuple[int, int]
    nested_blocksize: int
    nested_offset: float


def _four(name: str, header: Header) -> StoredLayer:
    states = [f"weight.{_STATE}{kind}" for kind in _KINDS if f"{name}.weight.{_STATE}{kind}" in header]
    if len(states) != 1:
        raise ValueError(
            f"{name}.weight.{_STATE}nf4: expected one quant_state, of nf4 or fp4, found {len(states)}"
        )
    nested = [f"weight.{part}" for part in _NESTED]
    needed = nested if any(f"{name}.{part}" in header for part in nested) else []
    expect_parts(name, header, [*_PARTS[:3], *states, *needed], (), (*_PARTS, "SCB"))
    key = f"{name}.{states[0]}"
    with naming(key):
        state = _parsed(header.tensor(key), states[0].removeprefix(f"weight.{_STATE}"))
        n, k = state.shape
        columns = group(gcd(state.blocksize, k))  # of which none crosses a block's border
        format = ScaledFormat(ELEMENTS[state.kind], columns, Scales(torch.float32))
    parts = tuple(f"{name}.{part}" for part in (*_PARTS[:3], *needed, *states))
    return StoredLayer(name, format, (n, k), parts)


def _parsed(stored: Tensor, kind: str) -> _State:
    try:
        state = json.loads(bytes(stored.to(torch.uint8).flatten().tolist()))
        n, k = (int(size) for size in state["shape"])
        found = _State(
            kind,
            int(state["blocksize"]),
            (n, k),
            int(state.get("nested_blocksize", 256)),
            float(state.get("nested_offset", 0.0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"expected JSON with quant_type, blocksize and a shape [N, K], got {error!r}"
        ) from error
    if state.get("quant_type", kind) != kind:
        raise ValueError(f"quant_type: expected {kind!r}, as its key says, got {state['quant_type']!r}")
    if min(n, k, found.blocksize, found.nested_blocksize) < 1:
        raise ValueError(f"expected positive sizes, got {state}")
    return found


def _read_four(layer: StoredLayer, given: Mapping[str, Tensor], storage: str | None) -> QWeight:
    (key,) = (part for part in given if part.startswith(f"weight.{_STATE}"))
    state = _parsed(given[key], key.removeprefix(f"weight.{_STATE}"))
    n, k = layer.shape
    allowed = _STORAGES if storage is None else (storage,)
    if (dtype := str(given["weight"].dtype).removeprefix("torch.")) not in allowed:
        raise ValueError(f"weight: expected {' or '.join(allowed)} (bnb_4bit_quant_storage), got {dtype}")
    codes = given["weight"].contiguous().view(torch.uint8).flatten()
    if codes.numel() != -(-n * k // 2):
        raise ValueError(f"weight: expected {-(-n * k // 2)} bytes for {[n, k]}, got {codes.numel()}")
    table = given["weight.quant_map"].float()
    if table.shape != (16,) or not torch.equal(table, _table(state.kind)):
        raise ValueError(f"weight.quant_map: expected the numbers of {state.kind}, got {table.tolist()}")
    absmax = _absmax(given, state, -(-n * k // state.blocksize))
    if not torch.isfinite(absmax).all():
        raise ValueError("weight.absmax: holds NaN or infinity")
    pairs = torch.stack([codes >> 4, codes & 15], 1).flatten()[: n * k]
    scales = along_rows(absmax, (n, k), state.blocksize)
    return QWeight(layer.format, (n, k), {"codes": pairs.view(n, k), "scales": scales})


def _absmax(given: Mapping[str, Tensor], state: _State, blocks: int) -> Tensor:
    """The scales of all blocks, float32."""
    absmax = given["weight.absmax"]
    if "weight.nested_absmax" not in given:
        check_tensor("weight.absmax", absmax, torch.float32, (blocks,))
        return absmax
    check_tensor("weight.absmax", absmax, torch.uint8, (blocks,))
    numbers, nested = given["weight.nested_quant_map"], given["weight.nested_absmax"]
    check_tensor("weight.nested_quant_map", numbers, torch.float32, (256,))
    check_tensor("weight.nested_absmax", nested, torch.float32, (-(-blocks // state.nested_blocksize),))
    spread = nested.repeat_interleave(state.nested_blocksize)[:blocks]
    return numbers[absmax.int()] * spread + state.nested_offset
