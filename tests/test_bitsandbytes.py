"""Folders of bitsandbytes, written here by hand, and by qcore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny
from foreign_layers import write_llama
from qcore import QLinear, load, quantize, save
from qcore.formats import ELEMENTS, ScaledFormat, Scales, group

FOUR = {"quant_method": "bitsandbytes", "load_in_4bit": True}
UP = "model.layers.1.mlp.up_proj"
# Of bitsandbytes' functional.py: the pattern of a code is s, e, e, m; 0.0625, not 0.5, is its subnormal.
FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3]) / 12


def numbers(kind: str) -> np.ndarray:
    if kind == "fp4":
        return np.concatenate([FP4, -FP4]).astype(np.float32)
    return np.array(ELEMENTS["nf4"].numbers, dtype=np.float32)  # type: ignore[attr-defined] - see its own test


def four(
    n: int,
    k: int,
    seed: int,
    kind: str = "nf4",
    blocksize: int = 64,
    nested: bool = False,
    storage: Any = np.uint8,
) -> tuple[dict[str, Tensor], np.ndarray]:
    """One layer: its tensors, and what they stand for."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 16, n * k, dtype=np.uint8)
    blocks = -(-n * k // blocksize)
    state: dict[str, Any] = {"quant_type": kind, "blocksize": blocksize, "dtype": "bfloat16", "shape": [n, k]}
    tensors = {}
    if nested:
        table = np.sort(random.uniform(-1, 1, 256)).astype(np.float32)
        outer = random.uniform(0.01, 0.02, -(-blocks // 256)).astype(np.float32)
        absmax = random.integers(0, 256, blocks, dtype=np.uint8)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0625}
        scales = table[absmax] * outer.repeat(256)[:blocks] + np.float32(0.0625)
        tensors = {"weight.nested_absmax": outer, "weight.nested_quant_map": table}
    else:
        absmax = scales = random.uniform(0.01, 0.1, blocks).astype(np.float32)
    packed = np.pad(codes, (0, -len(codes) % 2)).reshape(-1, 2)
    tensors |= {
        "weight": ((packed[:, :1] << 4) | packed[:, 1:]).view(storage),
        "weight.absmax": absmax,
        "weight.quant_map": numbers(kind),
        f"weight.quant_state.bitsandbytes__{kind}": np.frombuffer(
            json.dumps(state).encode(), dtype=np.uint8
        ).copy(),
    }
    values = numbers(kind)[codes] * scales.repeat(blocksize)[: n * k]
    return {key: torch.from_numpy(array) for key, array in tensors.items()}, values.reshape(n, k)


def eight(n: int, k: int, seed: int) -> tuple[dict[str, Tensor], np.ndarray]:
    random = np.random.default_rng(seed)
    codes = random.integers(-127, 128, (n, k), dtype=np.int8)
    largest = random.uniform(0.1, 0.3, n).astype(np.float32)
    tensors = {"weight": codes, "SCB": largest, "weight_format": np.array(0, dtype=np.uint8)}
    return {key: torch.from_numpy(array) for key, array in tensors.items()}, codes * (
        largest[:, None] / np.float32(127)
    )


def check(folder: Path, model: nn.Module, weights: dict[str, np.ndarray], op: str) -> nn.Module:
    loaded = load(folder)
    layers = {name: module for name, module in loaded.named_modules() if isinstance(module, QLinear)}
    assert layers.keys() == weights.keys()
    for name, layer in layers.items():
        assert layer.format.op == op
        np.testing.assert_array_equal(layer.to_qweight().dequantize().numpy(), weights[name])
    assert tiny.distance(tiny.logits(loaded), tiny.logits(model)) < 1e-4
    return loaded


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("blocksize", [32, 64, 128, 4096])  # 96 columns: blocks cross rows
def test_four_bits(tmp_path: Path, kind: str, nested: bool, blocksize: int) -> None:
    model, weights = write_llama(tmp_path / "m", FOUR, lambda *a: four(*a, kind, blocksize, nested))
    check(tmp_path / "m", model, weights, "decoded")


@pytest.mark.parametrize("storage", [np.float32, np.float16, np.int8])
def test_storage_of_another_dtype(tmp_path: Path, storage: Any) -> None:
    def make(n: int, k: int, seed: int) -> tuple[dict[str, Tensor], np.ndarray]:
        tensors, values = four(n, k, seed)
        packed = tensors["weight"].flatten().view(torch.from_numpy(np.zeros(1, storage)).dtype)
        return {**tensors, "weight": packed.reshape(-1, 1)}, values

    model, weights = write_llama(tmp_path / "m", FOUR, make)
    check(tmp_path / "m", model, weights, "decoded")


def test_columns_that_no_block_divides(tmp_path: Path) -> None:
    model, weights = write_llama(tmp_path / "m", FOUR, four, intermediate_size=91)
    check(tmp_path / "m", model, weights, "decoded")


def test_int8_runs_at_kernel_speed(tmp_path: Path) -> None:
    model, weights = write_llama(
        tmp_path / "m", {"quant_method": "bitsandbytes", "load_in_8bit": True}, eight
    )
    check(tmp_path / "m", model, weights, "w4a16")


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("width", [32, 64])
def test_written(tmp_path: Path, kind: str, width: int) -> None:
    format = ScaledFormat(ELEMENTS[kind], group(width), Scales(torch.float32))
    model = quantize(tiny.make_model("llama", intermediate_size=128), format, "rtn")
    save(model, tmp_path / "m", container="bitsandbytes")
    weights = {
        n: m.to_qweight().dequantize().numpy() for n, m in model.named_modules() if isinstance(m, QLinear)
    }
    assert check(tmp_path / "m", model, weights, "decoded").model.layers[0].mlp.up_proj.format == format  # type: ignore[union-attr, index]
    config = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    assert (config["bnb_4bit_quant_type"], config["llm_int8_skip_modules"]) == (kind, ["lm_head"])


def test_what_cannot_be_written(tmp_path: Path) -> None:
    model = quantize(tiny.make_model("llama", intermediate_size=96), "NF4", "rtn")
    with pytest.raises(ValueError, match=r"down_proj.weight: group_size: .*divisor of K \(96\), got 64"):
        save(model, tmp_path / "m", container="bitsandbytes")
    assert list(tmp_path.iterdir()) == []


def state(**change: Any) -> Tensor:
    said = {"quant_type": "nf4", "blocksize": 64, "shape": [96, 64], **change}
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


STATE = f"{UP}.weight.quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({STATE: None}, "quant_state.bitsandbytes__nf4: expected one quant_state, of nf4 or fp4, found 0"),
        ({f"{UP}.weight.absmax": None}, "weight.absmax: missing from the checkpoint"),
        ({f"{UP}.weight.quant_map": None}, "weight.quant_map: missing from the checkpoint"),
        ({f"{UP}.weight": None}, "up_proj.weight: missing from the checkpoint"),
        (
            {f"{UP}.weight.nested_absmax": torch.ones(1)},
            "weight.nested_quant_map: missing from the checkpoint",
        ),
        ({f"{UP}.weight.quant_map": torch.ones(16)}, "weight.quant_map: expected the numbers of nf4"),
        (
            {f"{UP}.weight.absmax": torch.ones(95)},
            r"weight.absmax: expected float32 \[96\], got float32 \[95\]",
        ),
        ({f"{UP}.weight.absmax": torch.full((96,), torch.inf)}, "weight.absmax: holds NaN or infinity"),
        ({f"{UP}.weight": torch.zeros(9, 1).byte()}, r"weight: expected 3072 bytes for \[96, 64\], got 9"),
        ({STATE: state(blocksize=0)}, "quant_state.bitsandbytes__nf4: expected positive sizes"),
        ({STATE: state(shape=[96])}, "quant_state.bitsandbytes__nf4: expected JSON"),
        ({STATE: state(shape=[192, 32])}, r"up_proj.*expected a weight of shape \[96, 64\]"),
        ({STATE: state(quant_type="fp4")}, "quant_type: expected 'nf4', as its key says, got 'fp4'"),
        ({STATE: torch.zeros(3).byte()}, "quant_state.bitsandbytes__nf4: expected JSON"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_llama(tmp_path / "m", FOUR, four)
    file = tmp_path / "m" / "model.safetensors"
    tensors = {key: t for key, t in {**load_file(file), **change}.items() if t is not None}
    save_file(tensors, file)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m")


def test_int8_in_another_order(tmp_path: Path) -> None:
    def make(n: int, k: int, seed: int) -> tuple[dict[str, Tensor], np.ndarray]:
        tensors, values = eight(n, k, seed)
        return {**tensors, "weight_format": torch.tensor(1, dtype=torch.uint8)}, values

    write_llama(tmp_path / "m", FOUR, make)
    with pytest.raises(ValueError, match="weight_format: expected 0"):
        load(tmp_path / "m")
