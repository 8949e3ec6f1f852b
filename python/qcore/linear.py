"""The one quantized linear layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qcore import ops
from qcore.qweight import QWeight

__all__ = ["QLinear"]


class QLinear(nn.Module):
    """`y = (x / act_scale) @ W^T + bias` with a quantized W [N, K], packed once for its device.

    Replaces `nn.Linear` for inference: x is float32, float16 or bfloat16 [..., K], y [..., N] in the same
    dtype, accumulated in float32. Casting the module (`.half()`, `.to(dtype)`) changes the bias but never
    the scales: the quantized weight stays what its method chose. Moving it to another kind of device
    (`.to("cuda")`, `.cpu()`) packs it anew there, without loss; if that fails, the layer stays as it was.
    """

    qweight: Tensor
    scales: Tensor
    zeros: Tensor
    shape: Tensor
    act_scale: Tensor | None
    batch_invariant: bool = False
    """Set to True to get the same bits for a row of x whatever the number of rows, where kernels for CUDA
    would otherwise choose by it (see `qcore.ops.w4a16_gemm`). Not part of the state dict."""

    def __init__(self, weight: QWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.format = weight.format
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._pack(weight)

    def _pack(self, weight: QWeight) -> None:
        packed = ops.w4a16_pack(
            weight.codes,
            weight.scales,
            weight.zeros,
            group_size=self.format.width(self.in_features),
            bits=self.format.bits,
        )
        for name, tensor in packed._asdict().items():
            self.register_buffer(name, tensor)
        self.register_buffer("act_scale", weight.act_scale)

    @property
    def packed(self) -> ops.PackedW4A16:
        """What `qcore.ops.w4a16_gemm` takes after x."""
        return ops.PackedW4A16(self.qweight, self.scales, self.zeros, self.shape)

    def to_qweight(self) -> QWeight:
        """The weight in its device-neutral layout: packing is lossless."""
        codes, scales, zeros = ops.w4a16_unpack(self.packed)
        return QWeight(self.format, codes, scales, zeros, self.act_scale)

    @property
    def weight(self) -> Tensor:
        """The dequantized weight [N, K], made anew at each call, for code that looks at `.weight`."""
        return self.to_qweight().dequantize(self.scales.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.act_scale is not None:
            x = (x / self.act_scale).to(x.dtype)
        return ops.w4a16_gemm(x, *self.packed, bias=self.bias, batch_invariant=self.batch_invariant)

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
        before, scales, act_scale = self.packed, self.scales, self.act_scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scales.device.type != scales.device.type and self.scales.device.type != "meta":
            # Another kind of device has another packed layout.
            device = self.scales.device

            # From meta (`to_empty`) there is nothing to move but the sizes.
            def move(tensor: Tensor) -> Tensor:
                return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

            codes, old_scales, zeros = ops.w4a16_unpack(before)
            self._pack(
                QWeight(
                    self.format,
                    move(codes),
                    move(old_scales),
                    None if zeros is None else move(zeros),
                    None if act_scale is None else move(act_scale),
                )
            )
        else:
            self.scales = scales.to(self.scales.device)
            if act_scale is not None:
                self.act_scale = act_scale.to(self.scales.device)
        return self

    def extra_repr(self) -> str:
        kind = "symmetric" if self.format.symmetric else "asymmetric"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bits={self.format.bits}, {kind}, group_size={self.format.group_size}, "
            f"bias={self.bias is not None}"
        )
