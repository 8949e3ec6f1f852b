"""Large grids of slow cases are sampled: each run takes another part of them, and says how to take it again.

`@pytest.mark.large_grid` marks a test with hundreds of cases. A run takes cases at random until every value
of each parameter has met every value of each other one that the grid has it with: no row, format or dtype,
nor any two of them together, are left out. QCORE_TEST_SEED=n repeats a run, QCORE_TEST_ALL=1 takes all cases;
so does naming a test (file.py::test).
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Sequence

import pytest

MARKER = "large_grid"


def seed() -> str:
    """Workers of pytest-xdist inherit that of the process that starts them."""
    return os.environ.setdefault("QCORE_TEST_SEED", str(random.SystemRandom().randrange(10**6)))


def header() -> str:
    if os.environ.get("QCORE_TEST_ALL") == "1":
        return "large grids: all cases"
    return f"large grids: sampled, QCORE_TEST_SEED={seed()} takes the same cases, QCORE_TEST_ALL=1 all"


def sample(cases: Sequence[tuple[object, ...]], generator: random.Random) -> set[int]:
    """Indices of cases in which all pairs of values of two parameters occur that occur in any."""
    order = list(range(len(cases)))
    generator.shuffle(order)
    seen: set[object] = set()
    chosen = set()
    for index in order:
        values = cases[index]
        pairs = set(itertools.combinations(enumerate(values), min(2, len(values))))
        if not pairs <= seen:
            chosen.add(index)
            seen |= pairs
    return chosen


def sample_items(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the other cases of the grids that are marked."""
    if os.environ.get("QCORE_TEST_ALL") == "1" or any("::" in argument for argument in config.args):
        return
    grids: dict[str, list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker(MARKER):
            grids.setdefault(item.nodeid.split("[")[0], []).append(item)
    left_out: set[pytest.Item] = set()
    for name, cases in grids.items():
        # Cases with the same value hold the same object.
        values = [tuple(map(id, case.callspec.params.values())) for case in cases]
        chosen = sample(values, random.Random(f"{seed()} {name}"))
        left_out |= {case for index, case in enumerate(cases) if index not in chosen}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
