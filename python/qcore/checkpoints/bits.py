"""Dense little-endian bit streams in int32 words, as compressed-tensors stores codes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pack_int32", "unpack_int32"]

# 32 codes fill exactly `bits` words; everything works on such runs.
_RUN = 32


def pack_int32(codes: Tensor, bits: int) -> Tensor:
    """Packs codes uint8 [R, C] along their rows: int32 [R, ceil(C * bits / 32)]."""
    rows, columns = codes.shape
    runs = -(-columns // _RUN)
    padded = torch.nn.functional.pad(codes, (0, runs * _RUN - columns)).view(rows, runs, _RUN)
    words = torch.zeros(rows, runs, bits, dtype=torch.int64, device=codes.device)
    for i in range(_RUN):
        word, shift = divmod(i * bits, 32)
        value = padded[:, :, i].long() << shift
        words[:, :, word] |= value & 0xFFFFFFFF
        if shift + bits > 32:  # the code straddles two words
            words[:, :, word + 1] |= value >> 32
    # int64 -> int32 keeps the low 32 bits.
    return words.to(torch.int32).view(rows, runs * bits)[:, : -(-columns * bits // 32)].contiguous()


def unpack_int32(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The codes uint8 [R, columns] of what `pack_int32` made."""
    rows, width = packed.shape
    if width != -(-columns * bits // 32):
        raise ValueError(
            f"packed: expected {-(-columns * bits // 32)} words for {columns} codes, got {width}"
        )
    runs = -(-columns // _RUN)
    words = torch.nn.functional.pad(packed, (0, runs * bits - packed.shape[1]))
    words = words.view(rows, runs, bits).long() & 0xFFFFFFFF
    codes = torch.empty(rows, runs, _RUN, dtype=torch.uint8, device=packed.device)
    for i in range(_RUN):
        word, shift = divmod(i * bits, 32)
        value = words[:, :, word] >> shift
        if shift + bits > 32:
            value |= words[:, :, word + 1] << (32 - shift)
        codes[:, :, i] = (value & ((1 << bits) - 1)).to(torch.uint8)
    return codes.view(rows, runs * _RUN)[:, :columns].contiguous()
