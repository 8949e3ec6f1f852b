"""The list of containers, and which of them a checkpoint is in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from qcore.checkpoints.awq import Awq
from qcore.checkpoints.compressed_tensors import CompressedTensors
from qcore.checkpoints.container import Container, Header
from qcore.checkpoints.gptq import Gptq

__all__ = ["CONTAINERS", "WRITTEN", "container_of", "expect_plain"]

CONTAINERS: tuple[Container, ...] = (CompressedTensors(), Gptq(), Awq())

# What folders are written in.
WRITTEN: Container = CONTAINERS[0]


def container_of(config: Mapping[str, Any], names: Collection[str]) -> Container:
    """Whose `quantization_config`, and tensors, these are."""
    for container in CONTAINERS:
        if container.recognises(config, names):
            return container
    known = ", ".join(repr(container.method) for container in CONTAINERS)
    raise ValueError(
        f"quantization_config.quant_method: expected one of {known}, got {config.get('quant_method')!r}"
    )


def expect_plain(checkpoint: Header, names: Collection[str]) -> None:
    """Raises if a checkpoint without a `quantization_config` holds quantized layers all the same, as one does
    that transformers saved of an older qcore's model.

    Args:
        names: of the model's own tensors.
    """
    marks = frozenset().union(*(container.marks for container in CONTAINERS))
    for key in checkpoint:
        if key.rpartition(".")[2] in marks and key not in names:
            raise ValueError(
                f"{key}: belongs to a quantized layer, but config.json has no quantization_config that says "
                f"how it is stored (saved by save_pretrained of an older qcore? quantize the original again)"
            )
