"""compressed-tensors of integer weights that are not packed: `int-quantized` and `naive-quantized`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foreign_layers import Layer, tensor
from qcore import load
from test_foreign_folders import check, write

UP = "model.layers.1.mlp.up_proj"


def config(bits: int, symmetric: bool, format: str, **change: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": 32}
    group = {"targets": ["Linear"], "weights": {**weights, **change}, "input_activations": None}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group}}


def parts(layer: Layer, bits: int, symmetric: bool) -> dict[str, Tensor]:
    center = 2 ** (bits - 1)
    tensors = {
        "weight": tensor((layer.codes.astype(np.int16) - center).astype(np.int8)),
        "weight_scale": tensor(layer.scales),
    }
    zeros = tensor((layer.zeros.astype(np.int16) - center).astype(np.int8))
    return tensors if symmetric else {**tensors, "weight_zero_point": zeros}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("format", ["int-quantized", "naive-quantized"])
def test_weights_alone(tmp_path: Path, bits: int, symmetric: bool, format: str) -> None:
    model, layers = write(
        tmp_path / "m",
        config(bits, symmetric, format),
        lambda layer: parts(layer, bits, symmetric),
        bits,
        symmetric=symmetric,
    )
    loaded = check(tmp_path / "m", model, layers, act_order=False)
    assert loaded.get_submodule(UP).format.op == "w4a16"  # at the speed of the kernel


@pytest.mark.parametrize("part", ["weight", "weight_scale", "weight_zero_point"])
def test_what_is_missing(tmp_path: Path, part: str) -> None:
    def lacking(layer: Layer) -> dict[str, Tensor]:
        return {key: t for key, t in parts(layer, 4, False).items() if key != part}

    write(tmp_path / "m", config(4, False, "int-quantized"), lacking)
    with pytest.raises(ValueError, match=rf"proj.({part}|weight_packed): |{part}"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.full((96, 64), 8).char()}, "weight: expected -8 to 7, got 8 to 8"),
        ({"weight": torch.ones(96, 64)}, "weight: expected torch.int8, got torch.float32"),
        (
            {"weight_scale": torch.ones(96, 3)},
            r"weight_scale: expected \[96, 2\], got float32 \[96, 3\]",
        ),
        ({"weight_zero_point": torch.ones(96, 2)}, r"weight_zero_point: expected int8 \[96, 2\]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Tensor], message: str) -> None:
    def bad(layer: Layer) -> dict[str, Tensor]:
        wrong = change if layer.codes.shape == (96, 64) else {}
        return parts(layer, 4, False) | {key: t.clone() for key, t in wrong.items()}

    write(tmp_path / "m", config(4, False, "int-quantized"), bad)
    with pytest.raises(ValueError, match=r"layers.\d.mlp.\w+_proj." + message):
        load(tmp_path / "m")
