"""Tokenizers of models, and what of them is used here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcore.checkpoints.stores import about, store_at

__all__ = ["Encoder", "TokenizerOf", "load_tokenizer"]


def load_tokenizer(model: str | os.PathLike[str], trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model, as transformers has it.

    Args:
        model: a folder, a Hugging Face id, or a GGUF file.
        trust_remote_code: run a tokenizer's code that the folder brings.
    """
    with about(model):
        return store_at(model).tokenizer(model, trust_remote_code)


@dataclass(frozen=True)
class TokenizerOf:
    """The tokenizer of a model, loaded only when there is something to encode."""

    model: str | os.PathLike[str]
    trust_remote_code: bool = False

    def load(self) -> Any:
        return load_tokenizer(self.model, self.trust_remote_code)


class Encoder:
    """Texts and chats as token ids, with the special tokens that the tokenizer puts to them.

    Args:
        tokenizer: of transformers, or a processor that has one; the path of a model, or `TokenizerOf` it;
            None where there is none.
        name: what asks for it, for messages.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._given, self._name, self._loaded = tokenizer, name, False

    @property
    def tokenizer(self) -> Any:
        if not self._loaded:
            self._given, self._loaded = self._resolved(), True
        return self._given

    def _resolved(self) -> Any:
        given = self._given
        if isinstance(given, (str, os.PathLike)):
            given = TokenizerOf(given)
        if isinstance(given, TokenizerOf):
            given = given.load()
        given = getattr(given, "tokenizer", given)  # of a processor
        if given is None:
            raise ValueError(
                f"tokenizer: {self._name} holds texts, of which the model's tokenizer makes token ids; "
                f"expected AutoTokenizer.from_pretrained(...), or qcore.load_tokenizer(...), got None"
            )
        if not hasattr(given, "convert_ids_to_tokens") or not callable(given):
            raise ValueError(
                f"tokenizer: expected a tokenizer of transformers, or the path of a model, got a "
                f"{type(given).__name__}"
            )
        return given

    @property
    def has_template(self) -> bool:
        return getattr(self.tokenizer, "chat_template", None) is not None

    @property
    def longest(self) -> int:
        """Tokens that the model takes, as the tokenizer has it; huge where it does not say."""
        return max(2, int(self.tokenizer.model_max_length))

    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts in front of a text, and behind it."""
        plain = self.bare("a")
        whole = list(self.tokenizer("a", verbose=False)["input_ids"])
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
        return [], []

    def bare(self, text: str) -> list[int]:
        """A text without special tokens around it."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def chat(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> list[int]:
        """A chat by the tokenizer's template, which writes the special tokens itself.

        Raises:
            ValueError: there is no template, or it refuses the chat.
        """
        if not self.has_template:
            raise ValueError(
                "is a chat, but the tokenizer has no chat template; set its chat_template, or give texts"
            )
        from jinja2 import TemplateError

        try:
            found = self.tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=True, return_dict=True
            )
        except (TemplateError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"the tokenizer's chat template does not take it: {error}") from error
        return list(found["input_ids"])
