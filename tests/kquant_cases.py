"""Weights of blocks and the fp64 products that they are compared with, for the tests of ``kquant_*``."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np
import torch
from gguf import quants
from torch import Tensor

from cases import HALF_ULP
from qcore import ops

INFO = {block["name"]: block for block in ops.block_formats()}
TYPES = tuple(INFO)


@dataclass(frozen=True)
class BlockWeight:
    type: str
    n: int
    k: int
    blocks: Tensor  # uint8 [n, ...]
    dense: Tensor  # float64 [n, k], by the Python package gguf

    def arguments(self) -> tuple[str, int, int]:
        return self.type, self.n, self.k

    def pack(self) -> Tensor:
        return ops.kquant_pack(self.blocks, self.type, self.k)


def block_weight(type: str, n: int, blocks_per_row: int, seed: int = 0) -> BlockWeight:
    """Quantized from numbers with a shift, so that formats with minima use them."""
    k = blocks_per_row * INFO[type]["elements"]
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.05 + 0.01
    blocks = ops.kquant_quantize(w, type)
    dense = quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[type]).astype(np.float64)
    return BlockWeight(type, n, k, blocks, torch.from_numpy(dense).view(n, k))


def in_eight_bits(x: Tensor, type: str) -> Tensor:
    """float64: x as the CPU kernels multiply it, rounded block by block."""
    wide = x.float().unflatten(-1, (-1, INFO[type]["elements"]))
    most = wide.abs().amax(-1, keepdim=True)
    inverse = torch.full_like(most, 127) / most  # 127 / most would be rounded twice
    codes = torch.round(wide * torch.where(most > 0, inverse, 0))
    return (codes.double() * (most.double() / 127)).flatten(-2)


def assert_product(
    y: Tensor, x: Tensor, weight: BlockWeight, bias: Tensor | None = None, floats: bool = False
) -> None:
    """y is x @ weight.T + bias up to float32 sums and one rounding to the dtype of x."""
    assert y.dtype == x.dtype
    assert y.shape == (*x.shape[:-1], weight.n)
    if y.numel() == 0:
        return
    used = x.double() if floats else in_eight_bits(x, weight.type)
    add = torch.zeros(()).double() if bias is None else bias.to(x.dtype).double()
    expected = used @ weight.dense.T + add
    # A minimum cancels a part of what the codes give, so errors are relative to both.
    magnitude = used.abs() @ (weight.dense.abs() + 4 * weight.dense.abs().amax()).T + add.abs()
    bound = 4e-6 * magnitude + 1.01 * HALF_ULP[x.dtype] * expected.abs()
    excess = ((y.double() - expected).abs() - bound).max().item()
    assert excess <= 0, f"off by {excess:.3g} more than allowed"
