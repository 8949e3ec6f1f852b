"""Arguments of `qcore.load` in other libraries' words, and models that need their files no longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import qcore
import tiny
from gguf_cases import byte_level, make, save, wrap


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("places")
    model: Any = make("llama", vocab_size=320).to(torch.bfloat16)
    found = {"plain": save(model, folder / "plain", wrap(byte_level(None, 300)))}
    found["gguf"] = folder / "model.gguf"
    qcore.quantize_gguf(found["plain"], found["gguf"], "Q8_0", "rtn")
    found["quantized"] = folder / "quantized"
    qcore.quantize_folder(found["plain"], found["quantized"], "W4A16", "rtn", group_size=32)
    return found


@pytest.mark.parametrize("kind", ["plain", "quantized", "gguf"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, None),
        ({"dtype": "auto"}, None),
        ({"torch_dtype": "auto", "device_map": "cpu"}, None),
        ({"dtype": "float32"}, torch.float32),
        ({"torch_dtype": torch.float16}, torch.float16),
        ({"torch_dtype": "torch.float32", "dtype": torch.float32}, torch.float32),
        ({"device_map": {"": "cpu"}, "device": "cpu", "dtype": torch.bfloat16}, torch.bfloat16),
    ],
)
def test_other_words(places: dict[str, Path], kind: str, arguments: dict[str, Any], expected: Any) -> None:
    model = qcore.load(places[kind], **arguments)
    stored = qcore.load(places[kind])
    norm, same = model.get_parameter("model.norm.weight"), stored.get_parameter("model.norm.weight")
    assert norm.dtype == (expected or same.dtype)
    assert norm.device.type == "cpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "dtype: expected auto, float32, float16 or bfloat16, got 'int8'"),
        ({"dtype": torch.float8_e4m3fn}, "dtype: expected auto, float32"),
        ({"torch_dtype": "half-ish"}, "torch_dtype: expected auto, float32"),
        ({"dtype": 16}, "dtype: expected auto, float32"),
        ({"dtype": "float32", "torch_dtype": "float16"}, "torch_dtype: is another word for dtype"),
        ({"device_map": {"a": 0, "b": 1}}, "device_map: expected one device for the whole model"),
        ({"device_map": {"": "disk"}}, "device_map: expected one device for the whole model"),
        ({"device_map": {}}, "device_map: expected one device for the whole model"),
        ({"device_map": "balanced"}, "device_map: expected a device, got 'balanced'"),
        ({"device": "cpu", "device_map": "meta"}, "device_map: is another word for device"),
        ({"device": "gpu"}, "device: expected a device, got 'gpu'"),
    ],
)
def test_wrong_words(arguments: dict[str, Any], message: str) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match=message):
        qcore.load("no/where", **arguments)


def test_auto_is_the_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from qcore.checkpoints.arguments import device_from

    for there, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert device_from(None, "auto") == torch.device(name)
    assert device_from(None, 1) == torch.device("cuda:1") == device_from(1, {"": 1})


OVERWRITTEN = """
import sys
from pathlib import Path
import torch, qcore
model = qcore.load(sys.argv[1], mmap=False)
ids = torch.arange(20)[None]
with torch.no_grad():
    before = model(input_ids=ids).logits
    for file in map(Path, sys.argv[2:]):
        size = file.stat().st_size
        with file.open("r+b") as opened:
            opened.write(bytes(size))
            opened.truncate(0)
    assert torch.equal(model(input_ids=ids).logits, before)
assert before.abs().sum() > 0
"""


@pytest.mark.parametrize("kind", ["plain", "quantized", "gguf"])
def test_a_model_that_was_read_needs_no_file(places: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """Its files are overwritten and cut off in place."""
    if kind == "gguf":
        copy = tmp_path / "model.gguf"
        copy.write_bytes(places[kind].read_bytes())
        files = [copy]
    else:
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in places[kind].iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        files = sorted(copy.glob("*.safetensors"))
    done = subprocess.run(
        [sys.executable, "-c", OVERWRITTEN, copy, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_reading_and_mapping_agree(places: dict[str, Path]) -> None:
    for place in places.values():
        assert torch.equal(tiny.logits(qcore.load(place)), tiny.logits(qcore.load(place, mmap=False)))
