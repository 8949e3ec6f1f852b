"""The operators as Python functions: ``torch.ops.qcore.*`` with names, types and documentation.

Shapes use the field's letters: M tokens, K in features, N out features, and
G = ceil(K / group_size) groups per row. The integer codes b of a row's group stand for
``scale * (code - zero)``; a symmetric weight has the constant zero point ``2 ** (bits - 1)``.

Every operator raises :class:`RuntimeError` with a message that names the argument, what was
expected and what came. All work under ``torch.compile(fullgraph=True)``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
    """uint8, one dimension: the codes as the kernel reads them. Rows are padded to a multiple of 16,
    each group to a multiple of 32 columns: small groups take more memory than their codes."""
    scales: Tensor
    """float32, float16 or bfloat16, one dimension."""
    zeros: Tensor
    """uint8, one dimension; no elements if the weight is symmetric."""
    shape: Tensor
    """uint8 without elements: its sizes are [0, layout, N, K, group_size, bits, has_zeros]."""


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
    return codes, scales, zeros if packed.shape.shape[-1] else None


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

    The result of a row of x depends neither on the number of threads nor on the other rows. Gradients
    flow to x and bias, not to the weight.

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


# Fake kernels, for tracing: shapes and dtypes, and the checks that need no data.

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _expect(ok: bool, op: str, name: str, expected: str, got: Tensor) -> None:
    torch._check(
        ok,
        lambda: (
            f"qcore.{op}: {name} must be {expected}, "
            f"got {str(got.dtype).removeprefix('torch.')} {list(got.shape)}"
        ),
    )


def _described(
    op: str, qweight: Tensor, scales: Tensor, zeros: Tensor, shape: Tensor
) -> tuple[int, int, int, bool]:
    """N, K, group_size and has_zeros of a packed weight."""
    _expect(
        shape.dtype == torch.uint8 and shape.dim() == 7 and shape.shape[0] == 0 and shape.shape[6] <= 1,
        op,
        "shape",
        "the descriptor that w4a16_pack returned, uint8 [0, layout, n, k, group_size, bits, has_zeros]",
        shape,
    )
    n, k, group_size, _, has_zeros = (int(size) for size in shape.shape[2:])
    _expect(qweight.dtype == torch.uint8, op, "qweight", "uint8", qweight)
    _expect(scales.dtype in _FLOATS, op, "scales", "float32, float16 or bfloat16", scales)
    expected = scales.numel() if has_zeros else 0
    _expect(
        zeros.dtype == torch.uint8 and zeros.numel() == expected,
        op,
        "zeros",
        f"uint8 of {expected} elements, because the weight is {'a' if has_zeros else ''}symmetric",
        zeros,
    )
    return n, k, group_size, bool(has_zeros)


@torch.library.register_fake("qcore::w4a16_pack")
def _fake_pack(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int, bits: int = 4
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    op = "w4a16_pack"
    ok = codes.dtype == torch.uint8 and codes.dim() == 2 and codes.shape[1] > 0
    _expect(ok, op, "codes", "uint8 [N, K] with K > 0", codes)
    n, k = (int(size) for size in codes.shape)
    width = k if group_size == -1 else group_size
    torch._check(0 < width <= k, lambda: f"qcore.{op}: group_size: expected 1 .. k ({k}), got {group_size}")
    sizes = (n, (k + width - 1) // width)
    _expect(
        scales.dtype in _FLOATS and scales.shape == sizes,
        op,
        "scales",
        f"float32, float16 or bfloat16 {list(sizes)}",
        scales,
    )
    if zeros is not None:
        _expect(
            zeros.dtype == torch.uint8 and zeros.shape == sizes, op, "zeros", f"uint8 {list(sizes)}", zeros
        )
    device = "cpu" if codes.device.type == "meta" else codes.device.type
    dtype = str(scales.dtype).removeprefix("torch.")
    layout, n_qweight, n_scales, n_zeros = _C.packed_sizes(
        "w4a16", n, k, width, bits, zeros is not None, dtype, device
    )
    return (
        codes.new_empty(n_qweight),
        scales.new_empty(n_scales),
        codes.new_empty(n_zeros),
        codes.new_empty(0, layout, n, k, width, bits, zeros is not None),
    )


@torch.library.register_fake("qcore::w4a16_unpack")
def _fake_unpack(
    qweight: Tensor, scales: Tensor, zeros: Tensor, shape: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n, k, group_size, has_zeros = _described("w4a16_unpack", qweight, scales, zeros, shape)
    groups = (k + group_size - 1) // group_size
    return (
        qweight.new_empty(n, k),
        scales.new_empty(n, groups),
        qweight.new_empty(n, groups) if has_zeros else qweight.new_empty(0),
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
    op = "w4a16_gemm"
    n, k, _, _ = _described(op, qweight, scales, zeros, shape)
    _expect(
        x.dtype in _FLOATS and x.dim() >= 1 and x.shape[-1] == k,
        op,
        "x",
        f"float32, float16 or bfloat16 [..., {k}]",
        x,
    )
    if perm is not None:
        integers = (torch.int32, torch.int64)
        _expect(perm.dtype in integers and perm.shape == (k,), op, "perm", f"int32 or int64 [{k}]", perm)
    if bias is not None:
        _expect(
            bias.dtype in _FLOATS and bias.shape == (n,),
            op,
            "bias",
            f"float32, float16 or bfloat16 [{n}]",
            bias,
        )
    return x.new_empty(*x.shape[:-1], n)


# Gradients of w4a16_gemm: dx = dy @ weight in float32, scattered through perm; dbias = sum of dy.


def _save_for_backward(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    _, *packed, perm, bias = inputs
    ctx.save_for_backward(*packed, perm)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _gemm_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    *packed, perm = ctx.saved_tensors
    dx = dbias = None
    if ctx.needs_input_grad[0]:
        columns = dy.float() @ _dequantize(*packed)
        if perm is not None:  # a column of x may meet several columns of the weight
            columns = torch.zeros_like(columns).index_add(-1, perm, columns)
        dx = columns.to(dy.dtype)
    if ctx.bias_dtype is not None and ctx.needs_input_grad[6]:  # absent if the bias is
        dbias = dy.float().flatten(0, -2).sum(0) if dy.dim() > 1 else dy
        dbias = dbias.to(ctx.bias_dtype)
    return dx, None, None, None, None, None, dbias


def _dequantize(qweight: Tensor, scales: Tensor, zeros: Tensor, shape: Tensor) -> Tensor:
    """The weight, float32 [N, K]."""
    group_size, bits, has_zeros = shape.shape[4:]
    codes, scales, zeros = torch.ops.qcore.w4a16_unpack(qweight, scales, zeros, shape)
    group = torch.arange(codes.shape[1], device=codes.device) // group_size
    zero = zeros[:, group].float() if has_zeros else float(1 << (bits - 1))
    weight: Tensor = (codes.float() - zero) * scales.float()[:, group]
    return weight


torch.library.register_autograd("qcore::w4a16_gemm", _gemm_backward, setup_context=_save_for_backward)
