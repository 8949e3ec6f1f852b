"""FP8 of FBGEMM, as Meta's Llama 3.1 405B and transformers write it: `quant_method: fbgemm_fp8`.

Per layer: `weight` e4m3 [N, K]; `weight_scale` float32 [N, 1]; often `input_scale_ub`, a bound of the scales
of inputs, which are found per token.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from qcore.checkpoints.container import Header, StoredLayer
from qcore.checkpoints.float8 import Float8Container
from qcore.formats import Float8, Format

__all__ = ["FbgemmFp8"]


class FbgemmFp8(Float8Container):
    """Scales per row, inputs per token; only read."""

    method = "fbgemm_fp8"
    marks = frozenset(("input_scale_ub",))
    scales = ("weight_scale",)
    idle = ("input_scale_ub",)
    excluded = "modules_to_not_convert"

    def format_of(self, config: Mapping[str, Any], name: str) -> Format:
        return Float8("channel")

    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        found = super().layers(config, header)
        if found and (bound := config.get("activation_scale_ub")) is not None:
            warnings.warn(
                f"quantization_config.activation_scale_ub: inputs above {bound} are not clipped", stacklevel=2
            )
        return found
