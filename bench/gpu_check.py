"""Whether a result is right, before it is timed: in all, and in each of its rows and columns."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from gpu_report import OURS
from torch import Tensor

# Relative Frobenius norm. Ours rounds the output and at most the weight: 1.7e-3 to 2.4e-3 in bfloat16, an
# eighth of it in float16. Peers may round more, e.g. the sums of groups.
MOST_ERROR = {torch.bfloat16: 4e-3, torch.float16: 1e-3}
MOST_ERROR_OF_PEERS = 2e-2
# A line has fewer elements for its errors to average out: the worst of 10^8 single ones is six times
# the usual error. A line that is missing is off by 1.
LINE_FACTOR = 10.0


@dataclass(frozen=True)
class Errors:
    """Relative ones; NaN if the result holds any."""

    whole: float  # Frobenius norm of the difference over that of the reference
    row: float  # the largest of any row
    column: float

    def wrong(self, most: float) -> str:
        """What is wrong by more than is allowed, or ""."""
        found = (
            ("in all", self.whole, most),
            ("in a row", self.row, LINE_FACTOR * most),
            ("in a column", self.column, LINE_FACTOR * most),
        )
        for where, error, limit in found:
            if not error <= limit:  # true for NaN
                return f"wrong by {error:.2e} {where}, allowed is {limit:.0e}"
        return ""


def most_error(contender: str, dtype: torch.dtype) -> float:
    return MOST_ERROR[dtype] if contender == OURS else MOST_ERROR_OF_PEERS


def compare(y: Tensor, reference: Tensor) -> Errors:
    """y [M, N] beside the reference, float32.

    A line's error is relative to the line's norm, but at least to one typical element: a line of few
    elements may be small because its terms cancel, and their rounding does not."""
    difference = y.float() - reference
    norm = torch.linalg.vector_norm
    size = norm(reference, dtype=torch.float64).clamp_min(1e-30)
    typical = size / math.sqrt(reference.numel())
    lines = [
        float((norm(difference, dim=dim) / norm(reference, dim=dim).clamp_min(typical.float())).max())
        for dim in (1, 0)
    ]
    return Errors(float(norm(difference, dtype=torch.float64) / size), *lines)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """New memory holds NaN (integers: their largest), so that what a kernel leaves unwritten is seen."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
