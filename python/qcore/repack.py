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

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


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
    k: int | None = None,
) -> tuple[PackedW4A16, Tensor | None]:
    """A layer as GPTQModel and AutoGPTQ save it.

    Args:
        qweight: int32 [ceil(K * bits / 32), N].
        qzeros: int32 [G, ceil(N * bits / 32)]; None only if `symmetric`.
        scales: float16, bfloat16 or float32 [G, N].
        g_idx: integers [K], the group of each column; None if they follow each other.
        bits: 2, 3, 4 or 8.
        group_size: columns per group, -1 for all.
        checkpoint_format: ``"gptq"``, where zero points are stored less one, or ``"gptq_v2"``. 3-bit layers
            that GPTQModel before 7.0 wrote as ``"gptq"`` hold other words; they are recognised if they are
            symmetric, else they must be saved anew as ``"gptq_v2"`` by their writer.
        symmetric: what the configuration says (`sym`): True makes any other zero point than
            ``2 ** (bits - 1)`` an error, False keeps them even if all are, None looks at them.
        k: columns K. None: as many as `g_idx` has; without that, as many whole codes as the words of
            `qweight` hold, which are more than the layer has where ``K * bits`` is no multiple of 32.

    Raises:
        ValueError: an argument contradicts the others, or the groups of `g_idx` are not of `group_size`.
    """
    _check_bits(bits)
    _check("qweight", qweight, torch.int32, (None, None))
    if checkpoint_format not in ("gptq", "gptq_v2"):
        raise ValueError(f"checkpoint_format: expected gptq or gptq_v2, got {checkpoint_format!r}")
    n = qweight.shape[1]
    if k is None:
        k = qweight.shape[0] * 32 // bits if g_idx is None else g_idx.numel()
    width, groups = _groups(k, group_size)
    _check("qweight", qweight, torch.int32, (_words(k, bits), n))
    zeros = None
    if qzeros is not None:
        _check("qzeros", qzeros, torch.int32, (groups, _words(n, bits)))
        zeros = (_zeros_v1 if checkpoint_format == "gptq" else unpack_int32)(qzeros, bits, n)
    elif not symmetric:
        raise ValueError("qzeros: missing, and the weight is not said to be symmetric")
    _check("scales", scales, _FLOATS, (groups, n))
    _check_devices(qweight=qweight, qzeros=qzeros, scales=scales, g_idx=g_idx)
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
    width, groups = _groups(k, group_size)
    _check("scales", scales, _FLOATS, (groups, n))
    _check_devices(qweight=qweight, qzeros=qzeros, scales=scales)
    zeros = None
    if qzeros is not None:
        _check("qzeros", qzeros, torch.int32, (groups, n // 8))
        # Eight columns in a word, of which nibble i holds column 0, 2, 4, 6, 1, 3, 5, 7.
        nibbles = unpack_int32(qzeros, 4, n).view(groups, n // 8, 2, 4)
        zeros = nibbles.transpose(2, 3).reshape(groups, n)
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
            Zero points that are not packed, int8 [N, G] as some versions write them, are not supported.
        weight_shape: N, K.
        weight_g_idx: integers [K], the group of each column; None, or -1 in it, if they follow each other.
        bits: 2, 3, 4 or 8.
        group_size: columns per group, -1 for all (strategy "channel").

    Raises:
        ValueError: an argument contradicts the others, or the groups of `weight_g_idx` are not of
            `group_size`.
    """
    _check_bits(bits)
    n, k = (int(size) for size in weight_shape)
    width, groups = _groups(k, group_size)
    _check("weight_packed", weight_packed, torch.int32, (n, None))
    dense = weight_packed.shape[1] != -(-k // (32 // bits)) or weight_packed.shape[1] == _words(k, bits)
    if dense:
        _check("weight_packed", weight_packed, torch.int32, (n, _words(k, bits)))
    _check("weight_scale", weight_scale, _FLOATS, (n, groups))
    _check_devices(
        weight_packed=weight_packed,
        weight_scale=weight_scale,
        weight_zero_point=weight_zero_point,
        weight_g_idx=weight_g_idx,
    )
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


def _check(
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


def _check_devices(**tensors: Tensor | None) -> None:
    """All are where the first one is."""
    present = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    first, expected = next(iter(present.items()))
    for name, device in present.items():
        if device != expected:
            raise ValueError(f"{name}: expected on {expected} like {first}, got {device}")


def _check_bits(bits: int) -> None:
    if bits not in (2, 3, 4, 8):
        raise ValueError(f"bits: expected 2, 3, 4 or 8, got {bits}")


def _words(count: int, bits: int) -> int:
    """How many words so many codes fill."""
    return -(-count * bits // 32)


def _groups(k: int, group_size: int) -> tuple[int, int]:
    """The width of a group, and how many there are."""
    if k < 1:
        raise ValueError(f"expected a weight of at least one column, got K = {k}")
    width = k if group_size == -1 else group_size
    if not 1 <= width <= k:
        raise ValueError(f"group_size: expected -1 or 1 .. K ({k}), got {group_size}")
    return width, -(-k // width)


# Of each word, one in every code that it holds.
_ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}
# What GPTQModel before 7.0 took for that in the three words of 32 3-bit codes: the first and the last are
# swapped, so that it adds 4 to the first codes and 2 to the last ones.
_OLD_ONES_3 = (0x24924924, -0x6DB6DB6E, 0x49249249)


def _zeros_v1(qzeros: Tensor, bits: int, n: int) -> Tensor:
    """Zero points uint8 [G, N] of ``checkpoint_format: gptq``, which stores them less one.

    For 2, 4 and 8 bits the writer, GPTQModel's convert_gptq_v2_to_v1_format_module, subtracts from whole
    words, so a zero point of 0 borrows from the next code; its convert_gptq_v1_to_v2_format_module adds to
    whole words, and so does this: adding code by code would be wrong beside every 0. 3-bit codes straddle
    words. AutoGPTQ before 0.8 and GPTQModel from 7.0 on count each of them down by itself, modulo 8;
    versions between subtracted constants that are not ones, and only a symmetric weight shows that.
    """
    if bits != 3:
        return unpack_int32(qzeros + _ONES[bits], bits, n)
    zeros = (unpack_int32(qzeros, bits, n) + 1) & 7
    if bool((zeros == 4).all()):
        return zeros
    ones = torch.tensor(_OLD_ONES_3, dtype=torch.int32, device=qzeros.device)
    old = unpack_int32(qzeros + ones.repeat(-(-qzeros.shape[1] // 3))[: qzeros.shape[1]], bits, n)
    return old if bool((old == 4).all()) else zeros


def _needed(zeros: Tensor | None, bits: int, symmetric: bool | None) -> Tensor | None:
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
            f"qzeros: expected only {center}, because the weight is symmetric, got {other}{hint}"
        )
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
