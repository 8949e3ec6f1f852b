"""Moving an input scale of a linear layer into whatever comes before it.

`linear(x) = linear_scaled(x / s)`: the division is free if an earlier module can absorb it, a norm's
weight or the rows of a linear layer. Which module that is, is not looked up in a table of architectures:
candidates are found by tracing who produced the input, and each is tried with a random scale. A fold is used
only if it cancels, for every token, what scaling the layers alone does to the block's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Fold", "find_fold"]

# What may be left, per token, of the effect that the fold is to cancel, and of the output itself (rounding).
_LEFT_OF_EFFECT, _LEFT_OF_OUTPUT = 1e-3, 1e-5


@dataclass(frozen=True)
class Fold:
    """An earlier module that absorbs 1/s.

    Attributes:
        module: the norm or linear layer.
        channel: int64 [K], the output channel of `module` that becomes input channel k (several k share
            one where query heads share a value head).
        offset: what the module adds to its weight before use: 1 for norms that compute x * (1 + w).
    """

    module: nn.Module
    channel: Tensor
    offset: float = 0.0

    def apply(self, s: Tensor, dtype: torch.dtype) -> Tensor:
        """Divides the module's output channels by s [K] (equal wherever `channel` is).

        What is kept in `dtype` is rounded to it, and the scale that this really amounts to is returned, so
        that the function of the model stays the same. A linear layer's weight is not rounded, since it will
        be quantized; only a LayerNorm's bias, after its weight, may lose its last bit.
        """
        weight, bias = self.module.weight, getattr(self.module, "bias", None)
        assert isinstance(weight, Tensor)
        per_channel = torch.ones(weight.shape[0], dtype=torch.float32, device=weight.device)
        per_channel[self.channel] = s.float()
        with torch.no_grad():
            if weight.dim() == 1:
                per_channel = _divide(weight, per_channel, dtype, self.offset)
                if isinstance(bias, Tensor):
                    bias.div_(per_channel)
            else:
                if isinstance(bias, Tensor):
                    per_channel = _divide(bias, per_channel, dtype)
                weight.div_(per_channel[:, None])
        return per_channel[self.channel]


def _divide(values: Tensor, by: Tensor, dtype: torch.dtype, offset: float = 0.0) -> Tensor:
    """Divides `values + offset` in place, rounded to dtype; returns what they were really divided by."""
    old = values + offset
    new = (old / by - offset).to(dtype).float()
    vanished = (old != 0) & (new + offset == 0)
    new = torch.where(vanished, values, new)
    values.copy_(new)
    return torch.where(old == 0, by, old / torch.where(old == 0, 1.0, new + offset))


def find_fold(
    linears: Sequence[nn.Linear],
    producers: Sequence[nn.Module],
    head_dim: int | None,
    run: Callable[[], Tensor],
) -> Fold | None:
    """The fold for linear layers that share one input, or None.

    Args:
        linears: the layers that read the input [.., K].
        producers: modules that may have made it, likeliest first.
        head_dim: channels per attention head, if known.
        run: the block's output on a sample.
    """
    k, device = linears[0].in_features, linears[0].weight.device
    probe = 2.0 ** torch.randint(-2, 3, (k,), generator=torch.Generator().manual_seed(0)).to(device)
    expected = run()

    def moved(fold: Fold, s: Tensor, folded: bool) -> Tensor:
        """How far the output of each token moves when the layers are scaled, with or without the fold."""
        with _restored(fold.module, *linears):
            if folded:
                fold.apply(s, torch.float32)
            for linear in linears:
                linear.weight.data = linear.weight.data * s
            return (run() - expected).abs().amax(-1)

    for fold in _candidates(producers, k, head_dim, device):
        s = _tied(probe, fold.channel)
        effect, left = moved(fold, s, folded=False), moved(fold, s, folded=True)
        rounding = _LEFT_OF_OUTPUT * expected.abs().amax(-1)
        # An effect below rounding would prove nothing.
        if (effect > 10 * rounding).any() and (left <= _LEFT_OF_EFFECT * effect + rounding).all():
            return fold
    return None


def _candidates(
    producers: Sequence[nn.Module], k: int, head_dim: int | None, device: torch.device
) -> list[Fold]:
    found = []
    columns = torch.arange(k, device=device)
    for module in producers:
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.shape[0] == 0:
            continue
        n = weight.shape[0]
        if weight.dim() == 1 and n == k:
            found += [Fold(module, columns), Fold(module, columns, offset=1.0)]
        elif isinstance(module, nn.Linear) and n == k:
            found.append(Fold(module, columns))
        elif isinstance(module, nn.Linear) and head_dim and k % n == 0 and n % head_dim == 0:
            head, within = columns // head_dim, columns % head_dim
            found.append(Fold(module, head // (k // n) * head_dim + within))
    return found


def _tied(s: Tensor, channel: Tensor) -> Tensor:
    """s with one value for each channel of the earlier module."""
    shared = torch.ones(int(channel.max()) + 1, device=s.device)
    shared[channel] = s
    return shared[channel]


@contextmanager
def _restored(*modules: nn.Module) -> Iterator[None]:
    saved = [(p, p.data, p.data.clone()) for m in modules for p in m.parameters(recurse=False)]
    try:
        yield
    finally:
        for parameter, data, values in saved:
            data.copy_(values)
            parameter.data = data
