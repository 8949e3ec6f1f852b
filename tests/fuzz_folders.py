"""Feeds damaged folders, in compressed-tensors and as others write them, to the loader until its time is up.

    python tests/fuzz_folders.py --seconds 45 [--seed N]

What is damaged: values of config.json and of the index, keys, headers of safetensors (dtypes, shapes,
offsets, names), bytes of any file, files that are gone or cut off. Each folder must load or be refused by a
ValueError or FileNotFoundError that names it, in little time and memory. A case that is not is kept, and its
path printed.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import qcore
import tiny
from fuzzing import EDGES, attempt, fuzz
from gguf_cases import byte_level, make, save, wrap
from qcore.checkpoints.stores import inspect_checkpoint

Files = dict[str, bytes]
DTYPES = ["BF16", "F16", "F32", "F64", "I8", "U8", "I32", "I64", "BOOL", "F8_E4M3", "C64", "X9", "", 7]
VALUES = [None, True, False, -1, 0.5, float("nan"), 1e308, "", "auto", "float32", [], {}, [None], {"a": 1},
          "../../etc/passwd", "\x00", "é", *EDGES]  # fmt: skip


def seeds(folder: Path) -> list[Files]:
    """Whole folders of several architectures and schemes, some of them in shards."""
    ids = tiny.tokens(2, 16)
    cases: list[tuple[str, str, str, dict[str, Any]]] = [
        ("llama", "W4A16_ASYM", "rtn", {"group_size": 32}),
        ("qwen2", "W8A8", "rtn", {}),
        ("gemma2", "FP8_STATIC", "rtn", {}),
        ("bert", "W8A16", "rtn", {"group_size": -1}),
        ("gemma3", "W3A16", "gptq", {"group_size": 32}),
        ("llama-tied", "W8A8_ASYM", "rtn", {}),
    ]
    found = []
    for index, (name, scheme, method, options) in enumerate(cases):
        model = make(name, num_hidden_layers=1 if index else 2)
        source = save(model, folder / f"hf{index}", wrap(byte_level(None, 300)) if index == 0 else None)
        out = folder / f"{index}"
        options |= {"shard_bytes": 60_000} if index in (0, 3) else {}
        calibration = ids if method == "gptq" or scheme in ("FP8_STATIC", "W8A8_ASYM") else None
        qcore.quantize_folder(source, out, scheme, method, calibration, **options)
        found.append({file.name: file.read_bytes() for file in sorted(out.iterdir())})
        if index < 2:  # unquantized ones too
            found.append({file.name: file.read_bytes() for file in sorted(source.iterdir())})
    for config in sorted(Path(__file__).parent.glob("fixtures/*/*/config.json")):
        files = [file for file in sorted(config.parent.iterdir()) if file.name != "expected.safetensors"]
        found.append({file.name: file.read_bytes() for file in files})
    return found


def damage(files: Files, random: random.Random) -> Files:
    changed = dict(files)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        name = random.choice([n for n in changed if n.endswith((".json", ".safetensors"))] or ["config.json"])
        data, kind = changed.get(name, b"{}"), random.randrange(12)
        if kind == 0:
            changed.pop(name, None)
        elif kind == 1:
            changed[name] = data[: random.randrange(len(data) + 1)]
        elif kind == 2:
            flipped, at = bytearray(data), random.randrange(len(data) or 1)
            flipped[at : at + 1] = bytes([random.getrandbits(8)])
            changed[name] = bytes(flipped)
        elif kind < 6:
            config = "config.json" if "config.json" in changed else name
            changed[config] = damaged_json(changed.get(config, b"{}"), random)
        elif name.endswith(".json"):
            changed[name] = damaged_json(data, random)
        else:
            changed[name] = damaged_tensors(data, random)
    return changed


def damaged_json(data: bytes, random: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except ValueError:
        return data
    places = list(slots(value)) or [(None, None)]
    for _ in range(random.choice((1, 1, 2))):
        holder, key = random.choice(places)
        kind = random.randrange(8)
        if holder is None:
            value = random.choice(VALUES)
        elif kind == 0 and isinstance(holder, dict):
            holder.pop(key, None)
        elif kind == 1 and isinstance(holder, dict) and key in holder:
            holder[f"{key}_"] = holder.pop(key)
        elif kind == 2:
            other, at = random.choice(places)
            if other is not None and (at in other if isinstance(other, dict) else at < len(other)):
                holder[key] = json.loads(json.dumps(other[at]))
        elif kind == 3 and isinstance(holder, dict) and isinstance(holder.get(key), int):
            holder[key] = random.choice(EDGES)
        else:
            holder[key] = random.choice(VALUES)
    return json.dumps(value).encode()


def slots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a tree: what holds it, and its key there."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from slots(inner)


def damaged_tensors(data: bytes, random: random.Random) -> bytes:
    """A safetensors file with something else in its header."""
    if len(data) < 8 or len(data) < 8 + (size := struct.unpack("<Q", data[:8])[0]):
        return data
    kind = random.randrange(8)
    if kind == 0:
        return struct.pack("<Q", random.choice(EDGES)) + data[8:]
    try:
        header = json.loads(data[8 : 8 + size])
    except ValueError:
        return data
    name = random.choice([n for n in header if n != "__metadata__"] or ["x"])
    entry = header.get(name, {})
    if kind == 1:
        header.pop(name, None)
    elif kind == 2:
        header[random.choice((name + "_", name.replace(".0.", ".1."), "", name.upper()))] = header.pop(
            name, {}
        )
    elif kind == 3:
        entry["dtype"] = random.choice(DTYPES)
    elif kind == 4:
        entry["shape"] = random.choice((entry.get("shape", [])[::-1], [], [1], random.sample(EDGES, 2)))
    elif kind == 5:
        entry["data_offsets"] = random.sample(EDGES, 2)
    elif kind == 6:  # the same bytes, seen otherwise
        other = random.choice([n for n in header if n != "__metadata__"] or ["x"])
        header[name] = dict(header.get(other, {}))
    else:
        body = bytearray(data[8 + size :])
        at = random.randrange(len(body) or 1)
        body[at : at + 8] = random.choice((struct.pack("<Q", random.choice(EDGES)), b"\xff" * 8, bytes(8)))
        return data[: 8 + size] + bytes(body)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def write(files: Files, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)


def try_folder(path: Path) -> str:
    """How far a folder got."""
    reads = {"inspect": inspect_checkpoint, "model": qcore.load, "tokenizer": qcore.load_tokenizer}
    if not (path / "tokenizer.json").exists():
        del reads["tokenizer"]
    return ", ".join(f"{what} {attempt(read, path)}" for what, read in reads.items())


if __name__ == "__main__":
    raise SystemExit(fuzz(__doc__, "damaged", seeds, damage, write, try_folder))
