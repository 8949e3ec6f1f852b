"""Calibration data: from what a user may pass to keyword arguments of forward calls."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Batch", "calibration_batches", "position_limits", "told"]

# Keyword arguments of one forward call of the model, e.g. {"input_ids": int64 [B, T]}.
Batch = Mapping[str, Any]


def calibration_batches(
    calibration: Tensor | Batch | Iterable[Tensor | Batch] | None, model: nn.Module
) -> list[Batch]:
    """Forward calls from what a user may pass; token ids are cut into batches of a few sequences.

    Raises:
        ValueError: what the model cannot be called with, as far as that is seen without calling it.
    """
    if calibration is None:
        raise ValueError(
            "calibration: this method needs token ids to calibrate on, got None; so do static input scales"
        )
    if isinstance(calibration, Tensor):
        main = _main_input(model)
        if main != "input_ids":
            batches: list[Batch] = [{main: calibration}]
        else:
            ids = calibration[None] if calibration.dim() == 1 else calibration
            _check_ids("input_ids", ids, model)
            batches = [{"input_ids": part} for part in ids.split(max(1, 4096 // ids.shape[1]))]
    else:
        items = [calibration] if isinstance(calibration, Mapping) else calibration
        batches = [_forward_call(item, model) for item in items]
    if not batches:
        raise ValueError("calibration: expected at least one sequence of tokens, got none")
    for index, batch in enumerate(batches):
        _check(index, batch, model)
    return [_with_decoder_input(index, batch, model) for index, batch in enumerate(batches)]


def _with_decoder_input(index: int, batch: Batch, model: nn.Module) -> Batch:
    """For an encoder with a decoder, of which only the first was given something to read: the decoder reads
    the same text."""
    read = ("labels", "decoder_input_ids", "decoder_inputs_embeds")
    has_both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if not has_both or any(name in batch for name in read):
        return batch
    if "decoder_input_ids" not in inspect.signature(model.forward).parameters:
        return batch
    if "input_ids" not in batch:
        raise ValueError(
            f"calibration: item {index} ({described(batch)}) has nothing for the decoder to read; give it "
            f"decoder_input_ids too"
        )
    own = {"decoder_input_ids": batch["input_ids"]}
    if "attention_mask" in batch:
        own["decoder_attention_mask"] = batch["attention_mask"]
    return {**batch, **own}


def described(batch: Batch) -> str:
    """A batch in a message: names and shapes."""
    shapes = (f"{k} {list(v.shape) if isinstance(v, Tensor) else type(v).__name__}" for k, v in batch.items())
    return ", ".join(shapes)


def _main_input(model: nn.Module) -> str:
    """What the model's forward takes first; transformers models say so."""
    name = getattr(model, "main_input_name", "input_ids")
    return name if isinstance(name, str) else "input_ids"


def _forward_call(item: Any, model: nn.Module) -> Batch:
    if isinstance(item, Tensor):
        main = _main_input(model)
        return {main: item[None] if main == "input_ids" and item.dim() == 1 else item}
    if not isinstance(item, Mapping):
        raise ValueError(
            f"calibration: expected token ids or keyword arguments of forward, got a {type(item).__name__}"
        )
    return dict(item)


def _check(index: int, batch: Batch, model: nn.Module) -> None:
    parameters = inspect.signature(model.forward).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for name in batch:
            if name not in parameters:
                raise ValueError(
                    f"calibration: {type(model).__name__}.forward takes no {name} (item {index}); "
                    f"it takes {', '.join(parameters)}"
                )
    for name in ("input_ids", "decoder_input_ids"):
        if isinstance(batch.get(name), Tensor):
            _check_ids(name, batch[name], model)
            mask = batch.get(name.replace("input_ids", "attention_mask"))
            if isinstance(mask, Tensor):
                _check_mask(name, mask, batch[name], index)


def _check_ids(name: str, ids: Tensor, model: nn.Module) -> None:
    if ids.dim() != 2 or ids.is_floating_point():
        raise ValueError(
            f"calibration: expected integer token ids [sequences, T], got {ids.dtype} {tuple(ids.shape)}"
        )
    if ids.numel() == 0:
        raise ValueError("calibration: expected at least one sequence of tokens, got none")
    size = getattr(_embeddings(model), "num_embeddings", None)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (size is not None and high >= size):
        raise ValueError(f"calibration: expected token ids of 0 to {size}, exclusive, got {low} to {high}")
    limit = min(position_limits(model), default=None)
    if limit is not None and ids.shape[1] > limit:
        raise ValueError(
            f"calibration: {name} has sequences of {ids.shape[1]} tokens; the model has positions for {limit}"
        )


def _embeddings(model: nn.Module) -> nn.Module | None:
    """What looks token ids up; None where a model has nothing of the kind, or does not say."""
    get = getattr(model, "get_input_embeddings", None)
    if get is None:
        return None
    try:
        found: nn.Module | None = get()
    except (NotImplementedError, AttributeError):
        return None
    return found if isinstance(found, nn.Embedding) else None


def _check_mask(name: str, mask: Tensor, ids: Tensor, index: int) -> None:
    mask_name = name.replace("input_ids", "attention_mask")
    if mask.dim() == 2 and mask.shape != ids.shape:
        raise ValueError(
            f"calibration: {mask_name} of item {index} is {list(mask.shape)}, its {name} {list(ids.shape)}"
        )
    if mask.dim() == 2 and not mask.is_floating_point() and not mask.any():
        raise ValueError(f"calibration: {mask_name} of item {index} excludes every token")


def position_limits(model: nn.Module) -> Iterator[int]:
    """How long a sequence may be, of each table of learned positions of tokens."""
    config = getattr(model, "config", None)
    parts = [config, *(v for v in vars(config).values() if hasattr(v, "to_dict"))] if config else []
    names = ("max_position_embeddings", "n_positions", "max_target_positions")
    longest = {n for part in parts for name in names if isinstance(n := getattr(part, name, None), int)}
    for path, module in model.named_modules():
        last = path.rpartition(".")[2]
        if not isinstance(module, nn.Embedding) or not ("position" in last or last == "wpe"):
            continue
        for limit in longest:
            if limit <= module.num_embeddings <= limit + 2:  # some tables begin with unused rows
                before = 0 if module.padding_idx is None else module.padding_idx + 1
                yield min(limit, module.num_embeddings - before)


def told(error: Exception, index: int, batch: Batch, model: nn.Module) -> Exception:
    """What to raise where the model itself fails on an item; no memory stays no memory."""
    if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
        return error
    return ValueError(
        f"calibration: {type(model).__name__} cannot be called with item {index} ({described(batch)}): "
        f"{type(error).__name__}: {error}"
    )
