"""What the commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Annotated

import typer

from qcore.interrupts import ended

__all__ = ["DTypeName", "DeviceName", "TrustRemoteCode", "errors", "present"]

TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that the model's folder brings. Without it such a model is refused.",
    ),
]


class DeviceName(str, Enum):
    cpu = "cpu"
    cuda = "cuda"


class DTypeName(str, Enum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    auto = "auto"


@contextmanager
def errors() -> Iterator[None]:
    """What a user can mend is one line and exit code 1; a bug keeps its traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        if (end := ended()) is not None:
            raise end from error
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error


def present(device: DeviceName) -> str:
    """The name of a device that is there."""
    import torch

    if device is DeviceName.cuda and not torch.cuda.is_available():
        raise ValueError("--device: torch sees no CUDA device here")
    return device.value
