"""torch.ops.qcore.kquant_pack, _unpack, _gemm in torch: opcheck, fakes, gradients, torch.compile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import DTYPES, by_name, make_x, under_compile
from kquant_cases import block_weight
from qcore import ops
from test_kquant_gemm import BAD_GEMM, BAD_PACK, BLOCK_LAYOUTS, GOOD, GOOD_PACK

WEIGHT = block_weight("Q6_K", 20, 1)
PACKED = WEIGHT.pack()
ARGUMENTS = (PACKED, *WEIGHT.arguments())
GEMM = torch.ops.qcore.kquant_gemm.default


@pytest.mark.parametrize("op", ["kquant_pack", "kquant_unpack", "kquant_gemm"])
@pytest.mark.parametrize("device", ["CPU", "CUDA", "Meta"])
def test_registered_in_every_build(op: str, device: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"qcore::{op}", device)


@pytest.mark.parametrize("layout", [0, *BLOCK_LAYOUTS])
def test_opcheck_pack_and_unpack(layout: int) -> None:
    torch.library.opcheck(torch.ops.qcore.kquant_pack.default, (WEIGHT.blocks, "Q6_K", WEIGHT.k, layout))
    packed = ops.kquant_pack(WEIGHT.blocks, "Q6_K", WEIGHT.k, layout)
    torch.library.opcheck(torch.ops.qcore.kquant_unpack.default, (packed, *WEIGHT.arguments()))


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,)], ids=str)
def test_opcheck_gemm(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    x = make_x(*leading, WEIGHT.k, dtype=dtype)
    torch.library.opcheck(GEMM, (x, *ARGUMENTS))
    torch.library.opcheck(GEMM, (x, *ARGUMENTS, make_x(WEIGHT.n), True))


def test_opcheck_gemm_with_gradients() -> None:
    x, bias = make_x(4, WEIGHT.k).requires_grad_(), make_x(WEIGHT.n).requires_grad_()
    torch.library.opcheck(GEMM, (x, *ARGUMENTS))
    torch.library.opcheck(GEMM, (x, *ARGUMENTS, bias))


def test_meta_tensors_have_the_layout_of_the_cpu() -> None:
    packed = ops.kquant_pack(WEIGHT.blocks.to("meta"), "Q6_K", WEIGHT.k)
    assert (packed.shape, packed.dtype) == (PACKED.shape, PACKED.dtype)
    x = torch.empty(2, 3, WEIGHT.k, device="meta")
    assert ops.kquant_gemm(x, packed, *WEIGHT.arguments()).shape == (2, 3, WEIGHT.n)
    assert ops.kquant_unpack(packed, *WEIGHT.arguments()).shape == WEIGHT.blocks.shape


@pytest.mark.parametrize("name", BAD_GEMM)
def test_bad_gemm_arguments_under_compile(name: str) -> None:
    """The fake takes them as they come, the core refuses them when the graph runs."""
    change, message = BAD_GEMM[name]
    message = "negative dimension -1" if name == "negative n" else "qcore.kquant_gemm: " + message
    with pytest.raises(RuntimeError, match=message):
        under_compile(GEMM)(**(GOOD | change))


# The fake asks the core for the sizes, and has no other answer for a layout that does not exist.
WORDS_OF_FAKES = {
    "type": r"type must be a block format, got F16",
    "k": r"k: expected 1 .. \d+ and a multiple of 256",
    "rank": r"qcore.kquant_pack: the sizes of the result are unknown: blocks have the sizes \[1, 1, ",
    "layout": r"qcore.kquant_pack: the sizes of the result are unknown: there is no layout 1",
}


@pytest.mark.parametrize("name", BAD_PACK)
def test_bad_pack_arguments_under_compile(name: str) -> None:
    change, message = BAD_PACK[name]
    with pytest.raises(RuntimeError, match=WORDS_OF_FAKES.get(name, "qcore.kquant_pack: " + message)):
        under_compile(torch.ops.qcore.kquant_pack)(**(GOOD_PACK | change))


# -- gradients -------------------------------------------------------------------------------------


def gradients(leading: tuple[int, ...], dtype: torch.dtype, function: object = ops.kquant_gemm) -> None:
    """Those of the dense weight."""
    x = make_x(*leading, WEIGHT.k, dtype=dtype).requires_grad_()
    bias = make_x(WEIGHT.n, seed=2).requires_grad_()
    dy = make_x(*leading, WEIGHT.n, dtype=dtype, seed=3)
    y = function(x, *ARGUMENTS, bias=bias)  # type: ignore[operator]
    dx, dbias = torch.autograd.grad(y, (x, bias), dy)
    assert (dx.dtype, dbias.dtype) == (dtype, torch.float32)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    expected = dy.double() @ WEIGHT.dense
    torch.testing.assert_close(dx.double(), expected, rtol=tolerance, atol=1e-6)
    total = dy.double().sum(tuple(range(len(leading))))
    torch.testing.assert_close(dbias.double(), total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("leading", [(1,), (7,), (2, 3), (0,)], ids=str)
def test_gradients(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    gradients(leading, dtype)


def test_gradients_of_a_vector_and_under_compile() -> None:
    x = make_x(WEIGHT.k).requires_grad_()
    (dx,) = torch.autograd.grad(ops.kquant_gemm(x, *ARGUMENTS).sum(), x)
    torch.testing.assert_close(dx.double(), WEIGHT.dense.sum(0), rtol=1e-5, atol=1e-5)
    gradients((4,), torch.float32, torch.compile(ops.kquant_gemm, fullgraph=True, backend="aot_eager"))


# -- torch.compile ---------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("packed", PACKED)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(ops.kquant_gemm(x, self.packed, *WEIGHT.arguments())) + 1


def test_compile_static() -> None:
    module, x = Linear(), make_x(4, WEIGHT.k)
    compiled = torch.compile(module, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x), module(x))


def test_compile_dynamic_m_compiles_once() -> None:
    module = Linear()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = make_x(4, WEIGHT.k)
    torch._dynamo.mark_dynamic(x, 0)
    torch.testing.assert_close(compiled(x), module(x))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 17, 64):
            x = make_x(m, WEIGHT.k)
            torch.testing.assert_close(compiled(x), module(x))


def test_compile_pack_and_unpack() -> None:
    def round_trip(blocks: Tensor) -> Tensor:
        packed = ops.kquant_pack(blocks, "Q6_K", WEIGHT.k)
        return ops.kquant_unpack(packed, *WEIGHT.arguments()) + 1

    compiled = torch.compile(round_trip, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(WEIGHT.blocks), WEIGHT.blocks + 1)
