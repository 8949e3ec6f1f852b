"""Fake kernels of ``kquant_*``, and the gradient of ``kquant_gemm``."""

from __future__ import annotations

from typing import Any

import torch  # before _C, which links against the libraries that torch loads
from torch import Tensor

from qcore import _C
from qcore.fakes.checks import FLOATS, expect, expect_bias, expect_same_device, text

_BLOCKS = {block["name"]: block for block in _C.block_formats()}


def _block_format(op: str, type: str, k: int) -> _C.BlockFormatInfo:
    torch._check(type in _BLOCKS, lambda: f"qcore.{op}: type must be one of {', '.join(_BLOCKS)}, got {type}")
    elements = _BLOCKS[type]["elements"]
    torch._check(
        k > 0 and k % elements == 0,
        lambda: (
            f"qcore.{op}: k must be a positive multiple of {elements}, the elements of a block of {type}, "
            f"got {k}"
        ),
    )
    return _BLOCKS[type]


def _check_blocks(op: str, format: _C.BlockFormatInfo, k: int, blocks: Tensor) -> None:
    elements, size = format["elements"], format["bytes"]
    expect(
        blocks.dtype == torch.uint8 and blocks.dim() >= 1 and blocks.shape[-1] == k // elements * size,
        op,
        "blocks",
        f"uint8 [..., k / {elements} * {size}] for type={format['name']} k={k}",
        blocks,
    )


@torch.library.register_fake("qcore::kquant_quantize")
def _fake_kquant_quantize(w: Tensor, type: str, importance: Tensor | None = None) -> Tensor:
    op = "kquant_quantize"
    expect(w.dtype in FLOATS and w.dim() >= 1, op, "w", "float32, float16 or bfloat16 [..., k]", w)
    k = w.shape[-1]
    format = _block_format(op, type, k)
    if importance is not None:
        expect(
            importance.dtype == torch.float32 and importance.shape == (k,),
            op,
            "importance",
            f"float32 [{k}]",
            importance,
        )
        expect_same_device(op, "importance", importance, "w", w)
    return w.new_empty(*w.shape[:-1], k // format["elements"] * format["bytes"], dtype=torch.uint8)


@torch.library.register_fake("qcore::kquant_dequantize")
def _fake_kquant_dequantize(blocks: Tensor, type: str, k: int, dtype: torch.dtype) -> Tensor:
    op = "kquant_dequantize"
    format = _block_format(op, type, k)
    torch._check(
        dtype in FLOATS,
        lambda: (
            f"qcore.{op}: dtype must be float32, float16 or bfloat16, got {str(dtype).removeprefix('torch.')}"
        ),
    )
    _check_blocks(op, format, k, blocks)
    return blocks.new_empty(*blocks.shape[:-1], k, dtype=dtype)


@torch.library.register_fake("qcore::kquant_split")
def _fake_kquant_split(blocks: Tensor, type: str, k: int) -> tuple[Tensor, Tensor, Tensor]:
    op = "kquant_split"
    format = _block_format(op, type, k)
    _check_blocks(op, format, k, blocks)
    rows, groups = blocks.shape[:-1], k // format["group"]
    scales, mins = (blocks.new_empty(*rows, groups, dtype=torch.float32) for _ in range(2))
    return blocks.new_empty(*rows, k), scales, mins


@torch.library.register_fake("qcore::kquant_join")
def _fake_kquant_join(blocks: Tensor, type: str, k: int, codes: Tensor) -> Tensor:
    op = "kquant_join"
    _check_blocks(op, _block_format(op, type, k), k, blocks)
    expect(
        codes.dtype == torch.uint8 and codes.shape == (*blocks.shape[:-1], k),
        op,
        "codes",
        f"uint8 [..., k], with the rows of blocks, for k={k}",
        codes,
    )
    return blocks.new_empty(blocks.shape)


def _layouts(op: str, type: str, n: int, k: int) -> list[_C.PackedBlocksInfo]:
    _block_format(op, type, k)
    torch._check(n >= 0, lambda: f"qcore.{op}: n: expected 0 or more, got {n}")
    return _C.packed_blocks(type, n, k)


def _packed_layout(op: str, packed: Tensor, type: str, n: int, k: int) -> _C.PackedBlocksInfo:
    """The layout of a packed weight, known by its size."""
    layouts = _layouts(op, type, n, k)
    sizes = " or ".join(f"{layout['elements']} (on {layout['device']})" for layout in layouts)
    fitting = [layout for layout in layouts if layout["elements"] == packed.numel()]
    torch._check(
        packed.dtype == torch.uint8 and packed.dim() == 1 and bool(fitting),
        lambda: (
            f"qcore.{op}: packed must be what kquant_pack returned for type={type} n={n} k={k}, "
            f"uint8 of size {sizes}, got {text(packed)}"
        ),
    )
    return fitting[0]


@torch.library.register_fake("qcore::kquant_pack")
def _fake_kquant_pack(blocks: Tensor, type: str, k: int, layout: int = 0) -> Tensor:
    op = "kquant_pack"
    _check_blocks(op, _block_format(op, type, k), k, blocks)
    torch._check(
        blocks.dim() == 2,
        lambda: (
            f"qcore.{op}: blocks must have two dimensions, one row for each of the weight, got {text(blocks)}"
        ),
    )
    layouts = _layouts(op, type, blocks.shape[0], k)
    device = "cuda" if blocks.device.type == "cuda" else "cpu"
    fitting = [row for row in layouts if layout == row["layout"] or (layout == 0 and row["device"] == device)]
    names = ", ".join(f"{row['layout']} ({row['name']})" for row in layouts)
    torch._check(
        bool(fitting),
        lambda: f"qcore.{op}: layout must be 0, for the one of {device}, or one of {names}, got {layout}",
    )
    return blocks.new_empty(fitting[0]["elements"])


@torch.library.register_fake("qcore::kquant_unpack")
def _fake_kquant_unpack(packed: Tensor, type: str, n: int, k: int) -> Tensor:
    _packed_layout("kquant_unpack", packed, type, n, k)
    format = _BLOCKS[type]
    return packed.new_empty(n, k // format["elements"] * format["bytes"])


@torch.library.register_fake("qcore::kquant_gemm")
def _fake_kquant_gemm(
    x: Tensor,
    packed: Tensor,
    type: str,
    n: int,
    k: int,
    bias: Tensor | None = None,
    float_activations: bool = False,
) -> Tensor:
    op = "kquant_gemm"
    layout, device = _packed_layout(op, packed, type, n, k), x.device.type
    expect(
        x.dtype in FLOATS and x.dim() >= 1 and x.shape[-1] == k,
        op,
        "x",
        f"float32, float16 or bfloat16 [..., {k}]",
        x,
    )
    torch._check(
        device in (layout["device"], "meta"),
        lambda: (
            f"qcore.{op}: the weight is packed for {layout['device']} (layout {layout['name']}), x is on "
            f"{x.device}: move it with QLinear.to or pack it again on {device}"
        ),
    )
    expect_same_device(op, "packed", packed, "x", x)
    expect_bias(op, bias, n, x)
    return x.new_empty(*x.shape[:-1], n)


# Gradients of kquant_gemm: dx = dy @ weight in float32, as if x had not been quantized; dbias = sum of dy.


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, packed, ctx.type, ctx.n, ctx.k, bias, _ = inputs
    ctx.save_for_backward(packed)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _gemm_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (packed,) = ctx.saved_tensors
    dx = dbias = None
    if ctx.needs_input_grad[0]:
        blocks = torch.ops.qcore.kquant_unpack(packed, ctx.type, ctx.n, ctx.k)
        weight = torch.ops.qcore.kquant_dequantize(blocks, ctx.type, ctx.k, torch.float32)
        dx = (dy.float() @ weight).to(dy.dtype)
    if ctx.bias_dtype is not None and ctx.needs_input_grad[5]:  # absent if the bias is
        dbias = dy.float().flatten(0, -2).sum(0) if dy.dim() > 1 else dy
        dbias = dbias.to(ctx.bias_dtype)
    return dx, None, None, None, None, dbias, None


torch.library.register_autograd("qcore::kquant_gemm", _gemm_backward, setup_context=_save_for_backward)
