"""What is wrong with a folder of HQQ's is named; `test_fixtures.py` reads those that it wrote itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qcore import QLinear, load, save

FOLDER = Path(__file__).parent / "fixtures" / "hqq" / "int4"
UP = "model.layers.0.mlp.up_proj"


def changed(folder: Path, change: dict[str, Any]) -> Path:
    shutil.copytree(FOLDER, folder)
    tensors = load_file(folder / "model.safetensors") | {f"{UP}.{part}": t for part, t in change.items()}
    save_file({key: t for key, t in tensors.items() if t is not None}, folder / "model.safetensors")
    return folder


def test_words_that_look_like_floats(tmp_path: Path) -> None:
    """As FSDP wants them."""
    words = load_file(FOLDER / "model.safetensors")[f"{UP}.W_q"]
    change = {"W_q": words.view(torch.bfloat16), "view_as_float": torch.ones((), dtype=torch.uint8)}
    one, other = (load(path).get_submodule(UP) for path in (FOLDER, changed(tmp_path / "m", change)))
    assert isinstance(one, QLinear)
    assert isinstance(other, QLinear)
    assert torch.equal(one.to_qweight().dequantize(), other.to_qweight().dequantize())


def test_one_scale_and_zero_for_all(tmp_path: Path) -> None:
    change = {"scale": torch.tensor(0.25), "zero": torch.tensor(7.5)}
    layer = load(changed(tmp_path / "m", change)).get_submodule(UP)
    assert isinstance(layer, QLinear)
    weight = layer.to_qweight()
    assert torch.equal(weight.dequantize(), (weight.tensors["codes"].float() - 7.5) * 0.25)


def test_no_other_container_stores_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compressed-tensors has no format int4 g64 asym, zeros f32"):
        save(load(FOLDER), tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": None}, f"{UP}.scale: missing from the checkpoint"),
        ({"packing": None}, f"{UP}.packing: missing from the checkpoint"),
        ({"weight": torch.ones(192, 128)}, f"{UP}.weight: does not belong to such a layer"),
        (
            {"packing": torch.tensor(list(b"5bit_u8")).byte()},
            f"{UP}.packing: expected one of 8bit_u8, .*5bit",
        ),
        ({"axis": torch.tensor(0)}, f"{UP}.axis: expected 1 .groups along rows., got 0"),
        ({"nbits": torch.tensor(8)}, f"{UP}.nbits: expected at most those of 4bit_u8, got 8"),
        ({"nbits": torch.tensor(3)}, f"{UP}.nbits: is 3, but 4 in quantization_config.quant_config"),
        ({"group_size": torch.tensor(32)}, f"{UP}.group_size: is 32, but 64 in quantization_config"),
        (
            {"group_size": torch.tensor(100)},
            f"{UP}.group_size: expected a divisor of the 24576 weights, got 100",
        ),
        ({"shape": torch.tensor([192])}, f"{UP}.shape: expected two sizes"),
        ({"shape": torch.tensor([128, 192])}, r"up_proj: expected a weight of shape \[192, 128\]"),
        ({"quant_zero": torch.tensor(1)}, f"{UP}.quant_zero: scales and zeros that are quantized in turn"),
        ({"scale": torch.ones(5, 1)}, rf"{UP}.scale: expected .*\[384\], got float32 \[5\]"),
        ({"zero": torch.full((384, 1), torch.nan)}, f"{UP}.zero: holds NaN or infinity"),
        ({"W_q": torch.zeros(5, 64).byte()}, rf"{UP}.W_q: expected uint8 \[192, 64\], got uint8 \[5, 64\]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(changed(tmp_path / "m", change))
