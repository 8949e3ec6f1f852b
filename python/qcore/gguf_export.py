"""Quantizing a Hugging Face folder into a GGUF file, one tensor or one block of the model at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor, nn

from qcore.io.checkpoint import Checkpoint
from qcore.io.gguf.architectures import ROPE_FREQS, Architecture
from qcore.io.gguf.config_write import architecture_of, metadata_of, rope_factors
from qcore.io.gguf.mixes import GGUF_SCHEMES, MixModel, choose_types, parse_overrides
from qcore.io.gguf.tokenizer_write import tokenizer_metadata
from qcore.io.gguf.writer import GgufWriter, atomic_file
from qcore.methods import Method, resolve_method
from qcore.models import config_of, empty_model, head_name, stored_names
from qcore.progress import track

__all__ = ["quantize_gguf"]

_FLOATS = ("F32", "F16", "BF16")


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
            rounded to nearest. A method that scales inputs (awq) is not for such files.
        calibration: token ids int64 [sequences, T]. Not needed for rtn.
        overrides: PATTERN=TYPE, for tensors in whose name (that in the file) the expression is found.
        overwrite: replace an existing file.

    Raises:
        ValueError: a model or tokenizer that cannot be stored in a GGUF file, or an argument that does not
            fit, with the reason. Nothing is left behind.
    """
    method = resolve_method(method)
    if method.name != "rtn":
        raise ValueError(f"method: GGUF files are written by rtn so far, got {method.name}")
    if scheme.upper() not in GGUF_SCHEMES:
        raise ValueError(f"scheme: expected one of {', '.join(GGUF_SCHEMES)}, got {scheme!r}")
    checkpoint = Checkpoint(source)
    if "quantization_config" in checkpoint.config:
        raise ValueError(f"{checkpoint.path}: is quantized already; give the original checkpoint")
    plan = _Plan(checkpoint, scheme.upper(), overrides)
    with atomic_file(destination, overwrite) as path, torch.no_grad():
        writer = GgufWriter(path, plan.architecture.name, plan.metadata(), plan.tensors)
        try:
            for stored in track(list(plan.sources), "writing tensors"):
                writer.add(stored, plan.bytes_of(stored))
            if plan.factors is not None:
                writer.add(ROPE_FREQS, plan.factors.view(torch.uint8))
            writer.finish()
        finally:
            writer.close()


class _Plan:
    """What will be in the file, decided before anything is computed.

    Attributes:
        sources: for each tensor of the file that comes from the checkpoint, the key there.
        tensors: shape and type of each tensor of the file.
    """

    def __init__(self, checkpoint: Checkpoint, scheme: str, overrides: Sequence[str]) -> None:
        self.checkpoint, self.scheme = checkpoint, scheme
        self.config = config_of(checkpoint)
        self.architecture: Architecture = architecture_of(self.config)
        self.model: nn.Module = empty_model(self.config)
        self.factors = rope_factors(self.config)
        self.sources = self._sources()
        self.shapes = {name: checkpoint.shape(key) for name, key in self.sources.items()}
        if self.factors is not None:
            self.shapes[ROPE_FREQS] = tuple(self.factors.shape)
        mix_model = MixModel(
            self.architecture.name,
            self.config.num_hidden_layers,
            self.config.num_attention_heads // self.config.num_key_value_heads,
            tied="output.weight" not in self.shapes,
            calibrated=False,
        )
        self.types = choose_types(self.shapes, scheme, mix_model, parse_overrides(overrides))
        self.tensors = {name: (shape, self.types[name]) for name, shape in self.shapes.items()}

    def _sources(self) -> dict[str, str]:
        parameters = {n: tuple(p.shape) for n, p in self.model.named_parameters()}
        names = self.architecture.tensor_names(parameters, self.config.num_hidden_layers)
        keys = stored_names(self.model, self.checkpoint)
        head = head_name(self.model)
        tied = f"{head}.weight" if self.config.tie_word_embeddings else None
        sources = {}
        for name, shape in parameters.items():
            if name == tied:
                continue
            if name not in keys:
                raise ValueError(f"{self.checkpoint.path}: has no tensor {name}, which the model needs")
            key = keys[name]
            where = f"{self.checkpoint.files[key]}: {key}"
            if self.checkpoint.shape(key) != shape:
                raise ValueError(f"{where}: expected shape {shape}, got {self.checkpoint.shape(key)}")
            if self.checkpoint.dtype(key) not in _FLOATS:
                raise ValueError(f"{where}: expected one of {_FLOATS}, got {self.checkpoint.dtype(key)}")
            if name not in names:
                raise ValueError(f"{name}: has no name in GGUF files of {self.architecture.name}")
            sources[names[name]] = key
        if self.architecture.shared_head and "output.weight" in sources:
            raise ValueError(
                f"{self.checkpoint.path}: {self.architecture.name} cannot have a head of its own"
            )
        return sources

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

    def bytes_of(self, stored: str) -> Tensor:
        """A tensor of the checkpoint as the file stores it, uint8."""
        w = self.checkpoint.tensor(self.sources[stored])
        if not torch.isfinite(w).all():
            raise ValueError(f"{self.sources[stored]}: holds NaN or infinity; nothing sensible can be stored")
        if offset := self.architecture.offset(stored):
            w = w.float() + offset
        order = self.architecture.row_order(stored, self.config)
        if order is not None:
            w = w[order]
        return encode(w, self.types[stored], self.sources[stored])


def encode(w: Tensor, type: Type, name: str) -> Tensor:
    """A tensor's bytes in a type of GGUF, rounded to nearest."""
    if type in (Type.F32, Type.F16, Type.BF16):
        cast = w.to({Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}[type])
        if not torch.isfinite(cast).all():
            raise ValueError(f"{name}: has values beyond the range of {type.name}; BF16 or F32 can hold them")
        return cast.contiguous().view(torch.uint8)
    try:
        return torch.from_numpy(gguf.quants.quantize(w.float().numpy(), type))
    except NotImplementedError:
        raise ValueError(f"{name}: {type.name} is not written yet") from None
