"""Pre-tokenizers of byte-level BPE: the names that GGUF files give them, and the rules behind the names."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

__all__ = ["PRE_TOKENIZERS", "Pre", "name_of", "splitter"]

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKED_WORDS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_CASED_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+@|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*@"
)
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _rules(*parts: str) -> str:
    return "|".join((*parts, _LINES))


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _rules(_CONTRACTIONS, _WORDS, r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*")
_QWEN2 = _rules(_CONTRACTIONS, _WORDS, r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n]*")
_QWEN35 = _rules(_CONTRACTIONS, _MARKED_WORDS, r"\p{N}", r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*")
_TEKKEN = _rules(_CASED_WORDS.replace("@", ""), r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*")
_GPT4O = _rules(_CASED_WORDS.replace("@", _CONTRACTIONS + "?"), r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*")


@dataclass(frozen=True)
class Pre:
    """One pre-tokenizer.

    Attributes:
        patterns: expressions; the matches of each, and what lies between them, are cut by the next ones.
        whole_words: a word that is in the vocabulary is taken whole, whatever the merges say.
        nfc: texts are normalized first (by Hugging Face's tokenizers, not by llama.cpp).
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    nfc: bool = False


# Where names share their rules, the first one is written.
PRE_TOKENIZERS: dict[str, Pre] = {
    "gpt-2": Pre((_GPT2,)),
    "llama-bpe": Pre((_LLAMA3,), whole_words=True),
    "dbrx": Pre((_LLAMA3,)),
    "qwen2": Pre((_QWEN2,), nfc=True),
    "qwen35": Pre((_QWEN35,), nfc=True),
    "tekken": Pre((_TEKKEN,), whole_words=True),
    "gpt-4o": Pre((_GPT4O,)),
    "smollm": Pre((r"\p{N}", _GPT2)),
    "falcon": Pre((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "deepseek-coder": Pre(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    # Read only. The first is what llama.cpp does for a file that names none.
    "default": Pre((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "llama3": Pre((_LLAMA3,), whole_words=True),
    "llama-v3": Pre((_LLAMA3,), whole_words=True),
    "smaug-bpe": Pre((_LLAMA3,)),
    "falcon3": Pre((_LLAMA3,), whole_words=True),
    "pixtral": Pre((_LLAMA3,), whole_words=True),
    "deepseek-r1-qwen": Pre((_QWEN2,), nfc=True),
    "megrez": Pre((_QWEN2,), nfc=True),
    "stablelm2": Pre((_QWEN2,)),
    "llama4": Pre((_GPT4O,)),
    "olmo": Pre((_GPT2,)),
    "mpt": Pre((_GPT2,)),
    "phi-2": Pre((_GPT2,)),
    "starcoder": Pre((r"\p{N}", _GPT2)),
    "refact": Pre((r"\p{N}", _GPT2)),
    "command-r": Pre((r"\p{N}", _GPT2)),
}

# Words, numbers, spaces, line ends, scripts and signs in the combinations in which the rules differ.
PROBE = (
    "Hello world! I'm sure, it's 12345 or 3.14e10; WE'LL see what they'Ve done\n\n\n  indented\ttabs \r\n"
    " a/b//c  http://x.y/z?q=1&r=2 snake_case camelCase XMLHttp ABC-def 'quoted' \"double\" ...!? \n \n x"
    " naïve café cafe\u0301 Ünïcödé ΑΒΓαβγ Русский язык 日本語テキスト 中文123字 한국어 عربى हिन्दी ไทย"
    " 🚀🙂 👨\u200d👩\u200d👧 \u00a0nbsp\u3000wide 1st 2nd \uff11\uff12\uff13 ²³ Ⅷ ½"
    " \n/path\n//c #!@$%^&*()[]{}<>|\\~`=+ don't DON'T  "
)


def splitter(pre: Pre) -> PreTokenizer:
    """The pre-tokenizer, with bytes as characters at its end."""
    steps: list[PreTokenizer] = [Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    return Sequence([*steps, ByteLevel(add_prefix_space=False, use_regex=False)])


def name_of(pre_tokenizer: PreTokenizer, whole_words: bool) -> str | None:
    """The name of a tokenizer's own pre-tokenizer, found by what it does; None if it has none."""
    words = pre_tokenizer.pre_tokenize_str(PROBE)
    for name, pre in PRE_TOKENIZERS.items():
        if pre.whole_words == whole_words and splitter(pre).pre_tokenize_str(PROBE) == words:
            return name
    # Without merges of whole words the difference is only one of speed, mostly; the rules decide.
    return next(
        (n for n, pre in PRE_TOKENIZERS.items() if splitter(pre).pre_tokenize_str(PROBE) == words), None
    )
