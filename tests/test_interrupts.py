"""Signals that ask the command line to end: no hidden folder stays, and the exit code names the signal."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import qcore
import tiny
from conftest import REPOSITORY
from gguf_cases import byte_level, make, save, wrap
from qcore.interrupts import uninterrupted

MODEL = REPOSITORY / "models" / "pydoc-llama-7m"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sends signals to itself")

# Sends the signal from inside of the named function.
PROGRAM = """
import os, sys, signal
from importlib import import_module
number, module, name = int(sys.argv.pop(1)), sys.argv.pop(1), sys.argv.pop(1)
sys.argv[0] = "qcore"
owner = import_module(module)
*path, leaf = name.split(".")
for part in path:
    owner = getattr(owner, part)
original = getattr(owner, leaf)
def function(*args, **kwargs):
    result = original(*args, **kwargs)
    os.kill(os.getpid(), number)
    return result
setattr(owner, leaf, function)
from qcore.cli import main
main()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make("llama", vocab_size=320), tmp_path_factory.mktemp("source"), wrap(byte_level(None, 300)))


@pytest.mark.parametrize(
    ("number", "where", "complete"),
    [
        (signal.SIGTERM, "qcore.checkpoints.files ShardWriter.add", False),
        (signal.SIGHUP, "qcore.checkpoints.files write_json", False),
        (signal.SIGINT, "qcore.checkpoints.gguf.writer GgufWriter.add", False),
        (signal.SIGTERM, "tempfile mkdtemp", False),
        (signal.SIGTERM, "tempfile mkstemp", False),
        (signal.SIGHUP, "qcore.checkpoints.files _replace", True),  # the last step is not left half done
    ],
)
def test_nothing_stays(
    source: Path, tmp_path: Path, number: signal.Signals, where: str, complete: bool
) -> None:
    gguf = "gguf" in where or "mkstemp" in where
    out = tmp_path / ("out.gguf" if gguf else "out")
    scheme = ["--scheme", "Q8_0"] if gguf else ["--group-size", "32"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(number)), *where.split(), "quantize", source, out,
         "--method", "rtn", *scheme],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr == f"error: ended by {number.name}\n"
    assert list(tmp_path.iterdir()) == ([out] if complete else [])
    if complete:
        tiny.logits(qcore.load(out))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_from_outside(tmp_path: Path, number: signal.Signals) -> None:
    """At any time after the hidden folder appears, and again while it is being removed."""
    command = [sys.executable, "-m", "qcore", "quantize", MODEL, tmp_path / "out", "--method", "gptq"]
    calibration = ["--calibration", MODEL / "calibration.txt", "--samples", "8"]
    with subprocess.Popen([*command, *calibration], stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.iterdir()):
            time.sleep(0.02)
        process.send_signal(number)
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 128 + number, errors
    assert list(tmp_path.iterdir()) == []


TRANSLATED = """
import os, signal, sys
from qcore.checkpoints.files import ShardWriter
def add(self, name, tensor):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        raise ValueError("something else") from None
ShardWriter.add = add
sys.argv[0] = "qcore"
from qcore.cli import main
main()
"""


def test_native_code_may_make_another_error_of_it(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRANSLATED, "quantize", source, tmp_path / "out", "--method", "rtn"]
    done = subprocess.run([*command, "--group-size", "32"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "error: ended by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_waits() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
