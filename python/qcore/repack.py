"""Layers of GPTQ, AWQ and compressed-tensors checkpoints, packed as they are.

The kernels' packers read the checkpoint's int32 words themselves: no tensor of codes is made in between,
and nothing is rounded. Everything runs on the device of the tensors, for which the result is packed. Each
function returns the packed weight and, if the checkpoint was written in activation order, the permutation
that :func:`qcore.ops.w4a16_gemm` takes, int32 [K], else None.

A weight all of whose zero points are ``2 ** (bits - 1)`` is packed as a symmetric one. What is checked, and
how the words are read, is what :func:`qcore.load` does: the parsers of `qcore.checkpoints`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qcore.checkpoints import awq, gptq
from qcore.checkpoints.compressed_tensors import packed as compressed_tensors
from qcore.checkpoints.words import check_bits
from qcore.ops import PackedW4A16

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
    words = gptq.parse(
        qweight,
        qzeros,
        scales,
        g_idx,
        bits=bits,
        group_size=group_size,
        checkpoint_format=checkpoint_format,
        symmetric=symmetric,
        k=k,
    )
    return words.pack(), words.permutation


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
    words = awq.parse(qweight, qzeros, scales, group_size=group_size)
    return words.pack(), words.permutation


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
    check_bits(bits)
    words = compressed_tensors.parse(
        weight_packed,
        weight_scale,
        weight_zero_point,
        weight_shape,
        weight_g_idx,
        bits=bits,
        group_size=group_size,
    )
    return words.pack(), words.permutation
