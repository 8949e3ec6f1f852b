"""The int_group format: fit, round and dequantize."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.formats import IntGroup, ScaledFormat, ScaledGrid

SCALE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def gaussian(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.05


def round_trip(w: torch.Tensor, grid: ScaledGrid) -> torch.Tensor:
    return grid.format.dequantize(grid.store(grid.round(w)))


def reference_dequantize(codes: torch.Tensor, grid: ScaledGrid, format: ScaledFormat) -> torch.Tensor:
    """Element by element, from the definition."""
    n, k = codes.shape
    width = k if format.group_size == -1 else format.group_size
    w = torch.empty(n, k, dtype=torch.float64)
    for row in range(n):
        for column in range(k):
            g = column // width
            zero = format.elements.zero if grid.zeros is None else int(grid.zeros[row, g])
            w[row, column] = float(grid.scales[row, g]) * (int(codes[row, column]) - zero)
    return w


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, -1, 7, 1, 50])
@pytest.mark.parametrize("search", [True, False])
def test_rounds_to_the_nearest_value_of_the_grid(
    bits: int, symmetric: bool, group_size: int, search: bool
) -> None:
    format, w = IntGroup(bits, symmetric, group_size), gaussian(5, 50)
    grid = format.fit(w, torch.bfloat16, search=search)
    codes = grid.round(w)
    value = format.dequantize(grid.store(codes))
    assert torch.equal(value.double(), reference_dequantize(codes, grid, format).float().double())
    for shift in (-1, 1):  # no neighbouring code is nearer
        other = (codes.int() + shift).clamp(0, format.elements.count - 1).to(torch.uint8)
        nearer = (format.dequantize(grid.store(other)) - w).abs() - (value - w).abs()
        assert nearer.min() >= -1e-7


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_search_lowers_the_weighted_error(bits: int, symmetric: bool) -> None:
    format, w = IntGroup(bits, symmetric, 64), gaussian(16, 256)
    importance = torch.rand(256, generator=torch.Generator().manual_seed(1)) ** 4

    def error(grid: ScaledGrid) -> torch.Tensor:
        delta = round_trip(w, grid) - w
        return (delta * delta * importance).view(16, 4, 64).sum(-1)

    plain = error(format.fit(w, torch.float16))
    searched = error(format.fit(w, torch.float16, importance, search=True))
    assert (searched <= plain * (1 + 1e-5)).all()
    assert searched.sum() < 0.97 * plain.sum()


@pytest.mark.parametrize("dtype", SCALE_DTYPES)
def test_scales_are_rounded_before_they_are_used(dtype: torch.dtype) -> None:
    format, w = IntGroup(4, False, 32), gaussian(8, 64)
    grid = format.fit(w, dtype, search=True)
    assert grid.scales.dtype == dtype
    codes = grid.round(w)
    expected = (w.view(8, 2, 32) / grid.scales.float()[..., None]).round()
    assert grid.zeros is not None
    expected = (expected + grid.zeros.float()[..., None]).clamp(0, 15).view(8, 64)
    assert torch.equal(codes.float(), expected)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", SCALE_DTYPES)
def test_zeros_and_tiny_and_huge_weights_stay_finite(symmetric: bool, dtype: torch.dtype) -> None:
    w = torch.zeros(4, 64)
    w[1] = 1e-30
    w[2, ::2] = 3e4
    w[3, 5] = -2.0
    format = IntGroup(4, symmetric, 32)
    for search in (False, True):
        grid = format.fit(w, dtype, search=search)
        value = round_trip(w, grid)
        assert torch.isfinite(grid.scales).all()
        assert (grid.scales > 0).all()
        assert torch.equal(value[0], torch.zeros(64))
        assert (value - w).abs().max() <= 3e4 / 15
        assert torch.isfinite(value).all()


def test_negative_and_positive_ranges_include_zero() -> None:
    """Padding and pruned weights must stay exactly zero, so zero is always on the grid."""
    for sign in (1, -1):
        w = sign * (1 + torch.rand(3, 32, generator=torch.Generator().manual_seed(0)))
        w[:, 3] = 0
        format = IntGroup(4, False, 32)
        grid = format.fit(w, torch.float32)
        value = round_trip(w, grid)
        assert torch.equal(value[:, 3], torch.zeros(3))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9),
    k=st.integers(1, 200),
    group_size=st.one_of(st.just(-1), st.integers(1, 256)),
    bits=st.sampled_from([2, 3, 4, 8]),
    symmetric=st.booleans(),
)
def test_any_shape(n: int, k: int, group_size: int, bits: int, symmetric: bool) -> None:
    format, w = IntGroup(bits, symmetric, group_size), gaussian(n, k)
    grid = format.fit(w, torch.float32)
    assert grid.scales.shape == (n, format.granularity.groups(k))
    codes = grid.round(w)
    step = grid.scales.float().repeat_interleave(format.granularity.width(k), 1)[:, :k]
    assert ((format.dequantize(grid.store(codes)) - w).abs() <= step * 0.5001 + 1e-9).all()


def test_rows_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import qcore.formats.parts

    format, w = IntGroup(3, False, 32), gaussian(20, 64)
    whole = format.fit(w, torch.float16, search=True)
    monkeypatch.setattr(qcore.formats.parts, "_CHUNK", 100)
    chunked = format.fit(w, torch.float16, search=True)
    assert torch.equal(whole.scales, chunked.scales)
    assert torch.equal(whole.round(w), chunked.round(w))


def test_importance_scale_does_not_matter() -> None:
    format, w = IntGroup(2, False, 32), gaussian(8, 64)
    importance = torch.rand(64, generator=torch.Generator().manual_seed(1))
    a = format.fit(w, torch.float16, importance, search=True)
    b = format.fit(w, torch.float16, importance * 2.0**40, search=True)
    assert torch.equal(a.scales, b.scales)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 5}, "bits: expected one of 2, 3, 4, 8, got 5"),
        ({"group_size": 0}, "group_size: expected a positive number"),
        ({"group_size": -2}, "group_size: expected a positive number"),
    ],
)
def test_bad_formats(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IntGroup(**arguments)  # type: ignore[arg-type]
