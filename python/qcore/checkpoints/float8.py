"""What the containers of e4m3 weights have in common: `weight` float8_e4m3fn [N, K], its scale, and for
static activations the scale of the inputs. They differ in names, and in how config.json speaks of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor

from qcore.checkpoints.compressed_tensors import plain
from qcore.checkpoints.container import (
    Container,
    Header,
    StoredLayer,
    expect_matrix,
    expect_parts,
    expect_plain_inputs,
    naming,
)
from qcore.checkpoints.fields import NAMES, Kind
from qcore.formats import Format
from qcore.qweight import QWeight

__all__ = ["Float8Container", "excludes"]


class Float8Container(Container):
    """Layers are known by the scale beside their weight."""

    scales: ClassVar[tuple[str, ...]]
    """What the scale of the weight is called; the first of them is written."""
    input_scales: ClassVar[tuple[str, ...]] = ()
    """And the static scale of the inputs."""
    idle: ClassVar[tuple[str, ...]] = ()
    """What a layer may have besides, which changes nothing."""
    powers: ClassVar[bool] = False
    """Whether scales may be stored as powers of two."""
    asked: ClassVar[Mapping[str, Kind]] = {}
    """Further fields of the configuration, with their kinds."""
    excluded: ClassVar[str]
    """The key of the configuration that lists layers which are not quantized."""

    @abstractmethod
    def format_of(self, config: Mapping[str, Any], name: str) -> Format:
        """Of a layer.

        Raises:
            ValueError: a configuration that cannot be served, naming its key.
        """

    @property
    def fields(self) -> Mapping[str, Kind]:  # type: ignore[override]
        return {self.excluded: NAMES, **self.asked}

    def layers(self, config: Mapping[str, Any], header: Header) -> list[StoredLayer]:
        found: list[StoredLayer] = []
        for key in header:
            name, _, part = key.rpartition(".")
            if part not in self.scales:
                continue
            if excludes(config.get(self.excluded) or (), name):
                raise ValueError(f"{name}: is quantized, but quantization_config.{self.excluded} excludes it")
            with naming("quantization_config"):
                format = self.format_of(config, name)
            static = format.activations is not None and format.activations.static
            of_inputs = next((p for p in self.input_scales if f"{name}.{p}" in header), None)
            needed = [of_inputs or self.input_scales[0]] if static else []
            known = ("weight", *self.scales, *self.input_scales, *self.idle)
            expect_parts(name, header, ["weight", part, *needed], self.idle, known)
            parts = tuple(f"{name}.{p}" for p in known if f"{name}.{p}" in header)
            found.append(StoredLayer(name, format, expect_matrix(f"{name}.weight", header), parts))
        return found

    def read(self, layer: StoredLayer, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QWeight:
        def called(names: Sequence[str]) -> str:
            return next((name for name in names if f"{layer.name}.{name}" in tensors), names[0])

        scale = called(self.scales)
        given = tensors.get(f"{layer.name}.{scale}")
        if (
            self.powers and given is not None and given.dtype in (torch.float8_e8m0fnu, torch.uint8)
        ):  # powers of two
            powers = given.view(torch.float8_e8m0fnu).float()
            tensors = {**tensors, f"{layer.name}.{scale}": powers}
        inputs = called(self.input_scales) if self.input_scales else "input_scale"
        return plain.from_tensors(layer.name, tensors, layer.format, scale, inputs)

    def write(self, name: str, weight: QWeight) -> dict[str, Tensor]:
        expect_plain_inputs(name, weight)
        names = {"weight_scale": self.scales[0], "input_scale": (*self.input_scales, "input_scale")[0]}
        stored = {key.rpartition(".")[2]: t for key, t in plain.to_tensors(name, weight).items()}
        return {f"{name}.{names.get(part, part)}": tensor for part, tensor in stored.items()}


def excludes(patterns: Collection[str], name: str) -> bool:
    """Whether one of them names the layer, or what it is a part of; "*" stands for anything."""
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in patterns)
