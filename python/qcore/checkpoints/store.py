"""Stores: kinds of places where a model lies. Each is a class, in `folder.py` and `gguf/store.py`, and a line
in `stores.py`; nobody else knows them by name."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from qcore.checkpoints.sink import Sink
from qcore.checkpoints.streamed import FolderSource
from qcore.ends import Table
from qcore.formats import Format
from qcore.methods import Method
from qcore.report import QuantizationReport
from qcore.schemes import Scheme

__all__ = ["Destination", "Row", "Store"]


@dataclass(frozen=True)
class Row:
    """One weight: a tensor, or the tensors that store a quantized layer together.

    Attributes:
        format: a dtype, or e.g. "int4 g128 asym", "int8 per row, inputs int8 dynamic per token".
        shape: of the weight, [N, K] if quantized.
        bytes: of all its tensors.
    """

    tensor: str
    format: str
    shape: tuple[int, ...]
    weights: int
    bits_per_weight: float
    bytes: int

    @classmethod
    def of(cls, name: str, label: str, shape: tuple[int, ...], size: int) -> Row:
        weights = math.prod(shape)
        return cls(name, label, shape, weights, 8 * size / max(weights, 1), size)


class Destination(ABC):
    """What will be written, decided before anything is computed.

    Attributes:
        formats: of each linear layer whose codes a method chooses.
        method: as the store can keep what comes of it.
        report: what was chosen and left out; calibration adds to it.
        tables: embeddings to quantize.
    """

    formats: Mapping[str, Format]
    method: Method
    report: QuantizationReport
    tables: Mapping[str, Table] = MappingProxyType({})

    @abstractmethod
    @contextmanager
    def opened(self) -> Iterator[Sink]:
        """The sink. What it writes appears under its name once the context ends without an error."""


class Store(ABC):
    """A kind of place.

    Attributes:
        noun: "a folder".
        default_scheme: for destinations.
        options: what `destination` takes besides, by the names of its arguments.
    """

    noun: str
    default_scheme: str
    options: frozenset[str]

    @abstractmethod
    def recognises(self, path: str | os.PathLike[str]) -> bool:
        """Whether a model is stored there so."""

    @abstractmethod
    def writes(self, path: Path) -> bool:
        """Whether that is the name of a destination of this kind."""

    @property
    @abstractmethod
    def schemes(self) -> list[str]:
        """The names that users type."""

    def mixed(self, scheme: str, model: nn.Module, calibrated: bool) -> Scheme | None:
        """The formats that one of its schemes gives to the layers of a model in memory; None if that is no
        more than a format for all of them (`qcore.schemes.SCHEMES`)."""
        return None

    @abstractmethod
    def is_static(self, scheme: str, overrides: Sequence[str] = ()) -> bool:
        """Whether a scheme, or an exception from it, needs calibration for its inputs, by any method."""

    @abstractmethod
    def load(
        self,
        path: str | os.PathLike[str],
        dtype: torch.dtype | None,
        device: str | torch.device,
        trust_remote_code: bool,
        mmap: bool,
    ) -> nn.Module: ...

    def named(self, path: str | os.PathLike[str]) -> str | None:
        """The scheme that a checkpoint says it was made by, which need not be what most of it holds."""
        return None

    @abstractmethod
    def inspect(self, path: str | os.PathLike[str]) -> list[Row]:
        """One row per weight."""

    @abstractmethod
    def tokenizer(self, path: str | os.PathLike[str], trust_remote_code: bool) -> Any: ...

    @abstractmethod
    def bytes(self, path: Path) -> int:
        """What the weights take there."""

    @abstractmethod
    def resolve(self, path: str | os.PathLike[str]) -> Path:
        """Where the model is on this machine.

        Raises:
            FileNotFoundError: it is not, and is not to be had.
        """

    @abstractmethod
    @contextmanager
    def source(self, path: str | os.PathLike[str], trust_remote_code: bool) -> Iterator[FolderSource]:
        """What is there, to be quantized."""

    @abstractmethod
    def destination(
        self,
        source: FolderSource,
        path: str | os.PathLike[str],
        scheme: str | Format | Scheme,
        method: Method,
        overwrite: bool,
        **options: Any,
    ) -> Destination:
        """What quantizing the source into that place will write.

        Raises:
            ValueError: what can be known to fail. Nothing is written yet.
        """
