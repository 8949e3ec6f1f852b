"""The one quantized linear layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qcore import ops
from qcore.formats import BlockFormat, Float8, Int8, IntGroup
from qcore.memory import in_huge_pages
from qcore.qweight import QWeight

__all__ = ["QLinear"]

_Tensors = Mapping[str, Tensor]


class QLinear(nn.Module):
    """`y = (x / act_scale) @ W^T + bias` with a quantized W [N, K], packed once for its device.

    Replaces `nn.Linear` for inference: x is float32, float16 or bfloat16 [..., K], y [..., N] in the same
    dtype, accumulated in float32. Casting the module (`.half()`, `.to(dtype)`) changes the bias but never
    the scales: the quantized weight stays what its method chose. Moving it to another kind of device
    (`.to("cuda")`, `.cpu()`) packs it anew there, without loss; if that fails, the layer stays as it was.

    Its buffers are the packed weight: `qweight`, and for `IntGroup` also `scales`, `zeros` and `shape`; for
    `Int8` and `Float8` there is nothing to pack, and `scales` float32, `w_sum` (the sums of the rows of an
    int8 weight, which zero points of x need) and for static inputs `x_scale` and `x_zero` go with it.
    """

    qweight: Tensor
    act_scale: Tensor | None
    batch_invariant: bool = False
    """Set to True to get the same bits for a row of x whatever the number of rows, where kernels for CUDA
    would otherwise choose by it (see `qcore.ops.w4a16_gemm`). Not part of the state dict."""
    float_activations: bool = False
    """Set to True to multiply x as it is where it would otherwise be rounded to 8 bits: slower, exact. With a
    block format see `qcore.ops.kquant_gemm`; a weight of `Int8` or `Float8` is dequantized in every call. Not
    part of the state dict."""

    def __init__(self, weight: QWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.format = weight.format
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._kernels = _kernels(weight)
        inputs = {"input_scale": weight.input_scale, "input_zero": weight.input_zero}
        static = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        self._pack({**weight.tensors, **static}, weight.act_scale)

    def _pack(self, tensors: _Tensors, act_scale: Tensor | None) -> None:
        for name, tensor in self._kernels.pack(tensors).items():
            self.register_buffer(name, tensor)
        self.register_buffer("act_scale", act_scale)

    @property
    def packed(self) -> Any:
        """What the op of the format takes after x: `qcore.ops.w4a16_gemm` for `IntGroup`, `kquant_gemm` for
        `BlockFormat`, `int8_linear` for `Int8`, `fp8_linear` for `Float8` (`w4a16_gemm` if inputs stay as
        they are)."""
        return self._kernels.packed(self._tensors())

    def _tensors(self) -> _Tensors:
        return {name: tensor for name, tensor in self._buffers.items() if tensor is not None}

    def to_qweight(self) -> QWeight:
        """The weight in its device-neutral layout: packing is lossless."""
        tensors = self._kernels.unpack(self._tensors())
        scale, zero = tensors.pop("input_scale", None), tensors.pop("input_zero", None)
        return QWeight(
            self.format, (self.out_features, self.in_features), tensors, self.act_scale, scale, zero
        )

    @property
    def weight(self) -> Tensor:
        """The dequantized weight [N, K], made anew at each call, for code that looks at `.weight`."""
        weight = self.to_qweight()
        scales = weight.tensors.get("scales")
        return weight.dequantize(torch.float32 if scales is None else scales.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.act_scale is not None:
            x = (x / self.act_scale).to(x.dtype)
        return self._kernels.gemm(x, self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QLinear:
        buffers, bias = self._buffers.copy(), self.bias
        bias_data = None if bias is None else bias.data  # nn.Module may set .data of the same parameter
        try:
            return self._apply_or_fail(fn, recurse)
        except BaseException:
            # No memory there, no kernels for it: a weight moved but not packed anew would be of no use.
            self._buffers = buffers
            self.bias = bias
            if bias is not None and bias_data is not None:
                bias.data = bias_data
            raise

    def _apply_or_fail(self, fn: Callable[[Tensor], Tensor], recurse: bool) -> QLinear:
        before, act_scale = self._tensors(), self.act_scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.qweight.device
        if device.type not in (before["qweight"].device.type, "meta"):
            # Another kind of device has another packed layout.

            # From meta (`to_empty`) there is nothing to move but the sizes.
            def move(tensor: Tensor) -> Tensor:
                return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

            tensors = {name: move(tensor) for name, tensor in self._kernels.unpack(before).items()}
            self._pack(tensors, None if act_scale is None else move(act_scale))
        else:
            for name, tensor in before.items():
                if tensor.is_floating_point():
                    self._buffers[name] = tensor.to(device)
        return self

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"{self._kernels.describe()}, bias={self.bias is not None}"
        )


class _Kernels(Protocol):
    """The ops of one family of formats, between the tensors of a `QWeight`, with its static input scale and
    zero point among them, and the buffers of a layer."""

    def pack(self, tensors: _Tensors) -> dict[str, Tensor]: ...

    def unpack(self, buffers: _Tensors) -> dict[str, Tensor]: ...

    def packed(self, buffers: _Tensors) -> Any: ...

    def gemm(self, x: Tensor, layer: QLinear) -> Tensor: ...

    def describe(self) -> str: ...


def _kernels(weight: QWeight) -> _Kernels:
    format = weight.format
    if isinstance(format, IntGroup):
        return _W4A16(format, weight.shape[1])
    if isinstance(format, BlockFormat):
        return _KQuant(format, *weight.shape)
    if isinstance(format, Float8) and format.activations is None:
        return _Float8(format, weight.shape[1])
    if isinstance(format, (Int8, Float8)):
        if format.activations is not None and format.activations.static and weight.input_scale is None:
            raise ValueError(
                f"weight: {format} needs a static input scale; quantize it with calibration data"
            )
        dtype = weight.tensors["scales"].dtype
        input_dtype = dtype if weight.input_scale is None else weight.input_scale.dtype
        return _W8A8(format, dtype, input_dtype)
    raise TypeError(f"weight: no kernel multiplies by the format {format.name}")


@dataclass(frozen=True)
class _W4A16:
    format: IntGroup
    k: int

    def pack(self, tensors: _Tensors) -> dict[str, Tensor]:
        packed = ops.w4a16_pack(
            tensors["codes"],
            tensors["scales"],
            tensors.get("zeros"),
            group_size=self.format.width(self.k),
            bits=self.format.bits,
        )
        return packed._asdict()

    def unpack(self, buffers: _Tensors) -> dict[str, Tensor]:
        codes, scales, zeros = ops.w4a16_unpack(self.packed(buffers))
        tensors = {"codes": codes, "scales": scales}
        return tensors if zeros is None else {**tensors, "zeros": zeros}

    def packed(self, buffers: _Tensors) -> ops.PackedW4A16:
        return ops.PackedW4A16(*(buffers[name] for name in ops.PackedW4A16._fields))

    def gemm(self, x: Tensor, layer: QLinear) -> Tensor:
        packed = self.packed(layer._tensors())
        return ops.w4a16_gemm(x, *packed, bias=layer.bias, batch_invariant=layer.batch_invariant)

    def describe(self) -> str:
        kind = "symmetric" if self.format.symmetric else "asymmetric"
        return f"bits={self.format.bits}, {kind}, group_size={self.format.group_size}"


@dataclass(frozen=True)
class _KQuant:
    format: BlockFormat
    n: int
    k: int

    def pack(self, tensors: _Tensors) -> dict[str, Tensor]:
        return {"qweight": ops.kquant_pack(tensors["blocks"], self.format.name, self.k)}

    def unpack(self, buffers: _Tensors) -> dict[str, Tensor]:
        return {"blocks": ops.kquant_unpack(buffers["qweight"], self.format.name, self.n, self.k)}

    def packed(self, buffers: _Tensors) -> tuple[Tensor, str, int, int]:
        return buffers["qweight"], self.format.name, self.n, self.k

    def gemm(self, x: Tensor, layer: QLinear) -> Tensor:
        packed = self.packed(layer._tensors())
        return ops.kquant_gemm(x, *packed, bias=layer.bias, float_activations=layer.float_activations)

    def describe(self) -> str:
        return self.format.name


@dataclass(frozen=True)
class _Float8:
    """float8 weights alone: packed and multiplied like integers of 8 bits."""

    format: Float8
    k: int

    def pack(self, tensors: _Tensors) -> dict[str, Tensor]:
        codes, scales = tensors["codes"], tensors["scales"]
        rows = scales.reshape(-1, 1).expand(len(codes), 1).contiguous()
        return ops.w4a16_pack(codes, rows, None, group_size=self.k, bits=8)._asdict()

    def unpack(self, buffers: _Tensors) -> dict[str, Tensor]:
        codes, scales, _ = ops.w4a16_unpack(self.packed(buffers))
        return {"codes": codes, "scales": scales[0] if self.format.scales == "tensor" else scales}

    def packed(self, buffers: _Tensors) -> ops.PackedW4A16:
        return ops.PackedW4A16(*(buffers[name] for name in ops.PackedW4A16._fields))

    def gemm(self, x: Tensor, layer: QLinear) -> Tensor:
        packed = self.packed(layer._tensors())
        return ops.w4a16_gemm(x, *packed, bias=layer.bias, batch_invariant=layer.batch_invariant)

    def describe(self) -> str:
        return f"float8, scales per {self.format.scales}, inputs as they are"


def _decoded_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.float()
    return torch.nn.functional.linear(x.float(), weight, bias).to(x.dtype)


@dataclass(frozen=True)
class _W8A8:
    """Weights in the layout that is stored. Kernels take scales in float32; what they were stored in is kept
    here, so that nothing is lost on the way back."""

    format: Int8 | Float8
    dtype: torch.dtype
    input_dtype: torch.dtype

    def pack(self, tensors: _Tensors) -> dict[str, Tensor]:
        codes, scales = in_huge_pages(tensors["codes"]), tensors["scales"].float()
        by_block = isinstance(self.format, Float8) and self.format.scales == "block"
        buffers = {"qweight": codes, "scales": scales if by_block else scales.reshape(-1)}
        if isinstance(self.format, Int8):
            buffers["w_sum"] = codes.sum(1, dtype=torch.int32)
        if "input_scale" in tensors:
            buffers["x_scale"] = tensors["input_scale"].float()
        if "input_zero" in tensors:
            buffers["x_zero"] = tensors["input_zero"]
        return buffers

    def unpack(self, buffers: _Tensors) -> dict[str, Tensor]:
        scales = buffers["scales"].to(self.dtype)
        by_row = isinstance(self.format, Int8) or self.format.scales == "channel"
        tensors = {"codes": buffers["qweight"], "scales": scales.reshape(-1, 1) if by_row else scales}
        if "x_scale" in buffers:
            tensors["input_scale"] = buffers["x_scale"].to(self.input_dtype)
        if "x_zero" in buffers:
            tensors["input_zero"] = buffers["x_zero"]
        return tensors

    def packed(self, buffers: _Tensors) -> tuple[Tensor, ...]:
        names = ("qweight", "scales", "w_sum") if isinstance(self.format, Int8) else ("qweight", "scales")
        return tuple(buffers[name] for name in names)

    def gemm(self, x: Tensor, layer: QLinear) -> Tensor:
        buffers, inputs = layer._tensors(), self.format.activations
        assert inputs is not None  # else it were _Float8
        if layer.float_activations:
            return _decoded_product(x, self.format.dequantize(self.unpack(buffers)), layer.bias)
        weight, scales, x_scale = buffers["qweight"], buffers["scales"], buffers.get("x_scale")
        if isinstance(self.format, Float8):
            return ops.fp8_linear(x, weight, scales, layer.bias, x_scale)
        return ops.int8_linear(
            x,
            weight,
            scales,
            buffers["w_sum"],
            layer.bias,
            symmetric=inputs.symmetric,
            x_scale=x_scale,
            x_zero=buffers.get("x_zero"),
        )

    def describe(self) -> str:
        scales = "channel" if isinstance(self.format, Int8) else self.format.scales
        return f"{self.format.name}, scales per {scales}, inputs {self.format.activations}"
