"""The ops that pack and multiply weights. A format names its own (`Format.op`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from qcore import ops
from qcore.formats import BLOCK, ROW, TENSOR, Activations
from qcore.formats.activations import TOKEN_BLOCK
from qcore.nn.huge_pages import in_huge_pages
from qcore.ops.transforms import in_autocast_dtype
from qcore.qweight import QWeight

__all__ = ["PRODUCTS", "TRANSFORMS", "Product", "product_for"]

_Tensors = Mapping[str, Tensor]
_ON = {layout["number"]: layout["device"] for layout in ops.layouts()}

TRANSFORMS = ("divisor", "permutation")
"""Buffers of a layer that belong to its inputs; None where there are none."""


class Options(Protocol):
    """What a product sees of the layer that it computes, `QLinear`: how it multiplies."""

    batch_invariant: bool
    float_activations: bool


class Product(ABC):
    """The ops of one family of formats, between the tensors of a `QWeight` and the buffers of a layer.

    The static scale and zero point of the inputs, where there are some, are the tensors "x_scale" and
    "x_zero" on both sides.
    """

    permutes = False
    """Whether the op itself takes x in activation order; else the layer does."""

    def __init__(self, weight: QWeight) -> None:
        self.n, self.k = weight.shape

    @abstractmethod
    def pack(self, tensors: _Tensors) -> dict[str, Tensor]:
        """The buffers of a layer; "qweight" is one of them."""

    @abstractmethod
    def unpack(self, buffers: _Tensors) -> dict[str, Tensor]:
        """What was packed, without loss; in the memory of the CPU or of the device that it was packed for."""

    def packed_for(self, buffers: _Tensors) -> str | None:
        """The kind of device whose kernels read the buffers; None: any."""
        return None

    @abstractmethod
    def packed(self, buffers: _Tensors) -> Any:
        """What the op takes after x."""

    @abstractmethod
    def gemm(self, x: Tensor, buffers: Any, bias: Tensor | None, options: Options) -> Tensor:
        """x [..., K] by the weight, and the bias added. The buffers of the layer are those that `pack` made,
        and `permutation`, which is None where x comes in order."""

    @abstractmethod
    def describe(self) -> str: ...


def product_for(weight: QWeight) -> Product:
    """The ops for a weight."""
    if len(weight.shape) != 2:
        raise ValueError(f"weight: expected [N, K], got {weight.shape}")
    format = weight.format
    if format.activations is not None and format.activations.static and weight.inputs.scale is None:
        raise ValueError(f"weight: {format} needs a static input scale; quantize it with calibration data")
    return PRODUCTS[format.op](weight)


def _in_autocast(x: Tensor) -> Tensor:
    """x as the ops see it, which follow autocast by themselves."""
    device = x.device.type
    return in_autocast_dtype(x, device) if torch.is_autocast_enabled(device) else x


def decoded_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x by a weight in float32, in the dtype of x, under autocast too."""
    bias = None if bias is None else bias.float()
    with torch.autocast(x.device.type, enabled=False):
        return torch.nn.functional.linear(x.float(), weight, bias).to(x.dtype)


class _Scaled(Product):
    """What works on codes under scales."""

    def __init__(self, weight: QWeight) -> None:
        super().__init__(weight)
        assert weight.format.scaled is not None  # else it had named other ops
        self.format = weight.format.scaled

    def describe(self) -> str:
        return str(self.format)


class W4A16(_Scaled):
    """Unsigned integers by row or group, or 8-bit floats by row or tensor; inputs as they are."""

    permutes = True

    def pack(self, tensors: _Tensors) -> dict[str, Tensor]:
        scales, zeros = tensors["scales"], tensors.get("zeros")
        if self.format.granularity == TENSOR:
            scales = scales.reshape(1, 1).expand(self.n, 1).contiguous()
        width = self.format.granularity.width(self.k)
        packed = ops.w4a16_pack(tensors["codes"], scales, zeros, group_size=width, bits=self.format.bits)
        return packed._asdict()

    def unpack(self, buffers: _Tensors) -> dict[str, Tensor]:
        codes, scales, zeros = ops.w4a16_unpack(self.packed(buffers))
        if self.format.granularity == TENSOR:
            scales = scales[0]
        tensors = {"codes": codes, "scales": scales}
        return tensors if zeros is None else {**tensors, "zeros": zeros}

    def packed(self, buffers: _Tensors) -> ops.PackedW4A16:
        return ops.PackedW4A16(*(buffers[name] for name in ops.PackedW4A16._fields))

    def packed_for(self, buffers: _Tensors) -> str | None:
        return _ON[buffers["shape"].shape[1]]

    def gemm(self, x: Tensor, buffers: Any, bias: Tensor | None, options: Options) -> Tensor:
        return ops.w4a16_gemm(
            x,
            buffers["qweight"],
            buffers["scales"],
            buffers["zeros"],
            buffers["shape"],
            perm=buffers["permutation"],
            bias=bias,
            batch_invariant=options.batch_invariant,
        )


class KQuant(Product):
    """The block formats of GGUF."""

    def __init__(self, weight: QWeight) -> None:
        super().__init__(weight)
        self.type = weight.format.name

    def pack(self, tensors: _Tensors) -> dict[str, Tensor]:
        return {"qweight": ops.kquant_pack(tensors["blocks"], self.type, self.k)}

    def unpack(self, buffers: _Tensors) -> dict[str, Tensor]:
        return {"blocks": ops.kquant_unpack(buffers["qweight"], self.type, self.n, self.k)}

    def packed(self, buffers: _Tensors) -> tuple[Tensor, str, int, int]:
        return buffers["qweight"], self.type, self.n, self.k

    def packed_for(self, buffers: _Tensors) -> str | None:
        return _ON[buffers["qweight"].shape[-1] % 16]  # see kquant_pack

    def gemm(self, x: Tensor, buffers: Any, bias: Tensor | None, options: Options) -> Tensor:
        return ops.kquant_gemm(
            x,
            buffers["qweight"],
            self.type,
            self.n,
            self.k,
            bias=bias,
            float_activations=options.float_activations,
        )

    def describe(self) -> str:
        return self.type


class _W8A8(_Scaled):
    """8 bits on both sides. Weights lie in the layout that is stored. Kernels take scales in float32; what
    they were stored in is kept here, so that nothing is lost on the way back."""

    def __init__(self, weight: QWeight) -> None:
        super().__init__(weight)
        self.dtype = weight.tensors["scales"].dtype
        self.input_dtype = self.dtype if weight.inputs.scale is None else weight.inputs.scale.dtype

    def pack(self, tensors: _Tensors) -> dict[str, Tensor]:
        codes, scales = in_huge_pages(tensors["codes"]), tensors["scales"].float()
        by_block = self.format.granularity == BLOCK
        buffers = {"qweight": codes, "scales": scales if by_block else scales.reshape(-1)}
        if "x_scale" in tensors:
            buffers["x_scale"] = tensors["x_scale"].float()
        return buffers | {name: tensors[name] for name in ("x_zero",) if name in tensors}

    def unpack(self, buffers: _Tensors) -> dict[str, Tensor]:
        shape = self.format.granularity.shape(self.n, self.k)
        tensors = {"codes": buffers["qweight"], "scales": buffers["scales"].to(self.dtype).reshape(shape)}
        if "x_scale" in buffers:
            tensors["x_scale"] = buffers["x_scale"].to(self.input_dtype)
        return tensors | {name: buffers[name] for name in ("x_zero",) if name in buffers}

    def packed(self, buffers: _Tensors) -> tuple[Tensor, ...]:
        return buffers["qweight"], buffers["scales"]

    def gemm(self, x: Tensor, buffers: Any, bias: Tensor | None, options: Options) -> Tensor:
        if options.float_activations:
            return decoded_product(_in_autocast(x), self.format.dequantize(self.unpack(buffers)), bias)
        return self._gemm(x, buffers, bias)

    @abstractmethod
    def _gemm(self, x: Tensor, buffers: Any, bias: Tensor | None) -> Tensor: ...


class Int8Product(_W8A8):
    """Integers by integers."""

    def pack(self, tensors: _Tensors) -> dict[str, Tensor]:
        buffers = super().pack(tensors)  # zero points of x need the sums of the weight's rows
        return buffers | {"w_sum": buffers["qweight"].sum(1, dtype=torch.int32)}

    def packed(self, buffers: _Tensors) -> tuple[Tensor, ...]:
        return (*super().packed(buffers), buffers["w_sum"])

    def _gemm(self, x: Tensor, buffers: Any, bias: Tensor | None) -> Tensor:
        assert self.format.activations is not None  # else it had named other ops
        return ops.int8_linear(
            x,
            buffers["qweight"],
            buffers["scales"],
            buffers["w_sum"],
            bias,
            symmetric=self.format.activations.symmetric,
            x_scale=buffers.get("x_scale"),
            x_zero=buffers.get("x_zero"),
        )


class Fp8Product(_W8A8):
    """e4m3 by e4m3."""

    def _gemm(self, x: Tensor, buffers: Any, bias: Tensor | None) -> Tensor:
        return ops.fp8_linear(x, buffers["qweight"], buffers["scales"], bias, buffers.get("x_scale"))


class Decoded(Product):
    """The reference: every format, dequantized in every call, inputs rounded as the format says."""

    def __init__(self, weight: QWeight) -> None:
        super().__init__(weight)
        self.format = weight.format
        self.first = "codes" if "codes" in weight.tensors else "blocks"

    def pack(self, tensors: _Tensors) -> dict[str, Tensor]:
        return {"qweight" if name == self.first else name: tensor for name, tensor in tensors.items()}

    def unpack(self, buffers: _Tensors) -> dict[str, Tensor]:
        tensors = {name: tensor for name, tensor in buffers.items() if name not in TRANSFORMS}
        return {self.first if name == "qweight" else name: tensor for name, tensor in tensors.items()}

    def packed(self, buffers: _Tensors) -> dict[str, Tensor]:
        return self.unpack(buffers)

    def gemm(self, x: Tensor, buffers: Any, bias: Tensor | None, options: Options) -> Tensor:
        x, tensors, inputs = _in_autocast(x), self.unpack(buffers), self.format.activations
        if inputs is not None and not options.float_activations:
            x = _rounded(x, inputs, tensors.get("x_scale"), tensors.get("x_zero"))
        return decoded_product(x, self.format.dequantize(tensors), bias)

    def describe(self) -> str:
        return f"{self.format}, decoded in every call (no kernel multiplies by it)"


def _rounded(x: Tensor, inputs: Activations, scale: Tensor | None, zero: Tensor | None) -> Tensor:
    """x as a product of 8-bit inputs sees it."""
    scale, per_token = None if scale is None else scale.float(), inputs.granularity == ROW
    if inputs.is_integer:
        codes, used, zeros = ops.quantize_int8(x, inputs.symmetric, per_token, scale, zero)
        return ((codes.float() - (0 if inputs.symmetric else zeros)) * used).to(x.dtype)
    name = {ROW: "token", TENSOR: "tensor", TOKEN_BLOCK: "block"}[inputs.granularity]
    codes, used = ops.quantize_fp8(x, scale, name)
    spread = used.repeat_interleave(128, -1)[..., : x.shape[-1]] if name == "block" else used
    return (codes.float() * spread).to(x.dtype)


PRODUCTS: dict[str, type[Product]] = {
    "w4a16": W4A16,
    "kquant": KQuant,
    "int8": Int8Product,
    "fp8": Fp8Product,
    "decoded": Decoded,
}
