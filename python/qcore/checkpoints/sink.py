"""Where a quantized model goes, tensor by tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from qcore.qweight import QWeight

__all__ = ["Sink"]


class Sink(ABC):
    """Takes each tensor once, in any order.

    Attributes:
        by_model: what the checkpoint has in other pieces than the model comes in the model's, by its names.
    """

    by_model: bool = False

    @abstractmethod
    def emit(self, layer: str, weight: QWeight) -> None:
        """A linear layer that was quantized, by the name that its checkpoint, or model, has for it."""

    @abstractmethod
    def keep(self, key: str, tensor: Tensor) -> None:
        """A tensor that was not quantized; a method may have changed it."""

    @abstractmethod
    def finish(self) -> None:
        """All has come."""
