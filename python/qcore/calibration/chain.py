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
from torch.utils._pytree import tree_leaves, tree_map

from qcore.qweight import QWeight

__all__ = [
    "Batch",
    "BlockCalls",
    "Stop",
    "Weights",
    "find_blocks",
    "record_calls",
    "run_after_blocks",
    "run_whole",
]

# Keyword arguments of one forward call of the model, e.g. {"input_ids": int64 [B, T]}.
Batch = Mapping[str, Any]


class Weights:
    """Where the weights of a part of the model are while it is worked on.

    This base class serves a model that is in memory: a part is computed in float32, on the device that is
    given, and put back to where it was, in its own dtype, afterwards. Streaming from a checkpoint overrides
    these calls.
    """

    def __init__(self, model: nn.Module, device: str | torch.device | None = None) -> None:
        self.model, self.device = model, None if device is None else torch.device(device)
        self._kept: dict[str, dict[str, tuple[torch.dtype, torch.device]]] = {}

    def prepare(self, blocks: Sequence[str]) -> None:
        """Called first: what lies outside the blocks must be present, in any dtype."""

    @contextmanager
    def loaded(self, prefix: str) -> Iterator[None]:
        """While it lasts, what is under `prefix` is present, in float32 and on the device."""
        try:
            self.load(prefix)
            yield
        except BaseException:
            self.abandon(prefix)
            raise
        self.release(prefix)

    def load(self, prefix: str) -> None:
        kept = self._kept[prefix] = {}
        for name, tensor in self._tensors(prefix):
            kept[name] = (tensor.dtype, tensor.device)
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            tensor.data = tensor.data.to(self.device or tensor.device, dtype)

    def stored_dtype(self, prefix: str, name: str) -> torch.dtype:
        """The dtype in which the parameter `name` (relative to a loaded prefix) is kept."""
        return self._kept[prefix][name][0]

    def abandon(self, prefix: str) -> None:
        """After an error: puts back what was there, and hands nothing on."""
        Weights.release(self, prefix)

    def emit_table(self, name: str, weight: QWeight) -> None:
        """Takes what a table of embeddings, and all that is tied to it, became."""
        raise NotImplementedError

    def release(self, prefix: str) -> None:
        kept = self._kept.pop(prefix, {})
        for name, tensor in self._tensors(prefix):
            if name in kept:
                dtype, device = kept[name]
                tensor.data = tensor.data.to(device, dtype)

    def _tensors(self, prefix: str) -> list[tuple[str, Tensor]]:
        """Parameters and buffers with their names relative to the prefix, shared ones under each name."""
        part = self.model.get_submodule(prefix)
        return [
            *part.named_parameters(remove_duplicate=False),
            *part.named_buffers(remove_duplicate=False),
        ]


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
    tuples: bool  # blocks return tuples that start with the hidden state
    hidden: list[Tensor] = field(default_factory=list)
    rest: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = field(default_factory=list)

    def output(self, hidden: Tensor) -> Any:
        """A block's return value, of the kind that the model takes apart."""
        return (hidden, None, None) if self.tuples else hidden

    def run(self, model: nn.Module, block: int, batch: int) -> Tensor:
        """The block's output for the batch's current hidden state."""
        module = model.get_submodule(self.names[block])
        hidden, (args, kwargs) = _moved((self.hidden[batch], self.rest[block][batch]), device_of(module))
        return _first(module(hidden, *args, **kwargs))


def record_calls(model: nn.Module, names: Sequence[str], batches: Sequence[Batch]) -> BlockCalls | None:
    """Runs the model with its blocks replaced by recorders; None if it is no simple chain of blocks."""
    if not _once_and_hidden_only(model, names, batches[0]):
        return None
    for tuples in (False, True):
        calls = BlockCalls(list(names), tuples, rest=[[] for _ in names])
        try:
            for batch in batches:
                _record(model, calls, batch)
            return calls
        except _NoChain:
            continue
    return None


def _once_and_hidden_only(model: nn.Module, names: Sequence[str], batch: Batch) -> bool:
    """Whether the float model calls each block once, for nothing but a hidden state. Of a model whose blocks
    are not in memory that is not seen, and believed."""
    if any(parameter.is_meta for parameter in model.parameters()):
        return True
    outs: list[Any] = []  # all of them, so that no id is used twice
    extras: set[int] = set()
    carried = False

    def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal carried
        carried |= any(id(leaf) in extras for leaf in tree_leaves((args, kwargs)))

    def after(_module: nn.Module, _args: Any, out: Any) -> None:
        outs.append(out)
        rest = () if isinstance(out, Tensor) else out[1:]
        extras.update(id(leaf) for leaf in tree_leaves(rest) if isinstance(leaf, Tensor))

    blocks = [model.get_submodule(name) for name in names]
    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    hooks += [block.register_forward_hook(after) for block in blocks]
    try:
        run_whole(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return len(outs) <= len(names) and not carried


def _record(model: nn.Module, calls: BlockCalls, batch: Batch) -> None:
    """Notes what each block is called with for one batch."""
    last: Tensor | None = None
    converted: dict[int, Any] = {}  # masks and the like are often shared by all blocks

    def recorder(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal last
            hidden, args, kwargs = _take_hidden(args, kwargs)
            # The very tensor that the block before returned: else something stands between the blocks, or
            # the model took what it was given apart in another way.
            in_order = len(calls.rest[index]) == len(calls.rest[0]) - (index > 0)
            if not isinstance(hidden, Tensor) or not in_order or (index and hidden is not last):
                raise _NoChain
            if index == 0:
                calls.hidden.append(hidden.float())
            calls.rest[index].append(_floats((args, kwargs), converted))
            if index == len(calls.names) - 1:
                raise Stop
            last = hidden
            return calls.output(hidden)

        return forward

    with _replaced_forwards(model, {name: recorder(i) for i, name in enumerate(calls.names)}):
        try:
            run_whole(model, batch)
        except Stop:
            return
        except (TypeError, IndexError, AttributeError, ValueError) as error:
            raise _NoChain from error  # how models fail on an output of the wrong kind
    raise _NoChain  # the last block was never reached


def run_after_blocks(model: nn.Module, calls: BlockCalls, batch: Batch, hidden: Tensor) -> None:
    """Runs the model on a batch with its blocks skipped, the last one returning `hidden`."""

    def skip(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            given, _, _ = _take_hidden(args, kwargs)
            return calls.output(hidden.to(given) if index == len(calls.names) - 1 else given)

        return forward

    with _replaced_forwards(model, {name: skip(i) for i, name in enumerate(calls.names)}):
        run_whole(model, batch)


def run_whole(model: nn.Module, batch: Batch) -> Any:
    """A forward call of the model, its tensors on the model's device, without a cache of past keys."""
    arguments = _moved(dict(batch), device_of(model))
    if hasattr(getattr(model, "config", None), "use_cache"):
        arguments["use_cache"] = False
    with _without_caches(model):
        return model(**arguments)


@contextmanager
def _without_caches(model: nn.Module) -> Iterator[None]:
    """Composite models keep what decides about caches in the configurations of their parts."""
    configs: dict[int, Any] = {}
    waiting = [
        config for module in model.modules() if (config := getattr(module, "config", None)) is not None
    ]
    while waiting:
        config = waiting.pop()
        if id(config) not in configs and hasattr(config, "to_dict"):
            configs[id(config)] = config
            waiting += [part for part in vars(config).values() if hasattr(part, "to_dict")]
    on = [config for config in configs.values() if getattr(config, "use_cache", False)]
    for config in on:
        config.use_cache = False
    try:
        yield
    finally:
        for config in on:
            config.use_cache = True


def device_of(module: nn.Module) -> torch.device | None:
    """Where a module computes; None if it has no parameters."""
    return next((parameter.device for parameter in module.parameters()), None)


def _moved(tree: Any, device: torch.device | None) -> Any:
    if device is None:
        return tree
    return tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, tree)


def _take_hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The hidden state of a block's call, and the rest of it."""
    if args:
        return args[0], args[1:], kwargs
    return kwargs.get("hidden_states"), args, {k: v for k, v in kwargs.items() if k != "hidden_states"}


class _NoChain(Exception):
    """The model does not hand one hidden state from block to block."""


def _first(out: Any) -> Tensor:
    first: Tensor = out[0] if isinstance(out, (tuple, list)) else out
    return first


def _floats(tree: Any, converted: dict[int, Any]) -> Any:
    """The tree with its float tensors in float32, each converted once."""

    def convert(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        if id(x) not in converted:
            converted[id(x)] = (x.float(), x)  # x too, so that its id stays its own
        return converted[id(x)][0]

    return tree_map(convert, tree)


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
