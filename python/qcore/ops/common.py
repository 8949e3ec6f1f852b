"""What the families of ops share: what a fake kernel refuses, and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def need(ok: bool, op: str, what: str) -> None:
    """In a fake kernel: refuses what leaves the sizes of the results unknown.

    All else a fake takes as it comes: wrong arguments are refused by the core when the op runs, and its
    messages are written there alone.
    """
    torch._check(ok, lambda: f"qcore.{op}: the sizes of the result are unknown: {what}")


def bias_gradient(dy: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of dy over all but its last dimension, in float32, rounded to `dtype`."""
    return (dy.float().flatten(0, -2).sum(0) if dy.dim() > 1 else dy).to(dtype)


def refuse_gradients(op: str, instead: str) -> None:
    """Makes a backward pass through an op that rounds an error, which says what to do instead."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"qcore.{op}: has no gradients, because it rounds: {instead}")

    torch.library.register_autograd(f"qcore::{op}", backward)
