"""Reading one tensor of a layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["float_part", "part"]


def part(name: str, tensors: Mapping[str, Tensor], which: str, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the layer, in this dtype if one is given."""
    key = f"{name}.{which}"
    if key not in tensors:
        raise ValueError(f"{key}: missing from the checkpoint")
    tensor = tensors[key]
    if dtype is not None and tensor.dtype != dtype:
        raise ValueError(f"{key}: expected {dtype}, got {tensor.dtype}")
    return tensor


def float_part(name: str, tensors: Mapping[str, Tensor], which: str) -> Tensor:
    """A tensor of finite floats."""
    tensor = part(name, tensors, which)
    if not tensor.is_floating_point() or tensor.itemsize < 2:  # a code is no scale
        raise ValueError(f"{name}.{which}: expected a float dtype of 16 bits or more, got {tensor.dtype}")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name}.{which}: holds NaN or infinity")
    return tensor
