"""FP8 of NVIDIA's ModelOpt: `quant_method: modelopt`, or in older folders only `hf_quant_config.json`.

Per layer, by `quant_algo`: `weight` e4m3 [N, K], and `weight_scale`: for FP8 one number, with `input_scale`
another; for FP8_PER_CHANNEL_PER_TOKEN one per row; for FP8_PB_WO, whose inputs stay as they are, one per
block of 128 x 128.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from qcore.checkpoints.container import QWeightInfo, StoredLayer
from qcore.checkpoints.fields import RULES, TEXT
from qcore.checkpoints.float8 import Float8Container
from qcore.formats import BLOCK, ELEMENTS, Activations, Float8, Format, ScaledFormat
from qcore.qweight import QWeight

__all__ = ["ModelOpt"]

_ALGORITHMS: dict[str, Format] = {
    "FP8": Float8("tensor", Activations("e4m3", "tensor")),
    "FP8_PER_CHANNEL_PER_TOKEN": Float8("channel"),
    "FP8_PB_WO": ScaledFormat(ELEMENTS["e4m3"], BLOCK),
}
# Those that its writer gives to Hugging Face folders, and readers take.
_WRITTEN = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")


class ModelOpt(Float8Container):
    """FP8, and per channel and token, read and written; blocks read. Scales of a key-value cache are left."""

    method = "modelopt"
    twin = "hf_quant_config.json"
    marks = frozenset(("weight_scale",))
    scales = ("weight_scale",)
    input_scales = ("input_scale",)
    asked = MappingProxyType({"quant_algo": TEXT, "quantized_layers": RULES})
    excluded = "ignore"

    def format_of(self, config: Mapping[str, Any], name: str) -> Format:
        given = config.get("quant_algo")
        if given == "MIXED_PRECISION":
            given = ((config.get("quantized_layers") or {}).get(name) or {}).get("quant_algo")
        if str(given).upper() not in _ALGORITHMS:
            raise ValueError(
                f"quant_algo: expected one of {', '.join(_ALGORITHMS)} for {name}, got {given!r}"
            )
        return _ALGORITHMS[str(given).upper()]

    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        key = f"{layer.name}.weight_scale"
        if key in tensors and tensors[key].dim() == 4:  # [bands, 1, groups, 1]
            tensors = {**tensors, key: tensors[key][:, 0, :, 0]}
        return super().read(layer, config, tensors)

    def from_twin(self, content: Mapping[str, Any]) -> dict[str, Any]:
        stored = content.get("quantization")
        if not isinstance(stored, Mapping):
            raise ValueError(f"{self.twin}: quantization: expected an object, got {stored!r}")
        return {"quant_method": self.method, **stored, self.excluded: stored.get("exclude_modules") or []}

    def to_twin(self, config: Mapping[str, Any]) -> dict[str, Any]:
        stored = {"quant_algo": config["quant_algo"], "kv_cache_quant_algo": None}
        stored["exclude_modules"] = config[self.excluded]
        return {"producer": config["producer"], "quantization": stored}

    def why_not(self, format: Format, k: int | None = None) -> str | None:
        stored = [_ALGORITHMS[name] for name in _WRITTEN]
        if format in stored:
            return None
        return f"{self.method} has no format {format}; it stores {' and '.join(map(str, stored))}"

    def write(self, name: str, weight: QWeight) -> dict[str, Tensor]:
        tensors = super().write(name, weight)
        key = f"{name}.weight_scale"
        return {**tensors, key: tensors[key].squeeze().float()}  # a number, or one per row

    def config(self, weights: Mapping[str, QWeightInfo], linears: Collection[str]) -> dict[str, Any]:
        algorithms = {next(a for a in _WRITTEN if _ALGORITHMS[a] == w.format) for w in weights.values()}
        if len(algorithms) != 1:
            raise ValueError(f"{self.method}: expected one format for all layers, got {sorted(algorithms)}")
        return {
            "quant_method": self.method,
            "quant_algo": algorithms.pop(),
            self.excluded: [name for name in linears if name not in weights],
            "producer": {"name": self.method},
        }
