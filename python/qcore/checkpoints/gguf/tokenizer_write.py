"""A Hugging Face tokenizer as the metadata of a GGUF file."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import Keys, TokenType
from transformers import AutoTokenizer

from qcore.checkpoints.gguf.pre_tokenizers import PRE_TOKENIZERS, PROBE, name_of
from qcore.checkpoints.gguf.tokenizer_read import HUGGING_FACE, read_tokenizer
from qcore.models import trusting

__all__ = ["tokenizer_metadata"]

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")

_SPECIAL = {
    "bos_token_id": "bos", "eos_token_id": "eos", "unk_token_id": "unknown", "sep_token_id": "seperator",
    "pad_token_id": "padding", "mask_token_id": "mask",
}  # fmt: skip

# Scores below that of any merge, so that what is not the result of one is never preferred.
_LEAST_SCORE = -1e6

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# Tokens that some tokenizers do not mark as special, though no text should make them.
_LOOKS_SPECIAL = re.compile(r"<[|\uff5c].*[|\uff5c]>|<unused\d*>|<pad>|<mask>")


def tokenizer_metadata(folder: Path, vocabulary: int, trust_remote_code: bool = False) -> dict[str, Any]:
    """The metadata for the tokenizer of a folder.

    Args:
        vocabulary: rows of the embedding; the list of tokens is filled up to as many.
        trust_remote_code: run a tokenizer's code that the folder brings.

    Returns:
        {"tokenizer.ggml.model": "none"} if the folder has no tokenizer.

    Raises:
        ValueError: a tokenizer of a kind that no name in a GGUF file stands for.
    """
    if not any((folder / name).exists() for name in _FILES):
        return {"tokenizer.ggml.model": "none"}
    try:
        with trusting(folder, trust_remote_code):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises what the file's own parser raises
        raise ValueError(
            f"{folder}: cannot read its tokenizer: {str(error).partition(chr(10))[0]}"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{folder}: its tokenizer has no counterpart in a GGUF file")
    stored = json.loads(backend.to_str())
    kind = stored["model"]["type"]
    tokens, types = _tokens(stored, vocabulary, folder)
    if kind == "BPE" and _is_byte_level(stored):
        found = _byte_level(stored, backend, folder)
    elif kind == "BPE":
        found = _sentence_piece(stored, tokens, types)
    elif kind == "Unigram":
        found = _unigram(stored, tokens, types)
    else:
        raise ValueError(f"{folder}: a tokenizer of type {kind} cannot be stored in a GGUF file")
    found |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [int(type) for type in types]}
    for attribute, name in _SPECIAL.items():
        token = getattr(tokenizer, attribute, None)
        if token is not None and token < vocabulary:
            found[f"tokenizer.ggml.{name}_token_id"] = int(token)
    found |= _added_around(tokenizer)
    found |= _chat_templates(getattr(tokenizer, "chat_template", None))
    if not _same(read_tokenizer(found), tokenizer, vocabulary):
        # What the names of the format cannot say, the whole tokenizer does; llama.cpp does not read it.
        found[HUGGING_FACE] = backend.to_str()
    return found


def _tokens(stored: dict[str, Any], vocabulary: int, folder: Path) -> tuple[list[str], list[TokenType]]:
    """Token and type of each id. Ids that stand for nothing get a name, as llama.cpp wants all to differ."""
    model = stored["model"]
    vocab = model["vocab"]
    if isinstance(vocab, list):  # pairs of piece and score
        vocab = {piece: index for index, (piece, _) in enumerate(vocab)}
    # Some tokenizers have a few more added tokens than their model can embed; no text may use those.
    added = {token["id"]: token for token in stored["added_tokens"] if token["id"] < vocabulary}
    beyond = {token["id"] for token in stored["added_tokens"]} - added.keys()
    pieces = {index: piece for piece, index in vocab.items() if index not in beyond}
    pieces |= {index: token["content"] for index, token in added.items()}
    if pieces and max(pieces) >= vocabulary:
        raise ValueError(
            f"{folder}: the tokenizer has the token {max(pieces)}, but the embedding only {vocabulary} rows"
        )
    unknown = model.get("unk_token")
    if unknown is None and model.get("unk_id") is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    tokens, types, seen = [], [], set()
    for index in range(vocabulary):
        piece = pieces.get(index, f"[PAD{index}]")
        if piece in seen or not piece:
            piece = f"[PAD{index}]"
        seen.add(piece)
        tokens.append(piece)
        if index not in pieces or pieces[index] != piece:
            types.append(TokenType.UNUSED)
        elif piece == unknown and not _is_byte_level(stored):
            types.append(TokenType.UNKNOWN)
        elif index in added:
            special = added[index]["special"] or _LOOKS_SPECIAL.fullmatch(piece)
            types.append(TokenType.CONTROL if special else TokenType.USER_DEFINED)
        elif _BYTE.fullmatch(piece) and not _is_byte_level(stored):
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL)
    return tokens, types


def _is_byte_level(stored: dict[str, Any]) -> bool:
    """Whether pieces are written in characters that each stand for one byte."""
    return '"ByteLevel"' in json.dumps(stored["pre_tokenizer"])


def _byte_level(stored: dict[str, Any], backend: Any, folder: Path) -> dict[str, Any]:
    name = name_of(backend.pre_tokenizer, stored["model"].get("ignore_merges", False))
    if name is None:
        raise ValueError(
            f"{folder}: its tokenizer splits words in a way that no name in a GGUF file stands for; known "
            f"are those of {', '.join(PRE_TOKENIZERS)}"
        )
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in _merges(stored)],
    }


def _merges(stored: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = stored["model"]["merges"]
    split = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in pairs)
    return [(left, right) for left, right in split]


def _sentence_piece(stored: dict[str, Any], tokens: list[str], types: list[TokenType]) -> dict[str, Any]:
    """Merges as scores of their results: the one made first has the highest."""
    ranks: dict[str, int] = {}
    for left, right in _merges(stored):
        ranks.setdefault(left + right, len(ranks))
    scores = [_LEAST_SCORE] * len(tokens)
    for index, (token, type) in enumerate(zip(tokens, types, strict=True)):
        if type in (TokenType.BYTE, TokenType.CONTROL, TokenType.UNKNOWN):
            scores[index] = 0.0
        elif token in ranks:
            scores[index] = -1.0 - ranks[token]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": _prepends_space(stored),
    }


def _unigram(stored: dict[str, Any], tokens: list[str], types: list[TokenType]) -> dict[str, Any]:
    vocab = stored["model"]["vocab"]
    scores = [float(vocab[i][1]) if i < len(vocab) else _LEAST_SCORE for i in range(len(tokens))]
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": _prepends_space(stored),
        "tokenizer.ggml.remove_extra_whitespaces": False,
    }
    for step in _steps(stored["normalizer"]):
        if step["type"] == "Precompiled":
            found["tokenizer.ggml.precompiled_charsmap"] = base64.b64decode(step["precompiled_charsmap"])
    return found


def _prepends_space(stored: dict[str, Any]) -> bool:
    """Whether a text is taken as if a space stood before it."""
    steps = [*_steps(stored["normalizer"]), *_steps(stored["pre_tokenizer"])]
    return any(
        step["type"] == "Prepend" or (step["type"] == "Metaspace" and step.get("prepend_scheme") != "never")
        for step in steps
    )


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if part is None:
        return []
    if part["type"] == "Sequence":
        inner = part.get("normalizers") or part.get("pretokenizers") or []
        return [step for each in inner for step in _steps(each)]
    return [part]


def _added_around(tokenizer: Any) -> dict[str, Any]:
    """Whether a text gets the token of the beginning before it, and that of the end behind it."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = ids.index(plain[0]) if plain and plain[0] in ids else 0
    return {
        "tokenizer.ggml.add_bos_token": start > 0 and ids[0] == tokenizer.bos_token_id,
        "tokenizer.ggml.add_eos_token": len(ids) > start + len(plain) and ids[-1] == tokenizer.eos_token_id,
    }


def _chat_templates(given: str | Mapping[str, str] | None) -> dict[str, Any]:
    """The default one, and others under their names, in which llama.cpp has letters, digits and _ alone."""
    templates = {"default": given} if isinstance(given, str) else dict(given or {})
    default = templates.pop("default", None)
    found: dict[str, Any] = {Keys.Tokenizer.CHAT_TEMPLATE: default} if default else {}
    for name, template in templates.items():
        key = Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=_file_name(name))
        if key in found:
            raise ValueError(
                f"chat_template: {name!r} has the name of another one in a GGUF file, {_file_name(name)}"
            )
        found[key] = template
    if templates:
        found[Keys.Tokenizer.CHAT_TEMPLATES] = [_file_name(name) for name in templates]
    return found


def _file_name(template: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", template)


def _same(ours: Any, theirs: Any, vocabulary: int) -> bool:
    """Whether two tokenizers agree on the probe, alone and around every added token."""
    texts = [PROBE, "", " ", "a", "  two", PROBE.upper()]
    added = [token for token, index in theirs.get_added_vocab().items() if index < vocabulary]
    texts += [f"x {token} y{token}z" for token in added[:64]]
    return all(
        ours(text, add_special_tokens=special)["input_ids"]
        == theirs(text, add_special_tokens=special)["input_ids"]
        for text in texts
        for special in (False, True)
    )
