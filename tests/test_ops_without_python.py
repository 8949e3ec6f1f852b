"""libqcore_ops.so in a process without Python: a model that AOTInductor compiled, run from C++."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import cpp_extension

from qcore import SCHEMES, QLinear, Rtn, library

SCHEMES_OF_ALL_OPS = ("W4A16_ASYM", "W8A16_FP8", "Q4_K", "W8A8", "FP8", "FP8_BLOCK")
SIZE = 256

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="c++ is missing")


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    def layer(scheme: str) -> QLinear:
        w = torch.randn(SIZE, SIZE) / 16
        return QLinear(Rtn().quantize(w, None, SCHEMES[scheme], torch.float32), torch.randn(SIZE))

    return nn.Sequential(*(layer(scheme) for scheme in SCHEMES_OF_ALL_OPS))


@pytest.mark.slow
def test_a_package_of_aot_inductor_runs_in_cpp(
    model: nn.Sequential, repository: Path, tmp_path: Path
) -> None:
    x, rows = torch.randn(5, SIZE), torch.export.Dim("rows", min=1, max=64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside of torch
        program = torch.export.export(model, (x[:3],), dynamic_shapes=({0: rows},))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))

    libraries, runner = Path(torch.__file__).parent / "lib", tmp_path / "runner"
    subprocess.run(
        [
            *("c++", "-std=c++20", "-O0", "-o", str(runner), str(repository / "tests" / "aoti_runner.cpp")),
            *(f"-isystem{path}" for path in cpp_extension.include_paths()),
            *(f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-Wl,--no-as-needed"),
            *("-ltorch", "-ltorch_cpu", "-lc10", "-ldl"),
        ],
        check=True,
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(runner), str(library.PATH), package, *map(str, x.shape)]
    result = subprocess.run(
        command, input=x.numpy().tobytes(), check=True, capture_output=True, env=environment
    )
    y = torch.frombuffer(bytearray(result.stdout), dtype=torch.float32).reshape(x.shape)
    assert torch.equal(y, model(x))
