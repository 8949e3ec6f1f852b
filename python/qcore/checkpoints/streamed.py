"""Weights that stay in a checkpoint while a model is quantized part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qcore.calibration.weights import Weights
from qcore.checkpoints.containers import expect_plain
from qcore.checkpoints.files import Checkpoint
from qcore.checkpoints.sink import Sink
from qcore.conversion import Conversion, renamer
from qcore.formats import Format
from qcore.linears import make_linear
from qcore.models import config_of, empty_model
from qcore.qweight import QWeight
from qcore.tensors import (
    fill_computed,
    persistent_tensors,
    set_tensor,
    shared_names,
    stored_names,
    tie_weights,
)

__all__ = ["FolderSource", "StreamedWeights"]


class FolderSource:
    """A model in a Hugging Face folder that is not quantized.

    Attributes:
        config: of transformers.
        trust_remote_code: whether code that the folder brings is run.
        model: empty: its parameters are on the meta device. Transposed layers stand as `nn.Linear`s.
        stored: the checkpoint's key for each parameter and buffer of the model that is stored as it is.
        merges: the others, made of several keys or cut out of one.
        missing: those that the checkpoint lacks.
        computed: those that it may lack, because transformers computes them; they are there.
        notes: what whoever uses the result should know of it.
    """

    def __init__(self, checkpoint: Checkpoint, trust_remote_code: bool = False) -> None:
        if checkpoint.quantization:
            raise ValueError(f"{checkpoint.path}: is quantized already; give the original checkpoint")
        self.checkpoint = checkpoint
        self.notes: list[str] = []
        self.trust_remote_code = trust_remote_code
        self.config = config_of(checkpoint.path, trust_remote_code)
        self.model: nn.Module = empty_model(self.config, trust_remote_code, room=checkpoint.room)
        names = persistent_tensors(self.model).keys()
        expect_plain(checkpoint, names)
        conversion = Conversion(self.model, names, checkpoint, checkpoint.shape)
        self.transposed = {f"{name}.weight" for name in make_linear(self.model)}
        self.stored = stored_names(self.model, conversion.same)
        self.merges = conversion.merges
        lacking = [name for name in names if name not in self.stored and name not in self.merges]
        self.missing = fill_computed(self.model, lacking, getattr(self.config, "dtype", None))
        self.computed = set(lacking) - set(self.missing)

    @property
    def apart(self) -> set[str]:
        """Names that the model ties to another one, but for which the checkpoint has a tensor of its own."""
        return {
            name
            for first, *others in shared_names(self.model)
            for name in others
            if self.stored.get(name) != self.stored.get(first)
        }

    def keys_of(self, name: str) -> list[str]:
        """What the checkpoint makes a tensor of the model of; nothing if it lacks it."""
        if name in self.stored:
            return [self.stored[name]]
        return [key for key, _ in self.merges[name].keys] if name in self.merges else []

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor of the model, as the checkpoint has it."""
        if name not in self.stored:
            return self.merges[name].shapes[name]
        shape = self.checkpoint.shape(self.stored[name])
        return shape[::-1] if name in self.transposed else shape

    def tensor(self, name: str) -> Tensor:
        """A tensor of the model, from the checkpoint."""
        if name not in self.stored:
            return self.merges[name].made(self.checkpoint.tensor)[name]
        tensor = self.checkpoint.tensor(self.stored[name])
        return tensor.T.contiguous() if name in self.transposed else tensor

    def check_shapes(self) -> None:
        """Raises, naming it, if a tensor is missing from the checkpoint or has another shape."""
        if self.missing:
            raise ValueError(
                f"{self.checkpoint.path}: has no tensor {self.missing[0]}, which the model needs"
            )
        for name, parameter in persistent_tensors(self.model).items():
            keys = self.keys_of(name)
            if not keys:
                continue  # computed
            if self.shape(name) != tuple(parameter.shape):
                flip = -1 if name in self.transposed else 1
                raise ValueError(
                    f"{self.checkpoint.files[keys[0]]}: {keys[0]}: expected shape "
                    f"{tuple(parameter.shape)[::flip]}, got {self.shape(name)[::flip]}"
                )

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
        self.source, self.sink = source, sink
        self.checkpoint, self.stored = source.checkpoint, source.stored
        self.rename = renamer(source.model)
        self.done: set[str] = set()
        self.inside: set[str] = set()  # parameters of the parts that are worked on
        self.widened: set[str] = set()  # parameters outside of them that are in another dtype than stored
        self.emitted: set[str] = set()  # of what rules of transformers make, by the model's names

    def emit(self, name: str, weight: QWeight) -> None:
        """Hands on what a linear layer became, under the name that the checkpoint has for it; a weight that
        is tied to another one there, or is made of others, has the model's name."""
        if f"{name}.weight" not in self.stored:
            self.emitted.add(f"{name}.weight")
            self.sink.emit(name, weight)
            return
        key = self.stored[f"{name}.weight"]
        own = self.rename(key) == f"{name}.weight"
        self.sink.emit(key.removesuffix(".weight") if own else name, weight)
        if own:
            self.done.add(key)

    def emit_table(self, name: str, weight: QWeight) -> None:
        """Hands on what a table became, under the name that the checkpoint has for it; all that is tied to it
        there is done with it."""
        key = self.stored[f"{name}.weight"]
        own = self.rename(key) == f"{name}.weight"
        self.sink.emit(key.removesuffix(".weight") if own else name, weight)
        self.done.add(key)

    def prepare(self, blocks: Sequence[str]) -> None:
        inside = tuple(f"{name}." for name in blocks if name)
        self.inside = {name for name, _ in self.model.named_parameters() if name.startswith(inside)}
        buffers = {name for name, _ in self.model.named_buffers()}
        for name in (*self.stored, *self.source.merges):
            if name in buffers or not name.startswith(inside):
                self._fill(name)
        outside = {name: p for name, p in self.model.named_parameters() if name not in self.inside}
        if len({p.dtype for p in outside.values() if p.is_floating_point()}) > 1:
            # What transformers brings to one dtype when it loads the model does not compute together.
            self.widened = {name for name, p in outside.items() if p.dtype != torch.float32}
            for name in self.widened:
                outside[name].data = outside[name].data.float()
        tie_weights(self.model, self.stored)

    def _fill(self, name: str) -> None:
        set_tensor(self.model, name, self.source.tensor(name))

    def load(self, prefix: str) -> None:
        for name, parameter in self._parameters(prefix):
            if parameter.is_meta or name in self.widened:
                self._fill(name)
                self.widened.discard(name)
        super().load(prefix)

    def leave(self, prefix: str) -> None:
        super().release(prefix)
        for name, _ in self._parameters(prefix):
            if name in self.inside and name not in self.source.computed:
                set_tensor(self.model, name, None)

    def release(self, prefix: str) -> None:
        super().release(prefix)
        for name, parameter in self._parameters(prefix):
            key = self.stored.get(name)  # what is made of others is copied in the end, as it was
            if key is not None and key not in self.done and self.rename(key) == name:
                transposed = name in self.source.transposed
                self.sink.keep(key, parameter.data.T if transposed else parameter.data)
                self.done.add(key)
            if name not in self.source.computed:
                set_tensor(self.model, name, None)

    def _parameters(self, prefix: str) -> list[tuple[str, nn.Parameter]]:
        dot = f"{prefix}." if prefix else ""
        part = self.model.get_submodule(prefix)
        return [(dot + n, p) for n, p in part.named_parameters(remove_duplicate=False)]

    def finish(self) -> None:
        """Hands on what calibration did not touch. What a rule of transformers applies to stays in the pieces
        that the checkpoint has, unless some of what comes of it is quantized, or the sink wants the other."""
        for merge in {id(merge): merge for merge in self.source.merges.values()}.values():
            names = [name for name in merge.shapes if name in self.source.merges]
            if self.sink.by_model or not self.emitted.isdisjoint(names):
                rest = set(names) - self.emitted
                made = merge.made(self.checkpoint.tensor) if rest else {}
                for name in sorted(rest):
                    self.sink.keep(name, made[name])
                self.done |= {key for key, _ in merge.keys}
        for key in self.checkpoint:
            if key not in self.done:
                self.sink.keep(key, self.checkpoint.tensor(key))
                self.done.add(key)
