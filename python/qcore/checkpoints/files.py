"""Hugging Face folders: sharded safetensors in, sharded safetensors out, one tensor at a time."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qcore.checkpoints.companions import expect_plain_files, inside
from qcore.checkpoints.containers import quantization_of
from qcore.interrupts import uninterrupted
from qcore.room import Room

__all__ = ["Checkpoint", "ShardWriter", "atomic_folder", "read_json", "resolve_source", "write_json"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"

# The same weights in other forms. A sentence encoder's modules in subfolders may be .bin files.
_NOT_DOWNLOADED = [
    "pytorch_model*", "consolidated*", "original/*", "onnx/*", "openvino/*", "*.pth", "*.gguf", "*.h5",
    "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.tflite",
]  # fmt: skip


def resolve_source(source: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint: a local one, or a Hugging Face id, downloaded to the local cache."""
    path = Path(source)
    if path.is_dir():
        expect_plain_files(path)
        return path
    if path.exists():
        raise ValueError(f"{path}: expected a folder with config.json and safetensors, got a file")
    if path.suffix.lower() == ".gguf":
        raise FileNotFoundError(f"{path}: no such file")
    text = str(source)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(text, ignore_patterns=_NOT_DOWNLOADED))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise FileNotFoundError(
                f"{text}: no such folder, and not to be had as a Hugging Face id: {reason}"
            ) from error
    raise FileNotFoundError(f"{text}: no such folder")


# How much is read of a mapped shard before it is mapped anew, which reads its header again.
_MAPPED_BYTES = 32 << 20

# Dtype, in the words of safetensors, and shape of each tensor of a shard.
_Header = dict[str, tuple[str, tuple[int, ...]]]


class Checkpoint:
    """The tensors of a folder, by name. Every shard's header is checked on opening.

    Attributes:
        path: the folder.
        config: config.json.
        quantization: what it, or a file beside it, says of quantized layers; empty if nothing is said.
        files: the shard that holds each tensor.
        room: what it holds, in numbers, with which those of config.json have been compared.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.path = resolve_source(source)
        if (self.path / "adapter_config.json").exists():
            raise ValueError(
                f"{self.path}: holds an adapter (adapter_config.json), which would be lost; merge it into "
                f"its model first, by merge_and_unload of peft"
            )
        self.config = self._config()
        self._headers: dict[Path, _Header] = {}
        self._metadata: dict[str, str] | None = None
        self._mapped: tuple[Path, Any] | None = None
        self._bytes_read = 0
        self.files = self._index()
        self.quantization = quantization_of(self.config, self.files, self._beside)
        size = sum(path.stat().st_size for path in set(self.files.values()))
        self.room = Room(len(self.files), size)
        self.room.expect_counts(self.config, f"{self.path / 'config.json'}")

    def _config(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")

    def _beside(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder, if it is there."""
        return read_json(self.path / name) if (self.path / name).is_file() else None

    def _index(self) -> dict[str, Path]:
        """Which file holds each tensor, by the same rule as in transformers: what the configuration names, or
        a single file before the index of several, which is then stale."""
        explicit = self.config.get("transformers_weights")
        names = (_SINGLE, _INDEX) if explicit is None else (explicit,)
        paths = [inside(self.path, name, "config.json: transformers_weights") for name in names]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"{self.path}: expected {' or '.join(names)}, found {'neither' if names[1:] else 'none'} "
                f"(pickle checkpoints are not read; save them as safetensors first)"
            )
        if path.suffix != ".json":
            return dict.fromkeys(self._shard(path), path)
        weight_map = read_json(path).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{path}: expected a weight_map, found none")
        files = {name: inside(self.path, shard, path.name) for name, shard in weight_map.items()}
        for shard in sorted(set(files.values())):
            if not shard.is_file():
                raise FileNotFoundError(f"{shard}: named by {path.name}, but missing")
            absent = {n for n, f in files.items() if f == shard} - self._shard(shard).keys()
            if absent:
                raise ValueError(f"{shard}: {path.name} promises {sorted(absent)[0]}, which it lacks")
        return files

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the headers of all shards say besides, by key."""
        if self._metadata is None:
            self._metadata = {}
            for shard in sorted(set(self.files.values())):
                with safe_open(shard, framework="pt") as file:
                    self._metadata |= file.metadata() or {}
        return self._metadata

    def tensor(self, name: str) -> Tensor:
        """Reads one tensor. The file is mapped anew now and then, so that its pages do not stay."""
        if name not in self.files:
            raise ValueError(f"{self.path}: has no tensor {name}")
        shard = self.files[name]
        try:
            if self._mapped is None or self._mapped[0] != shard:
                self._mapped, self._bytes_read = (shard, safe_open(shard, framework="pt")), 0
            tensor: Tensor = self._mapped[1].get_tensor(name).clone()
        except SafetensorError as error:
            raise ValueError(f"{shard}: cannot read {name}: {error}") from error
        self._bytes_read += tensor.nbytes
        if self._bytes_read > _MAPPED_BYTES:
            self._mapped = None
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return self._header(name)[1]

    def dtype(self, name: str) -> str:
        """The safetensors name of a tensor's dtype, e.g. BF16."""
        return self._header(name)[0]

    def _header(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Dtype and shape."""
        return self._shard(self.files[name])[name]

    def _shard(self, shard: Path) -> _Header:
        """The header of a shard, which is opened once for all of its tensors."""
        if shard not in self._headers:
            self._headers[shard] = _header_of(shard)
        return self._headers[shard]


class ShardWriter:
    """Writes tensors into shards of at most about `shard_bytes`, and the index at the end."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._storages: set[int] = set()
        self._pending_bytes = 0
        self._shards: list[list[str]] = []
        self.total_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Takes a tensor, which may be a view of one that was given before.

        Raises:
            ValueError: a tensor without values, of the meta device.
        """
        if tensor.is_meta:
            raise ValueError(f"{name}: has no values to write (it is on the meta device)")
        size = tensor.numel() * tensor.itemsize
        if self._pending and self._pending_bytes + size > self.shard_bytes:
            self._flush()
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        if storage in self._storages:  # safetensors takes no two tensors of one storage
            tensor = tensor.clone()
        self._storages.add(storage)
        self._pending[name] = tensor
        self._pending_bytes += size
        self.total_bytes += size

    def _flush(self) -> None:
        path = self.folder / f"shard-{len(self._shards)}.safetensors"
        try:
            save_file(self._pending, path, metadata={"format": "pt"})
        except SafetensorError as error:  # how safetensors reports a full disk
            if number := re.search(r"\(os error (\d+)\)", str(error)):
                code = int(number[1])
                raise OSError(code, os.strerror(code), str(path)) from error
            raise OSError(f"{path}: cannot write: {error}") from error
        self._shards.append(list(self._pending))
        self._pending, self._storages, self._pending_bytes = {}, set(), 0

    def finish(self) -> None:
        """Writes what is left, gives the shards their final names, and writes the index if several."""
        if self._pending or not self._shards:
            self._flush()
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        for index, names in enumerate(self._shards):
            final = _SINGLE if count == 1 else f"model-{index + 1:05}-of-{count:05}.safetensors"
            os.rename(self.folder / f"shard-{index}.safetensors", self.folder / final)
            weight_map.update(dict.fromkeys(names, final))
        if count > 1:
            index_json = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
            write_json(self.folder / _INDEX, index_json)


@contextmanager
def atomic_folder(destination: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into that appears under its name only once it is complete.

    On any error nothing is left behind, and an existing destination stays as it was. A signal that kills the
    program at once (SIGTERM, unless the program makes an exception of it as the command line does) leaves the
    hidden folder `.NAME.XXXXXXXX` beside the destination.
    """
    target = Path(os.path.realpath(destination))  # what a link points to is replaced, not the link
    if target.exists():
        if not overwrite:
            raise FileExistsError(f"{target}: exists already; choose another name, or allow overwriting")
        if not target.is_dir():
            raise FileExistsError(f"{target}: expected a folder to overwrite, found a file")
        if any(target.iterdir()) and not (target / "config.json").exists():
            raise FileExistsError(f"{target}: holds something else than a model; it is not overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    work: Path | None = None
    try:
        with uninterrupted():
            work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            os.chmod(work, 0o755)  # mkdtemp makes it private; a model folder is not
        yield work
        with uninterrupted():
            _replace(target, work)
    except BaseException:
        if work is not None:
            with uninterrupted():
                shutil.rmtree(work, ignore_errors=True)
        raise


def _replace(target: Path, work: Path) -> None:
    """Puts the folder `work` in the place of `target`, whose old content goes only if that worked."""
    if not target.exists():
        os.rename(work, target)
        return
    old = work.with_name(work.name + ".old")
    os.rename(target, old)
    try:
        os.rename(work, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: missing") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _header_of(shard: Path) -> _Header:
    try:
        with safe_open(shard, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return {name: (str(t.get_dtype()), tuple(t.get_shape())) for name, t in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{shard}: no readable safetensors file (truncated?): {error}") from error
