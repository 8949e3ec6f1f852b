"""A GGUF file as what is quantized: its tensors as numbers, by transformers' names, and a folder with all
else."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qcore.checkpoints.files import Checkpoint, read_json
from qcore.checkpoints.gguf.architectures import ROPE_FREQS
from qcore.checkpoints.gguf.config_write import rope_factors
from qcore.checkpoints.gguf.load import GgufModel
from qcore.checkpoints.gguf.reader import GgufFile
from qcore.checkpoints.gguf.tokenizer_read import read_tokenizer
from qcore.checkpoints.streamed import FolderSource
from qcore.room import Room

__all__ = ["gguf_source"]

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_FLOATS = ("F32", "F16", "BF16", "F64")


@contextmanager
def gguf_source(path: str | os.PathLike[str]) -> Iterator[FolderSource]:
    """The model of a file. If its weights are quantized, that is a warning: the errors of both add up.

    Raises:
        ValueError: a file that is no such file or is damaged, or a model that cannot be said in a folder.
    """
    file = GgufFile(path)
    with tempfile.TemporaryDirectory(prefix="qcore-gguf-") as folder:
        try:
            checkpoint = _GgufCheckpoint(file, Path(folder))
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from error
        source = FolderSource(checkpoint)
        if checkpoint.quantized:
            note = (
                f"{file.path} is quantized already ({checkpoint.quantized}), and is quantized again: the "
                f"errors add up, so quantize the original model if it is to be had"
            )
            warnings.warn(note, stacklevel=5)
            source.notes.append(note)
        yield source


class _GgufCheckpoint(Checkpoint):
    """The tensors of a file, as those of a folder that is not quantized.

    In dtype: weights of linear layers that are quantized in the file in float32; all else as the matrices of
    the file, if they are all in one float type, or else in bfloat16.

    Attributes:
        quantized: how many of its tensors are in which quantized type, for people.
    """

    def __init__(self, file: GgufFile, folder: Path) -> None:
        kinds = [t.type.name for t in file.tensors.values() if len(t.shape) == 2]
        counts = {kind: kinds.count(kind) for kind in sorted(set(kinds)) if kind not in _FLOATS}
        self.quantized = ", ".join(f"{count} x {kind}" for kind, count in counts.items())
        self.origin = file.path
        self.part = GgufModel(file, torch.bfloat16 if counts else None)
        self.names = self.part.tensor_names()
        self.path = folder / _readable(file.metadata.get("general.name"), file.path.stem)
        self.path.mkdir()
        self._write_folder(file)
        self.config = read_json(self.path / "config.json")
        self.quantization = {}
        self.files = dict.fromkeys(self.names, file.path)
        self.room = Room(len(file.tensors), file.path.stat().st_size)

    def _write_folder(self, file: GgufFile) -> None:
        """Everything that a folder has beside its weights."""
        config = self.part.config
        config.architectures, config.dtype = [type(self.part.model).__name__], self.part.dtype
        if ROPE_FREQS in file.tensors:
            config.rope_parameters = _stretched(config, self.part.decoded(ROPE_FREQS).float())
        config.save_pretrained(self.path)
        if file.metadata.get("tokenizer.ggml.model", "none") != "none":
            read_tokenizer(file.metadata).save_pretrained(self.path)

    def tensor(self, name: str) -> Tensor:
        return self.part.values(name, self._dtype(name))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.part.model.get_parameter(name).shape)

    def dtype(self, name: str) -> str:
        return _NAMES[self._dtype(name)]

    def _dtype(self, name: str) -> torch.dtype:
        inside = name in self.part.linear_weights and self.part.type_of(name) not in _FLOATS
        return torch.float32 if inside else self.part.dtype


def _readable(name: Any, otherwise: str) -> str:
    """A name that a folder can have."""
    text = re.sub(r"[^\w.+ -]", "-", name).strip(" .") if isinstance(name, str) else ""
    return text[:100] or otherwise


def _stretched(config: Any, factors: Tensor) -> dict[str, Any]:
    """Llama 3's scaling of long contexts, of the factors by which a file divides its frequencies; it does not
    say what they were computed from.

    Raises:
        ValueError: they are no such factors.
    """
    given = config.rope_parameters
    for exponent in range(4, 18):
        rope = {
            "rope_type": "llama3", "rope_theta": given["rope_theta"], "factor": float(factors.max()),
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1 << exponent,
        }  # fmt: skip
        config.rope_parameters = rope
        found = rope_factors(config)
        if found is not None and found.shape == factors.shape and torch.allclose(found, factors, rtol=1e-4):
            return rope
    raise ValueError(f"{ROPE_FREQS}: its factors are not those of llama3, and no config.json can say them")
