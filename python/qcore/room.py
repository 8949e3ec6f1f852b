"""What a checkpoint has room for: numbers of a configuration are compared with it before anything is made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

__all__ = ["Room"]

# Keys whose numbers count things of which configurations make lists: layers, heads, labels.
_COUNTS = re.compile(r"(^|_)(num|n|depths?|layers?|blocks?|groups?|heads?|experts?|labels?|count)(_|$)")
# Lengths of texts are not: a little model may be told to read long ones.
_LENGTHS = re.compile(r"position|ctx|context|token|length")
# What no configuration need be asked for: lists of that length are nothing.
_FREE = 1 << 16
# A model has at most so many parameters for a tensor of its checkpoint (fused ones are split), and some more.
_PARAMETERS, _MORE_PARAMETERS = 8, 256
# Its weights in float32 (stored with little more than a bit each), and the tables in its buffers, as masks of
# all positions, take at most so many bytes for a byte of its checkpoint, and some more.
_WEIGHTS, _TABLES, _MORE_BYTES = 32, 8, 1 << 28


@dataclass(frozen=True)
class Room:
    """A checkpoint's size.

    Attributes:
        tensors: how many it holds.
        bytes: of all of them.
    """

    tensors: int
    bytes: int

    def expect_counts(self, config: Mapping[str, Any], where: str) -> None:
        """Raises ValueError if a configuration, or one inside it, counts more things than there are bytes."""
        for key, value in config.items():
            if isinstance(value, Mapping):
                self.expect_counts(value, f"{where}: {key}")
            elif _counts(key, value) and value > max(_FREE, self.bytes):
                raise ValueError(f"{where}: {key} is {value}, but the weights have only {self.bytes} bytes")

    @contextmanager
    def building(self) -> Iterator[None]:
        """While it lasts, a model that is built may not have more parameters than there are tensors for.

        Raises:
            ValueError: it has.
        """
        left = _PARAMETERS * self.tensors + _MORE_PARAMETERS

        def count(module: nn.Module, name: str, parameter: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise ValueError(
                    f"config.json describes a model of many more parameters than the {self.tensors} tensors "
                    f"of the checkpoint"
                )

        handle = register_module_parameter_registration_hook(count)
        try:
            yield
        finally:
            handle.remove()

    def expect_size(self, model: nn.Module) -> None:
        """Raises ValueError if a model, on the meta device, is too large for its checkpoint."""
        for what, tensors, most in (
            ("weights", model.parameters(), _WEIGHTS),
            ("tables", model.buffers(), _TABLES),
        ):
            size = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
            if size > most * self.bytes + _MORE_BYTES:
                raise ValueError(
                    f"config.json describes a model whose {what} take {size} bytes, but the checkpoint holds "
                    f"only {self.bytes}"
                )


def _counts(key: str, value: object) -> bool:
    if type(value) not in (int, float) or _LENGTHS.search(key):
        return False
    return _COUNTS.search(key) is not None
