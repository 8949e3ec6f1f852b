"""Quantizing a model that is in memory: `qcore.quantize(model, ...)`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from qcore.blocks import Batch, as_batch
from qcore.calibrate import calibrate, quantize_linear
from qcore.formats import IntGroup
from qcore.linear import QLinear
from qcore.methods import Method, resolve_method
from qcore.models import choose_formats
from qcore.progress import track
from qcore.qweight import QWeight
from qcore.schemes import resolve_scheme

__all__ = ["calibration_batches", "quantize", "replace_linear"]


def quantize(
    model: nn.Module,
    scheme: str | IntGroup = "W4A16",
    method: str | Method = "gptq",
    calibration: Tensor | Iterable[Tensor | Batch] | None = None,
    ignore: Sequence[str] = ("lm_head",),
    group_size: int | None = None,
    sequential: bool = True,
) -> nn.Module:
    """Quantizes a model's linear layers in place and returns it, ready for inference.

    Args:
        model: any module made of `nn.Linear`; transformers models are calibrated block by block.
        scheme: W2A16, W3A16, W4A16, W8A16, each also with _ASYM (zero points), or a format.
        method: rtn, gptq, awq, awq+gptq, or a method object with options of its own.
        calibration: token ids int64 [sequences, T], or an iterable of such tensors or of keyword
            arguments of the model's forward. Not needed for rtn.
        ignore: layers to leave as they are: names, last parts of names, or "re:" and an expression.
        group_size: columns per scale, -1 for one scale per row; by default the scheme's, 128.
        sequential: calibrate each layer behind the already quantized layers of its own block too.

    Raises:
        ValueError: an argument that does not fit, naming it; NaN or infinite weights, naming the layer.
            The model is then unchanged only if the error came before calibration began.
    """
    format = resolve_scheme(scheme, group_size)
    method = resolve_method(method)
    formats = choose_formats(model, format, ignore)
    batches = calibration_batches(calibration) if method.needs_calibration else []
    was_training = model.training
    model.eval()
    done: dict[str, QWeight] = {}
    with torch.no_grad():
        if method.needs_calibration:
            calibrate(model, formats, batches, method, done.__setitem__, sequential=sequential)
        else:
            for name in track(list(formats), "quantizing layers"):
                linear = model.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                w = linear.weight.detach()
                done[name] = quantize_linear(name, w, None, formats[name], method, w.dtype)
        for name, weight in done.items():
            replace_linear(model, name, weight)
    return model.train(was_training)


def replace_linear(model: nn.Module, name: str, weight: QWeight) -> None:
    """Puts a QLinear in the place of the named `nn.Linear`."""
    owner_name, _, leaf = name.rpartition(".")
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    setattr(model.get_submodule(owner_name), leaf, QLinear(weight, linear.bias))


def calibration_batches(calibration: Tensor | Iterable[Tensor | Batch] | None) -> list[Batch]:
    """Forward calls from what a user may pass; token ids are cut into batches of a few sequences."""
    if calibration is None:
        raise ValueError("calibration: this method needs token ids to calibrate on, got None")
    if isinstance(calibration, Tensor):
        if calibration.dim() == 1:
            calibration = calibration[None]
        if calibration.dim() != 2 or calibration.is_floating_point():
            raise ValueError(
                f"calibration: expected integer token ids [sequences, T], got {calibration.dtype} "
                f"{tuple(calibration.shape)}"
            )
        rows = max(1, 4096 // max(calibration.shape[1], 1))
        calibration = [part for part in calibration.split(rows) if part.numel()]
    batches = [as_batch(item) for item in calibration]
    if not batches:
        raise ValueError("calibration: expected at least one sequence of tokens, got none")
    return batches
