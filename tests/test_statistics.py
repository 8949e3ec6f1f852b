"""Statistics of inputs: what several processes gathered is what one would have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tiny
from qcore import quantize
from qcore.formats import Activations
from qcore.methods import InputStats


def inputs(tokens: int, seed: int) -> Tensor:
    return torch.randn(tokens, 24, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("moments", [False, True])
def test_merged_parts_are_the_whole(clipped: bool, moments: bool) -> None:
    weights = (torch.randn(8, 24, generator=torch.Generator().manual_seed(9)),) if clipped else ()
    parts = [inputs(tokens, seed) for seed, tokens in enumerate((40, 0, 7))]
    whole, first = (InputStats(24, moments=moments, weights=weights) for _ in range(2))
    for x in parts:
        whole.add(x)
    first.add(parts[0])
    for x in parts[1:]:
        other = InputStats(24, moments=moments, weights=weights)
        other.add(x)
        first.merge(other)
    assert first.tokens == whole.tokens == 47
    for name in ("gram", "abs_sum", "low", "high"):
        torch.testing.assert_close(getattr(first, name), getattr(whole, name), rtol=1e-13, atol=1e-13)
    for symmetric in (True, False):
        static = Activations("int8", "tensor", symmetric)
        assert first.static_range(static) == whole.static_range(static)
    if clipped:
        assert torch.equal(first.histogram.counts, whole.histogram.counts)  # type: ignore[union-attr]
    scale = torch.rand(24, generator=torch.Generator().manual_seed(4)) + 0.5
    if moments:
        torch.testing.assert_close(first.divided_by(scale).hessian, whole.divided_by(scale).hessian)


@pytest.mark.parametrize(
    "other",
    [
        InputStats(23),
        InputStats(24, moments=False),
        InputStats(24, weights=(torch.ones(2, 24),)),
        InputStats(24).divided_by(torch.ones(24)),
    ],
    ids=["columns", "moments", "histogram", "scale"],
)
def test_others_are_not_merged(other: InputStats) -> None:
    stats = InputStats(24)
    stats.add(inputs(5, 0))
    with pytest.raises(ValueError, match="other: expected statistics of the same layer"):
        stats.merge(other)
    assert stats.tokens == 5


def test_moved_statistics_are_the_same() -> None:
    stats = InputStats(24, weights=(torch.ones(2, 24),))
    stats.add(inputs(50, 0))
    moved = stats.to(torch.device("cpu"))
    assert torch.equal(moved.hessian, stats.hessian)
    assert moved.static_range(Activations("int8", "tensor")) == stats.static_range(
        Activations("int8", "tensor")
    )
    moved.add(inputs(3, 1))
    assert (moved.tokens, stats.tokens) == (53, 50)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_the_device_of_the_work_is_not_that_of_the_model(method: str) -> None:
    """Blocks visit the device and come back; here both are the CPU, on a GPU tests/gpu asks the same."""
    models = [tiny.make_model("llama", torch.bfloat16) for _ in range(2)]
    for model, device in zip(models, (None, "cpu"), strict=True):
        quantize(model, "W4A16", method, tiny.tokens(), group_size=32, device=device)
    assert torch.equal(tiny.logits(models[0]), tiny.logits(models[1]))
    assert {p.dtype for p in models[1].parameters()} == {torch.bfloat16}
