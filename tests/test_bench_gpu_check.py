"""What `bench/gpu` compares before it times, the order in which contenders take turns, its smoke check, run
on the CPU, and how it runs commands."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import REPOSITORY
from qcore import ops

sys.path.insert(0, str(REPOSITORY / "bench"))

import gpu_build
import gpu_check
import gpu_smoke
import timing

HALVES = (torch.bfloat16, torch.float16)


def normal(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


# -- errors


def test_errors_are_relative() -> None:
    errors = gpu_check.compare(torch.tensor([[3.0, 4.5], [30.0, 40.0]]), torch.tensor([[3.0, 4], [30, 40]]))
    assert errors.whole == pytest.approx(0.5 / math.hypot(3, 4, 30, 40))
    # The first row is small: a typical element is as large as five times its norm.
    assert errors.row == pytest.approx(0.5 / (math.hypot(3, 4, 30, 40) / 2))
    assert errors.column == pytest.approx(0.5 / math.hypot(4, 40))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("m", [1, 2, 7, 64])
def test_rounding_is_right(m: int, dtype: torch.dtype) -> None:
    """A weight that was rounded to the dtype, and so a result whose small elements are off by much."""
    x, w = normal(m, 512).to(dtype).float(), normal(4096, 512, seed=1)
    y = (x @ w.to(dtype).float().T).to(dtype)
    for name in ("qcore", "a peer"):
        assert gpu_check.compare(y, x @ w.T).wrong(gpu_check.most_error(name, dtype)) == ""


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(1, 64), (64, 1), (7, 48), (300, 2000)])
def test_a_line_that_is_missing_or_shifted_is_wrong(shape: tuple[int, int], dtype: torch.dtype) -> None:
    reference = normal(*shape)
    most = gpu_check.most_error("qcore", dtype)
    assert gpu_check.compare(reference.to(dtype), reference).wrong(most) == ""
    for what in ("row", "column"):
        dim = 0 if what == "row" else 1
        line = int(reference.norm(dim=1 - dim).argmin())  # what is seen least
        if shape[1 - dim] == 1:  # one element may be small because its terms cancel
            line = int(reference.abs().argmax())
        for change in (0.0, 1.06, -1.0, math.nan):
            y = reference.clone()
            y.select(dim, line).mul_(change)
            for name in ("qcore", "a peer"):
                if change == 1.06 and name != "qcore":
                    continue
                assert gpu_check.compare(y.to(dtype), reference).wrong(gpu_check.most_error(name, dtype))


def test_only_a_line_is_wrong() -> None:
    """One column of very many: its share of the whole is less than what is allowed in all."""
    reference = normal(4, 100_000)
    y = reference.clone()
    y[:, 77] = 0
    errors = gpu_check.compare(y, reference)
    assert errors.whole < 4e-3
    assert errors.wrong(4e-3) == "wrong by 1.00e+00 in a column, allowed is 4e-02"
    y[:, 77] = math.nan
    assert math.isnan(gpu_check.compare(y, reference).column)
    assert gpu_check.compare(y, reference).wrong(1e9).startswith("wrong by nan")


def test_ours_is_held_to_more_than_peers() -> None:
    ours = [gpu_check.most_error("qcore", dtype) for dtype in HALVES]
    assert ours == [4e-3, 1e-3]
    assert gpu_check.most_error("marlin", torch.float16) == 2e-2
    reference = normal(16, 64)
    errors = gpu_check.compare(reference * 1.01, reference)
    assert errors.wrong(4e-3)
    assert not errors.wrong(2e-2)


def test_a_result_is_not_changed_and_zeros_are_no_error() -> None:
    reference = normal(3, 5)
    y = reference.clone()
    gpu_check.compare(y, reference + 1)
    assert torch.equal(y, reference)
    zeros = torch.zeros(3, 5)
    assert gpu_check.compare(zeros, zeros).wrong(1e-3) == ""


def test_poisoned_memory_is_nan() -> None:
    with gpu_check.poisoned():
        assert torch.empty(100).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


# -- taking turns


class OrderClock:
    """Notes who was replayed; the time is the name's length."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def once(self, calls: Sequence[Callable[[], Tensor]]) -> float:
        return 1.0

    def capture(self, calls: Sequence[Callable[[], Tensor]]) -> str:
        return ""

    def replay(self, captured: str, times: int) -> float:
        self.order.append(captured)
        return float(len(captured) * times)


def test_every_round_begins_with_another_contender() -> None:
    entries = [timing.Entry(name, [], name, 1, 2) for name in ("a", "bb", "ccc")]
    clock = OrderClock()
    times = timing.take_turns(entries, clock, 3)
    rounds = [clock.order[i : i + 3] for i in range(0, 12, 3)]
    assert rounds == [["a", "bb", "ccc"], ["bb", "ccc", "a"], ["ccc", "a", "bb"], ["a", "bb", "ccc"]]
    assert times == {"a": [1.0] * 3, "bb": [2.0] * 3, "ccc": [3.0] * 3}
    assert timing.take_turns([], clock, 2) == {}


# -- the smoke check


@pytest.mark.parametrize("few", [True, False])
def test_smoke(few: bool, capsys: pytest.CaptureFixture[str]) -> None:
    check = gpu_smoke.Check("cpu", few)
    check.run()
    assert (check.failed, capsys.readouterr().out) == (0, "")
    assert check.compared > 50
    assert 0 < check.worst < 1e-2


def test_smoke_covers_what_a_sanitizer_should_see() -> None:
    cases = gpu_smoke.few_cases()
    assert {case.bits for case in cases} == {3, 4, 8}
    assert any(case.k >= 4096 and case.n <= 64 for case in cases)  # K is cut
    assert {dtype for dtype, _, _ in gpu_smoke.FEW_CALLS} == set(gpu_smoke.MOST_ERROR)
    assert any(invariant for _, _, invariant in gpu_smoke.FEW_CALLS)


def test_smoke_sees_wrong_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gemm, repack, of_blocks = ops.w4a16_gemm, ops.w4a16_repack, ops.kquant_gemm

    def broken_gemm(x: Tensor, *rest: Tensor, batch_invariant: bool, **options: Tensor) -> Tensor:
        y = gemm(x, *rest, **options)
        return y * 0 if batch_invariant else y

    def broken_repack(*arguments: object) -> ops.PackedW4A16:
        packed = repack(*arguments)  # type: ignore[arg-type]
        return packed._replace(qweight=packed.qweight + 1) if len(arguments) == 9 else packed

    def broken_kquant_gemm(x: Tensor, packed: Tensor, type: str, *rest: int, **options: bool) -> Tensor:
        y = of_blocks(x, packed, type, *rest, **options)  # type: ignore[arg-type]
        return y + y.abs().max() if type == "IQ4_XS" else y

    monkeypatch.setattr(ops, "w4a16_gemm", broken_gemm)
    monkeypatch.setattr(ops, "kquant_gemm", broken_kquant_gemm)
    monkeypatch.setattr(ops, "w4a16_repack", broken_repack)
    check = gpu_smoke.Check("cpu", few=True)
    check.run()
    said = capsys.readouterr().out
    assert check.failed == said.count("FAILED") == 4 * 3 + 6 + 2 * 2 * 3
    assert said.count("FAILED: IQ4_XS, M") == 2 * 2 * 3
    assert said.count("batch_invariant True: off by 1.00e+00") == 12
    assert said.count("repacked in the order of") == 6


# -- commands


def test_run_ends_what_the_command_started(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    child = f"trap '' TERM; while sleep 0.05; do echo >> {beats}; done"
    code, _ = gpu_build.run(["bash", "-c", f"({child}) & wait"], 0)
    assert code == gpu_build.TIMED_OUT
    before = beats.stat().st_size
    assert before
    time.sleep(0.5)
    assert beats.stat().st_size == before


@pytest.mark.parametrize(
    ("text", "library"),
    [
        ("  Could NOT find GTest (missing: GTEST_LIBRARY GTEST_MAIN_LIBRARY)", "GTest"),
        ('  Could not find a package configuration file provided by "Boost" with any', "Boost"),
        (
            '  Could not find a package configuration file provided by\n  "boost_context" (requested version',
            "boost_context",
        ),
        ("  Could NOT find Boost (missing: context) (found version 1.74.0)", "Boost"),
        ('  Could not find a package configuration file provided by "Torch" with any', ""),
        ("CMake Error: no CUDA compiler", ""),
    ],
)
def test_missing_libraries_of_the_cpp_tests(text: str, library: str) -> None:
    assert gpu_build.missing_library("CMake Error at CMakeLists.txt:29 (find_package):\n" + text) == library
