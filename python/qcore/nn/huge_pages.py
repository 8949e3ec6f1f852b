"""Where weights lie in the memory of the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from qcore import _C

__all__ = ["in_huge_pages"]


def in_huge_pages(weight: Tensor) -> Tensor:
    """The weight as a product of few rows reads it fastest: in memory that is mapped in huge pages, where the
    system grants them on request, as that of packed weights is.

    A copy, on the CPU; elsewhere, and without data (fake and meta tensors), the tensor itself.
    """
    if weight.device.type != "cpu" or type(weight) is not Tensor:
        return weight
    copy = torch.empty_like(weight, memory_format=torch.contiguous_format)
    _C.want_huge_pages(copy.data_ptr(), copy.nbytes)
    return copy.copy_(weight)
