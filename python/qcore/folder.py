"""Models in folders: save, load, and quantizing from folder to folder without holding the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qcore.calibrate import calibrate, needs_calibration
from qcore.formats import Format
from qcore.gguf_model import load_gguf
from qcore.io import compressed_tensors as ct
from qcore.io.checkpoint import (
    Checkpoint,
    ShardWriter,
    atomic_folder,
    copy_companions,
    write_json,
)
from qcore.io.gguf import is_gguf
from qcore.linear import QLinear
from qcore.methods import Method, resolve_method
from qcore.models import (
    choose_formats,
    config_of,
    empty_model,
    head_name,
    linear_names,
    renamer,
    set_tensor,
    stored_names,
    tie_weights,
)
from qcore.patch import calibration_batches, replace_linear
from qcore.progress import track
from qcore.qweight import QWeight
from qcore.schemes import Scheme, resolve_scheme
from qcore.streamed import StreamedWeights

__all__ = ["load", "quantize_folder", "save"]

SHARD_BYTES = 1 << 30

# What weights may be stored in, as safetensors names it.
_FLOATS = ("F32", "F16", "BF16")


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
            if layer.bias is not None:  # a copy: it may be shared, which safetensors does not take
                writer.add(f"{name}.bias", layer.bias.clone())
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
        saved = {**config.to_dict(), "architectures": [type(model).__name__]}
        _write_config(folder, model, saved, formats, act_scale)


def _plain_tensors(model: nn.Module, layers: dict[str, QLinear]) -> dict[str, Tensor]:
    """The state dict without quantized layers and without second names of tied weights."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[torch.device, int, int]] = set()
    inside = tuple(f"{name}." for name in layers)
    for name, tensor in model.state_dict().items():
        if name.startswith(inside):
            continue
        key = (tensor.device, tensor.data_ptr(), tensor.numel())
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        tensors[name] = tensor
    return tensors


def _write_config(
    folder: Path,
    model: nn.Module,
    config: dict[str, Any],
    formats: dict[str, Format],
    act_scale: bool,
) -> None:
    config = {k: v for k, v in config.items() if k != "quantization_config"}
    if head_name(model) in formats:
        config["tie_word_embeddings"] = False  # the quantized head no longer is the embedding
    linears = [n for n, m in model.named_modules() if type(m) in (nn.Linear, QLinear)]
    config["quantization_config"] = ct.quantization_config(formats, linears, act_scale)
    write_json(folder / "config.json", config)


def load(
    path: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Loads a folder or a GGUF file for inference, quantized or not.

    Args:
        path: a folder, a Hugging Face id, or a GGUF file (see `qcore.gguf_model.load_gguf`). Quantized:
            compressed-tensors `pack-quantized` weights.
        dtype: of everything that is not quantized, and so of the activations; by default as stored.
        device: where to put the model.

    Raises:
        FileNotFoundError: a missing folder or shard, by name.
        ValueError: a file or tensor that is not what it should be, by name.
    """
    if is_gguf(path):
        return load_gguf(path, dtype, device)
    checkpoint = Checkpoint(path)
    quantization = checkpoint.config.get("quantization_config")
    formats = ct.read_formats(quantization, checkpoint) if quantization else {}
    if not formats:
        return _load_plain(checkpoint, dtype).to(device)
    model = empty_model(config_of(checkpoint))
    linears, rename = set(linear_names(model)), renamer(model)
    for stored, format in track(list(formats.items()), "loading layers"):
        name = rename(f"{stored}.weight").removesuffix(".weight")
        if name not in linears:
            raise ValueError(f"{checkpoint.path}: {stored} is quantized, but is no linear layer of the model")
        tensors = {key: checkpoint.tensor(key) for key in ct.parts(stored, checkpoint)}
        replace_linear(model, name, ct.from_tensors(stored, tensors, format))
    for name, key in stored_names(model, checkpoint).items():
        tensor = checkpoint.tensor(key)
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        set_tensor(model, name, tensor)
    tie_weights(model)
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


class _Streamed(StreamedWeights):
    """Weights on their way from one folder to another."""

    def __init__(
        self, model: nn.Module, checkpoint: Checkpoint, writer: ShardWriter, stored: dict[str, str]
    ) -> None:
        super().__init__(model, checkpoint, stored)
        self.writer, self.rename = writer, renamer(model)
        self.act_scale = False  # whether some layer kept an input scale

    def keep(self, key: str, tensor: Tensor) -> None:
        self.writer.add(key, tensor)

    def emit(self, name: str, weight: QWeight) -> None:
        key = self.stored[f"{name}.weight"]
        own = self.rename(key) == f"{name}.weight"
        layer = key.removesuffix(".weight") if own else name  # a tied weight gets a name of its own
        for part, tensor in ct.to_tensors(layer, weight).items():
            self.writer.add(part, tensor)
        self.act_scale |= weight.act_scale is not None
        if own:
            self.done.add(key)


def quantize_folder(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    scheme: str | Format | Scheme = "W4A16",
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
    chosen_scheme = resolve_scheme(scheme, group_size)
    method = resolve_method(method)
    checkpoint = Checkpoint(source)
    if Path(destination).exists() and checkpoint.path.samefile(destination):
        raise ValueError(f"{destination}: is the source itself; write to another folder")
    if "quantization_config" in checkpoint.config:
        raise ValueError(f"{checkpoint.path}: is quantized already; give the original checkpoint")
    model = empty_model(config_of(checkpoint))
    formats = choose_formats(model, chosen_scheme, ignore)
    batches = calibration_batches(calibration, model) if needs_calibration(method, formats.values()) else []
    stored = stored_names(model, checkpoint)
    _check_targets(checkpoint, model, formats, stored)
    with atomic_folder(destination, overwrite) as folder, torch.no_grad():
        writer = ShardWriter(folder, shard_bytes)
        weights = _Streamed(model, checkpoint, writer, stored)
        calibrate(model, formats, batches, method, weights.emit, weights, sequential)
        weights.copy_rest()
        writer.finish()
        copy_companions(checkpoint.path, folder)
        _write_config(folder, model, checkpoint.config, formats, weights.act_scale)


def _check_targets(
    checkpoint: Checkpoint, model: nn.Module, formats: dict[str, Format], stored: dict[str, str]
) -> None:
    """Everything that can be known to fail, before anything is computed or written."""
    for name, parameter in model.named_parameters():
        if name not in stored:
            raise ValueError(
                f"{checkpoint.path}: has no tensor {name}, which the model needs (if transformers fuses it "
                f"from others on loading, quantize the model in memory)"
            )
        key = stored[name]
        if checkpoint.shape(key) != tuple(parameter.shape):
            raise ValueError(
                f"{checkpoint.files[key]}: {key}: expected shape {tuple(parameter.shape)}, got "
                f"{checkpoint.shape(key)}"
            )
    for name, format in formats.items():
        key = stored[f"{name}.weight"]
        if checkpoint.dtype(key) not in _FLOATS:
            raise ValueError(
                f"{checkpoint.files[key]}: {key}: expected one of {', '.join(_FLOATS)}, got "
                f"{checkpoint.dtype(key)}"
            )
        ct.check_exportable(name, checkpoint.shape(key)[1], format)
