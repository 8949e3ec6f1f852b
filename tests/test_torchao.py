"""What is wrong with a folder of torchao's is named; `test_fixtures.py` reads those that it wrote itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qcore import load

FIXTURES = Path(__file__).parent / "fixtures" / "torchao"
UP = "model.layers.0.mlp.up_proj"


def changed(
    folder: Path, name: str, tensors: dict[str, Any], said: dict[str, Any], data: dict[str, Any]
) -> Path:
    """A fixture with other tensors of a layer, and other words about it."""
    shutil.copytree(FIXTURES / name, folder)
    file = folder / "model.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata())
    before = json.loads(metadata[f"{UP}.weight"])
    metadata[f"{UP}.weight"] = json.dumps({**before, **said, "_data": {**before["_data"], **data}})
    stored = load_file(file) | {f"{UP}.{part}": tensor for part, tensor in tensors.items()}
    save_file({key: t for key, t in stored.items() if t is not None}, file, metadata=metadata)
    return folder


@pytest.mark.parametrize(
    ("name", "tensors", "said", "data", "message"),
    [
        ("int4", {"_weight_qdata": None}, {}, {}, f"{UP}._weight_qdata: missing from the checkpoint"),
        ("int4", {"_weight_scale": None}, {}, {}, f"{UP}._weight_scale: missing from the checkpoint"),
        ("int4", {"weight": torch.ones(192, 128)}, {}, {}, f"{UP}.weight: does not belong to such a layer"),
        (
            "int4",
            {},
            {"_type": "NVFP4Tensor"},
            {},
            f"{UP}.weight: metadata: _type: expected one of Int8Tensor",
        ),
        (
            "int4",
            {},
            {},
            {"block_size": [1, 64]},
            rf"{UP}._weight_scale: expected .*\[192, 2\], got .*\[192, 4\]",
        ),
        ("int4", {}, {}, {"block_size": [2, 64]}, r"block_size: expected \[1, columns\], got \[2, 64\]"),
        ("int4", {}, {}, {"block_size": None}, r"block_size: expected \[1, columns\], got None"),
        (
            "int4",
            {},
            {},
            {"target_dtype": {"_data": "int5"}},
            "target_dtype: expected one of int2, .* got 'int5'",
        ),
        ("int4", {}, {}, {"activation_quantization": "x"}, "activation_quantization: expected none, got 'x'"),
        (
            "int4",
            {"_weight_qdata": torch.full((192, 128), 9).char()},
            {},
            {},
            "_weight_qdata: expected -8 to 7",
        ),
        ("float8", {}, {}, {"block_size": [1, 32]}, "block_size: expected a row or the whole weight"),
        ("float8", {"_weight_scale": torch.full((192, 1), torch.nan)}, {}, {}, "_weight_scale: holds NaN"),
        ("int8_dynamic", {}, {}, {"act_quant_kwargs": {"_data": {}}}, "act_quant_kwargs: expected none, or"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path,
    name: str,
    tensors: dict[str, Any],
    said: dict[str, Any],
    data: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        load(changed(tmp_path / "m", name, tensors, said, data))


def test_metadata_that_are_gone(tmp_path: Path) -> None:
    """As a tool leaves a file that rewrites it without them."""
    shutil.copytree(FIXTURES / "int4", tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"proj.weight: the file's metadata do not say what it is"):
        load(tmp_path / "m")
