"""References for the ops on 8-bit activations, in torch and float64, and random data for them."""

from __future__ import annotations

import torch
from torch import Tensor

from cases import HALF_ULP

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SHAPES = ((1, 1, 1), (1, 33, 64), (3, 17, 100), (5, 6, 127), (16, 64, 128), (7, 130, 300), (33, 48, 1029))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """float64"""
    wide = x.double()
    if weight is None:
        return wide
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.double()


def random_x(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Rows of many magnitudes, shifted, so that zero points matter."""
    x = torch.randn(*sizes, generator=generator(seed)) + 0.5
    rows = torch.randn(*sizes[:-1], 1, generator=generator(seed + 1))
    return (x * torch.exp2(3 * rows)).to(dtype)


def random_int8(*sizes: int, seed: int = 2) -> Tensor:
    return torch.randint(-128, 128, sizes, dtype=torch.int8, generator=generator(seed))


def random_scales(*sizes: int, seed: int = 3) -> Tensor:
    """Over many magnitudes."""
    return torch.exp2(torch.randn(*sizes, generator=generator(seed)) * 6 - 6)


def random_float8(*sizes: int, dtype: torch.dtype = torch.float8_e4m3fn, seed: int = 4) -> Tensor:
    """Every exponent, and no NaN or infinity."""
    x = torch.randn(*sizes, generator=generator(seed)) * torch.exp2(
        torch.randint(-9, 6, sizes, generator=generator(seed + 1))
    )
    return x.to(dtype)


def quantized_int8(
    x: Tensor, symmetric: bool, scale: Tensor | None = None, zero: Tensor | None = None, whole: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """q, scale and zero in float32 operations of torch; of finite x."""
    wide = x.float()
    dims = tuple(range(wide.dim())) if whole else (-1,)
    if scale is None:
        if symmetric:
            scale = wide.abs().amax(dims, keepdim=True) / 127
            scale = torch.where(scale == 0, 1, scale)
        else:
            low = wide.amin(dims, keepdim=True).clamp(max=0)
            high = wide.amax(dims, keepdim=True).clamp(min=0)
            scale = (high - low) / 255
            scale = torch.where(scale == 0, 1, scale)
            zero = torch.round(-128 - low / scale).clamp(-128, 127).int()
    points = torch.zeros((), dtype=torch.int32) if zero is None else zero
    q = (torch.round(wide / scale) + points).clamp(-128, 127).to(torch.int8)
    return q, scale, points


def exact_int8(
    x: Tensor, weight: Tensor, x_scale: Tensor, w_scale: Tensor, zero: Tensor | None, bias: Tensor | None
) -> Tensor:
    """float64 [..., N], from integers in int64."""
    products = x.long() @ weight.long().T
    if zero is not None:
        sizes = (1,) if zero.numel() == 1 else (*x.shape[:-1], 1)
        products = products - zero.long().reshape(sizes) * weight.long().sum(1)
    sizes = (1,) if x_scale.numel() == 1 else (*x.shape[:-1], 1)
    y = products.double() * x_scale.double().reshape(sizes) * w_scale.double().flatten()
    return y if bias is None else y + bias.double()


def rounded_int8(x: Tensor, weight: Tensor, x_scale: Tensor, w_scale: Tensor, zero: Tensor | None) -> Tensor:
    """float32 [..., N] by the roundings that int8_gemm promises; without bias."""
    products = x.long() @ weight.long().T
    if zero is not None:
        sizes = (1,) if zero.numel() == 1 else (*x.shape[:-1], 1)
        products = products - zero.long().reshape(sizes) * weight.long().sum(1)
    sizes = (1,) if x_scale.numel() == 1 else (*x.shape[:-1], 1)
    return products.float() * x_scale.reshape(sizes) * w_scale.flatten()


def spread(scale: Tensor, rows: int, columns: int, row_block: int) -> Tensor:
    """float64 [rows, columns] of scales [1], [rows], [rows, 1] or blocks."""
    wide = scale.double()
    if wide.numel() == 1:
        return wide.reshape(1, 1).expand(rows, columns)
    if wide.numel() == rows and (columns <= 128 or wide.dim() == 1 or wide.shape[-1] == 1):
        return wide.reshape(rows, 1).expand(rows, columns)
    blocks = wide.reshape(-1, wide.shape[-1]).repeat_interleave(row_block, 0)[:rows]
    return blocks.repeat_interleave(128, 1)[:, :columns]


def assert_fp8(
    y: Tensor, x: Tensor, weight: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None = None
) -> None:
    """y is the product up to float32 sums and one rounding to its dtype."""
    n, k = weight.shape
    assert y.shape == (*x.shape[:-1], n)
    if y.numel() == 0:
        return
    m = x.numel() // k
    wide = x.reshape(m, k).double() * spread(x_scale, m, k, 1)
    dense = weight.double() * spread(w_scale, n, k, 128)
    add = torch.zeros(()).double() if bias is None else bias.double()
    expected = wide @ dense.T + add
    magnitude = wide.abs() @ dense.abs().T + add.abs()
    bound = 1e-6 * magnitude + 1.01 * HALF_ULP[y.dtype] * expected.abs()
    if y.dtype == torch.float16:
        bound = bound + 2.0**-25
    excess = ((y.reshape(m, n).double() - expected).abs() - bound).max().item()
    assert excess <= 0, f"off by {excess:.3g} more than allowed"
