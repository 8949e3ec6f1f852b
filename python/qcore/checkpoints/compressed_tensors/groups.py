"""`config_groups` and `ignore` of a configuration: which of the groups a layer is in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qcore.checkpoints.fields import BOOL, INT, NAMES, OBJECT, TEXT, Kind, expect_fields, expect_regex

__all__ = ["Group", "Groups", "arguments"]

Group = Mapping[str, Any]

_GROUP = {
    "targets": NAMES, "weights": OBJECT, "input_activations": OBJECT, "output_activations": OBJECT,
    "format": TEXT,
}  # fmt: skip
_ARGUMENTS = {
    "num_bits": INT,
    "type": TEXT,
    "symmetric": BOOL,
    "strategy": TEXT,
    "group_size": INT,
    "dynamic": Kind("true, false or a text", lambda value: isinstance(value, (bool, str))),
    "actorder": Kind("a text or true or false", lambda value: isinstance(value, (bool, str))),
    "block_structure": Kind(
        'two sizes, or a text as "128x128"',
        lambda value: (
            bool(re.fullmatch(r"\d+x\d+", value))
            if isinstance(value, str)
            else isinstance(value, list) and len(value) == 2 and all(map(INT.fits, value))
        ),
    ),
}
# Classes of layers that a header does not tell from one another: in this order.
_CLASSES = ("Linear", "Embedding")


class Groups:
    """The groups of a configuration, each checked: by name."""

    def __init__(self, config: Mapping[str, Any], formats: tuple[str, ...]) -> None:
        """
        Args:
            formats: what a group may say of how it is stored.
        """
        self._ignored: list[str] = config.get("ignore") or []
        for pattern in self._ignored:
            _expect_pattern("quantization_config.ignore", pattern)
        groups = config.get("config_groups") or {}
        if not isinstance(groups, Mapping):
            raise ValueError(f"quantization_config.config_groups: expected an object, got {groups!r}")
        self._groups: dict[str, Group] = {}
        for name, group in groups.items():
            where = f"quantization_config.config_groups.{name}"
            if not isinstance(group, Mapping):
                raise ValueError(f"{where}: expected an object, got {group!r}")
            expect_fields(where, group, _GROUP)
            if not group.get("targets"):
                raise ValueError(f"{where}.targets: expected names of layers, got {group.get('targets')!r}")
            for target in group["targets"]:
                _expect_pattern(f"{where}.targets", target)
            if group.get("format") not in (None, *formats):
                known = ", ".join(map(repr, formats))
                raise ValueError(f"{where}.format: expected one of {known}, got {group['format']!r}")
            for which in ("weights", "input_activations"):
                expect_fields(f"{where}.{which}", group.get(which) or {}, _ARGUMENTS)
            self._groups[name] = group

    def of(self, layer: str) -> Group:
        """The group that targets a layer: by its name, or else by a regular expression, by its class.

        Raises:
            ValueError: none of them does, or the layer is to be ignored, or its outputs are rounded too.
        """
        if pattern := next((p for p in self._ignored if _fits(layer, p)), None):
            raise ValueError(f"{layer}: is quantized, but quantization_config.ignore has {pattern!r}")
        of_targets = [(target, name) for name, group in self._groups.items() for target in group["targets"]]
        # Of several expressions that fit, compressed-tensors takes the first in the order of the alphabet.
        expressions = sorted(target for target in of_targets if target[0].startswith("re:"))
        names = [name for target, name in of_targets if target == layer]
        names += [name for target, name in expressions if _fits(layer, target)]
        names += [name for kind in _CLASSES for target, name in of_targets if target == kind]
        if not names:
            raise ValueError(f"quantization_config.config_groups: none of them targets {layer}")
        group = self._groups[names[0]]
        if group.get("output_activations"):
            raise ValueError(
                f"quantization_config.config_groups.{names[0]}.output_activations: quantized outputs are not "
                f"supported, {layer} has them"
            )
        return group


def _expect_pattern(where: str, pattern: str) -> None:
    if pattern.startswith("re:"):
        expect_regex(where, pattern[3:])


def _fits(layer: str, pattern: str) -> bool:
    return bool(re.match(pattern[3:], layer)) if pattern.startswith("re:") else pattern == layer


def arguments(group: Group, which: str) -> dict[str, Any]:
    """What a group says of weights or inputs, without what it leaves open, and with the strategy that
    compressed-tensors lets follow from the group size; empty if it says nothing."""
    if group.get(which) is None:
        return {}
    args = {key: value for key, value in group[which].items() if value is not None}
    size = args.get("group_size")
    args.setdefault("strategy", "tensor" if size is None else "channel" if size == -1 else "group")
    return args
