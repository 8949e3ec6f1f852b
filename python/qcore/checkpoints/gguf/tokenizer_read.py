"""The tokenizer that a GGUF file describes, as one of transformers."""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from gguf import Keys, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from qcore.checkpoints.gguf.pre_tokenizers import PRE_TOKENIZERS, splitter

__all__ = ["HUGGING_FACE", "read_tokenizer"]

# The key under which a file may hold a whole tokenizer.json.
HUGGING_FACE = "tokenizer.huggingface.json"

_SPACE = "▁"

# A piece of this many characters is no word; to try all its cuts would cost the square of its length.
_LONGEST_PIECE = 512

# Tokens that can be made of others in every way (a, aa, aaa, ...) have as many merges as they are long. All
# merges may take this many times the bytes of all tokens; those of real vocabularies take 40.
_MOST_MERGES = 128
_TOKEN, _MERGE = 16, 400  # what each takes besides its characters

_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def read_tokenizer(metadata: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer of a file's metadata.

    Raises:
        ValueError: no tokenizer, one of another kind than BPE, SentencePiece and Unigram, or one whose parts
            do not fit together.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if HUGGING_FACE in metadata:
        backend = _parsed(metadata[HUGGING_FACE])
    elif kind in _KINDS:
        tokens, types = _tokens(metadata)
        try:
            backend = _KINDS[kind](metadata, tokens, types)
        except ValueError:
            raise
        except Exception as error:  # what tokenizers raises has no type of its own
            raise ValueError(f"tokenizer.ggml: {error}") from error
        _add_tokens(backend, tokens, types)
    else:
        raise ValueError(f"tokenizer.ggml.model: expected one of {', '.join(_KINDS)}, got {kind!r}")
    names = _special_names(metadata, backend)
    if HUGGING_FACE not in metadata:
        _surround(backend, metadata, names, kind)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=_chat_templates(metadata),
        clean_up_tokenization_spaces=False,
        **names,
    )


def _chat_templates(metadata: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The chat template; if there are several, by their names."""
    prefix = Keys.Tokenizer.CHAT_TEMPLATE_N.format(name="")
    templates = {key.removeprefix(prefix): text for key, text in metadata.items() if key.startswith(prefix)}
    listed = metadata.get(Keys.Tokenizer.CHAT_TEMPLATES, [])
    for name in listed if isinstance(listed, list) else [listed]:
        if name not in templates:
            raise ValueError(
                f"{Keys.Tokenizer.CHAT_TEMPLATES}: lists {name!r}, but there is no {prefix}{name}"
            )
    default = metadata.get(Keys.Tokenizer.CHAT_TEMPLATE)
    if default is not None:
        templates = {"default": default, **templates}
    for name, text in templates.items():
        if not isinstance(text, str):
            raise ValueError(f"{Keys.Tokenizer.CHAT_TEMPLATE}: expected a text for {name!r}, got {text!r}")
    return default if templates.keys() <= {"default"} else templates


def _parsed(text: Any) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # what tokenizers raises has no type of its own
        raise ValueError(f"{HUGGING_FACE}: {error}") from error


def _tokens(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ValueError("tokenizer.ggml.tokens: expected a list of strings")
    types = _numbers(metadata, "token_type", len(tokens), int(TokenType.NORMAL))
    return tokens, [int(type) for type in types]


def _numbers(metadata: Mapping[str, Any], key: str, count: int, default: float) -> Sequence[float]:
    """A list of numbers with one for each token."""
    values = metadata.get(f"tokenizer.ggml.{key}")
    if values is None:
        return [default] * count
    if not isinstance(values, (np.ndarray, list)) or len(values) != count:
        raise ValueError(f"tokenizer.ggml.{key}: expected {count} numbers, one for each token")
    return [float(value) for value in values]


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    name = metadata.get("tokenizer.ggml.pre") or "default"
    if name not in PRE_TOKENIZERS:
        raise ValueError(f"tokenizer.ggml.pre: expected one of {', '.join(PRE_TOKENIZERS)}, got {name!r}")
    pre = PRE_TOKENIZERS[name]
    lines = metadata.get("tokenizer.ggml.merges")
    if not isinstance(lines, list):
        raise ValueError("tokenizer.ggml.merges: expected a list of strings")
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = []
    for line in lines:
        left, _, right = line[1:].partition(" ")  # a piece is never empty, but may be a space
        merges.append((line[:1] + left, right))
    backend = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre.whole_words))
    if pre.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = splitter(pre)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    """Scores as merges: every way to put a piece together, the highest score first."""
    scores = _numbers(metadata, "scores", len(tokens), 0.0)
    made = {TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED}
    vocab = {token: index for index, token in enumerate(tokens)}
    left_over = _MOST_MERGES * sum(len(token) + _TOKEN for token in vocab)
    whole, cuts = array("l"), array("l")  # the token of each merge, and where it is cut
    for token, index in vocab.items():
        if types[index] not in made or len(token) > _LONGEST_PIECE:
            continue
        before = len(cuts)
        cuts.extend(c for c in range(1, len(token)) if token[:c] in vocab and token[c:] in vocab)
        whole.extend(repeat(index, len(cuts) - before))
        left_over -= (len(cuts) - before) * (len(token) + _MERGE)
        if left_over < 0:
            raise ValueError(
                "tokenizer.ggml.tokens: there are more ways to put them together than is sensible"
            )
    of, cut = np.asarray(whole), np.asarray(cuts)
    lengths = np.array([len(token) for token in tokens])[of]
    order = np.lexsort((cut - lengths, -cut, -np.array(scores)[of]))  # stable, the last key counts first
    merges = [(tokens[i][:c], tokens[i][c:]) for i, c in zip(of[order], cut[order], strict=True)]
    unknown = next((t for t, type in zip(tokens, types, strict=True) if type == TokenType.UNKNOWN), None)
    backend = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    _spaces(backend, metadata)
    return backend


def _unigram(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    scores = _numbers(metadata, "scores", len(tokens), 0.0)
    unknown = next((i for i, type in enumerate(types) if type == TokenType.UNKNOWN), None)
    fallback = any(type == TokenType.BYTE for type in types)
    backend = Tokenizer(models.Unigram(list(zip(tokens, scores, strict=True)), unknown, fallback))
    _spaces(backend, metadata)
    if (table := metadata.get("tokenizer.ggml.precompiled_charsmap")) is not None:
        stored = json.loads(backend.to_str())
        step = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(table)).decode()}
        stored["normalizer"] = {"type": "Sequence", "normalizers": [step, stored["normalizer"]]}
        backend = _parsed(json.dumps(stored))
    return backend


def _spaces(backend: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """SentencePiece writes spaces as a character of its own, and may put one in front."""
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend(_SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )


_KINDS = {"gpt2": _byte_level, "llama": _sentence_piece, "t5": _unigram}


def _add_tokens(backend: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Tokens that are found in a text before anything else."""
    special = {TokenType.CONTROL, TokenType.UNKNOWN}
    chosen = [
        AddedToken(token, normalized=False, special=type in special)
        for token, type in zip(tokens, types, strict=True)
        if type in special or type == TokenType.USER_DEFINED
    ]
    backend.add_tokens(chosen)


def _special_names(metadata: Mapping[str, Any], backend: Tokenizer) -> dict[str, str]:
    names = {}
    for key, attribute in _SPECIAL.items():
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        piece = backend.id_to_token(token) if type(token) is int and 0 <= token < 1 << 31 else None
        if piece is not None:
            names[attribute] = piece
    return names


def _surround(backend: Tokenizer, metadata: Mapping[str, Any], names: Mapping[str, str], kind: Any) -> None:
    """Puts the tokens of the beginning and the end around texts, where the file says so."""
    pre = metadata.get("tokenizer.ggml.pre")
    by_default = kind == "llama" or pre in ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "tekken")
    parts, used = ["$A"], []
    if metadata.get("tokenizer.ggml.add_bos_token", by_default) and "bos_token" in names:
        parts.insert(0, names["bos_token"])
        used.append(names["bos_token"])
    if metadata.get("tokenizer.ggml.add_eos_token", kind == "t5") and "eos_token" in names:
        parts.append(names["eos_token"])
        used.append(names["eos_token"])
    if used:
        ids = [(name, backend.token_to_id(name)) for name in dict.fromkeys(used)]
        backend.post_processor = processors.TemplateProcessing(single=parts, special_tokens=ids)
