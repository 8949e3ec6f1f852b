"""bench/gpu_int8.py and gpu_fp8.py without a GPU: a clock that is made up, kernels of the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY
from test_bench_gpu import H200, FakeClock

sys.path.insert(0, str(REPOSITORY / "bench"))
import gpu_fp8
import gpu_int8
import gpu_w8a8


@pytest.mark.parametrize("kind", [gpu_int8.KIND, gpu_fp8.KIND], ids=lambda kind: kind.name)
def test_dry_run_of_8_bit_activations(kind: gpu_w8a8.Kind, tmp_path: Path) -> None:
    bench = gpu_w8a8.Bench(
        kind, tmp_path, {"gpu": "made up"}, H200, FakeClock(), device="cpu", rounds=3, rotate=4000
    )
    bench.run(((256, 48),), (1, 32), ((5, 256),))
    assert bench.failures == []
    gemm, quantizer = f"{kind.name}_gemm", f"quantize_{kind.name}"
    assert [(row.what, row.m) for row in bench.rows] == [(gemm, 1), (gemm, 32), (quantizer, 5)]
    assert bench.rows[0].microseconds == pytest.approx(1)
    assert bench.rows[1].peers_us["torch bf16"] == pytest.approx(1)
    assert {f"{kind.name}_linear", "torch bf16"} <= set(bench.rows[1].peers_us)
    data = json.loads((tmp_path / f"{kind.name}.json").read_text())
    assert data["complete"]
    assert len(data["rows"]) == 3
    lines = (tmp_path / f"{kind.name}.md").read_text().splitlines()
    assert sum(f" {gemm} |" in line for line in lines) == 2


def test_a_wrong_8_bit_product_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product = gpu_w8a8.Operands.product
    monkeypatch.setattr(gpu_w8a8.Operands, "product", lambda o: product(o) + 1)
    clock = FakeClock()
    bench = gpu_w8a8.Bench(
        gpu_int8.KIND, tmp_path, {"gpu": "made up"}, H200, clock, device="cpu", rotate=4000
    )
    bench.run(((256, 48),), (1,), ())
    assert len(bench.failures) == 1
    assert bench.rows == []
