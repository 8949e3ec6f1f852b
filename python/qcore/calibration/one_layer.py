"""Quantizing the weight of one layer, once the statistics of its inputs are there."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from qcore.formats import Format
from qcore.methods import InputStats, Method, Rtn
from qcore.qweight import QWeight
from qcore.schemes import is_static

__all__ = ["check_finite", "quantize_linear"]


def quantize_linear(
    name: str,
    w: Tensor,
    stats: InputStats | None,
    format: Format,
    method: Method,
    scale_dtype: torch.dtype,
) -> QWeight:
    """Quantizes the weight of one layer; errors name it.

    Args:
        scale_dtype: of the weight as it is stored. The scales are in it too, but for float64, which is more
            than any kernel or container takes.
    """
    scale_dtype = torch.float32 if scale_dtype == torch.float64 else scale_dtype
    if scale_dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"{name}.weight: expected float32, float16 or bfloat16, got {scale_dtype}")
    check_finite(name, w)
    if stats is not None and stats.tokens == 0:
        stats = None
        if is_static(format):
            raise ValueError(
                f"{name}: no calibration token reached this layer, so its inputs have no static scale; "
                f"ignore it, or choose a scheme with dynamic scales"
            )
        if method.needs_calibration:
            warnings.warn(
                f"{name}: no calibration token reached this layer; it is rounded to nearest",
                stacklevel=2,
            )
            method = Rtn(search=True)
    try:
        q = method.quantize(w, stats if method.needs_calibration else None, format, scale_dtype)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if format.activations is None or not format.activations.static:
        return q
    assert stats is not None  # see needs_calibration
    scale, zero = format.activations.static_scale(*stats.static_range(format.activations), scale_dtype)
    return q.with_inputs(scale=scale, zero=zero)


def check_finite(name: str, w: Tensor) -> None:
    """Raises if a weight is not a number somewhere."""
    if not torch.isfinite(w).all():
        raise ValueError(f"{name}.weight: holds NaN or infinity; nothing sensible can be quantized")
