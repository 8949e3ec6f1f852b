"""Weights that stay in a checkpoint while a model is quantized part by part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from qcore.blocks import Weights
from qcore.io.checkpoint import Checkpoint
from qcore.models import set_tensor, tie_weights

__all__ = ["StreamedWeights"]


class StreamedWeights(Weights, ABC):
    """Weights that are read from a checkpoint when a part of the model is worked on, and handed to `keep`
    when it is done. In memory are one block, and what lies outside the blocks.

    Attributes:
        stored: the checkpoint's key for each parameter and buffer of the model.
        done: keys of the checkpoint that need not be written any more.
    """

    def __init__(self, model: nn.Module, checkpoint: Checkpoint, stored: Mapping[str, str]) -> None:
        super().__init__(model)
        self.checkpoint, self.stored = checkpoint, stored
        self.done: set[str] = set()

    @abstractmethod
    def keep(self, key: str, tensor: Tensor) -> None:
        """Writes a tensor that was not quantized; a method may have changed it."""

    def prepare(self, blocks: Sequence[str]) -> None:
        inside = tuple(f"{name}." for name in blocks)
        buffers = {name for name, _ in self.model.named_buffers()}
        for name in self.stored:
            if name in buffers or not name.startswith(inside):
                self._fill(name)
        tie_weights(self.model)

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
                self.keep(key, parameter.data)
                self.done.add(key)
            set_tensor(self.model, name, None)

    def _parameters(self, prefix: str) -> list[tuple[str, nn.Parameter]]:
        dot = f"{prefix}." if prefix else ""
        part = self.model.get_submodule(prefix)
        return [(dot + n, p) for n, p in part.named_parameters(remove_duplicate=False)]

    def copy_rest(self) -> None:
        """Writes what calibration did not touch."""
        for key in self.checkpoint:
            if key not in self.done:
                self.keep(key, self.checkpoint.tensor(key))
                self.done.add(key)
