"""RTN, imatrix, GPTQ and AWQ: the invariants that hold for any weight and any calibration data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qcore.formats import Activations, BlockFormat, Float8, Format, Int8, IntGroup
from qcore.methods import METHODS, Awq, Gptq, Imatrix, InputStats, Method, Rtn, resolve_method
from qcore.methods.gptq import inverse_factor
from qcore.qweight import QWeight

N, K = 24, 160
INT_GROUPS: list[Format] = [
    IntGroup(bits, symmetric, group_size)
    for bits in (2, 3, 4)
    for symmetric in (True, False)
    for group_size in (32, -1)
]
# With and without minima, even and uneven values, small and large blocks.
BLOCKS: list[Format] = [
    BlockFormat(name) for name in ("Q4_0", "IQ4_NL", "MXFP4", "Q2_K", "Q3_K", "Q4_K", "IQ4_XS", "TQ2_0")
]
EIGHT_BITS: list[Format] = [Int8(), Float8(), Float8("tensor"), Float8("block", Activations("e4m3", "block"))]
FORMATS = INT_GROUPS + BLOCKS + EIGHT_BITS


def columns(format: Format) -> int:
    return K if format.for_columns(K) is format else 256


def make_weight(seed: int = 0, n: int = N, k: int = K) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.05


def make_stats(seed: int = 1, k: int = K, tokens: int = 600) -> InputStats:
    """Correlated inputs with a few large channels, as in language models."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(k, k, generator=generator) / k**0.5
    x = torch.randn(tokens, k, generator=generator) @ mix
    x[:, :: k // 5] *= 8
    stats = InputStats(k)
    stats.add(x)
    return stats


def from_hessian(hessian: Tensor) -> InputStats:
    stats = InputStats(hessian.shape[0])
    stats.gram, stats.tokens = hessian.double(), 1
    stats.abs_sum = hessian.diagonal().double().sqrt()
    return stats


def quantize(method: Method, w: Tensor, stats: InputStats, format: Format) -> QWeight:
    return method.quantize(w, stats, format, torch.bfloat16)


def same(a: QWeight, b: QWeight) -> bool:
    def bits(tensor: Tensor) -> Tensor:  # torch cannot compare float8
        return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor

    return a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(bits(tensor), bits(b.tensors[name])) for name, tensor in a.tensors.items()
    )


# Invariant 1.
@pytest.mark.large_grid
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("search", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("c", [1.0, 0.37, 1e6])
def test_gptq_with_a_multiple_of_the_identity_is_rtn(
    format: Format, search: bool, act_order: bool, c: float
) -> None:
    k = columns(format)
    w, stats = make_weight(k=k), from_hessian(c * torch.eye(k))
    gptq = quantize(Gptq(search=search, act_order=act_order), w, stats, format)
    assert same(gptq, quantize(Rtn(search=search), w, stats, format))


# Invariant 2: what the sweep adds up, column by column, is the layer's output error.
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("act_order", [True, False])
def test_gptq_error_identity(format: Format, act_order: bool) -> None:
    k = columns(format)
    w, stats, damping = make_weight(k=k), make_stats(k=k), 0.01
    q = quantize(Gptq(damping=damping, act_order=act_order, sweeps=0), w, stats, format)
    # Replay the sweep on the codes that came out, in its own order, and add up (w - q)^2 / d^2.
    hessian = stats.hessian
    diagonal = hessian.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True) if act_order else torch.arange(k)
    mean = diagonal.mean()
    upper = inverse_factor(hessian[order][:, order], damping)
    values, work, total = q.dequantize().double()[:, order], w.double()[:, order], 0.0
    for i in range(k):
        error = (work[:, i] - values[:, i]) / upper[i, i]
        work -= torch.outer(error, upper[i]) * (torch.arange(k) > i)
        total += float((error**2).sum())
    damped = hessian / mean + damping * torch.eye(k, dtype=torch.float64)
    delta = w.double() - q.dequantize().double()
    trace = float(torch.einsum("nk,kl,nl->", delta, damped, delta))
    assert abs(total - trace) <= 1e-13 * trace
    # And the codes are those that rounding the updated columns gives: the replay is the sweep.
    points = format.fit(w, torch.bfloat16, diagonal.sqrt(), search=True).points(order)
    work = w.double()[:, order]
    for i in range(k):
        _, value = points.round(work[:, i].float(), i)
        assert torch.equal(value.double(), values[:, i])
        error = (work[:, i] - value.double()) / upper[i, i]
        work -= torch.outer(error, upper[i]) * (torch.arange(k) > i)


# Invariant 3.
@pytest.mark.parametrize(
    "format", [IntGroup(3, False, 32), BlockFormat("IQ4_NL"), BlockFormat("Q2_K"), Int8(), Float8()], ids=str
)
@pytest.mark.parametrize("act_order", [True, False])
def test_gptq_codes_do_not_depend_on_how_it_is_computed(
    format: Format, act_order: bool, torch_threads: None
) -> None:
    k = K if format.for_columns(K) is format else 512
    w, stats = make_weight(k=k), make_stats(k=k)
    method = Gptq(act_order=act_order)
    expected = quantize(method, w, stats, format)
    for block in (1, 7, 32, 1000):
        assert same(expected, quantize(replace(method, block=block), w, stats, format))
    for c in (0.5, 3.7, 1e8):
        assert same(expected, quantize(method, w, from_hessian(c * stats.hessian), format))
    for row in range(0, N, 5):
        alone = quantize(method, w[row : row + 1], stats, format)
        assert torch.equal(alone.dequantize()[0], expected.dequantize()[row])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert same(expected, quantize(method, w, make_stats(k=k), format))


def test_statistics_do_not_depend_on_the_batches() -> None:
    x = torch.randn(96, K, generator=torch.Generator().manual_seed(3))
    whole, parts = InputStats(K), InputStats(K)
    whole.add(x)
    for part in x.split([1, 30, 65]):
        parts.add(part.view(1, -1, K))
    assert whole.tokens == parts.tokens == 96
    torch.testing.assert_close(whole.gram, parts.gram, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(whole.gram, x.double().T @ x.double(), rtol=1e-13, atol=1e-12)


# Invariant 4.
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("search", [True, False])
def test_gptq_output_error_is_below_rtn_on_the_same_grid(format: Format, search: bool) -> None:
    k = columns(format)
    for seed in range(3):
        w, stats = make_weight(seed, k=k), make_stats(seed + 10, k=k)
        grid = format.fit(w, torch.bfloat16, stats.second_moment.sqrt(), search)
        rtn = QWeight(format, (N, k), grid.store(grid.round(w)))
        gptq = quantize(Gptq(search=search, sweeps=0), w, stats, format)
        descended = quantize(Gptq(search=search), w, stats, format)
        for q in (gptq, descended):  # no value is off the grid
            assert torch.equal(format.dequantize(grid.store(grid.round(q.dequantize()))), q.dequantize())
        errors = [stats.output_error(w - q.dequantize()) for q in (descended, gptq, rtn)]
        assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(
    "format", [IntGroup(3, False, 32), BlockFormat("IQ4_NL"), BlockFormat("Q3_K")], ids=str
)
def test_no_single_code_is_better_than_where_the_descent_ends(format: Format) -> None:
    k, damping = columns(format), 0.01
    w, stats = make_weight(n=4, k=k), make_stats(k=k)
    q = quantize(Gptq(damping=damping, sweeps=100), w, stats, format)
    hessian = stats.hessian / stats.hessian.diagonal().mean() + damping * torch.eye(k, dtype=torch.float64)
    grid = format.fit(w, torch.bfloat16, stats.second_moment.sqrt(), search=True)
    delta = q.dequantize().double() - w.double()
    slope = delta @ hessian
    step = grid.points(torch.arange(k))
    for shift in (-1, 1):  # the points around each value, by rounding what is off by about a step
        for scale in (0.5, 1, 2):
            width = scale * w.abs().amax() / 8
            other = step.round((q.dequantize() + shift * width).T.contiguous(), slice(None))[1].T
            move = other.double() - q.dequantize().double()
            change = 2 * move * slope + move.square() * hessian.diagonal()
            assert change.min() >= -1e-7


# Invariant 5.
@pytest.mark.parametrize("format", [*INT_GROUPS, BlockFormat("IQ4_NL")], ids=str)
@pytest.mark.parametrize("inner", [Rtn(), Rtn(search=True), Gptq()], ids=str)
def test_awq_is_never_worse_than_no_scale_on_its_own_objective(format: Format, inner: Rtn | Gptq) -> None:
    w, stats = make_weight(), make_stats()
    awq = Awq(inner=inner, least_gain=0)
    s = awq.divisor([w], stats, format, torch.bfloat16)
    scaled = quantize(inner, w * s, stats.divided_by(s), format).dequantize() / s
    plain = quantize(inner, w, stats, format).dequantize()
    assert stats.output_error(w - scaled) <= stats.output_error(w - plain)


def test_awq_helps_where_few_channels_are_large() -> None:
    w, stats, format = make_weight(), make_stats(), IntGroup(4, True, 32)
    awq = Awq(inner=Rtn())
    s = awq.divisor([w], stats, format, torch.float32)
    scaled = awq.quantize(w * s, stats.divided_by(s), format, torch.float32).dequantize() / s
    plain = Rtn().quantize(w, stats, format, torch.float32).dequantize()
    assert stats.output_error(w - scaled) < 0.9 * stats.output_error(w - plain)
    assert s.max() > 1.1


def test_awq_tied_channels_share_a_scale() -> None:
    tied = torch.arange(K) % 40
    s = Awq().divisor([make_weight()], make_stats(), IntGroup(3), torch.float32, tied=tied)
    for channel in range(40):
        assert len(s[tied == channel].unique()) == 1


# Damping.
def test_singular_hessians_are_damped_not_rounded_away() -> None:
    """Fewer tokens than channels: the Hessian has no inverse, and GPTQ must still beat RTN."""
    w, stats, format = make_weight(), make_stats(tokens=20), IntGroup(3, False, 32)
    for damping in (0.01, 0.0):
        q = quantize(Gptq(damping=damping), w, stats, format)
        rtn = quantize(Rtn(search=True), w, stats, format)
        assert stats.output_error(w - q.dequantize()) < stats.output_error(w - rtn.dequantize())


def test_a_hessian_that_no_damping_mends_is_an_error() -> None:
    broken = torch.eye(K)
    broken[0, 1] = broken[1, 0] = 50.0
    with pytest.raises(ValueError, match="not positive definite even with damping 1"):
        quantize(Gptq(), make_weight(), from_hessian(broken), IntGroup())
    broken[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize(Gptq(), make_weight(), from_hessian(broken), IntGroup())


def test_channels_that_are_always_zero() -> None:
    x = torch.randn(500, K, generator=torch.Generator().manual_seed(0))
    x[:, 40:80] = 0
    stats = InputStats(K)
    stats.add(x)
    w, format = make_weight(), IntGroup(4, False, 32)
    for method in (Imatrix(), Gptq(), Awq(), Awq(inner=Gptq(), steps=3)):
        s = method.divisor([w], stats, format, torch.float32) if isinstance(method, Awq) else torch.ones(K)
        q = method.quantize(w * s, stats.divided_by(s), format, torch.float32)
        # Such weights are rounded, not dropped: other data may use them.
        error = (q.dequantize() / s - w)[:, 40:80]
        assert error.square().mean() < 0.05 * w.square().mean()
    nothing = InputStats(K)
    nothing.add(torch.zeros(5, K))
    assert same(
        quantize(Gptq(), w, nothing, format),
        quantize(Rtn(search=True), w, from_hessian(torch.eye(K)), format),
    )


@pytest.mark.parametrize("method", [Gptq(), Imatrix()], ids=str)
def test_no_calibration_is_an_error(method: Method) -> None:
    for stats in (None, InputStats(K)):
        with pytest.raises(ValueError, match="saw no token"):
            method.quantize(make_weight(), stats, IntGroup(), torch.float32)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_imatrix_lowers_the_error_that_it_weighs(format: Format) -> None:
    k = columns(format)
    w, stats = make_weight(k=k), make_stats(k=k)

    def error(method: Method) -> float:
        delta = quantize(method, w, stats, format).dequantize().double() - w
        return float((delta.square() * stats.second_moment).sum())

    assert error(Imatrix(stretch=False)) < error(Rtn())


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_imatrix_does_not_shrink_outputs(format: Format) -> None:
    k = columns(format)
    w, stats = make_weight(k=k), make_stats(k=k)
    errors, factors = [], []
    for stretch in (True, False):
        q = quantize(Imatrix(stretch=stretch), w, stats, format).dequantize().double()
        errors.append([stats.output_error(w[row : row + 1] - q[row : row + 1]) for row in range(N)])
        moments = q @ stats.hessian
        factors.append((moments * w).sum(1) / (moments * q).sum(1))
    shared = format in EIGHT_BITS and format.granularity.rows != 1  # rows share scales
    assert shared or all(after <= before * (1 + 1e-9) for after, before in zip(*errors, strict=True))
    assert sum(errors[0]) < sum(errors[1]) or (shared and sum(errors[0]) == sum(errors[1]))
    if format.name != "MXFP4" and format not in EIGHT_BITS:  # scales are powers of two; 8 bits shrink little
        assert (factors[0] - 1).abs().mean() < 0.7 * (factors[1] - 1).abs().mean()


def test_methods_by_name() -> None:
    for name in METHODS:
        assert resolve_method(name).name == name
    with pytest.raises(
        ValueError, match="method: expected one of rtn, imatrix, gptq, awq, awq\\+gptq, got 'x'"
    ):
        resolve_method("x")


def test_a_method_of_ones_own_needs_no_dataclass() -> None:
    class Own(Method):
        name = "own"
        needs_calibration = False

        def quantize(self, w, stats, format, scale_dtype):  # type: ignore[no-untyped-def]
            return Rtn().quantize(w, stats, format, scale_dtype)

    method = Own()
    assert resolve_method(method) is method
    with pytest.raises(ValueError, match="damping: is no option of method own, which has none"):
        resolve_method(method, damping=0.1)
