"""GPTQ checkpoints, as GPTQModel, AutoGPTQ and transformers write them: `quant_method: gptq`.

Per layer: `qweight` int32 [ceil(K * bits / 32), N], codes packed along K; `qzeros` int32
[G, ceil(N * bits / 32)], packed along N; `scales` [G, N]; `g_idx` [K], the group of each column. In
`checkpoint_format: gptq` zero points are stored less one, in `gptq_v2` as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from qcore.checkpoints.bits import pack_int32, unpack_int32
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
from qcore.checkpoints.fields import BOOL, INT, RULES, TEXT, expect_fields, expect_regex, given
from qcore.checkpoints.words import (
    FLOATS,
    Words,
    check_bits,
    check_devices,
    check_tensor,
    groups_of,
    needed_zeros,
    permutation_of,
    stored_order,
    words_for,
)
from qcore.formats import Format, IntGroup, ScaledFormat
from qcore.qweight import QWeight

__all__ = ["Gptq", "parse"]

_PARTS = ("qweight", "qzeros", "scales", "g_idx")
# What a rule of `dynamic` may say of a layer, and what the configuration says of all.
_SETTINGS = {"bits": 4, "group_size": 128, "sym": True}
_KINDS = {"bits": INT, "group_size": INT, "sym": BOOL}


class Gptq(Container):
    """2, 3, 4 and 8 bits, both versions, in activation order or not, symmetric or not; read and written."""

    method = "gptq"
    twin = "quantize_config.json"
    marks = frozenset(("qweight", "qzeros"))
    fields = _KINDS | {"desc_act": BOOL, "checkpoint_format": TEXT, "pack_dtype": TEXT, "dynamic": RULES}

    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        _version(config)
        found: list[StoredLayer] = []
        seen: set[str] = set()
        for key in header:
            name, _, part = key.rpartition(".")
            if part not in ("qweight", "qzeros", "g_idx") or name in seen:
                continue
            seen.add(name)
            settings = _settings(config, name)
            zeros = [] if settings["sym"] else ["qzeros"]
            # In activation order the groups are nothing without the list of their columns.
            order = ["g_idx"] if config.get("desc_act") and settings["group_size"] != -1 else []
            required, known = ["qweight", "scales", *zeros, *order], ("weight", *_PARTS)
            expect_parts(name, header, required, [p for p in _PARTS if p not in required], known)
            parts = tuple(f"{name}.{part}" for part in _PARTS if f"{name}.{part}" in header)
            with naming(name):
                format = IntGroup(settings["bits"], bool(settings["sym"]), settings["group_size"])
                found.append(StoredLayer(name, format, _shape(name, header, format.bits), parts))
        return found

    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        given = {part: tensors.get(f"{layer.name}.{part}") for part in _PARTS}
        settings = _settings(config, layer.name)
        with naming(layer.name, _PARTS):
            return parse(
                **given,  # type: ignore[arg-type]
                bits=settings["bits"],
                group_size=settings["group_size"],
                checkpoint_format=_version(config),
                symmetric=bool(settings["sym"]),
                k=layer.shape[1],
            ).qweight()

    def why_not(self, format: Format, k: int | None = None) -> str | None:
        scaled = format.scaled
        if scaled is None or scaled != _plain(scaled):
            return f"{self.method} has no format {format}; it stores integers of 2, 3, 4 and 8 bits in groups"
        width = scaled.group_size
        if k is not None and (k % 32 or (width != -1 and k % width)):
            return (
                f"group_size: expected a divisor of K, which must be a multiple of 32, got {width}, K = {k}"
            )
        return None

    def write(self, name: str, weight: QWeight) -> dict[str, Tensor]:
        expect_plain_inputs(name, weight, permuted=True)
        scaled = weight.format.scaled
        assert scaled is not None  # see why_not
        n, bits = weight.shape[0], scaled.bits
        if n % 32:
            raise ValueError(
                f"{name}.weight: expected a multiple of 32 rows, as {self.method} packs them, got {n}"
            )
        codes, g_idx = stored_order(weight)
        scales, zeros = weight.tensors["scales"].T.contiguous(), weight.tensors.get("zeros")
        if zeros is None:  # version 1: less one
            stored = torch.full_like(scales, (1 << (bits - 1)) - 1, dtype=torch.uint8)
        else:
            stored = zeros.T.contiguous()
        written = {
            "qweight": pack_int32(codes, bits).T.contiguous(),
            "qzeros": pack_int32(stored, bits),
            "scales": scales,
            "g_idx": g_idx,
        }
        return {f"{name}.{part}": tensor for part, tensor in written.items()}

    def config(self, weights: Mapping[str, QWeightInfo], linears: Collection[str]) -> dict[str, Any]:
        """Symmetric weights go by version 1, which every reader knows; with zero points only version 2 can
        say 0 so that all readers agree."""
        formats = [_plain(weight.format) for weight in weights.values()]
        if len({format.symmetric for format in formats}) != 1:
            raise ValueError(
                f"{self.method}: expected layers with zero points or without, got both, and they need "
                f"different versions of it"
            )
        usual = max(formats, key=formats.count)
        rules: dict[str, dict[str, Any]] = {
            f"-:^{re.escape(name)}$": {} for name in linears if name not in weights
        }
        for (name, weight), format in zip(weights.items(), formats, strict=True):
            if format != usual or weight.permuted != any(w.permuted for w in weights.values()):
                rules[f"+:^{re.escape(name)}$"] = {
                    "bits": format.bits, "group_size": format.group_size, "desc_act": weight.permuted,
                }  # fmt: skip
        return {
            "quant_method": self.method,
            "bits": usual.bits,
            "group_size": usual.group_size,
            "sym": usual.symmetric,
            "desc_act": any(weight.permuted for weight in weights.values()),
            "lm_head": any(name.endswith("lm_head") for name in weights),
            "checkpoint_format": "gptq" if usual.symmetric else "gptq_v2",
            "pack_dtype": "int32",
            "dynamic": rules,
        }


def _plain(format: Format) -> ScaledFormat:
    """The integers in groups that a format is, or would be."""
    scaled = format.scaled
    assert scaled is not None
    bits = scaled.bits if scaled.bits in (2, 3, 4, 8) else 4
    return IntGroup(bits, scaled.symmetric, scaled.group_size)


def _version(config: Mapping[str, Any]) -> str:
    """Absent, and None as optimum writes it, mean the first one."""
    version = str(config.get("checkpoint_format") or "gptq")
    if version not in ("gptq", "gptq_v2"):
        raise ValueError(
            f"quantization_config.checkpoint_format: expected 'gptq' or 'gptq_v2', got {version!r}"
        )
    return version


def _settings(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Bits, group size and symmetry of a layer: the configuration's, as the first rule of `dynamic` whose
    expression fits its name changes them (after "+:", or after nothing)."""
    settings = {key: given(config, key, default) for key, default in _SETTINGS.items()}
    for pattern, change in (config.get("dynamic") or {}).items():
        where = f"quantization_config.dynamic.{pattern}"
        expect_regex(where, pattern[2:] if pattern.startswith(("-:", "+:")) else pattern)
        expect_fields(where, change, _KINDS)
        if pattern.startswith("-:"):
            if re.match(pattern[2:], name):
                raise ValueError(f"{name}: is quantized, but quantization_config.dynamic excludes it")
        elif re.match(pattern.removeprefix("+:"), name):
            return {key: given(change, key, value) for key, value in settings.items()}
    return settings


def _shape(name: str, header: Header, bits: int) -> tuple[int, int]:
    rows, n = expect_matrix(f"{name}.qweight", header)
    if f"{name}.g_idx" in header:
        return n, header.shape(f"{name}.g_idx")[0]
    return n, rows * 32 // bits


def parse(
    qweight: Tensor,
    qzeros: Tensor | None,
    scales: Tensor,
    g_idx: Tensor | None = None,
    *,
    bits: int,
    group_size: int,
    checkpoint_format: str = "gptq",
    symmetric: bool | None = None,
    k: int | None = None,
) -> Words:
    """One layer; see `qcore.repack.from_gptq` for the arguments."""
    check_bits(bits)
    check_tensor("qweight", qweight, torch.int32, (None, None))
    if checkpoint_format not in ("gptq", "gptq_v2"):
        raise ValueError(f"checkpoint_format: expected gptq or gptq_v2, got {checkpoint_format!r}")
    n = qweight.shape[1]
    if k is None:
        k = qweight.shape[0] * 32 // bits if g_idx is None else g_idx.numel()
    width, groups = groups_of(k, group_size)
    check_tensor("qweight", qweight, torch.int32, (words_for(k, bits), n))
    zeros = None
    if qzeros is not None:
        check_tensor("qzeros", qzeros, torch.int32, (groups, words_for(n, bits)))
        zeros = (_zeros_v1 if checkpoint_format == "gptq" else unpack_int32)(qzeros, bits, n)
    elif not symmetric:
        raise ValueError("qzeros: missing, and the weight is not said to be symmetric")
    check_tensor("scales", scales, FLOATS, (groups, n))
    check_devices(qweight=qweight, qzeros=qzeros, scales=scales, g_idx=g_idx)
    zeros = needed_zeros("qzeros", zeros, bits, symmetric)
    return Words(
        qweight,
        "gptq",
        (n, k),
        bits,
        group_size,
        scales.t(),
        None if zeros is None else zeros.t(),
        permutation_of("g_idx", g_idx, k, width),
    )


# Of each word, one in every code that it holds.
_ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}
# What GPTQModel before 7.0 took for that in the three words of 32 3-bit codes: the first and the last are
# swapped, so that it adds 4 to the first codes and 2 to the last ones.
_OLD_ONES_3 = (0x24924924, -0x6DB6DB6E, 0x49249249)


def _zeros_v1(qzeros: Tensor, bits: int, n: int) -> Tensor:
    """Zero points uint8 [G, N] of ``checkpoint_format: gptq``, which stores them less one.

    For 2, 4 and 8 bits the writer, GPTQModel's convert_gptq_v2_to_v1_format_module, subtracts from whole
    words, so a zero point of 0 borrows from the next code; its convert_gptq_v1_to_v2_format_module adds to
    whole words, and so does this: adding code by code would be wrong beside every 0. 3-bit codes straddle
    words. AutoGPTQ before 0.8 and GPTQModel from 7.0 on count each of them down by itself, modulo 8;
    versions between subtracted constants that are not ones, and only a symmetric weight shows that.
    """
    if bits != 3:
        return unpack_int32(qzeros + _ONES[bits], bits, n)
    zeros = (unpack_int32(qzeros, bits, n) + 1) & 7
    if bool((zeros == 4).all()):
        return zeros
    ones = torch.tensor(_OLD_ONES_3, dtype=torch.int32, device=qzeros.device)
    old = unpack_int32(qzeros + ones.repeat(-(-qzeros.shape[1] // 3))[: qzeros.shape[1]], bits, n)
    return old if bool((old == 4).all()) else zeros
