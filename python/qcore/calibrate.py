"""Layer-by-layer calibration: statistics of each layer's inputs, behind the already quantized layers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

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
    run_whole,
)
from qcore.fold import find_fold
from qcore.formats import Format
from qcore.methods import Awq, InputStats, Method, Rtn
from qcore.progress import track
from qcore.qweight import QWeight
from qcore.schemes import is_static

__all__ = ["Emit", "calibrate", "check_finite", "needs_calibration", "quantize_linear"]

# Called with each layer's name and its quantized weight, as soon as it is decided.
Emit = Callable[[str, QWeight], None]


def needs_calibration(method: Method, formats: Iterable[Format]) -> bool:
    """Whether the inputs of layers must be seen: for the method, or for static scales."""
    return method.needs_calibration or any(is_static(format) for format in formats)


def calibrate(
    model: nn.Module,
    formats: Mapping[str, Format],
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
            AWQ around plain rounding, and rounding with static input scales, always measure once.
    """
    weights = weights or Weights(model)

    def quantize_alone(name: str, stats: InputStats | None) -> None:
        with weights.loaded(name):
            w, dtype = _linear(model, name).weight.detach(), weights.stored_dtype(name, "weight")
            emit(name, quantize_linear(name, w, stats, formats[name], method, dtype))

    if not needs_calibration(method, formats.values()):
        for name in track(list(formats), "quantizing layers"):
            quantize_alone(name, None)
        return
    names = find_blocks(model, formats)
    weights.prepare(names)
    calls = record_calls(model, names, batches) if names else None
    if calls is None:
        if names:
            warnings.warn(
                f"{type(model).__name__} is no simple chain of blocks; it is calibrated as a whole, which "
                f"takes the memory of the whole model in float32",
                stacklevel=2,
            )
        with weights.loaded(""):
            whole = [_whole_model(model, batch) for batch in batches]
            _Block(model, "", formats, whole, method, emit, weights, sequential).quantize()
        return
    for index, name in enumerate(track(names, "quantizing blocks")):
        with weights.loaded(name):
            runs = [_one_block(model, calls, index, b, batch) for b, batch in enumerate(batches)]
            _Block(model, name, formats, runs, method, emit, weights, sequential).quantize()
            for b in range(len(batches)):
                calls.hidden[b] = calls.run(model, index, b)
                calls.rest[index][b] = ((), {})
    outside = [n for n in formats if not any(n.startswith(b + ".") for b in names)]
    if outside:
        stats = {(m := _linear(model, n)): _new_stats({m: formats[n]}, method) for n in outside}
        with _Observer(stats) as observer:
            for batch, hidden in zip(batches, calls.hidden, strict=True):
                observer.run(_Run(partial(run_after_blocks, model, calls, batch, hidden), _mask(batch)))
        for name in formats:
            if (linear := _linear(model, name)) in stats:
                quantize_alone(name, stats[linear])


def quantize_linear(
    name: str,
    w: Tensor,
    stats: InputStats | None,
    format: Format,
    method: Method,
    scale_dtype: torch.dtype,
) -> QWeight:
    """Quantizes the weight of one layer; errors name it."""
    if scale_dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"{name}.weight: expected float32, float16 or bfloat16, got {scale_dtype}")
    check_finite(name, w)
    if stats is not None and stats.tokens == 0:
        stats = None
        if is_static(format):
            raise ValueError(
                f"{name}: no calibration token reached this layer, so its inputs have no static scale; "
                f"ignore it, or choose a scheme with dynamic scales"
            )
        if method.needs_calibration:
            warnings.warn(
                f"{name}: no calibration token reached this layer; it is rounded to nearest",
                stacklevel=2,
            )
            method = Rtn(search=True)
    try:
        q = method.quantize(w, stats if method.needs_calibration else None, format, scale_dtype)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if format.activations is None or not format.activations.static:
        return q
    assert stats is not None  # see needs_calibration
    scale, zero = format.activations.static_scale(*stats.static_range(format.activations), scale_dtype)
    return replace(q, input_scale=scale, input_zero=zero)


def check_finite(name: str, w: Tensor) -> None:
    """Raises if a weight is not a number somewhere."""
    if not torch.isfinite(w).all():
        raise ValueError(f"{name}.weight: holds NaN or infinity; nothing sensible can be quantized")


@dataclass(frozen=True)
class _Run:
    """A forward pass over one batch, and which of its tokens count (None: all)."""

    call: Callable[[], object]
    mask: Tensor | None = None


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
        formats: Mapping[str, Format],
        runs: Sequence[_Run],
        method: Method,
        emit: Emit,
        weights: Weights,
        sequential: bool,
    ) -> None:
        self.model, self.prefix, self.runs = model, prefix, runs
        self.method, self.emit, self.weights, self.sequential = method, emit, weights, sequential
        dot = prefix + "." if prefix else ""
        self.formats = {n: f for n, f in formats.items() if n.startswith(dot)}
        self.linears = {n: _linear(model, n) for n in self.formats}
        self.pending_scale: dict[str, Tensor] = {}

    def quantize(self) -> None:
        if not self.formats:
            return
        groups = self._trace()
        # Ranges alone are not looked at closely enough to measure them again.
        sequential, stats = self.sequential and self.method.needs_calibration, None
        if isinstance(self.method, Awq):
            stats = self._scale_inputs(groups, self.method)
            # Rounding alone does not look at its inputs closely enough to measure them again.
            sequential = sequential and self.method.inner.needs_calibration
        if not sequential:
            self._quantize_stage(groups, stats or self._collect(groups))
            return
        for stage in _stages(groups, self.prefix):
            self._quantize_stage(stage, self._collect(stage))

    def _quantize_stage(self, groups: Sequence[_Group], stats: Sequence[InputStats]) -> None:
        for group, seen in zip(groups, stats, strict=True):
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

        def before(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            if any(names[module] in group.names for group in by_input.values()):
                return  # used twice: it stays with its first input
            x = _input_of(args, kwargs)
            alive.append(x)
            if id(x) not in by_input:
                norm = [made_by[id(x)]] if id(x) in made_by else []
                by_input[id(x)] = _Group([], norm + order[::-1])
            by_input[id(x)].names.append(names[module])

        def after(module: nn.Module, args: object, out: object) -> None:
            if isinstance(out, Tensor):
                alive.append(out)
                if not isinstance(module, nn.Linear):
                    made_by[id(out)] = module
            if module in names:  # a layer that is not quantized could not absorb a scale without rounding
                order.append(module)

        handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in names]
        handles += [m.register_forward_hook(after) for m in block.modules() if m is not block]
        try:
            with torch.no_grad():
                self.runs[0].call()
        finally:
            for handle in handles:
                handle.remove()
        groups = list(by_input.values())
        reached = {name for group in groups for name in group.names}
        return groups + [_Group([name], []) for name in self.formats if name not in reached]

    def _collect(self, groups: Sequence[_Group]) -> list[InputStats]:
        """Statistics of each group's input over all batches."""
        first = [self.linears[group.names[0]] for group in groups]
        readers = [{self.linears[n]: self.formats[n] for n in group.names} for group in groups]
        stats = [_new_stats(each, self.method) for each in readers]
        with _Observer(dict(zip(first, stats, strict=True))) as observer, torch.no_grad():
            for run in self.runs:
                observer.run(run)
        for group, seen in zip(groups, stats, strict=True):
            if not torch.isfinite(seen.abs_sum).all():
                raise ValueError(f"{group.names[0]}: calibration gives this layer NaN or infinity as input")
        return stats

    def _scale_inputs(self, groups: Sequence[_Group], method: Awq) -> list[InputStats]:
        """AWQ: chooses each group's input scale and moves it into an earlier module where possible.
        Returns the statistics of the inputs as they then are."""
        stats = self._collect(groups)
        head_dim = _head_dim(self.model, self.prefix)
        for index, (group, seen) in enumerate(zip(groups, stats, strict=True)):
            linears = [self.linears[name] for name in group.names]
            if seen.tokens == 0:
                continue
            with torch.no_grad():
                fold = find_fold(linears, group.producers, head_dim, self._sample)
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
            stats[index] = seen.divided_by(scale)
        return stats

    def _sample(self) -> Tensor:
        """The block's output on the first batch."""
        out = self.runs[0].call()
        assert isinstance(out, Tensor)
        return out

    def _stored(self, module: nn.Module) -> torch.dtype:
        """The dtype in which the module's weight is kept outside this block's float32 work."""
        block = self.model.get_submodule(self.prefix)
        name = next(n for n, m in block.named_modules() if m is module)
        return self.weights.stored_dtype(self.prefix, f"{name}.weight")


def _stages(groups: Sequence[_Group], prefix: str) -> Iterator[list[_Group]]:
    """Groups in order of execution; inside a block the same layers of parallel experts share one stage."""
    stages: dict[str, list[_Group]] = {}
    for group in groups:
        name = group.names[0]
        key = re.sub(r"\.\d+(?=\.)", ".#", name.removeprefix(prefix)) if prefix else name
        stages.setdefault(key, []).append(group)
    yield from stages.values()


class _Observer:
    """Adds the inputs of the given layers to their statistics. A run ends early, by the exception Stop, once
    it has reached all of them."""

    def __init__(self, stats: Mapping[nn.Linear, InputStats]) -> None:
        self.stats = stats
        self.mask: Tensor | None = None
        self.waiting: set[nn.Module] = set()

    def __enter__(self) -> _Observer:
        self.handles = [m.register_forward_pre_hook(self._see, with_kwargs=True) for m in self.stats]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def run(self, run: _Run) -> None:
        self.mask, self.waiting = run.mask, set(self.stats)
        with suppress(Stop):
            run.call()

    def _see(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        assert isinstance(module, nn.Linear)
        self.stats[module].add(_input_of(args, kwargs), self.mask)
        self.waiting.discard(module)
        if not self.waiting:
            raise Stop


def _new_stats(layers: Mapping[nn.Linear, Format], method: Method) -> InputStats:
    """For the input that these layers share."""
    first = next(iter(layers))
    weights = [m.weight for m, f in layers.items() if f.activations is not None and f.activations.clips]
    return InputStats(first.in_features, first.weight.device, method.needs_calibration, weights)


def _input_of(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    return args[0] if args else kwargs["input"]


def _mask(batch: Batch) -> Tensor | None:
    mask = batch.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.dim() == 2 else None


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


def _one_block(model: nn.Module, calls: BlockCalls, block: int, index: int, batch: Batch) -> _Run:
    return _Run(lambda: calls.run(model, block, index), _mask(batch))


def _whole_model(model: nn.Module, batch: Batch) -> _Run:
    floats = {
        k: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in batch.items()
    }

    def run() -> Tensor:
        out = run_whole(model, floats)
        first: Tensor = out if isinstance(out, Tensor) else out[0]
        return first

    return _Run(run, _mask(batch))
