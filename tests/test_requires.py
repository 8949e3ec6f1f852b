"""What `pip install qcore` alone can do, and what it says where a package of qcore[models] is missing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qcore
from qcore.requires import MODELS, MissingPackage, models_for

# The packages are refused as if they were not installed.
HIDE = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(MODELS)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
NEED_MODELS = set(qcore._LAZY) - {"SCHEMES", "Awq", "Gptq", "Imatrix", "QLinear", "Rtn"}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


def test_ops_formats_and_methods_need_torch_alone() -> None:
    code = """
import torch, qcore
codes, scales = torch.full((32, 64), 9, dtype=torch.uint8), torch.ones(32, 2)
y = qcore.ops.w4a16_gemm(torch.ones(3, 64), *qcore.ops.w4a16_pack(codes, scales, None, 32))
assert torch.equal(y, torch.full((3, 32), 64.0))
assert {"W4A16", "Q4_K"} <= set(qcore.SCHEMES)
qcore.Rtn(), qcore.Gptq(), qcore.Awq(), qcore.Imatrix(), qcore.QLinear, qcore.kernels(), qcore.repack
"""
    result = python(HIDE + code)
    assert result.returncode == 0, result.stderr


def test_each_door_says_what_is_missing() -> None:
    code = f"""
import json, qcore
said = {{}}
for name in {NEED_MODELS}:
    try:
        getattr(qcore, name)
    except ModuleNotFoundError as error:
        said[name] = str(error)
print(json.dumps(said))
"""
    result = python(HIDE + code)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert set(said) == NEED_MODELS
    for name, message in said.items():
        package = re.fullmatch(
            rf"qcore\.{name} needs the package (\w+): pip install 'qcore\[models\]'", message
        )
        assert package is not None, message
        assert package[1] in MODELS


@pytest.mark.parametrize(
    "entry",
    [
        "from qcore.__main__ import main; main()",
        "import runpy; runpy.run_module('qcore', run_name='__main__')",
    ],
)
def test_the_command_line_says_it_in_one_line(entry: str) -> None:
    result = python(f"{HIDE}\nsys.argv = ['qcore', 'inspect', 'model']\n{entry}")
    assert result.returncode == 1
    assert re.fullmatch(
        r"error: the command qcore needs the package \w+: pip install 'qcore\[models\]'\n", result.stderr
    )


def test_other_missing_modules_stay_as_they_are() -> None:
    for name in ("nothing_like_this", "qcore.nothing_like_this"):
        with pytest.raises(ModuleNotFoundError) as info, models_for("qcore"):
            __import__(name)
        assert not isinstance(info.value, MissingPackage)


def test_importing_qcore_imports_no_model_tools() -> None:
    """What keeps it fast: 0.04 s of work beyond torch."""
    code = "import torch, sys; before = set(sys.modules); import qcore; print(*set(sys.modules) - before)"
    result = python(code)
    assert result.returncode == 0, result.stderr
    outside = {name.partition(".")[0] for name in result.stdout.split()} - sys.stdlib_module_names
    assert outside <= {"qcore", "torch", "numpy"}


def names(pyproject: str, key: str) -> set[str]:
    """The packages of a list in pyproject.toml."""
    listed = re.search(rf"^{key} = \[(.*?)\]", pyproject, re.M | re.S)
    assert listed is not None
    return set(re.findall(r'"([\w-]+)', listed[1]))


def test_every_import_is_declared(repository: Path) -> None:
    pyproject = (repository / "pyproject.toml").read_text()
    assert names(pyproject, "models") == MODELS
    declared = names(pyproject, "dependencies")
    assert declared == {"torch", "numpy", "safetensors"}
    imported = set()
    for path in Path(qcore.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names - declared - {"qcore"} == MODELS
