"""What the GPU tests share. Importing it needs no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cases import Weight, WeightCase, make_weight
from qcore import _C, ops

KERNELS = [row["name"] for row in ops.kernels() if row["device"] == "cuda" and row["op"] == "w4a16"]
KQUANT_KERNELS = [row["name"] for row in ops.kernels() if row["device"] == "cuda" and row["op"] == "kquant"]
LAYOUTS = [r["number"] for r in ops.layouts() if r["device"] == "cuda" and r["format"] == "int_group"]
# tests/conftest.py skips what is marked gpu where there is none.
MARKS = [
    pytest.mark.gpu,
    pytest.mark.skipif(not KERNELS, reason="this build of qcore has no CUDA kernels"),
]


def cuda_weight(case: WeightCase, seed: int = 0, device: str = "cuda") -> Weight:
    """The same weight as `make_weight` gives, on a GPU."""
    weight = make_weight(case, seed)
    return replace(
        weight,
        codes=weight.codes.to(device),
        scales=weight.scales.to(device),
        zeros=None if weight.zeros is None else weight.zeros.to(device),
        dense=weight.dense.to(device),
    )


def compute_capability() -> int:
    """90 for 9.0."""
    major, minor = torch.cuda.get_device_capability()
    return major * 10 + minor


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that torch hands out is full of NaN: outputs and workspaces that are not written show."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(8, device="cuda").isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def gemm(x: Tensor, *arguments: object, **options: object) -> Tensor:
    """w4a16_gemm in poisoned memory."""
    with poisoned():
        return ops.w4a16_gemm(x, *arguments, **options)  # type: ignore[arg-type]


def refusal(
    kernel: str, case: WeightCase, dtype: torch.dtype, m: int, batch_invariant: bool = False
) -> str | None:
    """Why the forced kernel does not take the problem, None if it does."""
    group_size = case.k if case.group_size == -1 else case.group_size
    name = str(dtype).removeprefix("torch.")
    try:
        taken, _, _ = _C.explain(
            "w4a16",
            m,
            case.n,
            case.k,
            group_size,
            case.bits,
            case.asymmetric,
            name,
            "cuda",
            sm=compute_capability(),
            batch_invariant=batch_invariant,
        )
    except ValueError as error:
        return str(error)
    assert taken == kernel
    return None
