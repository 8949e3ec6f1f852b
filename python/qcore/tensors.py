"""Which tensors a model has, which of them are one, and where a checkpoint stores them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from qcore.nn import QEmbedding, QLinear

__all__ = [
    "fill_computed",
    "persistent_tensors",
    "set_tensor",
    "shared_names",
    "stored_names",
    "tie_weights",
    "tied_names",
    "unmatched",
]


def persistent_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that a checkpoint holds, shared ones under each of their names; but nothing
    of what quantized layers packed."""
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        packed = isinstance(module, (QLinear, QEmbedding))
        buffers = {} if packed else module._buffers
        kept = {n: b for n, b in buffers.items() if n not in module._non_persistent_buffers_set}
        for name, tensor in {**module._parameters, **kept}.items():
            if tensor is not None:
                found[f"{prefix}.{name}" if prefix else name] = tensor
    return found


def set_tensor(model: nn.Module, name: str, tensor: Tensor | None) -> None:
    """Replaces a parameter or buffer by a tensor; None leaves a parameter on the meta device."""
    owner, leaf = _place(model, name)
    is_buffer = leaf in owner._buffers
    old = owner._buffers[leaf] if is_buffer else owner._parameters[leaf]
    if old is None:
        raise ValueError(f"{name}: the model has no such tensor")
    if tensor is not None and tensor.shape != old.shape:
        raise ValueError(f"{name}: expected shape {tuple(old.shape)}, got {tuple(tensor.shape)}")
    if not is_buffer:
        tensor = torch.empty_like(old, device="meta") if tensor is None else tensor
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    elif tensor is not None:
        owner._buffers[leaf] = tensor


def stored_names(model: nn.Module, same: Mapping[str, str]) -> dict[str, str]:
    """Where a checkpoint stores each of the model's parameters and persistent buffers: its name there, which
    for tied weights may be that of their twin. What is not stored as it is, is absent.

    Args:
        same: see `qcore.conversion.Conversion`.
    """
    stored = dict(same)
    for group in shared_names(model):
        key = next((stored[name] for name in group if name in stored), None)
        if key is not None:
            stored = {**dict.fromkeys(group, key), **stored}
    return stored


def tied_names(model: nn.Module) -> dict[str, str]:
    """Names of the parameters that the model's configuration ties, each with the one that it is tied to."""
    found: dict[str, str] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        expand: Any = getattr(module, "get_expanded_tied_weights_keys", None)
        if expand is None:
            continue
        try:
            ties = expand(all_submodels=False)
        except ValueError:  # some of the names went with layers that are quantized now
            ties = module.all_tied_weights_keys
        dot = f"{prefix}." if prefix else ""
        found |= {dot + target: dot + source for target, source in ties.items()}
    return found


def shared_names(model: nn.Module) -> list[list[str]]:
    """Groups of names that stand for one tensor, the first of each is what the others are tied to: the
    configuration ties them, or the model itself holds one tensor under several names."""
    first: dict[str, str] = {}
    seen: dict[int, str] = {}
    for name, tensor in persistent_tensors(model).items():
        storage = tensor.untyped_storage()._cdata
        first[name] = seen.setdefault(storage, name) if tensor.is_meta else name
    for target, source in tied_names(model).items():
        if target in first and source in first:
            old, new = first[target], first[source]
            first.update({name: new for name, twin in first.items() if twin == old})
    groups: dict[str, list[str]] = {}
    for name, twin in first.items():
        groups.setdefault(twin, [twin]).extend([name] if name != twin else [])
    return [names for names in groups.values() if len(names) > 1]


def tie_weights(
    model: nn.Module, stored: Mapping[str, str], groups: Iterable[Sequence[str]] | None = None
) -> None:
    """Makes tied weights one again after they were set one by one; see `shared_names` for the groups. Those
    that are stored each for itself, with values of their own, stay two, as in transformers."""
    for first, *others in shared_names(model) if groups is None else groups:
        for name in others:
            (owner, leaf), ours, theirs = _place(model, name), _tensor(model, name), _tensor(model, first)
            same = stored.get(name) == stored.get(first) or (
                not ours.is_meta
                and not theirs.is_meta
                and ours.shape == theirs.shape
                and torch.equal(ours.float(), theirs.float())
            )
            if same:
                (owner._buffers if leaf in owner._buffers else owner._parameters)[leaf] = theirs  # type: ignore[assignment]


def unmatched(model: nn.Module, missing: Iterable[str], unused: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of the tensors that a checkpoint lacks, and of those that the model has no place for, by the model's
    names: those that transformers has no rule to pass over."""
    info = SimpleNamespace(missing_keys=set(missing), unexpected_keys=set(unused))
    adjust: Any = getattr(model, "_adjust_missing_and_unexpected_keys", None)
    if adjust is not None:
        adjust(info)
    return sorted(info.missing_keys), sorted(info.unexpected_keys)


def fill_computed(model: nn.Module, missing: Iterable[str], dtype: torch.dtype | None) -> list[str]:
    """Of the tensors that a checkpoint lacks, the names of those that remain missing. Those that transformers
    has a rule to pass over, as it computes them, are computed in its way.

    Args:
        dtype: of what is computed; None: float32.
    """
    lacking = list(missing)
    left = set(unmatched(model, lacking, ())[0])
    passed = set(lacking) - left
    for owner_name in sorted({name.rpartition(".")[0] for name in passed}):
        owner, dot = model.get_submodule(owner_name), f"{owner_name}." if owner_name else ""
        empty = {dot + name for name, p in owner._parameters.items() if p is not None and p.is_meta}
        if not empty & passed:
            continue  # buffers, which are there
        for name in empty:
            set_tensor(model, name, torch.empty_like(_tensor(model, name), device="cpu"))
        path = owner_name.split(".")
        around = [model.get_submodule(".".join(path[:end])) for end in range(len(path), -1, -1)]
        initialize: Any = next(m._init_weights for m in around if hasattr(m, "_init_weights"))
        with torch.no_grad():
            initialize(owner)
        for name in empty:
            set_tensor(model, name, _tensor(model, name).to(dtype) if name in passed else None)
    return [name for name in lacking if name in left]


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return model.get_submodule(owner), leaf


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, leaf = _place(model, name)
    tensor = owner._buffers[leaf] if leaf in owner._buffers else owner._parameters[leaf]
    assert tensor is not None, name
    return tensor
