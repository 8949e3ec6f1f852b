"""`int-quantized` and `naive-quantized` for weights alone: integer codes of 2 to 8 bits, each in an int8.

Per layer: `weight` int8 [N, K], signed; `weight_scale` [N, G] or one number; for asymmetric weights
`weight_zero_point` int8 [N, G]. `QWeight` has the same codes with 2**(bits - 1) added. Only read: packed they
are smaller.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qcore.checkpoints.compressed_tensors.common import float_part, part
from qcore.checkpoints.container import naming
from qcore.checkpoints.words import check_tensor, needed_zeros, signed_codes
from qcore.formats import Format
from qcore.qweight import QWeight

__all__ = ["from_tensors", "parts"]


def parts(format: Format) -> tuple[list[str], list[str]]:
    """The parts that a layer must have, and those that it may have."""
    assert format.scaled is not None  # see read_formats
    required, zeros = ["weight", "weight_scale"], ["weight_zero_point"]
    return (required, zeros) if format.scaled.symmetric else (required + zeros, [])


def from_tensors(name: str, tensors: Mapping[str, Tensor], format: Format) -> QWeight:
    """The layer's weight, from its tensors."""
    scaled = format.scaled
    assert scaled is not None  # see read_formats
    codes, scales = part(name, tensors, "weight", torch.int8), float_part(name, tensors, "weight_scale")
    zeros = tensors.get(f"{name}.weight_zero_point")
    with naming(name, ("weight", "weight_scale", "weight_zero_point")):
        check_tensor("weight", codes, torch.int8, (None, None))
        n, k = codes.shape
        expected = scaled.granularity.shape(n, k)
        scales = scales.expand(expected) if scales.numel() == 1 else scales
        check_tensor("weight_scale", scales, None, expected)
        stored = {"codes": signed_codes("weight", codes, scaled.bits), "scales": scales.contiguous()}
        if zeros is not None:
            zeros = zeros.expand(expected) if zeros.numel() == 1 else zeros
            check_tensor("weight_zero_point", zeros, torch.int8, expected)
            unsigned = signed_codes("weight_zero_point", zeros, scaled.bits)
            kept = needed_zeros("weight_zero_point", unsigned, scaled.bits, scaled.symmetric)
            stored |= {} if kept is None else {"zeros": kept.contiguous()}
        return QWeight(format, (n, k), stored)
