"""AWQ checkpoints, as AutoAWQ and transformers write them: `quant_method: awq`, versions "gemm" and "gemv".

Per layer, gemm: `qweight` int32 [K, N / 8], eight columns of N in a word; `qzeros` int32 [G, N / 8] likewise;
`scales` [G, N]. gemv: `qweight` int32 [N, K / 8], `qzeros` int32 [N, ceil(G / 8)] and `scales` [N, G], whose
rows are padded. 4 bits, never in activation order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from qcore.checkpoints.bits import unpack_int32
from qcore.checkpoints.container import (
    Container,
    Header,
    QWeightInfo,
    StoredLayer,
    expect_matrix,
    expect_parts,
    expect_plain_inputs,
    naming,
)
from qcore.checkpoints.fields import BOOL, INT, TEXT, given
from qcore.checkpoints.words import (
    FLOATS,
    Words,
    awq_columns,
    awq_words,
    check_devices,
    check_tensor,
    groups_of,
    needed_zeros,
    words_for,
)
from qcore.formats import Format, IntGroup
from qcore.qweight import QWeight

__all__ = ["Awq", "parse"]

_PARTS = ("qweight", "qzeros", "scales")


class Awq(Container):
    """4 bits; "gemm" read and written, "gemv" read."""

    method = "awq"
    twin = "quant_config.json"
    marks = frozenset(("qweight", "qzeros"))
    fields = MappingProxyType({"bits": INT, "group_size": INT, "version": TEXT, "zero_point": BOOL})

    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        bits, version = given(config, "bits", 4), _version(config)
        if bits != 4:
            raise ValueError(f"quantization_config.bits: expected 4, got {bits!r}")
        found: list[StoredLayer] = []
        seen: set[str] = set()
        zeros = ["qzeros"] if given(config, "zero_point", True) else []
        required, optional = ["qweight", "scales", *zeros], [] if zeros else ["qzeros"]
        for key in header:
            name, _, part = key.rpartition(".")
            if part in ("qweight", "qzeros") and name not in seen:
                seen.add(name)
                expect_parts(name, header, required, optional, ("weight", "g_idx", *_PARTS))
                parts = tuple(f"{name}.{part}" for part in _PARTS if f"{name}.{part}" in header)
                rows, words = expect_matrix(f"{name}.qweight", header)
                shape = (words * 8, rows) if version == "gemm" else (rows, words * 8)
                with naming(name):
                    format = IntGroup(4, f"{name}.qzeros" not in header, _group_size(config))
                    found.append(StoredLayer(name, format, shape, parts))
        return found

    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        given = {part: tensors.get(f"{layer.name}.{part}") for part in _PARTS}
        symmetric, read = given["qzeros"] is None, parse if _version(config) == "gemm" else parse_gemv
        with naming(layer.name, _PARTS):
            words = read(**given, group_size=_group_size(config), symmetric=symmetric)  # type: ignore[arg-type]
            return words.qweight()

    def from_twin(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """AutoAWQ has words of its own there."""
        words = {"q_group_size": "group_size", "w_bit": "bits"}
        return super().from_twin({words.get(key, key): value for key, value in content.items()})

    def to_twin(self, config: Mapping[str, Any]) -> dict[str, Any]:
        given = {"q_group_size": config["group_size"], "w_bit": config["bits"]}
        return {"zero_point": config["zero_point"], **given, "version": config["version"]}

    def why_not(self, format: Format, k: int | None = None) -> str | None:
        scaled = format.scaled
        if scaled is None or scaled != IntGroup(4, scaled.symmetric, scaled.group_size):
            return f"{self.method} has no format {format}; it stores integers of 4 bits in groups"
        width = scaled.group_size
        if k is not None and width != -1 and k % width:
            return f"group_size: expected a divisor of K ({k}), got {width}"
        return None

    def write(self, name: str, weight: QWeight) -> dict[str, Tensor]:
        """With zero points; of symmetric weights all are 8."""
        expect_plain_inputs(name, weight)
        if (n := weight.shape[0]) % 8:
            raise ValueError(f"{name}.weight: expected a multiple of 8 rows for {self.method}, got {n}")
        scales, zeros = weight.tensors["scales"].T.contiguous(), weight.tensors.get("zeros")
        center = torch.full_like(scales, 8, dtype=torch.uint8)
        written = {
            "qweight": awq_words(weight.tensors["codes"].T.contiguous()),
            "qzeros": awq_words(center if zeros is None else zeros.T.contiguous()),
            "scales": scales,
        }
        return {f"{name}.{part}": tensor for part, tensor in written.items()}

    def config(self, weights: Mapping[str, QWeightInfo], linears: Collection[str]) -> dict[str, Any]:
        sizes = {w.format.scaled.group_size for w in weights.values() if w.format.scaled is not None}
        if len(sizes) != 1:
            raise ValueError(f"{self.method}: expected one group_size for all layers, got {sorted(sizes)}")
        return {
            "quant_method": self.method,
            "bits": 4,
            "group_size": sizes.pop(),
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": [name for name in linears if name not in weights],
        }


def _version(config: Mapping[str, Any]) -> str:
    """transformers writes it in small letters, AutoAWQ in capitals."""
    version = str(given(config, "version", "gemm")).lower()
    if version not in ("gemm", "gemv"):
        raise ValueError(f"quantization_config.version: expected 'gemm' or 'gemv', got {version!r}")
    return version


def _group_size(config: Mapping[str, Any]) -> int:
    return int(given(config, "group_size", 128))


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


def parse_gemv(
    qweight: Tensor,
    qzeros: Tensor | None,
    scales: Tensor,
    *,
    group_size: int,
    symmetric: bool | None = None,
) -> Words:
    """One layer of the version "gemv"; its groups are padded to a width of the kernel's own."""
    check_tensor("qweight", qweight, torch.int32, (None, None))
    n, k = qweight.shape[0], qweight.shape[1] * 8
    _, groups = groups_of(k, group_size)
    each = {32: 4, 64: 2}.get(group_size, 1)  # its kernel wants as many words of zero points at once
    padded = 8 * each * -(-groups // (8 * each))
    check_tensor("scales", scales, FLOATS, (n, padded))
    check_devices(qweight=qweight, qzeros=qzeros, scales=scales)
    zeros = None
    if qzeros is not None:
        check_tensor("qzeros", qzeros, torch.int32, (n, words_for(padded, 4)))
        zeros = unpack_int32(qzeros, 4, padded)[:, :groups]
    zeros = needed_zeros("qzeros", zeros, 4, symmetric)
    return Words(qweight, "compressed_tensors", (n, k), 4, group_size, scales[:, :groups], zeros)
