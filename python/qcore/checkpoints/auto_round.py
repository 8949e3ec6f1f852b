"""AutoRound's own configuration, `quant_method: auto-round`, of layers that are stored as GPTQ's or AWQ's.

`packing_format` says which: `auto_round:auto_gptq` (zero points less one), `auto_round` and
`auto_round:gptqmodel` (as they are), `auto_round:auto_awq`. `extra_config` says by name, or by a regular
expression, what is different for single layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from qcore.checkpoints.awq import Awq
from qcore.checkpoints.container import Container, Header, StoredLayer
from qcore.checkpoints.fields import BOOL, INT, NUMBER, RULES, TEXT, expect_fields, expect_regex, given
from qcore.checkpoints.gptq import Gptq
from qcore.qweight import QWeight

__all__ = ["AutoRound"]

_VERSIONS = {
    "auto_round:auto_gptq": "gptq",
    "auto_round:gptqmodel": "gptq_v2",
    "auto_round": "gptq_v2",
}
_AWQ = "auto_round:auto_awq"
# What either container needs to know of all layers, or of one.
_SETTINGS = ("bits", "group_size", "sym")
_KINDS = {"bits": INT, "group_size": INT, "sym": BOOL, "act_bits": NUMBER}


class AutoRound(Container):
    """2, 3, 4 and 8 bits, weights only; only read. What it writes in the form of others is theirs."""

    method = "auto-round"
    marks = Gptq.marks
    twin = "quantization_config.json"
    fields = MappingProxyType(
        {**_KINDS, "packing_format": TEXT, "extra_config": RULES, "act_bits": NUMBER, "data_type": TEXT}
    )

    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        stored, theirs = _stored(config)
        return stored.layers(theirs, header)

    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        stored, theirs = _stored(config)
        return stored.read(layer, theirs, tensors)


def _stored(config: Mapping[str, Any]) -> tuple[Container, dict[str, Any]]:
    """The container of the layers, and its configuration."""
    packing = given(config, "packing_format", "auto_round:auto_gptq")
    if packing not in (*_VERSIONS, _AWQ):
        known = ", ".join((*_VERSIONS, _AWQ))
        raise ValueError(f"quantization_config.packing_format: expected one of {known}, got {packing!r}")
    extra = config.get("extra_config") or {}
    _expect_weights_only("quantization_config", config)
    for name, rule in extra.items():
        where = f"quantization_config.extra_config.{name}"
        expect_fields(where, rule, _KINDS)
        expect_regex(where, _pattern(name))
        _expect_weights_only(where, rule)
    settings = {key: config[key] for key in _SETTINGS if config.get(key) is not None}
    if packing == _AWQ:
        for name, rule in extra.items():
            changed = [
                key
                for key in _SETTINGS
                if rule.get(key) is not None and rule[key] != settings.get(key, rule[key])
            ]
            if changed and given(rule, "bits", 4) < 16:
                raise ValueError(
                    f"quantization_config.extra_config.{name}.{changed[0]}: expected as in all layers of "
                    f"{_AWQ}, got {rule[changed[0]]!r}"
                )
        return Awq(), {**settings, "zero_point": not settings.get("sym", False), "version": "gemm"}
    rules = {
        f"{'-:' if given(rule, 'bits', 4) >= 16 else '+:'}{_pattern(name)}": rule
        for name, rule in extra.items()
    }
    return Gptq(), {**settings, "checkpoint_format": _VERSIONS[packing], "dynamic": rules}


def _pattern(name: str) -> str:
    """A regular expression for all of a name: it is one itself, or else a name."""
    return f"(?:{name if re.search(r'[*+?^$|(]', name) else re.escape(name)})$"


def _expect_weights_only(where: str, rule: Mapping[str, Any]) -> None:
    kind, inputs = str(given(rule, "data_type", "int")), rule.get("act_bits")
    if kind != "int":
        raise ValueError(f"{where}.data_type: expected 'int', got {kind!r}")
    if inputs is not None and inputs < 16:
        raise ValueError(f"{where}.act_bits: expected 16 or more, got {inputs}")
