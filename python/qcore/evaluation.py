"""How good a language model is: perplexity, and how far it, or an encoder, moved from a reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qcore.encoders import embeddings, is_encoder
from qcore.progress import track
from qcore.text import Sequences

__all__ = ["EmbeddingEvaluation", "Evaluation", "evaluate", "evaluate_embeddings"]


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


@dataclass(frozen=True)
class EmbeddingEvaluation:
    """How near an encoder stayed to its reference.

    Attributes:
        texts: how many were embedded.
        cosine: mean over the texts, of the vectors that both make of each.
        cosine_min: the least.
        neighbours: for how many of the texts, between 0 and 1, the nearest other one is the same for both;
            None for fewer than three.
    """

    texts: int
    cosine: float
    cosine_min: float
    neighbours: float | None = None


@torch.no_grad()
def evaluate(
    model: nn.Module,
    tokens: Tensor | Sequence[Tensor] | Sequences,
    reference: nn.Module | None = None,
) -> Evaluation:
    """Evaluates a causal language model.

    Args:
        model: called as `model(input_ids=...)`, returns `.logits` [B, T, V]; put into evaluation mode.
        tokens: int64 [chunks, T], or chunks int64 [T] of unlike lengths; every chunk is evaluated on its own,
            over its T - 1 predictions. See `qcore.text.read_sequences` for texts and chats.
        reference: the model to compare with, usually the unquantized one.

    Raises:
        ValueError: tokens of other shapes; an encoder, which predicts nothing: see `evaluate_embeddings`.
    """
    chunks = _chunks(tokens)
    for each in (model, reference):
        if each is not None:
            _expect_language_model(each)
            each.eval()
    losses, divergences, agreements = [], [], []
    for chunk in track(chunks, "evaluating"):
        log_p = _log_probabilities(model, chunk)
        losses.append(-log_p.gather(1, chunk[1:, None].to(log_p.device)).double().sum())
        if reference is not None:
            log_r = _log_probabilities(reference, chunk).to(log_p.device)
            # Where the reference gives probability 0 the term is 0, even if the model gives 0 too.
            terms = torch.where(log_r == -torch.inf, 0.0, log_r.exp() * (log_r - log_p))
            divergences.append(terms.sum(-1).double().sum())
            agreements.append((log_r.argmax(-1) == log_p.argmax(-1)).double().sum())
    counts = [len(chunk) - 1 for chunk in chunks]
    loss, loss_error = _mean_and_error(losses, counts)
    perplexity = math.exp(loss) if loss < 700 else math.inf
    figures: dict[str, Any] = {}
    if divergences:
        figures["kl"], figures["kl_error"] = _mean_and_error(divergences, counts)
        figures["top1"] = _mean_and_error(agreements, counts)[0]
    return Evaluation(
        tokens=sum(counts),
        perplexity=perplexity,
        perplexity_error=perplexity * loss_error,
        **figures,
    )


def _chunks(tokens: Tensor | Sequence[Tensor] | Sequences) -> list[Tensor]:
    if isinstance(tokens, Tensor):
        if tokens.dim() != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
            raise ValueError(
                f"tokens: expected int64 [chunks, T] with T >= 2, got shape {tuple(tokens.shape)}"
            )
        return list(tokens)
    chunks = [chunk for chunk in tokens if chunk.dim() != 1 or len(chunk) > 1]
    if not chunks or any(chunk.dim() != 1 for chunk in chunks):
        shapes = [list(chunk.shape) for chunk in tokens]
        raise ValueError(f"tokens: expected chunks int64 [T], one with T >= 2 at least, got {shapes[:4]}")
    return chunks


def _expect_language_model(model: nn.Module) -> None:
    if is_encoder(model):
        raise ValueError(
            f"model: {type(model).__name__} predicts no next tokens; qcore.evaluate_embeddings compares what "
            f"encoders make of texts"
        )
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(
            f"model: {type(model).__name__} needs an input and an output text; only causal language models "
            f"and encoders are evaluated"
        )


@torch.no_grad()
def evaluate_embeddings(
    model: nn.Module, texts: Iterable[Tensor], reference: nn.Module, pooling: str = "mean"
) -> EmbeddingEvaluation:
    """Compares the vectors that an encoder makes of texts with those of a reference.

    Args:
        texts: token ids int64 [T] each, as `qcore.text.read_sequences` makes them.
        reference: usually the unquantized model.
        pooling: how a text's hidden states become one vector: mean, cls, max or lasttoken.
    """
    ids = list(texts)
    if not ids:
        raise ValueError("texts: expected at least one")
    found = []
    for each in (model, reference):
        each.eval()
        vectors = [embeddings(each, text, pooling).cpu() for text in track(ids, "embedding")]
        found.append(torch.nn.functional.normalize(torch.stack(vectors).double(), dim=-1))
    ours, theirs = found
    cosine = (ours * theirs).sum(-1)
    same = None
    if len(ids) > 2:
        nearest = [(v @ v.T).fill_diagonal_(-torch.inf).argmax(-1) for v in found]
        same = float((nearest[0] == nearest[1]).double().mean())
    return EmbeddingEvaluation(len(ids), float(cosine.mean()), float(cosine.min()), same)


def _log_probabilities(model: nn.Module, chunk: Tensor) -> Tensor:
    """Log-probabilities float32 [T - 1, V] of what follows each token of a chunk [T]."""
    device = next(model.parameters()).device
    logits = model(input_ids=chunk[None].to(device)).logits[0, :-1]
    return torch.log_softmax(logits.float(), -1)


def _mean_and_error(sums: list[Tensor], counts: list[int]) -> tuple[float, float]:
    """Of a quantity whose sums over the tokens of each chunk are given: its mean over all tokens, and the
    standard error of that by the spread between chunks."""
    stacked, size = torch.stack(sums).cpu(), torch.tensor(counts, dtype=torch.float64)
    mean = stacked.sum() / size.sum()
    n = len(counts)
    spread = (stacked - mean * size).square().sum() * (n / (n - 1)) if n > 1 else torch.tensor(math.nan)
    return float(mean), float(spread.sqrt() / size.sum())
