"""Layer-by-layer calibration: statistics of each layer's inputs, behind the already quantized layers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from qcore.blocks import (
    Batch,
    BlockCalls,
    Stop,
    Weights,
    find_blocks,
    record_calls,
    run_after_blocks,
)
from qcore.fold import find_fold
from qcore.formats import IntGroup
from qcore.methods import Awq, InputStats, Method, Rtn
from qcore.progress import track
from qcore.qweight import QWeight

__all__ = ["Emit", "calibrate", "quantize_linear"]

# Called with each layer's name and its quantized weight, as soon as it is decided.
Emit = Callable[[str, QWeight], None]


def calibrate(
    model: nn.Module,
    formats: Mapping[str, IntGroup],
    batches: Sequence[Batch],
    method: Method,
    emit: Emit,
    weights: Weights | None = None,
    sequential: bool = True,
) -> None:
    """Quantizes the named linear layers, block after block.

    The model's own linear weights are replaced by their dequantized values on the way, so that later
    layers see the errors of earlier ones; what is to be kept is handed to `emit`.

    Args:
        formats: the format of each linear layer to quantize, by name.
        batches: keyword arguments of forward calls, at least one.
        weights: where the weights live; by default, in the model.
        sequential: inside a block, measure a layer's inputs only once the layers before it are quantized
            (one pass over the block per group of layers that share an input, instead of one in all).
    """
    weights = weights or Weights(model)
    names = find_blocks(model, formats)
    weights.prepare(names)
    calls = record_calls(model, names, batches) if names else None
    if calls is None:  # no chain of blocks: the whole model is one block
        weights.load("")
        run = [_whole_model(model, batch) for batch in batches]
        _Block(model, "", formats, run, method, emit, weights, sequential).quantize()
        weights.release("")
        return
    for index, name in enumerate(track(names, "quantizing blocks")):
        weights.load(name)
        run = [_one_block(model, calls, index, b) for b in range(len(batches))]
        _Block(model, name, formats, run, method, emit, weights, sequential).quantize()
        for b in range(len(batches)):
            calls.hidden[b] = calls.run(model, index, b)
            calls.rest[index][b] = ((), {})
        weights.release(name)
    outside = {n: f for n, f in formats.items() if not any(n.startswith(b + ".") for b in names)}
    if outside:
        stats = {n: InputStats(_linear(model, n).in_features) for n in outside}
        with _observed({_linear(model, n): stats[n] for n in outside}):
            for batch, hidden in zip(batches, calls.hidden, strict=True):
                run_after_blocks(model, names, batch, hidden)
        for name, format in outside.items():
            weights.load(name)
            w, dtype = _linear(model, name).weight.detach(), weights.stored_dtype(name, "weight")
            emit(name, quantize_linear(name, w, stats[name], format, method, dtype))
            weights.release(name)


def quantize_linear(
    name: str,
    w: Tensor,
    stats: InputStats | None,
    format: IntGroup,
    method: Method,
    scale_dtype: torch.dtype,
) -> QWeight:
    """Quantizes the weight of one layer; errors name it."""
    if not torch.isfinite(w).all():
        raise ValueError(f"{name}.weight: holds NaN or infinity; nothing sensible can be quantized")
    if stats is not None and stats.tokens == 0:
        warnings.warn(
            f"{name}: no calibration token reached this layer; it is rounded to nearest",
            stacklevel=2,
        )
        method, stats = Rtn(search=True), None
    try:
        return method.quantize(w, stats, format, scale_dtype)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


@dataclass
class _Group:
    """Linear layers that read the same input, and the modules that may have produced it."""

    names: list[str]
    producers: list[nn.Module]


class _Block:
    """The work on one block: which layers share inputs, folding, then quantizing stage by stage."""

    def __init__(
        self,
        model: nn.Module,
        prefix: str,
        formats: Mapping[str, IntGroup],
        run: Sequence[Callable[[], Tensor]],
        method: Method,
        emit: Emit,
        weights: Weights,
        sequential: bool,
    ) -> None:
        self.model, self.prefix, self.run = model, prefix, run
        self.method, self.emit, self.weights, self.sequential = method, emit, weights, sequential
        dot = prefix + "." if prefix else ""
        self.formats = {n: f for n, f in formats.items() if n.startswith(dot)}
        self.linears = {n: _linear(model, n) for n in self.formats}
        self.pending_scale: dict[str, Tensor] = {}

    def quantize(self) -> None:
        if not self.formats:
            return
        groups = self._trace()
        if isinstance(self.method, Awq):
            self._scale_inputs(groups, self.method)
        for stage in _stages(groups) if self.sequential else [groups]:
            stats = self._collect(stage)
            for group, seen in zip(stage, stats, strict=True):
                for name in group.names:
                    self._quantize_one(name, seen)

    def _quantize_one(self, name: str, stats: InputStats) -> None:
        linear, scale = self.linears[name], self.pending_scale.get(name)
        if scale is not None and stats.tokens:
            stats = stats.divided_by(scale)
            linear.weight.data = linear.weight.data * scale
        w, dtype = linear.weight.detach(), self._stored(linear)
        q = quantize_linear(name, w, stats, self.formats[name], self.method, dtype)
        if scale is not None:
            q = replace(q, act_scale=scale)
        # A new parameter: the old one may be shared with a layer that is not quantized (tied embeddings).
        linear.weight = nn.Parameter(q.dequantize(), requires_grad=False)
        self.emit(name, q)

    def _trace(self) -> list[_Group]:
        """Runs one batch and groups the layers by the tensor that they read, in order of execution."""
        block = self.model.get_submodule(self.prefix)
        by_input: dict[int, _Group] = {}
        made_by: dict[int, nn.Module] = {}
        order: list[nn.Module] = []
        alive: list[Tensor] = []  # so that no id is used twice
        names: dict[nn.Module, str] = {module: name for name, module in self.linears.items()}

        def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            alive.append(x)
            if id(x) not in by_input:
                norm = [made_by[id(x)]] if id(x) in made_by else []
                by_input[id(x)] = _Group([], norm + order[::-1])
            by_input[id(x)].names.append(names[module])

        def after(module: nn.Module, args: object, out: object) -> None:
            if isinstance(out, Tensor):
                alive.append(out)
                made_by[id(out)] = module
            if isinstance(module, nn.Linear):
                order.append(module)

        handles = [m.register_forward_pre_hook(before) for m in names]
        handles += [m.register_forward_hook(after) for m in block.modules() if m is not block]
        try:
            with torch.no_grad():
                self.run[0]()
        finally:
            for handle in handles:
                handle.remove()
        groups = list(by_input.values())
        reached = {name for group in groups for name in group.names}
        return groups + [_Group([name], []) for name in self.formats if name not in reached]

    def _collect(self, groups: Sequence[_Group]) -> list[InputStats]:
        """Statistics of each group's input over all batches."""
        first = [self.linears[group.names[0]] for group in groups]
        stats = [InputStats(m.in_features, m.weight.device) for m in first]
        with _observed(dict(zip(first, stats, strict=True)), stop=True), torch.no_grad():
            for run in self.run:
                with suppress(Stop):
                    run()
        return stats

    def _scale_inputs(self, groups: Sequence[_Group], method: Awq) -> None:
        """AWQ: chooses each group's input scale and moves it into an earlier module where possible."""
        stats = self._collect(groups)
        head_dim = _head_dim(self.model, self.prefix)
        for group, seen in zip(groups, stats, strict=True):
            linears = [self.linears[name] for name in group.names]
            if seen.tokens == 0:
                continue
            with torch.no_grad():
                fold = find_fold(linears, group.producers, head_dim, self.run[0])
            if fold is None and not method.act_scale:
                continue
            scale = method.input_scale(
                [m.weight.detach() for m in linears],
                seen,
                self.formats[group.names[0]],
                self._stored(linears[0]),
                tied=None if fold is None else fold.channel,
            )
            if fold is None:
                self.pending_scale.update(dict.fromkeys(group.names, scale))
                continue
            scale = fold.apply(scale, self._stored(fold.module))
            for linear in linears:
                linear.weight.data = linear.weight.data * scale

    def _stored(self, module: nn.Module) -> torch.dtype:
        """The dtype in which the module's weight is kept outside this block's float32 work."""
        block = self.model.get_submodule(self.prefix)
        name = next(n for n, m in block.named_modules() if m is module)
        return self.weights.stored_dtype(self.prefix, f"{name}.weight")


def _stages(groups: Sequence[_Group]) -> Iterator[list[_Group]]:
    """Groups in order of execution; the same layers of parallel experts share one stage."""
    stages: dict[str, list[_Group]] = {}
    for group in groups:
        stages.setdefault(re.sub(r"\d+", "#", group.names[0]), []).append(group)
    yield from stages.values()


@contextmanager
def _observed(stats: Mapping[nn.Module, InputStats], stop: bool = False) -> Iterator[None]:
    """Adds the inputs of the given layers to their statistics; with `stop`, a forward pass ends (by the
    exception Stop) as soon as it has reached all of them."""
    reached: set[nn.Module] = set()

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        stats[module].add(args[0])
        reached.add(module)
        if stop and len(reached) == len(stats):
            reached.clear()
            raise Stop

    handles = [module.register_forward_pre_hook(hook) for module in stats]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linear(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def _head_dim(model: nn.Module, prefix: str) -> int | None:
    for module in model.get_submodule(prefix).modules():
        value = getattr(module, "head_dim", None)
        if isinstance(value, int):
            return value
    return None


def _one_block(model: nn.Module, calls: BlockCalls, block: int, batch: int) -> Callable[[], Tensor]:
    return lambda: calls.run(model, block, batch)


def _whole_model(model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    def run() -> Tensor:
        out = model(**batch)
        return out if isinstance(out, Tensor) else out[0]

    return run
