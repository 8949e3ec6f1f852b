"""Forward passes of a model over all batches, side by side: all of them wait in front of the same part.

Calibration needs the inputs of each layer behind the already quantized layers. Running the whole model for
each layer would cost the square of its depth. So every batch has one forward pass of the true model, which
stops in front of each part that is worked on (a block of the model, mostly) until that part is quantized for
all batches, and then goes on with what the quantized part returns. Whatever travels between the parts
(carried position biases, skipped connections, encoder states, lists that blocks change) is what the model
itself makes of it; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from qcore.calibration.data import Batch
from qcore.requires import models_for

__all__ = ["Call", "Passes", "no_caches"]


@dataclass
class Call:
    """One batch's call of a part of the model, which waits for it.

    Attributes:
        batch: its index.
        args, kwargs: as the model gave them.
    """

    batch: int
    forward: Callable[..., Any]
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    wide: WeakTensorKeyDictionary  # float32 tensors for those of the model's dtype that were made of them
    out: Any = None

    def look(self) -> Any:
        """Runs the part on copies of its inputs, which may change them; what it returns, in float32."""
        args, kwargs = self._inputs(copies=True)
        return self.forward(*args, **kwargs)

    def input(self) -> Tensor:
        """The first tensor of the call, in float32."""
        leaves = tree_flatten(self._inputs(copies=False))[0]
        return next(leaf for leaf in leaves if isinstance(leaf, Tensor))

    def finish(self) -> None:
        """Runs the part for good: the forward pass goes on with what it returns."""
        dtype, device = self._kind()
        args, kwargs = self._inputs(copies=False)

        def given_back(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            narrow = x.to(device or x.device, dtype if dtype and x.is_floating_point() else x.dtype)
            if narrow is not x and narrow.dtype != x.dtype:
                self.wide[narrow] = (x, narrow._version)
            return narrow

        self.out = tree_map(given_back, self.forward(*args, **kwargs))

    def _kind(self) -> tuple[torch.dtype | None, torch.device | None]:
        """Dtype and device of what the model computes with around this part."""
        for leaf in tree_flatten((self.args, self.kwargs))[0]:
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                return leaf.dtype, leaf.device
        return None, None

    def _inputs(self, copies: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        device = _device_of(self.module)

        def convert(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            known = self.wide.get(x)
            if known is not None and known[1] == x._version:  # else the model changed it in place
                y = known[0]
            else:
                y = x.float() if x.is_floating_point() else x
            y = y.to(device) if device is not None else y
            return y.clone() if copies and y is x else y

        args, kwargs = tree_map(convert, (self.args, self.kwargs))
        return args, kwargs


class Passes:
    """The forward passes of a model over batches.

    Attributes:
        batch: the index of the one that is running.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.model, self.batches = model, batches
        self.batch = 0

    def stopping_at(self, parts: Sequence[str], ordered: bool = True) -> Iterator[tuple[str, list[Call]]]:
        """Each part with the calls of it that wait.

        Whoever iterates calls `finish` of every call; then the passes go on.

        Args:
            ordered: each part comes once, in the order given, and the passes end behind the last one. Else
                parts come as the passes call them, until all passes are at their end.

        Raises:
            RuntimeError: with `ordered`, a pass calls a part that others have left behind.
        """
        if list(parts) == [""]:
            calls = [self._whole(index) for index in range(len(self.batches))]
            yield "", calls
            return
        with models_for("calibration"):
            import greenlet  # type: ignore[import-untyped]

        current = greenlet.getcurrent()
        waiting: dict[int, tuple[str, Call]] = {}
        passes = [greenlet.greenlet(self._run) for _ in self.batches]
        wides = [WeakTensorKeyDictionary() for _ in self.batches]

        def stop(name: str, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def forward_later(*args: Any, **kwargs: Any) -> Any:
                if greenlet.getcurrent() is current:  # called by another part
                    return forward(*args, **kwargs)
                call = Call(self.batch, forward, module, args, kwargs, wides[self.batch])
                waiting[self.batch] = (name, call)
                del args, kwargs
                current.switch()
                out, call.out = call.out, None
                return out

            return forward_later

        def go_on(index: int) -> None:
            waiting.pop(index, None)
            self.batch = index
            if passes[index].dead:
                return
            passes[index].switch(*(() if passes[index] else (index,)))

        replaced = {}
        for name in parts:
            module = self.model.get_submodule(name)
            replaced[module] = stop(name, module, module.forward)
        with _forwards(replaced):
            try:
                for index in range(len(passes)):
                    go_on(index)
                while waiting and not ordered:
                    name = waiting[min(waiting)][0]
                    calls = [waiting[index][1] for index in sorted(waiting) if waiting[index][0] == name]
                    yield name, calls
                    for call in calls:
                        go_on(call.batch)
                for name in parts if ordered else ():
                    calls = [waiting[index][1] for index in sorted(waiting) if waiting[index][0] == name]
                    if calls:
                        yield name, calls
                    if name == parts[-1]:
                        break
                    for call in calls:
                        go_on(call.batch)
                if left := [at for at, _ in waiting.values() if at != parts[-1]]:
                    raise RuntimeError(
                        f"{left[0]}: called again, behind {parts[-1]}, for some calibration batches only"
                    )
            finally:
                for each in passes:
                    if each and not each.dead:
                        each.throw(greenlet.GreenletExit)

    def _whole(self, index: int) -> Call:
        wide = WeakTensorKeyDictionary()
        arguments = _as_arguments(self.model, self.batches[index])
        return Call(index, self.model.forward, self.model, (), arguments, wide)

    def _run(self, index: int) -> None:
        self.model(**_as_arguments(self.model, self.batches[index]))


def _as_arguments(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """A batch on the model's device, in containers of its own: a forward pass may change them."""
    device = _device_of(model)
    return {
        key: tree_map(lambda x: x.to(device) if isinstance(x, Tensor) and device else x, value)
        for key, value in batch.items()
    }


def _device_of(module: nn.Module) -> torch.device | None:
    """Where a module computes; None if it has no parameters."""
    return next((parameter.device for parameter in module.parameters()), None)


@contextmanager
def no_caches(model: nn.Module) -> Iterator[None]:
    """While it lasts, no forward pass makes a cache of past keys or states: one would be shared by the many
    runs of a block. Every configuration inside the model says so, those of its parts too."""
    configs: dict[int, Any] = {}

    def add(config: Any) -> None:
        if config is None or id(config) in configs or not hasattr(config, "to_dict"):
            return
        configs[id(config)] = config
        for value in list(vars(config).values()):
            add(value)

    for module in model.modules():
        add(getattr(module, "config", None))
    before = [(config, config.use_cache) for config in configs.values() if hasattr(config, "use_cache")]
    try:
        for config, _ in before:
            config.use_cache = False
        yield
    finally:
        for config, value in before:
            config.use_cache = value


@contextmanager
def _forwards(replaced: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """While it lasts, these modules have another `forward`."""
    own: dict[nn.Module, Callable[..., Any] | None]
    own = {module: module.__dict__.get("forward") for module in replaced}
    for module, other in replaced.items():
        module.forward = other
    try:
        yield
    finally:
        for module, forward in own.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward
