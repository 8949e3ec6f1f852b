"""Models and tokenizers for the tests of GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch import nn

import tiny
from conftest import REPOSITORY
from qcore.checkpoints.gguf import GgufFile

CORPUS = (REPOSITORY / "models" / "pydoc-llama-7m" / "calibration.txt").read_text(encoding="utf-8")[:60_000]
TEXTS = (
    "Hello world! I'm sure it's 12345 or 3.14, WE'LL see.",
    "def f(x):\n    return x ** 2  # squared\n\n\n\n\tpass\r\n",
    "naïve café, Ünïcödé; ελληνικά, русский, 日本語, 中文 123 字, 한국어, עברית",
    "🚀🙂 👨\u200d👩\u200d👧 \u00a0 \u3000 ²³ ½  trailing   ",
    " leading space", "  two", "", " ", "\n", "a", "x" * 300, "snake_case camelCase HTTPServer don't DON'T",
    "".join(map(chr, range(32, 127))),
)  # fmt: skip

# Splits of words as the tokenizers of these families have them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")

# Rope parameters in the ways that a file can say.
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
    "yarn": {
        "rope_type": "yarn", "factor": 4.0, "rope_theta": 20000.0, "original_max_position_embeddings": 16,
    },
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "rope_theta": 500.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    },
}  # fmt: skip


def byte_level(
    pattern: str | None,
    size: int = 400,
    digits: bool = False,
    nfc: bool = False,
    whole_words: bool = False,
    split: Any = None,
) -> Tokenizer:
    """A byte-level BPE, trained on the corpus; `split` is a pre-tokenizer instead of pattern and digits."""
    backend = Tokenizer(models.BPE(ignore_merges=whole_words))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    backend.pre_tokenizer = split or pre_tokenizers.Sequence(steps)
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size - 3, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([CORPUS], trainer)
    backend.add_special_tokens(["<|begin|>", "<|end|>"])
    backend.add_tokens([AddedToken("<tool>", normalized=False)])
    return backend


def sentence_piece(prefix: bool, size: int = 600) -> Tokenizer:
    """What transformers makes of a SentencePiece BPE: pieces with scores, all their merges, bytes as a
    last resort."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False)
    trained.train_from_iterator(["▁" + CORPUS.replace(" ", "▁")], trainer)
    model = json.loads(trained.to_str())["model"]
    rank = {"".join(pair): -float(i) for i, pair in enumerate(map(tuple, model["merges"]))}
    cuts = [(piece, piece[:cut], piece[cut:]) for piece in rank for cut in range(1, len(piece))]
    known = [cut for cut in cuts if cut[1] in model["vocab"] and cut[2] in model["vocab"]]
    known.sort(key=lambda cut: (-rank[cut[0]], -len(cut[1])))
    backend = Tokenizer(
        models.BPE(
            model["vocab"],
            [(left, right) for _, left, right in known],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens([AddedToken("<table>", normalized=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return backend


def wrap(backend: Tokenizer, **special: str) -> Any:
    """As transformers has it."""
    return tf.PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def save(model: nn.Module, folder: Path, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def make(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """A tiny model of `tiny.CONFIGS`, with changes to its configuration."""
    config_class, arguments = tiny.CONFIGS[name]
    if name in ("gemma2", "gemma3"):
        changes.setdefault("query_pre_attn_scalar", arguments["head_dim"])  # a file cannot say another
    before = tiny.CONFIGS[name]
    tiny.CONFIGS[name] = (config_class, {**arguments, **changes})
    try:
        return tiny.make_model(name, seed=seed)
    finally:
        tiny.CONFIGS[name] = before


def types_in(path: Path) -> dict[str, str]:
    """The type of each tensor of a file, by the reader of the package `gguf`."""
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


def plain_metadata(file: GgufFile) -> dict[str, Any]:
    """What `write_gguf` takes, of a file."""
    return {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in file.metadata.items()
        if key != "general.architecture"
    }


def write_gguf(
    path: Path, metadata: dict[str, Any], tensors: dict[str, torch.Tensor], architecture: str = "llama"
) -> Path:
    """A file written by the package `gguf` alone."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
        }
        add.get(type(value), writer.add_array)(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
