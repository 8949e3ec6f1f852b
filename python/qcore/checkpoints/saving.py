"""Writing a quantized model into a Hugging Face folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qcore.checkpoints.companions import companions, copy_companions, origin_of
from qcore.checkpoints.container import Container, QWeightInfo
from qcore.checkpoints.containers import WRITTEN, container_called
from qcore.checkpoints.files import ShardWriter, atomic_folder, write_json
from qcore.checkpoints.sink import Sink
from qcore.conversion import renamer, source_layout, source_names
from qcore.formats import Format
from qcore.linears import is_linear, is_transposed
from qcore.models import embedding_name, head_name
from qcore.nn import QEmbedding, QLinear
from qcore.progress import track
from qcore.qweight import QWeight
from qcore.tensors import persistent_tensors, tied_names

__all__ = ["SHARD_BYTES", "FolderSink", "expect_savable", "expect_storable", "save", "write_model"]

SHARD_BYTES = 1 << 30

# What a configuration says of the files that it came with, and where they were.
_OF_THE_SOURCE = ("quantization_config", "compression_config", "transformers_weights", "_name_or_path")


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    tokenizer: Any = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    container: str = WRITTEN.method,
) -> None:
    """Saves a quantized transformers model as a Hugging Face folder.

    The folder loads with `qcore.load`, and in transformers, vLLM and SGLang. It appears under its name
    only once it is complete.

    Args:
        tokenizer: saved along; by default that of the folder from which the model was loaded: a local one,
            or what the hub's cache has of it. What else lies beside its weights is copied.
        overwrite: replace an existing folder.
        shard_bytes: the most bytes per safetensors file, about.
        container: how the quantized layers are spelled: the `quant_method` of one that is written. Codes stay
            what they are; formats that it does not have are an error.
    """
    spelling = container_called(container)
    expect_savable(model, spelling)
    source = origin_of(str(getattr(model, "name_or_path", "") or ""), needed=tokenizer is None)
    beside = [] if source is None else companions(source, tokenizer is None)
    with atomic_folder(path, overwrite) as folder:
        if source is not None:
            copy_companions(source, beside, folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        write_model(model, folder, shard_bytes, spelling)


def expect_savable(model: nn.Module, container: Container = WRITTEN) -> None:
    """Raises if a model cannot be saved, with the reason."""
    layers = _quantized_layers(model)
    if not layers:
        raise ValueError("model: has no quantized layer; call qcore.quantize first")
    if getattr(model, "config", None) is None:
        raise ValueError("model: expected a transformers model, which has a config; got none")
    for name, layer in layers.items():
        table = isinstance(layer, QEmbedding)
        if table and not container.stores_tables:
            raise ValueError(
                f"{name}: {container.method} has no quantized embeddings; compressed-tensors has"
            )
        k = layer.embedding_dim if isinstance(layer, QEmbedding) else layer.in_features
        expect_storable(container, name, layer.format, k)


def write_model(model: Any, folder: Path, shard_bytes: int, container: Container = WRITTEN) -> None:
    """Weights, config.json, generation settings, and the model's code if it brought some."""
    from transformers.dynamic_module_utils import custom_object_save

    config = deepcopy(model.config)
    # Loading gives everything this dtype, and the model may have been cast since its configuration was made.
    config.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), config.dtype)
    for own in (config, model):
        if getattr(own, "_auto_class", None) is not None:
            custom_object_save(own, folder, config=config)
    if getattr(model, "generation_config", None) is not None and model.can_generate():
        model.generation_config.save_pretrained(folder)
    sink = FolderSink(folder, model, shard_bytes, container=container)
    layers = _quantized_layers(model)
    sink.tied = _tied_tables(model, layers)
    for name in (name for names in sink.tied.values() for name in names):
        del layers[name]
    quantized = [f"{name}.weight" for name in layers]
    for name, tensor in source_layout(model, _plain_tensors(model), quantized).items():
        sink.keep(name, tensor)
    names = source_names(model, layers)
    for name, layer in track(list(layers.items()), "saving layers"):
        sink.emit(names[name], layer.to_qweight())
    sink.config = {**config.to_dict(), "architectures": [type(model).__name__]}
    sink.finish()


def _quantized_layers(model: nn.Module) -> dict[str, QLinear | QEmbedding]:
    """By name; one that has several is there under each."""
    modules = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in modules if isinstance(module, (QLinear, QEmbedding))}


def _tied_tables(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """The embedding, with the layers that the configuration ties to it and that have its very codes."""
    name = embedding_name(model)
    if name is None or name not in layers:
        return {}
    tied = {each.removesuffix(".weight") for each in tied_names(model)}
    same = [n for n in layers if n != name and n in tied and _same_codes(layers[n], layers[name])]
    return {name: same} if same else {}


def _same_codes(one: Any, other: Any) -> bool:
    if one.format != other.format:
        return False
    tensors, others = one.to_qweight().tensors, other.to_qweight().tensors
    same = (torch.equal(t.view(torch.uint8), others[n].view(torch.uint8)) for n, t in tensors.items())
    return tensors.keys() == others.keys() and all(same)


def expect_storable(container: Container, name: str, format: Format, k: int) -> None:
    """Raises, with the reason, if a container cannot store a layer of K columns in a format."""
    if reason := container.why_not(format, k):
        raise ValueError(f"{name}.weight: {reason}")


def _plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All tensors but those of quantized weights. Left out are those that the configuration ties, and so will
    be there again on loading; what was tied by hand alone is written under each of its names."""
    tensors = persistent_tensors(model)
    for target, source in tied_names(model).items():
        one, other = tensors.get(target), tensors.get(source)
        if one is not None and other is not None and _is_same(one, other):
            del tensors[target]
    return tensors


def _is_same(one: Tensor, other: Tensor) -> bool:
    where = [(t.device, t.data_ptr(), t.shape, t.stride(), t.dtype) for t in (one, other)]
    return one is other or (where[0] == where[1] and not one.is_meta)


class FolderSink(Sink):
    """Shards in a folder that is being written, and at the end its config.json.

    Attributes:
        config: of the model that is stored; its quantization is added.
        copies: names under which a tensor is written too, by its key: those that are no longer tied to it.
        tied: names of layers that have the weight of a quantized embedding, by its name: it is written once.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        shard_bytes: int,
        copies: Mapping[str, Sequence[str]] | None = None,
        container: Container = WRITTEN,
    ) -> None:
        self.copies = copies or {}
        self.folder, self.model, self.container = folder, model, container
        self.writer = ShardWriter(folder, shard_bytes)
        self.rename = renamer(model)
        self.written: dict[str, QWeightInfo] = {}
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.kept: dict[str, tuple[int, ...]] = {}
        self.config: dict[str, Any] = {}
        self.tied: Mapping[str, Sequence[str]] = {}
        self.bytes: dict[str, int] = {}

    def emit(self, layer: str, weight: QWeight) -> None:
        for key, tensor in self.container.write(layer, weight).items():
            self._add(key, tensor)
        # Some readers look for the model's layers in the configuration, others for those of the checkpoint.
        ours = self.rename(f"{layer}.weight").removesuffix(".weight")
        transposed = ours in self.modules and is_transposed(self.modules[ours])
        if transposed and not self.container.stores_transposed:
            raise ValueError(
                f"{layer}: the model keeps its weight as [K, N], which {self.container.method} cannot express"
            )
        table = isinstance(self.modules.get(ours), (nn.Embedding, QEmbedding))
        for name in (ours, layer):
            self.written[name] = QWeightInfo.of(weight, transposed, table)
        for name in self.tied.get(ours, ()):
            table = isinstance(self.modules[name], (nn.Embedding, QEmbedding))
            self.written[name] = QWeightInfo.of(weight, table=table)

    def _add(self, key: str, tensor: Tensor) -> None:
        self.writer.add(key, tensor)
        self.bytes[key] = tensor.numel() * tensor.element_size()

    def share_of_ends(self) -> float:
        """How much of what was written are an embedding and a head that are not quantized."""
        ends = {f"{name}.weight" for name in (embedding_name(self.model), head_name(self.model)) if name}
        kept = sum(self.bytes[key] for key in self.kept if self.rename(key) in ends)
        return kept / max(sum(self.bytes.values()), 1)

    def keep(self, key: str, tensor: Tensor) -> None:
        for name in (key, *self.copies.get(key, ())):
            self._add(name, tensor)
        self.kept[key] = tuple(tensor.shape)

    def _left(self) -> Iterator[str]:
        """Layers that are not quantized: the model's, and whatever else in the files may be one."""
        modules = self.modules
        yield from (name for name, module in modules.items() if is_linear(module))
        for key, shape in self.kept.items():
            name, _, leaf = key.rpartition(".")
            ours = modules.get(self.rename(key).rpartition(".")[0])
            if isinstance(ours, (nn.Embedding, nn.modules.conv._ConvNd)) or len(shape) not in (2, 3):
                continue
            if leaf == "weight" or len(shape) == 3:  # of routers that are no linear layers, of experts
                yield name
            elif ours is None:
                yield key

    def finish(self) -> None:
        self.writer.finish()
        config = {key: value for key, value in self.config.items() if key not in _OF_THE_SOURCE}
        head, tied = head_name(self.model), {name for names in self.tied.values() for name in names}
        ends = {head, embedding_name(self.model)} if head is not None and head not in tied else set()
        if not ends.isdisjoint(self.written):
            config["tie_word_embeddings"] = False  # where one of them alone is quantized, they are two
        left = dict.fromkeys(name for name in self._left() if name not in self.written)
        quantization = self.container.config(self.written, list(left))
        if (self.folder / "modules.json").is_file():
            quantization = self.container.for_sentence_encoders(quantization)
        config["quantization_config"] = quantization
        write_json(self.folder / "config.json", config)
        if self.container.twin is not None:
            twin = self.container.to_twin(config["quantization_config"])
            write_json(self.folder / self.container.twin, twin)
