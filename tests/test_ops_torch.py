"""torch.ops.qcore.w4a16_*: what torch does with them. opcheck, fake tensors, gradients, torch.compile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from cases import DTYPES, INT_GROUP_LAYOUTS, WEIGHT_CASES, WeightCase, by_name, make_weight, make_x
from qcore import ops

WEIGHT = make_weight(WeightCase(48, 300, 64, asymmetric=True))
PACKED = WEIGHT.pack()
OPS = ("w4a16_pack", "w4a16_repack", "w4a16_unpack", "w4a16_gemm")

# -- opcheck and fake tensors ----------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("device", ["CPU", "CUDA", "Meta"])
def test_registered_in_every_build(op: str, device: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"qcore::{op}", device)


def pack_arguments() -> list[tuple[object, ...]]:
    symmetric = make_weight(WeightCase(33, 100, -1, 3, scale_dtype=torch.bfloat16))
    return [
        (WEIGHT.codes, WEIGHT.scales, WEIGHT.zeros, 64, 4),
        (symmetric.codes, symmetric.scales, None, -1, 3),
    ]


@pytest.mark.parametrize("arguments", pack_arguments(), ids=["asymmetric", "symmetric"])
def test_opcheck_pack_and_unpack(arguments: tuple[object, ...]) -> None:
    torch.library.opcheck(torch.ops.qcore.w4a16_pack.default, arguments)
    packed = torch.ops.qcore.w4a16_pack(*arguments)
    torch.library.opcheck(torch.ops.qcore.w4a16_unpack.default, packed)


@pytest.mark.parametrize("layout", INT_GROUP_LAYOUTS)
def test_opcheck_of_every_layout(layout: int) -> None:
    for arguments in pack_arguments():
        torch.library.opcheck(torch.ops.qcore.w4a16_pack.default, (*arguments, layout))
        packed = torch.ops.qcore.w4a16_pack(*arguments, layout)
        torch.library.opcheck(torch.ops.qcore.w4a16_unpack.default, packed)


def test_opcheck_repack() -> None:
    words = torch.randint(-(2**31), 2**31, (48, 38), dtype=torch.int32)
    repack = torch.ops.qcore.w4a16_repack.default
    zeros, perm = WEIGHT.zeros, torch.randperm(300)
    torch.library.opcheck(
        repack, (words, WEIGHT.scales, zeros, "compressed_tensors", 48, 300, 64, 4, perm, 2)
    )
    torch.library.opcheck(repack, (words.t().contiguous(), WEIGHT.scales, None, "gptq", 48, 300, 64))
    words = torch.randint(-(2**31), 2**31, (300, 6), dtype=torch.int32)
    torch.library.opcheck(repack, (words, WEIGHT.scales, zeros, "awq", 48, 300, 64))


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,)], ids=str)
def test_opcheck_gemm(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    x = make_x(*leading, 300, dtype=dtype)
    gemm = torch.ops.qcore.w4a16_gemm.default
    torch.library.opcheck(gemm, (x, *PACKED))
    torch.library.opcheck(gemm, (x, *PACKED, torch.randperm(300), make_x(48)))
    torch.library.opcheck(gemm, (x, *PACKED, None, None, True))


def test_meta_tensors_have_the_layout_of_the_cpu() -> None:
    codes, scales, zeros = (
        t.to("meta") for t in (WEIGHT.codes, WEIGHT.scales, WEIGHT.zeros) if t is not None
    )
    packed = ops.w4a16_pack(codes, scales, zeros, 64)
    for fake, real in zip(packed, PACKED, strict=True):
        assert fake.device.type == "meta"
        assert (fake.shape, fake.dtype) == (real.shape, real.dtype)
    assert ops.w4a16_gemm(torch.empty(2, 3, 300, device="meta"), *packed).shape == (2, 3, 48)
    unpacked = ops.w4a16_unpack(packed)
    assert [t.shape for t in unpacked if t is not None] == [(48, 300), (48, 5), (48, 5)]


def fake_cuda(*tensors: Tensor | None) -> list[Tensor]:
    """Within FakeTensorMode: like `tensors`, on a GPU that need not exist."""
    return [torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in tensors if t is not None]


def test_traces_for_cuda_without_a_gpu() -> None:
    real = ops.w4a16_pack(WEIGHT.codes, WEIGHT.scales, WEIGHT.zeros, 64, layout=2)
    with FakeTensorMode():
        packed = ops.w4a16_pack(*fake_cuda(WEIGHT.codes, WEIGHT.scales, WEIGHT.zeros), 64, layout=2)
        for fake, expected in zip(packed, real, strict=True):
            assert (fake.shape, fake.dtype, fake.device.type) == (expected.shape, expected.dtype, "cuda")
        x = torch.empty(2, 3, 300, dtype=torch.float16, device="cuda")
        y = ops.w4a16_gemm(x, *packed, batch_invariant=True)
        assert (y.shape, y.dtype, y.device.type) == ((2, 3, 48), torch.float16, "cuda")
        codes, scales, zeros = ops.w4a16_unpack(packed)
        assert zeros is not None
        assert [(t.shape, t.device.type) for t in (codes, scales, zeros)] == [
            ((48, 300), "cuda"),
            ((48, 5), "cuda"),
            ((48, 5), "cuda"),
        ]


# -- gradients -------------------------------------------------------------------------------------


def gradients(
    leading: tuple[int, ...], perm: Tensor | None, dtype: torch.dtype, function: object = ops.w4a16_gemm
) -> None:
    """Those of the op are those of the dense weight."""
    x = make_x(*leading, 300, dtype=dtype).requires_grad_()
    bias = make_x(48, seed=2).requires_grad_()
    dy = make_x(*leading, 48, dtype=dtype, seed=3)
    y = function(x, *PACKED, perm=perm, bias=bias)  # type: ignore[operator]
    dx, dbias = torch.autograd.grad(y, (x, bias), dy)
    assert (dx.dtype, dbias.dtype) == (dtype, torch.float32)

    wide = x.detach().double().requires_grad_()
    gathered = wide if perm is None else wide[..., perm.long()]
    shift = bias.detach().double().requires_grad_()
    exact = torch.autograd.grad(gathered @ WEIGHT.dense.T + shift, (wide, shift), dy.double())
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(dx.double(), exact[0], rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(dbias.double(), exact[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (0,)], ids=str)
def test_gradients(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    gradients(leading, None, dtype)
    gradients(leading, torch.randperm(300, generator=torch.Generator().manual_seed(5)), dtype)
    gradients(leading, torch.arange(300).int() // 2, dtype)  # columns of x that are used twice or never


def test_gradients_under_compile() -> None:
    gradients((4,), None, torch.float32, torch.compile(ops.w4a16_gemm, fullgraph=True, backend="aot_eager"))


def test_gradients_of_every_format() -> None:
    for case in WEIGHT_CASES:
        weight = make_weight(case)
        x = make_x(3, case.k).requires_grad_()
        y = ops.w4a16_gemm(x, *weight.pack())
        (dx,) = torch.autograd.grad(y.sum(), x)
        expected = weight.dense.sum(0).expand_as(x)
        torch.testing.assert_close(dx.double(), expected, rtol=1e-5, atol=1e-5)


def test_nothing_else_has_a_gradient() -> None:
    scales = PACKED.scales.clone().requires_grad_()
    x = make_x(2, 300).requires_grad_()
    y = ops.w4a16_gemm(x, *PACKED._replace(scales=scales))
    dx, dscales = torch.autograd.grad(y.sum(), (x, scales), allow_unused=True)
    assert dx is not None
    assert dscales is None
    with torch.no_grad():
        assert not ops.w4a16_gemm(x, *PACKED).requires_grad


def test_opcheck_gemm_with_gradients() -> None:
    x, bias = make_x(4, 300).requires_grad_(), make_x(48).requires_grad_()
    gemm = torch.ops.qcore.w4a16_gemm.default
    torch.library.opcheck(gemm, (x, *PACKED))
    torch.library.opcheck(gemm, (x, *PACKED, torch.randperm(300), bias))
    torch.library.opcheck(gemm, (x, *PACKED, None, bias, True))


class Linear(torch.nn.Module):
    """A packed weight in buffers, as QLinear holds it."""

    def __init__(self, packed: ops.PackedW4A16) -> None:
        super().__init__()
        for name, tensor in packed._asdict().items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        y = ops.w4a16_gemm(x, self.qweight, self.scales, self.zeros, self.shape)
        return torch.relu(y) + 1


def test_compile_static() -> None:
    module, x = Linear(PACKED), make_x(4, 300)
    compiled = torch.compile(module, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x), module(x))


def test_compile_dynamic_m_compiles_once() -> None:
    module = Linear(PACKED)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = make_x(4, 300)
    torch._dynamo.mark_dynamic(x, 0)
    torch.testing.assert_close(compiled(x), module(x))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 17, 64):
            x = make_x(m, 300)
            torch.testing.assert_close(compiled(x), module(x))


def test_compile_pack_and_unpack() -> None:
    def round_trip(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        packed = ops.w4a16_pack(codes, scales, zeros, 64)
        return ops.w4a16_unpack(packed)[0] + 1

    compiled = torch.compile(round_trip, fullgraph=True, backend="aot_eager")
    assert WEIGHT.zeros is not None
    assert torch.equal(compiled(WEIGHT.codes, WEIGHT.scales, WEIGHT.zeros), WEIGHT.codes + 1)
