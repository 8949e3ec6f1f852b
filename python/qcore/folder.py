"""Models in folders: save, load, and quantizing from folder to folder without holding the model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qcore.blocks import Weights
from qcore.calibrate import calibrate, quantize_linear
from qcore.formats import IntGroup
from qcore.io import compressed_tensors as ct
from qcore.io.checkpoint import (
    Checkpoint,
    ShardWriter,
    atomic_folder,
    copy_companions,
    write_json,
)
from qcore.linear import QLinear
from qcore.methods import Method, resolve_method
from qcore.models import (
    choose_formats,
    config_of,
    empty_model,
    linear_names,
    missing_tensors,
    set_tensor,
    stored_name,
)
from qcore.patch import calibration_batches, replace_linear
from qcore.progress import track
from qcore.qweight import QWeight
from qcore.schemes import resolve_scheme

__all__ = ["load", "quantize_folder", "save"]

SHARD_BYTES = 1 << 30

_TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    tokenizer: Any = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Saves a quantized transformers model as a Hugging Face folder in compressed-tensors.

    The folder loads with `qcore.load`, and in transformers, vLLM and SGLang. It appears under its name
    only once it is complete.

    Args:
        tokenizer: saved along; by default the tokenizer's files are copied from the folder from which
            transformers loaded the model, if it is a local one.
        overwrite: replace an existing folder.
        shard_bytes: the most bytes per safetensors file, about.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QLinear)}
    if not layers:
        raise ValueError("model: has no quantized layer; call qcore.quantize first")
    config = getattr(model, "config", None)
    if config is None:
        raise ValueError("model: expected a transformers model, which has a config; got none")
    for name, layer in layers.items():
        ct.check_exportable(name, layer.in_features, layer.format)
    tensors = _plain_tensors(model, layers)
    with atomic_folder(path, overwrite) as folder:
        writer = ShardWriter(folder, shard_bytes)
        for name, tensor in tensors.items():
            writer.add(name, tensor)
        for name, layer in track(list(layers.items()), "saving layers"):
            for key, tensor in ct.to_tensors(name, layer.to_qweight()).items():
                writer.add(key, tensor)
            if layer.bias is not None:
                writer.add(f"{name}.bias", layer.bias)
        writer.finish()
        source = Path(getattr(model, "name_or_path", "") or "")
        if tokenizer is None and source.is_dir() and (source / "config.json").exists():
            copy_companions(source, folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        if getattr(model, "generation_config", None) is not None and model.can_generate():  # type: ignore[operator]
            model.generation_config.save_pretrained(folder)  # type: ignore[union-attr,operator]
        formats = {name: layer.format for name, layer in layers.items()}
        act_scale = any(layer.act_scale is not None for layer in layers.values())
        linears = sorted({*linear_names(model), *layers})
        _write_config(folder, config.to_dict(), formats, linears, act_scale, writer)


def _plain_tensors(model: nn.Module, layers: dict[str, QLinear]) -> dict[str, Tensor]:
    """The state dict without quantized layers and without second names of tied weights."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, int]] = set()
    inside = tuple(f"{name}." for name in layers)
    for name, tensor in model.state_dict().items():
        if name.startswith(inside):
            continue
        key = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        tensors[name] = tensor
    return tensors


def _write_config(
    folder: Path,
    config: dict[str, Any],
    formats: dict[str, IntGroup],
    linears: Sequence[str],
    act_scale: bool,
    writer: ShardWriter,
) -> None:
    config = {k: v for k, v in config.items() if k != "quantization_config"}
    if any(name.rpartition(".")[2] == "lm_head" for name in formats):
        config["tie_word_embeddings"] = False  # the quantized head no longer is the embedding
    config["quantization_config"] = ct.quantization_config(formats, linears, act_scale)
    write_json(folder / "config.json", config)


def load(
    path: str | os.PathLike[str], dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Loads a folder for inference, quantized or not.

    Args:
        path: a folder, or a Hugging Face id. Quantized: compressed-tensors `pack-quantized` weights.
        dtype: of everything that is not quantized, and so of the activations; by default as stored.
        device: where to put the model.

    Raises:
        FileNotFoundError: a missing folder or shard, by name.
        ValueError: a file or tensor that is not what it should be, by name.
    """
    checkpoint = Checkpoint(path)
    stored = checkpoint.config.get("quantization_config")
    formats = ct.read_formats(stored, checkpoint) if stored else {}
    if not formats:
        return _load_plain(checkpoint, dtype).to(device)
    model = empty_model(config_of(checkpoint))
    linears = set(linear_names(model))
    consumed: set[str] = set()
    for name in track(list(formats), "loading layers"):
        if name not in linears:
            raise ValueError(f"{checkpoint.path}: {name} is quantized, but is no linear layer of the model")
        keys = ct.parts(name, checkpoint)
        weight = ct.from_tensors(name, {k: checkpoint.tensor(k) for k in keys}, formats[name])
        consumed.update(keys)
        replace_linear(model, name, weight)
    names = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    for name in checkpoint:
        if name in names and name not in consumed:
            tensor = checkpoint.tensor(name)
            if dtype is not None and tensor.is_floating_point():
                tensor = tensor.to(dtype)
            set_tensor(model, name, tensor)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    missing = [n for n, p in model.named_parameters() if p.is_meta]
    if missing:
        raise ValueError(
            f"{checkpoint.path}: {len(missing)} of the model's tensors are not in the checkpoint, "
            f"the first is {missing[0]}"
        )
    if (checkpoint.path / "generation_config.json").exists() and model.can_generate():  # type: ignore[operator]
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(checkpoint.path)
    model.name_or_path = str(checkpoint.path)  # type: ignore[assignment]
    return model.to(device)


def _load_plain(checkpoint: Checkpoint, dtype: torch.dtype | None) -> nn.Module:
    """An unquantized model, by transformers' own loader."""
    model_class = type(empty_model(config_of(checkpoint)))
    model = model_class.from_pretrained(checkpoint.path, dtype=dtype or "auto")  # type: ignore[attr-defined]
    return model.eval()  # type: ignore[no-any-return]


class _Streamed(Weights):
    """Weights that are read from a checkpoint when a part of the model is worked on, and handed to the
    writer when it is done: at any time only one block is in memory."""

    def __init__(self, model: nn.Module, checkpoint: Checkpoint, writer: ShardWriter) -> None:
        super().__init__(model)
        self.checkpoint, self.writer = checkpoint, writer
        self.written: set[str] = set()
        self.quantized: set[str] = set()

    def prepare(self, blocks: Sequence[str]) -> None:
        inside = tuple(f"{name}." for name in blocks)
        for name in self.checkpoint:
            if not name.startswith(inside):
                self._fill(name)
        if hasattr(self.model, "tie_weights"):
            self.model.tie_weights()

    def _fill(self, name: str) -> None:
        try:
            set_tensor(self.model, name, self.checkpoint.tensor(name))
        except (AttributeError, KeyError):
            return  # a tensor that the model does not use; it is copied as it is

    def load(self, prefix: str) -> None:
        part = self.model.get_submodule(prefix)
        dot = prefix + "." if prefix else ""
        for name, parameter in part.named_parameters():
            if parameter.is_meta:
                self._fill(dot + name)
        super().load(prefix)

    def release(self, prefix: str) -> None:
        super().release(prefix)
        part = self.model.get_submodule(prefix)
        dot = prefix + "." if prefix else ""
        for name, parameter in list(part.named_parameters()):
            full = dot + name
            if full in self.checkpoint and full not in self.quantized:
                self.writer.add(full, parameter.data)
                self.written.add(full)
            set_tensor(self.model, full, None)

    def emit(self, name: str, weight: QWeight) -> None:
        for key, tensor in ct.to_tensors(name, weight).items():
            self.writer.add(key, tensor)
        self.quantized.add(f"{name}.weight")


def quantize_folder(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    scheme: str | IntGroup = "W4A16",
    method: str | Method = "gptq",
    calibration: Tensor | None = None,
    ignore: Sequence[str] = ("lm_head",),
    group_size: int | None = None,
    sequential: bool = True,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Quantizes a Hugging Face folder into another one, in compressed-tensors.

    The model is never whole in memory: without calibration one tensor at a time is, with calibration one
    block, besides the embeddings and the hidden states of the calibration text. The arguments are those
    of `qcore.quantize` and `qcore.save`.
    """
    format = resolve_scheme(scheme, group_size)
    method = resolve_method(method)
    batches = calibration_batches(calibration) if method.needs_calibration else []
    checkpoint = Checkpoint(source)
    if "quantization_config" in checkpoint.config:
        raise ValueError(f"{checkpoint.path}: is quantized already; give the original checkpoint")
    model = empty_model(config_of(checkpoint))
    formats = choose_formats(model, format, ignore)
    _check_targets(checkpoint, model, formats)
    with atomic_folder(destination, overwrite) as folder, torch.no_grad():
        writer = ShardWriter(folder, shard_bytes)
        if method.needs_calibration:
            weights = _Streamed(model, checkpoint, writer)
            calibrate(model, formats, batches, method, weights.emit, weights, sequential)
            for name in checkpoint:
                if name not in weights.written and name not in weights.quantized:
                    writer.add(name, checkpoint.tensor(name))
        else:
            for name, tensor in _quantized_one_by_one(checkpoint, model, formats, method):
                writer.add(name, tensor)
        writer.finish()
        copy_companions(checkpoint.path, folder)
        _write_config(folder, checkpoint.config, formats, linear_names(model), False, writer)


def _check_targets(
    checkpoint: Checkpoint, model: nn.Module, formats: dict[str, IntGroup]
) -> None:
    """Everything that can be known to fail, before anything is computed or written."""
    for name, format in formats.items():
        key = stored_name(model, checkpoint, f"{name}.weight")
        if key not in checkpoint:
            raise ValueError(f"{checkpoint.path}: has no tensor {key}, which the model needs")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        expected = (linear.out_features, linear.in_features)
        if checkpoint.shape(key) != expected:
            raise ValueError(
                f"{checkpoint.files[key]}: {key}: expected shape {expected}, got {checkpoint.shape(key)}"
            )
        if checkpoint.dtype(key) not in _TORCH_DTYPES:
            raise ValueError(
                f"{checkpoint.files[key]}: {key}: expected one of {', '.join(_TORCH_DTYPES)}, got "
                f"{checkpoint.dtype(key)}"
            )
        ct.check_exportable(name, linear.in_features, format)
    missing = missing_tensors(model, checkpoint)
    if missing:
        raise ValueError(f"{checkpoint.path}: has no tensor {missing[0]}, which the model needs")


def _quantized_one_by_one(
    checkpoint: Checkpoint, model: nn.Module, formats: dict[str, IntGroup], method: Method
) -> Iterator[tuple[str, Tensor]]:
    tied = [f"{name}.weight" for name in formats if f"{name}.weight" not in checkpoint]
    for key in track([*checkpoint, *tied], "quantizing tensors"):
        name = key.removesuffix(".weight")
        tensor = checkpoint.tensor(stored_name(model, checkpoint, key))
        if key == name or name not in formats:
            yield key, tensor
        else:
            q = quantize_linear(name, tensor, None, formats[name], method, tensor.dtype)
            yield from ct.to_tensors(name, q).items()
