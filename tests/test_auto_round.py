"""AutoRound's configuration of layers that are stored as GPTQ's or AWQ's; see `test_fixtures.py` too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import foreign_layers as foreign
from qcore import load
from test_foreign_folders import check, write

CONFIG: dict[str, Any] = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False}
UP = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("packing", "version"),
    [
        (None, "gptq"),
        ("auto_round:auto_gptq", "gptq"),
        ("auto_round", "gptq_v2"),
        ("auto_round:gptqmodel", "gptq_v2"),
    ],
)
def test_as_gptq(tmp_path: Path, packing: str | None, version: str) -> None:
    config = {**CONFIG, **({} if packing is None else {"packing_format": packing})}
    model, layers = write(tmp_path / "m", config, lambda layer: foreign.gptq(layer, 4, version))
    check(tmp_path / "m", model, layers, act_order=False)


@pytest.mark.parametrize("symmetric", [False, True])
def test_as_awq(tmp_path: Path, symmetric: bool) -> None:
    config = {**CONFIG, "packing_format": "auto_round:auto_awq", "sym": symmetric}
    model, layers = write(tmp_path / "m", config, foreign.awq, symmetric=symmetric)
    check(tmp_path / "m", model, layers, act_order=False)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj", r".*layers\.1.*down_proj"])
def test_rules_for_single_layers(tmp_path: Path, name: str) -> None:
    rules = {name: {"bits": 8, "sym": False}, "lm_head": {"bits": 16, "data_type": "int"}}
    config = {**CONFIG, "extra_config": rules}
    model, layers = write(
        tmp_path / "m", config, lambda layer: foreign.gptq(layer, 8, "gptq"), 8, only=("1.mlp.down_proj",)
    )
    check(tmp_path / "m", model, layers, act_order=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"packing_format": "auto_round:fp8_static"},
            "packing_format: expected one of auto_round:auto_gptq, .*fp8",
        ),
        ({"data_type": "mx_fp"}, "quantization_config.data_type: expected 'int', got 'mx_fp'"),
        ({"act_bits": 8}, "quantization_config.act_bits: expected 16 or more, got 8"),
        ({"extra_config": {UP: {"act_bits": 8}}}, f"extra_config.{UP}.act_bits: expected 16 or more, got 8"),
        ({"extra_config": [UP]}, "extra_config: expected settings by layer"),
        (
            {"extra_config": {UP: {"bits": 16}}},
            f"{UP}: is quantized, but quantization_config.dynamic excludes it",
        ),
        (
            {"extra_config": {UP: {"bits": 8}}},
            rf"{UP}.qweight: expected int32 \[16, 96\], got int32 \[8, 96\]",
        ),
        ({"bits": 3}, "qweight: expected int32"),
        (
            {"packing_format": "auto_round:auto_awq", "extra_config": {UP: {"group_size": 64}}},
            f"extra_config.{UP}.group_size: expected as in all layers of auto_round:auto_awq, got 64",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path / "m", {**CONFIG, **change}, lambda layer: foreign.gptq(layer, 4, "gptq"))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m")
