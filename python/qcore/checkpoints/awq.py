"""AWQ checkpoints, as AutoAWQ and transformers write them: `quant_method: awq`, version "gemm".

Per layer: `qweight` int32 [K, N / 8], eight columns of N in a word; `qzeros` int32 [G, N / 8] likewise;
`scales` [G, N]. 4 bits, never in activation order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qcore.checkpoints.container import Container, Header, StoredLayer, expect_matrix, expect_parts, naming
from qcore.checkpoints.words import (
    FLOATS,
    Words,
    awq_columns,
    check_devices,
    check_tensor,
    groups_of,
    needed_zeros,
)
from qcore.formats import IntGroup
from qcore.qweight import QWeight

__all__ = ["Awq", "parse"]

_PARTS = ("qweight", "qzeros", "scales")


class Awq(Container):
    """4 bits with zero points, in the order of the version "gemm"."""

    method = "awq"
    marks = frozenset(("qweight", "qzeros"))

    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        # transformers writes the version in small letters, AutoAWQ in capitals.
        given = {"bits": config.get("bits", 4), "version": str(config.get("version", "gemm")).lower()}
        for key, expected in (("bits", 4), ("version", "gemm")):
            if given[key] != expected:
                raise ValueError(f"quantization_config.{key}: expected {expected!r}, got {given[key]!r}")
        found: list[StoredLayer] = []
        seen: set[str] = set()
        zeros = ["qzeros"] if config.get("zero_point", True) else []
        required, optional = ["qweight", "scales", *zeros], [] if zeros else ["qzeros"]
        for key in header:
            name, _, part = key.rpartition(".")
            if part in ("qweight", "qzeros") and name not in seen:
                seen.add(name)
                expect_parts(name, header, required, optional, ("weight", "g_idx", *_PARTS))
                parts = tuple(f"{name}.{part}" for part in _PARTS if f"{name}.{part}" in header)
                k, words = expect_matrix(f"{name}.qweight", header)
                with naming(name):
                    format = IntGroup(4, f"{name}.qzeros" not in header, _group_size(config))
                    found.append(StoredLayer(name, format, (words * 8, k), parts))
        return found

    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        given = {part: tensors.get(f"{layer.name}.{part}") for part in _PARTS}
        symmetric = given["qzeros"] is None
        with naming(layer.name, _PARTS):
            words = parse(**given, group_size=_group_size(config), symmetric=symmetric)  # type: ignore[arg-type]
            return words.qweight()


def _group_size(config: Mapping[str, Any]) -> int:
    return int(config.get("group_size", 128))


def parse(
    qweight: Tensor,
    qzeros: Tensor | None,
    scales: Tensor,
    *,
    group_size: int,
    symmetric: bool | None = None,
) -> Words:
    """One layer; see `qcore.repack.from_awq` for the arguments."""
    check_tensor("qweight", qweight, torch.int32, (None, None))
    k, n = qweight.shape[0], qweight.shape[1] * 8
    _, groups = groups_of(k, group_size)
    check_tensor("scales", scales, FLOATS, (groups, n))
    check_devices(qweight=qweight, qzeros=qzeros, scales=scales)
    zeros = None
    if qzeros is not None:
        check_tensor("qzeros", qzeros, torch.int32, (groups, n // 8))
        zeros = awq_columns(qzeros, n)
    zeros = needed_zeros("qzeros", zeros, 4, symmetric)
    zeros = None if zeros is None else zeros.t()
    return Words(qweight, "awq", (n, k), 4, group_size, scales.t(), zeros)
