"""``kquant_*``: the block formats of GGUF files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qcore import _C
from qcore.ops.common import bias_gradient, input_gradient, need
from qcore.ops.sizes import packed_blocks
from qcore.ops.transforms import differentiable, follow_linear, overload, register_fakes

_BLOCKS = {block["name"]: block for block in _C.block_formats()}
_FIRST = {row["device"]: row["number"] for row in _C.layouts() if row["format"] == "blocks"}


def _row_bytes(op: str, type: str, k: int) -> int:
    """Bytes of a row of k elements."""
    need(type in _BLOCKS, op, f"there is no type {type}")
    return k // _BLOCKS[type]["elements"] * _BLOCKS[type]["bytes"]


def kquant_quantize(w: Tensor, type: str, importance: Tensor | None = None) -> Tensor:
    """Rows of blocks, byte for byte of the layout of llama.cpp, whose elements are close to those of w.

    Scales and codes are searched for the least weighted squared error. The rows do not depend on each other,
    nor on the number of threads or the machine.

    Args:
        w: float32, float16 or bfloat16 [..., k], finite, any strides, on the CPU.
        type: the name of one of :func:`block_formats`; k is a multiple of the elements of its blocks.
        importance: float32 [k], how much an error in each column counts, not negative; None: as
            much in all.

    Returns:
        uint8 [..., k / elements * bytes].
    """
    blocks: Tensor = torch.ops.qcore.kquant_quantize(w, type, importance)
    return blocks


@torch.library.register_fake("qcore::kquant_quantize")
def _fake_quantize(w: Tensor, type: str, importance: Tensor | None = None) -> Tensor:
    need(w.dim() > 0, "kquant_quantize", "w has no dimensions")
    return w.new_empty(*w.shape[:-1], _row_bytes("kquant_quantize", type, w.shape[-1]), dtype=torch.uint8)


def kquant_dequantize(blocks: Tensor, type: str, k: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The elements of rows of blocks, laid out byte for byte as in llama.cpp and its GGUF files.

    They are computed in float32 with the roundings of ``gguf.quants.dequantize`` (the Python package
    ``gguf``), which gives the same bits; float16 and bfloat16 are rounded from those to nearest even. Where
    a block holds scales that are not finite, so may be its elements.

    Args:
        blocks: uint8 [..., k / elements * bytes], any strides. Elements and bytes of a block
            are those of the type in :func:`block_formats`.
        type: the name of one of :func:`block_formats`, as ``"Q4_K"``.
        k: elements per row, a positive multiple of those of a block.
        dtype: torch.float32, torch.float16 or torch.bfloat16.

    Returns:
        [..., k] in dtype.
    """
    values: Tensor = torch.ops.qcore.kquant_dequantize(blocks, type, k, dtype)
    return values


@torch.library.register_fake("qcore::kquant_dequantize")
def _fake_dequantize(blocks: Tensor, type: str, k: int, dtype: torch.dtype) -> Tensor:
    return blocks.new_empty(*blocks.shape[:-1], k, dtype=dtype)


def kquant_split(blocks: Tensor, type: str, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The codes, scales and minima of rows of blocks.

    Element i is ``scales[g] * values[codes[i]] - mins[g]`` in float32, bit for bit as
    :func:`kquant_dequantize` gives it, with the ``values`` of the type in :func:`block_formats` and
    ``g = i // group``.

    Args:
        blocks: see :func:`kquant_dequantize`; on the CPU.
        type: see there.
        k: see there.

    Returns:
        Codes uint8 [..., k], scales and minima float32 [..., k / group]. Minima are 0 in a format
        without them.
    """
    codes, scales, mins = torch.ops.qcore.kquant_split(blocks, type, k)
    return codes, scales, mins


@torch.library.register_fake("qcore::kquant_split")
def _fake_split(blocks: Tensor, type: str, k: int) -> tuple[Tensor, Tensor, Tensor]:
    need(type in _BLOCKS, "kquant_split", f"there is no type {type}")
    rows, groups = blocks.shape[:-1], k // _BLOCKS[type]["group"]
    scales, mins = (blocks.new_empty(*rows, groups, dtype=torch.float32) for _ in range(2))
    return blocks.new_empty(*rows, k), scales, mins


def kquant_join(blocks: Tensor, type: str, k: int, codes: Tensor) -> Tensor:
    """Blocks with the scales of the given ones and other codes.

    Args:
        blocks: see :func:`kquant_dequantize`; on the CPU.
        type: see there.
        k: see there.
        codes: uint8 [..., k], each below the number of ``values`` of the type.
    """
    joined: Tensor = torch.ops.qcore.kquant_join(blocks, type, k, codes)
    return joined


@torch.library.register_fake("qcore::kquant_join")
def _fake_join(blocks: Tensor, type: str, k: int, codes: Tensor) -> Tensor:
    return blocks.new_empty(blocks.shape)


def kquant_pack(blocks: Tensor, type: str, k: int, layout: int = 0) -> Tensor:
    """A weight of blocks in the memory layout of the kernels that will read it.

    The layout belongs to the device: save the blocks (:func:`kquant_unpack`), not this.

    Args:
        blocks: uint8 [N, k / elements * bytes], see :func:`kquant_dequantize`; of experts with E in front.
        type: the name of one of :func:`block_formats`.
        k: elements per row.
        layout: 0 for the one of the device of `blocks`, or the number of one of :func:`layouts`. On CPU
            tensors any may be asked for.

    Returns:
        uint8, one dimension: the bytes of the blocks in another order, rows padded to a multiple of 16 with
        zeros. A few more bytes at the end make the size tell in which layout they are. Of experts two
        dimensions, E in front.
    """
    packed: Tensor = torch.ops.qcore.kquant_pack(blocks, type, k, layout)
    return packed


@torch.library.register_fake("qcore::kquant_pack")
def _fake_pack(blocks: Tensor, type: str, k: int, layout: int = 0) -> Tensor:
    need(blocks.dim() in (2, 3), "kquant_pack", f"blocks have the sizes {list(blocks.shape)}")
    experts = blocks.shape[:-2]
    device = "cuda" if blocks.device.type == "cuda" else "cpu"
    chosen = layout or _FIRST[device]
    need(chosen in _FIRST.values(), "kquant_pack", f"there is no layout {chosen}")
    return blocks.new_empty(*experts, packed_blocks(type, blocks.shape[-2], k, bool(experts), chosen))


def kquant_unpack(packed: Tensor, type: str, n: int, k: int) -> Tensor:
    """The blocks that went into :func:`kquant_pack`, byte for byte.

    Args:
        packed: from :func:`kquant_pack`. On the CPU it may be in the layout of any device.
        type: as given there.
        n: rows of the weight.
        k: as given there.

    Returns:
        uint8 [n, k / elements * bytes], of experts with E in front.
    """
    blocks: Tensor = torch.ops.qcore.kquant_unpack(packed, type, n, k)
    return blocks


@torch.library.register_fake("qcore::kquant_unpack")
def _fake_unpack(packed: Tensor, type: str, n: int, k: int) -> Tensor:
    return packed.new_empty(*packed.shape[:-1], n, _row_bytes("kquant_unpack", type, k))


def kquant_gemm(
    x: Tensor,
    packed: Tensor,
    type: str,
    n: int,
    k: int,
    bias: Tensor | None = None,
    float_activations: bool = False,
    offsets: Tensor | None = None,
) -> Tensor:
    """``x @ weight.T + bias`` with a weight of blocks.

    On the CPU x is quantized inside the call, as llama.cpp does: each row by itself, each block of columns
    (of as many as a block of the weight has) by itself, to 8 bits with a float32 scale. What a block adds is
    then computed in integers, and the sum over the blocks in float32 in the order of K. A row of x that holds
    an infinity or NaN gives a row of NaN. The result of a row depends neither on the number of threads, nor
    on the instruction set, nor on the other rows of x. On CUDA activations stay as they are; products are
    summed in float32 in an order that depends on the number of rows, and so may the last bits of a row.

    Gradients flow to x, as if it had not been quantized, and to bias; not to the weight.

    Args:
        x: float32, float16 or bfloat16 [..., k], any strides.
        packed: the weight [n, k] or [E, n, k], from :func:`kquant_pack` on the device of x.
        type: the name of one of :func:`block_formats`.
        n: rows of the weight.
        k: columns of the weight.
        bias: float32, float16 or bfloat16 [n]; rounded to the dtype of x.
        float_activations: do not quantize x: multiply it in float32 with the elements that
            :func:`kquant_dequantize` gives, in the order of K. Slower.
        offsets: the rows of each expert, see :func:`w4a16_gemm`; bias is then [E, n].

    Returns:
        [..., n] in the dtype of x.
    """
    gemm = overload(torch.ops.qcore.kquant_gemm, x, bias)
    y: Tensor = gemm(x, packed, type, n, k, bias, float_activations, offsets)
    return y


@register_fakes("kquant_gemm")
def _fake_gemm(
    x: Tensor,
    packed: Tensor,
    type: str,
    n: int,
    k: int,
    bias: Tensor | None = None,
    float_activations: bool = False,
    offsets: Tensor | None = None,
) -> Tensor:
    return x.new_empty(*x.shape[:-1], n)


# Gradients of kquant_gemm: dx = dy @ weight in float32, as if x had not been quantized; dbias = sum of dy.


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, packed, ctx.type, ctx.n, ctx.k, bias, _, offsets = inputs
    ctx.save_for_backward(packed, offsets)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _gemm_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    packed, offsets = ctx.saved_tensors
    dx = dbias = None
    if ctx.needs_input_grad[0]:
        blocks = torch.ops.qcore.kquant_unpack(packed, ctx.type, ctx.n, ctx.k)
        weight = torch.ops.qcore.kquant_dequantize(blocks, ctx.type, ctx.k, torch.float32)
        dx = input_gradient(dy, weight, offsets).to(dy.dtype)
    if ctx.bias_dtype is not None and ctx.needs_input_grad[5]:  # absent if the bias is
        dbias = bias_gradient(dy, ctx.bias_dtype, offsets)
    return dx, None, None, None, None, dbias, None, None


differentiable("kquant_gemm", _gemm_backward, _save_for_backward)
follow_linear("kquant_gemm")
