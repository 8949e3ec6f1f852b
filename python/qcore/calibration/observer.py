"""Watching a forward pass: the inputs of layers become statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor, nn

from qcore.calibration.chain import Batch, Stop
from qcore.formats import Format
from qcore.methods import InputStats, Method

__all__ = ["Observer", "Run", "input_of", "linear_named", "mask_of", "new_stats"]


@dataclass(frozen=True)
class Run:
    """A forward pass over one batch, and which of its tokens count (None: all)."""

    call: Callable[[], object]
    mask: Tensor | None = None


class Observer:
    """Adds the inputs of the given layers to their statistics, of every call. Where layers are called `once`
    at most, a run ends early, by the exception Stop, when it has reached all of them."""

    def __init__(self, stats: Mapping[nn.Linear, InputStats], once: bool = False) -> None:
        self.stats, self.once = stats, once
        self.mask: Tensor | None = None
        self.waiting: set[nn.Module] = set()

    def __enter__(self) -> Observer:
        self.handles = [m.register_forward_pre_hook(self._see, with_kwargs=True) for m in self.stats]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def run(self, run: Run) -> None:
        self.mask, self.waiting = run.mask, set(self.stats)
        with suppress(Stop):
            run.call()

    def _see(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        assert isinstance(module, nn.Linear)
        self.stats[module].add(input_of(args, kwargs), self.mask)
        self.waiting.discard(module)
        if self.once and not self.waiting:
            raise Stop


def new_stats(layers: Mapping[nn.Linear, Format], method: Method) -> InputStats:
    """For the input that these layers share."""
    first = next(iter(layers))
    weights = [m.weight for m, f in layers.items() if f.activations is not None and f.activations.clips]
    return InputStats(first.in_features, first.weight.device, method.needs_calibration, weights)


def input_of(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    return args[0] if args else kwargs["input"]


def mask_of(batch: Batch) -> Tensor | None:
    mask = batch.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.dim() == 2 else None


def linear_named(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module
