"""Quantizing a Hugging Face folder into a GGUF file, one tensor or one block of the model at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor, nn

from qcore import ops
from qcore.calibrate import calibrate
from qcore.formats import BLOCK_FORMATS, Format
from qcore.io.checkpoint import Checkpoint
from qcore.io.gguf.architectures import ROPE_FREQS, Architecture
from qcore.io.gguf.config_write import architecture_of, metadata_of, rope_factors
from qcore.io.gguf.mixes import GGUF_SCHEMES, MixModel, choose_types, parse_overrides
from qcore.io.gguf.tokenizer_write import tokenizer_metadata
from qcore.io.gguf.writer import GgufWriter, atomic_file
from qcore.methods import Awq, Method, resolve_method
from qcore.models import config_of, empty_model, head_name, linear_names, stored_names
from qcore.patch import calibration_batches
from qcore.qweight import QWeight
from qcore.streamed import StreamedWeights

__all__ = ["quantize_gguf"]

_FLOATS = ("F32", "F16", "BF16")
_CASTS = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}


def quantize_gguf(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    scheme: str = "Q4_K_M",
    method: str | Method = "gptq",
    calibration: Tensor | None = None,
    overrides: Sequence[str] = (),
    sequential: bool = True,
    overwrite: bool = False,
) -> None:
    """Quantizes a Hugging Face folder into a GGUF file, with its tokenizer.

    The model is never whole in memory: without calibration one tensor at a time is, with calibration one
    block, besides the embeddings and the hidden states of the calibration text.

    Args:
        scheme: one of `qcore.io.gguf.GGUF_SCHEMES`: which type each tensor gets.
        method: chooses the codes of the linear layers inside the blocks; the embedding and the head are
            rounded to nearest, as they are by llama.cpp.
        calibration: token ids int64 [sequences, T]. Not needed for rtn.
        sequential: calibrate each layer behind the already quantized layers of its own block too.
        overrides: PATTERN=TYPE, for tensors in whose name (that in the file) the expression is found.
        overwrite: replace an existing file.

    Raises:
        ValueError: a model or tokenizer that cannot be stored in a GGUF file, or an argument that does not
            fit, with the reason. Nothing is left behind.
    """
    if scheme.upper() not in GGUF_SCHEMES:
        raise ValueError(f"scheme: expected one of {', '.join(GGUF_SCHEMES)}, got {scheme!r}")
    chosen = resolve_method(method)
    if isinstance(chosen, Awq):
        chosen = replace(chosen, act_scale=False)  # a file has no place for a scale that no norm can absorb
    checkpoint = Checkpoint(source)
    if "quantization_config" in checkpoint.config:
        raise ValueError(f"{checkpoint.path}: is quantized already; give the original checkpoint")
    plan = _Plan(checkpoint, scheme.upper(), overrides, chosen.needs_calibration)
    needed = chosen.needs_calibration and plan.formats
    batches = calibration_batches(calibration, plan.model) if needed else []
    with atomic_file(destination, overwrite) as path, torch.no_grad():
        writer = GgufWriter(path, plan.architecture.name, plan.metadata(), plan.tensors)
        try:
            weights = _Streamed(plan, writer)
            if plan.formats:
                calibrate(plan.model, plan.formats, batches, chosen, weights.emit, weights, sequential)
            weights.copy_rest()
            if plan.factors is not None:
                writer.add(ROPE_FREQS, plan.factors.view(torch.uint8))
            writer.finish()
        finally:
            writer.close()


class _Streamed(StreamedWeights):
    """Weights on their way from a folder to a file."""

    def __init__(self, plan: _Plan, writer: GgufWriter) -> None:
        super().__init__(plan.model, plan.checkpoint, plan.stored)
        self.plan, self.writer = plan, writer
        self.done = set(plan.checkpoint) - set(plan.names)  # what the file has no place for

    def keep(self, key: str, tensor: Tensor) -> None:
        name = self.plan.names[key]
        self.writer.add(name, self.plan.bytes_of(name, key, tensor))

    def emit(self, name: str, weight: QWeight) -> None:
        key = self.stored[f"{name}.weight"]
        stored = self.plan.names[key]
        self.writer.add(stored, self.plan.permuted(stored, weight.tensors["blocks"]))
        self.done.add(key)


class _Plan:
    """What will be in the file, decided before anything is computed.

    Attributes:
        stored: the checkpoint's key for each parameter of the model.
        names: the file's name for each of the checkpoint's keys that it has a place for.
        types: the type of each tensor of the file.
        formats: of the linear layers whose codes a method chooses: those inside blocks.
    """

    def __init__(
        self, checkpoint: Checkpoint, scheme: str, overrides: Sequence[str], calibrated: bool
    ) -> None:
        self.checkpoint, self.scheme = checkpoint, scheme
        self.config = config_of(checkpoint)
        self.architecture: Architecture = architecture_of(self.config)
        self.model: nn.Module = empty_model(self.config)
        self.factors = rope_factors(self.config)
        self.stored = stored_names(self.model, checkpoint)
        parameters = {n: tuple(p.shape) for n, p in self.model.named_parameters()}
        self.names = self._names(parameters)
        self.shapes = {name: checkpoint.shape(key) for key, name in self.names.items()}
        if self.factors is not None:
            self.shapes[ROPE_FREQS] = tuple(self.factors.shape)
        mix_model = MixModel(
            self.architecture.name,
            self.config.num_hidden_layers,
            self.config.num_attention_heads // self.config.num_key_value_heads,
            tied="output.weight" not in self.shapes,
            calibrated=calibrated,
        )
        self.types = choose_types(self.shapes, scheme, mix_model, parse_overrides(overrides))
        self.tensors = {name: (shape, self.types[name]) for name, shape in self.shapes.items()}
        self.formats = self._formats()

    def _names(self, parameters: dict[str, tuple[int, ...]]) -> dict[str, str]:
        names = self.architecture.tensor_names(parameters, self.config.num_hidden_layers)
        head = head_name(self.model)
        tied = f"{head}.weight" if self.config.tie_word_embeddings else None
        found = {}
        for name, shape in parameters.items():
            if name == tied:
                continue
            if name not in self.stored:
                raise ValueError(f"{self.checkpoint.path}: has no tensor {name}, which the model needs")
            key = self.stored[name]
            where = f"{self.checkpoint.files[key]}: {key}"
            if self.checkpoint.shape(key) != shape:
                raise ValueError(f"{where}: expected shape {shape}, got {self.checkpoint.shape(key)}")
            if self.checkpoint.dtype(key) not in _FLOATS:
                raise ValueError(
                    f"{where}: expected one of {', '.join(_FLOATS)}, got {self.checkpoint.dtype(key)}"
                )
            if name not in names:
                raise ValueError(f"{name}: has no name in GGUF files of {self.architecture.name}")
            found[key] = names[name]
        if self.architecture.shared_head and "output.weight" in found.values():
            raise ValueError(
                f"{self.checkpoint.path}: {self.architecture.name} cannot have a head of its own"
            )
        return found

    def _formats(self) -> dict[str, Format]:
        head = head_name(self.model)
        formats: dict[str, Format] = {}
        for name in linear_names(self.model):
            type = None if name == head else self.types[self.names[self.stored[f"{name}.weight"]]]
            if type is not None and type.name in BLOCK_FORMATS:
                formats[name] = BLOCK_FORMATS[type.name]
        return formats

    def metadata(self) -> dict[str, Any]:
        """Everything that the file says besides its tensors."""
        total = sum(int(np.prod(shape)) for shape in self.shapes.values())
        path = self.checkpoint.path.resolve()
        return {
            "general.type": "model",
            "general.name": path.name,
            "general.size_label": gguf.size_label(total, total, 0, 0),
            "general.file_type": int(GGUF_SCHEMES[self.scheme].file_type),
            "general.quantization_version": gguf.GGML_QUANT_VERSION,
            **metadata_of(self.architecture, self.config),
            **tokenizer_metadata(self.checkpoint.path, self.config.vocab_size),
        }

    def bytes_of(self, name: str, key: str, w: Tensor) -> Tensor:
        """A tensor of the checkpoint as the file stores it, rounded to nearest, uint8."""
        if not torch.isfinite(w).all():
            raise ValueError(f"{key}: holds NaN or infinity; nothing sensible can be stored")
        if offset := self.architecture.offset(name):
            w = w.float() + offset
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
