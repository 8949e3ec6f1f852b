"""Files that are no good: each is refused quickly, with its name and what is wrong."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import qcore
from conftest import REPOSITORY
from gguf_cases import byte_level, make, plain_metadata, save, wrap, write_gguf
from qcore.checkpoints.gguf import GgufFile
from qcore.checkpoints.gguf.config_read import config_of
from qcore.checkpoints.stores import inspect_checkpoint

STRING, ARRAY, UINT32, UINT64, BOOL, FLOAT32 = 8, 9, 4, 10, 7, 6
F32, F16, Q4_0, Q4_K = 0, 1, 2, 12


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str | bytes, dims: tuple[int, ...], kind: int = F32, offset: int = 0) -> bytes:
    head = text(name) + struct.pack("<I", len(dims))
    return head + b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset)


def file(
    entries: list[bytes],
    tensors: list[bytes],
    data: bytes = bytes(256),
    version: int = 3,
    magic: bytes = b"GGUF",
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    count = counts or (len(tensors), len(entries))
    head = magic + struct.pack("<IQQ", version, *count) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


def number(value: int) -> bytes:
    return struct.pack("<I", value)


GOOD = tensor("a.weight", (8, 2))
HUGE = 1 << 62

CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes are too few"),
    "short": (b"GGUF" + bytes(19), "23 bytes are too few"),
    "magic": (file([], [], magic=b"GGML"), "it starts with b'GGML'"),
    "version 1": (file([], [], version=1), "expected version 2 and 3 of GGUF, got 1"),
    "version 4": (file([], [], version=4), "got 4"),
    "big endian": (file([], [], version=3 << 24), "written for a big-endian machine"),
    "many entries": (file([], [], counts=(0, HUGE)), f"promises {HUGE} metadata entries"),
    "many tensors": (file([], [], counts=(HUGE, 0)), f"promises {HUGE} tensors"),
    "one more tensor": (file([], [GOOD], b"", counts=(2, 0)), "a tensor's name is empty"),
    "some more tensors": (file([], [GOOD], b"", counts=(9, 0)), "promises 9 tensors"),
    "long key": (file([struct.pack("<Q", HUGE) + b"abc"], []), "bytes of a metadata key, but only"),
    "empty key": (file([entry("", UINT32, number(1))], []), "a metadata key is empty"),
    "key is no text": (file([entry(b"\xff\xfe", UINT32, number(1))], []), "is no UTF-8"),
    "key twice": (file([entry("k", UINT32, number(1))] * 2, []), "metadata key 'k' appears twice"),
    "type of value": (file([entry("k", 13, number(1))], []), "metadata 'k': 13 is no type of a value"),
    "truth": (file([entry("k", BOOL, b"\x07")], []), "expected a truth value of 0 or 1, got 7"),
    "long string": (file([entry("k", STRING, struct.pack("<Q", HUGE))], []), "bytes of metadata 'k'"),
    "long array": (file([entry("k", ARRAY, struct.pack("<IQ", UINT32, HUGE))], []), "elements of metadata"),
    "long list": (file([entry("k", ARRAY, struct.pack("<IQ", STRING, HUGE))], []), "strings in metadata 'k'"),
    "arrays in arrays": (file([entry("k", ARRAY, struct.pack("<IQ", ARRAY, 1))], []), "arrays of arrays"),
    "type in array": (file([entry("k", ARRAY, struct.pack("<IQ", 99, 1))], []), "99 is no type of a value"),
    "alignment 0": (file([entry("general.alignment", UINT32, number(0))], [GOOD]), "power of two, got 0"),
    "alignment 24": (file([entry("general.alignment", UINT32, number(24))], [GOOD]), "power of two, got 24"),
    "alignment 2 GB": (file([entry("general.alignment", UINT32, number(1 << 31))], [GOOD]), "power of two"),
    "alignment is text": (file([entry("general.alignment", STRING, text("32"))], [GOOD]), "got '32'"),
    "no dimensions": (file([], [tensor("a", ())]), "expected 1 to 4 dimensions, got 0"),
    "no elements": (file([], [tensor("a", (8, 0))]), r"shape \(0, 8\) has no elements"),
    "many dimensions": (file([], [tensor("a", (1, 1, 1, 1, 1))]), "expected 1 to 4 dimensions, got 5"),
    "type of tensor": (file([], [tensor("a", (8,), 200)]), "tensor 'a': 200 is no type of a tensor"),
    "type that is gone": (file([], [tensor("a", (8,), 4)]), "tensor 'a': 4 is no type of a tensor"),
    "too large": (file([], [tensor("a", (1 << 40, 1 << 40))]), "more elements than fit into 64 bits"),
    "wraps to 0": (file([], [tensor("a", (1 << 32, 1 << 32))]), "more elements than fit into 64 bits"),
    "larger than the file": (file([], [tensor("a", (1 << 30,))]), r"but the file has \d+ \(truncated\?\)"),
    "part of a block": (file([], [tensor("a", (48, 2), Q4_0)]), "rows of 48 are no multiple of 32"),
    "part of a large block": (file([], [tensor("a", (32, 8), Q4_K)]), "rows of 32 are no multiple of 256"),
    "misaligned": (file([], [tensor("a", (8,), F32, 4)]), "its offset 4 is no multiple of 32"),
    "offset": (file([], [tensor("a", (8,), F32, 1 << 63)]), "truncated"),
    "tensor twice": (file([], [GOOD, tensor("a.weight", (8,), F32, 64)]), "tensor 'a.weight' appears twice"),
    "same place": (file([], [GOOD, tensor("b", (8,))]), "tensors '(a.weight|b)' and '(a.weight|b)' overlap"),
    "overlap": (file([], [GOOD, tensor("b", (8,), F32, 32)]), "tensors 'a.weight' and 'b' overlap"),
    "tensor without name": (file([], [tensor("", (8,))]), "a tensor's name is empty"),
    "tensor's name is no text": (file([], [tensor(b"\xc3(", (8,))]), "a tensor's name is no UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_headers(case: str, tmp_path: Path) -> None:
    data, message = CASES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    for read in (GgufFile, qcore.load, qcore.load_tokenizer, inspect_checkpoint):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_good_file_of_that_kind(tmp_path: Path) -> None:
    """What the cases above are damaged from."""
    path = tmp_path / "model.gguf"
    entries = [entry("general.alignment", UINT32, number(64)), entry("t", BOOL, b"\x01")]
    path.write_bytes(file(entries, [GOOD, tensor("b", (4,), F16, 64)], bytes(range(192)), 2, alignment=64))
    read = GgufFile(path)
    assert read.metadata == {"general.alignment": 64, "t": True}
    assert read.tensors["a.weight"].shape == (2, 8)
    assert read.data("a.weight").shape == (2, 32)
    assert read.data("b").tolist() == list(range(64, 72))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    model = make("llama", vocab_size=300, num_hidden_layers=1)
    save(model, folder / "hf", wrap(byte_level(None, 290), eos_token="<|end|>"))
    qcore.quantize_gguf(folder / "hf", folder / "model.gguf", "Q8_0", "rtn")
    return (folder / "model.gguf").read_bytes()


def test_every_truncation(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    end = max(t.offset + t.nbytes for t in GgufFile(path).tensors.values())
    for size in [*range(600), *range(600, end, 997), end - 1]:
        path.unlink()
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.gguf: "):
            GgufFile(path)


def rebuilt(
    whole: bytes, path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]
) -> Path:
    """The whole file in float32 with something changed in its metadata or tensors."""
    path.write_bytes(whole)
    source = GgufFile(path)
    metadata = plain_metadata(source)
    tensors = {
        name: torch.zeros(t.shape) if t.type.name == "Q8_0" else source.data(name).clone().view(torch.float32)
        for name, t in source.tensors.items()
    }
    change(metadata, tensors)
    path.unlink()
    return write_gguf(path, metadata, tensors, metadata.pop("architecture", "llama"))


def without(key: str) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        metadata.pop(key, None)
        tensors.pop(key, None)

    return change


def with_(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        (tensors if isinstance(value, torch.Tensor) else metadata)[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("llama.block_count"), "metadata lacks llama.block_count"),
        (without("llama.attention.layer_norm_rms_epsilon"), "metadata lacks llama.attention.layer_norm_rms"),
        (without("token_embd.weight"), "lacks the tensor token_embd.weight"),
        (without("blk.0.attn_q.weight"), "lacks the tensor blk.0.attn_q.weight"),
        (without("blk.0.ffn_norm.weight"), "lacks the tensor blk.0.ffn_norm.weight"),
        (with_("architecture", "mamba"), "general.architecture: expected one of llama, .* got 'mamba'"),
        (with_("llama.block_count", 2), "lacks the tensor blk.1.attn_q.weight"),
        (with_("llama.block_count", 1 << 30), "lacks the tensor blk.1073741823.attn_q.weight"),
        (with_("llama.block_count", "one"), "block_count: expected an integer of at least 1, got 'one'"),
        (with_("llama.block_count", 0), "block_count: expected an integer of at least 1, got 0"),
        (with_("llama.embedding_length", 128), "token_embd.weight: expected shape"),
        (with_("llama.feed_forward_length", 1 << 30), "ffn_up.weight: expected shape"),
        (with_("llama.attention.head_count", 8), "blk.0.attn_q.weight: expected shape"),
        (with_("llama.attention.head_count_kv", 3), "a multiple of the key-value heads"),
        (with_("llama.attention.head_count_kv", [2, 1]), "head_count_kv: expected an integer"),
        (with_("llama.attention.key_length", 1 << 30), "attention.value_length: expected"),
        (with_("llama.rope.freq_base", float("nan")), "freq_base: expected a finite number"),
        (with_("llama.rope.scaling.type", "yarn"), "'yarn' by 0.0 is not supported"),
        (with_("llama.expert_count", 8), "mixtures of experts"),
        (with_("split.count", 3), "is one part of several"),
        (with_("rope_freqs.weight", torch.ones(5)), "rope_freqs.weight: expected"),
        (with_("rope_freqs.weight", torch.zeros(8)), "rope_freqs.weight: expected"),
        (with_("token_embd.weight", torch.ones(64)), "token_embd.weight: expected a matrix"),
        (with_("blk.0.ffn_down.weight", torch.ones(64, 95)), "ffn_down.weight: expected shape"),
    ],
)
def test_models(whole: bytes, change: Callable[..., None], message: str, tmp_path: Path) -> None:
    path = rebuilt(whole, tmp_path / "model.gguf", change)
    with pytest.raises(ValueError, match=message) as caught:
        qcore.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_an_unchanged_model_of_that_kind(whole: bytes, tmp_path: Path) -> None:
    qcore.load(rebuilt(whole, tmp_path / "model.gguf", lambda metadata, tensors: None))


def test_a_claimed_number_of_layers_allocates_nothing() -> None:
    """Gemma 2's layers have a window by turns, in a list of that length (found by fuzzing)."""
    sizes = {
        "block_count": (1 << 31) - 1, "context_length": 64, "embedding_length": 64, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16,
        "attention.layer_norm_rms_epsilon": 1e-6, "attention.sliding_window": 8,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    }  # fmt: skip
    metadata = {"general.architecture": "gemma2", **{f"gemma2.{key}": value for key, value in sizes.items()}}
    with pytest.raises(ValueError, match=r"lacks the tensor blk.2147483646.attn_q.weight"):
        config_of(metadata, 64, lambda name: name == "blk.0.attn_q.weight")
    both = {"blk.0.attn_q.weight", "blk.2147483646.attn_q.weight"}
    with pytest.raises(ValueError, match=r"lacks the tensor blk.1.attn_q.weight"):
        config_of(metadata, 64, both.__contains__)


def test_missing_files(tmp_path: Path) -> None:
    for read in (GgufFile, qcore.load, qcore.load_tokenizer, inspect_checkpoint):
        with pytest.raises(FileNotFoundError, match=r"none\.gguf: no such file"):
            read(tmp_path / "none.gguf")


@pytest.mark.skipif(sys.platform != "linux", reason="limits its memory by way of /proc")
@pytest.mark.parametrize("program", ["fuzz_gguf.py", "fuzz_folders.py"])
def test_a_little_fuzzing(program: str) -> None:
    """The fuzzers themselves work, and find nothing in a few seconds; CI gives them more."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tests" / program, "--seconds", "6"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
