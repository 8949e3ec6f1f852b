"""One thing at a time that is wrong with a folder: every field of what config.json says of the quantization,
every tensor. `tests/test_mutations.py` tries them all, `tests/fuzz_folders.py` several at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

Path_ = tuple[str | int, ...]

# What a field may be replaced by; numbers are also tried doubled and halved, booleans negated.
WRONG: list[Any] = [None, -1, 0, 7, 5.5, "x", "", [], {}, [None], {"a": 1}, True]
# Files that speak of the quantization besides config.json, whose content is what config.json says in them.
TWINS = ("quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json")


@dataclass
class Folder:
    """A folder in memory."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Folder:
        """Twins are left out: two files that contradict each other are a test of its own."""
        config = json.loads((path / "config.json").read_text())
        with safe_open(path / "model.safetensors", framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            return cls(config, tensors, file.metadata() or {})

    def write(self, path: Path) -> Path:
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(self.config))
        tensors = {key: tensor.contiguous() for key, tensor in self.tensors.items()}
        save_file(tensors, path / "model.safetensors", metadata=self.metadata or {"format": "pt"})
        return path


@dataclass(frozen=True)
class Mutation:
    """What is changed, and a folder in which it is.

    Attributes:
        where: the path of a field, or the key of a tensor.
        how: what was done to it.
    """

    where: str
    how: str
    folder: Folder

    def __str__(self) -> str:
        return f"{self.where} {self.how}"


def of_config(folder: Folder) -> Iterator[Mutation]:
    """Every field below `quantization_config`."""
    for path, value in fields(folder.config["quantization_config"]):
        where = ".".join(map(str, path))
        for how, new in replacements(value):
            config = copy.deepcopy(folder.config)
            holder = config["quantization_config"]
            for key in path[:-1]:
                holder = holder[key]
            if how == "removed":
                del holder[path[-1]]
            else:
                holder[path[-1]] = new
            yield Mutation(where, how, Folder(config, folder.tensors, folder.metadata))


def fields(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key), inner
        if isinstance(inner, (dict, list)):
            yield from fields(inner, (*path, key))


def replacements(value: Any) -> Iterator[tuple[str, Any]]:
    yield "removed", None
    others = list(WRONG)
    if isinstance(value, bool):
        others = [not value, *others]
    elif isinstance(value, (int, float)):
        others = [value * 2, value // 2, str(value), *others]
    elif isinstance(value, str):
        others = [value + "x", value.upper(), *others]
    seen = [json.dumps(value)]
    for other in others:
        if json.dumps(other) not in seen:
            seen.append(json.dumps(other))
            yield f"= {other!r}", other


def of_tensors(folder: Folder, keys: list[str]) -> Iterator[Mutation]:
    """These tensors, and what the header says of them."""
    for key in keys:
        for how, new in damaged(folder.tensors[key]):
            tensors = {**folder.tensors, key: new} if new is not None else dict(folder.tensors)
            if new is None:
                del tensors[key]
            yield Mutation(key, how, Folder(folder.config, tensors, folder.metadata))
    for key, said in folder.metadata.items():
        if key.endswith(".weight") and f"{key.removesuffix('.weight')}._weight_qdata" in keys:
            yield from of_metadata(folder, key, json.loads(said))


def of_metadata(folder: Folder, key: str, said: dict[str, Any]) -> Iterator[Mutation]:
    for path, value in fields(said):
        for how, new in replacements(value):
            changed = copy.deepcopy(said)
            holder: Any = changed
            for step in path[:-1]:
                holder = holder[step]
            if how == "removed":
                del holder[path[-1]]
            else:
                holder[path[-1]] = new
            metadata = {**folder.metadata, key: json.dumps(changed)}
            where = f"{key} {'.'.join(map(str, path))}"
            yield Mutation(where, how, Folder(folder.config, folder.tensors, metadata))


def damaged(tensor: Tensor) -> Iterator[tuple[str, Tensor | None]]:
    """Whatever can be seen to be wrong: other shapes, dtypes, numbers that are none."""
    yield "removed", None
    yield "of rank 5", tensor.reshape(*[1] * (5 - tensor.dim()), *tensor.shape)
    yield "empty", tensor.flatten()[:0]
    if tensor.dim() and tensor.numel() > 1:
        yield "flat", tensor.flatten()
        yield "cut", tensor[: len(tensor) // 2].clone()
        yield "doubled", torch.cat([tensor, tensor])
    if tensor.dim() == 2:
        if tensor.shape[0] != tensor.shape[1]:
            yield "transposed", tensor.T.contiguous()
        yield "narrow", tensor[:, : tensor.shape[1] // 2].contiguous()
        yield "wide", torch.cat([tensor, tensor], 1)
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float64, torch.float32,
                  torch.float16, torch.complex64, torch.float8_e4m3fn):  # fmt: skip
        if dtype != tensor.dtype:
            other = tensor.float().to(dtype) if tensor.itemsize == 1 else tensor.to(dtype)
            # What another float dtype rounds is another checkpoint.
            if not (dtype.is_floating_point and dtype.itemsize > 1) or torch.equal(
                other.float(), tensor.float()
            ):
                yield str(dtype), other
    if tensor.is_floating_point():
        for number in (float("nan"), float("inf")):
            if tensor.itemsize > 1:
                yield f"with {number}", torch.full_like(tensor, number)
        if tensor.itemsize == 1:
            yield "with nan", torch.full_like(tensor, float("nan"))
    elif tensor.numel() and tensor.dtype != torch.bool:
        yield "with 0x7f", torch.full_like(tensor, 127)
