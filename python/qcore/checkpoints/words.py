"""Integer codes in the int32 words of somebody else's checkpoint: checked once, then decoded or packed.

GPTQ, AWQ and compressed-tensors store the same things in different orders. Their parsers end in a `Words`,
which becomes a `QWeight`, or, without a tensor of codes in between, what the kernels read.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from qcore.checkpoints.bits import pack_int32, unpack_int32
from qcore.formats import IntGroup
from qcore.ops import PackedW4A16, w4a16_pack, w4a16_repack
from qcore.qweight import Inputs, QWeight

__all__ = [
    "FLOATS",
    "Words",
    "along_rows",
    "awq_columns",
    "awq_words",
    "check_bits",
    "check_devices",
    "check_tensor",
    "groups_of",
    "needed_zeros",
    "permutation_of",
    "signed_codes",
    "stored_order",
    "unpack_padded",
    "words_for",
]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Words:
    """A weight [N, K] of unsigned integer codes.

    Attributes:
        words: int32, in one of the orders of `qcore.ops.w4a16_repack`; or codes, uint8 [N, K], if they had to
            be decoded already.
        order: gptq, awq or compressed_tensors.
        shape: N and K.
        group_size: as the checkpoint says it, -1 for one group per row.
        scales: [N, G].
        zeros: uint8 [N, G], or None if the weight is symmetric.
        permutation: int32 [K] or None: column j of the product is column `permutation[j]` of the words
            (activation order); scales and zeros belong to the former.
    """

    words: Tensor
    order: str
    shape: tuple[int, int]
    bits: int
    group_size: int
    scales: Tensor
    zeros: Tensor | None
    permutation: Tensor | None = None

    @property
    def width(self) -> int:
        """Columns of a group."""
        return self.shape[1] if self.group_size == -1 else self.group_size

    def pack(self) -> PackedW4A16:
        """The weight as the kernels of its device read it, its columns in order of their groups."""
        if self.words.dtype == torch.uint8:
            return w4a16_pack(self._ordered(self.words), self.scales, self.zeros, self.width, self.bits)
        n, k = self.shape
        return w4a16_repack(
            self.words, self.scales, self.zeros, self.order, n, k, self.width, self.bits, self.permutation
        )

    def qweight(self) -> QWeight:
        """The weight in the device-neutral layout, its columns in order of their groups."""
        format = IntGroup(self.bits, self.zeros is None, self.group_size)
        if not torch.isfinite(self.scales).all():
            raise ValueError("scales: holds NaN or infinity")
        tensors = {"codes": self._ordered(self.codes()), "scales": self.scales.contiguous()}
        if self.zeros is not None:
            tensors["zeros"] = self.zeros.contiguous()
        return QWeight(format, self.shape, tensors, Inputs(permutation=self.permutation))

    def codes(self) -> Tensor:
        """uint8 [N, K], columns as the checkpoint has them."""
        if self.words.dtype == torch.uint8:
            return self.words
        n, k = self.shape
        if self.order == "awq":
            return awq_columns(self.words, n).t()
        if self.order == "gptq":
            return unpack_int32(self.words.t().contiguous(), self.bits, k)
        return unpack_int32(self.words, self.bits, k)

    def _ordered(self, codes: Tensor) -> Tensor:
        return (codes if self.permutation is None else codes[:, self.permutation.long()]).contiguous()


def awq_columns(words: Tensor, columns: int) -> Tensor:
    """4-bit codes uint8 [R, columns] of AWQ's words: eight columns in a word, of which nibble i holds column
    0, 2, 4, 6, 1, 3, 5, 7."""
    nibbles = unpack_int32(words, 4, columns).view(len(words), columns // 8, 2, 4)
    return nibbles.transpose(2, 3).reshape(len(words), columns)


def awq_words(codes: Tensor) -> Tensor:
    """AWQ's words int32 [R, C / 8] of 4-bit codes uint8 [R, C]: what `awq_columns` reads."""
    rows, columns = codes.shape
    nibbles = codes.view(rows, columns // 8, 4, 2).transpose(2, 3).reshape(rows, columns)
    return pack_int32(nibbles.contiguous(), 4)


def check_tensor(
    name: str,
    tensor: Tensor,
    dtypes: torch.dtype | tuple[torch.dtype, ...] | None,
    sizes: tuple[int | None, ...],
) -> None:
    """`dtypes` None: any; a size None: any."""
    allowed = (dtypes,) if isinstance(dtypes, torch.dtype) else dtypes
    fits = tensor.dim() == len(sizes) and all(
        expected in (None, size) for size, expected in zip(tensor.shape, sizes, strict=True)
    )
    if not fits or (allowed is not None and tensor.dtype not in allowed):
        text = ", ".join("any" if size is None else str(size) for size in sizes)
        kind = "" if allowed is None else " or ".join(map(_name, allowed)) + " "
        got = f"{_name(tensor.dtype)} {list(tensor.shape)}"
        raise ValueError(f"{name}: expected {kind}[{text}], got {got}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def along_rows(values: Tensor, shape: tuple[int, int], size: int) -> Tensor:
    """Scales [N, G] of groups of columns, where those are given of `size` codes of the flattened weight.

    Where they cross rows, groups are the columns that no border cuts, and share what was theirs.
    """
    n, k = shape
    width = gcd(size, k)
    first = torch.arange(n * k // width, device=values.device) * width
    return values[first // size].view(n, k // width)


def check_devices(**tensors: Tensor | None) -> None:
    """All are where the first one is."""
    present = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    first, expected = next(iter(present.items()))
    for name, device in present.items():
        if device != expected:
            raise ValueError(f"{name}: expected on {expected} like {first}, got {device}")


def check_bits(bits: int) -> None:
    if bits not in (2, 3, 4, 8):
        raise ValueError(f"bits: expected 2, 3, 4 or 8, got {bits}")


def words_for(count: int, bits: int) -> int:
    """How many words so many codes fill."""
    return -(-count * bits // 32)


def groups_of(k: int, group_size: int) -> tuple[int, int]:
    """The width of a group, and how many there are."""
    if k < 1:
        raise ValueError(f"expected a weight of at least one column, got K = {k}")
    width = k if group_size == -1 else group_size
    if not 1 <= width <= k:
        raise ValueError(f"group_size: expected -1 or 1 .. K ({k}), got {group_size}")
    return width, -(-k // width)


def needed_zeros(name: str, zeros: Tensor | None, bits: int, symmetric: bool | None) -> Tensor | None:
    """The zero points, None if a symmetric weight has the same ones."""
    if zeros is None or symmetric is False:
        return zeros
    center = 1 << (bits - 1)
    if bool((zeros == center).all()):
        return None
    if symmetric:
        other = int(zeros[zeros != center][0])
        # Read as the other version, the zero points of a symmetric weight are all off by one.
        off_by_one = abs(other - center) == 1 and bool((zeros == other).all())
        hint = ": is checkpoint_format right?" if off_by_one else ""
        raise ValueError(
            f"{name}: expected only {center}, because the weight is symmetric, got {other}{hint}"
        )
    return zeros


def permutation_of(name: str, g_idx: Tensor | None, k: int, width: int) -> Tensor | None:
    """Which column comes where when groups follow each other, int32 [K]; None if they already do."""
    if g_idx is None:
        return None
    check_tensor(name, g_idx, None, (k,))
    expected = torch.arange(k, device=g_idx.device) // width
    group = g_idx.long()
    if torch.equal(group, expected):
        return None
    perm = torch.argsort(group, stable=True)
    wrong = group[perm] != expected
    if bool(wrong.any()):
        position = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name}: expected {width} columns in every group (the last may have fewer); in their order "
            f"column {position} is of group {int(group[perm][position])} instead of {position // width}"
        )
    return perm.int()


def signed_codes(name: str, codes: Tensor, bits: int) -> Tensor:
    """Unsigned codes, uint8, of signed ones: with the middle added."""
    center = 1 << (bits - 1)
    least, most = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    if least < -center or most >= center:
        raise ValueError(f"{name}: expected {-center} to {center - 1}, got {least} to {most}")
    return (codes.short() + center).to(torch.uint8)


def stored_order(weight: QWeight) -> tuple[Tensor, Tensor]:
    """Codes with the columns in the order of x, and the group of each column, int32 [K]: the inverse of
    `permutation_of`."""
    codes, permutation, scaled = weight.tensors["codes"], weight.inputs.permutation, weight.format.scaled
    assert scaled is not None  # see the callers' why_not
    k = weight.shape[1]
    groups = torch.arange(k, dtype=torch.int32, device=codes.device) // scaled.granularity.width(k)
    if permutation is None:
        return codes, groups
    in_order, g_idx = torch.empty_like(codes), torch.empty_like(groups)
    in_order[:, permutation.long()] = codes
    g_idx[permutation.long()] = groups
    return in_order, g_idx


def unpack_padded(name: str, words: Tensor, bits: int, columns: int, dense: bool) -> Tensor:
    """Codes uint8 [R, columns] of words [R, W]: a stream of bits, or as many whole codes as fit a word."""
    each = 32 // bits
    expected = words_for(columns, bits) if dense else -(-columns // each)
    if words.shape[1] != expected:
        raise ValueError(
            f"{name}: expected {expected} words for {columns} codes of {bits} bits, got {words.shape[1]}"
        )
    if dense:
        return unpack_int32(words.contiguous(), bits, columns)
    shifts = torch.arange(each, device=words.device) * bits
    codes = (words.long()[:, :, None] >> shifts) & ((1 << bits) - 1)
    return codes.to(torch.uint8).reshape(len(words), -1)[:, :columns]
