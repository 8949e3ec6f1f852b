"""What a GGUF file of a model will hold, and writing it tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from qcore import ops
from qcore.checkpoints.gguf.architectures import ROPE_FREQS, Architecture
from qcore.checkpoints.gguf.config_write import architecture_of, metadata_of, rope_factors
from qcore.checkpoints.gguf.general import model_name
from qcore.checkpoints.gguf.mixes import (
    GGUF_SCHEMES,
    MixModel,
    asked_types,
    choose_types,
    parse_overrides,
)
from qcore.checkpoints.gguf.tokenizer_write import tokenizer_metadata
from qcore.checkpoints.gguf.writer import GgufWriter, atomic_file
from qcore.checkpoints.sink import Sink
from qcore.checkpoints.store import Destination
from qcore.checkpoints.streamed import FolderSource
from qcore.choice import account
from qcore.formats import BLOCK_FORMATS, Format
from qcore.linears import linear_names
from qcore.methods import Method
from qcore.models import head_name
from qcore.qweight import QWeight
from qcore.report import QuantizationReport
from qcore.schemes import find_scheme

__all__ = ["GgufDestination"]

_FLOATS = ("F32", "F16", "BF16", "F64")
_CASTS = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}


class _GgufSink(Sink):
    """A file that is being written. What it has no place for is left out."""

    by_model = True

    def __init__(self, plan: GgufDestination, writer: GgufWriter) -> None:
        self.plan, self.writer = plan, writer

    def keep(self, key: str, tensor: Tensor) -> None:
        if (name := self.plan.names.get(key)) is not None:
            self.writer.add(name, self.plan.bytes_of(name, key, tensor.cpu()))

    def emit(self, layer: str, weight: QWeight) -> None:
        name = self.plan.names[f"{layer}.weight"]
        if inputs := list(weight.inputs.tensors()):
            raise ValueError(f"{layer}: a GGUF file has no place for {', '.join(inputs)} of its input")
        self.writer.add(name, self.plan.permuted(name, weight.tensors["blocks"].cpu()))

    def finish(self) -> None:
        if self.plan.factors is not None:
            self.writer.add(ROPE_FREQS, self.plan.factors.view(torch.uint8))
        self.writer.finish()


class GgufDestination(Destination):
    """What will be in the file, decided before anything is computed.

    Attributes:
        names: the file's name for each of the checkpoint's keys that it has a place for; where the checkpoint
            has a tensor in other pieces than the model, by the model's name.
        types: the type of each tensor of the file.
        formats: of the linear layers whose codes a method chooses: those inside blocks.
    """

    def __init__(
        self,
        source: FolderSource,
        path: str | os.PathLike[str],
        scheme: str,
        method: Method,
        overwrite: bool,
        overrides: Sequence[str],
    ) -> None:
        self.path, self.overwrite, self.scheme = path, overwrite, find_scheme(scheme, GGUF_SCHEMES)
        self.method = method.without_divisors()  # a file has no place for one that no norm can absorb
        self.source, self.checkpoint, self.model = source, source.checkpoint, source.model
        self.config, self.trust_remote_code = source.config, source.trust_remote_code
        self.architecture: Architecture = architecture_of(self.config)
        self.factors = rope_factors(self.config)
        source.check_shapes()
        parameters = {n: tuple(p.shape) for n, p in self.model.named_parameters()}
        self.names = self._names(parameters)
        self.shapes = {self.names[k]: s for n, s in parameters.items() if (k := self._key(n)) in self.names}
        if self.factors is not None:
            self.shapes[ROPE_FREQS] = tuple(self.factors.shape)
        mix_model = MixModel(
            self.architecture.name,
            self.config.num_hidden_layers,
            self.config.num_attention_heads // self.config.num_key_value_heads,
            tied="output.weight" not in self.shapes,
            calibrated=method.needs_calibration,
        )
        chosen_by = (self.scheme, mix_model, parse_overrides(overrides))
        self.types = choose_types(self.shapes, *chosen_by)
        self.tensors = {name: (shape, self.types[name]) for name, shape in self.shapes.items()}
        self.formats = self._formats()
        self.report = self._report(asked_types(self.shapes, *chosen_by))

    @contextmanager
    def opened(self) -> Iterator[Sink]:
        with atomic_file(self.path, self.overwrite) as path:
            writer = GgufWriter(path, self.architecture.name, self.metadata(), self.tensors)
            try:
                yield _GgufSink(self, writer)
            finally:
                writer.close()

    def _key(self, name: str) -> str:
        """What the sink will be given a tensor of the model under."""
        return self.source.stored.get(name, name)

    def _names(self, parameters: dict[str, tuple[int, ...]]) -> dict[str, str]:
        names = self.architecture.tensor_names(parameters, self.config.num_hidden_layers)
        head = head_name(self.model)
        tied = f"{head}.weight" if self.config.tie_word_embeddings else None
        found = {}
        for name in parameters:
            if name == tied:
                continue
            for key in self.source.keys_of(name):
                if self.checkpoint.dtype(key) not in _FLOATS:
                    raise ValueError(
                        f"{self.checkpoint.files[key]}: {key}: expected one of {', '.join(_FLOATS)}, got "
                        f"{self.checkpoint.dtype(key)}"
                    )
            if name not in names:
                raise ValueError(f"{name}: has no name in GGUF files of {self.architecture.name}")
            found[self._key(name)] = names[name]
        if self.architecture.shared_head and "output.weight" in found.values():
            raise ValueError(
                f"{self.checkpoint.path}: {self.architecture.name} cannot have a head of its own"
            )
        return found

    def _formats(self) -> dict[str, Format]:
        head = head_name(self.model)
        formats: dict[str, Format] = {}
        for name in linear_names(self.model):
            type = None if name == head else self.types[self.names[self._key(f"{name}.weight")]]
            if type is not None and type.name in BLOCK_FORMATS:
                formats[name] = BLOCK_FORMATS[type.name]
        return formats

    def _report(self, asked: Mapping[str, Type]) -> QuantizationReport:
        report = QuantizationReport()
        counted = {self.names[self._key(f"{layer}.weight")] for layer in self.formats}
        for name, shape in self.shapes.items():
            if len(shape) > 1:
                size = int(np.prod(shape)) if name in counted else 0
                report.choose(name, asked[name].name, self.types[name].name, size)
        reasons: dict[str, tuple[str, bool]] = {}
        for layer in linear_names(self.model):
            stored = self.names.get(self._key(f"{layer}.weight"))
            if stored is not None and layer not in self.formats:
                fits, k = asked[stored] == self.types[stored], self.shapes[stored][-1]
                what = f"{asked[stored].name} was asked" if fits else f"{asked[stored].name}: rows of {k}"
                reasons[layer] = (what, fits)
        account(self.model, self.formats, reasons, report)
        return report

    def metadata(self) -> dict[str, Any]:
        """Everything that the file says besides its tensors."""
        total = sum(int(np.prod(shape)) for shape in self.shapes.values())
        return {
            "general.type": "model",
            "general.name": model_name(self.checkpoint.path, self.checkpoint.config),
            "general.size_label": gguf.size_label(total, total, 0, 0),
            "general.file_type": int(GGUF_SCHEMES[self.scheme].file_type),
            "general.quantization_version": gguf.GGML_QUANT_VERSION,
            **metadata_of(self.architecture, self.config),
            **tokenizer_metadata(self.checkpoint.path, self.config.vocab_size, self.trust_remote_code),
        }

    def bytes_of(self, name: str, key: str, w: Tensor) -> Tensor:
        """A tensor of the checkpoint as the file stores it, rounded to nearest, uint8."""
        if not torch.isfinite(w).all():
            raise ValueError(f"{key}: holds NaN or infinity; nothing sensible can be stored")
        if offset := self.architecture.offset(name):
            w = w.float() + offset
        w = w.float() if w.dtype == torch.float64 else w
        type = self.types[name]
        if type.name in BLOCK_FORMATS:
            return self.permuted(name, ops.kquant_quantize(w, type.name))
        cast = w.to(_CASTS[type])
        if not torch.isfinite(cast).all():
            raise ValueError(f"{key}: has values beyond the range of {type.name}; BF16 or F32 can hold them")
        return self.permuted(name, cast).contiguous().view(torch.uint8)

    def permuted(self, name: str, rows: Tensor) -> Tensor:
        """Rows in the order that the file has them in."""
        order = self.architecture.row_order(name, self.config)
        return rows if order is None else rows[order]
