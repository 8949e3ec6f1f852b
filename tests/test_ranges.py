"""The search for the range of static int8 scales, beside trying many ranges on the inputs themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qcore.formats import Activations
from qcore.methods import InputStats
from qcore.methods.ranges import Histogram, best_range, best_symmetric_range

SYMMETRIC = Activations("int8", "tensor")
ASYMMETRIC = Activations("int8", "tensor", symmetric=False)
BOTH = pytest.mark.parametrize("inputs", [SYMMETRIC, ASYMMETRIC], ids=str)
K = 48


def make_inputs(name: str, tokens: int = 4000) -> Tensor:
    """float32 [tokens, K], other ones in every run."""
    normal = torch.randn(tokens, K)
    columns = (torch.rand(K) * 3 - 1.5).exp()
    return {
        "uniform": torch.rand(tokens, K) * 2 - 1,
        "positive": torch.rand(tokens, K) * 5,
        "normal": normal,
        "shifted": normal * columns + 1.5,
        "heavy": normal * normal.abs() * columns * torch.randn(tokens, 1).exp(),
        "gated": torch.nn.functional.silu(3 * normal) * torch.randn(tokens, K) * columns,
    }[name]


def make_weight() -> Tensor:
    return torch.randn(20, K) * (torch.rand(K) * 4 - 2).exp()


def searched(x: Tensor, w: Tensor, inputs: Activations) -> tuple[float, float]:
    stats = InputStats(K, moments=False, weights=[w])
    stats.add(x)
    low, high = stats.static_range(inputs)
    return float(low), float(high)


def error(x: Tensor, w: Tensor, low: float, high: float, inputs: Activations) -> float:
    """The squared error of x @ w^T when x is rounded, element by element as kernels do it, and the errors of
    different columns are independent."""
    wide, norms = x.double().numpy(), w.double().square().sum(0).numpy()
    scale = max(-low, high) / 127 if inputs.symmetric else (high - low) / 255
    zero = 0 if inputs.symmetric else np.clip(np.rint(-128 - low / scale), -128, 127)
    q = np.clip(np.rint(wide / scale) + zero, -128, 127)
    return float((((q - zero) * scale - wide) ** 2 * norms).sum())


def whole(x: Tensor) -> tuple[float, float]:
    return min(float(x.min()), 0.0), max(float(x.max()), 0.0)


def least_error(x: Tensor, w: Tensor, inputs: Activations) -> float:
    low, high = whole(x)
    parts = [0.93**i for i in range(40)]
    if inputs.symmetric:
        end = max(-low, high)
        return min(error(x, w, -a * end, a * end, inputs) for a in parts)
    best, ends = np.inf, (low, high)
    for _ in range(3):  # one end after the other
        for side in range(2):
            for part in parts:
                tried = (part * low, ends[1]) if side == 0 else (ends[0], part * high)
                if (e := error(x, w, *tried, inputs)) < best:
                    best, ends = e, tried
    return best


@BOTH
@pytest.mark.parametrize("name", ["uniform", "positive", "normal", "shifted", "heavy", "gated"])
def test_finds_the_range_of_the_least_error(name: str, inputs: Activations) -> None:
    x, w = make_inputs(name), make_weight()
    ends = searched(x, w, inputs)
    found = error(x, w, *ends, inputs)
    assert found <= 1.04 * least_error(x, w, inputs)
    assert found <= 1.01 * error(x, w, *whole(x), inputs)
    assert ends[0] <= 0 <= ends[1]


@BOTH
def test_without_outliers_nothing_is_cut_off(inputs: Activations) -> None:
    for name in ("uniform", "positive"):
        x = make_inputs(name)
        low, high = whole(x)
        expected = (-max(-low, high), max(-low, high)) if inputs.symmetric else (low, high)
        assert searched(x, make_weight(), inputs) == pytest.approx(expected, rel=1e-6)


@BOTH
def test_one_far_outlier_is_cut_off_by_what_its_column_weighs(inputs: Activations) -> None:
    x, w = make_inputs("uniform", 40000), torch.ones(20, K)
    x[7, 3] = 30
    low, high = searched(x, w, inputs)
    assert high < 12
    assert low < -0.9
    assert error(x, w, low, high, inputs) < 0.4 * error(x, w, *whole(x), inputs)
    w[:, 3] = 100
    assert searched(x, w, inputs)[1] > 20
    w[:, 3] = 0
    assert searched(x, w, inputs)[1] == pytest.approx(1, rel=0.1)


@BOTH
@pytest.mark.parametrize("value", [0.0, 1e-9, 1e7, float("inf")])
def test_beyond_the_bins_the_whole_range_stays(value: float, inputs: Activations) -> None:
    x = torch.full((100, K), value)
    x[:, ::2] *= 0.5
    assert searched(x, make_weight(), inputs)[1] == x.max().double()
    assert searched(make_inputs("heavy"), torch.zeros(20, K), inputs)[1] > 0


def test_floats_keep_the_whole_range() -> None:
    x = make_inputs("heavy")
    assert searched(x, make_weight(), Activations("e4m3", "tensor")) == whole(x)


def test_counts_are_those_of_the_values() -> None:
    x = make_inputs("heavy", 300)
    x[0, :4] = torch.tensor([0.0, 1e-30, 1e9, -1e9])
    parts = Histogram(K)
    for part in x[torch.randperm(300)].split([1, 0, 199, 100]):
        parts.add(part)
    fraction, exponent = np.frexp(np.abs(x.numpy()).astype(np.float64))  # of 0.5 to 1 times 2 to the exponent
    expected = np.zeros((K, 2, 512), dtype=np.int32)
    bins = np.clip((exponent - 1 + 16) * 16 + np.floor(fraction * 32).astype(int) - 16, 0, 511)
    bins[x.numpy() == 0] = 0
    np.add.at(expected, (np.arange(K)[None, :], (x.numpy() >= 0).astype(int), bins), 1)
    assert np.array_equal(parts.counts.numpy(), expected)
    weight = torch.rand(K, dtype=torch.float64)
    np.testing.assert_allclose(
        parts.total(weight).numpy(), np.einsum("ksb,k->sb", expected, weight.numpy()), rtol=1e-12
    )


@BOTH
def test_divided_inputs(inputs: Activations) -> None:
    x, w, s = make_inputs("gated"), make_weight(), (torch.rand(K) * 3 - 1.5).exp()
    stats = InputStats(K, moments=False, weights=[w])
    for part in x.split(1000):
        stats.add(part)
    low, high = (float(end) for end in stats.divided_by(s).static_range(inputs))
    assert error(x / s, w * s, low, high, inputs) <= 1.06 * least_error(x / s, w * s, inputs)
    powers = 2.0 ** torch.randint(-2, 3, (K,))
    low, high = (float(end) for end in stats.divided_by(powers).static_range(inputs))
    assert (low, high) == pytest.approx(searched(x / powers, w * powers, inputs), rel=1e-6)


@BOTH
def test_layers_that_share_an_input_count_together(inputs: Activations) -> None:
    x, w = make_inputs("heavy"), make_weight()
    stats = InputStats(K, moments=False, weights=list(w.split([3, 17])))
    stats.add(x)
    low, high = stats.static_range(inputs)
    assert (float(low), float(high)) == pytest.approx(searched(x, w, inputs))


def test_no_inputs_have_no_range() -> None:
    counts = Histogram(K).total(torch.ones(K, dtype=torch.float64))
    assert best_symmetric_range(counts, 0.0) == 0
    assert best_range(counts, 0.0, 0.0) == (0, 0)
