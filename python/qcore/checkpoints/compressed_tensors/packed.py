"""`pack-quantized`: codes of 2 to 8 bits in int32 words.

Per layer: `weight_packed` int32 [N, ceil(K * bits / 32)], `weight_scale` [N, G], `weight_shape` [2],
and for asymmetric weights `weight_zero_point` int32 [ceil(N * bits / 32), G], packed along N. Their
codes are signed; packing adds 2**(bits - 1), so that the stored bits are the unsigned codes of `QWeight`.
In activation order `weight_g_idx` [K] gives the group of each column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qcore.checkpoints.bits import pack_int32
from qcore.checkpoints.compressed_tensors.common import float_part, part
from qcore.checkpoints.container import naming
from qcore.checkpoints.words import (
    FLOATS,
    Words,
    check_devices,
    check_tensor,
    groups_of,
    needed_zeros,
    permutation_of,
    stored_order,
    unpack_padded,
    words_for,
)
from qcore.formats import Format, ScaledFormat
from qcore.qweight import QWeight

__all__ = ["PARTS", "from_tensors", "parse", "parts", "to_tensors", "why_not"]

PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")


def why_not(format: Format, k: int) -> str | None:
    """Why groups of the format do not fit K columns; None if they do."""
    group_size = _scaled(format).group_size
    if group_size == -1 or k % group_size == 0:
        return None
    fitting = [g for g in (256, 128, 96, 64, 48, 32, 16) if k % g == 0]
    hint = f" (of the usual ones, {', '.join(map(str, fitting))} fit)" if fitting else ""
    return (
        f"group_size {group_size} does not divide its {k} input features, which compressed-tensors "
        f"requires{hint}; choose another group_size, -1 for one group per row, or ignore this layer"
    )


def parts(format: Format) -> tuple[list[str], list[str]]:
    """The parts that a layer must have, and those that it may have."""
    zeros = ["weight_zero_point"]
    required, optional = ["weight_packed", "weight_scale", "weight_shape"], ["weight_g_idx"]
    return (required, zeros + optional) if _scaled(format).symmetric else (required + zeros, optional)


def to_tensors(name: str, weight: QWeight) -> dict[str, Tensor]:
    """The stored tensors of one layer."""
    format = _scaled(weight.format)
    tensors = {
        f"{name}.weight_scale": weight.tensors["scales"].contiguous(),
        f"{name}.weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    codes, g_idx = stored_order(weight)
    if weight.inputs.permutation is not None:
        tensors[f"{name}.weight_g_idx"] = g_idx
    tensors[f"{name}.weight_packed"] = pack_int32(codes, format.bits)
    if (zeros := weight.tensors.get("zeros")) is not None:
        tensors[f"{name}.weight_zero_point"] = pack_int32(zeros.T.contiguous(), format.bits).T.contiguous()
    return tensors


def from_tensors(name: str, tensors: Mapping[str, Tensor], format: Format) -> QWeight:
    """The layer's weight, from its tensors."""
    scaled = _scaled(format)
    zeros = tensors.get(f"{name}.weight_zero_point")  # symmetric layers may have them too
    if not scaled.symmetric:
        zeros = part(name, tensors, "weight_zero_point", torch.int32)
    shape = [int(size) for size in part(name, tensors, "weight_shape")]
    scale = float_part(name, tensors, "weight_scale")
    if scale.numel() == 1 and zeros is None and scaled.group_size == -1:  # one for the whole weight
        scale = scale.reshape(1, 1).expand(shape[0], 1).contiguous()
    with naming(name, PARTS):
        return parse(
            part(name, tensors, "weight_packed", torch.int32),
            scale,
            zeros,
            shape,
            tensors.get(f"{name}.weight_g_idx"),
            bits=scaled.bits,
            group_size=scaled.group_size,
            symmetric=scaled.symmetric,
        ).qweight()


def parse(
    weight_packed: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor | None,
    weight_shape: Tensor | Sequence[int],
    weight_g_idx: Tensor | None = None,
    *,
    bits: int,
    group_size: int,
    symmetric: bool | None = None,
) -> Words:
    """One layer; see `qcore.repack.from_compressed_tensors` for the arguments."""
    n, k = (int(size) for size in weight_shape)
    width, groups = groups_of(k, group_size)
    check_tensor("weight_packed", weight_packed, torch.int32, (n, None))
    dense = weight_packed.shape[1] != -(-k // (32 // bits)) or weight_packed.shape[1] == words_for(k, bits)
    if dense:
        check_tensor("weight_packed", weight_packed, torch.int32, (n, words_for(k, bits)))
    check_tensor("weight_scale", weight_scale, FLOATS, (n, groups))
    check_devices(
        weight_packed=weight_packed,
        weight_scale=weight_scale,
        weight_zero_point=weight_zero_point,
        weight_g_idx=weight_g_idx,
    )
    zeros = None
    if weight_zero_point is not None:
        check_tensor("weight_zero_point", weight_zero_point, torch.int32, (None, groups))
        zeros = unpack_padded("weight_zero_point", weight_zero_point.t(), bits, n, dense).t()
    zeros = needed_zeros("weight_zero_point", zeros, bits, symmetric)
    if weight_g_idx is not None and bool((weight_g_idx == -1).any()):  # its value before it is set
        weight_g_idx = None
    permutation = permutation_of("weight_g_idx", weight_g_idx, k, width)
    words = weight_packed if dense else unpack_padded("weight_packed", weight_packed, bits, k, dense)
    return Words(words, "compressed_tensors", (n, k), bits, group_size, weight_scale, zeros, permutation)


def _scaled(format: Format) -> ScaledFormat:
    assert format.scaled is not None  # see CompressedTensors.why_not
    return format.scaled
