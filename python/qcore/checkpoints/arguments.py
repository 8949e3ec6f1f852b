"""Arguments of `qcore.load` in the words that other libraries have for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["device_from", "dtype_from"]


def dtype_from(dtype: Any, torch_dtype: Any) -> torch.dtype | None:
    """The dtype that is meant; None for that which is stored.

    Args:
        dtype: float32, float16 or bfloat16, its name, "auto" or None for the stored one.
        torch_dtype: the same, as transformers called it before.
    """
    if dtype is not None and torch_dtype is not None and _dtype("dtype", dtype) != _dtype("", torch_dtype):
        raise ValueError(f"torch_dtype: is another word for dtype, which is {dtype}; got {torch_dtype}")
    return _dtype("dtype", dtype) if torch_dtype is None else _dtype("torch_dtype", torch_dtype)


def _dtype(argument: str, value: Any) -> torch.dtype | None:
    if value is None or value == "auto":
        return None
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if found not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"{argument}: expected auto, float32, float16 or bfloat16, got {value!r}")
    return found  # type: ignore[no-any-return]


def device_from(device: Any, device_map: Any) -> torch.device:
    """The device that is meant, the CPU if none is named.

    Args:
        device: a device, its name, or the number of a GPU.
        device_map: the same, or {"": device}; "auto" is the GPU if there is one. A model is not spread over
            several devices.
    """
    if device_map is None:
        return _device("device", "cpu" if device is None else device)
    if isinstance(device_map, Mapping):
        places = set(map(str, device_map.values()))
        if len(places) != 1 or "disk" in places:
            raise ValueError(f"device_map: expected one device for the whole model, got {dict(device_map)}")
        device_map = next(iter(device_map.values()))
    if device_map == "auto":
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    found = _device("device_map", device_map)
    if device is not None and _device("device", device) != found:
        raise ValueError(f"device_map: is another word for device, which is {device}; got {device_map}")
    return found


def _device(argument: str, value: Any) -> torch.device:
    if type(value) is int and value >= 0:
        value = f"cuda:{value}"
    try:
        return torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{argument}: expected a device, got {value!r}") from error
