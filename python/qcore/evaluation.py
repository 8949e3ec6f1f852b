"""How good a language model is: perplexity, and how far it moved from a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qcore.progress import track

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Figures over all predicted tokens.

    Attributes:
        tokens: how many tokens were predicted.
        perplexity: exp of the mean negative log-likelihood.
        perplexity_error: its standard error, from the spread between chunks (tokens of one text are not
            independent, chunks nearly are).
        kl: mean Kullback-Leibler divergence from the reference to the model, nats per token; None
            without a reference.
        kl_error: its standard error.
        top1: how often both models put the same token first, between 0 and 1; None without a reference.
    """

    tokens: int
    perplexity: float
    perplexity_error: float
    kl: float | None = None
    kl_error: float | None = None
    top1: float | None = None


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tensor, reference: nn.Module | None = None) -> Evaluation:
    """Evaluates a causal language model.

    Args:
        model: called as `model(input_ids=...)`, returns `.logits` [B, T, V]; put into evaluation mode.
        tokens: int64 [chunks, T]; every chunk is evaluated on its own, over its T - 1 predictions.
        reference: the model to compare with, usually the unquantized one.
    """
    if tokens.dim() != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise ValueError(f"tokens: expected int64 [chunks, T] with T >= 2, got shape {tuple(tokens.shape)}")
    for each in (model, reference):
        if each is not None:
            each.eval()
    losses, divergences, agreements = [], [], []
    for chunk in track(list(tokens), "evaluating"):
        log_p = _log_probabilities(model, chunk)
        losses.append(-log_p.gather(1, chunk[1:, None].to(log_p.device)).double().mean())
        if reference is not None:
            log_r = _log_probabilities(reference, chunk).to(log_p.device)
            # Where the reference gives probability 0 the term is 0, even if the model gives 0 too.
            terms = torch.where(log_r == -torch.inf, 0.0, log_r.exp() * (log_r - log_p))
            divergences.append(terms.sum(-1).double().mean())
            agreements.append((log_r.argmax(-1) == log_p.argmax(-1)).double().mean())
    loss, loss_error = _mean_and_error(losses)
    perplexity = math.exp(loss) if loss < 700 else math.inf
    figures: dict[str, Any] = {}
    if divergences:
        figures["kl"], figures["kl_error"] = _mean_and_error(divergences)
        figures["top1"] = _mean_and_error(agreements)[0]
    return Evaluation(
        tokens=tokens.shape[0] * (tokens.shape[1] - 1),
        perplexity=perplexity,
        perplexity_error=perplexity * loss_error,
        **figures,
    )


def _log_probabilities(model: nn.Module, chunk: Tensor) -> Tensor:
    """Log-probabilities float32 [T - 1, V] of what follows each token of a chunk [T]."""
    device = next(model.parameters()).device
    logits = model(input_ids=chunk[None].to(device)).logits[0, :-1]
    return torch.log_softmax(logits.float(), -1)


def _mean_and_error(values: list[Tensor]) -> tuple[float, float]:
    stacked = torch.stack(values)
    error = float(stacked.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(stacked.mean()), error
