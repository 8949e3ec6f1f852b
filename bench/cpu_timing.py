"""The clock of the CPU for `timing`, and the limits of the machine.

The limits come from bench/probes.cpp, compiled here, because no call from Python reaches them.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from timing import ROTATE_BYTES

from qcore import _C

ROOT = Path(__file__).resolve().parents[1]
# Threads of whoever ran before spin for a few milliseconds before they sleep, on the cores of the next one.
SETTLE_SECONDS = 10e-3


class CpuClock:
    """The wall clock. What is captured is the list of calls itself."""

    def __init__(self, settle: float = SETTLE_SECONDS) -> None:
        self.settle = settle

    def once(self, calls: Sequence[Callable[[], object]]) -> float:
        calls[0]()
        start = time.perf_counter()
        for call in calls:
            call()
        return time.perf_counter() - start

    def capture(self, calls: Sequence[Callable[[], object]]) -> Sequence[Callable[[], object]]:
        return calls

    def replay(self, captured: Any, times: int) -> float:
        time.sleep(self.settle)
        captured[-1]()  # wakes this contender's threads, untimed
        start = time.perf_counter()
        for _ in range(times):
            for call in captured:
                call()
        return time.perf_counter() - start


class Probes:
    """Calls that read memory or keep the integer multiply units busy, on some threads at once."""

    def __init__(self, build: Path = ROOT / "build" / "probes") -> None:
        compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            raise RuntimeError("the probes of the machine's limits need a C++ compiler (c++) on PATH")
        build.mkdir(parents=True, exist_ok=True)
        source, library = ROOT / "bench" / "probes.cpp", build / "probes.so"
        if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
            flags = ["-std=c++20", "-O2", "-shared", "-fPIC", f"-I{ROOT / 'cpp' / 'include'}"]
            command = [compiler, *flags, str(source), "-o", str(library)]
            subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(library))
        self._read = self._library.qcore_probe_read
        self._read.restype = ctypes.c_uint64
        self._read.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64]
        self._multiply = self._library.qcore_probe_multiply_int8
        self._multiply.restype = ctypes.c_double
        self._multiply.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p]
        self._isa = _C.cpu_isa().encode()
        self._data = _wide_pages(ROTATE_BYTES)
        self._pools: dict[int, ThreadPoolExecutor] = {}

    # Both work for tens of milliseconds, beside which handing the work to threads is nothing.

    def memory(self, threads: int, passes: int = 3) -> tuple[Callable[[], object], float]:
        """A call, and the bytes that it reads."""
        share = ROTATE_BYTES // threads // 4096 * 4096
        base = self._data.data_ptr()

        def read(i: int) -> None:
            for _ in range(passes):
                self._read(self._isa, base + i * share, share)

        return self._on(threads, read), share * threads * passes

    def vnni(self, threads: int, rounds: int = 1 << 23) -> tuple[Callable[[], object], float]:
        """A call, and its integer operations (a multiply-add of two bytes counts as two)."""
        sinks = [ctypes.c_int32(i + 1) for i in range(threads)]

        def multiply(i: int) -> float:
            return float(self._multiply(self._isa, rounds, ctypes.byref(sinks[i])))

        return self._on(threads, multiply), multiply(0) * threads

    def _on(self, threads: int, work: Callable[[int], object]) -> Callable[[], object]:
        if threads == 1:
            return lambda: work(0)
        pool = self._pools.setdefault(threads, ThreadPoolExecutor(threads))
        return lambda: list(pool.map(work, range(threads)))


def _wide_pages(size: int) -> torch.Tensor:
    """Bytes in huge pages where the system has them: the memory at its best."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.int8).fill_(1)
