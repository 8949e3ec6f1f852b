"""GGUF files between qcore and llama.cpp: types, tokens and perplexity agree, whoever made the file."""

from __future__ import annotations

import ctypes
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qcore
import tiny
from conftest import REPOSITORY
from gguf_cases import (
    ROPES,
    TEXTS,
    byte_level,
    make,
    plain_metadata,
    save,
    sentence_piece,
    types_in,
    wrap,
    write_gguf,
)
from qcore.checkpoints.gguf import GGUF_SCHEMES, GgufFile
from qcore.checkpoints.gguf.mixes import MixModel, choose_types
from qcore.checkpoints.gguf.pre_tokenizers import PRE_TOKENIZERS, splitter
from qcore.text import token_chunks

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytestmark = [
    pytest.mark.peers,
    # llama-cpp-python decodes log lines that llama.cpp cuts inside a character.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MODEL = REPOSITORY / "models" / "pydoc-llama-7m"
FLOATS = ("F32", "F16", "BF16")
# What llama.cpp's quantizer makes of the same name; its MXFP4 is for experts only.
SHARED = [name for name in GGUF_SCHEMES if name not in (*FLOATS, "MXFP4")]


def llama(path: Path, context: int = 64) -> Any:
    """The model in llama.cpp, in single precision where it lets us choose."""
    return llama_cpp.Llama(
        str(path), n_ctx=context, n_batch=context, logits_all=True, n_threads=1, n_threads_batch=1,
        type_k=0, type_v=0, flash_attn=False, verbose=False,
    )  # fmt: skip


def llama_logits(model: Any, ids: list[int]) -> torch.Tensor:
    model.reset()
    model.eval(ids)
    return torch.from_numpy(np.array(model.scores[: len(ids)], np.float32))


def llama_quantize(source: Path, destination: Path, scheme: str) -> Path:
    """llama.cpp's own quantizer."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(GGUF_SCHEMES[scheme].file_type)
    parameters.nthread = 1
    arguments = (str(source).encode(), str(destination).encode(), ctypes.byref(parameters))
    assert llama_cpp.llama_model_quantize(*arguments) == 0
    return destination


def llama_perplexity(path: Path, chunks: torch.Tensor) -> float:
    """By the protocol of `qcore.evaluate`: every chunk on its own, nothing put before it."""
    model = llama(path, chunks.shape[1])
    losses = []
    for chunk in chunks:
        log_p = torch.log_softmax(llama_logits(model, chunk.tolist())[:-1], -1)
        losses.append(-log_p.gather(1, chunk[1:, None]).double().mean())
    return math.exp(float(torch.stack(losses).mean()))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peers") / "f16.gguf"
    qcore.quantize_gguf(MODEL, path, "F16", "rtn")
    return path


@pytest.fixture(scope="module")
def chunks() -> torch.Tensor:
    return token_chunks(MODEL, MODEL / "eval.txt", 512, 6)


OURS = (
    "BF16",
    "Q8_0",
    "Q4_0",
    "Q5_1",
    "Q2_K",
    "Q3_K_M",
    "Q4_K_M",
    "Q5_K_S",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
)


@pytest.mark.parametrize("scheme", OURS)
def test_perplexity_of_our_files(scheme: str, chunks: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    qcore.quantize_gguf(MODEL, path, scheme, "rtn")
    ours = qcore.evaluate(qcore.load(path, torch.float32), chunks).perplexity
    assert ours == pytest.approx(llama_perplexity(path, chunks), rel=0.005)


THEIRS = ("Q8_0", "Q4_0", "Q4_1", "Q2_K", "Q3_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS")


@pytest.mark.parametrize("scheme", THEIRS)
def test_perplexity_of_their_files(scheme: str, bundled: Path, chunks: torch.Tensor, tmp_path: Path) -> None:
    path = llama_quantize(bundled, tmp_path / "model.gguf", scheme)
    ours = qcore.evaluate(qcore.load(path), chunks).perplexity
    assert ours == pytest.approx(llama_perplexity(path, chunks), rel=0.005)


def deep(tmp_path: Path, **changes: Any) -> Path:
    """A folder with a model of many thin layers, so that every rule of a mix shows."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 17, "vocab_size": 300}
    model = make("llama", **{**sizes, "head_dim": 32, **changes})
    return save(model, tmp_path / "hf", wrap(byte_level(None, 300), eos_token="<|end|>"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_attention_heads": 8, "num_key_value_heads": 2},
        {"hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 9, "head_dim": 16},
        {"hidden_size": 256, "intermediate_size": 288, "num_hidden_layers": 2},
        {"hidden_size": 80, "intermediate_size": 256, "num_hidden_layers": 3, "head_dim": 16},
        {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 80, "head_dim": 8},
    ],
    ids=["deep", "tied and shared", "narrow", "mixed", "odd", "as deep as 70B"],
)
def test_mixes(changes: dict[str, Any], tmp_path: Path) -> None:
    folder, source = deep(tmp_path, **changes), tmp_path / "f16.gguf"
    qcore.quantize_gguf(folder, source, "F16", "rtn")
    check_mixes(folder, source, tmp_path)


def test_mixes_of_the_bundled_model(bundled: Path, tmp_path: Path) -> None:
    check_mixes(MODEL, bundled, tmp_path)


def check_mixes(folder: Path, source: Path, tmp_path: Path) -> None:
    """The type of every tensor is the one that llama.cpp's quantizer gives it."""
    shapes = {name: tensor.shape for name, tensor in GgufFile(source).tensors.items()}
    config = json.loads((folder / "config.json").read_text())
    model = MixModel(
        "llama",
        config["num_hidden_layers"],
        config["num_attention_heads"] // config["num_key_value_heads"],
        tied="output.weight" not in shapes,
        calibrated=False,
    )
    for scheme in SHARED:
        theirs = types_in(llama_quantize(source, tmp_path / "theirs.gguf", scheme))
        ours = choose_types(shapes, scheme, model)
        assert {name: type.name for name, type in ours.items()} == theirs, scheme
    qcore.quantize_gguf(folder, tmp_path / "ours.gguf", SHARED[-1], "rtn")
    assert types_in(tmp_path / "ours.gguf") == theirs


ARCHITECTURES = (
    "llama",
    "llama-tied",
    "llama-bias",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
)


@pytest.mark.parametrize(
    ("name", "rope"), [*((name, None) for name in ARCHITECTURES), *(("llama", rope) for rope in ROPES)]
)
def test_architectures(name: str, rope: str | None, tmp_path: Path) -> None:
    """llama.cpp computes the logits that transformers does."""
    changes: dict[str, Any] = {} if rope is None else {"rope_parameters": dict(ROPES[rope])}
    if name == "gemma3":
        changes["num_hidden_layers"] = 7
    if name == "mistral":  # GGUF has no window for it: llama.cpp runs it as a Llama
        changes["sliding_window"] = None
    model = make(name, vocab_size=304, **changes)
    folder = save(model, tmp_path / "hf", wrap(byte_level(None, 300), eos_token="<|end|>"))
    qcore.quantize_gguf(folder, tmp_path / "model.gguf", "F32", "rtn")
    ids = tiny.tokens(1, 40, seed=3)
    theirs = llama_logits(llama(tmp_path / "model.gguf"), ids[0].tolist())
    assert tiny.distance(theirs, tiny.logits(model, ids)[0]) < 2e-3


@pytest.mark.parametrize("kind", [*PRE_TOKENIZERS, "spm", "spm-prefix"])
def test_tokens(kind: str, tmp_path: Path) -> None:
    if kind in PRE_TOKENIZERS:
        pre = PRE_TOKENIZERS[kind]
        backend = byte_level(None, 600, whole_words=pre.whole_words, split=splitter(pre))
        tokenizer = wrap(backend, eos_token="<|end|>")
    else:
        special = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
        tokenizer = wrap(sentence_piece(kind == "spm-prefix"), **special)
    folder = save(make("llama", vocab_size=640), tmp_path / "hf", tokenizer)
    qcore.quantize_gguf(folder, tmp_path / "model.gguf", "F16", "rtn")
    if kind in PRE_TOKENIZERS:  # names of the same rules are written as the first of them
        metadata = plain_metadata(GgufFile(tmp_path / "model.gguf"))
        write_gguf(tmp_path / "model.gguf", {**metadata, "tokenizer.ggml.pre": kind}, {})
    model = llama_cpp.Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    ours = qcore.load_tokenizer(tmp_path / "model.gguf")
    for text in TEXTS:
        expected = ours(text, add_special_tokens=False)["input_ids"]
        assert model.tokenize(text.encode(), add_bos=False, special=True) == expected, text
        if kind not in PRE_TOKENIZERS or not PRE_TOKENIZERS[kind].nfc:
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected, text


def test_tokens_of_the_bundled_model(bundled: Path) -> None:
    model = llama_cpp.Llama(str(bundled), vocab_only=True, verbose=False)
    text = (MODEL / "eval.txt").read_text(encoding="utf-8")[:40_000]
    expected = qcore.load_tokenizer(MODEL)(text, add_special_tokens=True)["input_ids"]
    assert model.tokenize(text.encode()) == expected
    assert qcore.load_tokenizer(bundled)(text)["input_ids"] == expected
