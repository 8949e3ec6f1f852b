"""The block formats of GGUF as formats: grids, nearest codes, storing and dequantizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qcore import BlockFormat, QWeight, ops
from qcore.formats import BLOCK_FORMATS, BlockGrid
from test_kquant import FINITE_HALVES, INFO, TYPES, put_halves, random_blocks

N, BLOCKS = 5, 3


def random_grid(type: str, seed: int = 0) -> BlockGrid:
    """Scales as weights have them, of either sign; a few blocks have scale zero."""
    random = np.random.default_rng(seed)
    halves = (FINITE_HALVES & 0x8000 | 0x1000 | FINITE_HALVES & 0x1FFF).astype(np.uint16)
    halves = random.choice(halves, (N * BLOCKS, 2))
    halves[::7] = 0
    blocks = put_halves(random_blocks(type, N * BLOCKS, seed), type, halves)
    if type == "MXFP4":
        blocks[:, 0] = random.integers(115, 125, N * BLOCKS)
    return BlockGrid(BlockFormat(type), torch.from_numpy(blocks).view(N, -1))


def columns(type: str) -> int:
    return BLOCKS * INFO[type]["elements"]


def gaussian(type: str, seed: int = 0) -> Tensor:
    return torch.randn(N, columns(type), generator=torch.Generator().manual_seed(seed)) * 0.05


def all_values(grid: BlockGrid) -> Tensor:
    """What each code would stand for, float64 [codes, N, K], by dequantizing."""
    k, name = columns(grid.format.name), grid.format.name
    return torch.stack(
        [
            ops.kquant_dequantize(
                ops.kquant_join(grid.blocks, name, k, torch.full((N, k), code, dtype=torch.uint8)), name, k
            )
            for code in range(len(INFO[name]["values"]))
        ]
    ).double()


# Codes that other runtimes do not expect.
LEFT_OUT = {"TQ2_0": 3, "Q8_0": 0}


@pytest.mark.parametrize("type", TYPES)
def test_codes_are_the_nearest_of_the_grid(type: str) -> None:
    grid = random_grid(type)
    values = all_values(grid)
    # All over the grid's range and beyond it.
    low, high = values.amin(0), values.amax(0)
    at = torch.rand(low.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w = (low + (high - low) * (1.2 * at - 0.1)).float()
    codes = grid.round(w)
    allowed = [code for code in range(len(values)) if code != LEFT_OUT.get(type)]
    assert torch.isin(codes, torch.tensor(allowed, dtype=torch.uint8)).all()
    chosen = values.gather(0, codes[None].long())[0]
    least = (values[allowed] - w).abs().amin(0)
    step = (high - low) / len(values)
    assert ((chosen - w).abs() <= least + 1e-5 * step).all()
    assert torch.equal(BlockFormat(type).dequantize(grid.store(codes)).double(), chosen)


@pytest.mark.parametrize("type", TYPES)
def test_columns_are_rounded_as_the_whole_is(type: str) -> None:
    """Invariant 8: what a method simulates is what is stored, bit for bit."""
    grid, w = random_grid(type), gaussian(type)
    order = torch.randperm(columns(type), generator=torch.Generator().manual_seed(2))
    points = grid.points(order)
    codes, values = points.round(w.T[order], slice(None))
    assert codes.dtype == torch.uint8
    assert torch.equal(codes, grid.round(w).T[order])
    assert torch.equal(values, BlockFormat(type).dequantize(grid.store(grid.round(w))).T[order])
    for i in (0, 17, columns(type) - 1):
        code, value = points.round(w[:, order[i]], i)
        assert torch.equal(code, codes[i])
        assert torch.equal(value, values[i])


@pytest.mark.parametrize("type", TYPES)
def test_rounding_what_is_stored_changes_nothing(type: str) -> None:
    grid = random_grid(type)
    w = grid.format.dequantize(grid.store(grid.round(gaussian(type))))
    assert torch.equal(grid.format.dequantize(grid.store(grid.round(w))), w)


def test_rows_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import qcore.formats.gguf

    grid, w = random_grid("Q3_K"), gaussian("Q3_K")
    whole = grid.round(w)
    monkeypatch.setattr(qcore.formats.gguf, "_CHUNK", 1000)
    assert torch.equal(grid.round(w), whole)


@pytest.mark.parametrize("type", TYPES)
def test_the_encoder_chose_the_nearest_codes_of_its_grid(type: str) -> None:
    w = gaussian(type)
    grid = BlockFormat(type).fit(w, torch.bfloat16)
    ours = grid.format.dequantize(grid.store(grid.round(w)))
    encoded = ops.kquant_dequantize(grid.blocks, type, columns(type))
    # Halfway between two points either may be taken.
    torch.testing.assert_close((ours - w).abs(), (encoded - w).abs(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("type", TYPES)
def test_importance_moves_the_grid_to_where_it_counts(type: str) -> None:
    w = gaussian(type)
    importance = torch.rand(columns(type), generator=torch.Generator().manual_seed(1)) ** 4
    format = BlockFormat(type)

    def error(grid: BlockGrid) -> float:
        delta = format.dequantize(grid.store(grid.round(w))) - w
        return float((delta.square() * importance).sum())

    plain = format.fit(w, torch.float32, importance)
    assert torch.equal(plain.blocks, format.fit(w, torch.float32).blocks)
    searched = format.fit(w, torch.float32, importance, search=True)
    assert error(searched) <= error(plain)
    scaled = format.fit(w, torch.float32, importance * 2.0**40, search=True)
    assert torch.equal(searched.blocks, scaled.blocks)


def test_zeros_stay_zero() -> None:
    for type in TYPES:
        format, w = BlockFormat(type), gaussian(type)
        w[:, : columns(type) // 2] = 0
        w[2] = 0
        grid = format.fit(w, torch.float32)
        value = format.dequantize(grid.store(grid.round(w)))
        assert torch.equal(value[2], torch.zeros(columns(type))), type
        assert torch.equal(value[:, : INFO[type]["elements"]], torch.zeros(N, INFO[type]["elements"])), type


def test_a_weight_of_blocks() -> None:
    format = BlockFormat("Q4_K")
    blocks = torch.from_numpy(random_blocks("Q4_K", 6)).view(3, -1)
    weight = QWeight(format, (3, 512), {"blocks": blocks})
    assert weight.bits_per_weight == 4.5
    torch.testing.assert_close(
        weight.dequantize(torch.bfloat16), ops.kquant_dequantize(blocks, "Q4_K", 512, torch.bfloat16)
    )


@pytest.mark.parametrize(
    ("shape", "blocks", "error", "message"),
    [
        ((3, 500), (3, 288), ValueError, "Q4_K stores rows of a multiple of 256 columns, got 500"),
        ((3, 0), (3, 0), ValueError, "Q4_K stores rows of a multiple of 256 columns, got 0"),
        ((3, 512), (3, 287), ValueError, r"blocks: expected shape \(3, 288\) for Q4_K \(3, 512\), got"),
        ((2, 512), (3, 288), ValueError, r"blocks: expected shape \(2, 288\)"),
    ],
)
def test_bad_weights(
    shape: tuple[int, int], blocks: tuple[int, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        QWeight(BlockFormat("Q4_K"), shape, {"blocks": torch.zeros(blocks, dtype=torch.uint8)})
    with pytest.raises(TypeError, match=r"blocks: expected uint8, got torch\.float32"):
        QWeight(BlockFormat("Q4_K"), (3, 512), {"blocks": torch.zeros(3, 288)})


def test_bad_formats() -> None:
    with pytest.raises(ValueError, match=r"name: expected one of Q4_0, .*, MXFP4, got 'q4_k'"):
        BlockFormat("q4_k")
    with pytest.raises(ValueError, match="Q2_K stores rows of a multiple of 256 columns, got 128"):
        BlockFormat("Q2_K").fit(torch.zeros(2, 128), torch.float32)


def test_rows_that_are_no_whole_blocks_get_narrower_ones() -> None:
    for name, format in BLOCK_FORMATS.items():
        assert format.for_columns(768) is format, name
        narrower = format.for_columns(96)
        assert isinstance(narrower, BlockFormat)
        assert narrower.elements == 32
        assert (narrower is format) == (format.elements == 32)
        bits, before = (f.bytes / f.elements for f in (narrower, format))
        assert bits >= before
        assert format.for_columns(100) is None
