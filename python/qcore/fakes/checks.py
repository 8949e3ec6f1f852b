"""What the checks of fake kernels share. Messages are those of the real kernels."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def expect(ok: bool, op: str, name: str, expected: str, got: Tensor) -> None:
    torch._check(
        ok,
        lambda: f"qcore.{op}: {name} must be {expected}, got {text(got)}",
    )


def text(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def expect_same_device(op: str, name: str, tensor: Tensor, with_name: str, with_: Tensor) -> None:
    """Meta tensors stand for those of any device."""
    got, expected = tensor.device, with_.device
    torch._check(
        got == expected or "meta" in (got.type, expected.type),
        lambda: f"qcore.{op}: {name} must be on {expected} like {with_name}, got {text(tensor)} on {got}",
    )


def expect_bias(op: str, bias: Tensor | None, n: int, x: Tensor) -> None:
    if bias is None:
        return
    expect(
        bias.dtype in FLOATS and bias.shape == (n,), op, "bias", f"float32, float16 or bfloat16 [{n}]", bias
    )
    expect_same_device(op, "bias", bias, "x", x)
