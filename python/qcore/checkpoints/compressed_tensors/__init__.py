"""compressed-tensors: what vLLM, SGLang and transformers read. No package needed.

`packed` stores integer codes of 2 to 8 bits under groups (`pack-quantized`), `plain` int8 and e4m3 codes
(`int-quantized`, `float-quantized`), `unpacked` reads integer codes that are stored one by one,
`config` says in config.json which layer is which.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from qcore.checkpoints.compressed_tensors import packed, plain, unpacked
from qcore.checkpoints.compressed_tensors.config import METHOD, dequantized, quantization_config, read_formats
from qcore.checkpoints.container import Container, Header, QWeightInfo, StoredLayer, expect_parts
from qcore.checkpoints.fields import NAMES, OBJECT, TEXT
from qcore.formats import BLOCK, ELEMENTS, ROW, TENSOR, Format, Scales
from qcore.formats.activations import TOKEN_BLOCK
from qcore.qweight import QWeight

__all__ = ["CompressedTensors"]

# Of an input that is divided by a vector, which compressed-tensors itself cannot express.
_DIVISOR = "act_scale"
_PARTS = tuple(dict.fromkeys((*packed.PARTS, *plain.PARTS, _DIVISOR)))


class CompressedTensors(Container):
    """Read and written."""

    method = METHOD
    marks = frozenset(("weight_packed", "weight_scale", "weight_shape", "weight_zero_point"))

    fields = MappingProxyType(
        {"format": TEXT, "ignore": NAMES, "sparsity_config": OBJECT, "transform_config": OBJECT}
    )

    stores_transposed = True
    stores_tables = True

    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        formats = read_formats(config, header)
        for name, format in formats.items():
            required, optional = _parts_of(name, format, header)
            expect_parts(name, header, required, [*optional, _DIVISOR], _PARTS)
        return [StoredLayer(n, f, _shape(n, header), _parts(n, header)) for n, f in formats.items()]

    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        scaled = layer.format.scaled
        assert scaled is not None  # see read_formats
        if not scaled.elements.affine:
            read = _PLAIN.from_tensors
        else:
            is_packed = f"{layer.name}.weight_packed" in tensors
            read = _PACKED.from_tensors if is_packed else unpacked.from_tensors
        weight = read(layer.name, tensors, layer.format)
        return weight.with_inputs(divisor=tensors.get(f"{layer.name}.{_DIVISOR}"))

    def why_not(self, format: Format, k: int | None = None) -> str | None:
        form = _form_of(format)
        if form is None:
            instead = "; a GGUF file stores it" if format.scaled is None else ""
            return f"{METHOD} has no format {format.name}{instead}"
        return None if k is None else form.why_not(format, k)

    def write(self, name: str, weight: QWeight) -> dict[str, Tensor]:
        form = _form_of(weight.format)
        assert form is not None, weight.format  # see why_not
        tensors = form.to_tensors(name, weight)
        if weight.inputs.divisor is not None:
            tensors[f"{name}.{_DIVISOR}"] = weight.inputs.divisor
        return tensors

    def for_sentence_encoders(self, config: dict[str, Any]) -> dict[str, Any]:
        return dequantized(config)

    def config(self, weights: Mapping[str, QWeightInfo], linears: Collection[str]) -> dict[str, Any]:
        return quantization_config(weights, linears)


class _Form(NamedTuple):
    """One of the two ways in which layers are stored."""

    parts: Callable[[Format], tuple[list[str], list[str]]]
    why_not: Callable[[Format, int], str | None]
    to_tensors: Callable[[str, QWeight], dict[str, Tensor]]
    from_tensors: Callable[[str, Mapping[str, Tensor], Format], QWeight]


_PACKED = _Form(packed.parts, packed.why_not, packed.to_tensors, packed.from_tensors)
_PLAIN = _Form(plain.parts, plain.why_not, plain.to_tensors, plain.from_tensors)


def _form_of(format: Format) -> _Form | None:
    """What stores a format; None if nothing does."""
    scaled = format.scaled
    if scaled is None or scaled.scales != Scales():
        return None
    inputs, granularity = scaled.activations, scaled.granularity
    if scaled.elements.affine:
        return _PACKED if inputs is None and granularity.rows == 1 else None
    if scaled.elements == ELEMENTS["s8"]:
        return _PLAIN if granularity == ROW and inputs is not None and inputs.is_integer else None
    if scaled.elements != ELEMENTS["e4m3"] or (inputs is not None and inputs.is_integer):
        return None
    if inputs is not None and inputs.granularity == TOKEN_BLOCK:
        return _PLAIN if granularity == BLOCK else None
    return _PLAIN if granularity in (ROW, TENSOR) else None


def _parts_of(name: str, format: Format, header: Header) -> tuple[list[str], list[str]]:
    """The parts that a layer must have, and those that it may have."""
    form = _form_of(format)
    assert form is not None, format  # see read_formats
    as_words = any(f"{name}.{part}" in header for part in ("weight_packed", "weight_shape", "weight_g_idx"))
    if form is _PACKED and f"{name}.weight" in header and not as_words:
        return unpacked.parts(format)
    return form.parts(format)


def _parts(name: str, header: Header) -> tuple[str, ...]:
    return tuple(f"{name}.{part}" for part in _PARTS if f"{name}.{part}" in header)


def _shape(name: str, header: Header) -> tuple[int, ...]:
    if f"{name}.weight_shape" not in header:
        return header.shape(f"{name}.weight")
    shape = header.tensor(f"{name}.weight_shape")
    numbers = not shape.is_floating_point() and not shape.is_complex()
    if shape.shape != (2,) or not numbers or int(shape.min()) < 1:
        raise ValueError(f"{name}.weight_shape: expected two sizes, got {shape.dtype} {list(shape.shape)}")
    return int(shape[0]), int(shape[1])
