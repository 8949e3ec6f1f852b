"""Weights [E, N, K] of experts: one call gives each row of x what a dense call with its weight gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from cases import HOW, INT_GROUP_LAYOUTS, WeightCase, make_weight, make_x, under_compile
from qcore import QWeight, ops
from qcore.methods import Rtn
from qcore.schemes import SCHEMES
from w8a8_cases import random_int8, random_scales

ROWS = (3, 0, 5, 1, 0)  # of each expert
E, M = len(ROWS), sum(ROWS)
OFFSETS = torch.tensor([0, *ROWS]).cumsum(0).int()


@dataclass(frozen=True)
class Family:
    """An op with the arguments of a call for all experts, and those of a dense one."""

    op: str
    x: Tensor
    before: tuple[object, ...]  # arguments between x and offsets
    dense: Callable[[int], tuple[object, ...]]
    weight: Tensor  # float32 [E, N, K], as the gradient has it
    bias: Tensor | None
    bias_at: int = 0

    def __call__(self, x: Tensor, offsets: Tensor | None = OFFSETS) -> Tensor:
        y: Tensor = getattr(torch.ops.qcore, self.op)(x, *self.before, offsets)
        return y

    def of_expert(self, expert: int, x: Tensor) -> Tensor:
        y: Tensor = getattr(torch.ops.qcore, self.op)(x, *self.dense(expert))
        return y

    def with_bias(self, bias: Tensor) -> Family:
        before = [*self.before]
        before[self.bias_at] = bias
        return Family(self.op, self.x, tuple(before), self.dense, self.weight, bias, self.bias_at)


def w4a16(perm: bool = True, bits: int = 4, asymmetric: bool = True) -> Family:
    n, k = 19, 70
    each = [make_weight(WeightCase(n, k, 32, bits, asymmetric), seed=e) for e in range(E)]
    zeros = torch.stack([w.zeros for w in each if w.zeros is not None]) if asymmetric else None
    packed = ops.w4a16_pack(
        torch.stack([w.codes for w in each]), torch.stack([w.scales for w in each]), zeros, 32, bits
    )
    order = torch.stack([torch.randperm(k) for _ in each]) if perm else None
    bias = make_x(E, n, seed=5)
    weight = torch.stack([w.dense for w in each]).float()
    if order is not None:  # as columns of x
        weight = torch.zeros_like(weight).scatter_(-1, order[:, None].expand_as(weight), weight)
    return Family(
        "w4a16_gemm",
        make_x(M, k),
        (*packed, order, bias, False),
        lambda e: (*each[e].pack(), None if order is None else order[e], bias[e]),
        weight,
        bias,
        bias_at=5,
    )


def kquant(float_activations: bool = False) -> Family:
    n, k = 20, 512
    blocks = ops.kquant_quantize(make_x(E, n, k, seed=6), "Q4_K")
    packed, bias = ops.kquant_pack(blocks, "Q4_K", k), make_x(E, n, seed=7)
    return Family(
        "kquant_gemm",
        make_x(M, k),
        (packed, "Q4_K", n, k, bias, float_activations),
        lambda e: (ops.kquant_pack(blocks[e], "Q4_K", k), "Q4_K", n, k, bias[e], float_activations),
        ops.kquant_dequantize(blocks, "Q4_K", k),
        bias,
        bias_at=4,
    )


def int8_gemm(row_scales: bool = True) -> Family:
    n, k = 33, 70
    weight, bias = random_int8(E, n, k), make_x(E, n, seed=8)
    scale, sums = random_scales(E, n) if row_scales else random_scales(E), weight.sum(-1, dtype=torch.int32)
    q, x_scale, x_zero = ops.quantize_int8(make_x(M, k), False)

    def dense(e: int) -> tuple[object, ...]:
        rows = slice(int(OFFSETS[e]), int(OFFSETS[e + 1]))
        one = scale[e] if row_scales else scale[e : e + 1]
        return weight[e], x_scale[rows], one, x_zero[rows], bias[e], torch.bfloat16, sums[e]

    before = (weight, x_scale, scale, x_zero, bias, torch.bfloat16, sums)
    return Family("int8_gemm", q, before, dense, weight.float(), bias, bias_at=4)


def int8_linear(symmetric: bool = False) -> Family:
    n, k = 33, 70
    weight, scale, bias = random_int8(E, n, k), random_scales(E, n), make_x(E, n, seed=9)
    return Family(
        "int8_linear",
        make_x(M, k),
        (weight, scale, None, bias, symmetric, None, None, None, 1e-6),
        lambda e: (weight[e], scale[e], None, bias[e], symmetric),
        weight.float() * scale[..., None],
        bias,
        bias_at=3,
    )


FAMILIES = {
    "w4a16": w4a16(),
    "w4a16 3 bits": w4a16(perm=False, bits=3, asymmetric=False),
    "kquant": kquant(),
    "kquant floats": kquant(True),
    "int8_gemm": int8_gemm(),
    "int8_gemm tensor": int8_gemm(row_scales=False),
    "int8_linear": int8_linear(),
    "int8_linear symmetric": int8_linear(True),
}
WITH_GRADIENTS = [name for name in FAMILIES if "gemm" not in name]

family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
trained = pytest.mark.parametrize("family", [FAMILIES[name] for name in WITH_GRADIENTS], ids=WITH_GRADIENTS)


@family
def test_each_row_has_the_bits_of_a_dense_call(family: Family) -> None:
    y = family(family.x)
    for e, rows in enumerate(ROWS):
        begin = int(OFFSETS[e])
        if rows:
            assert torch.equal(y[begin : begin + rows], family.of_expert(e, family.x[begin : begin + rows]))


@family
def test_no_rows_at_all(family: Family) -> None:
    if family.op == "int8_gemm":
        pytest.skip("x_scale has a size of its own")
    nothing = torch.zeros_like(OFFSETS)
    assert family(family.x[:0], nothing).shape == (0, family.weight.shape[1])
    with pytest.raises(RuntimeError, match="offsets: expected 0"):
        family(family.x[:0], OFFSETS)


@family
def test_opcheck(family: Family) -> None:
    op = getattr(torch.ops.qcore, family.op).default
    torch.library.opcheck(op, (family.x, *family.before, OFFSETS))
    if family.op != "int8_gemm":
        torch.library.opcheck(op, (family.x.requires_grad_(), *family.before, OFFSETS))
        family.x.requires_grad_(False)


@family
def test_compiles(family: Family) -> None:
    assert torch.equal(under_compile(family)(family.x), family(family.x))


@trained
def test_gradients(family: Family) -> None:
    assert family.bias is not None
    x, bias = family.x.clone().requires_grad_(), family.bias.clone().requires_grad_()
    dy = make_x(M, family.weight.shape[1], seed=11)
    for call in (family.with_bias(bias), under_compile(family.with_bias(bias))):
        x.grad = bias.grad = None
        call(x).backward(dy)
        for e, rows in enumerate(ROWS):
            mine = slice(int(OFFSETS[e]), int(OFFSETS[e]) + rows)
            torch.testing.assert_close(x.grad[mine], dy[mine] @ family.weight[e])
            torch.testing.assert_close(bias.grad[e], dy[mine].sum(0))


@trained
def test_gradients_of_norm_and_leading_sizes(family: Family) -> None:
    """x may have any leading sizes: its rows count through."""
    x = family.x.reshape(3, 3, -1).clone().requires_grad_()
    y = family(x)
    assert y.shape == (3, 3, family.weight.shape[1])
    assert torch.equal(y.reshape(M, -1), family(family.x))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_gradient_through_a_norm() -> None:
    family = FAMILIES["int8_linear"]
    k = family.x.shape[1]
    norm, x = torch.rand(k).requires_grad_(), family.x.clone().requires_grad_()
    op, before = torch.ops.qcore.int8_linear, (*family.before[:7], norm, 1e-6)
    y = op(x, *before, OFFSETS)
    y.square().sum().backward()
    grads = x.grad, norm.grad
    x.grad = norm.grad = None
    for e, rows in enumerate(ROWS):
        mine = slice(int(OFFSETS[e]), int(OFFSETS[e]) + rows)
        one = op(x[mine], *family.dense(e), None, None, norm, 1e-6)
        if rows:
            assert torch.equal(one, y[mine])
        one.square().sum().backward()
    for got, expected in zip(grads, (x.grad, norm.grad), strict=True):
        # The rows' parts of a float32 sum come in another order.
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


# -- errors ------------------------------------------------------------------------------------------


BAD_OFFSETS = {
    "none": (None, r"offsets must be int32 \[6\], because the weight has 5 experts, got None"),
    "dtype": (OFFSETS.long(), r"offsets must be int32 \[6\], one more than.*got int64 \[6\]"),
    "size": (OFFSETS[1:], r"offsets must be int32 \[6\], one more than.*got int32 \[5\]"),
    "first": (OFFSETS + 1, r"offsets: expected 0 at 0, got 1"),
    "falling": (
        torch.tensor([0, 3, 2, 8, 9, 9]).int(),
        r"offsets: expected 3 or more, as before it, at 2, got 2",
    ),
    "last": (OFFSETS.clamp(max=8), r"offsets: expected 9, the rows of x, at 5, got 8"),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("offsets", "message"), BAD_OFFSETS.values(), ids=BAD_OFFSETS)
@family
def test_bad_offsets(family: Family, offsets: Tensor | None, message: str, how: str) -> None:
    with pytest.raises(RuntimeError, match=rf"qcore\.{family.op}: {message}"):
        HOW[how](family)(family.x, offsets)


@family
def test_offsets_of_a_dense_weight(family: Family) -> None:
    arguments = [*family.dense(0), *family.before[len(family.dense(0)) :]]
    with pytest.raises(RuntimeError, match=r"offsets must be None, because the weight is not one of experts"):
        getattr(torch.ops.qcore, family.op)(family.x[:3], *arguments, OFFSETS)


@family
def test_a_bias_is_one_for_each_expert(family: Family) -> None:
    assert family.bias is not None
    with pytest.raises(RuntimeError, match=rf"bias must be .*\[5, {family.bias.shape[1]}\], got float32"):
        family.with_bias(family.bias[0])(family.x)


def test_parts_that_do_not_fit() -> None:
    x, (qweight, scales, zeros, shape, perm, *_) = FAMILIES["w4a16"].x, FAMILIES["w4a16"].before
    assert isinstance(scales, Tensor)
    assert isinstance(perm, Tensor)
    with pytest.raises(RuntimeError, match=r"scales must have the sizes \[5, .*got float32 \[4, "):
        torch.ops.qcore.w4a16_gemm(x, qweight, scales[:4], zeros, shape, None, None, False, OFFSETS)
    with pytest.raises(RuntimeError, match=r"perm must have the sizes \[5, 70\], got int64 \[70\]"):
        torch.ops.qcore.w4a16_gemm(x, qweight, scales, zeros, shape, perm[0], None, False, OFFSETS)
    bad = perm.clone()
    bad[2, 3] = 70
    with pytest.raises(RuntimeError, match=r"perm\[143\]: expected 0 \.\. 69, got 70"):
        torch.ops.qcore.w4a16_gemm(x, qweight, scales, zeros, shape, bad, None, False, OFFSETS)
    weight, w_scale = FAMILIES["int8_linear"].before[:2]
    assert isinstance(w_scale, Tensor)
    x = FAMILIES["int8_linear"].x
    with pytest.raises(
        RuntimeError, match=r"w_scale must be float32 of 5 or 165 elements, got float32 \[33\]"
    ):
        ops.int8_linear(x, weight, w_scale[0], offsets=OFFSETS)
    with pytest.raises(RuntimeError, match=r"w_sum must be int32 \[5, 33\], got int32 \[33\]"):
        ops.int8_linear(x, weight, w_scale, torch.zeros(33, dtype=torch.int32), offsets=OFFSETS)
    packed = FAMILIES["kquant"].before[0]
    assert isinstance(packed, Tensor)
    with pytest.raises(RuntimeError, match=r"uint8 of size .* for each expert, got uint8 \[5, "):
        ops.kquant_unpack(packed[:, 1:], "Q4_K", 20, 512)


# -- packing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", INT_GROUP_LAYOUTS)
@pytest.mark.parametrize("asymmetric", [False, True], ids=["symmetric", "asymmetric"])
def test_a_packed_weight_is_the_packed_experts_stacked(layout: int, asymmetric: bool) -> None:
    each = [make_weight(WeightCase(33, 100, 48, asymmetric=asymmetric), seed=e) for e in range(3)]
    codes, scales = torch.stack([w.codes for w in each]), torch.stack([w.scales for w in each])
    zeros = torch.stack([w.zeros for w in each if w.zeros is not None]) if asymmetric else None
    packed = ops.w4a16_pack(codes, scales, zeros, 48, 4, layout)
    for e, w in enumerate(each):
        alone = ops.w4a16_pack(w.codes, w.scales, w.zeros, 48, 4, layout)
        for all_, one in zip(packed[:3], alone[:3], strict=True):
            assert torch.equal(all_[e], one)
        assert packed.shape.shape == alone.shape.shape
    back = ops.w4a16_unpack(packed)
    assert torch.equal(back[0], codes)
    assert torch.equal(back[1], scales)
    assert (zeros is None) == (back[2] is None)
    assert zeros is None or torch.equal(back[2], zeros)
    torch.library.opcheck(torch.ops.qcore.w4a16_pack.default, (codes, scales, zeros, 48, 4, layout))
    torch.library.opcheck(torch.ops.qcore.w4a16_unpack.default, tuple(packed))


@pytest.mark.parametrize("type", [row["name"] for row in ops.block_formats()])
@pytest.mark.parametrize("layout", [3, 4])
def test_blocks_of_experts_come_back(type: str, layout: int) -> None:
    elements = next(row["elements"] for row in ops.block_formats() if row["name"] == type)
    blocks = ops.kquant_quantize(make_x(3, 17, 3 * elements), type)
    packed = ops.kquant_pack(blocks, type, 3 * elements, layout)
    assert packed.dim() == 2
    assert packed.shape[1] % 64 == 0
    assert torch.equal(ops.kquant_unpack(packed, type, 17, 3 * elements), blocks)
    torch.library.opcheck(torch.ops.qcore.kquant_pack.default, (blocks, type, 3 * elements, layout))
    torch.library.opcheck(torch.ops.qcore.kquant_unpack.default, (packed, type, 17, 3 * elements))


def test_one_expert_is_no_dense_weight() -> None:
    weight = make_weight(WeightCase(16, 64, 32))
    packed = ops.w4a16_pack(weight.codes[None], weight.scales[None], None, 32)
    assert packed.qweight.dim() == 2
    x = make_x(4, 64)
    y = ops.w4a16_gemm(x, *packed, offsets=torch.tensor([0, 4], dtype=torch.int32))
    assert torch.equal(y, ops.w4a16_gemm(x, *weight.pack()))
    with pytest.raises(RuntimeError, match="because the weight has 1 experts, got None"):
        ops.w4a16_gemm(x, *packed)


@pytest.mark.parametrize("scheme", ["W3A16", "W4A16_ASYM", "W8A8", "Q4_K"])
def test_a_stored_weight_of_experts_is_what_the_kernels_multiply_by(scheme: str) -> None:
    """Of a `QWeight` [E, N, K] the ops take the tensors as they are."""
    n, k = 24, 512
    each = [Rtn().quantize(make_x(n, k, seed=e), None, SCHEMES[scheme], torch.float32) for e in range(E)]
    tensors = {name: torch.stack([w.tensors[name] for w in each]) for name in each[0].tensors}
    weight = QWeight(each[0].format, (E, n, k), tensors)
    x = make_x(M, k)
    if scheme == "Q4_K":
        packed = ops.kquant_pack(tensors["blocks"], "Q4_K", k)
        y = ops.kquant_gemm(x, packed, "Q4_K", n, k, float_activations=True, offsets=OFFSETS)
    elif scheme == "W8A8":
        x = ops.quantize_int8(x)[0]  # whole numbers: what they are rounded to under a scale of 1
        one = torch.ones(1)
        y = ops.int8_gemm(x, tensors["codes"], one, tensors["scales"].flatten(1), offsets=OFFSETS)
    else:
        bits = int(scheme[1])
        scales, zeros = tensors["scales"], tensors.get("zeros")
        y = ops.w4a16_gemm(x, *ops.w4a16_pack(tensors["codes"], scales, zeros, 128, bits), offsets=OFFSETS)
    dense = weight.dequantize()
    for e, rows in enumerate(ROWS):
        mine = slice(int(OFFSETS[e]), int(OFFSETS[e]) + rows)
        exact = x[mine].double() @ dense[e].double().T
        torch.testing.assert_close(y[mine].double(), exact, rtol=1e-5, atol=1e-4)
