"""What `@pytest.mark.large_grid` leaves out, and what it never does."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable

import pytest

from sampling import sample

pytest_plugins = ["pytester"]

# Not every value of the first parameter meets every one of the last.
GRID = [
    case for case in itertools.product(range(12), range(3), range(2), range(5)) if (case[0] + case[3]) % 4
]


def pairs(cases: list[tuple[int, ...]]) -> set[object]:
    return {pair for case in cases for pair in itertools.combinations(enumerate(case), 2)}


@pytest.mark.parametrize("seed", range(5))
def test_all_pairs_of_values_stay(seed: int) -> None:
    chosen = sample(GRID, random.Random(seed))
    assert chosen == sample(GRID, random.Random(seed))
    assert pairs([GRID[index] for index in chosen]) == pairs(GRID)
    assert len(chosen) < len(GRID) / 2


def test_every_case_has_its_turn() -> None:
    assert set().union(*(sample(GRID, random.Random(seed)) for seed in range(40))) == set(range(len(GRID)))


def test_cases_of_one_parameter_all_stay() -> None:
    assert sample([(value,) for value in range(300)], random.Random(0)) == set(range(300))


FILE = """
import pytest

@pytest.mark.large_grid
@pytest.mark.parametrize("a", range(6))
@pytest.mark.parametrize("b", range(4))
@pytest.mark.parametrize("c", range(3))
def test_grid(a, b, c): print("case", a, b, c)

@pytest.mark.parametrize("a", range(3))
def test_all(a): pass
"""


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("QCORE_TEST_SEED", "QCORE_TEST_ALL", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini("[pytest]\nmarkers = large_grid\n")
    pytester.makepyfile(FILE)
    pytester.makeconftest(
        "import sampling\n"
        "pytest_report_header = lambda: sampling.header()\n"
        "pytest_collection_modifyitems = lambda config, items: sampling.sample_items(config, items)\n"
    )

    def passed(*arguments: str, **environment: str) -> tuple[int, str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-s", *arguments)
        return result.parseoutcomes()["passed"], str(result.stdout)

    return passed


def cases(said: str) -> list[str]:
    return re.findall(r"case \d \d \d", said)


def test_a_run_says_how_to_repeat_it(run: Run) -> None:
    count, said = run(QCORE_TEST_SEED="7")
    assert "QCORE_TEST_SEED=7" in said
    assert 3 + 24 <= count < 3 + 72
    assert cases(said) == cases(run(QCORE_TEST_SEED="7")[1]) != cases(run(QCORE_TEST_SEED="8")[1])


def test_all_cases_on_request(run: Run, pytester: pytest.Pytester) -> None:
    (file,) = pytester.path.glob("test_*.py")
    assert run(f"{file.name}::test_grid")[0] == 72
    assert run(QCORE_TEST_ALL="1")[0] == 75
