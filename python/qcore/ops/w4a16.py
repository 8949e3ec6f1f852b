"""``w4a16_*``: weights of 2- to 8-bit codes in groups, or of 8-bit floats, and activations as they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from qcore.ops.common import bias_gradient, expert_of_rows, input_gradient, need
from qcore.ops.sizes import packed_groups
from qcore.ops.transforms import differentiable, follow_linear, overload, register_fakes

# The last size of a descriptor: 0 integers, 1 integers with zero points, or these.
_FLOAT_CODES = {torch.float8_e4m3fn: 2, torch.float8_e5m2: 3}
_CODE_DTYPES = (torch.uint8, torch.uint8, *_FLOAT_CODES)


class PackedW4A16(NamedTuple):
    """A weight in the memory layout of the kernel that was chosen for it.

    It splats: ``w4a16_gemm(x, *packed)``. The layout belongs to this machine: save the codes
    (:func:`w4a16_unpack`), not this.

    A weight [E, N, K] of experts gives the first three tensors a dimension more, E in front; what stands
    there at e is the packed weight of expert e.
    """

    qweight: Tensor
    """uint8, one dimension: the codes as the kernel reads them. Rows are padded to a multiple of 16,
    each group to a multiple of 32 columns: small groups take more memory than their codes. On CUDA rows are
    padded to a multiple of 64, K (with its padded groups) to a multiple of 128, with 8 bits of 64, and codes
    of 2 and 3 bits are stored in 4."""
    scales: Tensor
    """float32, float16 or bfloat16, one dimension."""
    zeros: Tensor
    """uint8, one dimension; no elements if the weight is symmetric."""
    shape: Tensor
    """uint8 without elements: its sizes are [0, layout, N, K, group_size, bits, codes]; codes: 0 integers,
    1 integers with zero points, 2 float8_e4m3fn, 3 float8_e5m2."""


def w4a16_pack(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    group_size: int = 128,
    bits: int = 4,
    layout: int = 0,
) -> PackedW4A16:
    """Packs a weight once for the fastest kernel that takes it on its device.

    Args:
        codes: uint8 [N, K], or [E, N, K] of experts, each below ``2 ** bits``; or float8_e4m3fn or
            float8_e5m2 with 8 bits, which stand for ``scale * code`` and should be finite: on CUDA a NaN or
            an infinity may count as the number after the largest.
        scales: float32, float16 or bfloat16 [N, G] or [E, N, G].
        zeros: uint8 like scales, or None if the weight is symmetric.
        group_size: columns per scale, 1 to K; the last group of a row may be shorter.
            -1: one group per row.
        bits: 2, 3, 4 or 8.
        layout: 0, or the number of one of :func:`layouts`. So a machine without CUDA prepares a weight
            for one that has it: CPU tensors, layout 2, then ``.to("cuda")`` of each tensor.
    """
    return PackedW4A16(*torch.ops.qcore.w4a16_pack(codes, scales, zeros, group_size, bits, layout))


@torch.library.register_fake("qcore::w4a16_pack")
def _fake_pack(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int, bits: int = 4, layout: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    need(codes.dim() in (2, 3), "w4a16_pack", f"codes have the sizes {list(codes.shape)}")
    sizes = codes.shape[-2], codes.shape[-1]
    return _fake_packed(codes, scales, zeros, sizes, group_size, bits, layout, codes.shape[:-2])


def _fake_packed(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    sizes: tuple[int, int],
    group_size: int,
    bits: int,
    layout: int,
    experts: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What packing gives; the core knows the sizes. `codes`: the tensor that holds them, in any order;
    `experts`: (E,), or nothing."""
    n, k = sizes
    width = k if group_size == -1 else group_size
    device = "cpu" if codes.device.type == "meta" else codes.device.type
    dtype = str(scales.dtype).removeprefix("torch.")
    number, n_qweight, n_scales, n_zeros = packed_groups(
        n, k, width, bits, zeros is not None, dtype, device, layout
    )
    kind = _FLOAT_CODES.get(codes.dtype, int(zeros is not None))
    return (
        codes.new_empty(*experts, n_qweight, dtype=torch.uint8),
        scales.new_empty(*experts, n_scales),
        codes.new_empty(*experts, n_zeros, dtype=torch.uint8),
        codes.new_empty(0, number, n, k, width, bits, kind, dtype=torch.uint8),
    )


def w4a16_repack(
    qweight: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    order: str,
    n: int,
    k: int,
    group_size: int,
    bits: int = 4,
    perm: Tensor | None = None,
    layout: int = 0,
) -> PackedW4A16:
    """Packs codes straight from the tensor of somebody else's checkpoint, as :func:`w4a16_pack` does.

    :mod:`qcore.repack` calls it with the tensors of a whole layer.

    Args:
        qweight: int32. Order ``"gptq"``: [ceil(K * bits / 32), N]; ``"compressed_tensors"``:
            [N, ceil(K * bits / 32)]; ``"awq"``, 4 bits and N a multiple of 8 only: [K, N / 8].
        scales: float32, float16 or bfloat16 [N, G], any strides.
        zeros: uint8 [N, G], or None if the weight is symmetric.
        order: how the codes lie in qweight, see there.
        n: rows N of the weight.
        k: columns K of the weight.
        group_size: see :func:`w4a16_pack`.
        bits: 2, 3, 4 or 8.
        perm: int32 or int64 [K]: column j of the packed weight is column ``perm[j]`` of qweight
            (act-order). Scales and zeros belong to the packed columns. On CUDA an int64 is first cut to
            int32, so an index that does not fit is not seen.
        layout: see :func:`w4a16_pack`.
    """
    packed = torch.ops.qcore.w4a16_repack(qweight, scales, zeros, order, n, k, group_size, bits, perm, layout)
    return PackedW4A16(*packed)


@torch.library.register_fake("qcore::w4a16_repack")
def _fake_repack(
    qweight: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    order: str,
    n: int,
    k: int,
    group_size: int,
    bits: int = 4,
    perm: Tensor | None = None,
    layout: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _fake_packed(qweight, scales, zeros, (n, k), group_size, bits, layout)


def w4a16_unpack(packed: PackedW4A16) -> tuple[Tensor, Tensor, Tensor | None]:
    """The exact codes, scales and zeros (or None) that were packed: [N, K] and [N, G], of experts with E in
    front.

    CPU tensors of every layout; CUDA tensors of the layouts for CUDA.
    """
    codes, scales, zeros = torch.ops.qcore.w4a16_unpack(*packed)
    return codes, scales, zeros if packed.shape.shape[-1] == 1 else None


@torch.library.register_fake("qcore::w4a16_unpack")
def _fake_unpack(
    qweight: Tensor, scales: Tensor, zeros: Tensor, shape: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n, k, group_size, _, kind = _described("w4a16_unpack", shape)
    need(group_size > 0 and kind < len(_CODE_DTYPES), "w4a16_unpack", f"shape is {list(shape.shape)}")
    kind = int(kind)  # it says the dtype, so a trace is for one
    groups = (k + group_size - 1) // group_size
    experts = qweight.shape[:-1]
    return (
        qweight.new_empty(*experts, n, k, dtype=_CODE_DTYPES[kind]),
        scales.new_empty(*experts, n, groups),
        qweight.new_empty(*experts, n, groups) if kind == 1 else qweight.new_empty(0),
    )


def _described(op: str, shape: Tensor) -> tuple[int, ...]:
    """N, K, group_size, bits and codes, from the descriptor of a packed weight; symbols stay symbols."""
    need(shape.dim() == 7, op, f"shape is {list(shape.shape)} and no descriptor of a packed weight")
    return shape.shape[2:]


def w4a16_gemm(
    x: Tensor,
    qweight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    shape: Tensor,
    perm: Tensor | None = None,
    bias: Tensor | None = None,
    batch_invariant: bool = False,
    offsets: Tensor | None = None,
) -> Tensor:
    """``x[..., perm] @ weight.T + bias``, accumulated in float32.

    The result of a row of x depends neither on the number of threads nor on what the other rows hold.
    On the CPU it does not depend on how many they are either; on CUDA it may, in the last bits, unless
    `batch_invariant` is set. Gradients flow to x and bias, not to the weight.

    With `offsets` the weight is that of E experts and each row of x meets its expert's: one call for all of
    them, which costs what the experts with rows cost. A row gives the bits of a call with that weight alone.

    Args:
        x: float32, float16 or bfloat16 [..., K], any strides. On CUDA float32 works but is slow: only the
            reference kernel takes it.
        qweight: with scales, zeros and shape, a weight from :func:`w4a16_pack`.
        scales: see qweight.
        zeros: see qweight.
        shape: see qweight.
        perm: int32 or int64 [K]: column j of the weight meets ``x[..., perm[j]]`` (act-order). An index
            out of range is an error on the CPU; on CUDA, where looking would mean to wait, it gives NaN
            (an int64 is first cut to int32, by one more small kernel at every call).
        bias: float32, float16 or bfloat16 [N]; rounded to the dtype of x.
        batch_invariant: a row of x gives the same bits whatever the number of rows. On the CPU it always
            does. On CUDA it fixes how K is cut into parts: somewhat slower, and the call may work in up to
            64 MB more memory.
        offsets: int32 [E + 1] if the weight is one of experts, packed from [E, N, K], else None: rows
            ``offsets[e]`` to ``offsets[e + 1] - 1`` of x (as [M, K]) belong to expert e, so that they ascend
            from 0 to M. perm and bias are then [E, K] and [E, N]. On CUDA no kernel takes experts yet.

    Returns:
        [..., N] in the dtype of x.
    """
    gemm = overload(torch.ops.qcore.w4a16_gemm, x, bias)
    y: Tensor = gemm(x, qweight, scales, zeros, shape, perm, bias, batch_invariant, offsets)
    return y


@register_fakes("w4a16_gemm")
def _fake_gemm(
    x: Tensor,
    qweight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    shape: Tensor,
    perm: Tensor | None = None,
    bias: Tensor | None = None,
    batch_invariant: bool = False,
    offsets: Tensor | None = None,
) -> Tensor:
    n, *_ = _described("w4a16_gemm", shape)
    return x.new_empty(*x.shape[:-1], n)


# Gradients of w4a16_gemm: dx = dy @ weight in float32, scattered through perm; dbias = sum of dy.


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *packed, perm, bias, _, offsets = inputs
    ctx.save_for_backward(*packed, perm, offsets)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _gemm_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    *packed, perm, offsets = ctx.saved_tensors
    dx = dbias = None
    if ctx.needs_input_grad[0]:
        columns = input_gradient(dy, _dequantize(*packed), offsets)
        if perm is not None:  # a column of x may meet several columns of the weight
            columns = _scatter(columns, perm, offsets)
        dx = columns.to(dy.dtype)
    if ctx.bias_dtype is not None and ctx.needs_input_grad[6]:  # absent if the bias is
        dbias = bias_gradient(dy, ctx.bias_dtype, offsets)
    return dx, None, None, None, None, None, dbias, None, None


def _scatter(columns: Tensor, perm: Tensor, offsets: Tensor | None) -> Tensor:
    """Adds column j of each row at perm[j]."""
    if offsets is None:
        return torch.zeros_like(columns).index_add(-1, perm, columns)
    rows = columns.reshape(-1, columns.shape[-1])
    index = perm.long()[expert_of_rows(rows.shape[0], offsets)]
    return torch.zeros_like(rows).scatter_add(-1, index, rows).reshape(columns.shape)


def _dequantize(qweight: Tensor, scales: Tensor, zeros: Tensor, shape: Tensor) -> Tensor:
    """The weight, float32 [N, K] or [E, N, K]."""
    group_size, bits, kind = shape.shape[4:]
    codes, scales, zeros = torch.ops.qcore.w4a16_unpack(qweight, scales, zeros, shape)
    group = torch.arange(codes.shape[-1], device=codes.device) // group_size
    zero: Tensor | float = zeros[..., group].float() if kind == 1 else float(1 << (int(bits) - 1))
    if codes.dtype != torch.uint8:
        zero = 0.0
    weight: Tensor = (codes.float() - zero) * scales.float()[..., group]
    return weight


differentiable("w4a16_gemm", _gemm_backward, _save_for_backward)
follow_linear("w4a16_gemm")
