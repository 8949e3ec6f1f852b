"""How a model calls its layers, seen in one forward pass of each batch: what is worked on in which order, and
where in a layer's input the tokens are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from qcore.calibration.data import Batch, told
from qcore.calibration.passes import Passes
from qcore.calibration.stacks import candidates, inside, wider
from qcore.calibration.tokens import Around, Tokens, distinct
from qcore.calibration.weights import Weights

__all__ = ["Plan", "make_plan"]


@dataclass
class Plan:
    """What one look at the model told.

    Attributes:
        parts: names of modules, in the order of their calls. A forward pass calls each of them once at most,
            and all that it computes of the layers inside is computed in that call.
        tokens: where the tokens are in each layer's input.
        never: layers that no batch called.
    """

    parts: list[str]
    tokens: Tokens
    never: list[str]


@dataclass
class _Trace:
    """The calls of one forward pass: of each layer, which modules were running then, outermost first. A
    module that is called again has another number."""

    running: list[tuple[str, int]] = field(default_factory=list)
    calls: list[tuple[str, tuple[tuple[str, int], ...]]] = field(default_factory=list)
    count: int = 0


def make_plan(model: nn.Module, targets: Sequence[str], batches: Sequence[Batch], weights: Weights) -> Plan:
    """Looks at one forward pass of each batch.

    Args:
        targets: names of the linear layers to quantize.

    Raises:
        ValueError: the model fails on a batch, with its own message.
    """
    parts = candidates(model, targets)
    weights.prepare(parts)
    names = _called(model, targets)
    seen = [distinct(model, batch) for batch in batches]
    tokens = Tokens()
    passes = Passes(model, [batch.arguments for batch in seen])
    traces = [_Trace() for _ in batches]
    arounds = [Around(batch.masks) for batch in seen]

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trace = traces[passes.batch]
        trace.running.append((names[module], trace.count))
        trace.count += 1
        x = args[0] if args else next(iter(kwargs.values()), None)
        if names[module] in layers:
            trace.calls.append((names[module], tuple(trace.running)))
            if isinstance(x, Tensor):
                tokens.learn(names[module], x, seen[passes.batch], arounds[passes.batch])
        arounds[passes.batch].enter(x)

    def after(module: nn.Module, args: Any, out: Any) -> None:
        traces[passes.batch].running.pop()
        arounds[passes.batch].leave()

    layers = set(targets)
    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in names]
    handles += [module.register_forward_hook(after, always_call=True) for module in names]
    try:
        for name, calls in passes.stopping_at(parts, ordered=False):
            with weights.visited(name):
                for call in calls:
                    passes.batch = call.batch
                    call.finish()
    except Exception as error:
        raise told(error, passes.batch, batches[passes.batch], model) from error
    finally:
        for handle in handles:
            handle.remove()
    called = {name for trace in traces for name, _ in trace.calls}
    return Plan(_settled(model, parts, traces), tokens, [name for name in targets if name not in called])


def _called(model: nn.Module, targets: Iterable[str]) -> dict[nn.Module, str]:
    """The targets and the modules around them that may be called, with their names."""
    found: dict[nn.Module, str] = {}
    for target in targets:
        path = target.split(".")
        for depth in range(len(path) + 1):
            name = ".".join(path[:depth])
            module = model.get_submodule(name)
            if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                found.setdefault(module, name)
    return found


def _settled(model: nn.Module, parts: Sequence[str], traces: Sequence[_Trace]) -> list[str]:
    """The parts, made wider until each is called once at most in a pass, in one order, and holds every call
    of its layers."""
    now = list(dict.fromkeys(parts))
    while True:
        order, doubtful = _judge(now, traces)
        if not doubtful:
            return order
        widened = {part: wider(model, part) if part in doubtful else part for part in now}
        now = [
            part
            for part in dict.fromkeys(widened.values())
            if not any(part != other and inside(part, other) for other in widened.values())
        ]


def _judge(parts: Sequence[str], traces: Sequence[_Trace]) -> tuple[list[str], set[str]]:
    """The parts in the order of their calls, and those that are called twice, or out of order, or whose
    layers are called elsewhere."""
    doubtful: set[str] = set()
    sequences = []
    for trace in traces:
        calls: dict[str, set[int]] = {}
        sequence: list[str] = []
        for layer, running in trace.calls:
            owner = next(part for part in parts if inside(layer, part))
            if not owner:  # the whole model holds whatever it calls
                sequence = [owner]
                continue
            around = [(name, number) for name, number in running if name in parts]
            if not around or around[0][0] != owner:
                doubtful |= {owner, *(name for name, _ in around)}
                continue
            calls.setdefault(owner, set()).add(around[0][1])
            if owner not in sequence:
                sequence.append(owner)
        doubtful |= {part for part, numbers in calls.items() if len(numbers) > 1}
        sequences.append(sequence)
    order = _merged(sequences)
    place = {part: index for index, part in enumerate(order)}
    for sequence in sequences:
        for first, second in pairwise(sequence):
            if place[first] > place[second]:
                doubtful |= {first, second}
    return order, doubtful - {""}


def _merged(sequences: Iterable[Sequence[str]]) -> list[str]:
    """One order of all parts; each sequence's own where that is possible."""
    order: list[str] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        at = 0
        for part in sequence:
            if part in order:
                at = order.index(part) + 1
            else:
                order.insert(at, part)
                at += 1
    return order
