"""`pack-quantized`: codes of 2 to 8 bits in int32 words.

Per layer: `weight_packed` int32 [N, ceil(K * bits / 32)], `weight_scale` [N, G], `weight_shape` [2],
and for asymmetric weights `weight_zero_point` int32 [ceil(N * bits / 32), G], packed along N. Their
codes are signed; packing adds 2**(bits - 1), so that the stored bits are the unsigned codes of `QWeight`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qcore.formats import IntGroup
from qcore.io.bits import pack_int32, unpack_int32
from qcore.io.compressed_tensors.common import float_part, part
from qcore.qweight import QWeight

__all__ = ["PARTS", "check_exportable", "from_tensors", "to_tensors"]

PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")


def check_exportable(name: str, k: int, format: IntGroup) -> None:
    """Raises if groups of the format do not fit K columns."""
    if format.group_size != -1 and k % format.group_size:
        fitting = [g for g in (256, 128, 96, 64, 48, 32, 16) if k % g == 0]
        hint = f" (of the usual ones, {', '.join(map(str, fitting))} fit)" if fitting else ""
        raise ValueError(
            f"{name}.weight: group_size {format.group_size} does not divide its {k} input features, "
            f"which compressed-tensors requires{hint}; choose another group_size, -1 for one group "
            f"per row, or ignore this layer"
        )


def to_tensors(name: str, weight: QWeight) -> dict[str, Tensor]:
    """The stored tensors of one layer."""
    assert isinstance(weight.format, IntGroup)
    bits = weight.format.bits
    tensors = {
        f"{name}.weight_packed": pack_int32(weight.tensors["codes"], bits),
        f"{name}.weight_scale": weight.tensors["scales"].contiguous(),
        f"{name}.weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    if (zeros := weight.tensors.get("zeros")) is not None:
        tensors[f"{name}.weight_zero_point"] = pack_int32(zeros.T.contiguous(), bits).T.contiguous()
    return tensors


def from_tensors(name: str, tensors: Mapping[str, Tensor], format: IntGroup) -> QWeight:
    """The layer's weight, from the tensors named by `parts`."""
    n, k = (int(size) for size in part(name, tensors, "weight_shape"))
    packed, scales = (
        part(name, tensors, "weight_packed", torch.int32),
        float_part(name, tensors, "weight_scale"),
    )
    words = -(-k * format.bits // 32)
    if tuple(packed.shape) != (n, words):
        raise ValueError(
            f"{name}.weight_packed: expected shape {(n, words)} for {format.bits}-bit codes of "
            f"{(n, k)}, got {tuple(packed.shape)}"
        )
    stored_weight = {"codes": unpack_int32(packed, format.bits, k), "scales": scales}
    if not format.symmetric:
        stored = part(name, tensors, "weight_zero_point", torch.int32)
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
