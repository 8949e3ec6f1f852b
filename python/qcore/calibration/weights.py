"""Where weights are while a model is worked on part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qcore.qweight import QWeight

__all__ = ["Weights"]


class Weights:
    """Where the weights of a part of the model are while it is worked on.

    This base class serves a model that is in memory: a part is computed in float32, on the device that is
    given, and put back to where it was, in its own dtype, afterwards. Streaming from a checkpoint overrides
    these calls.
    """

    def __init__(self, model: nn.Module, device: str | torch.device | None = None) -> None:
        self.model, self.device = model, None if device is None else torch.device(device)
        self._kept: dict[str, dict[str, tuple[torch.dtype, torch.device]]] = {}

    def prepare(self, blocks: Sequence[str]) -> None:
        """Called first: what lies outside the blocks must be present, in any dtype."""

    @contextmanager
    def loaded(self, prefix: str) -> Iterator[None]:
        """While it lasts, what is under `prefix` is present, in float32 and on the device."""
        try:
            self.load(prefix)
            yield
        except BaseException:
            self.abandon(prefix)
            raise
        self.release(prefix)

    @contextmanager
    def visited(self, prefix: str) -> Iterator[None]:
        """As `loaded`, for one look: nothing is changed, and the part is not done with."""
        self.load(prefix)
        try:
            yield
        finally:
            self.leave(prefix)

    def load(self, prefix: str) -> None:
        kept = self._kept[prefix] = {}
        first: dict[int, tuple[torch.dtype, torch.device]] = {}  # a tied tensor comes under several names
        for name, tensor in self._tensors(prefix):
            kept[name] = first.setdefault(id(tensor), (tensor.dtype, tensor.device))
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            tensor.data = tensor.data.to(self.device or tensor.device, dtype)

    def stored_dtype(self, prefix: str, name: str) -> torch.dtype:
        """The dtype in which the parameter `name` (relative to a loaded prefix) is kept."""
        return self._kept[prefix][name][0]

    def abandon(self, prefix: str) -> None:
        """After an error: puts back what was there, and hands nothing on."""
        Weights.release(self, prefix)

    def emit_table(self, name: str, weight: QWeight) -> None:
        """Takes what a table of embeddings, and all that is tied to it, became."""
        raise NotImplementedError

    def leave(self, prefix: str) -> None:
        """Undoes `load`, where nothing was changed."""
        Weights.release(self, prefix)

    def release(self, prefix: str) -> None:
        kept = self._kept.pop(prefix, {})
        for name, tensor in self._tensors(prefix):
            if name in kept:
                dtype, device = kept[name]
                tensor.data = tensor.data.to(device, dtype)

    def _tensors(self, prefix: str) -> list[tuple[str, Tensor]]:
        """Parameters and buffers with their names relative to the prefix, shared ones under each name."""
        part = self.model.get_submodule(prefix)
        return [
            *part.named_parameters(remove_duplicate=False),
            *part.named_buffers(remove_duplicate=False),
        ]
