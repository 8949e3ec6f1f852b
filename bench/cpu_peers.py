"""The contenders of bench/kquant.py: products with a block weight, by qcore and by others.

Each is made from a `Weight` and a number of copies to rotate, or raises `Missing` with its reason. The block
formats of qcore and llama.cpp hold the same bytes; what quantizes in its own way says what it holds, so
that everyone's result is checked against the product with its own weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from ggml import Ggml, Missing, Products
from torch import Tensor
from torch.nn.functional import linear

from qcore import ops

ROWS = 512  # of a weight that differ; the others repeat them


@dataclass(frozen=True)
class Weight:
    """Gaussian, N a multiple of ROWS."""

    type: str
    n: int
    k: int

    @cached_property
    def rows(self) -> Tensor:
        """float32 [ROWS, K]"""
        return torch.randn(ROWS, self.k, generator=torch.Generator().manual_seed(0)) * 0.02

    @cached_property
    def blocks(self) -> Tensor:
        return ops.kquant_quantize(self.rows, self.type).repeat(self.n // ROWS, 1)

    @cached_property
    def dense(self) -> Tensor:
        """What the blocks hold."""
        return ops.kquant_dequantize(self.blocks[:ROWS], self.type, self.k)


class Contender(Protocol):
    nbytes: int  # of one copy of the weight
    dense: Tensor  # float32 [ROWS, K]: what the first rows of the weight hold

    def calls(self, x: Tensor, threads: int) -> Sequence[Callable[[], Any]]:
        """Calls that multiply x, float32 [M, K], each over other copies."""

    products: int  # that one call makes

    def result(self, made: Any) -> Tensor:
        """y [M, N] of what a call returned."""

    def close(self) -> None: ...


class OfTorch:
    """What torch runs: states, each in the memory that packing gave it, and a product for one."""

    products = 1

    def __init__(
        self, pack: Callable[[], Sequence[Tensor]], dense: Tensor, dtype: torch.dtype, copies: int,
        call: Callable[[Tensor, Sequence[Tensor]], Tensor],
    ) -> None:  # fmt: skip
        self.states = [pack() for _ in range(copies)]
        self.nbytes = sum(t.numel() * t.element_size() for t in self.states[0])
        self.dense, self._dtype, self._call = dense, dtype, call

    def calls(self, x: Tensor, threads: int) -> Sequence[Callable[[], Tensor]]:
        torch.set_num_threads(threads)
        given, call = x.to(self._dtype), self._call
        return [lambda s=state: call(given, s) for state in self.states]  # type: ignore[misc]

    def result(self, made: Tensor) -> Tensor:
        return made.float()

    def close(self) -> None:
        self.states = []


def qcore(weight: Weight, copies: int) -> Contender:
    type, n, k = weight.type, weight.n, weight.k
    gemm = torch.ops.qcore.kquant_gemm
    return OfTorch(
        lambda: [ops.kquant_pack(weight.blocks, type, k)], weight.dense, torch.float32, copies,
        lambda x, s: gemm(x, s[0], type, n, k),
    )  # fmt: skip


def torch_bf16(weight: Weight, copies: int) -> Contender:
    dense = weight.rows.bfloat16()
    return OfTorch(
        lambda: [dense.repeat(weight.n // ROWS, 1)],
        dense.float(),
        torch.bfloat16,
        copies,
        lambda x, s: linear(x, s[0]),
    )


def nearest_int4(rows: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Codes 0 to 15 [N, K] and scales [N, K / group]: w = scale * (code - 8)."""
    grouped = rows.unflatten(1, (-1, group))
    scales = (grouped.abs().amax(-1) / 8).bfloat16().float()
    codes = (grouped / scales.unsqueeze(-1)).round().clamp(-8, 7) + 8
    return codes.flatten(1).int(), scales


def dense_int4(codes: Tensor, scales: Tensor) -> Tensor:
    return ((codes - 8).unflatten(1, (scales.shape[1], -1)) * scales.unsqueeze(-1)).flatten(1)


def torch_int4(weight: Weight, copies: int, group: int = 32) -> Contender:
    """scale * (code - 8) + zero, bfloat16 activations."""
    if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        raise Missing("this torch has no _weight_int4pack_mm_for_cpu")
    codes, scales = nearest_int4(weight.rows, group)
    repeat = weight.n // ROWS
    table = torch.stack([scales, torch.zeros_like(scales)], -1).repeat(repeat, 1, 1).transpose(0, 1)
    pack, mm = torch.ops.aten._convert_weight_to_int4pack_for_cpu, torch.ops.aten._weight_int4pack_mm_for_cpu

    def state() -> Sequence[Tensor]:
        return [pack(codes.repeat(repeat, 1), 1), table.bfloat16().contiguous()]

    return OfTorch(
        state, dense_int4(codes, scales), torch.bfloat16, copies, lambda x, s: mm(x, s[0], group, s[1])
    )


class OfLlama:
    """llama.cpp, its weight in one of the kinds of memory that it offers."""

    products = 1

    def __init__(self, ggml: Ggml, weight: Weight, memory: str, copies: int) -> None:
        self._ggml, self.dense, self.nbytes = ggml, weight.dense, weight.blocks.numel()
        self._products = Products(ggml, weight.type, weight.blocks.numpy(), weight.k, copies, memory)
        self._fetch: Callable[[], Any] = lambda: None

    def calls(self, x: Tensor, threads: int) -> Sequence[Callable[[], Any]]:
        self._ggml.set_threads(threads)
        calls, self._fetch = self._products.calls(x.numpy())
        return calls

    def result(self, made: Any) -> Tensor:
        return torch.from_numpy(self._fetch())

    def close(self) -> None:
        self._products.close()


class OfOnnx:
    """onnxruntime's MatMulNBits: 4 bits, scale * (code - 8). One call makes the products of all copies, as
    the nodes of one graph, because sessions do not share threads."""

    def __init__(self, weight: Weight, copies: int, group: int, level: int) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise Missing(f"{error.name} is not installed") from error
        self._onnx, self._runtime = onnx, onnxruntime
        codes, scales = nearest_int4(weight.rows, group)
        self.dense, self.products = dense_int4(codes, scales), copies
        self._weight, self._group, self._level = weight, group, level
        repeat = weight.n // ROWS
        self._codes = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8).repeat(repeat, 1).numpy()
        self._scales = scales.repeat(repeat, 1).numpy()
        self.nbytes = self._codes.nbytes + self._scales.nbytes
        self._session: Any = None
        self._threads = 0

    def _start(self, threads: int) -> None:
        helper, weight, group = self._onnx.helper, self._weight, self._group
        tensor, kind = self._onnx.numpy_helper.from_array, self._onnx.TensorProto.FLOAT
        nodes, held = [], []
        shape = (weight.n, weight.k // group, group // 2)
        for i in range(self.products):
            # It shares what it packs from equal bytes, so copies beyond the first differ: the row order does.
            codes, scales = np.roll(self._codes, i, 0), np.roll(self._scales, i, 0)
            held += [tensor(codes.reshape(shape), f"b{i}"), tensor(scales.reshape(-1), f"s{i}")]
            nodes.append(
                helper.make_node(
                    "MatMulNBits", ["x", f"b{i}", f"s{i}"], [f"y{i}"], domain="com.microsoft",
                    K=weight.k, N=weight.n, bits=4, block_size=group, accuracy_level=self._level,
                )
            )  # fmt: skip
        x = helper.make_tensor_value_info("x", kind, ["m", weight.k])
        y = [helper.make_tensor_value_info(f"y{i}", kind, ["m", weight.n]) for i in range(self.products)]
        sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        graph = helper.make_graph(nodes, "products", [x], y, held)
        model = helper.make_model(graph, opset_imports=sets, ir_version=10)
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self._session = self._runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._threads = threads

    def calls(self, x: Tensor, threads: int) -> Sequence[Callable[[], Any]]:
        if self._threads != threads:
            self._start(threads)
        binding = self._session.io_binding()
        binding.bind_cpu_input("x", x.numpy())
        made = [np.empty((x.shape[0], self._weight.n), np.float32) for _ in range(self.products)]
        for i, y in enumerate(made):
            binding.bind_output(f"y{i}", "cpu", 0, np.float32, y.shape, y.ctypes.data)

        def call() -> Any:
            self._session.run_with_iobinding(binding)
            return made[0]

        return [call]

    def result(self, made: Any) -> Tensor:
        return torch.from_numpy(made)

    def close(self) -> None:
        self._session, self._threads = None, 0
