"""The operators as Python functions: ``torch.ops.qcore.*`` with names, types and documentation.

Shapes use the field's letters: M tokens, K in features, N out features, and
G = ceil(K / group_size) groups per row. The integer codes b of a row's group stand for
``scale * (code - zero)``; a symmetric weight has the constant zero point ``2 ** (bits - 1)``.

Every operator raises :class:`RuntimeError` with a message that names the argument, what was
expected and what came. All work under ``torch.compile(fullgraph=True)``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch  # before _C, which links against the libraries that torch loads
from torch import Tensor

from qcore import _C

__all__ = ["PackedW4A16", "kernels", "w4a16_gemm", "w4a16_pack", "w4a16_unpack"]


class PackedW4A16(NamedTuple):
    """A weight in the memory layout of the kernel that was chosen for it.

    It splats: ``w4a16_gemm(x, *packed)``. The layout belongs to this machine: save the codes
    (:func:`w4a16_unpack`), not this.
    """

    qweight: Tensor
    """uint8, one dimension: the codes as the kernel reads them."""
    scales: Tensor
    """float32, float16 or bfloat16, one dimension."""
    zeros: Tensor
    """uint8, one dimension; no elements if the weight is symmetric."""
    shape: Tensor
    """uint8 without elements: its sizes are [0, layout, N, K, group_size, bits]."""


def kernels() -> list[_C.KernelInfo]:
    """The kernel rows of this build, in the order in which they are tried."""
    return _C.kernels()


def w4a16_pack(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    group_size: int = 128,
    bits: int = 4,
) -> PackedW4A16:
    """Packs a weight once for the fastest kernel that takes it on its device.

    Args:
        codes: uint8 [N, K], each below ``2 ** bits``.
        scales: float32, float16 or bfloat16 [N, G].
        zeros: uint8 [N, G], or None if the weight is symmetric.
        group_size: columns per scale, 1 to K; the last group of a row may be shorter.
            -1: one group per row.
        bits: 2, 3, 4 or 8.
    """
    return PackedW4A16(*torch.ops.qcore.w4a16_pack(codes, scales, zeros, group_size, bits))


def w4a16_unpack(packed: PackedW4A16) -> tuple[Tensor, Tensor, Tensor | None]:
    """The exact codes [N, K], scales [N, G] and zeros [N, G] (or None) that were packed."""
    codes, scales, zeros = torch.ops.qcore.w4a16_unpack(*packed)
    return codes, scales, zeros if packed.zeros.numel() else None


def w4a16_gemm(
    x: Tensor,
    qweight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    shape: Tensor,
    perm: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """``x[..., perm] @ weight.T + bias``, accumulated in float32.

    The result of a row of x depends neither on the number of threads nor on the other rows.

    Args:
        x: float32, float16 or bfloat16 [..., K], any strides.
        qweight: with scales, zeros and shape, a weight from :func:`w4a16_pack`.
        scales: see qweight.
        zeros: see qweight.
        shape: see qweight.
        perm: int32 or int64 [K]: column j of the weight meets ``x[..., perm[j]]`` (act-order).
        bias: float32, float16 or bfloat16 [N]; rounded to the dtype of x.

    Returns:
        [..., N] in the dtype of x.
    """
    y: Tensor = torch.ops.qcore.w4a16_gemm(x, qweight, scales, zeros, shape, perm, bias)
    return y


# Fake kernels: shapes and dtypes only, for tracing.


@torch.library.register_fake("qcore::w4a16_pack")
def _fake_pack(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int, bits: int = 4
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, k = (int(size) for size in codes.shape)
    group_size = k if group_size == -1 else group_size
    dtype = str(scales.dtype).removeprefix("torch.")
    layout, n_qweight, n_scales, n_zeros = _C.packed_sizes(
        "w4a16", n, k, group_size, bits, zeros is not None, dtype, codes.device.type
    )
    return (
        codes.new_empty(n_qweight),
        scales.new_empty(n_scales),
        codes.new_empty(n_zeros),
        codes.new_empty(0, layout, n, k, group_size, bits),
    )


@torch.library.register_fake("qcore::w4a16_unpack")
def _fake_unpack(
    qweight: Tensor, scales: Tensor, zeros: Tensor, shape: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n, k, group_size = shape.shape[2:5]
    groups = (k + group_size - 1) // group_size
    return (
        qweight.new_empty(n, k),
        scales.new_empty(n, groups),
        qweight.new_empty(n, groups) if zeros.numel() else qweight.new_empty(0),
    )


@torch.library.register_fake("qcore::w4a16_gemm")
def _fake_gemm(
    x: Tensor,
    qweight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    shape: Tensor,
    perm: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    torch._check(x.shape[-1] == shape.shape[3], lambda: f"x must have the sizes [..., K], got {x}")
    return x.new_empty(*x.shape[:-1], shape.shape[2])
