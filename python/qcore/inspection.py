"""What a checkpoint holds."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from qcore.formats import Float8, Format, Int8, IntGroup
from qcore.io import compressed_tensors as ct
from qcore.io.checkpoint import Checkpoint
from qcore.io.gguf import GgufFile, is_gguf

__all__ = ["Row", "inspect_checkpoint"]

# Bits of an element, by the names of safetensors.
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One weight: a tensor, or the tensors that store a quantized layer together.

    Attributes:
        format: a dtype, or e.g. "int4 g128 asym", "int8 per row, inputs int8 dynamic per token".
        shape: of the weight, [N, K] if quantized.
        bytes: of all its tensors.
    """

    tensor: str
    format: str
    shape: tuple[int, ...]
    weights: int
    bits_per_weight: float
    bytes: int


def inspect_checkpoint(path: str | os.PathLike[str]) -> list[Row]:
    """One row per weight, in the order of the names (in that of the file for a GGUF file)."""
    if is_gguf(path):
        tensors = GgufFile(path).tensors.values()
        return [_row(t.name, t.type.name, t.shape, t.nbytes) for t in tensors]
    checkpoint = Checkpoint(path)
    stored = checkpoint.config.get("quantization_config")
    formats = ct.read_formats(stored, checkpoint) if stored else {}
    rows, parts = [], set()
    for name, format in formats.items():
        keys = ct.parts(name, checkpoint)
        parts.update(keys)
        size = sum(_bytes(checkpoint, key) for key in keys)
        rows.append(_row(f"{name}.weight", _label(format), ct.shape_of(name, checkpoint), size))
    for name in checkpoint:
        if name not in parts:
            label = checkpoint.dtype(name)
            rows.append(_row(name, label, checkpoint.shape(name), _bytes(checkpoint, name)))
    return sorted(rows, key=lambda row: _natural(row.tensor))


def _label(format: Format) -> str:
    if isinstance(format, IntGroup):
        group = "per row" if format.group_size == -1 else f"g{format.group_size}"
        return f"int{format.bits} {group} {'sym' if format.symmetric else 'asym'}"
    kind = "int8 per row" if isinstance(format, Int8) else "e4m3"
    if isinstance(format, Float8):
        kind += {"tensor": " per tensor", "channel": " per row", "block": " 128x128"}[format.scales]
    return kind if format.activations is None else f"{kind}, inputs {format.activations}"


def _row(name: str, label: str, shape: tuple[int, ...], size: int) -> Row:
    weights = math.prod(shape)
    return Row(name, label, shape, weights, 8 * size / max(weights, 1), size)


def _bytes(checkpoint: Checkpoint, name: str) -> int:
    return math.prod(checkpoint.shape(name)) * _BITS[checkpoint.dtype(name)] // 8


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layers.2 before layers.10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in name.split(".")]
