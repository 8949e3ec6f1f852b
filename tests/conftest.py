"""Fixtures for all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(autouse=True)
def _no_forced_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own overrides must not change what the tests see."""
    for name in ("QCORE_FORCE_ISA", "QCORE_FORCE_KERNEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _compiles_anew() -> Iterator[None]:
    """torch.compile counts how often it compiled the same code, over all tests, and gives up after eight."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """Restores torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
