"""Fields of a configuration: each is of a kind, checked before anything uses it. Null means absent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = [
    "BOOL", "INT", "NAMES", "NUMBER", "OBJECT", "RULES", "TEXT", "Kind", "expect_fields", "expect_regex",
    "given",
]  # fmt: skip


class Kind(NamedTuple):
    """What a field may be, in words, and whether a value is that."""

    words: str
    fits: Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


BOOL = Kind("true or false", lambda value: isinstance(value, bool))
INT = Kind("an integer", _is_int)
NUMBER = Kind("a number", lambda value: _is_int(value) or isinstance(value, float))
TEXT = Kind("a text", lambda value: isinstance(value, str))
NAMES = Kind(
    "a list of names", lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value)
)
OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))
RULES = Kind(
    "settings by layer",
    lambda value: isinstance(value, Mapping) and all(isinstance(rule, Mapping) for rule in value.values()),
)


def expect_fields(where: str, config: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Raises, naming the field, if one that is there is of another kind.

    Args:
        where: what has the fields: "quantization_config".
    """
    for key, kind in kinds.items():
        value = config.get(key)
        if value is not None and not kind.fits(value):
            raise ValueError(f"{where}.{key}: expected {kind.words}, got {value!r}")


def expect_regex(where: str, pattern: str) -> None:
    """Raises if a pattern is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{where}: no regular expression: {pattern}: {error}") from None


def given(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value of a field; the default if it is absent or null."""
    value = config.get(key)
    return default if value is None else value
