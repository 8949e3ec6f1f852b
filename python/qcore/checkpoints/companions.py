"""What lies beside the weights of a folder and goes along with them: tokenizers, templates, settings, code,
the other modules of a sentence encoder: all but weights, what says how they are stored, and hidden files."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import warnings
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from qcore.checkpoints.containers import TWINS

__all__ = ["companions", "copy_companions", "expect_plain_files", "inside", "origin_of"]

# How files end that hold weights, or a model that was compiled of them.
_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz", ".h5", ".keras", ".msgpack", ".ot",
    ".onnx", ".onnx_data", ".gguf", ".ggml", ".tflite", ".mlmodel", ".nemo", ".pdparams", ".incomplete",
)  # fmt: skip
_INDEX = re.compile(r".*\.index(\.[^.]+)?\.json")

# What a tokenizer writes of itself; left out where one is saved along.
_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*",
)


def companions(source: Path, tokenizer: bool = True) -> list[Path]:
    """The files to copy, relative to the folder; warns of subfolders that hold weights, which are left out
    unless `modules.json` of a sentence encoder names them. Scripts are taken if some .json file of the folder
    names one of them: others are no part of the model.

    Args:
        tokenizer: take the tokenizer's files too.

    Raises:
        ValueError: a link to elsewhere, or what is neither file nor folder. Links within the cache of Hugging
            Face, from a snapshot to its blobs, are files.
    """
    expect_plain_files(source)
    modules = _modules(source)
    scripts = _names_scripts(source)
    chosen, without = [], []
    for entry in _entries(source):
        if entry.is_dir():
            inner = list(_files_under(source, entry))
            if entry.name in modules or not any(_is_weight(file.name) for file in inner):
                chosen += inner
            elif inner:
                without.append(entry.name)
        elif not (
            entry.name == "config.json"
            or entry.name in TWINS
            or _is_weight(entry.name)
            or (entry.suffix == ".py" and not scripts)
        ):
            chosen.append(_expect_own(source, entry))
    if without:
        warnings.warn(
            f"{source}: left out the folders {', '.join(without)}, because they hold weights of their own",
            stacklevel=4,
        )
    relative = [file.relative_to(source) for file in chosen]
    return [p for p in relative if tokenizer or not any(fnmatch(p.as_posix(), each) for each in _TOKENIZER)]


def origin_of(name_or_path: str, needed: bool) -> Path | None:
    """The folder that a model came from: a local one, or the hub's cache if it has one snapshot of it; warns
    if one is needed and the cache has several, or none."""
    path = Path(name_or_path)
    if path.is_dir():
        return path if (path / "config.json").exists() else None
    if not name_or_path or path.exists() or name_or_path.count("/") > 1:
        return None
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / f"models--{name_or_path.replace('/', '--')}"
    found = list(repository.glob("snapshots/*/config.json"))
    if len(found) == 1:
        return found[0].parent
    if needed:
        warnings.warn(
            f"{name_or_path}: the local cache has {len(found)} snapshots of it, so nothing beside its "
            f"weights was copied; give the tokenizer, or load the model from a folder",
            stacklevel=3,
        )
    return None


def copy_companions(source: Path, files: Sequence[Path], destination: Path) -> None:
    """Copies what `companions` named."""
    for file in files:
        target = destination / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source / file, target)
        except OSError as error:
            if error.filename2 is None:
                raise
            raise OSError(error.errno, error.strerror, str(target)) from error  # what cannot be written


def inside(folder: Path, name: Any, where: str) -> Path:
    """The path of a file that is named by another one, as a shard is by its index.

    Raises:
        ValueError: a name that leaves the folder.
    """
    normal = os.path.normpath(name) if isinstance(name, str) and name else ".."
    if os.path.isabs(normal) or normal.split(os.sep)[0] == ".." or "\0" in normal:
        raise ValueError(f"{folder}: {where}: expected the name of a file in the folder, got {name!r}")
    return folder / normal


def expect_plain_files(folder: Path) -> None:
    """Raises if something in a folder, or in one inside it, is neither a file nor a folder: reading a pipe or
    a device might never end."""
    for entry in _entries(folder):
        _expect_plain(entry)
        if entry.is_dir() and not entry.is_symlink():
            for inner in _entries(entry):
                _expect_plain(inner)


def _expect_plain(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:  # a link to nothing: said where it is needed
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise ValueError(f"{path}: expected a file, found {kind}")


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _files_under(source: Path, folder: Path) -> Iterator[Path]:
    if folder.is_symlink():
        raise ValueError(f"{folder}: is a link to a folder, which is not copied; put the folder itself there")
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _files_under(source, entry)
        else:
            yield _expect_own(source, entry)


def _expect_own(source: Path, file: Path) -> Path:
    """The file itself, which lies in the folder, or is a blob of the same repository in the hub's cache."""
    _expect_plain(file)
    if not file.exists():
        raise ValueError(f"{file}: is a link to nothing ({os.readlink(file)})")
    root, real = source.resolve(), file.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    if not real.is_relative_to(root) and real.parent != blobs:
        raise ValueError(f"{file}: is a link to {real}, outside of the folder; it is not copied")
    return file


def _is_weight(name: str) -> bool:
    return Path(name).suffix.lower() in _WEIGHTS or _INDEX.fullmatch(name) is not None


def _modules(source: Path) -> set[str]:
    """The folders of a sentence encoder's modules, the first part of their paths."""
    try:
        modules = json.loads((source / "modules.json").read_text(encoding="utf-8"))
        return {Path(module["path"]).parts[0] for module in modules if module.get("path")}
    except FileNotFoundError:
        return set()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{source / 'modules.json'}: expected a list of modules with paths: {error}"
        ) from error


def _names_scripts(source: Path) -> bool:
    scripts = [path.stem for path in source.glob("*.py")]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in source.glob("*.json") if scripts]
    if not texts:
        return False
    names = re.compile(rf'"([^"]*--)?({"|".join(map(re.escape, scripts))})\.\w+"')  # "module.Class"
    return any(names.search(text) for text in texts)
