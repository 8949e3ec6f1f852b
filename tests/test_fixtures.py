"""Folders that the tools of others wrote (`tests/fixtures/make.py`) load with their weights and logits."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qcore import QLinear, load
from qcore.checkpoints.files import Checkpoint
from qcore.checkpoints.stores import inspect_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
# By folder: what is stored (several, where groups cross the rows of some layers), and how far logits may be
# off. Most tools compute in float32 what the weights stand for. Where inputs are rounded to 8 bits, a tie may
# be rounded either way.
FOLDERS: dict[str, tuple[str, float]] = {
    "modelopt/fp8": ("e4m3 per tensor, inputs e4m3 static per tensor", 0.03),
    "modelopt/fp8_pc_pt": ("e4m3 per row, inputs e4m3 dynamic per token", 0.03),
    "modelopt/fp8_pb_wo": ("e4m3 128x128", 1e-4),
    "bitsandbytes/nf4": ("nf4 g64, scales f32", 1e-5),
    "bitsandbytes/nf4_double": ("nf4 g64, scales f32", 1e-5),
    "bitsandbytes/fp4_double": ("fp4 g64, scales f32", 1e-5),
    "bitsandbytes/int8": ("int8 per row sym", 0.02),
    "auto_round/int4": ("int4 g32 sym", 5e-3),
    "auto_round/int3": ("int3 g64 sym", 5e-3),
    "auto_round/int2": ("int2 g32 asym", 5e-3),
    "auto_round/mixed": ("int4 g32 sym | int8 g32 sym", 5e-3),
    "torchao/int8": ("int8 per row sym", 1e-5),
    # It rounds inputs by their largest over 127.5, qcore over 127.
    "torchao/int8_dynamic": ("int8 per row, inputs int8 dynamic per token", 0.04),
    "torchao/float8": ("e4m3 per row", 1e-5),
    "torchao/int4": ("int4 g32 sym", 1e-5),
    "torchao/int3_asym": ("int3 g32 asym", 1e-5),
    "hqq/int8": ("int8 g128 asym, zeros f32 | int8 g64 asym, zeros f32", 1e-5),
    "hqq/int4": ("int4 g64 asym, zeros f32", 1e-5),
    "hqq/int3": ("int3 g64 asym, zeros f32", 1e-5),
    "hqq/int2": ("int2 g32 asym, zeros f32", 1e-5),
    "hqq/int1": ("int2 g32 asym, zeros f32", 1e-5),
    "gptqmodel/int4_order": ("int4 g32 sym", 5e-3),
    "gptqmodel/int3": ("int3 g64 asym", 5e-3),
    "gptqmodel/int2_v1": ("int2 g32 asym", 5e-3),
    "gptqmodel/dynamic": ("int4 g32 sym | int4 g32 asym | int8 g64 sym | int8 g32 sym", 5e-3),
    "autoawq/gemm": ("int4 g64 asym", 5e-3),
    "autoawq/gemv": ("int4 g64 asym", 5e-3),
    "llmcompressor/mixed": (
        "int4 g32 sym | int3 g32 asym | int8 per row, inputs int8 dynamic per token | "
        "e4m3 per row, inputs e4m3 dynamic per token",
        0.03,
    ),
    "llmcompressor/int3": ("int3 g32 sym", 1e-5),
    "llmcompressor/fp8_kv": ("e4m3 per tensor, inputs e4m3 static per tensor", 0.03),
}
# What loading warns of.
SAID = {
    "llmcompressor/fp8_kv": [
        "quantization_config.kv_cache_scheme: the key-value cache is not quantized; its 2 scales in the "
        "checkpoint are not used"
    ],
}
# These decode in float16.
HALVES = ("auto_round", "gptqmodel", "autoawq")


@pytest.mark.parametrize("name", FOLDERS)
def test_weights_and_logits(name: str) -> None:
    folder, (format, tolerance) = FIXTURES / name, FOLDERS[name]
    expected = load_file(folder / "expected.safetensors")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = load(folder, dtype=torch.float32)
    assert [str(warning.message).partition(f"{folder}: ")[2] for warning in said] == SAID.get(name, [])
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QLinear)}
    assert len(layers) == 7 * model.config.num_hidden_layers
    assert {str(layer.format) for layer in layers.values()} == set(format.split(" | "))
    for key, weight in expected.items():
        if key.startswith("weight."):
            found = layers[key.removeprefix("weight.")].to_qweight().dequantize()
            rounding = 2.0**-11 if name.startswith(HALVES) else 3e-7
            torch.testing.assert_close(found, weight.float(), rtol=rounding, atol=0)
    with torch.no_grad():
        logits = model(expected["ids"]).logits[0]
    assert (logits - expected["logits"]).norm() / expected["logits"].norm() < tolerance


@pytest.mark.parametrize("name", FOLDERS)
def test_inspect(name: str) -> None:
    formats = FOLDERS[name][0].split(" | ")
    rows = [row for row in inspect_checkpoint(FIXTURES / name) if row.format in formats]
    assert len(rows) == 7 * Checkpoint(FIXTURES / name).config["num_hidden_layers"]


def test_every_folder_is_tested() -> None:
    found = {path.parent.relative_to(FIXTURES).as_posix() for path in FIXTURES.glob("*/*/config.json")}
    assert found == FOLDERS.keys()
    assert all(sum(f.stat().st_size for f in (FIXTURES / name).iterdir()) < 200_000 for name in found)
