"""Layer-by-layer calibration: statistics of each layer's inputs, behind the already quantized layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from qcore.calibration.block import Block, Emit
from qcore.calibration.data import Batch
from qcore.calibration.observer import Run, linear_named, new_stats
from qcore.calibration.one_layer import quantize_linear
from qcore.calibration.passes import Call, Passes, no_caches
from qcore.calibration.plan import Plan, make_plan
from qcore.calibration.stacks import find_blocks
from qcore.calibration.tokens import Around, masks_of
from qcore.calibration.weights import Weights
from qcore.formats import Format
from qcore.methods import InputStats, Method
from qcore.progress import track
from qcore.report import QuantizationReport
from qcore.schemes import is_static

__all__ = ["calibrate", "needs_calibration"]


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
    report: QuantizationReport | None = None,
) -> None:
    """Quantizes the named linear layers, block after block.

    The model's own linear weights are replaced by their dequantized values on the way, so that later
    layers see the errors of earlier ones; what is to be kept is handed to `emit`.

    Args:
        formats: the format of each linear layer to quantize, by name.
        batches: keyword arguments of forward calls, at least one.
        weights: where the weights live, and on which device they are worked on; by default, the model's.
        sequential: inside a block, measure a layer's inputs only once the layers before it are quantized
            (one pass over the block per group of layers that share an input, instead of one in all).
            AWQ around plain rounding, and rounding with static input scales, always measure once.
        report: is told of layers that no token reached, and of padding that could not be told apart.
    """
    weights, report = weights or Weights(model), report or QuantizationReport()

    def quantize_alone(name: str, stats: InputStats | None) -> None:
        w, dtype = linear_named(model, name).weight.detach(), weights.stored_dtype(name, "weight")
        stats = None if stats is None else stats.to(w.device)
        q = quantize_linear(name, w, stats, formats[name], method, dtype)
        linear_named(model, name).weight = nn.Parameter(q.dequantize(), requires_grad=False)
        emit(name, q)

    def without_calls(names: Sequence[str]) -> None:
        for name in track(names, "quantizing layers"):
            with weights.loaded(name):
                stats = None
                if needs_calibration(method, [formats[name]]):
                    stats = new_stats({linear_named(model, name): formats[name]}, method)
                quantize_alone(name, stats)

    if not needs_calibration(method, formats.values()):
        without_calls(list(formats))
        return
    with no_caches(model):
        plan = make_plan(model, list(formats), batches, weights)
        if plan.parts == [""] and find_blocks(model, formats):
            warnings.warn(
                f"{type(model).__name__} is no simple chain of blocks; it is calibrated as a whole, which "
                f"takes the memory of the whole model in float32",
                stacklevel=2,
            )
        masks = [masks_of(model, batch) for batch in batches]
        passes = Passes(model, batches)
        steps = passes.stopping_at(plan.parts)
        for _ in track(plan.parts, "quantizing blocks"):
            part, calls = next(steps)
            with weights.loaded(part):
                if part in formats:
                    quantize_alone(part, _seen(model, part, calls, plan, masks, formats[part], method))
                else:
                    runs = [Run(call.look, call.input, masks[call.batch]) for call in calls]
                    inner = {n: f for n, f in formats.items() if n not in plan.never}
                    block = Block(model, part, inner, runs, plan.tokens, method, emit, weights, sequential)
                    block.quantize()
                    report.without_tokens += block.without_tokens
                if part != plan.parts[-1]:
                    for call in calls:
                        call.finish()
        next(steps, None)
        without_calls(plan.never)
    report.without_tokens += plan.never
    report.padding_counted += sorted(plan.tokens.unknown)


def _seen(
    model: nn.Module,
    name: str,
    calls: Sequence[Call],
    plan: Plan,
    masks: Sequence[Mapping[str, object]],
    format: Format,
    method: Method,
) -> InputStats:
    """What the calls of a layer that is a part of its own give it as input."""
    stats = new_stats({linear_named(model, name): format}, method)
    for call in calls:
        x = call.input()
        stats.add(x, plan.tokens.keep(name, x, Around(masks[call.batch])))  # type: ignore[arg-type]
    return stats
