"""The operators as Python functions: ``torch.ops.qcore.*`` with names, types and documentation.

Shapes use the field's letters: M tokens, K in features, N out features, and
G = ceil(K / group_size) groups per row. The integer codes b of a row's group stand for
``scale * (code - zero)``; a symmetric weight has the constant zero point ``2 ** (bits - 1)``.

Every operator takes its tensors on one device, CPU or CUDA, and raises
:class:`RuntimeError` with a message that names the argument, what was expected and what came. All work
under ``torch.compile(fullgraph=True)``. On CUDA they run on torch's current stream; :func:`w4a16_gemm` and
:func:`kquant_gemm` never wait for it and can be captured into a CUDA graph, :func:`w4a16_pack` waits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch  # before _C, which links against the libraries that torch loads
from torch import Tensor

from qcore import (
    _C,
    fakes,  # noqa: F401 - registers the fake kernels and the gradients
)
from qcore.w8a8_ops import fp8_gemm, fp8_linear, int8_gemm, int8_linear, quantize_fp8, quantize_int8

__all__ = [
    "PackedW4A16",
    "block_formats",
    "fp8_gemm",
    "fp8_linear",
    "int8_gemm",
    "int8_linear",
    "kernels",
    "kquant_dequantize",
    "kquant_gemm",
    "kquant_join",
    "kquant_pack",
    "kquant_quantize",
    "kquant_split",
    "kquant_unpack",
    "layouts",
    "quantize_fp8",
    "quantize_int8",
    "w4a16_gemm",
    "w4a16_pack",
    "w4a16_repack",
    "w4a16_unpack",
]


class PackedW4A16(NamedTuple):
    """A weight in the memory layout of the kernel that was chosen for it.

    It splats: ``w4a16_gemm(x, *packed)``. The layout belongs to this machine: save the codes
    (:func:`w4a16_unpack`), not this.
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


def kernels() -> list[_C.KernelInfo]:
    """The kernel rows of this build, in the order in which they are tried."""
    return _C.kernels()


def block_formats() -> list[_C.BlockFormatInfo]:
    """The block formats of GGUF files: name and number there, elements and bytes of a block, elements that
    share a scale, the integers that codes stand for, and whether a minimum is subtracted."""
    return _C.block_formats()


def layouts() -> list[_C.LayoutInfo]:
    """The packed layouts, each for the kernels of one device. Every build knows all of them."""
    return _C.layouts()


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
        codes: uint8 [N, K], each below ``2 ** bits``; or float8_e4m3fn or float8_e5m2 with 8 bits, which
            stand for ``scale * code`` and should be finite: on CUDA a NaN or an infinity may count as the
            number after the largest.
        scales: float32, float16 or bfloat16 [N, G].
        zeros: uint8 [N, G], or None if the weight is symmetric.
        group_size: columns per scale, 1 to K; the last group of a row may be shorter.
            -1: one group per row.
        bits: 2, 3, 4 or 8.
        layout: 0, or the number of one of :func:`layouts`. So a machine without CUDA prepares a weight
            for one that has it: CPU tensors, layout 2, then ``.to("cuda")`` of each tensor.
    """
    return PackedW4A16(*torch.ops.qcore.w4a16_pack(codes, scales, zeros, group_size, bits, layout))


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


def w4a16_unpack(packed: PackedW4A16) -> tuple[Tensor, Tensor, Tensor | None]:
    """The exact codes [N, K], scales [N, G] and zeros [N, G] (or None) that were packed.

    CPU tensors of every layout; CUDA tensors of the layouts for CUDA.
    """
    codes, scales, zeros = torch.ops.qcore.w4a16_unpack(*packed)
    return codes, scales, zeros if packed.shape.shape[-1] == 1 else None


def w4a16_gemm(
    x: Tensor,
    qweight: Tensor,
    scales: Tensor,
    zeros: Tensor,
    shape: Tensor,
    perm: Tensor | None = None,
    bias: Tensor | None = None,
    batch_invariant: bool = False,
) -> Tensor:
    """``x[..., perm] @ weight.T + bias``, accumulated in float32.

    The result of a row of x depends neither on the number of threads nor on what the other rows hold.
    On the CPU it does not depend on how many they are either; on CUDA it may, in the last bits, unless
    `batch_invariant` is set. Gradients flow to x and bias, not to the weight.

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

    Returns:
        [..., N] in the dtype of x.
    """
    y: Tensor = torch.ops.qcore.w4a16_gemm(x, qweight, scales, zeros, shape, perm, bias, batch_invariant)
    return y


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


def kquant_pack(blocks: Tensor, type: str, k: int, layout: int = 0) -> Tensor:
    """A weight of blocks in the memory layout of the kernels that will read it.

    The layout belongs to the device: save the blocks (:func:`kquant_unpack`), not this.

    Args:
        blocks: uint8 [N, k / elements * bytes], see :func:`kquant_dequantize`.
        type: the name of one of :func:`block_formats`.
        k: elements per row.
        layout: 0 for the one of the device of `blocks`, or the number of one of :func:`layouts`. On CPU
            tensors any may be asked for.

    Returns:
        uint8, one dimension: the bytes of the blocks in another order, rows padded to a multiple of 16 with
        zeros. A few more bytes at the end make the size tell in which layout they are.
    """
    packed: Tensor = torch.ops.qcore.kquant_pack(blocks, type, k, layout)
    return packed


def kquant_unpack(packed: Tensor, type: str, n: int, k: int) -> Tensor:
    """The blocks that went into :func:`kquant_pack`, byte for byte.

    Args:
        packed: from :func:`kquant_pack`. On the CPU it may be in the layout of any device.
        type: as given there.
        n: rows of the weight.
        k: as given there.

    Returns:
        uint8 [n, k / elements * bytes].
    """
    blocks: Tensor = torch.ops.qcore.kquant_unpack(packed, type, n, k)
    return blocks


def kquant_gemm(
    x: Tensor,
    packed: Tensor,
    type: str,
    n: int,
    k: int,
    bias: Tensor | None = None,
    float_activations: bool = False,
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
        packed: the weight [n, k], from :func:`kquant_pack` on the device of x.
        type: the name of one of :func:`block_formats`.
        n: rows of the weight.
        k: columns of the weight.
        bias: float32, float16 or bfloat16 [n]; rounded to the dtype of x.
        float_activations: do not quantize x: multiply it in float32 with the elements that
            :func:`kquant_dequantize` gives, in the order of K. Slower.

    Returns:
        [..., n] in the dtype of x.
    """
    y: Tensor = torch.ops.qcore.kquant_gemm(x, packed, type, n, k, bias, float_activations)
    return y
