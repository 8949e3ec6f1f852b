"""Which rows of a layer's input are tokens that count: those that the masks of a batch do not exclude.

Where the tokens are in a layer's input is read off its shape in a pass over lengths that differ from one
another, so that no two axes can be confused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qcore.calibration.data import position_limits

__all__ = ["Around", "Probe", "Tokens", "distinct", "masks_of"]

# Masks that say something else than which tokens there are.
_OTHER = ("head_mask", "pixel_mask", "bool_masked_pos", "mask_time_indices", "bbox", "cross_attention_mask")

# What masks add to scores is less: -1e4 in old models, the least number of a dtype in others.
_EXCLUDES = -5e3


@dataclass(frozen=True)
class Probe:
    """A batch whose axes can be told apart.

    Attributes:
        arguments: of the forward call.
        masks: bool [B, T], by the name of the argument that it came from.
    """

    arguments: Mapping[str, Any]
    masks: dict[str, Tensor]


def masks_of(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The masks of a batch, each as bool [B, T], True where a token counts.

    A mask [B, ..., T, T] of pairs, as bool or as what is added to scores, excludes the tokens that nobody may
    look at. Masks of audio samples are brought to the rate of the encoder, where the model says how.
    """
    found = {}
    for name, mask in batch.items():
        if not isinstance(mask, Tensor) or not name.endswith("mask") or name.endswith(_OTHER):
            continue
        if mask.dim() == 2:
            found[name] = mask != 0
        elif mask.dim() in (3, 4):
            allowed = mask > _EXCLUDES if mask.is_floating_point() else mask != 0
            if mask.is_floating_point() and bool((mask >= 1).any()):
                allowed = mask != 0  # ones and zeros
            found[name] = allowed.flatten(1, -2).any(1)
    slower = getattr(model, "_get_feature_vector_attention_mask", None)
    samples = batch.get("input_values")
    if slower is not None and "attention_mask" in found and isinstance(samples, Tensor):
        lengths = model._get_feat_extract_output_lengths(torch.tensor(samples.shape[1]))  # type: ignore[operator]
        found["attention_mask"] = slower(int(lengths), found["attention_mask"].long()).bool()
    return found


def distinct(model: nn.Module, batch: Mapping[str, Any]) -> Probe:
    """The batch with sequences made longer by masked tokens, so that all of its lengths differ; as it is
    where it has no masks or cannot be made longer."""
    masks = masks_of(model, batch)
    ids = batch.get("input_ids", batch.get("inputs_embeds"))
    if not masks or not isinstance(ids, Tensor) or ids.dim() < 2:
        return Probe(batch, masks)
    limit = min(position_limits(model), default=None)
    batch = _three_rows(batch, ids.shape[0])
    ids = batch.get("input_ids", batch.get("inputs_embeds"))
    masks = masks_of(model, batch)
    arguments = dict(batch)
    other = batch.get("decoder_input_ids", batch.get("labels"))
    lengths = [ids.shape[1]]
    if isinstance(other, Tensor) and other.dim() == 2:
        lengths.append(other.shape[1])
    taken = {1, ids.shape[0], *(mask.shape[0] for mask in masks.values())}
    if len(set(lengths)) == len(lengths) and not taken & set(lengths):
        return Probe(batch, masks)
    if limit is not None and max(lengths) + 4 > limit:
        return Probe(batch, masks)
    for decoder in (False, True)[: len(lengths)]:
        length = lengths[decoder]
        new = length
        while new in taken:
            new += 1
        taken.add(new)
        for name, value in batch.items():
            ours = name.startswith("decoder_") or name == "labels"
            if ours == decoder and isinstance(value, Tensor) and value.shape[:2] == (ids.shape[0], length):
                arguments[name] = _longer(name, value, new)
    return Probe(arguments, masks_of(model, arguments))


def _three_rows(batch: Mapping[str, Any], rows: int) -> Mapping[str, Any]:
    """The batch with at least three sequences, so that twice a length is not their tokens; as it is where
    not all of it is text."""
    tensors = [value for value in batch.values() if isinstance(value, Tensor)]
    if rows > 2 or any(value.shape[:1] != (rows,) or value.dim() > 2 for value in tensors):
        return batch
    at = torch.arange(3) % rows
    return {
        name: value[at.to(value.device)] if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _longer(name: str, value: Tensor, length: int) -> Tensor:
    last = value[:, -1:].expand(-1, length - value.shape[1], *value.shape[2:])
    return torch.cat([value, torch.zeros_like(last) if name.endswith("mask") else last], 1)


class Around:
    """What is known of the modules around a layer while they run, in one forward pass.

    Attributes:
        masks: bool [B, T] each, of the batch.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = masks
        self.pads = any(not bool(mask.all()) for mask in masks.values())
        self.running: list[tuple[Tensor, Tensor] | None] = []  # inputs [..., K] and which rows of them count

    def enter(self, x: Any) -> None:
        """A module begins, with this as its first input."""
        known = None
        if isinstance(x, Tensor) and x.dim() >= 2 and self.pads:
            masks = [mask.to(x.device) for mask in self.masks.values()]
            found = (_rows(how, mask, x.shape[:-1]) for mask in masks for how in _LAYOUTS)
            rows = next((rows for rows in found if rows is not None), None)
            rows = self.gathered(x) if rows is None else rows
            known = None if rows is None else (x, rows)
        self.running.append(known)

    def leave(self) -> None:
        """The module ends."""
        self.running.pop()

    def gathered(self, x: Tensor) -> Tensor | None:
        """Which rows of x count, if they were gathered from the input of a running module, or are as many as
        those that one of them reads."""
        around = [known for known in reversed(self.running) if known is not None]
        for known in around:
            if (rows := _gathered(x, *known)) is not None:
                return rows
        return next((rows for _, rows in around if rows.shape == x.shape[:-1]), None)


@dataclass
class Tokens:
    """Where the tokens are in the input of each layer.

    Attributes:
        unknown: layers of which it could not be told which rows are padding: all are counted.
    """

    places: dict[str, tuple[str, str]] = field(default_factory=dict)  # the mask, and how rows lie
    unknown: set[str] = field(default_factory=set)

    def learn(self, layer: str, x: Tensor, probe: Probe, around: Around) -> None:
        """Looks at one input of a layer, in a pass over the probe."""
        if layer in self.places:
            return
        for name, mask in probe.masks.items():
            for how in _LAYOUTS:
                if _rows(how, mask, x.shape[:-1]) is not None:
                    self.places[layer] = (name, how)
                    return
        if not around.pads:
            return
        one_each = any(x.shape[:-1] == mask.shape[:1] for mask in probe.masks.values())
        if one_each:
            return  # a row for each sequence, as poolers have; all of them count
        if around.gathered(x) is not None:
            self.places[layer] = ("", "gathered")
        elif "input_ids" not in probe.arguments and "inputs_embeds" not in probe.arguments:
            self.unknown.add(layer)  # samples and pixels, at another rate

    def keep(self, layer: str, x: Tensor, around: Around) -> Tensor | None:
        """bool [...]: which rows of an input x [..., K] of the layer count; None: all."""
        if not around.pads:
            return None
        name, how = self.places.get(layer, ("", ""))
        if how == "gathered":
            rows = around.gathered(x)
        elif name in around.masks:
            rows = _rows(how, around.masks[name].to(x.device), x.shape[:-1])
        else:
            return None
        if rows is None:
            self.unknown.add(layer)
        return rows


def _gathered(rows: Tensor, x: Tensor, counts: Tensor) -> Tensor | None:
    """Which rows count of some that were gathered from those of x; None if one of them was not. Rows that are
    equal are taken in their order."""
    if rows.shape[-1] != x.shape[-1] or rows.dtype != x.dtype:
        return None
    have, order = _hashes(x).sort(stable=True)
    wanted, back = _hashes(rows).sort(stable=True)
    first = torch.searchsorted(have, wanted).clamp(max=len(have) - 1)
    if not bool((have[first] == wanted).all()):
        return None
    repeats = torch.arange(len(wanted), device=x.device) - torch.searchsorted(wanted, wanted)
    at = (first + repeats).clamp(max=len(have) - 1)
    at = torch.where(have[at] == wanted, at, first)
    found = torch.empty(len(wanted), dtype=torch.bool, device=x.device)
    found[back] = counts.reshape(-1)[order[at]]
    return found.reshape(rows.shape[:-1])


def _hashes(x: Tensor) -> Tensor:
    """One number for each row, the same for the same bits."""
    x = x.detach().float().reshape(-1, x.shape[-1]).contiguous()
    generator = torch.Generator().manual_seed(x.shape[1])
    weights = torch.randint(1 << 62, (x.shape[1],), generator=generator).to(x.device) | 1
    return (x.view(torch.int32).long() * weights).sum(1)


_LAYOUTS = ("batch first", "time first", "inner", "flat")


def _rows(how: str, mask: Tensor, shape: Sequence[int]) -> Tensor | None:
    """The mask [B, T] over rows of this shape, or None if they do not lie so."""
    b, t = mask.shape
    shape = tuple(shape)
    if how == "batch first" and shape[:2] == (b, t):
        return mask.reshape(b, t, *[1] * (len(shape) - 2)).expand(shape)
    if how == "time first" and shape[:2] == (t, b):
        return mask.T.reshape(t, b, *[1] * (len(shape) - 2)).expand(shape)
    if how == "inner" and len(shape) > 2 and shape[0] == b and t in shape[2:]:
        at = shape.index(t, 2)
        return mask.reshape(b, *[t if i == at else 1 for i in range(1, len(shape))]).expand(shape)
    if how == "flat" and math.prod(shape) == b * t:
        return mask.reshape(shape)
    return None
