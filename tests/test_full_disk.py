"""A disk that fills up while a model is written: the first error is the one that is shown, nothing more is
written once it has come, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

import qcore
import tiny
from gguf_cases import byte_level, make, save, wrap
from qcore.checkpoints import files
from qcore.checkpoints.gguf import writer


class Disk:
    """Room for so many bytes; counts what is tried after it was full."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.full = False
        self.written_when_full = 0

    def take(self, size: int) -> None:
        self.written_when_full += self.full
        self.full = self.full or size > self.room
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= size


class _File:
    """An unbuffered file on such a disk."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: memoryview) -> int:
        self._disk.take(len(data))
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Disk]:
    """Makes the disk small from here on."""

    def made(room: int) -> Disk:
        disk = Disk(room)
        make_writer, save_file = writer.GgufWriter.__init__, files.save_file

        def init(self: Any, *args: Any) -> None:
            make_writer(self, *args)
            self._file = _File(self._file, disk)

        def saved(tensors: dict[str, Any], path: Path, metadata: dict[str, str]) -> None:
            try:
                disk.take(sum(t.numel() * t.itemsize for t in tensors.values()))
            except OSError as error:  # in the words of safetensors
                text = f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
                raise SafetensorError(text) from None
            save_file(tensors, path, metadata)

        monkeypatch.setattr(writer.GgufWriter, "__init__", init)
        monkeypatch.setattr(files, "save_file", saved)
        return disk

    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make("llama", vocab_size=320, num_hidden_layers=3, intermediate_size=256, hidden_size=256)
    return save(model, tmp_path_factory.mktemp("source"), wrap(byte_level(None, 300)))


def to_folder(source: Path, out: Path, method: str) -> Path:
    ids = tiny.tokens(2, 16)
    qcore.quantize_folder(source, out / "w4", "W4A16", method, ids, group_size=32, shard_bytes=50_000)
    return out / "w4" / "model.safetensors"


def to_gguf(source: Path, out: Path, method: str) -> Path:
    qcore.quantize_gguf(source, out / "model.gguf", "Q4_K_M", method, tiny.tokens(2, 16))
    return out / "model.gguf"


def to_folder_from_memory(source: Path, out: Path, method: str) -> Path:
    model = qcore.quantize(qcore.load(source), "W4A16", "rtn", group_size=32)
    qcore.save(model, out / "saved", shard_bytes=50_000)
    return out / "saved" / "model.safetensors"


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("write", [to_folder, to_gguf, to_folder_from_memory])
def test_the_first_error_is_shown_and_nothing_is_written_after_it(
    source: Path, tmp_path: Path, write: Callable[..., Path], method: str, fill: Callable[[int], Disk]
) -> None:
    disk = fill(random.randrange(400_000))
    with pytest.raises(OSError, match=r"No space left on device: '/.*'") as caught:
        write(source, tmp_path, method)
    assert caught.value.errno == errno.ENOSPC
    assert disk.full
    assert disk.written_when_full == 0
    assert list(errors_behind(caught.value)) == []
    assert list(tmp_path.iterdir()) == []


def errors_behind(error: BaseException | None) -> Iterator[BaseException]:
    """What else went wrong while the error was on its way."""
    while (error := error.__context__ if error is not None else None) is not None:
        if not isinstance(error, OSError | SafetensorError):
            yield error


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
sys.argv[0] = "qcore"
from qcore.cli import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the size of files")
@pytest.mark.parametrize("name", ["model.gguf", "folder"])
@pytest.mark.parametrize("limit", [3_000, 400_000])
def test_a_limit_of_the_system(source: Path, tmp_path: Path, name: str, limit: int) -> None:
    """A real one: no file may be larger than this. The first limit is within the header of a GGUF file."""
    scheme = ["--scheme", "Q8_0"] if name.endswith("gguf") else ["--scheme", "W4A16", "--group-size", "64"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), "quantize", source, tmp_path / name, "--method", "rtn",
         *scheme],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: [Errno {errno.EFBIG}] File too large: '{tmp_path}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY  # that of the tests
