"""`bench/gpu` where there is no GPU: how it says so, its pure functions, and its loop with a clock that
measures nothing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "bench"))

import gpu_build
import gpu_check
import gpu_kquant
import gpu_limits
import gpu_peers
import gpu_report
import gpu_run
import gpu_w4a16
import timing
from gpu_limits import Limits, Measured
from gpu_peers import Contender, Spec, Weight, make_weight
from gpu_report import Row

MEASURED = Measured(copy_bytes_per_s=4e12, read_bytes_per_s=4.5e12, bf16_flop_per_s=7e14)
H200 = gpu_limits.limits_of("NVIDIA H200", MEASURED)
SMALL = Spec(64, 48, group_size=32)


def make_row(**changes: Any) -> Row:
    row = Row(
        contender="qcore",
        kernel="w4a16_sm80",
        dtype="bfloat16",
        m=16,
        k=4096,
        n=14336,
        bits=4,
        group_size=128,
        asymmetric=False,
        float8=False,
        act_order=False,
        **dict(microseconds=10.0, least_us=9.5, largest_us=11.0, limit_us=6.4, tb_per_s=3.05),
        **dict(tflop_per_s=188.0, fraction=0.64, speedup=2.5, error=1.7e-3, copies=9, weight_bytes=30 << 20),
    )
    return replace(row, **changes)


# -- without a GPU

SCRIPTS = ("gpu", "gpu_w4a16.py", "gpu_kquant.py", "gpu_int8.py", "gpu_fp8.py", "gpu_smoke.py")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_gpu_one_line_and_exit_2(script: str) -> None:
    path = str(REPOSITORY / "bench" / script)
    command = ["env", f"PYTHON={sys.executable}", path] if script == "gpu" else [sys.executable, path]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert "GPU" in ran.stderr
    assert ran.stdout == ""


def test_without_python_one_line_and_exit_2() -> None:
    command = ["env", "PYTHON=/nowhere/python", str(REPOSITORY / "bench" / "gpu")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1)


# -- which steps


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["build", "test", "sanitize", "time"]),
        (["--skip-sanitizer"], ["build", "test", "time"]),
        (["--only", "time", "--quick"], ["time"]),
        (["--only", "test", "--only", "build"], ["build", "test"]),
    ],
)
def test_steps(options: list[str], expected: list[str]) -> None:
    assert gpu_run.steps(gpu_run.parse(options)) == expected


def test_a_failed_step_fails_the_run() -> None:
    state = gpu_run.Run(gpu_run.parse([]), "90a-real", math.inf)
    state.add("test", "ok")
    state.add("sanitize", "skipped", "not here")
    assert not state.failed
    state.add("time", gpu_run.verdict(1))
    assert state.failed


@pytest.mark.parametrize(
    ("code", "output", "status"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", "ok"),
        (86, "========= ERROR SUMMARY: 3 errors", "FAILED"),
        (1, "Traceback", "FAILED"),
        (gpu_build.TIMED_OUT, "", "FAILED"),
    ],
)
def test_sanitizer_verdict(code: int, output: str, status: str) -> None:
    assert gpu_run.sanitizer_verdict(code, output)[0] == status


def test_only_memcheck_is_told_of_api_errors() -> None:
    for tool in ("memcheck", "racecheck"):
        command = gpu_run.sanitizer_command("compute-sanitizer", tool)
        assert command[:3] == ["compute-sanitizer", "--tool", tool]
        assert ("--report-api-errors" in command) == (tool == "memcheck")


# -- the package


def test_architecture() -> None:
    names = [gpu_build.architecture(*v) for v in ((8, 0), (9, 0), (12, 0))]
    assert names == ["80-real", "90a-real", "120a-real"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("python/qcore/__init__.py", "cpp/a.cpp", "CMakeLists.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "dist").mkdir()
    return tmp_path


def make_wheel(tree: Path, tag: str, text: str = "python/qcore/__init__.py") -> Path:
    wheel = tree / "dist" / f"qcore-0.1.0-{tag}-{tag}-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("qcore/__init__.py", text)
    return wheel


def test_wheels_before_source_and_reasons_for_others(tree: Path) -> None:
    mine = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    good, other = make_wheel(tree, mine), make_wheel(tree, "cp27")
    found, reasons = gpu_build.candidates(tree)
    assert [c.wheel for c in found] == [good, None]
    assert reasons == [f"dist/{other.name}: is for cp27, this Python is {mine}"]
    os.utime(good, (0, 0))
    found, _ = gpu_build.candidates(tree)
    assert [c.wheel for c in found] == [None, good]
    make_wheel(tree, mine, "something else")
    found, reasons = gpu_build.candidates(tree)
    assert [c.wheel for c in found] == [None]
    assert "differ" in reasons[0] + reasons[1]
    assert [c.wheel for c in gpu_build.candidates(tree, str(other))[0]] == [other]
    assert [c.wheel for c in gpu_build.candidates(tree, f"{tree}/dist/*27*.whl")[0]] == [other]


def test_sources_hash_sees_every_file(tree: Path) -> None:
    before = gpu_build.sources_hash(tree)
    assert before == gpu_build.sources_hash(tree)
    (tree / "cpp" / "a.cpp").write_text("changed")
    assert gpu_build.sources_hash(tree) != before


def test_run_reports_status_output_and_timeouts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert gpu_build.run([sys.executable, "-c", "print('a'); raise SystemExit(3)"], 60, log) == (3, "a\n")
    assert gpu_build.run(["sleep", "60"], 0, log)[0] == gpu_build.TIMED_OUT
    assert gpu_build.run(["/nowhere"], 1, log)[0] == 127


# -- limits


def test_limits() -> None:
    assert (H200.bytes_per_s, H200.flop_per_s, H200.source) == (4.8e12, 989e12, "datasheet")
    unknown = gpu_limits.limits_of("NVIDIA H200 NVL", MEASURED)
    assert unknown == Limits(4.5e12, 7e14, "measured in this run")
    assert gpu_limits.limit_seconds(4.8e12, 0, H200) == 1
    assert gpu_limits.limit_seconds(4.8e12, 3 * 989e12, H200) == 3


def test_moved_bytes_are_weight_x_and_y() -> None:
    assert gpu_w4a16.moved_bytes(Spec(4096, 14336), 1000, 3) == 1000 + 3 * (4096 + 14336) * 2


# -- the plan of a measurement


def test_copies_rotate_through_more_than_the_caches() -> None:
    assert timing.copies_wanted(100, 10**6, 256) == 3
    assert 3 * 100 > 256
    assert timing.copies_wanted(100, 250, 256) == 2
    assert timing.copies_wanted(100, 50, 256) == 0


def test_calls_per_graph() -> None:
    assert timing.calls_per_graph(3, 1e-6) == 18  # whole passes
    assert timing.calls_per_graph(32, 1e-6) == 32
    assert timing.calls_per_graph(3, 0.015) == 1


def test_copies_are_equal_and_apart() -> None:
    layer = torch.nn.Linear(2, 3)
    state = (torch.ones(4), torch.empty(0, 5, 7, dtype=torch.uint8), layer)
    assert timing.nbytes(state) == 16 + (6 + 3) * 4
    with torch.inference_mode():
        first, second = timing.rotated((torch.ones(4), torch.empty(0, 5)), 2)
    assert first[0].data_ptr() != second[0].data_ptr()
    assert torch.equal(first[0], second[0])
    assert second[1].shape == (0, 5)


@pytest.mark.parametrize("quick", [False, True])
def test_jobs_are_different_and_valid(quick: bool) -> None:
    work = gpu_w4a16.jobs(quick)
    specs = [job.spec for job in work]
    assert len(set(specs)) == len(specs)
    assert all(spec.k % spec.group_size == 0 for spec in specs)
    assert {spec.asymmetric for spec in specs} == {spec.act_order for spec in specs} == {False, True}


# -- contenders


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        replace(SMALL, asymmetric=True, bits=8),
        replace(SMALL, bits=8, float8=True),
        replace(SMALL, act_order=True, dtype=torch.float16),
    ],
)
def test_contenders_agree_on_the_cpu(spec: Spec) -> None:
    weight = make_weight(spec, "cpu")
    x = torch.randn(5, spec.k).to(spec.dtype)
    expected = weight.product(x)
    for name in ("qcore", "torch"):
        contender = gpu_peers.ADAPTERS[name](weight)
        assert isinstance(contender, Contender)
        errors = gpu_check.compare(contender.call(contender.state, x), expected)
        assert not errors.wrong(gpu_check.most_error(name, spec.dtype))


def test_peers_that_are_absent_say_why() -> None:
    adapters = {name: a for name, a in gpu_peers.ADAPTERS.items() if name not in ("qcore", "torch")}
    odd = make_weight(replace(SMALL, bits=8, act_order=True), "cpu")  # nobody's
    contenders, reasons = gpu_peers.build(odd, adapters)
    assert not contenders
    assert set(reasons) == set(adapters)
    assert all(reasons.values())


def test_a_peer_that_raises_is_a_reason() -> None:
    def broken(weight: Weight) -> Contender | str:
        raise RuntimeError("first\nsecond")

    assert gpu_peers.build(make_weight(SMALL, "cpu"), {"it": broken}) == ({}, {"it": "RuntimeError: first"})


def test_gptq_words() -> None:
    codes = torch.arange(16, dtype=torch.uint8).reshape(1, 16)
    words = gpu_peers.gptq_words(codes, 4)
    assert words.shape == (2, 1)
    assert [int(w) & 0xFFFFFFFF for w in words.flatten()] == [0x76543210, 0xFEDCBA98]


# -- the loop, without a device


@dataclass
class Replay:
    calls: Sequence[Callable[[], Tensor]]
    output: Tensor


class FakeClock:
    """Runs the calls and says that each took a microsecond."""

    def once(self, calls: Sequence[Callable[[], Tensor]]) -> float:
        return len(calls) * 1e-3

    def capture(self, calls: Sequence[Callable[[], Tensor]]) -> Replay:
        return Replay(calls, torch.empty_like(calls[-1]()))

    def replay(self, captured: Replay, times: int) -> float:
        captured.output.copy_(captured.calls[-1]())
        return len(captured.calls) * times * 1e-6


def run_bench(out: Path, adapters: dict[str, gpu_peers.Adapter], **options: Any) -> gpu_w4a16.Bench:
    options |= {"device": "cpu", "rounds": 3, "rotate": 4000, "adapters": adapters}
    bench = gpu_w4a16.Bench(out, {"gpu": "made up"}, H200, FakeClock(), **options)
    with torch.inference_mode():
        bench.run([gpu_w4a16.Job(SMALL, (1, 4))])
    return bench


def test_dry_run(tmp_path: Path) -> None:
    adapters = {name: gpu_peers.ADAPTERS[name] for name in ("qcore", "torch", "torchao")}
    bench = run_bench(tmp_path, adapters)
    assert bench.failures == []
    assert [f"{row.contender} {row.m}" for row in bench.rows] == ["qcore 1", "torch 1", "qcore 4", "torch 4"]
    first = bench.rows[0]
    assert first.microseconds == pytest.approx(1)
    assert first.speedup == pytest.approx(1)
    assert first.copies * first.weight_bytes > 4000
    assert first.fraction == pytest.approx(first.limit_us)
    assert first.kernel.startswith("w4a16_")
    data = json.loads((tmp_path / "w4a16.json").read_text())
    assert data["complete"]
    assert [row["m"] for row in data["rows"]] == [1, 1, 4, 4]
    assert "torchao" in data["notes"][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w4a16.json", "w4a16.md"]


def test_dry_run_of_block_formats(tmp_path: Path) -> None:
    bench = gpu_kquant.Bench(
        tmp_path, {"gpu": "made up"}, H200, FakeClock(), device="cpu", rounds=3, rotate=4000
    )
    bench.run(("Q4_K", "Q8_0"), (256, 40), (1, 3))
    assert bench.failures == []
    assert [(row.type, row.what, row.m) for row in bench.rows] == [
        (type, what, m)
        for type in ("Q4_K", "Q8_0")
        for what, m in (("gemm", 1), ("gemm", 3), ("dequantize", 0))
    ]
    assert bench.rows[0].microseconds == pytest.approx(1)
    assert bench.rows[0].dense_us == pytest.approx(1)
    assert bench.rows[0].kernel.startswith("kquant_")
    data = json.loads((tmp_path / "kquant.json").read_text())
    assert data["complete"]
    assert data["rows"][2]["dense_us"] is None
    assert (tmp_path / "kquant.md").read_text().count(" dequantize |") == 2


def test_a_wrong_product_of_blocks_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_kquant.Weight, "product", lambda weight, x: x.float() @ weight.values.T + 1)
    bench = gpu_kquant.Bench(tmp_path, {"gpu": "made up"}, H200, FakeClock(), device="cpu", rotate=4000)
    bench.run(("Q4_K",), (256, 40), (1,))
    assert len(bench.failures) == 1
    assert [row.what for row in bench.rows] == ["dequantize"]


def test_wrong_and_unwritten_results_are_not_timed(tmp_path: Path) -> None:
    def wrong(weight: Weight) -> Contender:
        return Contender((weight.codes,), lambda state, x: torch.zeros(x.shape[0], SMALL.n, dtype=x.dtype))

    def unwritten(weight: Weight) -> Contender:
        return Contender((weight.codes,), lambda state, x: torch.empty(x.shape[0], SMALL.n, dtype=x.dtype))

    bench = run_bench(tmp_path, {"qcore": wrong, "peer": unwritten})
    assert bench.rows == []
    assert len(bench.failures) == 2  # ours at both sizes; a peer's fault is a note
    assert sum("peer" in note and "nan" in note for note in bench.notes) == 2


def test_out_of_time_keeps_what_is_there(tmp_path: Path) -> None:
    bench = run_bench(tmp_path, {"torch": gpu_peers.torch_dense}, deadline=0.0)
    assert not bench.complete
    assert json.loads((tmp_path / "w4a16.json").read_text())["complete"] is False
    assert "did not finish" in (tmp_path / "w4a16.md").read_text()


# -- tables


def test_numbers() -> None:
    values = (0.0, 0.01234, 1.234, 12.34, 123.4, 1234.6, math.nan)
    assert [gpu_report.number(v) for v in values] == ["0", "0.0123", "1.23", "12.3", "123", "1235", "-"]


def test_tables() -> None:
    rows = [
        make_row(),
        make_row(contender="torch", microseconds=25.0),
        make_row(m=1, speedup=math.nan),
        make_row(asymmetric=True, act_order=True, group_size=32),
    ]
    text = gpu_report.markdown({"gpu": "made up"}, rows, ["vllm: not installed"], True)
    assert "## 4096 x 14336, W4 g128, bfloat16\n" in text
    assert "## 4096 x 14336, W4 g32, asymmetric, act-order, bfloat16\n" in text
    assert "vllm: not installed" in text
    lines = gpu_report.weight_table(rows[:3]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["1", "16"]
    assert len({len(line) for line in lines}) == 1
    assert "2.50 x" in lines[3]
    assert "25.0" in lines[3]
    assert "0.64 2.5x" in gpu_report.short_table(rows)
    assert "no row" in gpu_report.short_table([])


def test_json_has_no_nan_and_is_replaced_whole(tmp_path: Path) -> None:
    for count in (1, 2):
        gpu_report.write(tmp_path / "new", {"gpu": "x"}, [make_row(speedup=math.nan)] * count, [], count == 2)
    data = json.loads((tmp_path / "new" / "w4a16.json").read_text())
    assert data["complete"] is True
    assert [row["speedup"] for row in data["rows"]] == [None, None]


def test_folder_name() -> None:
    assert gpu_report.folder_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
