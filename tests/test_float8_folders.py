"""Containers of e4m3 weights: fine-grained FP8, FBGEMM's and ModelOpt's. Folders are written here by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny
from foreign_layers import Made, write_llama
from qcore import QLinear, load, quantize, save
from qcore.linears import linear_names

BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
UNEVEN = {"hidden_size": 160, "intermediate_size": 192}  # blocks at the edges are smaller


def codes(n: int, k: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Random e4m3, no NaN, and their values by the definition of the format."""
    patterns = np.random.default_rng(seed).integers(0, 256, (n, k), dtype=np.uint8)
    patterns[patterns & 0x7F == 0x7F] = 0
    sign, exponent, mantissa = patterns >> 7, (patterns >> 3 & 15).astype(int), patterns & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    values = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal) * np.where(sign, -1.0, 1.0)
    return torch.from_numpy(patterns).view(torch.float8_e4m3fn), values


def blocks(n: int, k: int, seed: int, dtype: torch.dtype = torch.float32) -> Made:
    weight, values = codes(n, k, seed)
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(-(-n // 128), -(-k // 128), generator=generator) / 4096 + 1e-5
    scales = scales.to(dtype)
    spread = scales.double().numpy().repeat(128, 0).repeat(128, 1)[:n, :k]
    return {"weight": weight, "weight_scale_inv": scales}, values * spread


def powers(n: int, k: int, seed: int, dtype: torch.dtype = torch.float8_e8m0fnu) -> Made:
    weight, values = codes(n, k, seed)
    exponents = np.random.default_rng(seed).integers(108, 114, (-(-n // 128), -(-k // 128)), dtype=np.uint8)
    spread = 2.0 ** (exponents.astype(int) - 127).repeat(128, 0).repeat(128, 1)[:n, :k]
    scales = torch.from_numpy(exponents)
    scales = scales if dtype == torch.uint8 else scales.view(dtype)
    return {"weight": weight, "weight_scale_inv": scales}, values * spread


def tensorwise(
    n: int, k: int, seed: int, scale: str, inputs: str | None, shape: tuple[int, ...] = ()
) -> Made:
    weight, values = codes(n, k, seed)
    tensors = {"weight": weight, scale: torch.full(shape, 1 / 4096)}
    if inputs:
        tensors[inputs] = torch.full(shape, 0.02)
    return tensors, values / 4096


def rows(n: int, k: int, seed: int, bound: bool = True) -> Made:
    weight, values = codes(n, k, seed)
    scales = torch.rand(n, 1, generator=torch.Generator().manual_seed(seed)) / 4096 + 1e-5
    tensors = {"weight": weight, "weight_scale": scales}
    if bound:
        tensors["input_scale_ub"] = torch.tensor([1200.0])
    return tensors, values * scales.double().numpy()


def layers_of(model: nn.Module) -> dict[str, QLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QLinear)}


def check(
    folder: Path, weights: dict[str, np.ndarray], format: str, model: nn.Module, op: str = "fp8"
) -> None:
    loaded = load(folder, dtype=torch.float32)
    layers = layers_of(loaded)
    assert layers.keys() == weights.keys()
    for name, layer in layers.items():
        assert (str(layer.format), layer.format.op) == (format, op)
        found = layer.to_qweight().dequantize().double().numpy()
        np.testing.assert_allclose(found, weights[name], rtol=1e-7)
        layer.float_activations = True
    assert tiny.distance(tiny.logits(loaded), tiny.logits(model)) < 1e-4  # rounding alone


@pytest.mark.parametrize(
    "make", [blocks, lambda *a: blocks(*a, dtype=torch.bfloat16), powers, lambda *a: powers(*a, torch.uint8)]
)
def test_fine_grained(tmp_path: Path, make: Callable[..., Made]) -> None:
    config = {**BLOCKS, "modules_to_not_convert": ["lm_head"]}
    model, weights = write_llama(tmp_path / "m", config, make, **UNEVEN)
    check(tmp_path / "m", weights, "e4m3 128x128, inputs e4m3 dynamic per block", model)


def test_transformers_reads_the_same(tmp_path: Path) -> None:
    """Whole blocks: of others it takes the size from the numbers of rows and scales, and gets it wrong."""
    sizes = {"hidden_size": 256, "intermediate_size": 384, "head_dim": 64}
    write_llama(tmp_path / "m", {**BLOCKS, "modules_to_not_convert": ["lm_head"]}, blocks, **sizes)
    compare_with_transformers(tmp_path / "m")


def compare_with_transformers(folder: Path) -> None:
    config = transformers.FineGrainedFP8Config(dequantize=True)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32
    )
    ours = layers_of(load(folder))
    for name, layer in ours.items():
        found = layer.to_qweight().dequantize()
        torch.testing.assert_close(found, theirs.get_submodule(name).weight.data.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("names", [("weight_scale_inv", "activation_scale"), ("weight_scale", "input_scale")])
@pytest.mark.parametrize("scheme", ["static", "dynamic"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_scale_for_a_weight(
    tmp_path: Path, names: tuple[str, str], scheme: str, shape: tuple[int, ...]
) -> None:
    inputs = names[1] if scheme == "static" else None
    config = {"quant_method": "fp8", "activation_scheme": scheme, "weight_block_size": None}
    model, weights = write_llama(tmp_path / "m", config, lambda *a: tensorwise(*a, names[0], inputs, shape))
    kind = "static per tensor" if inputs else "dynamic per token"
    check(tmp_path / "m", weights, f"e4m3 per tensor, inputs e4m3 {kind}", model)


@pytest.mark.parametrize("bound", [False, True])
def test_fbgemm(tmp_path: Path, bound: bool) -> None:
    config = {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]}
    if bound:
        config["activation_scale_ub"] = 1200.0  # type: ignore[assignment]
    model, weights = write_llama(tmp_path / "m", config, lambda *a: rows(*a, bound))
    with pytest.warns(UserWarning, match="inputs above 1200.0 are not clipped") if bound else nullcontext():
        check(tmp_path / "m", weights, "e4m3 per row, inputs e4m3 dynamic per token", model)


TWIN = {
    "producer": {"name": "modelopt", "version": "0.19.0"},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]},
}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}


def static(n: int, k: int, seed: int) -> Made:
    return tensorwise(n, k, seed, "weight_scale", "input_scale")


@pytest.mark.parametrize(("config", "twin"), [(MODELOPT, None), (None, TWIN), (MODELOPT, TWIN)])
def test_modelopt_and_its_twin(tmp_path: Path, config: dict[str, Any] | None, twin: Any) -> None:
    model, weights = write_llama(tmp_path / "m", config, static, twin)
    check(tmp_path / "m", weights, "e4m3 per tensor, inputs e4m3 static per tensor", model)
    save(load(tmp_path / "m"), tmp_path / "saved")  # as compressed-tensors, without the twin
    assert not (tmp_path / "saved" / "hf_quant_config.json").exists()
    check(tmp_path / "saved", weights, "e4m3 per tensor, inputs e4m3 static per tensor", model)


def test_twins_that_disagree(tmp_path: Path) -> None:
    other = {**TWIN, "quantization": {"quant_algo": "NVFP4"}}
    write_llama(tmp_path / "m", MODELOPT, static, other)
    with pytest.raises(
        ValueError, match=r"hf_quant_config.json: quant_algo: is 'NVFP4', but 'FP8' in config"
    ):
        load(tmp_path / "m")


def test_a_twin_of_a_model_that_is_no_longer_quantized(tmp_path: Path) -> None:
    model, _ = write_llama(
        tmp_path / "m", None, lambda n, k, seed: ({"weight": torch.ones(n, k)}, np.ones((n, k))), TWIN
    )
    assert torch.equal(tiny.logits(load(tmp_path / "m")), tiny.logits(model))


def test_modelopt_of_several_algorithms(tmp_path: Path) -> None:
    mixed: dict[str, Any] = {}

    def make(n: int, k: int, seed: int) -> Made:
        mixed[names[seed]] = {"quant_algo": "FP8" if seed % 2 else "FP8_PER_CHANNEL_PER_TOKEN"}
        return static(n, k, seed) if seed % 2 else rows(n, k, seed, bound=False)

    names = [n for n in linear_names(tiny.make_model("llama")) if n != "lm_head"]
    config = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": mixed}
    _, weights = write_llama(tmp_path / "m", config, make)
    layers = layers_of(load(tmp_path / "m"))
    for seed, name in enumerate(names):
        assert str(layers[name].format).startswith("e4m3 per tensor" if seed % 2 else "e4m3 per row")
        np.testing.assert_allclose(layers[name].to_qweight().dequantize().numpy(), weights[name], rtol=1e-6)


UP = "model.layers.1.mlp.up_proj"
INV = f"{UP}.weight_scale_inv"


@pytest.mark.parametrize(
    ("config", "make", "change", "message"),
    [
        ({**BLOCKS, "weight_block_size": [64, 64]}, blocks, {}, r"_size: expected \[128, 128\] or null"),
        ({**BLOCKS, "weight_block_size": 128}, blocks, {}, "weight_block_size: expected"),
        ({**BLOCKS, "activation_scheme": "static"}, blocks, {}, "activation_scheme: expected 'dynamic' with"),
        ({**BLOCKS, "activation_scheme": "none"}, blocks, {}, "activation_scheme: expected"),
        ({**BLOCKS, "fmt": "e5m2"}, blocks, {}, "fmt: expected 'e4m3', got 'e5m2'"),
        ({**BLOCKS, "modules_to_not_convert": ["model.layers.1"]}, blocks, {}, "layers.1.mlp.* excludes it"),
        (BLOCKS, blocks, {INV: None}, f"{UP}.weight: holds codes .F8_E4M3."),
        (BLOCKS, blocks, {f"{UP}.weight": None}, f"{UP}.weight: missing from the checkpoint"),
        (BLOCKS, blocks, {INV: torch.ones(2, 2)}, rf"{INV}: expected \[1, 1\]"),
        (BLOCKS, blocks, {INV: torch.full((1, 1), torch.nan)}, f"{INV}: holds NaN"),
        (BLOCKS, blocks, {f"{UP}.weight": torch.ones(96, 64)}, f"{UP}.weight: expected torch.float8_e4m3fn"),
        (BLOCKS, blocks, {f"{UP}.weight": codes(96, 64, 0)[0][None]}, "weight: expected two"),
        (BLOCKS, blocks, {f"{UP}.activation_scale": torch.ones(1)}, "activation_scale: does not belong"),
        (MODELOPT, static, {f"{UP}.input_scale": None}, f"{UP}.input_scale: missing"),
        (MODELOPT, static, {f"{UP}.input_scale": torch.zeros(1)}, f"{UP}.input_scale: expected one positive"),
        ({**MODELOPT, "quant_algo": "NVFP4"}, static, {}, "quant_algo: expected one of FP8, .* got 'NVFP4'"),
        ({**MODELOPT, "ignore": ["*layers.0*"]}, static, {}, "is quantized, but .*ignore excludes it"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    tmp_path: Path, config: dict[str, Any], make: Callable[..., Made], change: dict[str, Any], message: str
) -> None:
    write_llama(tmp_path / "m", config, make)
    file = tmp_path / "m" / "model.safetensors"
    tensors = {key: t for key, t in {**load_file(file), **change}.items() if t is not None}
    save_file(tensors, file)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m")


# -- writing ------------------------------------------------------------------------------------


def saved(model: nn.Module, folder: Path, container: str) -> nn.Module:
    """What is loaded of a model that was saved in a container; the codes are the same."""
    save(model, folder, container=container)
    loaded = load(folder)
    before, after = layers_of(model), layers_of(loaded)
    assert before.keys() == after.keys()
    for name, layer in after.items():
        assert layer.format == before[name].format
        one, other = layer.to_qweight(), before[name].to_qweight()
        assert torch.equal(one.tensors["codes"].view(torch.uint8), other.tensors["codes"].view(torch.uint8))
        assert torch.equal(one.dequantize(), other.dequantize())
    assert torch.equal(tiny.logits(loaded), tiny.logits(model))
    return loaded


@pytest.mark.parametrize(
    ("scheme", "container"), [("FP8_BLOCK", "fp8"), ("FP8_STATIC", "modelopt"), ("FP8", "modelopt")]
)
def test_written(tmp_path: Path, scheme: str, container: str) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 384, "head_dim": 64}
    model = quantize(
        tiny.make_model("llama", **sizes), scheme, "rtn", tiny.tokens() if "STATIC" in scheme else None
    )
    saved(model, tmp_path / "m", container)
    config = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    if container == "fp8":
        assert config == {**BLOCKS, "fmt": "e4m3", "modules_to_not_convert": ["lm_head"]}
        compare_with_transformers(tmp_path / "m")
    else:
        algorithm = "FP8" if scheme == "FP8_STATIC" else "FP8_PER_CHANNEL_PER_TOKEN"
        assert (config["quant_algo"], config["ignore"]) == (algorithm, ["lm_head"])
        twin = json.loads((tmp_path / "m" / "hf_quant_config.json").read_text())["quantization"]
        assert (twin["quant_algo"], twin["exclude_modules"]) == (algorithm, ["lm_head"])


@pytest.mark.parametrize(
    ("scheme", "container", "message"),
    [
        ("W4A16", "fp8", "q_proj.weight: fp8 has no format int4 g64 sym; it stores e4m3 128x128"),
        ("FP8_BLOCK", "modelopt", "modelopt has no format e4m3 128x128, inputs"),
        ("FP8", "fbgemm_fp8", "fbgemm_fp8 is only read"),
        ("FP8", "fp9", "container: expected one of 'compressed-tensors', .* got 'fp9'"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, scheme: str, container: str, message: str) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 384, "head_dim": 64}
    group = {"group_size": 64} if scheme == "W4A16" else {}
    model = quantize(tiny.make_model("llama", **sizes), scheme, "rtn", **group)
    with pytest.raises(ValueError, match=message):
        save(model, tmp_path / "m", container=container)
    assert list(tmp_path.iterdir()) == []
