"""The one quantized linear layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qcore.formats import Format
from qcore.nn.products import TRANSFORMS, product_for
from qcore.qweight import Inputs, QWeight

__all__ = ["QLinear"]

_Tensors = Mapping[str, Tensor]

_X = "x_"  # before the names of the static scale and zero point of the inputs


class QLinear(nn.Module):
    """`y = (x / divisor)[..., permutation] @ W^T + bias`, the quantized W [N, K] packed once for its device.

    Replaces `nn.Linear` for inference: x is float32, float16 or bfloat16 [..., K], y [..., N] in the same
    dtype, accumulated in float32. Casting the module (`.half()`, `.to(dtype)`) changes the bias but never
    the scales: the quantized weight stays what its method chose. Moving it to another kind of device
    (`.to("cuda")`, `.cpu()`) packs it anew there, without loss; if that fails, the layer stays as it was.

    Its buffers are `divisor` and `permutation`, which few layers have, and the weight as the ops that its
    format names (`qcore.nn.PRODUCTS`) pack it, `qweight` among them.
    """

    bias: nn.Parameter | None
    qweight: Tensor
    divisor: Tensor | None
    permutation: Tensor | None
    batch_invariant: bool = False
    """Set to True to get the same bits for a row of x whatever the number of rows, where kernels for CUDA
    would otherwise choose by it (see `qcore.ops.w4a16_gemm`). Not part of the state dict."""
    was_transposed: bool = False
    """Whether it stands for a layer that keeps its weight as [K, N], like GPT-2's `Conv1D`: files say so."""
    float_activations: bool = False
    """Set to True to multiply x as it is where it would otherwise be rounded to 8 bits: slower, exact. With a
    block format see `qcore.ops.kquant_gemm`; a weight with 8-bit inputs is dequantized in every call. Not
    part of the state dict."""

    def __init__(self, weight: QWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.format = weight.format
        parameter = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_parameter("bias", parameter)
        self._product = product_for(weight)
        inputs = weight.inputs.tensors()
        static = {_X + name: inputs.pop(name) for name in ("scale", "zero") if name in inputs}
        self._pack({**weight.tensors, **static}, inputs)

    @classmethod
    def empty(
        cls,
        n: int,
        k: int,
        format: Format,
        bias: bool = False,
        transforms: Iterable[str] = (),
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
    ) -> QLinear:
        """A layer without a weight yet, to be filled by `load_state_dict`: what is in it is undefined.

        Args:
            n: rows N of the weight, out features.
            k: columns K, in features.
            format: how the weight is stored.
            bias: whether there is one [N], in `dtype`.
            transforms: which of "divisor" and "permutation" the layer has.
            dtype: of the scales, where the format does not say it.
            device: where; packed as its kernels read it. "meta" for sizes alone, then
                `to_empty(device=...)`.

        Raises:
            ValueError: n or k below 1, a k that the format does not take, an unknown transform.
        """
        if n < 1 or k < 1:
            raise ValueError(f"n, k: expected sizes of 1 or more, got {n}, {k}")
        shapes = {"divisor": torch.float32, "permutation": torch.int32}
        if unknown := set(transforms) - set(shapes):
            raise ValueError(f"transforms: expected some of {list(shapes)}, got {sorted(unknown)}")
        device = torch.device("cpu") if device is None else torch.device(device)
        inputs = {name: torch.zeros(k, dtype=shapes[name], device=device) for name in transforms}
        if format.activations is not None and format.activations.static:
            inputs["scale"] = torch.zeros(1, dtype=dtype, device=device)
            if not format.activations.symmetric:
                inputs["zero"] = torch.zeros(1, dtype=torch.int32, device=device)
        weight = QWeight(format, (n, k), format.zeros(n, k, dtype, device), Inputs(**inputs))
        return cls(weight, torch.zeros(n, dtype=dtype, device=device) if bias else None)

    def _pack(self, tensors: _Tensors, inputs: _Tensors) -> None:
        for name, tensor in self._product.pack(tensors).items():
            self.register_buffer(name, tensor)
        for name in TRANSFORMS:
            self.register_buffer(name, inputs.get(name))

    @property
    def packed(self) -> Any:
        """What the op of the format takes after x: `qcore.ops.w4a16_gemm` for integers and floats with inputs
        as they are, `kquant_gemm` for `BlockFormat`, `int8_linear` and `fp8_linear` for 8 bits on both sides;
        the tensors of the weight where there is no such op."""
        return self._product.packed(self.tensors())

    def tensors(self) -> _Tensors:
        """The buffers of the packed weight."""
        return {name: tensor for name, tensor in self._present().items() if name not in TRANSFORMS}

    def _present(self) -> _Tensors:
        return {name: tensor for name, tensor in self._buffers.items() if tensor is not None}

    def to_qweight(self) -> QWeight:
        """The weight in its device-neutral layout: packing is lossless."""
        tensors = dict(self._unpacked(self._present()))
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
        buffers, product = self._buffers, self._product  # self.qweight is slow: nn.Module looks it up last
        bias: Tensor | None = self._parameters["bias"]
        wide = x.dtype is torch.float64
        if wide:  # which no kernel computes in
            x, bias = x.float(), None if bias is None else bias.float()
        if (divisor := buffers["divisor"]) is not None:
            x = (x / divisor).to(x.dtype)
        if (permutation := buffers["permutation"]) is not None and not product.permutes:
            x = x.index_select(-1, permutation)
        try:
            y = product.gemm(x, buffers, bias, self)
            return y.double() if wide else y
        except RuntimeError:
            if not self._misplaced():
                raise
        device = self.qweight.device
        warnings.warn(
            f"QLinear: the weight is packed for another device than {device}, to which its tensors were "
            f"moved one by one; it is packed anew. Move layers with .to({str(device)!r})",
            stacklevel=2,
        )
        self._apply(lambda tensor: tensor)
        y = product.gemm(x, self._buffers, bias, self)
        return y.double() if wide else y

    def _misplaced(self) -> bool:
        """Whether the weight lies where no kernel reads its layout: its tensors were moved, not the layer."""
        packed_for, device = self._product.packed_for(self.tensors()), self.qweight.device.type
        return device != "meta" and packed_for not in (None, device)

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
        before, unpacked = self._present(), self._unpacked
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.qweight.device
        if device.type != "meta" and (device.type != before["qweight"].device.type or self._misplaced()):
            # Another kind of device has another packed layout.

            # From meta (`to_empty`) there is nothing to move but the sizes.
            def move(tensor: Tensor) -> Tensor:
                return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

            tensors = {name: move(tensor) for name, tensor in unpacked(before).items()}
            self._pack(tensors, {name: move(before[name]) for name in TRANSFORMS if name in before})
        else:
            for name, tensor in before.items():
                if tensor.is_floating_point():
                    self._buffers[name] = tensor.to(device)
        return self

    def _unpacked(self, buffers: _Tensors) -> _Tensors:
        """What was packed, on the device of the buffers, or on the CPU, which unpacks every layout."""
        buffers = {name: tensor for name, tensor in buffers.items() if name not in TRANSFORMS}
        device, packed_for = buffers["qweight"].device.type, self._product.packed_for(buffers)
        if device != "meta" and packed_for not in (None, device):
            buffers = {name: tensor.cpu() for name, tensor in buffers.items()}
        return self._product.unpack(buffers)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"{self._product.describe()}, bias={self.bias is not None}"
        )
