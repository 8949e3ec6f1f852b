"""Fixtures for all tests."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sampling

REPOSITORY = Path(__file__).resolve().parents[1]

sampling.seed()  # chosen before workers start, which then all inherit one

# Workers of pytest-xdist share the cores among them, and so do the programs that they start. Tests of what
# threads do set a number of their own.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


# Where transformers puts the code of folders that it runs; within a process it cannot change its mind.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="qcore-modules-")
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)


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


def pytest_configure() -> None:
    sampling.seed()  # before there are workers: they inherit it


def pytest_report_header() -> str:
    return sampling.header()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    sampling.sample_items(config, items)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
