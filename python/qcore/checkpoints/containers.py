"""The list of containers, and which of them a checkpoint is in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from qcore.checkpoints.auto_round import AutoRound
from qcore.checkpoints.awq import Awq
from qcore.checkpoints.bitsandbytes import BitsAndBytes
from qcore.checkpoints.compressed_tensors import CompressedTensors
from qcore.checkpoints.container import Container
from qcore.checkpoints.fbgemm_fp8 import FbgemmFp8
from qcore.checkpoints.fields import expect_fields
from qcore.checkpoints.fp8 import FineGrainedFp8
from qcore.checkpoints.gptq import Gptq
from qcore.checkpoints.hqq import Hqq
from qcore.checkpoints.modelopt import ModelOpt
from qcore.checkpoints.torchao import TorchAo

__all__ = [
    "CONTAINERS",
    "TWINS",
    "WRITTEN",
    "container_called",
    "container_of",
    "expect_plain",
    "marked",
    "quantization_of",
]

CONTAINERS: tuple[Container, ...] = (
    CompressedTensors(),
    Gptq(),
    Awq(),
    FineGrainedFp8(),
    FbgemmFp8(),
    ModelOpt(),
    BitsAndBytes(),
    Hqq(),
    AutoRound(),
    TorchAo(),
)

# What folders are written in.
WRITTEN: Container = CONTAINERS[0]

# Files beside config.json that speak of quantized layers.
TWINS = frozenset(container.twin for container in CONTAINERS if container.twin is not None)
# What both of them say must be the same in these.
_DECIDING = ("quant_method", "quant_algo", "bits", "group_size", "sym", "checkpoint_format")


def quantization_of(
    config: Mapping[str, Any], names: Collection[str], beside: Callable[[str], Mapping[str, Any] | None]
) -> Mapping[str, Any]:
    """The `quantization_config` of a checkpoint, empty if there is none.

    Args:
        config: config.json.
        names: of the tensors.
        beside: the content of a JSON file of the folder, None if it is not there.

    Raises:
        ValueError: config.json and a file beside it that contradict each other, naming file and key.
    """
    if config.get("quantization_config"):
        stored = config["quantization_config"]
    else:  # early versions of compressed-tensors had another key for it, and no quant_method
        stored = config.get("compression_config") or {}
        if isinstance(stored, dict) and stored:
            stored = {"quant_method": "compressed-tensors", **stored}
    if not isinstance(stored, dict):
        raise ValueError(f"quantization_config: expected an object, got {type(stored).__name__}")
    parts = {name.rpartition(".")[2] for name in names}
    for container in CONTAINERS:
        content = None if container.twin is None else beside(container.twin)
        if content is None or not parts & container.marks:
            continue
        twin = container.from_twin(content)
        if not stored:
            return twin
        for key in _DECIDING if container.recognises(stored, names) else ():
            if key in stored and twin.get(key, stored[key]) != stored[key]:
                raise ValueError(
                    f"{container.twin}: {key}: is {twin[key]!r}, but {stored[key]!r} in config.json"
                )
    return stored


def container_called(method: str) -> Container:
    """The container of a `quant_method`."""
    for container in CONTAINERS:
        if container.method == method:
            return container
    known = ", ".join(repr(container.method) for container in CONTAINERS)
    raise ValueError(f"container: expected one of {known}, got {method!r}")


def container_of(config: Mapping[str, Any], names: Collection[str]) -> Container:
    """Whose `quantization_config`, and tensors, these are.

    Raises:
        ValueError: nobody's, or a field that is not of its kind, by name.
    """
    for container in CONTAINERS:
        if container.recognises(config, names):
            expect_fields("quantization_config", config, container.fields)
            return container
    known = ", ".join(repr(container.method) for container in CONTAINERS)
    raise ValueError(
        f"quantization_config.quant_method: expected one of {known}, got {config.get('quant_method')!r}"
    )


def marked(checkpoint: Iterable[str]) -> list[str]:
    """Keys that are named as parts of quantized layers are."""
    marks = frozenset().union(*(container.marks for container in CONTAINERS))
    return [key for key in checkpoint if key.rpartition(".")[2] in marks]


def expect_plain(checkpoint: Iterable[str], names: Collection[str]) -> None:
    """Raises if a checkpoint without a `quantization_config` holds quantized layers all the same, as one does
    that transformers saved of an older qcore's model.

    Args:
        names: of the model's own tensors.
    """
    for key in marked(checkpoint):
        if key not in names:
            raise ValueError(
                f"{key}: belongs to a quantized layer, but config.json has no quantization_config that says "
                f"how it is stored (saved by save_pretrained of an older qcore? quantize the original again)"
            )
