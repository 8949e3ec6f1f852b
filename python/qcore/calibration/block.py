"""The work on one block of a model: which layers share inputs, scalings, then codes stage by stage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from qcore.calibration.folding import find_fold
from qcore.calibration.observer import Observer, Run, input_of, linear_named, new_stats
from qcore.calibration.one_layer import quantize_linear
from qcore.calibration.tokens import Tokens
from qcore.calibration.weights import Weights
from qcore.formats import Format
from qcore.methods import InputStats, Method, Scaling
from qcore.qweight import QWeight

__all__ = ["Block", "Emit", "Group", "stages_of"]

# Called with each layer's name and its quantized weight, as soon as it is decided.
Emit = Callable[[str, QWeight], None]


@dataclass
class Group:
    """Linear layers that read the same input, and the modules that may have produced it."""

    names: list[str]
    producers: list[nn.Module]


class Block:
    """The work on one block: which layers share inputs, folding, then quantizing stage by stage."""

    def __init__(
        self,
        model: nn.Module,
        prefix: str,
        formats: Mapping[str, Format],
        runs: Sequence[Run],
        tokens: Tokens,
        method: Method,
        emit: Emit,
        weights: Weights,
        sequential: bool,
    ) -> None:
        self.model, self.prefix, self.runs, self.tokens = model, prefix, runs, tokens
        self.method, self.emit, self.weights, self.sequential = method, emit, weights, sequential
        dot = prefix + "." if prefix else ""
        self.formats = {n: f for n, f in formats.items() if n.startswith(dot)}
        self.linears = {n: linear_named(model, n) for n in self.formats}
        self.again = False  # a run calls some layer more than once
        # Of layers whose input scale nothing absorbed. Until they are quantized they compute as they did.
        self.divisors: dict[str, Tensor] = {}
        self.without_tokens: list[str] = []

    def quantize(self) -> None:
        if not self.formats:
            return
        groups = self._trace()
        stats: list[InputStats] | None = None
        for scaling in self.method.scalings:
            stats = self._scale(groups, stats or self._collect(groups), scaling)
        if not (self.sequential and self.method.remeasures):
            self._quantize_stage(groups, stats or self._collect(groups))
            return
        for stage in stages_of(groups, self.prefix):
            self._quantize_stage(stage, self._collect(stage))

    def _quantize_stage(self, groups: Sequence[Group], stats: Sequence[InputStats]) -> None:
        for group, seen in zip(groups, stats, strict=True):
            for name in group.names:
                self._quantize_one(name, seen)

    def _quantize_one(self, name: str, stats: InputStats) -> None:
        linear, divisor = self.linears[name], self.divisors.get(name)
        w, dtype = self._weight(name), self._stored(linear)
        if stats.tokens == 0:
            self.without_tokens.append(name)
        q = quantize_linear(name, w, stats, self.formats[name], self.method, dtype)
        if divisor is not None:
            q = q.with_inputs(divisor=divisor)
        # A new parameter: the old one may be shared with a layer that is not quantized (tied embeddings).
        linear.weight = nn.Parameter(q.dequantize(), requires_grad=False)
        self.emit(name, q)

    def _trace(self) -> list[Group]:
        """Runs one batch and groups the layers by the tensor that they read, in order of execution."""
        block = self.model.get_submodule(self.prefix)
        by_input: dict[int, Group] = {}
        made_by: dict[int, nn.Module] = {}
        order: list[nn.Module] = []
        alive: list[Tensor] = []  # so that no id is used twice
        names: dict[nn.Module, str] = {module: name for name, module in self.linears.items()}
        shared: set[str] = set()

        def before(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            if any(names[module] in group.names for group in by_input.values()):
                self.again = True  # it stays with its first input, which is then not its only one
                shared.add(names[module])
                return
            x = input_of(args, kwargs)
            alive.append(x)
            if id(x) not in by_input:
                norm = [made_by[id(x)]] if id(x) in made_by else []
                by_input[id(x)] = Group([], norm + order[::-1])
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
        groups = []
        for group in by_input.values():  # a layer that has other inputs too has statistics of its own
            alone = [name for name in group.names if name in shared]
            if rest := [name for name in group.names if name not in shared]:
                groups.append(Group(rest, [] if alone else group.producers))
            groups += [Group([name], []) for name in alone]
        reached = {name for group in groups for name in group.names}
        return groups + [Group([name], []) for name in self.formats if name not in reached]

    def _collect(self, groups: Sequence[Group]) -> list[InputStats]:
        """Statistics of each group's input, as it will be divided, over all batches."""
        first = [self.linears[group.names[0]] for group in groups]
        readers = [{self.linears[n]: self.formats[n] for n in group.names} for group in groups]
        stats = [new_stats(each, self.method) for each in readers]
        names = dict(zip(first, (group.names[0] for group in groups), strict=True))
        observer = Observer(
            dict(zip(first, stats, strict=True)), names, self.tokens, self._owners(names.values()), self.again
        )
        with observer, torch.no_grad():
            for run in self.runs:
                observer.run(run)
        for group, seen in zip(groups, stats, strict=True):
            if not torch.isfinite(seen.abs_sum).all():
                raise ValueError(f"{group.names[0]}: calibration gives this layer NaN or infinity as input")
        divisors = [self.divisors.get(group.names[0]) for group in groups]
        return [s if d is None else s.divided_by(d) for s, d in zip(stats, divisors, strict=True)]

    def _owners(self, names: Iterable[str]) -> list[nn.Module]:
        """The modules around layers whose rows were gathered from those of others."""
        owners: dict[nn.Module, None] = {}
        for name in names:
            if self.tokens.places.get(name, ("", ""))[1] == "gathered":
                path = name.split(".")
                above = (".".join(path[:depth]) for depth in range(1, len(path)))
                inner = [owner for owner in above if owner.startswith(f"{self.prefix}.")]
                owners |= {self.model.get_submodule(owner): None for owner in inner}
        return list(owners)

    def _scale(
        self, groups: Sequence[Group], stats: Sequence[InputStats], scaling: Scaling
    ) -> list[InputStats]:
        """Chooses each group's input scale and moves it into an earlier module where possible. Returns the
        statistics of the inputs as they then are."""
        scaled = list(stats)
        head_dim = _head_dim(self.model, self.prefix)
        for index, (group, seen) in enumerate(zip(groups, stats, strict=True)):
            linears = [self.linears[name] for name in group.names]
            if seen.tokens == 0:
                continue
            with torch.no_grad():
                fold = find_fold(linears, group.producers, head_dim, self._sample)
            if fold is None and not scaling.keeps_divisors:
                continue
            scale = scaling.divisor(
                [self._weight(name) for name in group.names],
                seen,
                self.formats[group.names[0]],
                self._stored(linears[0]),
                tied=None if fold is None else fold.channel,
            )
            if fold is None:
                for name in group.names:
                    self.divisors[name] = scale * self.divisors[name] if name in self.divisors else scale
            else:
                scale = fold.apply(scale, self._stored(fold.module))
                for linear in linears:
                    linear.weight.data = linear.weight.data * scale
            scaled[index] = seen.divided_by(scale)
        return scaled

    def _weight(self, name: str) -> Tensor:
        """The weight that meets the layer's input as it will be divided."""
        w, divisor = self.linears[name].weight.detach(), self.divisors.get(name)
        return w if divisor is None else w * divisor

    def _sample(self) -> Tensor:
        """The block's output on the first batch."""
        out = self.runs[0].call()
        return next(leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor))

    def _stored(self, module: nn.Module) -> torch.dtype:
        """The dtype in which the module's weight is kept outside this block's float32 work."""
        block = self.model.get_submodule(self.prefix)
        name = next(n for n, m in block.named_modules() if m is module)
        return self.weights.stored_dtype(self.prefix, f"{name}.weight")


def stages_of(groups: Sequence[Group], prefix: str) -> Iterator[list[Group]]:
    """Groups in order of execution; inside a block the same layers of parallel experts share one stage."""
    stages: dict[str, list[Group]] = {}
    for group in groups:
        name = group.names[0]
        key = re.sub(r"\.\d+(?=\.)", ".#", name.removeprefix(prefix)) if prefix else name
        stages.setdefault(key, []).append(group)
    yield from stages.values()


def _head_dim(model: nn.Module, prefix: str) -> int | None:
    for module in model.get_submodule(prefix).modules():
        value = getattr(module, "head_dim", None)
        if isinstance(value, int):
            return value
    return None
