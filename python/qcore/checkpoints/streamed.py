"""Weights that stay in a checkpoint while a model is quantized part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from qcore.calibration.chain import Weights
from qcore.checkpoints.containers import expect_plain
from qcore.checkpoints.files import Checkpoint
from qcore.checkpoints.sink import Sink
from qcore.formats import Format
from qcore.models import config_of, empty_model
from qcore.qweight import QWeight
from qcore.tensors import renamer, set_tensor, stored_names, tie_weights

__all__ = ["FolderSource", "StreamedWeights"]


class FolderSource:
    """A model in a Hugging Face folder that is not quantized.

    Attributes:
        config: of transformers.
        trust_remote_code: whether code that the folder brings is run.
        model: empty: its parameters are on the meta device.
        stored: the checkpoint's key for each parameter and buffer of the model.
    """

    def __init__(self, checkpoint: Checkpoint, trust_remote_code: bool = False) -> None:
        if checkpoint.quantization:
            raise ValueError(f"{checkpoint.path}: is quantized already; give the original checkpoint")
        expect_plain(checkpoint)
        self.checkpoint = checkpoint
        self.trust_remote_code = trust_remote_code
        self.config = config_of(checkpoint.path, trust_remote_code)
        self.model: nn.Module = empty_model(self.config, trust_remote_code)
        self.stored = stored_names(self.model, checkpoint)

    def key_of(self, linear: str) -> str:
        """The checkpoint's key of a linear layer's weight."""
        return self.stored[f"{linear}.weight"]

    def check(self, formats: Mapping[str, Format]) -> None:
        """Nothing here: what is stored was checked with the destination."""

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The source while it is worked on."""
        yield

    def weights(self, sink: Sink, device: str | torch.device | None = None) -> StreamedWeights:
        """The weights on their way to a sink, worked on on a device."""
        return StreamedWeights(self, sink, device)


class StreamedWeights(Weights):
    """Weights that are read from a checkpoint when a part of the model is worked on, and handed to a sink
    when it is done. In memory are one block, and what lies outside the blocks.

    Attributes:
        done: keys of the checkpoint that need not be written any more.
    """

    def __init__(self, source: FolderSource, sink: Sink, device: str | torch.device | None = None) -> None:
        super().__init__(source.model, device)
        self.checkpoint, self.stored, self.sink = source.checkpoint, source.stored, sink
        self.rename = renamer(source.model)
        self.done: set[str] = set()

    def emit(self, name: str, weight: QWeight) -> None:
        """Hands on what a linear layer became, under the name that the checkpoint has for it; a weight that
        is tied to another one there gets a name of its own."""
        key = self.stored[f"{name}.weight"]
        own = self.rename(key) == f"{name}.weight"
        self.sink.emit(key.removesuffix(".weight") if own else name, weight)
        if own:
            self.done.add(key)

    def prepare(self, blocks: Sequence[str]) -> None:
        inside = tuple(f"{name}." for name in blocks)
        buffers = {name for name, _ in self.model.named_buffers()}
        for name in self.stored:
            if name in buffers or not name.startswith(inside):
                self._fill(name)
        tie_weights(self.model, self.stored)

    def _fill(self, name: str) -> None:
        set_tensor(self.model, name, self.checkpoint.tensor(self.stored[name]))

    def load(self, prefix: str) -> None:
        for name, parameter in self._parameters(prefix):
            if parameter.is_meta:
                self._fill(name)
        super().load(prefix)

    def release(self, prefix: str) -> None:
        super().release(prefix)
        for name, parameter in self._parameters(prefix):
            key = self.stored[name]
            if key not in self.done:
                self.sink.keep(key, parameter.data)
                self.done.add(key)
            set_tensor(self.model, name, None)

    def _parameters(self, prefix: str) -> list[tuple[str, nn.Parameter]]:
        dot = f"{prefix}." if prefix else ""
        part = self.model.get_submodule(prefix)
        return [(dot + n, p) for n, p in part.named_parameters(remove_duplicate=False)]

    def finish(self) -> None:
        """Hands on what calibration did not touch."""
        for key in self.checkpoint:
            if key not in self.done:
                self.sink.keep(key, self.checkpoint.tensor(key))
                self.done.add(key)
