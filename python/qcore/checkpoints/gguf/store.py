"""GGUF files as a store. What needs transformers, seconds to import, is imported where it is used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qcore.checkpoints.gguf.mixes import GGUF_SCHEMES, mixed
from qcore.checkpoints.gguf.reader import GgufFile, is_gguf
from qcore.checkpoints.store import Destination, Row, Store
from qcore.checkpoints.streamed import FolderSource
from qcore.formats import Format
from qcore.methods import Method
from qcore.schemes import Scheme

__all__ = ["GgufStore"]


class GgufStore(Store):
    """One file with weights, metadata and tokenizer, for llama.cpp and its relatives."""

    noun = "a GGUF file"
    default_scheme = "Q4_K_M"
    options = frozenset({"overrides"})

    def recognises(self, path: str | os.PathLike[str]) -> bool:
        return is_gguf(path)

    def writes(self, path: Path) -> bool:
        return path.suffix.lower() == ".gguf"

    @property
    def schemes(self) -> list[str]:
        return list(GGUF_SCHEMES)

    def mixed(self, scheme: str, model: nn.Module, calibrated: bool) -> Scheme | None:
        return mixed(scheme, model, calibrated)

    def is_static(self, scheme: str, overrides: Sequence[str] = ()) -> bool:
        return False  # inputs are rounded, if at all, as the kernel does

    def load(
        self,
        path: str | os.PathLike[str],
        dtype: torch.dtype | None,
        device: str | torch.device,
        trust_remote_code: bool,
        mmap: bool,
    ) -> nn.Module:
        from qcore.checkpoints.gguf.load import load_gguf

        return load_gguf(path, dtype, device, mmap)

    def inspect(self, path: str | os.PathLike[str]) -> list[Row]:
        return [Row.of(t.name, t.type.name, t.shape, t.nbytes) for t in GgufFile(path).tensors.values()]

    def named(self, path: str | os.PathLike[str]) -> str | None:
        number = GgufFile(path).metadata.get("general.file_type")
        return next((name for name, mix in GGUF_SCHEMES.items() if mix.file_type == number), None)

    def tokenizer(self, path: str | os.PathLike[str], trust_remote_code: bool) -> Any:
        from qcore.checkpoints.gguf.tokenizer_read import read_tokenizer

        file = GgufFile(path)
        try:
            return read_tokenizer(file.metadata)
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from error

    def bytes(self, path: Path) -> int:
        return path.stat().st_size

    def resolve(self, path: str | os.PathLike[str]) -> Path:
        return Path(path)

    @contextmanager
    def source(self, path: str | os.PathLike[str], trust_remote_code: bool) -> Iterator[FolderSource]:
        from qcore.checkpoints.gguf.source import gguf_source

        with gguf_source(path) as source:
            yield source

    def destination(
        self,
        source: FolderSource,
        path: str | os.PathLike[str],
        scheme: str | Format | Scheme,
        method: Method,
        overwrite: bool,
        **options: Any,
    ) -> Destination:
        from qcore.checkpoints.gguf.sink import GgufDestination

        if not isinstance(scheme, str):
            raise ValueError(f"scheme: expected one of {', '.join(GGUF_SCHEMES)}, got {scheme!r}")
        overrides = options.get("overrides", ())
        return GgufDestination(source, path, scheme, method, overwrite, overrides)
