"""Layer-by-layer calibration: statistics of each layer's inputs, behind the already quantized layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from qcore.calibration.block import Block, Emit
from qcore.calibration.chain import (
    Batch,
    BlockCalls,
    Weights,
    find_blocks,
    record_calls,
    run_after_blocks,
    run_whole,
)
from qcore.calibration.observer import Observer, Run, linear_named, mask_of, new_stats
from qcore.calibration.one_layer import quantize_linear
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
        report: is told which layers no token reached.
    """
    weights = weights or Weights(model)
    report = QuantizationReport() if report is None else report

    def quantize_alone(name: str, stats: InputStats | None) -> None:
        with weights.loaded(name):
            w, dtype = linear_named(model, name).weight.detach(), weights.stored_dtype(name, "weight")
            stats = None if stats is None else stats.to(w.device)
            if stats is not None and stats.tokens == 0:
                report.without_tokens.append(name)
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
            Block(model, "", formats, whole, method, emit, weights, sequential, report).quantize()
        return
    for index, name in enumerate(track(names, "quantizing blocks")):
        with weights.loaded(name):
            runs = [_one_block(model, calls, index, b, batch) for b, batch in enumerate(batches)]
            Block(model, name, formats, runs, method, emit, weights, sequential, report).quantize()
            for b in range(len(batches)):
                calls.hidden[b] = calls.run(model, index, b)
                calls.rest[index][b] = ((), {})
    outside = [n for n in formats if not any(n.startswith(b + ".") for b in names)]
    if outside:
        stats = {(m := linear_named(model, n)): new_stats({m: formats[n]}, method) for n in outside}
        with Observer(stats) as observer:
            for batch, hidden in zip(batches, calls.hidden, strict=True):
                observer.run(Run(partial(run_after_blocks, model, calls, batch, hidden), mask_of(batch)))
        for name in formats:
            if (linear := linear_named(model, name)) in stats:
                quantize_alone(name, stats[linear])


def _one_block(model: nn.Module, calls: BlockCalls, block: int, index: int, batch: Batch) -> Run:
    return Run(lambda: calls.run(model, block, index), mask_of(batch))


def _whole_model(model: nn.Module, batch: Batch) -> Run:
    floats = {
        k: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in batch.items()
    }

    def run() -> Tensor:
        out = run_whole(model, floats)
        first: Tensor = out if isinstance(out, Tensor) else out[0]
        return first

    return Run(run, mask_of(batch))
