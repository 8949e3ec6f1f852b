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

from qcore import _C
from qcore.ops.fake_quantize import fake_quantize
from qcore.ops.kquant import (
    kquant_dequantize,
    kquant_gemm,
    kquant_join,
    kquant_pack,
    kquant_quantize,
    kquant_split,
    kquant_unpack,
)
from qcore.ops.quantize import quantize_fp8, quantize_int8
from qcore.ops.scaled import fp8_gemm, fp8_linear, int8_gemm, int8_linear
from qcore.ops.w4a16 import PackedW4A16, w4a16_gemm, w4a16_pack, w4a16_repack, w4a16_unpack

__all__ = [
    "PackedW4A16",
    "block_formats",
    "fake_quantize",
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
