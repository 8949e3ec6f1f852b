"""python/OPS.md names every op, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch


def test_every_op_has_its_line(repository: Path) -> None:
    page = (repository / "python" / "OPS.md").read_text()
    table = page.split("## The ops")[1].split("## From another library")[0]
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("qcore::")}
    assert set(re.findall(r"`(\w+)`", table)) - {"perm", "offsets", "float_activations"} == {
        name.removeprefix("qcore::").partition(".")[0] for name in names
    }


def test_what_is_mapped_exists(repository: Path) -> None:
    page = (repository / "python" / "OPS.md").read_text()
    rows = re.findall(r"^\| .* \| (.*?) \| .* \|$", page.split("## From another library")[1], re.M)
    ours = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert {"w4a16_gemm", "int8_gemm", "fp8_gemm", "kquant_gemm"} <= ours
    assert all(hasattr(torch.ops.qcore, name) for name in ours)
    for other in ("gptq_marlin_gemm", "awq_gemm", "cutlass_scaled_mm", "_scaled_mm", "_weight_int4pack_mm"):
        assert f"`{other}`" in page


def test_the_example_runs(repository: Path) -> None:
    page = (repository / "python" / "OPS.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict[str, Any] = {}
    exec(example, names)
    assert torch.equal(names["out"], names["y"])
    torch.testing.assert_close(names["layer"](names["x"]), names["y"])
