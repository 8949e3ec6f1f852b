"""Feeds damaged GGUF files to the reader, the tokenizer and the loader until its time is up.

    python tests/fuzz_gguf.py --seconds 45 [--seed N]

Files start out whole and are damaged where it hurts: counts, lengths, offsets and types become numbers at the
edges of their range, bytes flip, parts are cut out, doubled or moved. Each must load or be refused by a
ValueError that names the file, in little time and memory. A case that is not is kept, and its path printed.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

import torch
from tokenizers import Tokenizer

import qcore
from fuzzing import EDGES, attempt, fuzz
from gguf_cases import byte_level, make, save, sentence_piece, wrap
from qcore.checkpoints.gguf import GgufFile


def seeds(folder: Path) -> list[bytes]:
    """Whole files of several architectures, types and tokenizers."""
    tokenizers: dict[str, Tokenizer] = {"llama": sentence_piece(True, 300), "qwen2": byte_level(None, 300)}
    wide = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    cases: list[tuple[str, str, dict[str, int]]] = [
        ("llama", "Q8_0", {}),
        ("qwen2", "F16", {}),
        ("gemma3", "Q4_0", {}),
        ("llama-tied", "Q2_K", wide),
        ("gemma2", "BF16", {}),
        ("mistral", "Q4_K_M", wide),
    ]
    found = []
    for index, (name, scheme, changes) in enumerate(cases):
        tokenizer = tokenizers.get(name)
        model = make(name, vocab_size=64 if tokenizer is None else 360, num_hidden_layers=1, **changes)
        source = save(model, folder / f"hf{index}", tokenizer and wrap(tokenizer))
        qcore.quantize_gguf(source, folder / f"{index}.gguf", scheme, "rtn")
        found.append((folder / f"{index}.gguf").read_bytes())
    return found


def header_end(data: bytes) -> int:
    """About where the tensors' data starts; damage before it is worth more."""
    return min(len(data), data.rindex(b"weight") + 64)


def damage(data: bytes, random: random.Random) -> bytes:
    changed = bytearray(data)
    end = header_end(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        at = random.randrange(min(end, len(changed)) or 1)
        kind = random.randrange(8)
        if kind <= 2:  # an integer, most of which are 4 or 8 bytes somewhere
            size = random.choice((4, 8))
            value = random.choice(EDGES) if kind else random.getrandbits(64)
            changed[at : at + size] = struct.pack("<Q", value)[:size]
        elif kind == 3:
            changed[at : at + 1] = bytes([random.getrandbits(8)])
        elif kind == 4:
            changed = changed[: random.randrange(len(changed) + 1)]
        elif kind == 5:
            del changed[at : at + random.choice((1, 4, 8, 24, 200))]
        elif kind == 6:
            other = random.randrange(min(end, len(changed)) or 1)
            part = bytes(changed[other : other + random.choice((4, 8, 40, 200))])
            changed[at:at] = part
        else:  # digits of names: another layer, another tensor
            digit = changed.find(b"blk.", at)
            if digit >= 0:
                changed[digit + 4 : digit + 5] = random.choice((b"0", b"1", b"9", b"/"))
    return bytes(changed)


def run(path: Path) -> None:
    """Loads a model and runs it; what comes out may be anything."""
    model = qcore.load(path)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 3, dtype=torch.int64))


def try_file(path: Path) -> str:
    """How far a file got."""
    outcome = []
    for what, read in (("reader", read_all), ("tokenizer", qcore.load_tokenizer), ("model", run)):
        outcome.append(f"{what} {attempt(read, path)}")
        if what == "reader" and "refused" in outcome[0]:
            break
    return ", ".join(outcome)


def read_all(path: Path) -> None:
    file = GgufFile(path)
    for name in file.tensors:
        file.data(name).sum()


def write(data: bytes, path: Path) -> None:
    path.unlink(missing_ok=True)  # a new file: models may still map the old one
    path.write_bytes(data)


if __name__ == "__main__":
    raise SystemExit(fuzz(__doc__, "damaged.gguf", seeds, damage, write, try_file))
