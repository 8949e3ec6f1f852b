"""Folders that others quantized: `qcore.load` takes their codes as they are, in activation order or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import foreign_layers as foreign
import tiny
from foreign_layers import Layer, bit_stream, make_layer, whole_codes
from qcore import QLinear, load, quantize, quantize_folder, save
from qcore.checkpoints.stores import inspect_checkpoint
from qcore.linears import linear_names

Write = Callable[[Layer], dict[str, Tensor]]


def write(
    folder: Path,
    config: dict[str, Any],
    write_layer: Write,
    bits: int = 4,
    group_size: int = 32,
    act_order: bool = False,
    symmetric: bool = False,
    name: str = "llama-bias",
    only: tuple[str, ...] = ("",),
) -> tuple[nn.Module, dict[str, Layer]]:
    """A folder whose layers of these last names are random codes; a float model of the same function."""
    model = tiny.make_model(name)
    layers: dict[str, Layer] = {}
    tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for index, linear in enumerate(n for n in linear_names(model) if n != "lm_head"):
        if not linear.endswith(only):
            continue
        n, k = tensors[f"{linear}.weight"].shape
        width = k if group_size == -1 else group_size
        layers[linear] = layer = make_layer(n, k, width, bits, symmetric, act_order, seed=index)
        del tensors[f"{linear}.weight"]
        tensors |= {f"{linear}.{part}": tensor for part, tensor in write_layer(layer).items()}
        module = model.get_submodule(linear)
        module.weight.data = torch.from_numpy(layer.dense).float()  # type: ignore[union-attr]
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    stored = {**model.config.to_dict(), "architectures": [type(model).__name__]}  # type: ignore[operator, union-attr]
    stored["quantization_config"] = config
    (folder / "config.json").write_text(json.dumps(stored))
    return model, layers


def check(folder: Path, model: nn.Module, layers: dict[str, Layer], act_order: bool) -> nn.Module:
    """The codes are the writer's, and the loaded model computes what they stand for."""
    loaded = load(folder, dtype=torch.float32)
    quantized = {n: m for n, m in loaded.named_modules() if isinstance(m, QLinear)}
    assert quantized.keys() == layers.keys()
    for name, module in quantized.items():
        assert (module.permutation is not None) == act_order
        weight = module.to_qweight()
        assert np.array_equal(weight.dequantize().double().numpy(), layers[name].dense), name
        order = slice(None) if module.permutation is None else module.permutation.numpy()
        assert np.array_equal(weight.tensors["codes"].numpy(), layers[name].codes[:, order])
        assert torch.equal(module.weight.float(), weight.dequantize(weight.tensors["scales"].dtype).float())
    assert tiny.distance(tiny.logits(loaded), tiny.logits(model)) < 1e-4  # rounding alone
    return loaded


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq(tmp_path: Path, bits: int, version: str, act_order: bool, symmetric: bool) -> None:
    config = {
        "quant_method": "gptq", "bits": bits, "group_size": 32, "sym": symmetric, "desc_act": act_order,
        "checkpoint_format": version,
    }  # fmt: skip
    model, layers = write(
        tmp_path / "m",
        config,
        lambda layer: foreign.gptq(layer, bits, version),
        bits,
        32,
        act_order,
        symmetric,
    )
    check(tmp_path / "m", model, layers, act_order)
    rows = {row.tensor: row for row in inspect_checkpoint(tmp_path / "m")}
    row = rows["model.layers.0.mlp.up_proj.weight"]
    assert row.format == f"int{bits} g32 {'sym' if symmetric else 'asym'}"
    assert row.shape == (96, 64)


def test_gptq_whose_configuration_says_little(tmp_path: Path) -> None:
    """Groups of whole rows, a version that is None as optimum writes it, no g_idx, some layers only."""

    def parts(layer: Layer) -> dict[str, Tensor]:
        tensors = foreign.gptq(layer, 4, "gptq")
        return {key: tensor for key, tensor in tensors.items() if key != "g_idx"}

    config = {"quant_method": "gptq", "bits": 4, "group_size": -1, "checkpoint_format": None}
    model, layers = write(tmp_path / "m", config, parts, 4, -1, symmetric=True, only=("down_proj",))
    assert len(layers) == 2
    check(tmp_path / "m", model, layers, act_order=False)


def test_gptq_rules_for_single_layers(tmp_path: Path) -> None:
    config = {
        "quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "checkpoint_format": "gptq_v2",
        "dynamic": {r"-:.*q_proj": {}, r"+:.*up_proj": {"bits": 8, "group_size": 32}},
    }  # fmt: skip
    folder = tmp_path / "m"
    model, layers = write(
        folder, config, lambda layer: foreign.gptq(layer, 8, "gptq_v2"), 8, only=("up_proj",)
    )
    check(folder, model, layers, act_order=False)
    write(tmp_path / "q", config, lambda layer: foreign.gptq(layer, 4, "gptq_v2"), only=("q_proj",))
    with pytest.raises(
        ValueError, match=r"q_proj: is quantized, but quantization_config\.dynamic excludes it"
    ):
        load(tmp_path / "q")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 5}, "down_proj: bits: expected one of 2, 3, 4, 8, got 5"),
        ({"bits": 8}, r"down_proj.qweight: expected int32 \[24, 64\], got int32 \[12, 64\]"),
        ({"group_size": 64}, r"down_proj.qzeros: expected int32 \[2, 8\]"),
        ({"sym": True}, "down_proj.qzeros: expected only 8, because the weight is symmetric"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format: expected 'gptq' or 'gptq_v2', got 'marlin'"),
        (
            {"quant_method": "quip"},
            "quant_method: expected one of 'compressed-tensors', 'gptq', 'awq', .*, got 'quip'",
        ),
    ],
)
def test_bad_gptq(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "sym": False,
        "checkpoint_format": "gptq_v2",
    }
    folder = tmp_path / "m"
    write(folder, {**config, **change}, lambda layer: foreign.gptq(layer, 4, "gptq_v2"), only=("down_proj",))
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_gptq_that_lacks_a_tensor(tmp_path: Path) -> None:
    def parts(layer: Layer) -> dict[str, Tensor]:
        tensors = foreign.gptq(layer, 4, "gptq")
        return {key: tensor for key, tensor in tensors.items() if key != "scales"}

    write(tmp_path / "m", {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}, parts)
    with pytest.raises(ValueError, match=r"proj\.scales: missing from the checkpoint"):
        load(tmp_path / "m")


@pytest.mark.parametrize("symmetric", [False, True])
def test_awq(tmp_path: Path, symmetric: bool) -> None:
    config = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 32,
        "version": "gemm",
        "zero_point": not symmetric,
    }
    folder = tmp_path / "m"
    model, layers = write(folder, config, lambda l: foreign.awq(l, symmetric), symmetric=symmetric)  # noqa: E741
    check(folder, model, layers, act_order=False)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("version", ["gemv", "GEMV"])
def test_awq_gemv(tmp_path: Path, symmetric: bool, version: str) -> None:
    """Words along K; scales and zero points padded as its kernel wants them."""

    def parts(layer: Layer) -> dict[str, Tensor]:
        padding = ((0, 0), (0, 32 - layer.scales.shape[1]))  # of groups of 32: to four words
        scales, zeros = np.pad(layer.scales, padding), np.pad(layer.zeros, padding)
        tensors = {"qweight": foreign.tensor(bit_stream(layer.codes, 4)), "scales": foreign.tensor(scales)}
        return tensors if symmetric else {**tensors, "qzeros": foreign.tensor(bit_stream(zeros, 4))}

    config = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 32,
        "version": version,
        "zero_point": not symmetric,
    }
    model, layers = write(tmp_path / "m", config, parts, symmetric=symmetric)
    check(tmp_path / "m", model, layers, act_order=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "bits: expected 4, got 8"),
        ({"version": "marlin"}, "version: expected 'gemm' or 'gemv', got 'marlin'"),
    ],
)
def test_bad_awq(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", **change}
    write(tmp_path / "m", config, foreign.awq)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m")


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("words", [bit_stream, whole_codes])
def test_activation_order_in_compressed_tensors(
    tmp_path: Path, bits: int, symmetric: bool, words: Callable[..., np.ndarray]
) -> None:
    """And such a model, whoever wrote it, is saved and read again without loss."""
    weights = {
        "num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": 32,
        "actorder": "group",
    }  # fmt: skip
    config = {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"],
    }  # fmt: skip
    model, layers = write(
        tmp_path / "m",
        config,
        lambda layer: foreign.compressed_tensors(layer, bits, symmetric, words),
        bits,
        act_order=True,
        symmetric=symmetric,
    )
    loaded = check(tmp_path / "m", model, layers, act_order=True)
    save(loaded, tmp_path / "again")
    check(tmp_path / "again", model, layers, act_order=True)
    saved = json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"]
    assert saved["config_groups"]["group_0"]["weights"]["actorder"] == "group"


def test_gptq_becomes_compressed_tensors(tmp_path: Path) -> None:
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": True}
    model, layers = write(
        tmp_path / "m", config, lambda layer: foreign.gptq(layer, 4, "gptq"), act_order=True
    )
    save(check(tmp_path / "m", model, layers, act_order=True), tmp_path / "ct")
    check(tmp_path / "ct", model, layers, act_order=True)


# -- what must not pass in silence ----------------------------------------------------------------


def changed(folder: Path, change: dict[str, Tensor | None]) -> Path:
    """The folder with other tensors."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **change}
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    return folder


@pytest.mark.parametrize("scheme", ["FP8", "W8A8"])
def test_codes_without_scales_are_no_weights(tmp_path: Path, scheme: str) -> None:
    save(quantize(tiny.make_model("llama"), scheme, "rtn"), tmp_path / "m")
    up = "model.layers.0.mlp.up_proj"
    changed(tmp_path / "m", {f"{up}.weight_scale": None})
    with pytest.raises(ValueError, match=rf"{up}\.weight: holds codes"):
        load(tmp_path / "m")


def test_tensors_that_nothing_uses_are_counted(tmp_path: Path) -> None:
    save(quantize(tiny.make_model("llama"), "W4A16", "rtn", group_size=32), tmp_path / "m")
    extra = {"model.layers.0.self_attn.k_proj.k_scale": torch.ones(1), "bogus": torch.ones(1)}
    changed(tmp_path / "m", extra)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="2 of its tensors are not used, the first is bogus"):
        load(tmp_path / "m")


def test_a_configuration_without_quantized_layers(tmp_path: Path) -> None:
    model = tiny.make_model("llama")
    model.save_pretrained(tmp_path / "m")  # type: ignore[operator]
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(ValueError, match="quantization_config says gptq, but no layer is quantized"):
        load(tmp_path / "m")
    path.write_text(json.dumps({**config, "quantization_config": None}))
    assert torch.equal(tiny.logits(load(tmp_path / "m")), tiny.logits(model))
    quantize_folder(tmp_path / "m", tmp_path / "q", "W4A16", "rtn", group_size=32)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_scales_that_are_no_numbers(tmp_path: Path, method: str) -> None:
    def parts(layer: Layer) -> dict[str, Tensor]:
        tensors = foreign.gptq(layer, 4, "gptq") if method == "gptq" else foreign.awq(layer)
        tensors["scales"][0, 0] = torch.nan
        return tensors

    write(tmp_path / "m", {"quant_method": method, "bits": 4, "group_size": 32, "sym": False}, parts)
    with pytest.raises(ValueError, match=r"proj\.scales: holds NaN or infinity"):
        load(tmp_path / "m")


def test_zero_points_of_symmetric_layers(tmp_path: Path) -> None:
    """Some writers store them all the same; then they must be the middle."""
    save(quantize(tiny.make_model("llama"), "W4A16", "rtn", group_size=32), tmp_path / "m")
    key = "model.layers.0.mlp.up_proj.weight_zero_point"
    changed(tmp_path / "m", {key: torch.full((12, 2), -2004318072, dtype=torch.int32)})  # 0x88888888
    load(tmp_path / "m")
    changed(tmp_path / "m", {key: torch.zeros(12, 2, dtype=torch.int32)})
    with pytest.raises(ValueError, match=r"weight_zero_point: expected only 8, .* got 0"):
        load(tmp_path / "m")


def test_vectors_where_matrices_belong(tmp_path: Path) -> None:
    for method in ("gptq", "awq"):
        folder = tmp_path / method
        write(folder, {"quant_method": method, "bits": 4, "group_size": 32}, lambda layer: foreign.awq(layer))
        key = "model.layers.0.mlp.up_proj.qweight"
        changed(folder, {key: torch.zeros(7, dtype=torch.int32)})
        with pytest.raises(ValueError, match=r"up_proj\.qweight: expected two dimensions, got \[7\]"):
            load(folder)
