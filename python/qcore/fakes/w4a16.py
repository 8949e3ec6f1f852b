"""Fake kernels of ``w4a16_*``, and the gradient of ``w4a16_gemm``."""

from __future__ import annotations

from typing import Any

import torch  # before _C, which links against the libraries that torch loads
from torch import Tensor

from qcore import _C
from qcore.fakes.checks import FLOATS, expect, expect_bias, expect_same_device

# The last size of a descriptor: 0 integers, 1 integers with zero points, or these.
FLOAT_CODES = {torch.float8_e4m3fn: 2, torch.float8_e5m2: 3}
_CODE_DTYPES = (torch.uint8, torch.uint8, *FLOAT_CODES)
_LAYOUTS = {layout["number"]: layout for layout in _C.layouts() if layout["format"] == "int_group"}


def _described(
    op: str, qweight: Tensor, scales: Tensor, zeros: Tensor, shape: Tensor
) -> tuple[int, int, int, bool]:
    """N, K, group_size and has_zeros of a packed weight."""
    expect(
        shape.dtype == torch.uint8 and shape.dim() == 7 and shape.shape[0] == 0 and shape.shape[6] <= 3,
        op,
        "shape",
        "the descriptor that w4a16_pack returned, uint8 [0, layout, n, k, group_size, bits, codes]",
        shape,
    )
    number, n, k, group_size, _, codes = (int(size) for size in shape.shape[1:])
    has_zeros = codes == 1
    torch._check(
        number in _LAYOUTS,
        lambda: f"qcore.{op}: shape names layout {number}, expected one of {[*_LAYOUTS]}",
    )
    expect(qweight.dtype == torch.uint8, op, "qweight", "uint8", qweight)
    expect(scales.dtype in FLOATS, op, "scales", "float32, float16 or bfloat16", scales)
    expected = scales.numel() if has_zeros else 0
    expect(
        zeros.dtype == torch.uint8 and zeros.numel() == expected,
        op,
        "zeros",
        f"uint8 of {expected} elements, because the weight is {'a' if has_zeros else ''}symmetric",
        zeros,
    )
    expect_same_device(op, "scales", scales, "qweight", qweight)
    expect_same_device(op, "zeros", zeros, "qweight", qweight)
    return n, k, group_size, has_zeros


def _fake_packed(
    op: str,
    source: tuple[str, Tensor],
    scales: Tensor,
    zeros: Tensor | None,
    sizes: tuple[int, int],
    group_size: int,
    bits: int,
    layout: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What packing gives. `source`: the argument that holds the codes, its name before it."""
    n, k = sizes
    name, codes = source
    width = k if group_size == -1 else group_size
    torch._check(0 < width <= k, lambda: f"qcore.{op}: group_size: expected 1 .. k ({k}), got {group_size}")
    grid = (n, (k + width - 1) // width)
    expect(
        scales.dtype in FLOATS and scales.shape == grid,
        op,
        "scales",
        f"float32, float16 or bfloat16 {list(grid)}",
        scales,
    )
    expect_same_device(op, "scales", scales, name, codes)
    if zeros is not None:
        ok = zeros.dtype == torch.uint8 and zeros.shape == grid
        expect(ok, op, "zeros", f"uint8 {list(grid)}", zeros)
        expect_same_device(op, "zeros", zeros, name, codes)
    device = "cpu" if codes.device.type == "meta" else codes.device.type
    dtype = str(scales.dtype).removeprefix("torch.")
    number, n_qweight, n_scales, n_zeros = _C.packed_sizes(
        "w4a16", n, k, width, bits, zeros is not None, dtype, device, layout
    )
    return (
        codes.new_empty(n_qweight, dtype=torch.uint8),
        scales.new_empty(n_scales),
        codes.new_empty(n_zeros, dtype=torch.uint8),
        codes.new_empty(
            0,
            number,
            n,
            k,
            width,
            bits,
            FLOAT_CODES.get(codes.dtype, int(zeros is not None)),
            dtype=torch.uint8,
        ),
    )


@torch.library.register_fake("qcore::w4a16_pack")
def _fake_pack(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int, bits: int = 4, layout: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    op = "w4a16_pack"
    ok = codes.dtype in (torch.uint8, *FLOAT_CODES) and codes.dim() == 2 and codes.shape[1] > 0
    expect(ok, op, "codes", "uint8, float8_e4m3fn or float8_e5m2 [N, K] with K > 0", codes)
    if codes.dtype in FLOAT_CODES:
        torch._check(
            bits == 8, lambda: f"qcore.{op}: bits: expected 8, because the codes are floats, got {bits}"
        )
        torch._check(
            zeros is None,
            lambda: f"qcore.{op}: has_zeros: expected false, because the codes are floats",
        )
    sizes = int(codes.shape[0]), int(codes.shape[1])
    return _fake_packed(op, ("codes", codes), scales, zeros, sizes, group_size, bits, layout)


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
    op = "w4a16_repack"
    along_k = (k * bits + 31) // 32
    words = {"gptq": (along_k, n), "awq": (k, n // 8), "compressed_tensors": (n, along_k)}
    torch._check(order in words, lambda: f"qcore.{op}: order must be one of {[*words]}, got {order}")
    ok = qweight.dtype == torch.int32 and qweight.shape == words[order]
    expect(ok, op, "qweight", f"int32 {list(words[order])}", qweight)
    _expect_perm(op, perm, k, "qweight", qweight)
    return _fake_packed(op, ("qweight", qweight), scales, zeros, (n, k), group_size, bits, layout)


def _expect_perm(op: str, perm: Tensor | None, k: int, with_name: str, with_: Tensor) -> None:
    if perm is not None:
        ok = perm.dtype in (torch.int32, torch.int64) and perm.shape == (k,)
        expect(ok, op, "perm", f"int32 or int64 [{k}]", perm)
        expect_same_device(op, "perm", perm, with_name, with_)


@torch.library.register_fake("qcore::w4a16_unpack")
def _fake_unpack(
    qweight: Tensor, scales: Tensor, zeros: Tensor, shape: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n, k, group_size, has_zeros = _described("w4a16_unpack", qweight, scales, zeros, shape)
    groups = (k + group_size - 1) // group_size
    return (
        qweight.new_empty(n, k, dtype=_CODE_DTYPES[int(shape.shape[6])]),
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
    batch_invariant: bool = False,
) -> Tensor:
    op = "w4a16_gemm"
    n, k, _, _ = _described(op, qweight, scales, zeros, shape)
    expect(
        x.dtype in FLOATS and x.dim() >= 1 and x.shape[-1] == k,
        op,
        "x",
        f"float32, float16 or bfloat16 [..., {k}]",
        x,
    )
    layout, device = _LAYOUTS[int(shape.shape[1])], x.device.type
    torch._check(
        device in (layout["device"], "meta"),
        lambda: (
            f"qcore.{op}: the weight is packed for {layout['device']} (layout {layout['name']}), x is on "
            f"{x.device}: move it with QLinear.to or pack it again on {device}"
        ),
    )
    expect_same_device(op, "qweight", qweight, "x", x)
    _expect_perm(op, perm, k, "x", x)
    expect_bias(op, bias, n, x)
    return x.new_empty(*x.shape[:-1], n)


# Gradients of w4a16_gemm: dx = dy @ weight in float32, scattered through perm; dbias = sum of dy.


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *packed, perm, bias, _ = inputs
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
    return dx, None, None, None, None, None, dbias, None


def _dequantize(qweight: Tensor, scales: Tensor, zeros: Tensor, shape: Tensor) -> Tensor:
    """The weight, float32 [N, K]."""
    group_size, bits, kind = shape.shape[4:]
    codes, scales, zeros = torch.ops.qcore.w4a16_unpack(qweight, scales, zeros, shape)
    group = torch.arange(codes.shape[1], device=codes.device) // group_size
    zero: Tensor | float = zeros[:, group].float() if kind == 1 else float(1 << (bits - 1))
    if codes.dtype != torch.uint8:
        zero = 0.0
    weight: Tensor = (codes.float() - zero) * scales.float()[:, group]
    return weight


torch.library.register_autograd("qcore::w4a16_gemm", _gemm_backward, setup_context=_save_for_backward)
