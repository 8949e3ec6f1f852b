"""The cases that every kernel's tests share, and the fp64 result they are compared with.

A weight is made from codes, scales and zeros directly, so that no quantizer stands between the
test and the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from qcore import _C, ops

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ISAS = ("scalar", "avx2", "avxvnni", "avx512")  # weakest first, as in qcore/types.h

INT_GROUP_LAYOUTS = [row["number"] for row in ops.layouts() if row["format"] == "int_group"]

# Half a unit in the last place, relative: the one rounding that the result may suffer at the end.
HALF_ULP = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# Of a float32 sum, relative to the sum of magnitudes.
FP32_SUM = 1e-6


@dataclass(frozen=True)
class WeightCase:
    """An int_group weight to be made up by :func:`make_weight`."""

    n: int
    k: int
    group_size: int = 128
    bits: int = 4
    asymmetric: bool = False
    scale_dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        kind = "asym" if self.asymmetric else "sym"
        dtype = str(self.scale_dtype).removeprefix("torch.")
        return f"n{self.n}-k{self.k}-g{self.group_size}-b{self.bits}-{kind}-{dtype}"


@dataclass(frozen=True)
class Weight:
    case: WeightCase
    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    dense: Tensor  # float64 [N, K]

    def pack(self) -> ops.PackedW4A16:
        case = self.case
        return ops.w4a16_pack(self.codes, self.scales, self.zeros, case.group_size, case.bits)


# Every number of bits, with and without zeros; group sizes that do and do not divide K, shorter
# than a vector, and one per row; N and K that fill no whole tile; every dtype of the scales.
WEIGHT_CASES = (
    *(
        WeightCase(n, k, group_size, bits, asymmetric)
        for bits in (2, 3, 4, 8)
        for asymmetric in (False, True)
        for n, k, group_size in ((64, 256, 128), (33, 200, 64), (17, 96, 32))
    ),
    WeightCase(1, 1, 1),
    WeightCase(5, 7, 3, asymmetric=True),
    WeightCase(16, 130, -1, asymmetric=True),
    WeightCase(40, 1000, 96, 3, True, torch.bfloat16),
    WeightCase(48, 512, 128, 4, True, torch.float16),
    WeightCase(48, 512, 128, 4, False, torch.bfloat16),
    WeightCase(128, 1024, 128),
)


def make_weight(case: WeightCase, seed: int = 0) -> Weight:
    generator = torch.Generator().manual_seed(seed)
    group_size = case.k if case.group_size == -1 else case.group_size
    groups = -(-case.k // group_size)

    def integers(*sizes: int) -> Tensor:
        return torch.randint(0, 2**case.bits, sizes, dtype=torch.uint8, generator=generator)

    codes = integers(case.n, case.k)
    zeros = integers(case.n, groups) if case.asymmetric else None
    scales = torch.rand(case.n, groups, generator=generator) * 0.02 + 0.001
    scales = scales.to(case.scale_dtype)
    columns = torch.arange(case.k) // group_size
    zero = zeros[:, columns].double() if zeros is not None else float(2 ** (case.bits - 1))
    dense = scales.double()[:, columns] * (codes.double() - zero)
    return Weight(case, codes, scales, zeros, dense)


def make_x(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_gemm(
    y: Tensor,
    x: Tensor,
    dense: Tensor,
    perm: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """y is x @ dense.T + bias up to fp32 sums and one rounding to the dtype of x."""
    assert y.dtype == x.dtype
    assert y.shape == (*x.shape[:-1], dense.shape[0])
    wide = x.double() if perm is None else x.double()[..., perm.long()]
    add = torch.zeros(()).double() if bias is None else bias.to(x.dtype).double()
    expected = wide @ dense.T + add
    magnitude = wide.abs() @ dense.abs().T + add.abs()
    bound = FP32_SUM * magnitude + 1.01 * HALF_ULP[x.dtype] * expected.abs()
    excess = ((y.double() - expected).abs() - bound).max().item() if y.numel() else 0.0
    assert excess <= 0, f"off by {excess:.3g} more than allowed"


Call = TypeVar("Call", bound=Callable[..., object])


def under_compile(call: Call) -> Call:
    """`call` as one graph, traced with fake kernels and then run with the real ones."""
    return torch.compile(call, fullgraph=True, backend="eager")


# How a call is made whose arguments are wrong.
HOW: dict[str, Callable[[Callable[..., object]], Callable[..., object]]] = {
    "eager": lambda call: call,
    "compiled": under_compile,
}


def by_name(dtype: object) -> str:
    """The id of a dtype among a test's parameters."""
    return str(dtype).removeprefix("torch.")


def cpu_kernels(op: str = "w4a16") -> list[str]:
    """The CPU rows of an op that this machine can run."""
    return [r["name"] for r in ops.kernels() if r["op"] == op and r["isa"] in _C.isas()]


def expected_isa(forced: str, op: str = "w4a16") -> str:
    """That of the row which runs: the strongest up to the forced one that the machine has."""
    upto = ISAS[: ISAS.index(forced) + 1]
    mine = {r["isa"] for r in ops.kernels() if r["op"] == op and r["isa"] in _C.isas()}
    return [isa for isa in upto if isa in mine][-1]
