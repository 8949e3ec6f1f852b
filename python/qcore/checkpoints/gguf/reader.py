"""GGUF files in: header, metadata and tensor list, each checked against the bounds of the file.

Nothing of the file is believed: every count, length and offset is compared with the bytes that are there
before anything is read or allocated by it. Tensors stay in the file, which is mapped.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from torch import Tensor

__all__ = ["GgufFile", "GgufTensor", "is_gguf"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
_MAX_DIMS = 4

# struct's letter for each scalar kind of value; strings and arrays are read by functions of their own.
_SCALARS = {
    GGUFValueType.UINT8: "B", GGUFValueType.INT8: "b", GGUFValueType.UINT16: "H", GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I", GGUFValueType.INT32: "i", GGUFValueType.UINT64: "Q", GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT32: "f", GGUFValueType.FLOAT64: "d", GGUFValueType.BOOL: "?",
}  # fmt: skip

# What the least metadata entry and tensor entry take: bounds for their counts.
_LEAST_ENTRY = 8 + 4 + 1
_LEAST_TENSOR = 8 + 4 + 4 + 8


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file that is, or claims by its name to be, in GGUF."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a file.

    Attributes:
        shape: in torch's order, the last dimension contiguous: [N, K] for a weight.
        type: how its elements are stored.
        offset: of its first byte in the file.
        nbytes: how many bytes it takes.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int


class GgufFile:
    """A GGUF file, mapped into memory.

    Args:
        mapped: leave tensors in the file, which must then not be changed in place: reading behind a new end
            of it kills the process. Else each is read when it is asked for.

    Attributes:
        path: the file.
        metadata: values by key: numbers, strings, lists of strings, and numpy arrays of numbers.
        tensors: by name, in the order of the file.
    """

    def __init__(self, path: str | os.PathLike[str], mapped: bool = True) -> None:
        self.path, self.mapped = Path(path), mapped
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file")
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:
                raise ValueError(f"{self.path}: {size} bytes are too few for a GGUF file")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._walk(_Cursor(self._map))
        except _BadGgufError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def _walk(self, cursor: _Cursor) -> None:
        tensor_count, entry_count = _read_header(cursor)
        cursor.expect_room(entry_count, _LEAST_ENTRY, "metadata entries")
        self.metadata: dict[str, Any] = {}
        for _ in range(entry_count):
            key = cursor.name("a metadata key")
            if key in self.metadata:
                raise _BadGgufError(f"metadata key {key!r} appears twice")
            self.metadata[key] = cursor.value(f"metadata {key!r}")
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise _BadGgufError(f"general.alignment: expected a power of two, got {alignment!r}")
        cursor.expect_room(tensor_count, _LEAST_TENSOR, "tensors")
        found: dict[str, GgufTensor] = {}
        for _ in range(tensor_count):
            tensor = _read_tensor_entry(cursor)
            if tensor.name in found:
                raise _BadGgufError(f"tensor {tensor.name!r} appears twice")
            if tensor.offset % alignment:
                raise _BadGgufError(
                    f"tensor {tensor.name!r}: its offset {tensor.offset} is no multiple of {alignment}, the "
                    f"alignment"
                )
            found[tensor.name] = tensor
        start = -(-cursor.position // alignment) * alignment
        _check_extents(found, start, len(cursor))
        self.tensors = {
            name: GgufTensor(name, t.shape, t.type, start + t.offset, t.nbytes) for name, t in found.items()
        }

    def data(self, name: str) -> Tensor:
        """The bytes of a tensor, uint8 [..., bytes of a row], read from the file when they are used, or now
        if it is not to stay mapped.

        The tensor keeps the file mapped; it must not be written to.
        """
        tensor = self.tensors[name]
        rows = tensor.shape[:-1]
        if not self.mapped:
            read = np.fromfile(self.path, np.uint8, tensor.nbytes, offset=tensor.offset)
            if len(read) < tensor.nbytes:
                raise ValueError(f"tensor {name!r}: the file was cut off while it was read")
            return torch.from_numpy(read).view(*rows, tensor.nbytes // math.prod(rows))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            data = torch.frombuffer(self._map, dtype=torch.uint8, count=tensor.nbytes, offset=tensor.offset)
        return data.view(*rows, tensor.nbytes // math.prod(rows))


class _BadGgufError(Exception):
    """What is wrong with the file, without its name."""


class _Cursor:
    """Reads a buffer from front to back, and never behind its end."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self._buffer = buffer
        self.position = 0

    def __len__(self) -> int:
        return len(self._buffer)

    def expect_room(self, count: int, each: int, what: str) -> None:
        left = len(self) - self.position
        if count * each > left:
            raise _BadGgufError(f"promises {count} {what}, but only {left} bytes follow (truncated?)")

    def take(self, size: int, what: str) -> int:
        """Steps over `size` bytes and returns where they start."""
        self.expect_room(size, 1, f"bytes of {what}")
        start = self.position
        self.position += size
        return start

    def raw(self, size: int, what: str) -> bytes:
        start = self.take(size, what)
        return self._buffer[start : start + size]

    def scalar(self, letter: str, what: str) -> Any:
        if letter == "?":  # struct would take any byte for True
            value = self.scalar("B", what)
            if value > 1:
                raise _BadGgufError(f"{what}: expected a truth value of 0 or 1, got {value}")
            return bool(value)
        start = self.take(struct.calcsize("<" + letter), what)
        return struct.unpack_from("<" + letter, self._buffer, start)[0]

    def bytes(self, what: str) -> bytes:
        return self.raw(self.scalar("Q", f"the length of {what}"), what)

    def name(self, what: str) -> str:
        try:
            name = self.bytes(what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _BadGgufError(f"{what} is no UTF-8: {error}") from None
        if not name:
            raise _BadGgufError(f"{what} is empty")
        return name

    def value(self, what: str) -> Any:
        kind = self.kind(what)
        if kind is GGUFValueType.STRING:
            return self.bytes(what).decode("utf-8", "replace")
        if kind is GGUFValueType.ARRAY:
            return self.array(what)
        return self.scalar(_SCALARS[kind], what)

    def kind(self, what: str) -> GGUFValueType:
        number = self.scalar("I", f"the type of {what}")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise _BadGgufError(f"{what}: {number} is no type of a value") from None

    def array(self, what: str) -> Any:
        kind = self.kind(what)
        count = self.scalar("Q", f"the length of {what}")
        if kind is GGUFValueType.ARRAY:
            raise _BadGgufError(f"{what}: arrays of arrays are not supported")
        if kind is GGUFValueType.STRING:
            self.expect_room(count, 8, f"strings in {what}")
            return [self.bytes(what).decode("utf-8", "replace") for _ in range(count)]
        dtype = np.dtype("<" + _SCALARS[kind])
        self.expect_room(count, dtype.itemsize, f"elements of {what}")
        start = self.take(count * dtype.itemsize, what)
        return np.frombuffer(self._buffer, dtype, count, start)


def _read_header(cursor: _Cursor) -> tuple[int, int]:
    """The numbers of tensors and of metadata entries."""
    magic = cursor.raw(len(_MAGIC), "the magic number")
    if magic != _MAGIC:
        raise _BadGgufError(f"is no GGUF file: it starts with {magic!r}")
    version = cursor.scalar("I", "the version")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        known = " and ".join(map(str, _VERSIONS))
        hint = "; it was written for a big-endian machine" if swapped in _VERSIONS else ""
        raise _BadGgufError(f"expected version {known} of GGUF, got {version}{hint}")
    return cursor.scalar("Q", "the number of tensors"), cursor.scalar("Q", "the number of metadata entries")


def _read_tensor_entry(cursor: _Cursor) -> GgufTensor:
    """A tensor as the header describes it, its offset still relative to where the data starts."""
    name = cursor.name("a tensor's name")
    what = f"tensor {name!r}"
    count = cursor.scalar("I", what)
    if not 1 <= count <= _MAX_DIMS:
        raise _BadGgufError(f"{what}: expected 1 to {_MAX_DIMS} dimensions, got {count}")
    shape = tuple(cursor.scalar("Q", what) for _ in range(count))[::-1]
    number = cursor.scalar("I", what)
    try:
        kind = GGMLQuantizationType(number)
        elements, size = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise _BadGgufError(f"{what}: {number} is no type of a tensor that is known here") from None
    total = math.prod(shape)
    if total == 0:
        raise _BadGgufError(f"{what}: shape {shape} has no elements")
    if total >= 1 << 63:
        raise _BadGgufError(f"{what}: shape {shape} has more elements than fit into 64 bits")
    if shape[-1] % elements:
        raise _BadGgufError(
            f"{what}: rows of {shape[-1]} are no multiple of {elements}, a block of {kind.name}"
        )
    return GgufTensor(name, shape, kind, cursor.scalar("Q", what), total // elements * size)


def _check_extents(tensors: dict[str, GgufTensor], start: int, size: int) -> None:
    """Every tensor lies inside the file, and no two share a byte."""
    end, before = 0, ""
    for tensor in sorted(tensors.values(), key=lambda t: t.offset):
        if start + tensor.offset + tensor.nbytes > size:
            raise _BadGgufError(
                f"tensor {tensor.name!r} ends at byte {start + tensor.offset + tensor.nbytes}, but the file "
                f"has {size} (truncated?)"
            )
        if tensor.offset < end:
            raise _BadGgufError(f"tensors {before!r} and {tensor.name!r} overlap")
        end, before = tensor.offset + tensor.nbytes, tensor.name
