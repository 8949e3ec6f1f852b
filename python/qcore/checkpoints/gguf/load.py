"""Models from GGUF files."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import gguf
import torch
from torch import Tensor, nn

from qcore import ops
from qcore.checkpoints.gguf.architectures import ROPE_FREQS
from qcore.checkpoints.gguf.config_read import config_of
from qcore.checkpoints.gguf.reader import GgufFile, GgufTensor
from qcore.formats import BLOCK_FORMATS
from qcore.linears import linear_names
from qcore.models import empty_model, head_name, replace_embedding, replace_linear
from qcore.progress import track
from qcore.qweight import QWeight
from qcore.room import Room
from qcore.tensors import set_tensor, tie_weights

__all__ = ["GgufModel", "load_gguf"]

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"


def load_gguf(
    path: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    mmap: bool = True,
) -> nn.Module:
    """A model of transformers with the weights of a GGUF file.

    Linear layers are computed on the file's own blocks; the embedding stays in the file and is decoded row by
    row. What the ops know no type for (`qcore.ops.block_formats`) is decoded once.

    Args:
        path: a file made by qcore, llama.cpp or others, of one of `qcore.checkpoints.gguf.ARCHITECTURES`.
        dtype: of everything that is not quantized, and so of the activations; by default that of the matrices
            if all are in the same 16-bit type, else float32.
        device: where to put the model.
        mmap: see `qcore.load`.

    Raises:
        ValueError: a file that is no such file or is damaged, or a model that it cannot be, with the reason.
    """
    file = GgufFile(path, mmap)
    try:
        return _Loader(file, dtype).load().to(device)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from error


class GgufModel:
    """The model of a file: what it is in transformers, and where the file has its tensors.

    Attributes:
        dtype: of what is not quantized.
        config: of transformers.
        model: empty: its parameters are on the meta device.
        tied: the name of the head's weight, if the file has none of its own.
        linear_weights: names of the weights of linear layers, the head's not among them.
    """

    def __init__(self, file: GgufFile, dtype: torch.dtype | None) -> None:
        self.file = file
        self.dtype = dtype or _common_dtype(file)
        if self.file.metadata.get("split.count", 1) != 1:
            raise ValueError("is one part of several; merge them first, with llama.cpp's gguf-split")
        table = self.tensor(_EMBEDDING)
        if len(table.shape) != 2:
            raise ValueError(f"{_EMBEDDING}: expected a matrix, got shape {table.shape}")
        self.architecture, attributes = config_of(
            self.file.metadata, table.shape[0], self.file.tensors.__contains__
        )
        self._check_sizes(attributes)
        from transformers import AutoConfig

        self.config = AutoConfig.for_model(**attributes)
        room = Room(len(self.file.tensors), self.file.path.stat().st_size)
        self.model = empty_model(self.config, room=room)
        self.parameters = [name for name, _ in self.model.named_parameters(remove_duplicate=False)]
        self.names = self.architecture.tensor_names(self.parameters, self.config.num_hidden_layers)
        head = head_name(self.model)
        self.tied = f"{head}.weight" if _HEAD not in self.file.tensors else None
        self.linear_weights = {f"{name}.weight" for name in linear_names(self.model) if name != head}
        self._kinds = {_in_any_block(name) for name in file.tensors}
        self._report_unused()

    def stored(self, name: str) -> str | None:
        """The file's name for a parameter; None for a bias of zeros, which files leave out.

        Raises:
            ValueError: no file can have it, or this one lacks it, or has it in another shape.
        """
        stored = _EMBEDDING if name == self.tied else self.names.get(name)
        if stored is None:
            raise ValueError(f"no name in a GGUF file stands for {name}")
        if name.endswith(".bias") and _in_any_block(stored) not in self._kinds:
            return None
        self.check_shape(stored, tuple(self.model.get_parameter(name).shape))
        return stored

    def type_of(self, name: str) -> str:
        """In what the file has a parameter."""
        stored = self.stored(name)
        return "F32" if stored is None else self.tensor(stored).type.name

    def tensor_names(self) -> list[str]:
        """The parameters that the file has, checked; a tied one once."""
        names = [name for name in self.parameters if name != self.tied]
        for name in names:
            self.stored(name)
        return names

    def order(self, stored: str) -> Tensor | None:
        return self.architecture.row_order(stored, self.config)

    def values(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A parameter's elements, as transformers has them."""
        stored, dtype = self.stored(name), dtype or self.dtype
        if stored is None:
            return torch.zeros(self.model.get_parameter(name).shape, dtype=dtype)
        values = _unpermuted(self.decoded(stored), self.order(stored))
        if offset := self.architecture.offset(stored):
            values = values.float() - offset
        return values.to(dtype)

    def tensor(self, name: str) -> GgufTensor:
        if name not in self.file.tensors:
            raise ValueError(f"lacks the tensor {name}")
        return self.file.tensors[name]

    def check_shape(self, name: str, expected: tuple[int, ...]) -> None:
        if self.tensor(name).shape != expected:
            raise ValueError(f"{name}: expected shape {expected}, got {self.tensor(name).shape}")

    def _check_sizes(self, sizes: dict[str, Any]) -> None:
        """What the metadata claims against tensors that are there, before a model of that size is built."""
        hidden, head = sizes["hidden_size"], sizes["head_dim"]
        self.check_shape(_EMBEDDING, (sizes["vocab_size"], hidden))
        self.check_shape("blk.0.attn_q.weight", (sizes["num_attention_heads"] * head, hidden))
        self.check_shape("blk.0.attn_k.weight", (sizes["num_key_value_heads"] * head, hidden))
        self.check_shape("blk.0.ffn_up.weight", (sizes["intermediate_size"], hidden))

    def _report_unused(self) -> None:
        if unused := sorted(self.file.tensors.keys() - {*self.names.values(), _EMBEDDING, ROPE_FREQS}):
            if bias := next((name for name in unused if name.endswith(".bias")), None):
                raise ValueError(
                    f"{bias}: the model has no such bias, as far as the other tensors and metadata say"
                )
            warnings.warn(
                f"{self.file.path}: {len(unused)} of its tensors are not used, the first is {unused[0]}",
                stacklevel=6,
            )

    def decoded(self, name: str) -> Tensor:
        """The elements of a tensor of the file, in memory of their own."""
        tensor, data = self.tensor(name), self.file.data(name)
        kind = tensor.type.name
        if kind in _PLAIN:
            return data.clone().view(_PLAIN[kind]).view(tensor.shape)
        if kind in BLOCK_FORMATS:
            return ops.kquant_dequantize(data, kind, tensor.shape[-1])
        try:
            values = gguf.quants.dequantize(data.numpy(), tensor.type)
        except NotImplementedError:
            raise ValueError(f"{name}: tensors of type {kind} are not supported") from None
        return torch.from_numpy(values).view(tensor.shape)


class _Loader(GgufModel):
    """Fills the model."""

    def load(self) -> nn.Module:
        model = self.model
        if self.tensor(_EMBEDDING).type.name in BLOCK_FORMATS:
            self.config.tie_word_embeddings = False  # the head is a QLinear, and no longer the embedding
            model.config.tie_word_embeddings = False  # type: ignore[union-attr]
        linears = set(linear_names(model))
        for name in track(self.parameters, "loading layers"):
            module, _, leaf = name.rpartition(".")
            stored = self.stored(name)
            quantized = stored is not None and self.tensor(stored).type.name in BLOCK_FORMATS
            if stored is not None and quantized and leaf == "weight" and module in linears:
                self._place_linear(model, module, stored)
            elif quantized and stored == _EMBEDDING:
                self._place_embedding(model, module)
            elif name != self.tied:
                set_tensor(model, name, self.values(name))
        tie_weights(model, {})
        self._divide_frequencies(model)
        model.config.dtype = self.dtype
        model.name_or_path = str(self.file.path)  # type: ignore[assignment]
        return model

    def _place_linear(self, model: nn.Module, name: str, stored: str) -> None:
        tensor = self.tensor(stored)
        n, k = tensor.shape
        blocks = _unpermuted(self.file.data(stored), self.order(stored))
        replace_linear(model, name, QWeight(BLOCK_FORMATS[tensor.type.name], (n, k), {"blocks": blocks}))

    def _place_embedding(self, model: nn.Module, name: str) -> None:
        tensor = self.tensor(_EMBEDDING)
        n, k = tensor.shape
        blocks = {"blocks": self.file.data(_EMBEDDING)}
        replace_embedding(model, name, QWeight(BLOCK_FORMATS[tensor.type.name], (n, k), blocks), self.dtype)

    def _divide_frequencies(self, model: nn.Module) -> None:
        """Llama 3's scaling of long contexts, which files hold as a factor for each rotary frequency."""
        if ROPE_FREQS not in self.file.tensors:
            return
        factors = self.decoded(ROPE_FREQS).float()
        for module in model.modules():
            for key in ("inv_freq", "original_inv_freq"):
                table = module._buffers.get(key)
                if table is None:
                    continue
                if table.shape != factors.shape or not (factors > 0).all():
                    raise ValueError(f"{ROPE_FREQS}: expected {tuple(table.shape)} positive numbers")
                module._buffers[key] = table / factors


def _common_dtype(file: GgufFile) -> torch.dtype:
    """The 16-bit type that all matrices share, or float32."""
    types = {t.type.name for t in file.tensors.values() if len(t.shape) == 2}
    return _PLAIN[types.pop()] if types in ({"F16"}, {"BF16"}) else torch.float32


def _in_any_block(name: str) -> str:
    return re.sub(r"^blk\.\d+\.", "", name)


def _unpermuted(rows: Tensor, order: Tensor | None) -> Tensor:
    """Rows as transformers has them, of rows as the file has them."""
    return rows if order is None else rows[order.argsort()]
