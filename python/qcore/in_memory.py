"""A model in memory as what is quantized, and as where the result goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qcore.calibration.one_layer import check_finite
from qcore.calibration.weights import Weights
from qcore.checkpoints.pretrained import save_as_quantized
from qcore.checkpoints.sink import Sink
from qcore.checkpoints.store import Destination
from qcore.choice import Choice
from qcore.ends import place_table
from qcore.formats import Format
from qcore.methods import Method
from qcore.models import places_of, replace_linear, untie_quantized_heads
from qcore.qweight import QWeight

__all__ = ["ModelDestination", "ModelSource"]


class ModelSource:
    """A model in memory."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def check(self, formats: Mapping[str, Format]) -> None:
        """Raises what can be known before the model is changed."""
        for name in formats:
            check_finite(name, self.model.get_submodule(name).weight)  # type: ignore[arg-type]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The model in evaluation mode."""
        modes = {module: module.training for module in self.model.modules()}
        try:
            self.model.eval()
            yield
        finally:
            for module, training in modes.items():
                module.training = training

    def weights(self, sink: Sink, device: str | torch.device | None) -> ModelWeights:
        return ModelWeights(self.model, sink, device)


class ModelWeights(Weights):
    """Its weights, which stay where they are until all are decided."""

    def __init__(self, model: nn.Module, sink: Sink, device: str | torch.device | None) -> None:
        super().__init__(model, device)
        self.emit = sink.emit

    def emit_table(self, name: str, weight: QWeight) -> None:
        self.emit(name, weight)

    def finish(self) -> None:
        """What was not quantized stays where it is."""


class ModelDestination(Destination, Sink):
    """The model itself: its layers are replaced once all are decided."""

    def __init__(self, model: nn.Module, choice: Choice, method: Method) -> None:
        self.model, self.method = model, method
        self.formats, self.report, self.tables = choice.formats, choice.report, choice.tables
        self.done: dict[str, QWeight] = {}

    @contextmanager
    def opened(self) -> Iterator[Sink]:
        yield self

    def emit(self, layer: str, weight: QWeight) -> None:
        self.done[layer] = weight

    def keep(self, key: str, tensor: Tensor) -> None:
        raise AssertionError(key)  # it is there

    def finish(self) -> None:
        places = places_of(self.model)
        for name, weight in self.done.items():
            if name in self.tables:
                table = self.tables[name]
                dtype = self.model.get_submodule(name).get_parameter("weight").dtype
                place_table(self.model, table.embeddings, table.linears, weight, dtype, places)
            else:
                replace_linear(self.model, name, weight, places)
        save_as_quantized(self.model)
        untie_quantized_heads(self.model)
