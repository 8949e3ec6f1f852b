"""Times contenders that take turns, each over weights that rotate through more memory than caches hold.

A clock hides the device, so that tests can run this loop without one: `gpu_timing.CudaClock`,
`cpu_timing.CpuClock`.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

ROTATE_BYTES = 256 << 20  # more than four times the L2 cache of an H200 (60 MB) or the L3 of most CPUs
LEAST_CALLS = 16  # per graph: the gap between two graphs, about a microsecond, must not count
LEAST_SECONDS = 2e-3  # per measurement: a thousand times the resolution of an event


class Clock(Protocol):
    def once(self, calls: Sequence[Callable[[], Any]]) -> float:
        """Seconds of one pass over the calls, launched one by one."""

    def capture(self, calls: Sequence[Callable[[], Any]]) -> Any:
        """Something that replays all the calls."""

    def replay(self, captured: Any, times: int) -> float:
        """Seconds of that many replays."""


def nbytes(state: object) -> int:
    """Bytes of all tensors in a weight's state: a tensor, a module, or tuples and lists of them."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, torch.nn.Module):
        return sum(nbytes(t) for t in (*state.parameters(), *state.buffers()))
    if isinstance(state, (tuple, list)):
        return sum(nbytes(part) for part in state)
    return 0


def copies_wanted(size: int, budget: int, rotate: int = ROTATE_BYTES) -> int:
    """How many copies of a weight of `size` bytes to rotate: more than `rotate` bytes, at most `budget`
    bytes. 0: not even one fits."""
    return min(1 + rotate // max(size, 1), budget // max(size, 1))


def rotated(state: Any, count: int) -> list[Any]:
    """The state and count - 1 copies of it in memory of their own."""
    return [state, *(copy.deepcopy(state) for _ in range(count - 1))]


def calls_per_graph(copies: int, seconds_per_call: float) -> int:
    """Whole passes over the copies, at least LEAST_CALLS calls; fewer if calls are so slow that neither the
    gap between graphs nor a cache matters."""
    calls = copies * math.ceil(LEAST_CALLS / copies)
    if calls * seconds_per_call > 20e-3:
        calls = max(1, min(copies, int(20e-3 / seconds_per_call)))
    return calls


@dataclass
class Entry:
    """A contender in the measurement: `calls`, one per copy of its weight."""

    name: str
    calls: list[Callable[[], Any]]
    captured: Any = None
    calls_captured: int = 0
    replays: int = 1


def prepare(entry: Entry, clock: Clock) -> None:
    """Captures the entry's calls and finds how many replays make one measurement."""
    eager = clock.once(entry.calls[:2]) / len(entry.calls[:2])
    count = calls_per_graph(len(entry.calls), eager)
    entry.captured = clock.capture([entry.calls[i % len(entry.calls)] for i in range(count)])
    entry.calls_captured = count
    once = max(clock.replay(entry.captured, 1), 1e-6)
    entry.replays = min(max(1, math.ceil(LEAST_SECONDS / once)), 200)


def take_turns(entries: Sequence[Entry], clock: Clock, rounds: int) -> dict[str, list[float]]:
    """Seconds per call, one figure per round and entry. A first round warms up and is dropped.

    Every round begins with the next entry: who comes after whom changes what a cache or a clock holds."""
    times: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for round_ in range(rounds + 1):
        first = round_ % max(1, len(entries))
        for entry in (*entries[first:], *entries[:first]):
            seconds = clock.replay(entry.captured, entry.replays)
            if round_:
                times[entry.name].append(seconds / (entry.replays * entry.calls_captured))
    return times


def summary(times: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and largest."""
    return statistics.median(times), min(times), max(times)
