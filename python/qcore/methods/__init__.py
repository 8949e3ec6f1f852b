"""Methods: how codes are chosen. A new one is a file here and a line in METHODS."""

from __future__ import annotations

from collections.abc import Callable

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


def resolve_method(method: str | Method) -> Method:
    """A method by name, or the method itself."""
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    return METHODS[method]()
