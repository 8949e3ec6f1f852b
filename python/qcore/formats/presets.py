"""Named formats: each a line over elements, granularity and scales."""

from __future__ import annotations

import torch

from qcore.formats.activations import TOKEN_BLOCK, Activations
from qcore.formats.elements import ELEMENTS
from qcore.formats.granularity import BLOCK, ROW, TENSOR, group
from qcore.formats.scaled import ScaledFormat
from qcore.formats.scales import Scales

__all__ = ["INTEGER_BITS", "NF4", "Float8", "Int8", "IntGroup"]

_INTEGERS = {e.bits: e for e in ELEMENTS.values() if e.affine}
INTEGER_BITS = tuple(_INTEGERS)
_FLOAT8 = {"tensor": TENSOR, "channel": ROW, "block": BLOCK}


def IntGroup(bits: int = 4, symmetric: bool = True, group_size: int = 128) -> ScaledFormat:  # noqa: N802
    """Unsigned integers with a scale, and unless symmetric a zero point, per row and group of columns.

    Args:
        bits: one of `INTEGER_BITS`.
        symmetric: no zero points; all are `2**(bits - 1)`.
        group_size: columns per group; -1 is one group per row. The last group of a row may be shorter.
    """
    if bits not in _INTEGERS:
        raise ValueError(f"bits: expected one of {', '.join(map(str, _INTEGERS))}, got {bits}")
    return ScaledFormat(_INTEGERS[bits], group(group_size), zero_points=not symmetric)


def Int8(activations: Activations = Activations("int8")) -> ScaledFormat:  # noqa: B008, N802
    """int8 with a scale per row, multiplied as integers by inputs in int8.

    Args:
        activations: per token, or per tensor by a calibrated scale.
    """
    if not activations.is_integer:
        raise ValueError(f"activations: expected int8, got {activations}")
    return ScaledFormat(ELEMENTS["s8"], ROW, activations=activations)


def Float8(  # noqa: N802
    scales: str = "channel",
    activations: Activations | None = Activations("e4m3"),  # noqa: B008
) -> ScaledFormat:
    """e4m3 with scales, multiplied by inputs in e4m3, or by inputs as they are.

    Args:
        scales: "tensor", "channel" (a row) or "block" (128 x 128).
        activations: how inputs are rounded to e4m3; None: they are not. Blocks of the weight and blocks of
            the inputs come together.
    """
    if scales not in _FLOAT8:
        raise ValueError(f"scales: expected one of {', '.join(_FLOAT8)}, got {scales!r}")
    if (scales == "block") != (activations is not None and activations.granularity == TOKEN_BLOCK):
        raise ValueError(
            f"activations: expected per block exactly when the weight's scales are, got {activations} with "
            f"scales per {scales}"
        )
    if activations is not None and activations.is_integer:
        raise ValueError(f"activations: expected e4m3, got {activations}")
    return ScaledFormat(ELEMENTS["e4m3"], _FLOAT8[scales], activations=activations)


# QLoRA's 4-bit NormalFloat as bitsandbytes has it: the largest magnitude of 64 columns, in float32.
NF4 = ScaledFormat(ELEMENTS["nf4"], group(64), Scales(torch.float32))
