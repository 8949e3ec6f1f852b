"""Folders of GPTQ and AWQ that qcore writes: read again they hold the same codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tiny
from foreign_layers import awq_words, bit_stream
from qcore import IntGroup, QLinear, load, quantize, save

SIZES = {"hidden_size": 64, "intermediate_size": 128}
UP = "model.layers.1.mlp.up_proj"


def layers_of(model: nn.Module) -> dict[str, QLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QLinear)}


def check(model: nn.Module, folder: Path, container: str) -> dict[str, Any]:
    """Saves and loads a model; returns what config.json says of it."""
    save(model, folder, container=container)
    loaded = load(folder)
    before, after = layers_of(model), layers_of(loaded)
    assert before.keys() == after.keys()
    for name, layer in after.items():
        one, other = layer.to_qweight(), before[name].to_qweight()
        assert torch.equal(one.tensors["scales"], other.tensors["scales"])
        assert torch.equal(one.dequantize(), other.dequantize())
    assert tiny.distance(tiny.logits(loaded), tiny.logits(model)) < 1e-6  # act-order sums in another order
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return config


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [32, -1])
def test_gptq(tmp_path: Path, bits: int, symmetric: bool, group_size: int) -> None:
    model = quantize(tiny.make_model("llama-bias", **SIZES), IntGroup(bits, symmetric, group_size), "rtn")
    config = check(model, tmp_path / "m", "gptq")
    assert config == {
        "quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": symmetric, "desc_act": False,
        "lm_head": False, "checkpoint_format": "gptq" if symmetric else "gptq_v2", "pack_dtype": "int32",
        "dynamic": {"-:^lm_head$": {}},
    }  # fmt: skip
    assert json.loads((tmp_path / "m" / "quantize_config.json").read_text()) == config
    stored, weight = load_file(tmp_path / "m" / "model.safetensors"), layers_of(model)[UP].to_qweight()
    codes, groups = weight.tensors["codes"].numpy(), weight.tensors["scales"].shape[1]
    np.testing.assert_array_equal(stored[f"{UP}.qweight"].numpy(), bit_stream(codes, bits).T)
    zeros = (
        weight.tensors["zeros"].numpy()
        if not symmetric
        else np.full((128, groups), 2 ** (bits - 1) - 1, np.uint8)
    )
    np.testing.assert_array_equal(
        stored[f"{UP}.qzeros"].numpy(), bit_stream(np.ascontiguousarray(zeros.T), bits)
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq_in_activation_order(tmp_path: Path, symmetric: bool) -> None:
    model = tiny.make_model("llama", **SIZES)
    quantize(model, IntGroup(4, symmetric, 32), "rtn")
    for layer in layers_of(model).values():  # as GPTQ's act-order leaves it
        weight = layer.to_qweight()
        permutation = torch.randperm(layer.in_features, dtype=torch.int32)
        layer.__init__(weight.with_inputs(permutation=permutation))  # type: ignore[misc]
    assert check(model, tmp_path / "m", "gptq")["desc_act"]
    g_idx = load_file(tmp_path / "m" / "model.safetensors")[f"{UP}.g_idx"]
    assert g_idx.dtype == torch.int32
    assert torch.equal(g_idx.sort().values, torch.arange(64).int() // 32)


def test_gptq_of_layers_that_differ(tmp_path: Path) -> None:
    def scheme(layer: Any) -> Any:
        if layer.name.endswith("k_proj"):
            return None
        return IntGroup(8, True, 64) if layer.name.endswith("down_proj") else IntGroup(4, True, 32)

    model = quantize(tiny.make_model("llama", **SIZES), scheme, "rtn")
    config = check(model, tmp_path / "m", "gptq")
    assert (config["bits"], config["group_size"]) == (4, 32)
    rule = {"bits": 8, "group_size": 64, "desc_act": False}
    assert config["dynamic"] == {
        "-:^lm_head$": {},
        **{rf"-:^model\.layers\.{i}\.self_attn\.k_proj$": {} for i in (0, 1)},
        **{rf"+:^model\.layers\.{i}\.mlp\.down_proj$": rule for i in (0, 1)},
    }


@pytest.mark.parametrize("container", ["gptq", "awq"])
def test_a_quantized_head(tmp_path: Path, container: str) -> None:
    model = quantize(tiny.make_model("llama", **SIZES), IntGroup(4, False, 32), "rtn", ignore=())
    config = check(model, tmp_path / "m", container)
    assert config.get("lm_head", True)
    assert not config.get("modules_to_not_convert")


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [32, 16, -1])
def test_awq(tmp_path: Path, symmetric: bool, group_size: int) -> None:
    model = quantize(tiny.make_model("llama", **SIZES), IntGroup(4, symmetric, group_size), "rtn")
    config = check(model, tmp_path / "m", "awq")
    assert config == {
        "quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": ["lm_head"],
    }  # fmt: skip
    twin = json.loads((tmp_path / "m" / "quant_config.json").read_text())
    assert (twin["q_group_size"], twin["w_bit"]) == (group_size, 4)
    codes = layers_of(model)[UP].to_qweight().tensors["codes"].numpy()
    stored = load_file(tmp_path / "m" / "model.safetensors")[f"{UP}.qweight"]
    np.testing.assert_array_equal(stored.numpy(), awq_words(np.ascontiguousarray(codes.T)))


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_folders_of_older_writers(tmp_path: Path, name: str) -> None:
    """They say nothing in config.json."""
    container = {"quantize_config.json": "gptq", "quant_config.json": "awq"}[name]
    model = quantize(tiny.make_model("llama", **SIZES), IntGroup(4, False, 32), "rtn")
    save(model, tmp_path / "m", container=container)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert torch.equal(tiny.logits(load(tmp_path / "m")), tiny.logits(model))


@pytest.mark.parametrize(
    ("container", "scheme", "sizes", "message"),
    [
        (
            "gptq",
            "W8A8",
            {},
            "gptq has no format int8 per row, inputs int8 .*; it stores integers of 2, 3, 4",
        ),
        ("gptq", "NF4", {}, "gptq has no format nf4 g64"),
        ("gptq", IntGroup(4, True, 32), {"intermediate_size": 80}, "down_proj.weight: group_size: .* K = 80"),
        (
            "gptq",
            IntGroup(4, True, 32),
            {"vocab_size": 72},
            "lm_head.weight: expected a multiple of 32 rows.* 72",
        ),
        ("awq", IntGroup(8, True, 32), {}, "awq has no format int8 g32 sym; it stores integers of 4 bits"),
        (
            "awq",
            IntGroup(4, True, 32),
            {"vocab_size": 70},
            "lm_head.weight: expected a multiple of 8 rows.* 70",
        ),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, container: str, scheme: Any, sizes: dict[str, int], message: str
) -> None:
    model = tiny.make_model("llama", **{**SIZES, **sizes})
    scales = {"intermediate_size": 80}.items() <= sizes.items()
    quantize(model, scheme, "rtn", ignore=())
    if scales:  # a last group that is shorter, which memory takes
        layer = layers_of(model)["model.layers.0.mlp.down_proj"]
        tensors = IntGroup(4, True, 32).fit(torch.randn(64, 80), torch.float32)
        weight = layer.to_qweight()
        layer.__init__(
            type(weight)(IntGroup(4, True, 32), (64, 80), tensors.store(tensors.round(torch.randn(64, 80))))
        )  # type: ignore[misc]
    with pytest.raises(ValueError, match=message):
        save(model, tmp_path / "m", container=container)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("container", "formats", "message"),
    [
        ("gptq", (IntGroup(4, True, 32), IntGroup(4, False, 32)), "with zero points or without, got both"),
        (
            "awq",
            (IntGroup(4, True, 32), IntGroup(4, True, 64)),
            r"one group_size for all layers, got \[32, 64\]",
        ),
    ],
)
def test_what_one_configuration_cannot_say(
    tmp_path: Path, container: str, formats: Any, message: str
) -> None:
    model = tiny.make_model("llama", **SIZES)
    quantize(model, lambda layer: formats[layer.name.endswith("up_proj")], "rtn")
    with pytest.raises(ValueError, match=message):
        save(model, tmp_path / "m", container=container)
    assert list(tmp_path.iterdir()) == []


def test_divided_inputs_are_refused(tmp_path: Path) -> None:
    model = quantize(tiny.make_model("llama", **SIZES), IntGroup(4, True, 32), "rtn")
    layer = layers_of(model)[UP]
    layer.__init__(layer.to_qweight().with_inputs(divisor=torch.full((64,), 2.0)))  # type: ignore[misc]
    for container in ("gptq", "awq"):
        with pytest.raises(ValueError, match=f"{UP}: divides its inputs by a vector"):
            save(model, tmp_path / "m", container=container)
