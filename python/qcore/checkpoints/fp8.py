"""Fine-grained FP8, as DeepSeek, Qwen3-FP8, MiniMax and transformers write it: `quant_method: fp8`.

Per layer: `weight` e4m3 [N, K]; `weight_scale_inv`, by which it is multiplied for all its name says: one per
block of 128 x 128, or one in all where `weight_block_size` is null; with `activation_scheme: static`
`activation_scale`, one number. Without blocks vLLM and AutoFP8 call them `weight_scale` and `input_scale`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from qcore.checkpoints.compressed_tensors import plain
from qcore.checkpoints.container import QWeightInfo
from qcore.checkpoints.fields import TEXT
from qcore.checkpoints.float8 import Float8Container
from qcore.formats import BLOCK, Activations, Float8, Format

__all__ = ["FineGrainedFp8"]

_BLOCK = Float8("block", Activations("e4m3", "block"))


class FineGrainedFp8(Float8Container):
    """Blocks of 128 x 128, read and written; one scale for a weight, read. Scales that are stored as powers
    of two (e8m0) become float32."""

    method = "fp8"
    marks = frozenset(("weight_scale_inv", "activation_scale"))
    scales = ("weight_scale_inv", "weight_scale")
    input_scales = ("activation_scale", "input_scale")
    powers = True
    asked = MappingProxyType({"fmt": TEXT, "activation_scheme": TEXT})
    excluded = "modules_to_not_convert"

    def format_of(self, config: Mapping[str, Any], name: str) -> Format:
        kind, scheme = config.get("fmt") or "e4m3", config.get("activation_scheme") or "dynamic"
        if kind != "e4m3":
            raise ValueError(f"fmt: expected 'e4m3', got {kind!r}")
        if scheme not in ("dynamic", "static"):
            raise ValueError(f"activation_scheme: expected 'dynamic' or 'static', got {scheme!r}")
        size = config.get("weight_block_size")
        if size is None:
            return Float8("tensor", Activations("e4m3", "tensor" if scheme == "static" else "token"))
        if not isinstance(size, (list, tuple)) or tuple(size) != (BLOCK.rows, BLOCK.columns):
            raise ValueError(f"weight_block_size: expected [128, 128] or null, got {size!r}")
        if scheme != "dynamic":
            raise ValueError(f"activation_scheme: expected 'dynamic' with blocks, got {scheme!r}")
        return _BLOCK

    def why_not(self, format: Format, k: int | None = None) -> str | None:
        if format != _BLOCK:
            return f"{self.method} has no format {format}; it stores {_BLOCK}"
        return None if k is None else plain.why_not(format, k)

    def config(self, weights: Mapping[str, QWeightInfo], linears: Collection[str]) -> dict[str, Any]:
        return {
            "quant_method": self.method,
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [BLOCK.rows, BLOCK.columns],
            self.excluded: [name for name in linears if name not in weights],
        }
