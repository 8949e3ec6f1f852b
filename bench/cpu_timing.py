"""What `gpu_timing` needs to time contenders on the CPU: a clock, and the limits of the machine.

The limits come from bench/probes.cpp, compiled here, because no call from Python reaches them.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from qcore import _C

ROOT = Path(__file__).resolve().parents[1]
ROTATE_BYTES = 256 << 20
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
            include = ROOT / "cpp" / "include"
            command = [
                compiler,
                "-std=c++20",
                "-O2",
                "-shared",
                "-fPIC",
                f"-I{include}",
                source,
                "-o",
                library,
            ]
            subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(library))
        self._read = self._library.qcore_probe_read
        self._read.restype = ctypes.c_uint64
        self._read.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64]
        self._multiply = self._library.qcore_probe_multiply_int8
        self._multiply.restype = ctypes.c_double
        self._multiply.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p]
        self._isa = _C.cpu_isa().encode()
        self._data = torch.ones(ROTATE_BYTES, dtype=torch.int8)

    def memory(self, threads: int) -> tuple[Callable[[], object], float]:
        """A call, and the bytes that it reads."""
        share = ROTATE_BYTES // threads // 4096 * 4096
        base = self._data.data_ptr()
        return self._on(threads, lambda i: self._read(self._isa, base + i * share, share)), share * threads

    def vnni(self, threads: int, rounds: int = 1 << 19) -> tuple[Callable[[], object], float]:
        """A call, and its integer operations (a multiply-add of two bytes counts as two)."""
        sinks = [ctypes.c_int32(i + 1) for i in range(threads)]

        def multiply(i: int) -> float:
            return float(self._multiply(self._isa, rounds, ctypes.byref(sinks[i])))

        return self._on(threads, multiply), multiply(0) * threads

    @staticmethod
    def _on(threads: int, work: Callable[[int], object]) -> Callable[[], object]:
        if threads == 1:
            return lambda: work(0)
        pool = ThreadPoolExecutor(threads)
        return lambda: list(pool.map(work, range(threads)))
