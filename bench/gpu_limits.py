"""What the card can do: from its datasheet where it is known, and measured in the same run always."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Limits:
    """Bytes per second of the device memory and dense bf16 FLOP per second, and where they come from."""

    bytes_per_s: float
    flop_per_s: float
    source: str


# Datasheet figures by the exact name that the driver gives: TB/s, dense bf16 TFLOP/s. The exact name,
# because an "NVIDIA H200 NVL" is another card.
CARDS: dict[str, tuple[float, float]] = {
    "NVIDIA H200": (4.8, 989),
    "NVIDIA H100 80GB HBM3": (3.35, 989),
    "NVIDIA H100 PCIe": (2.0, 756),
    "NVIDIA A100-SXM4-80GB": (2.039, 312),
    "NVIDIA A100-SXM4-40GB": (1.555, 312),
    "NVIDIA L40S": (0.864, 362),
}


@dataclass(frozen=True)
class Measured:
    """Copy: bytes read plus bytes written. Read: a sum over a large tensor. Per second, all three."""

    copy_bytes_per_s: float
    read_bytes_per_s: float
    bf16_flop_per_s: float


def limits_of(name: str, measured: Measured) -> Limits:
    """The datasheet's limits of the card, or the measured ones if it is not in the table."""
    if name in CARDS:
        terabytes, teraflops = CARDS[name]
        return Limits(terabytes * 1e12, teraflops * 1e12, "datasheet")
    bandwidth = max(measured.copy_bytes_per_s, measured.read_bytes_per_s)
    return Limits(bandwidth, measured.bf16_flop_per_s, "measured in this run")


def limit_seconds(moved_bytes: float, flop: float, limits: Limits) -> float:
    """The least time in which the card can move so many bytes and do so many operations."""
    return max(moved_bytes / limits.bytes_per_s, flop / limits.flop_per_s)


def _median_seconds(call: Callable[[], object], rounds: int) -> float:
    times = []
    for round_ in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()  # the host runs ahead, so that no launch gap is timed
        begin.record()
        call()
        end.record()
        end.synchronize()
        if round_ >= 2:
            times.append(float(begin.elapsed_time(end)) * 1e-3)
    return statistics.median(times)


def _bandwidths(elements: int, rounds: int) -> tuple[float, float]:
    source = torch.randn(elements, device="cuda")
    target = torch.empty_like(source)
    copy = _median_seconds(lambda: target.copy_(source), rounds)
    read = _median_seconds(lambda: source.sum(), rounds)
    return 2 * source.nbytes / copy, source.nbytes / read


def measure(rounds: int = 10) -> Measured:
    """Measures the present card; about 0.2 s on a large one. Takes at most a quarter of its free memory."""
    free, _ = torch.cuda.mem_get_info()
    copy, read = _bandwidths(min(1 << 30, free // 16) // 4, rounds)
    size = 8192 if free > (2 << 30) else 2048
    a: Tensor = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    b: Tensor = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    flop = 2.0 * size**3 / _median_seconds(lambda: a @ b, rounds)
    return Measured(copy, read, flop)
