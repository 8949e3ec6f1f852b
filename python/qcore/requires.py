"""The packages of the extra `models`, which `pip install qcore` leaves out, and what is said without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["MODELS", "MissingPackage", "models_for"]

MODELS = frozenset(
    {
        "accelerate",
        "gguf",
        "greenlet",
        "huggingface_hub",
        "jinja2",
        "rich",
        "tokenizers",
        "transformers",
        "typer",
    }
)


class MissingPackage(ModuleNotFoundError):
    """A package that an extra of qcore brings is not installed."""


@contextmanager
def models_for(what: str) -> Iterator[None]:
    """While it lasts, an import of one of MODELS that fails says what needs it and how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in MODELS:
            raise
        message = f"{what} needs the package {package}: pip install 'qcore[models]'"
        raise MissingPackage(message, name=error.name) from error
