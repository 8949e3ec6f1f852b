"""compressed-tensors: what vLLM, SGLang and transformers read. No package needed.

`packed` stores codes of `IntGroup` (`pack-quantized`), `plain` those of `Int8` and `Float8` (`int-quantized`,
`float-quantized`), `config` says in config.json which layer is which.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from torch import Tensor

from qcore.formats import Float8, Format, Int8, IntGroup
from qcore.io.checkpoint import Checkpoint
from qcore.io.compressed_tensors import packed, plain
from qcore.io.compressed_tensors.config import quantization_config, read_formats
from qcore.qweight import QWeight

__all__ = [
    "check_exportable",
    "from_tensors",
    "is_exportable",
    "parts",
    "quantization_config",
    "read_formats",
    "shape_of",
    "to_tensors",
]

_PARTS = tuple(dict.fromkeys((*packed.PARTS, *plain.PARTS, "act_scale")))


def is_exportable(format: Format) -> bool:
    """Whether compressed-tensors can express the format."""
    return isinstance(format, (IntGroup, Int8, Float8))


def check_exportable(name: str, k: int, format: Format) -> None:
    """Raises if compressed-tensors cannot express the format for a weight of K columns."""
    if not is_exportable(format):
        raise ValueError(
            f"{name}.weight: compressed-tensors has no format {format.name}; a GGUF file stores it"
        )
    if isinstance(format, IntGroup):
        packed.check_exportable(name, k, format)
    elif isinstance(format, Float8):
        plain.check_exportable(name, k, format)


def parts(name: str, tensors: Container[str]) -> list[str]:
    """Names of the tensors that store the quantized layer `name`, among those given."""
    return [f"{name}.{part}" for part in _PARTS if f"{name}.{part}" in tensors]


def shape_of(name: str, checkpoint: Checkpoint) -> tuple[int, ...]:
    """The shape [N, K] of a quantized layer's weight."""
    if f"{name}.weight_shape" in checkpoint:
        return tuple(int(size) for size in checkpoint.tensor(f"{name}.weight_shape"))
    return checkpoint.shape(f"{name}.weight")


def to_tensors(name: str, weight: QWeight) -> dict[str, Tensor]:
    """The stored tensors of one layer."""
    check_exportable(name, weight.shape[1], weight.format)
    is_packed = isinstance(weight.format, IntGroup)
    tensors = packed.to_tensors(name, weight) if is_packed else plain.to_tensors(name, weight)
    if weight.act_scale is not None:
        tensors[f"{name}.act_scale"] = weight.act_scale
    return tensors


def from_tensors(name: str, tensors: Mapping[str, Tensor], format: Format) -> QWeight:
    """The layer's weight, from the tensors named by `parts`."""
    if isinstance(format, IntGroup):
        return packed.from_tensors(name, tensors, format)
    assert isinstance(format, (Int8, Float8))  # see read_formats
    return plain.from_tensors(name, tensors, format)
