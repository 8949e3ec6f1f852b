"""`int-quantized` and `float-quantized`: 8-bit codes as they are, for layers that may round their inputs too.

Per layer: `weight` int8 or float8_e4m3fn [N, K]; `weight_scale` [1], [N, 1] or one per 128 x 128 block; for
static activations `input_scale` [1], and `input_zero_point` int8 [1] if they are asymmetric.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from qcore.checkpoints.compressed_tensors.common import float_part, part
from qcore.checkpoints.container import naming
from qcore.formats import BLOCK, ELEMENTS, ROW, Format
from qcore.qweight import Inputs, QWeight

__all__ = ["PARTS", "from_tensors", "parts", "to_tensors", "why_not"]

PARTS = ("weight", "weight_scale", "weight_zero_point", "input_scale", "input_zero_point")


def why_not(format: Format, k: int) -> str | None:
    """Why blocks of the format do not fit K columns; None if they do."""
    by_block = format.scaled is not None and format.scaled.granularity == BLOCK
    if not by_block or k % BLOCK.columns == 0:
        return None
    return (
        f"blocks of {BLOCK.columns} do not divide its {k} input features, which compressed-tensors requires "
        f"of inputs; choose another scheme, or ignore this layer"
    )


def parts(format: Format) -> tuple[list[str], list[str]]:
    """The parts that a layer must have, and those that it may have."""
    required, inputs = ["weight", "weight_scale"], format.activations
    optional = ["weight_zero_point"]
    if inputs is not None and inputs.static:
        required += ["input_scale"] if inputs.symmetric else ["input_scale", "input_zero_point"]
        optional += ["input_zero_point"] if inputs.symmetric else []
    return required, optional


def to_tensors(name: str, weight: QWeight) -> dict[str, Tensor]:
    """The stored tensors of one layer."""
    tensors = {
        f"{name}.weight": weight.tensors["codes"].contiguous(),
        f"{name}.weight_scale": weight.tensors["scales"].contiguous(),
    }
    inputs = weight.format.activations
    if inputs is not None and inputs.static:
        if weight.inputs.scale is None:
            raise ValueError(f"{name}: has no static input scale; quantize it with calibration data")
        tensors[f"{name}.input_scale"] = weight.inputs.scale
        if weight.inputs.zero is not None:
            tensors[f"{name}.input_zero_point"] = weight.inputs.zero.to(torch.int8)
    return tensors


def from_tensors(
    name: str,
    tensors: Mapping[str, Tensor],
    format: Format,
    scale: str = "weight_scale",
    input_scale: str = "input_scale",
) -> QWeight:
    """The layer's weight. Writers differ in the shapes of scales; they are brought to ours.

    Args:
        scale: what its scales are called, where another container has the same tensors.
        input_scale: and the static scale of its inputs.
    """
    assert format.scaled is not None  # see read_formats
    elements, granularity = format.scaled.elements, format.scaled.granularity
    codes = part(name, tensors, "weight", elements.dtype).contiguous()
    if codes.dim() != 2:
        raise ValueError(f"{name}.weight: expected [N, K], got shape {tuple(codes.shape)}")
    if elements == ELEMENTS["e4m3"] and bool((codes.view(torch.uint8) & 0x7F == 0x7F).any()):
        raise ValueError(f"{name}.weight: holds NaN")
    n, k = codes.shape
    scales = float_part(name, tensors, scale)
    if elements == ELEMENTS["s8"] and scales.numel() == 1:  # one for all rows
        scales = scales.reshape(1, 1).expand(n, 1).contiguous()
    elif scales.numel() == 1 == prod(granularity.shape(n, k)):
        scales = scales.reshape(granularity.shape(n, k))
    elif granularity == ROW and tuple(scales.shape) == (n,):
        scales = scales.reshape(n, 1)
    expected = granularity.shape(n, k)
    if tuple(scales.shape) != expected and scale != "weight_scale":  # that QWeight says by itself
        raise ValueError(
            f"{name}.{scale}: expected {list(expected)} ({granularity}) for a weight {[n, k]}, got "
            f"{list(scales.shape)}"
        )
    _expect_zero(name, tensors, "weight_zero_point")
    inputs = _inputs(name, tensors, format, input_scale)
    with naming(name):
        return QWeight(format, (n, k), {"codes": codes, "scales": scales}, inputs)


def _inputs(name: str, tensors: Mapping[str, Tensor], format: Format, which: str) -> Inputs:
    """The static scale and zero point of the layer's inputs."""
    inputs = format.activations
    if inputs is None or not inputs.static:
        return Inputs()
    scale = float_part(name, tensors, which)
    if scale.numel() != 1 or float(scale) <= 0:
        raise ValueError(f"{name}.{which}: expected one positive number, got {scale.tolist()}")
    if inputs.symmetric:
        _expect_zero(name, tensors, "input_zero_point")
        return Inputs(scale=scale.reshape(1))
    zero = part(name, tensors, "input_zero_point")
    if zero.numel() != 1 or zero.is_floating_point() or not -128 <= int(zero) <= 127:
        raise ValueError(f"{name}.input_zero_point: expected one int8, got {zero.dtype} {zero.tolist()}")
    return Inputs(scale=scale.reshape(1), zero=zero.reshape(1).to(torch.int32))


def _expect_zero(name: str, tensors: Mapping[str, Tensor], which: str) -> None:
    """Symmetric layers may carry zero points, but they must be zero."""
    zero = tensors.get(f"{name}.{which}")
    if zero is not None and bool((zero.float() != 0).any()):
        raise ValueError(f"{name}.{which}: expected zeros, because quantization_config says symmetric")
