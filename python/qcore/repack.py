"""Layers of GPTQ, AWQ and compressed-tensors checkpoints, packed as they are.

The kernels' packers read the checkpoint's int32 words themselves: no tensor of codes is made in between,
and nothing is rounded. Everything runs on the device of the tensors, for which the result is packed. Each
function returns the packed weight and, if the checkpoint was written in activation order, the permutation
that :func:`qcore.ops.w4a16_gemm` takes, int32 [K], else None.

A weight all of whose zero points are ``2 ** (bits - 1)`` is packed as a symmetric one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcore.io.bits import unpack_int32
from qcore.ops import PackedW4A16, w4a16_pack, w4a16_repack

__all__ = ["from_awq", "from_compressed_tensors", "from_gptq"]


def from_gptq(
    qweight: Tensor,
    qzeros: Tensor | None,
    scales: Tensor,
    g_idx: Tensor | None = None,
    *,
    bits: int,
    group_size: int,
    checkpoint_format: str = "gptq",
    symmetric: bool | None = None,
) -> tuple[PackedW4A16, Tensor | None]:
    """A layer as GPTQModel and AutoGPTQ save it.

    Args:
        qweight: int32 [ceil(K * bits / 32), N].
        qzeros: int32 [G, ceil(N * bits / 32)]; None only if `symmetric`.
        scales: float16, bfloat16 or float32 [G, N].
        g_idx: integers [K], the group of each column; None if they follow each other.
        bits: 2, 3, 4 or 8.
        group_size: columns per group, -1 for all.
        checkpoint_format: ``"gptq"``, where zero points are stored less one, or ``"gptq_v2"``.
        symmetric: what the configuration says (`sym`): True makes any other zero point than
            ``2 ** (bits - 1)`` an error, False keeps them even if all are, None looks at them.

    Raises:
        ValueError: an argument contradicts the others, or the groups of `g_idx` are not of `group_size`.
    """
    _check("qweight", qweight, torch.int32, (None, None))
    if checkpoint_format not in ("gptq", "gptq_v2"):
        raise ValueError(f"checkpoint_format: expected gptq or gptq_v2, got {checkpoint_format!r}")
    n = qweight.shape[1]
    k = qweight.shape[0] * 32 // max(bits, 1) if g_idx is None else g_idx.numel()
    width, groups = _groups(k, group_size, bits)
    zeros = None
    if qzeros is not None:
        _check("qzeros", qzeros, torch.int32, (groups, -(-n * bits // 32)))
        zeros = unpack_int32(qzeros, bits, n)
        if checkpoint_format == "gptq":  # bytes wrap like the stored bits do
            zeros = (zeros + 1) & ((1 << bits) - 1)
    elif not symmetric:
        raise ValueError("qzeros: missing, and the weight is not said to be symmetric")
    _check("scales", scales, None, (groups, n))
    zeros = _needed(zeros, bits, symmetric)
    perm = _permutation("g_idx", g_idx, k, width)
    packed = w4a16_repack(
        qweight, scales.t(), None if zeros is None else zeros.t(), "gptq", n, k, width, bits, perm
    )
    return packed, perm


def from_awq(
    qweight: Tensor, qzeros: Tensor | None, scales: Tensor, *, group_size: int
) -> tuple[PackedW4A16, Tensor | None]:
    """A layer as AutoAWQ saves it (version "gemm"): 4 bits, never in activation order.

    Args:
        qweight: int32 [K, N / 8].
        qzeros: int32 [G, N / 8], None if the weight is symmetric (`zero_point` false).
        scales: float16, bfloat16 or float32 [G, N].
        group_size: columns per group, -1 for all.

    Raises:
        ValueError: an argument contradicts the others.
    """
    _check("qweight", qweight, torch.int32, (None, None))
    k, n = qweight.shape[0], qweight.shape[1] * 8
    width, groups = _groups(k, group_size, 4)
    zeros = None
    if qzeros is not None:
        _check("qzeros", qzeros, torch.int32, (groups, n // 8))
        # Eight columns in a word, of which nibble i holds column 0, 2, 4, 6, 1, 3, 5, 7.
        nibbles = unpack_int32(qzeros, 4, n).view(groups, n // 8, 2, 4)
        zeros = nibbles.transpose(2, 3).reshape(groups, n)
    _check("scales", scales, None, (groups, n))
    zeros = _needed(zeros, 4, None)
    packed = w4a16_repack(qweight, scales.t(), None if zeros is None else zeros.t(), "awq", n, k, width, 4)
    return packed, None


def from_compressed_tensors(
    weight_packed: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor | None,
    weight_shape: Tensor | Sequence[int],
    weight_g_idx: Tensor | None = None,
    *,
    bits: int,
    group_size: int,
) -> tuple[PackedW4A16, Tensor | None]:
    """A layer as compressed-tensors saves it (`pack-quantized`).

    3-bit codes may also lie ten to a word, with two bits of padding, as older versions of
    compressed-tensors stored them: the width of `weight_packed` tells, and these are unpacked first.
    (Where both widths are the same, which no multiple of 32 columns has, the dense one is meant.)

    Args:
        weight_packed: int32 [N, ceil(K * bits / 32)].
        weight_scale: float16, bfloat16 or float32 [N, G].
        weight_zero_point: int32 [ceil(N * bits / 32), G], packed along N; None if the weight is symmetric.
        weight_shape: N, K.
        weight_g_idx: integers [K], the group of each column; None, or -1 in it, if they follow each other.
        bits: 2, 3, 4 or 8.
        group_size: columns per group, -1 for all (strategy "channel").

    Raises:
        ValueError: an argument contradicts the others, or the groups of `weight_g_idx` are not of
            `group_size`.
    """
    n, k = (int(size) for size in weight_shape)
    width, groups = _groups(k, group_size, bits)
    _check("weight_packed", weight_packed, torch.int32, (n, None))
    _check("weight_scale", weight_scale, None, (n, groups))
    dense = weight_packed.shape[1] != -(-k // (32 // bits)) or weight_packed.shape[1] == -(-k * bits // 32)
    zeros = None
    if weight_zero_point is not None:
        _check("weight_zero_point", weight_zero_point, torch.int32, (None, groups))
        zeros = _unpack("weight_zero_point", weight_zero_point.t(), bits, n, dense).t()
    zeros = _needed(zeros, bits, None)
    if weight_g_idx is not None and bool((weight_g_idx == -1).any()):  # its value before it is set
        weight_g_idx = None
    perm = _permutation("weight_g_idx", weight_g_idx, k, width)
    if dense:
        packed = w4a16_repack(
            weight_packed, weight_scale, zeros, "compressed_tensors", n, k, width, bits, perm
        )
    else:
        codes = _unpack("weight_packed", weight_packed, bits, k, dense)
        codes = codes if perm is None else codes[:, perm]
        packed = w4a16_pack(codes, weight_scale, zeros, width, bits)
    return packed, perm


def _check(name: str, tensor: Tensor, dtype: torch.dtype | None, sizes: tuple[int | None, ...]) -> None:
    """`dtype` None: any; a size None: any."""
    fits = tensor.dim() == len(sizes) and all(
        expected in (None, size) for size, expected in zip(tensor.shape, sizes, strict=True)
    )
    if not fits or dtype not in (None, tensor.dtype):
        text = ", ".join("any" if size is None else str(size) for size in sizes)
        kind = "" if dtype is None else f"{str(dtype).removeprefix('torch.')} "
        got = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        raise ValueError(f"{name}: expected {kind}[{text}], got {got}")


def _groups(k: int, group_size: int, bits: int) -> tuple[int, int]:
    """The width of a group, and how many there are."""
    if bits not in (2, 3, 4, 8):
        raise ValueError(f"bits: expected 2, 3, 4 or 8, got {bits}")
    width = k if group_size == -1 else group_size
    if not 1 <= width <= max(k, 1):
        raise ValueError(f"group_size: expected -1 or 1 .. K ({k}), got {group_size}")
    return width, -(-k // width)


def _needed(zeros: Tensor | None, bits: int, symmetric: bool | None) -> Tensor | None:
    """The zero points, None if a symmetric weight has the same ones."""
    if zeros is None or symmetric is False:
        return zeros
    center = 1 << (bits - 1)
    if bool((zeros == center).all()):
        return None
    if symmetric:
        other = int(zeros[zeros != center][0])
        raise ValueError(f"qzeros: expected only {center}, because the weight is symmetric, got {other}")
    return zeros


def _permutation(name: str, g_idx: Tensor | None, k: int, width: int) -> Tensor | None:
    """Which column comes where when groups follow each other; None if they already do."""
    if g_idx is None:
        return None
    _check(name, g_idx, None, (k,))
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


def _unpack(name: str, words: Tensor, bits: int, columns: int, dense: bool) -> Tensor:
    """Codes uint8 [R, columns] of words [R, W]: a stream of bits, or as many whole codes as fit a word."""
    each = 32 // bits
    expected = -(-columns * bits // 32) if dense else -(-columns // each)
    if words.shape[1] != expected:
        raise ValueError(
            f"{name}: expected {expected} words for {columns} codes of {bits} bits, got {words.shape[1]}"
        )
    if dense:
        return unpack_int32(words.contiguous(), bits, columns)
    shifts = torch.arange(each, device=words.device) * bits
    codes = (words.long()[:, :, None] >> shifts) & ((1 << bits) - 1)
    return codes.to(torch.uint8).reshape(len(words), -1)[:, :columns]
