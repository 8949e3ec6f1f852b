"""How the tensors of a checkpoint become those of a model, by the rules of transformers: names that changed
since they were saved, experts that are merged into one tensor, layers that are cut out of a fused one.

Nothing here knows a model: the rules are transformers' own, and so is the code that carries them out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Conversion", "Merge", "renamer", "source_layout", "source_names"]


@dataclass
class Merge:
    """Tensors of a checkpoint that a rule makes others of.

    Attributes:
        keys: of the checkpoint, each with the pattern of the rule that it met.
        shapes: of what comes out, by the model's names.
    """

    converter: Any
    first: str  # what transformers calls it by
    model: nn.Module
    keys: list[tuple[str, str]] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def made(self, tensor: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """The model's tensors, of the checkpoint's."""
        converter = deepcopy(self.converter)
        for key, pattern in self.keys:
            converter.add_tensor(self.first, key, pattern, tensor(key))
        with torch.no_grad():
            made = converter.convert(self.first, model=self.model, config=self.model.config)
        return {name: t[0] if isinstance(t, list) else t for name, t in made.items()}


class Conversion:
    """What becomes of each tensor of a checkpoint.

    Attributes:
        same: the key of each tensor of the model that is stored as it is.
        merges: by the model's names: those that are made of others.
        unused: keys that the model has no place for, by what their names would be in it.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Collection[str],
        checkpoint: Iterable[str],
        shape: Callable[[str], tuple[int, ...]],
    ) -> None:
        """
        Args:
            names: of the model's tensors.
            shape: of a tensor of the checkpoint.
        """
        self.rules = _rules(model)
        self.same: dict[str, str] = {}
        self.merges: dict[str, Merge] = {}
        self.unused: dict[str, str] = {}
        by_first: dict[str, Merge] = {}
        for key in sorted(checkpoint, key=_natural):
            name, converter, pattern = self._place(key)
            if name not in names and key in names:
                name, converter = key, None
            if name not in names:
                self.unused[name] = key
            elif converter is None:
                self.same[name] = key
            else:
                merge = by_first.setdefault(name, Merge(converter, name, model))
                merge.keys.append((key, pattern))
        for merge in by_first.values():
            self._plan(merge, names, shape)

    def _place(self, key: str) -> tuple[str, Any, str]:
        from transformers.core_model_loading import rename_source_key

        name, pattern = rename_source_key(key, self.rules.renamings, self.rules.converters)
        converter = self.rules.by_pattern.get(pattern)
        return str(name), converter, str(pattern)

    def _plan(self, merge: Merge, names: Collection[str], shape: Callable[[str], tuple[int, ...]]) -> None:
        """Carries a rule out on tensors without data, to know what comes of it."""
        try:
            made = merge.made(lambda key: torch.empty(shape(key), device="meta"))
        except Exception as error:
            keys = ", ".join(key for key, _ in merge.keys[:3])
            raise ValueError(f"{merge.first}: cannot be made of {keys}, ...: {error}") from error
        merge.shapes = {name: tuple(tensor.shape) for name, tensor in made.items()}
        self.merges.update(dict.fromkeys((name for name in merge.shapes if name in names), merge))

    @property
    def merged_keys(self) -> dict[str, Merge]:
        """By key, what it is merged into."""
        return {key: merge for merge in self.merges.values() for key, _ in merge.keys}


@dataclass
class _Rules:
    renamings: list[Any]
    converters: list[Any]

    @property
    def by_pattern(self) -> dict[Any, Any]:
        return {pattern: c for c in self.converters for pattern in c.source_patterns}


def _rules(model: nn.Module) -> _Rules:
    from transformers.conversion_mapping import get_model_conversion_mapping

    return _sorted(get_model_conversion_mapping(model))


def _sorted(transforms: Sequence[Any]) -> _Rules:
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    return _Rules(
        [t for t in transforms if isinstance(t, WeightRenaming)],
        [t for t in transforms if isinstance(t, WeightConverter)],
    )


def renamer(model: nn.Module) -> Callable[[str], str]:
    """The model's name for each tensor of a checkpoint: some were renamed since they were saved."""
    from transformers.core_model_loading import rename_source_key

    rules = _rules(model)
    return lambda stored: str(rename_source_key(stored, rules.renamings, [])[0])


def source_layout(
    model: nn.Module, tensors: Mapping[str, Tensor], fixed: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Tensors of a model by the names, and in the pieces, of its checkpoints, as `save_pretrained` writes.

    Args:
        fixed: names of tensors that are written in another way (quantized): what a rule would put together
            with one of them keeps the model's name.
    """
    from transformers.core_model_loading import revert_weight_conversion

    whole, apart = _together(model, tensors, fixed)
    return {**apart, **revert_weight_conversion(model, whole)}


def source_names(model: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """The name that checkpoints have for each linear layer; the model's if they have it in other pieces."""
    joint = _joint(model)
    alone = {f"{layer}.weight": torch.empty(2, 2, device="meta") for layer in layers}
    renamed = {name: probe for name, probe in alone.items() if joint(name) is None}
    stored = {id(probe): key for key, probe in source_layout(model, renamed).items()}
    keys = {name: stored.get(id(probe), name) for name, probe in alone.items()}
    return {
        name.removesuffix(".weight"): (key if key.endswith(".weight") else name).removesuffix(".weight")
        for name, key in keys.items()
    }


def _together(
    model: nn.Module, tensors: Mapping[str, Tensor], fixed: Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors whose rules find all that they need, and those that must stay."""
    joint = _joint(model)
    broken = {joint(name) for name in fixed} - {None}
    apart = {name: tensor for name, tensor in tensors.items() if broken and joint(name) in broken}
    return {name: tensor for name, tensor in tensors.items() if name not in apart}, apart


def _joint(model: nn.Module) -> Callable[[str], str | None]:
    """What a tensor of the model is put together with, or cut into, in its checkpoints; None: it is alone."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import apply_converters

    transforms = getattr(model, "_weight_conversions", None)
    if transforms is None:
        transforms = get_model_conversion_mapping(model, add_legacy=False)
    converters = _sorted([t.reverse_transform() for t in reversed(transforms)]).converters

    def joint(name: str) -> str | None:
        renamed, pattern = apply_converters(name, converters)
        return None if pattern is None else str(renamed)

    return joint


def _natural(key: str) -> list[tuple[int, str]]:
    """Sorts experts.2 before experts.10: rules stack what they are given in order."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]
