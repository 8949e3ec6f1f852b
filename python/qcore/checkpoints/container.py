"""Containers: how a checkpoint in a folder spells quantized layers. Each is one file, or folder, beside this
one, and a line in `containers.py`; nobody else knows them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor

from qcore.checkpoints.fields import Kind
from qcore.formats import Format
from qcore.qweight import QWeight

__all__ = [
    "Container",
    "Header",
    "QWeightInfo",
    "StoredLayer",
    "expect_matrix",
    "expect_parts",
    "expect_plain_inputs",
    "naming",
]


class Header(Protocol):
    """What is known of a checkpoint's tensors before they are read: `qcore.checkpoints.files.Checkpoint`."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the headers of its files say besides."""
        ...

    def __contains__(self, name: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def tensor(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class StoredLayer:
    """A quantized layer of a checkpoint.

    Attributes:
        name: as the checkpoint spells it: "model.layers.0.mlp.up_proj".
        format: what it is stored in.
        shape: of its weight, [N, K].
        parts: the keys of its tensors.
    """

    name: str
    format: Format
    shape: tuple[int, ...]
    parts: tuple[str, ...]


class Container(ABC):
    """Reads, and maybe writes, the layers of a checkpoint with one kind of `quantization_config`."""

    method: str
    """The `quant_method` of its configurations."""

    marks: frozenset[str]
    """Last parts of keys by which a quantized layer is known: no model has a parameter of such a name."""

    twin: str | None = None
    """A file beside config.json that says the same; in folders of older writers it is the only one."""

    fields: Mapping[str, Kind] = MappingProxyType({})
    """Of what kind the fields of its configurations are, as far as it asks them."""

    stores_transposed = False
    """Whether it can say that the model keeps a weight as [K, N]."""

    stores_tables = False
    """Whether it has quantized embeddings."""

    def recognises(self, config: Mapping[str, Any], names: Collection[str]) -> bool:
        """Whether a checkpoint with this `quantization_config` and these tensors is one of its own."""
        return config.get("quant_method") == self.method

    @abstractmethod
    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        """The quantized layers of a checkpoint.

        Raises:
            ValueError: a configuration that cannot be served, naming its key or the layer.
        """

    @abstractmethod
    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        """A layer, from the tensors that its `parts` name: codes as they are, nothing is rounded.

        Raises:
            ValueError: tensors that are not what they should be, by name.
        """

    def from_twin(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The `quantization_config` that a twin stands for."""
        return {**content, "quant_method": self.method}

    def to_twin(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The content of the twin of a `quantization_config`."""
        return dict(config)

    def why_not(self, format: Format, k: int | None = None) -> str | None:
        """Why it cannot store a format, for rows of K columns if that is given; None if it can."""
        return f"{self.method} is only read, not written"

    def write(self, name: str, weight: QWeight) -> dict[str, Tensor]:
        """The tensors of a layer, by key."""
        raise NotImplementedError(self.why_not(weight.format))

    def for_sentence_encoders(self, config: dict[str, Any]) -> dict[str, Any]:
        """A configuration as sentence-transformers needs it, which calls models past their hooks."""
        return config

    def config(self, weights: Mapping[str, QWeightInfo], linears: Collection[str]) -> dict[str, Any]:
        """The `quantization_config` of config.json.

        Args:
            weights: what was written of each quantized layer.
            linears: names of all linear layers, quantized or not, in the model and in the checkpoint.
        """
        raise NotImplementedError(self.method)


@dataclass(frozen=True)
class QWeightInfo:
    """What a configuration says of a layer that was written.

    Attributes:
        divided: it has a divisor of its inputs.
        permuted: its columns are in activation order.
        transposed: its model keeps such weights as [K, N].
        table: it is an embedding's.
    """

    format: Format
    divided: bool = False
    permuted: bool = False
    transposed: bool = False
    table: bool = False

    @classmethod
    def of(cls, weight: QWeight, transposed: bool = False, table: bool = False) -> QWeightInfo:
        inputs = weight.inputs
        divided, permuted = inputs.divisor is not None, inputs.permutation is not None
        return cls(weight.format, divided, permuted, transposed, table)


def expect_plain_inputs(name: str, weight: QWeight, *, permuted: bool = False) -> None:
    """Raises if a layer does to its inputs what most containers cannot express.

    Args:
        permuted: this one has activation order.
    """
    if weight.inputs.divisor is not None:
        raise ValueError(f"{name}: divides its inputs by a vector, which this container cannot express")
    if weight.inputs.permutation is not None and not permuted:
        raise ValueError(f"{name}: is in activation order, which this container cannot express")


def expect_matrix(key: str, header: Header) -> tuple[int, int]:
    """The shape of a tensor that must be a matrix."""
    shape = header.shape(key)
    if len(shape) != 2:
        raise ValueError(f"{key}: expected two dimensions, got {list(shape)}")
    return shape[0], shape[1]


def expect_parts(
    layer: str, header: Header, required: Sequence[str], optional: Sequence[str], known: Sequence[str]
) -> None:
    """Raises, naming the tensor, if a quantized layer lacks a part, or has one of those known that do not
    belong to it."""
    expected = f"expected {', '.join(required)}" + (f", and maybe {', '.join(optional)}" if optional else "")
    for part in required:
        if f"{layer}.{part}" not in header:
            raise ValueError(f"{layer}.{part}: missing from the checkpoint ({expected})")
    for part in known:
        if part not in (*required, *optional) and f"{layer}.{part}" in header:
            raise ValueError(f"{layer}.{part}: does not belong to such a layer ({expected})")


@contextmanager
def naming(name: str, parts: Collection[str] = ()) -> Iterator[None]:
    """Errors inside name the layer that they are about; those that begin with one of its parts, its key."""
    try:
        yield
    except (ValueError, TypeError) as error:
        joint = "." if str(error).partition(":")[0] in parts else ": "
        raise ValueError(f"{name}{joint}{error}") from error
