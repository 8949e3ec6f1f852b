"""llama.cpp's quantizers and matrix products by ctypes: the libraries of an installed llama-cpp-python.

`Ggml.load()` opens them, or raises `Missing` with its reason. Only the C interface of ggml is used; tensors
and buffers stay behind the pointers that it returns.

GGML_CPU_TILED_MM=0 in the environment, read once by the library, switches its tiled products off.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcore import ops

# ggml's numbers of the types that are no blocks.
F32, F16, BF16 = 0, 1, 30

SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_log_set": (None, [c_void_p, c_void_p]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "ggml_get_type_traits": (c_void_p, [c_int]),
    "ggml_row_size": (c_size_t, [c_int, c_int64]),
    "ggml_tensor_overhead": (c_size_t, []),
    "ggml_graph_overhead_custom": (c_size_t, [c_size_t, c_bool]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph_custom": (c_void_p, [c_void_p, c_size_t, c_bool]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_cpu_reg": (c_void_p, []),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_get_device": (c_void_p, [c_void_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_supports_op": (c_bool, [c_void_p, c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
}


class Missing(Exception):
    """The peer, or what was asked of it, is not there."""


class InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class TypeTraits(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        ("elements", c_int64),
        ("interleave", c_int64),
        ("bytes", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)),
        ("from_float", c_void_p),
    )


class Ggml:
    """The libraries, and one CPU backend."""

    def __init__(self, libraries: list[ctypes.CDLL], version: str) -> None:
        self.version = version
        self._libraries = libraries
        for name, (result, arguments) in SIGNATURES.items():
            function = self._find(name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)
        init = self._find("ggml_init")
        init.restype, init.argtypes = c_void_p, [InitParams]
        self._init = init
        self._quiet = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)(lambda level, text, data: None)
        self.log_set(self._quiet, None)
        self.backend = self.backend_cpu_init()
        self.types = {b["name"]: b["ggml_type"] for b in ops.block_formats()} | {
            "F32": F32,
            "F16": F16,
            "BF16": BF16,
        }

    def __getattr__(self, name: str) -> Any:  # the functions set above, for type checkers
        raise AttributeError(name)

    def _find(self, name: str) -> Any:
        for library in self._libraries:
            if hasattr(library, name):
                return getattr(library, name)
        raise Missing(f"llama-cpp-python {self.version} exports no {name}")

    @classmethod
    def load(cls) -> Ggml:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            raise Missing("llama-cpp-python is not installed")
        folder = os.path.join(os.path.dirname(spec.origin), "lib")
        libraries = []
        for stem in ("ggml-base", "ggml-cpu", "ggml"):  # each needs those before it
            found = sorted(glob.glob(os.path.join(folder, f"*{stem}.*")))
            if not found:
                raise Missing(f"no {stem} library in {folder}")
            try:
                libraries.append(ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL))
            except OSError as error:
                raise Missing(str(error)) from error
        return cls(libraries, importlib.metadata.version("llama-cpp-python"))

    # -- quantizers

    def row_bytes(self, type: str, k: int) -> int:
        return int(self.row_size(self.types[type], k))

    def quantize(
        self, type: str, w: NDArray[np.float32], importance: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        """w [rows, K], importance [K]; one thread."""
        rows, k = w.shape
        w = np.ascontiguousarray(w, np.float32)
        blocks = np.empty((rows, self.row_bytes(type, k)), np.uint8)
        if importance is not None:
            importance = np.ascontiguousarray(importance, np.float32)
        self.quantize_chunk(
            self.types[type], w.ctypes.data, blocks.ctypes.data, 0, rows, k,
            None if importance is None else importance.ctypes.data,
        )  # fmt: skip
        return blocks

    def dequantize(self, type: str, blocks: NDArray[np.uint8], k: int) -> NDArray[np.float32]:
        """blocks [rows, bytes]; one thread."""
        blocks = np.ascontiguousarray(blocks)
        w = np.empty((blocks.shape[0], k), np.float32)
        traits = ctypes.cast(self.get_type_traits(self.types[type]), POINTER(TypeTraits)).contents
        traits.to_float(blocks.ctypes.data, w.ctypes.data, w.size)
        return w

    # -- products

    def buffer_types(self) -> dict[str, int]:
        """Where a weight may live: plain memory, and what the CPU backend offers for rearranged weights."""
        found = {"plain": self.backend_cpu_buffer_type()}
        address = self.backend_reg_get_proc_address(
            self.backend_cpu_reg(), b"ggml_backend_dev_get_extra_bufts"
        )
        if address:
            extra = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(
                self.backend_get_device(self.backend)
            )
            for at in range(64):  # the list ends with a null
                if not extra or not extra[at]:
                    break
                name = self.backend_buft_name(extra[at]).decode()
                found["repacked" if name == "CPU_REPACK" else name] = int(extra[at])
        return found

    def set_threads(self, count: int) -> None:
        self.backend_cpu_set_n_threads(self.backend, count)

    def context(self, tensors: int, graphs: int = 0) -> int:
        """Room for the descriptions of tensors and graphs, none for their data."""
        size = tensors * self.tensor_overhead() + graphs * self.graph_overhead_custom(8, False)
        return int(self._init(InitParams(size + 4096, None, True)))


class Products:
    """y = x @ w.T for several copies of one weight, in one kind of memory."""

    def __init__(
        self, ggml: Ggml, type: str, blocks: NDArray[np.uint8], k: int, copies: int, memory: str = "plain"
    ) -> None:
        place = ggml.buffer_types().get(memory)
        if place is None:
            raise Missing(f"{memory}: not in this build of llama.cpp")
        self.ggml, self.type, self.k, self.n = ggml, type, k, blocks.shape[0]
        blocks = np.ascontiguousarray(blocks)
        self._contexts = [ggml.context(copies)]
        self._buffers: list[int] = []
        number = ggml.types[type]
        self._weights = [ggml.new_tensor_2d(self._contexts[0], number, k, self.n) for _ in range(copies)]
        self._buffers.append(ggml.backend_alloc_ctx_tensors_from_buft(self._contexts[0], place))
        if not self._buffers[0]:
            raise MemoryError(f"{copies} copies of {blocks.nbytes} bytes")
        self._check(memory)
        for weight in self._weights:
            ggml.backend_tensor_set(weight, blocks.ctypes.data, 0, blocks.nbytes)

    def _check(self, memory: str) -> None:
        ggml, context = self.ggml, self.ggml.context(2)
        x = ggml.new_tensor_2d(context, F32, self.k, 1)
        able = ggml.backend_supports_op(ggml.backend, ggml.mul_mat(context, self._weights[0], x))
        ggml.free(context)
        if not able:
            self.close()
            raise Missing(f"llama.cpp has no {memory} {self.type} on this machine")

    def calls(
        self, x: NDArray[np.float32]
    ) -> tuple[list[Callable[[], None]], Callable[[], NDArray[np.float32]]]:
        """One call per copy of the weight for x [M, K], and what fetches the last call's y [M, N]."""
        ggml, m = self.ggml, x.shape[0]
        x = np.ascontiguousarray(x, np.float32)
        context = ggml.context(2 * len(self._weights) + 1, len(self._weights))
        self._contexts.append(context)
        given = ggml.new_tensor_2d(context, F32, self.k, m)
        results = [ggml.mul_mat(context, weight, given) for weight in self._weights]
        self._buffers.append(
            ggml.backend_alloc_ctx_tensors_from_buft(context, ggml.backend_cpu_buffer_type())
        )
        ggml.backend_tensor_set(given, x.ctypes.data, 0, x.nbytes)
        last = results[0]

        def call_of(result: int) -> Callable[[], None]:
            graph = ggml.new_graph_custom(context, 8, False)
            ggml.build_forward_expand(graph, result)

            def call() -> None:
                nonlocal last
                last = result
                status = ggml.backend_graph_compute(ggml.backend, graph)
                if status:
                    raise RuntimeError(f"ggml_backend_graph_compute: {status}")

            return call

        def fetch() -> NDArray[np.float32]:
            y = np.empty((m, self.n), np.float32)
            ggml.backend_tensor_get(last, y.ctypes.data, 0, y.nbytes)
            return y

        return [call_of(result) for result in results], fetch

    def close(self) -> None:
        for buffer in self._buffers:
            self.ggml.backend_buffer_free(buffer)
        for context in self._contexts:
            self.ggml.free(context)
        self._buffers, self._contexts = [], []
