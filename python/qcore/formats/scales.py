"""Scales as they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SCALE_DTYPES", "Scales", "StoredScale", "storable_scale"]

SCALE_DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e8m0fnu,
)  # fmt: skip


@dataclass(frozen=True)
class Scales:
    """How the scales of a format are stored.

    Attributes:
        dtype: float32, float16, bfloat16, float8_e4m3fn or float8_e8m0fnu (powers of two); None: that in
            which the weight itself was stored.
        second_level: stored scales are relative to one float32 scale of the whole weight (NVFP4).
        zeros: how zero points are stored: uint8, whole codes; or float32, anything between them (HQQ).
    """

    dtype: torch.dtype | None = None
    second_level: bool = False
    zeros: torch.dtype = torch.uint8

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in SCALE_DTYPES:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in SCALE_DTYPES)
            raise ValueError(f"scales.dtype: expected None or one of {names}, got {self.dtype}")
        if self.zeros not in (torch.uint8, torch.float32):
            raise ValueError(f"scales.zeros: expected uint8 or float32, got {self.zeros}")

    def rule(self, greatest: Tensor, dtype: torch.dtype) -> StoredScale:
        """How the scales of one weight are rounded.

        Args:
            greatest: the largest of them, a float32 scalar.
            dtype: of the weight, for scales that are stored as it is.
        """
        dtype = self.dtype or dtype
        if not self.second_level:
            return StoredScale(dtype)
        most = torch.finfo(dtype).max
        return StoredScale(dtype, storable_scale((greatest / most).reshape(1), torch.float32))

    def check(self, scales: Tensor, second: Tensor | None) -> None:
        """Raises, naming the tensor, if these are not stored so."""
        if not scales.is_floating_point():
            raise TypeError(f"scales: expected floats, got {scales.dtype}")
        if self.dtype is not None and scales.dtype != self.dtype:
            raise TypeError(f"scales: expected {self.dtype}, got {scales.dtype}")
        if self.second_level != (second is not None):
            raise ValueError("second_scale: expected None exactly when the format has one level of scales")
        if second is not None and (second.dtype != torch.float32 or second.numel() != 1):
            raise ValueError(f"second_scale: expected float32 [1], got {second.dtype} {list(second.shape)}")


@dataclass(frozen=True)
class StoredScale:
    """Rounds scales to what can be stored.

    Attributes:
        dtype: of the stored scales.
        second: float32 [1], by which they are multiplied, or None.
    """

    dtype: torch.dtype
    second: Tensor | None = None

    def storable(self, scale: Tensor) -> Tensor:
        """The nearest scale that can be stored, float32."""
        if self.second is None:
            return storable_scale(scale, self.dtype)
        return storable_scale(scale / self.second, self.dtype) * self.second

    def stored(self, scale: Tensor) -> Tensor:
        """A storable scale in its dtype."""
        return (scale if self.second is None else scale / self.second).to(self.dtype)


def storable_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to the stored dtype, as float32; 1 where there were only zeros, never 0 and never infinite."""
    limits = torch.finfo(dtype)
    # float16 and e4m3 have few exponents: a subnormal scale with some bits left beats one that is too large.
    least = {torch.float16: 2.0**-20, torch.float8_e4m3fn: 2.0**-9}.get(dtype, limits.smallest_normal)
    stored = scale.clamp(least, limits.max).to(dtype).float()
    return torch.where(scale > 0, stored, torch.ones_like(stored))
