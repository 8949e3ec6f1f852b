"""Perplexity, KL divergence and agreement against values computed by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from qcore import evaluate

VOCABULARY = 11


class Bigram(nn.Module):
    """A language model whose next token depends on the last one only."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator) * 2)

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


def token_chunks(rows: int = 5, length: int = 40) -> Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(3))


def test_figures_are_those_of_the_definition() -> None:
    model, reference, tokens = Bigram(0), Bigram(1), token_chunks()
    p = torch.softmax(model.table.detach().double(), -1)
    r = torch.softmax(reference.table.detach().double(), -1)
    losses, kls, agree = [], [], []
    for chunk in tokens.tolist():
        pairs = list(pairwise(chunk))
        losses.append(sum(-math.log(p[a, b]) for a, b in pairs) / len(pairs))
        kls.append(sum(float((r[a] * (r[a] / p[a]).log()).sum()) for a, _ in pairs) / len(pairs))
        agree.append(sum(int(p[a].argmax() == r[a].argmax()) for a, _ in pairs) / len(pairs))
    mean = sum(losses) / len(losses)
    spread = math.sqrt(sum((x - mean) ** 2 for x in losses) / (len(losses) - 1) / len(losses))
    result = evaluate(model, tokens, reference)
    assert result.tokens == 5 * 39
    assert result.perplexity == pytest.approx(math.exp(mean), rel=1e-5)
    assert result.perplexity_error == pytest.approx(math.exp(mean) * spread, rel=1e-4)
    assert result.kl == pytest.approx(sum(kls) / len(kls), rel=1e-4)
    assert result.top1 == pytest.approx(sum(agree) / len(agree))


def test_a_model_agrees_with_itself() -> None:
    model = Bigram(0)
    result = evaluate(model, token_chunks(), model)
    assert result.kl == 0
    assert result.top1 == 1


def test_without_reference_and_with_one_chunk() -> None:
    result = evaluate(Bigram(0), token_chunks(1))
    assert result.kl is None
    assert result.top1 is None
    assert math.isnan(result.perplexity_error)


def test_chunks_of_unlike_lengths_count_by_their_tokens() -> None:
    """As one chunk of all predictions has it, except that none goes from chunk to chunk."""
    model, reference = Bigram(0), Bigram(1)
    lengths = (3, 40, 2, 17)
    chunks = [chunk[:length] for chunk, length in zip(token_chunks(4), lengths, strict=True)]
    result = evaluate(model, [*chunks, torch.tensor([1])], reference)
    assert result.tokens == sum(lengths) - 4
    alone = [evaluate(model, chunk[None], reference) for chunk in chunks]
    sizes = torch.tensor([one.tokens for one in alone]).double()

    def mean(values: list[float]) -> float:
        return float((torch.tensor(values).double() * sizes).sum() / sizes.sum())

    losses = [math.log(one.perplexity) for one in alone]
    assert result.perplexity == pytest.approx(math.exp(mean(losses)), rel=1e-5)
    assert result.kl == pytest.approx(mean([one.kl or 0.0 for one in alone]), rel=1e-5)
    assert result.top1 == pytest.approx(mean([one.top1 or 0.0 for one in alone]))
    away = (torch.tensor(losses).double() - mean(losses)) * sizes
    error = math.sqrt(float(away.square().sum()) * 4 / 3) / float(sizes.sum())
    assert result.perplexity_error == pytest.approx(result.perplexity * error, rel=1e-4)


@pytest.mark.parametrize("bad", [[], [torch.tensor([1])], [torch.zeros(2, 3, dtype=torch.long)]])
def test_bad_chunks(bad: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"tokens: expected chunks int64 \[T\]"):
        evaluate(Bigram(0), bad)


@pytest.mark.parametrize("shape", [(4,), (0, 8), (4, 1)])
def test_bad_tokens(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"tokens: expected int64 \[chunks, T\] with T >= 2, got shape"):
        evaluate(Bigram(0), torch.zeros(shape, dtype=torch.long))
