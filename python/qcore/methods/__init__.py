"""Methods: how codes are chosen. A new one is a file here and a line in METHODS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any

from qcore.methods.awq import Awq
from qcore.methods.base import Method, Scaling
from qcore.methods.gptq import Gptq
from qcore.methods.imatrix import Imatrix
from qcore.methods.rtn import Rtn
from qcore.methods.statistics import InputStats

__all__ = ["METHODS", "Awq", "Gptq", "Imatrix", "InputStats", "Method", "Rtn", "Scaling", "resolve_method"]

# What a user may type; the value builds the method with its defaults.
METHODS: dict[str, Callable[[], Method]] = {
    "rtn": Rtn,
    "imatrix": Imatrix,
    "gptq": Gptq,
    "awq": Awq,
    "awq+gptq": lambda: Awq(inner=Gptq()),
}


def resolve_method(method: str | Method, **options: Any) -> Method:
    """A method by name, or the method itself.

    Args:
        options: attributes of its own, or of the one that it wraps, in place of their defaults.

    Raises:
        ValueError: a name that is none, or an option that it does not have.
    """
    if isinstance(method, str):
        if method.lower() not in METHODS:
            near = get_close_matches(method.lower(), METHODS)
            hint = f"; the nearest are {', '.join(near)}" if near else ""
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}{hint}")
        method = METHODS[method.lower()]()
    known = _options(method)
    for option in options:
        if option not in known:
            has = f"has {', '.join(known)}" if known else "has none"
            raise ValueError(f"{option}: is no option of method {method.name}, which {has}")
    return _changed(method, options)


def _options(method: Method) -> list[str]:
    inner = getattr(method, "inner", None)
    declared: Any = fields(method) if is_dataclass(method) else ()  # somebody's own may be none
    own = [field.name for field in declared if field.name not in ("inner", "keeps_divisors")]
    return own if inner is None else list(dict.fromkeys([*own, *_options(inner)]))


def _changed(method: Method, options: Mapping[str, Any]) -> Method:
    """With these options, wherever they belong."""
    if not options:
        return method
    changes = {field.name: options[field.name] for field in fields(method) if field.name in options}  # type: ignore[arg-type]
    inner = getattr(method, "inner", None)
    if inner is not None:
        changes["inner"] = _changed(inner, options)
    return replace(method, **changes)  # type: ignore[type-var]
