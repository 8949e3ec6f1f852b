"""What the families of ops share: what a fake kernel refuses, and how gradients are computed."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def need(ok: bool, op: str, what: str) -> None:
    """In a fake kernel: refuses what leaves the sizes of the results unknown.

    All else a fake takes as it comes: wrong arguments are refused by the core when the op runs, and its
    messages are written there alone.
    """
    torch._check(ok, lambda: f"qcore.{op}: the sizes of the result are unknown: {what}")


def bias_gradient(dy: Tensor, dtype: torch.dtype, offsets: Tensor | None = None) -> Tensor:
    """The sum of dy over all but its last dimension, or of the rows of each expert, in float32, rounded to
    `dtype`."""
    if offsets is None:
        return (dy.float().flatten(0, -2).sum(0) if dy.dim() > 1 else dy).to(dtype)
    rows = dy.float().reshape(-1, dy.shape[-1])
    sums = rows.new_zeros(offsets.shape[0] - 1, rows.shape[1])
    return sums.index_add(0, expert_of_rows(rows.shape[0], offsets), rows).to(dtype)


def input_gradient(dy: Tensor, weight: Tensor, offsets: Tensor | None) -> Tensor:
    """``dy @ weight`` in float32; with offsets each row meets its expert's part of the weight [E, N, K]."""
    if offsets is None:
        return dy.float() @ weight
    rows: Tensor = torch.ops.qcore.experts_matmul(dy.float().reshape(-1, dy.shape[-1]), weight, offsets)
    return rows.reshape(*dy.shape[:-1], weight.shape[-1])


def expert_of_rows(rows: int, offsets: Tensor) -> Tensor:
    """int64 [rows]: to which expert each row of x belongs."""
    row = torch.arange(rows, dtype=offsets.dtype, device=offsets.device)
    return torch.searchsorted(offsets, row, right=True) - 1


# An op, because which rows belong together is data that a trace does not have.
@torch.library.custom_op("qcore::experts_matmul", mutates_args=())
def _experts_matmul(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """Rows offsets[e] .. offsets[e + 1] - 1 of x [M, N] times weight[e] of [E, N, K]: [M, K]."""
    y = x.new_zeros(x.shape[0], weight.shape[2])
    for expert, (begin, end) in enumerate(pairwise(offsets.tolist())):
        if begin < end:
            y[begin:end] = x[begin:end] @ weight[expert]
    return y


@_experts_matmul.register_fake
def _(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])
