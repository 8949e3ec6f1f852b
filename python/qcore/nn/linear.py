"""The one quantized linear layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qcore.nn.products import product_for
from qcore.qweight import Inputs, QWeight

__all__ = ["QLinear"]

_Tensors = Mapping[str, Tensor]

# Buffers that belong to the inputs: the transforms, and the prefix of the static scale and zero point.
_TRANSFORMS, _X = ("divisor", "permutation"), "x_"


class QLinear(nn.Module):
    """`y = (x / divisor)[..., permutation] @ W^T + bias`, the quantized W [N, K] packed once for its device.

    Replaces `nn.Linear` for inference: x is float32, float16 or bfloat16 [..., K], y [..., N] in the same
    dtype, accumulated in float32. Casting the module (`.half()`, `.to(dtype)`) changes the bias but never
    the scales: the quantized weight stays what its method chose. Moving it to another kind of device
    (`.to("cuda")`, `.cpu()`) packs it anew there, without loss; if that fails, the layer stays as it was.

    Its buffers are `divisor` and `permutation`, which few layers have, and the weight as the ops that its
    format names (`qcore.nn.PRODUCTS`) pack it, `qweight` among them.
    """

    qweight: Tensor
    divisor: Tensor | None
    permutation: Tensor | None
    batch_invariant: bool = False
    """Set to True to get the same bits for a row of x whatever the number of rows, where kernels for CUDA
    would otherwise choose by it (see `qcore.ops.w4a16_gemm`). Not part of the state dict."""
    float_activations: bool = False
    """Set to True to multiply x as it is where it would otherwise be rounded to 8 bits: slower, exact. With a
    block format see `qcore.ops.kquant_gemm`; a weight with 8-bit inputs is dequantized in every call. Not
    part of the state dict."""

    def __init__(self, weight: QWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.format = weight.format
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._product = product_for(weight)
        inputs = weight.inputs.tensors()
        static = {_X + name: inputs.pop(name) for name in ("scale", "zero") if name in inputs}
        self._pack({**weight.tensors, **static}, inputs)

    def _pack(self, tensors: _Tensors, inputs: _Tensors) -> None:
        for name, tensor in self._product.pack(tensors).items():
            self.register_buffer(name, tensor)
        for name in _TRANSFORMS:
            self.register_buffer(name, inputs.get(name))

    @property
    def packed(self) -> Any:
        """What the op of the format takes after x: `qcore.ops.w4a16_gemm` for integers and floats with inputs
        as they are, `kquant_gemm` for `BlockFormat`, `int8_linear` and `fp8_linear` for 8 bits on both sides;
        the tensors of the weight where there is no such op."""
        return self._product.packed(self.tensors())

    def tensors(self) -> _Tensors:
        """The buffers of the packed weight."""
        return {name: tensor for name, tensor in self._present().items() if name not in _TRANSFORMS}

    def _present(self) -> _Tensors:
        return {name: tensor for name, tensor in self._buffers.items() if tensor is not None}

    def to_qweight(self) -> QWeight:
        """The weight in its device-neutral layout: packing is lossless."""
        tensors = self._product.unpack(self.tensors())
        static = {name: tensors.pop(_X + name, None) for name in ("scale", "zero")}
        inputs = Inputs(self.divisor, self.permutation, **static)
        return QWeight(self.format, (self.out_features, self.in_features), tensors, inputs)

    @property
    def weight(self) -> Tensor:
        """The dequantized weight [N, K], made anew at each call, for code that looks at `.weight`."""
        weight = self.to_qweight()
        scales = weight.tensors.get("scales")
        dtype = torch.float32 if scales is None else scales.dtype
        return weight.dequantize(dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        if self.divisor is not None:
            x = (x / self.divisor).to(x.dtype)
        if self.permutation is not None and not self._product.permutes:
            x = x.index_select(-1, self.permutation)
        return self._product.gemm(x, self)

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
        before, weight = self._present(), self.tensors()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.qweight.device
        if device.type not in (before["qweight"].device.type, "meta"):
            # Another kind of device has another packed layout.

            # From meta (`to_empty`) there is nothing to move but the sizes.
            def move(tensor: Tensor) -> Tensor:
                return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

            tensors = {name: move(tensor) for name, tensor in self._product.unpack(weight).items()}
            self._pack(tensors, {name: move(before[name]) for name in _TRANSFORMS if name in before})
        else:
            for name, tensor in before.items():
                if tensor.is_floating_point():
                    self._buffers[name] = tensor.to(device)
        return self

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"{self._product.describe()}, bias={self.bias is not None}"
        )
