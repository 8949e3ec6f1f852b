"""A model as a chain of blocks: run one block at a time on recorded inputs.

Calibration needs the inputs of each layer behind the already quantized layers. Running the whole model
for each layer would cost the square of its depth, so the model is run once with its blocks replaced by
recorders, which note what else each block is given (masks, rotary embeddings, which may differ from block
to block) and pass the hidden state on. From then on each block is run on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

__all__ = ["Batch", "BlockCalls", "Stop", "Weights", "as_batch", "find_blocks", "record_calls"]

# Keyword arguments of one forward call of the model, e.g. {"input_ids": int64 [B, T]}.
Batch = Mapping[str, Any]


class Weights:
    """Where the weights of a part of the model are while it is worked on.

    This base class serves a model that is in memory: a part is computed in float32 and put back into its
    own dtype afterwards. Streaming from a checkpoint overrides both calls.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._dtypes: dict[str, dict[str, torch.dtype]] = {}

    def prepare(self, blocks: Sequence[str]) -> None:
        """Called first: what lies outside the blocks must be present, in any dtype."""

    def load(self, prefix: str) -> None:
        """Makes the parameters under `prefix` present, in float32."""
        part = self.model.get_submodule(prefix)
        self._dtypes[prefix] = {name: p.dtype for name, p in part.named_parameters() if p.is_floating_point()}
        part.float()

    def stored_dtype(self, prefix: str, name: str) -> torch.dtype:
        """The dtype in which the parameter `name` (relative to a loaded prefix) is kept."""
        return self._dtypes[prefix][name]

    def release(self, prefix: str) -> None:
        """Puts the parameters under `prefix` back into the dtype in which they are kept."""
        part = self.model.get_submodule(prefix)
        parameters = dict(part.named_parameters())
        for name, dtype in self._dtypes.pop(prefix).items():
            parameters[name].data = parameters[name].data.to(dtype)


def as_batch(item: Tensor | Batch) -> Batch:
    if isinstance(item, Tensor):
        return {"input_ids": item if item.dim() == 2 else item[None]}
    return item


def find_blocks(model: nn.Module, targets: Iterable[str]) -> list[str]:
    """Names of the model's repeated blocks: the children of the module list that holds most targets."""
    best: list[str] = []
    most = 0
    names = list(targets)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 0:
            held = sum(target.startswith(name + ".") for target in names)
            if held > most:
                most = held
                best = [f"{name}.{child}" for child, _ in module.named_children()]
    return best


class Stop(Exception):
    """Ends a forward pass once everything that was wanted of it has been seen."""


@dataclass
class BlockCalls:
    """What the blocks are called with: per batch the hidden state, per block and batch all the rest."""

    names: list[str]
    hidden: list[Tensor] = field(default_factory=list)
    rest: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = field(default_factory=list)

    def run(self, model: nn.Module, block: int, batch: int) -> Tensor:
        """The block's output for the batch's current hidden state."""
        args, kwargs = self.rest[block][batch]
        out = model.get_submodule(self.names[block])(self.hidden[batch], *args, **kwargs)
        return _first(out)


def record_calls(model: nn.Module, names: Sequence[str], batches: Sequence[Batch]) -> BlockCalls | None:
    """Runs the model with its blocks replaced by recorders; None if it is no simple chain of blocks."""
    calls = BlockCalls(list(names), rest=[[] for _ in names])

    def recorder(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if len(calls.rest[index]) != len(calls.hidden) - (index > 0):
                raise _NoChain
            if args:
                hidden, args = args[0], args[1:]
            else:
                hidden = kwargs.pop("hidden_states", None)
            if not isinstance(hidden, Tensor):
                raise _NoChain
            if index == 0:
                calls.hidden.append(hidden.float())
            calls.rest[index].append(_floats((args, kwargs)))
            if index == len(names) - 1:
                raise Stop
            return hidden

        return forward

    with _replaced_forwards(model, {name: recorder(i) for i, name in enumerate(names)}):
        for batch in batches:
            try:
                model(**batch, **_no_cache(model))
            except Stop:
                continue
            except (_NoChain, TypeError, AttributeError, IndexError):
                return None
            return None  # the last block was never reached
    return calls


def run_after_blocks(model: nn.Module, names: Sequence[str], batch: Batch, hidden: Tensor) -> Any:
    """Runs the model on a batch with its blocks skipped, the last one returning `hidden`."""

    def skip(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            given: Tensor = args[0] if args else kwargs["hidden_states"]
            return hidden.to(given.dtype) if index == len(names) - 1 else given

        return forward

    with _replaced_forwards(model, {name: skip(i) for i, name in enumerate(names)}):
        return model(**batch, **_no_cache(model))


class _NoChain(Exception):
    """The model does not hand one hidden state from block to block."""


def _no_cache(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    return {"use_cache": False} if hasattr(config, "use_cache") else {}


def _first(out: Any) -> Tensor:
    first: Tensor = out[0] if isinstance(out, (tuple, list)) else out
    return first


def _floats(tree: Any) -> Any:
    return tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, tree)


@contextmanager
def _replaced_forwards(model: nn.Module, forwards: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    modules = [model.get_submodule(name) for name in forwards]
    for module, forward in zip(modules, forwards.values(), strict=True):
        module.forward = forward
    try:
        yield
    finally:
        for module in modules:
            del module.forward
