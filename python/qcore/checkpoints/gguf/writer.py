"""GGUF files out: the header at once, then the tensors in any order, and the name at the end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFWriter
from torch import Tensor

from qcore.interrupts import uninterrupted

__all__ = ["GgufWriter", "atomic_file", "row_bytes"]


def row_bytes(type: GGMLQuantizationType, k: int) -> int:
    """Bytes of a row of k elements."""
    elements, size = GGML_QUANT_SIZES[type]
    return int(k // elements * size)


class GgufWriter:
    """Writes one file. All tensors are announced first; their data may then come in any order.

    Args:
        path: of the file, which is replaced.
        architecture: for `general.architecture`.
        metadata: strings, truth values, integers, floats, and lists of one of those.
        tensors: the shape (in torch's order) and type of each, in the order in which they will lie.
    """

    def __init__(
        self,
        path: Path,
        architecture: str,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, tuple[tuple[int, ...], GGMLQuantizationType]],
    ) -> None:
        self._path = path
        writer = GGUFWriter(path, architecture)
        for key, value in metadata.items():
            _add(writer, key, value)
        self._places: dict[str, tuple[int, int]] = {}
        end = 0
        for name, (shape, type) in tensors.items():
            size = int(np.prod(shape[:-1], dtype=np.int64)) * row_bytes(type, shape[-1])
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=type)
            self._places[name] = (end, size)
            end += -(-size // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT
        with _naming(path):
            _write_header(writer)
        # Without a buffer: nothing is left to be written when the file is closed after an error.
        self._file = path.open("r+b", buffering=0)
        start = self._file.seek(0, os.SEEK_END)
        self._start = -(-start // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT
        self._missing = dict.fromkeys(tensors)
        with _naming(path):
            try:
                self._file.truncate(self._start + end)
            except OSError:
                self.close()
                raise

    def add(self, name: str, data: Tensor) -> None:
        """Writes a tensor's bytes, uint8 of any shape.

        Raises:
            OSError: what the system says of a full disk and the like, with the file's name.
        """
        offset, size = self._places[name]
        if data.numel() * data.itemsize != size:
            raise ValueError(f"{name}: expected {size} bytes, got {data.numel() * data.itemsize}")
        del self._missing[name]
        self._file.seek(self._start + offset)
        left = data.detach().contiguous().cpu().flatten().numpy().view(np.uint8).data
        with _naming(self._path):
            while len(left):  # the system may take a part
                left = left[self._file.write(left) :]

    def close(self) -> None:
        self._file.close()

    def finish(self) -> None:
        """Closes the file; raises if a tensor was never written."""
        self.close()
        if self._missing:
            raise ValueError(f"{next(iter(self._missing))}: announced, but never written")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the system say which file they are about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_header(writer: GGUFWriter) -> None:
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
    except BaseException:
        for file in writer.fout or ():
            file.raw.close()  # what is still in its buffer could not be written either
        raise


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """Adds metadata by the type of its value: unsigned 32-bit integers and 32-bit floats, as is usual."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


@contextmanager
def atomic_file(destination: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """A path to write to that becomes the destination only once it is complete.

    On any error nothing is left behind, and an existing destination stays as it was; of signals see
    `qcore.checkpoints.files.atomic_folder`.
    """
    target = Path(os.path.realpath(destination))  # what a link points to is replaced, not the link
    if target.is_dir():
        raise FileExistsError(f"{target}: is a folder; name a file")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists already; choose another name, or allow overwriting")
    target.parent.mkdir(parents=True, exist_ok=True)
    work: Path | None = None
    try:
        with uninterrupted():
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            os.close(handle)
            work = Path(name)
        yield work
        os.chmod(work, 0o644)  # mkstemp makes it private
        os.replace(work, target)
    except BaseException:
        if work is not None:
            work.unlink(missing_ok=True)
        raise
