"""Scales as they are stored."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["storable_scale"]


def storable_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to the stored dtype, as float32; 1 where there were only zeros, never 0 and never infinite."""
    limits = torch.finfo(dtype)
    # float16 has few exponents: a subnormal scale with some bits left beats one that is too large.
    least = 2.0**-20 if dtype == torch.float16 else limits.smallest_normal
    stored = scale.clamp(least, limits.max).to(dtype).float()
    return torch.where(scale > 0, stored, torch.ones_like(stored))
