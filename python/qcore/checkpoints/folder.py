"""Hugging Face folders as a store: load, inspect, and quantizing into one without holding the model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qcore.checkpoints.companions import companions, copy_companions
from qcore.checkpoints.containers import WRITTEN, container_of, expect_plain, marked
from qcore.checkpoints.files import Checkpoint, atomic_folder, resolve_source
from qcore.checkpoints.loading import FLOATS, load_folder
from qcore.checkpoints.saving import SHARD_BYTES, FolderSink, expect_storable
from qcore.checkpoints.sink import Sink
from qcore.checkpoints.store import Destination, Row, Store
from qcore.checkpoints.streamed import FolderSource
from qcore.choice import Choice, choose_formats
from qcore.ends import Ends
from qcore.formats import Format
from qcore.methods import Method
from qcore.models import config_of, empty_model, head_name, trusting, understood
from qcore.schemes import SCHEMES, Scheme, is_static, parse_rules, resolve_scheme
from qcore.tensors import persistent_tensors, tied_names

__all__ = ["FolderStore"]

# Bits of an element, by the names of safetensors.
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


_READERS = (
    "the embedding is quantized: qcore reads it, so does vLLM for those of its models that support it; "
    "transformers (up to 5.24) only if all layers have its format, and then decodes all on loading"
)


class _FolderDestination(Destination):
    def __init__(
        self,
        source: FolderSource,
        path: str | os.PathLike[str],
        choice: Choice,
        method: Method,
        overwrite: bool,
        shard_bytes: int,
    ) -> None:
        self.source, self.path, self.method = source, path, method
        self.formats, self.report, self.tables = choice.formats, choice.report, choice.tables
        self.overwrite, self.shard_bytes = overwrite, shard_bytes
        self.companions = companions(source.checkpoint.path)

    @contextmanager
    def opened(self) -> Iterator[Sink]:
        checkpoint = self.source.checkpoint
        with atomic_folder(self.path, self.overwrite) as folder:
            sink = FolderSink(folder, self.source.model, self.shard_bytes, self._copies())
            sink.config = checkpoint.config
            sink.tied = {n: (*t.embeddings[1:], *t.linears) for n, t in self.tables.items()}
            copy_companions(checkpoint.path, self.companions, folder)
            yield sink
            self.report.ends = sink.share_of_ends()

    def _copies(self) -> dict[str, list[str]]:
        """By key: the names that are tied to it in the source, and are not once the head is quantized."""
        model, stored = self.source.model, self.source.stored
        copies: dict[str, list[str]] = {}
        for target, source in tied_names(model).items() if head_name(model) in self.formats else ():
            one = source in stored and stored.get(target) == stored[source]
            if one and target.removesuffix(".weight") not in self.formats:
                copies.setdefault(stored[source], []).append(target)
        return copies


class FolderStore(Store):
    """Safetensors and config.json."""

    noun = "a folder"
    default_scheme = "W4A16"
    options = frozenset(
        {"ignore", "group_size", "overrides", "shard_bytes", "quantize_head", "quantize_embeddings"}
    )

    def recognises(self, path: str | os.PathLike[str]) -> bool:
        return Path(path).is_dir()

    def writes(self, path: Path) -> bool:
        return True  # any name may be a folder's

    @property
    def schemes(self) -> list[str]:
        return [name for name, format in SCHEMES.items() if WRITTEN.why_not(format) is None]

    def is_static(self, scheme: str, overrides: Sequence[str] = ()) -> bool:
        formats = [SCHEMES[scheme], *(rule.format for rule in parse_rules(overrides))]
        return any(is_static(format) for format in formats if format is not None)

    def tokenizer(self, path: str | os.PathLike[str], trust_remote_code: bool) -> Any:
        from transformers import AutoTokenizer

        folder = resolve_source(path)
        with understood(folder, "the tokenizer cannot be read"), trusting(folder, trust_remote_code):
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)

    def bytes(self, path: Path) -> int:
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))

    def inspect(self, path: str | os.PathLike[str]) -> list[Row]:
        checkpoint = Checkpoint(path)
        rows: list[Row] = []
        parts: set[str] = set()
        stored = checkpoint.quantization
        if not stored and marked(checkpoint):  # unless the model itself calls its tensors so
            expect_plain(checkpoint, persistent_tensors(empty_model(config_of(checkpoint.path))))
        for layer in container_of(stored, checkpoint.files).layers(stored, checkpoint) if stored else ():
            parts.update(layer.parts)
            size = sum(_bytes(checkpoint, key) for key in layer.parts)
            rows.append(Row.of(f"{layer.name}.weight", str(layer.format), layer.shape, size))
        for name in checkpoint:
            if name not in parts:
                label, shape = checkpoint.dtype(name), checkpoint.shape(name)
                rows.append(Row.of(name, label, shape, _bytes(checkpoint, name)))
        return sorted(rows, key=lambda row: _natural(row.tensor))

    def load(
        self,
        path: str | os.PathLike[str],
        dtype: torch.dtype | None,
        device: str | torch.device,
        trust_remote_code: bool,
        mmap: bool,
    ) -> nn.Module:
        model = load_folder(Checkpoint(path), dtype, trust_remote_code)
        for tensor in () if mmap else (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return model.to(device)

    def resolve(self, path: str | os.PathLike[str]) -> Path:
        return resolve_source(path)

    @contextmanager
    def source(self, path: str | os.PathLike[str], trust_remote_code: bool) -> Iterator[FolderSource]:
        yield FolderSource(Checkpoint(path), trust_remote_code)

    def destination(
        self,
        source: FolderSource,
        path: str | os.PathLike[str],
        scheme: str | Format | Scheme,
        method: Method,
        overwrite: bool,
        **options: Any,
    ) -> Destination:
        ignore: Sequence[str] = options.get("ignore", ("lm_head",))
        chosen = resolve_scheme(scheme, options.get("group_size"))
        if Path(path).exists() and source.checkpoint.path.samefile(path):
            raise ValueError(f"{path}: is the source itself; write to another folder")
        rules = parse_rules(options.get("overrides", ()))
        asked = (options.get(name) for name in ("quantize_head", "quantize_embeddings", "group_size"))
        choice = choose_formats(source.model, chosen, ignore, rules, Ends(*asked), source.apart)
        _check_targets(source, choice.formats | {n: t.format for n, t in choice.tables.items()})
        if choice.tables:
            choice.report.notes.append(_READERS)
        shard_bytes = options.get("shard_bytes", SHARD_BYTES)
        return _FolderDestination(source, path, choice, method, overwrite, shard_bytes)


def _check_targets(source: FolderSource, formats: Mapping[str, Format]) -> None:
    """Everything that can be known to fail, before anything is computed or written."""
    source.check_shapes()
    checkpoint = source.checkpoint
    for name, format in formats.items():
        for key in source.keys_of(f"{name}.weight"):
            if checkpoint.dtype(key) not in FLOATS:
                raise ValueError(
                    f"{checkpoint.files[key]}: {key}: expected one of {', '.join(FLOATS)}, got "
                    f"{checkpoint.dtype(key)}"
                )
        expect_storable(WRITTEN, name, format, source.shape(f"{name}.weight")[1])


def _bytes(checkpoint: Checkpoint, name: str) -> int:
    return math.prod(checkpoint.shape(name)) * _BITS[checkpoint.dtype(name)] // 8


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layers.2 before layers.10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in name.split(".")]
