"""Watching a forward pass: the inputs of layers become statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qcore.calibration.tokens import Around, Tokens
from qcore.formats import Format
from qcore.methods import InputStats, Method

__all__ = ["Observer", "Run", "input_of", "linear_named", "new_stats"]


@dataclass(frozen=True)
class Run:
    """A forward pass over one batch.

    Attributes:
        call: returns the output.
        input: the first tensor of the input.
        masks: bool [B, T] each: which tokens of the batch count.
    """

    call: Callable[[], object]
    input: Callable[[], Tensor]
    masks: Mapping[str, Tensor]


class Stop(Exception):
    """Ends a forward pass once everything that was wanted of it has been seen."""


class Observer:
    """Adds the inputs of the given layers to their statistics. A run ends early, by the exception Stop, once
    it has reached all of them as often as it will.

    Args:
        stats: by layer; each layer has its name in `names`.
        owners: the modules around the layers.
        again: layers may be called more than once in a run, so that runs go to their end.
    """

    def __init__(
        self,
        stats: Mapping[nn.Linear, InputStats],
        names: Mapping[nn.Linear, str],
        tokens: Tokens,
        owners: Iterable[nn.Module] = (),
        again: bool = False,
    ) -> None:
        self.stats, self.names, self.tokens, self.again = stats, names, tokens, again
        self.owners = list(owners)
        self.around = Around({})
        self.waiting: set[nn.Module] = set()

    def __enter__(self) -> Observer:
        self.handles = [m.register_forward_pre_hook(self._see, with_kwargs=True) for m in self.stats]
        for module in self.owners:
            self.handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self.handles.append(module.register_forward_hook(self._leave, always_call=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def run(self, run: Run) -> None:
        self.around, self.waiting = Around(run.masks), set(self.stats)
        if self.owners:
            self.around.enter(run.input())
        with suppress(Stop):
            run.call()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.around.enter(args[0] if args else next(iter(kwargs.values()), None))

    def _leave(self, module: nn.Module, args: object, out: object) -> None:
        self.around.leave()

    def _see(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        assert isinstance(module, nn.Linear)
        x = input_of(args, kwargs)
        self.stats[module].add(x, self.tokens.keep(self.names[module], x, self.around))
        self.waiting.discard(module)
        if not self.waiting and not self.again:
            raise Stop


def new_stats(layers: Mapping[nn.Linear, Format], method: Method) -> InputStats:
    """For the input that these layers share."""
    first = next(iter(layers))
    weights = [m.weight for m, f in layers.items() if f.activations is not None and f.activations.clips]
    return InputStats(first.in_features, first.weight.device, method.needs_calibration, weights)


def input_of(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    return args[0] if args else next(iter(kwargs.values()))


def linear_named(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module
