"""Quantizing a model that is in memory: `qcore.quantize(model, ...)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from qcore.blocks import Batch
from qcore.calibrate import calibrate, check_finite, needs_calibration
from qcore.formats import Format
from qcore.linear import QLinear
from qcore.methods import Method, resolve_method
from qcore.models import choose_formats, head_name
from qcore.qweight import QWeight
from qcore.schemes import Scheme, resolve_scheme

__all__ = ["calibration_batches", "quantize", "replace_linear"]


def quantize(
    model: nn.Module,
    scheme: str | Format | Scheme = "W4A16",
    method: str | Method = "gptq",
    calibration: Tensor | Batch | Iterable[Tensor | Batch] | None = None,
    ignore: Sequence[str] = ("lm_head",),
    group_size: int | None = None,
    sequential: bool = True,
) -> nn.Module:
    """Quantizes a model's linear layers in place and returns it, ready for inference.

    Args:
        model: any module made of `nn.Linear`; transformers models are calibrated block by block.
        scheme: W2A16, W3A16, W4A16, W8A16, each also with _ASYM (zero points); W8A8, FP8 and others of
            `qcore.SCHEMES`, which round inputs too; a block format of GGUF, as Q4_K; a format; or a function
            that gives each layer its own (`qcore.schemes.Scheme`).
        method: rtn, imatrix, gptq, awq, awq+gptq, or a method object with options of its own.
        calibration: token ids int64 [sequences, T], or an iterable of such tensors or of keyword
            arguments of the model's forward. Not needed for rtn, unless input scales are static.
        ignore: layers to leave as they are: names, last parts of names, or "re:" and an expression.
        group_size: columns per scale, -1 for one scale per row; by default the scheme's, 128. Block
            formats have their own.
        sequential: calibrate each layer behind the already quantized layers of its own block too.

    Raises:
        ValueError: an argument that does not fit, naming it; NaN or infinite weights, naming the layer.
            The model is unchanged, unless the calibration data itself is at fault.
    """
    chosen_scheme = resolve_scheme(scheme, group_size)
    method = resolve_method(method)
    formats = choose_formats(model, chosen_scheme, ignore)
    batches = calibration_batches(calibration, model) if needs_calibration(method, formats.values()) else []
    for name in formats:
        check_finite(name, model.get_submodule(name).weight)  # type: ignore[arg-type]
    modes = {module: module.training for module in model.modules()}
    done: dict[str, QWeight] = {}
    try:
        model.eval()
        with torch.no_grad():
            calibrate(model, formats, batches, method, done.__setitem__, sequential=sequential)
    finally:
        for module, training in modes.items():
            module.training = training
    for name, weight in done.items():
        replace_linear(model, name, weight)
    if head_name(model) in done and hasattr(model, "config"):
        model.config.tie_word_embeddings = False  # type: ignore[union-attr]
    return model


def replace_linear(model: nn.Module, name: str, weight: QWeight) -> None:
    """Puts a QLinear in the place of the named `nn.Linear`."""
    owner_name, _, leaf = name.rpartition(".")
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    setattr(model.get_submodule(owner_name), leaf, QLinear(weight, linear.bias))


def calibration_batches(
    calibration: Tensor | Batch | Iterable[Tensor | Batch] | None, model: nn.Module
) -> list[Batch]:
    """Forward calls from what a user may pass; token ids are cut into batches of a few sequences."""
    if calibration is None:
        raise ValueError(
            "calibration: this method needs token ids to calibrate on, got None; so do static input scales"
        )
    if isinstance(calibration, Tensor):
        ids = calibration[None] if calibration.dim() == 1 else calibration
        _check_ids(ids, model)
        return [{"input_ids": part} for part in ids.split(max(1, 4096 // ids.shape[1]))]
    if isinstance(calibration, Mapping):
        calibration = [calibration]
    batches: list[Batch] = []
    for item in calibration:
        if isinstance(item, Tensor):
            item = {"input_ids": item[None] if item.dim() == 1 else item}
        if not isinstance(item, Mapping):
            raise ValueError(
                f"calibration: expected token ids or keyword arguments of forward, got a "
                f"{type(item).__name__}"
            )
        if isinstance(item.get("input_ids"), Tensor):
            _check_ids(item["input_ids"], model)
        batches.append(item)
    if not batches:
        raise ValueError("calibration: expected at least one sequence of tokens, got none")
    return batches


def _check_ids(ids: Tensor, model: nn.Module) -> None:
    if ids.dim() != 2 or ids.is_floating_point():
        raise ValueError(
            f"calibration: expected integer token ids [sequences, T], got {ids.dtype} {tuple(ids.shape)}"
        )
    if ids.numel() == 0:
        raise ValueError("calibration: expected at least one sequence of tokens, got none")
    get = getattr(model, "get_input_embeddings", None)
    size = getattr(get() if get is not None else None, "num_embeddings", None)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (size is not None and high >= size):
        raise ValueError(f"calibration: expected token ids of 0 to {size}, exclusive, got {low} to {high}")
