"""The tensors of a quantized layer: which there must be, by what the configuration says or leaves open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from compressed_tensors.quantization import QuantizationArgs
from safetensors.torch import load_file

import foreign_layers as foreign
import tiny
from qcore import QLinear, load, quantize, save
from qcore.checkpoints.compressed_tensors.groups import arguments
from qcore.checkpoints.stores import inspect_checkpoint
from test_folder_tensors import UP, change_config, change_tensors
from test_foreign_folders import write


def stored_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]  # type: ignore[no-any-return]


# -- compressed-tensors configurations that leave things open -------------------------------------


@pytest.mark.parametrize(
    "args",
    [{}, {"group_size": None}, {"group_size": -1}, {"group_size": 1}, {"group_size": 128, "strategy": None},
     {"strategy": "channel"}, {"strategy": "block", "block_structure": [128, 128]},
     {"strategy": "token", "dynamic": True}],
)  # fmt: skip
def test_the_strategy_is_inferred_as_in_compressed_tensors(args: dict[str, Any]) -> None:
    ours = arguments({"weights": {"num_bits": 8, **args}}, "weights")
    assert ours["strategy"] == QuantizationArgs(num_bits=8, **args).strategy


DEFAULTS = {"dynamic": False, "symmetric": True, "type": "int", "num_bits": 8}


@pytest.mark.parametrize("scheme", ["W4A16", "W4A16_ASYM", "W8A16", "W8A8_STATIC", "FP8_STATIC", "FP8_BLOCK"])
@pytest.mark.parametrize("group_size", [32, -1])
def test_configurations_that_say_the_least(scheme: str, group_size: int, tmp_path: Path) -> None:
    """Without what compressed-tensors itself fills in."""
    options: dict[str, Any] = {"group_size": group_size} if "A16" in scheme else {}
    model = tiny.make_model("llama")
    if scheme == "FP8_BLOCK":
        options = {"ignore": ("lm_head", "re:.*(?<!up_proj)$")}
        sizes = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 16}
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{**tiny.CONFIGS["llama"][1], **sizes})
        )
    quantize(model, scheme, "rtn", tiny.tokens(), **options)
    save(model, tmp_path / "m")
    config = stored_config(tmp_path / "m")
    for which in ("weights", "input_activations"):
        args = config["config_groups"]["group_0"][which] or {}
        full = QuantizationArgs(**args)
        if args.get("strategy") == "channel":
            args["group_size"] = -1
        for key in [key for key, value in args.items() if value is None or DEFAULTS.get(key) == value]:
            del args[key]
        if args.get("strategy") in ("group", "channel", "tensor"):
            del args["strategy"]
        assert not args or QuantizationArgs(**args).strategy == full.strategy
    change_config(tmp_path / "m", quantization_config=config)
    assert torch.equal(tiny.logits(load(tmp_path / "m")), tiny.logits(model))


def test_one_scale_for_a_packed_weight(tmp_path: Path) -> None:
    """What no strategy and no group size stand for."""
    model: Any = quantize(tiny.make_model("llama"), "W4A16", "rtn", group_size=-1)
    save(model, tmp_path / "m")
    config = stored_config(tmp_path / "m")
    args = config["config_groups"]["group_0"]["weights"]
    del args["strategy"], args["group_size"]
    change_config(tmp_path / "m", quantization_config=config)
    scales = {
        key: torch.tensor([0.25]) for key in load_file(tmp_path / "m" / "model.safetensors") if "scale" in key
    }
    change_tensors(tmp_path / "m", scales)  # type: ignore[arg-type]
    up: Any = load(tmp_path / "m").get_submodule(UP)
    codes = model.get_submodule(UP).to_qweight().tensors["codes"]
    assert torch.equal(up.weight, (codes.float() - 8) * 0.25)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "config_groups: none of them targets"),
        ([1], "config_groups: expected an object, got"),
        ({"W4A16": ["Linear"]}, r"config_groups\.W4A16: expected an object, got"),
        ({"g": {"targets": "Linear"}}, r"config_groups\.g\.targets: expected a list of names"),
        ({"g": {"targets": ["re:("]}}, r"config_groups\.g\.targets: no regular expression"),
        ({"g": {"targets": ["Linear"], "weights": [4]}}, "weights: expected an object"),
        ({"g": {"targets": ["Linear"], "weights": {"symmetric": False}}}, "expected integer weights"),
    ],
)  # fmt: skip
def test_configurations_that_make_no_sense(groups: Any, message: str, tmp_path: Path) -> None:
    save(quantize(tiny.make_model("llama"), "W4A16", "rtn", group_size=32), tmp_path / "m")
    change_config(
        tmp_path / "m", quantization_config={**stored_config(tmp_path / "m"), "config_groups": groups}
    )
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m")


# -- parts that are missing, or too many ----------------------------------------------------------

# By scheme, or foreign container: the parts that layers must have, and those known that they must not have.
LAYERS = {
    "W4A16": ("weight_packed weight_scale weight_shape", "weight input_scale input_zero_point"),
    "W4A16_ASYM": ("weight_packed weight_scale weight_shape weight_zero_point", "weight input_scale"),
    "W8A16": ("weight_packed weight_scale weight_shape", "weight"),
    "W8A8": ("weight", "input_scale input_zero_point"),
    "FP8": ("weight", "input_scale"),
    "W8A8_STATIC": ("weight input_scale", ""),
    "W8A8_ASYM": ("weight input_scale input_zero_point", ""),
    "FP8_STATIC": ("weight input_scale", ""),
    "gptq": ("qweight scales qzeros", "weight"),
    "awq": ("qweight scales qzeros", "weight g_idx"),
}


def make(kind: str, folder: Path) -> Path:
    config = {"quant_method": kind, "bits": 4, "group_size": 32, "sym": False}
    if kind == "gptq":
        write(folder, config, lambda layer: foreign.gptq(layer, 4, "gptq"))
    elif kind == "awq":
        write(folder, config, foreign.awq)
    else:
        options: dict[str, Any] = {"group_size": 32} if "A16" in kind else {}
        save(quantize(tiny.make_model("llama"), kind, "rtn", tiny.tokens(), **options), folder)
    return folder


@pytest.mark.parametrize("kind", LAYERS)
def test_each_part_that_is_missing_is_named(kind: str, tmp_path: Path) -> None:
    folder = make(kind, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    required, surplus = (names.split() for names in LAYERS[kind])
    for part in required:
        change_tensors(folder, {f"{UP}.{part}": None})
        for read in (load, inspect_checkpoint):
            with pytest.raises(ValueError, match=rf"{UP}\.{part}: missing .*expected {required[0]}"):
                read(folder)  # type: ignore[operator]
        change_tensors(folder, {f"{UP}.{part}": tensors[f"{UP}.{part}"]})
    for part in surplus:
        change_tensors(folder, {f"{UP}.{part}": torch.ones(1)})
        with pytest.raises(ValueError, match=rf"{UP}\.{part}: does not belong to such a layer .*expected"):
            load(folder)
        change_tensors(folder, {f"{UP}.{part}": None})
    load(folder)


@pytest.mark.parametrize("kind", ["W4A16", "W8A16", "gptq", "awq"])
def test_a_layer_of_which_hardly_anything_is_left(kind: str, tmp_path: Path) -> None:
    """It is never taken for one of another kind."""
    folder = make(kind, tmp_path / "m")
    parts = [k for k in load_file(folder / "model.safetensors") if k.startswith(f"{UP}.") and "bias" not in k]
    marks = {"weight_scale", "weight_shape", "qzeros"}
    for kept in parts:
        if kept.rpartition(".")[2] in marks:
            other = make(kind, tmp_path / kept)
            change_tensors(other, {key: None for key in parts if key != kept})
            with pytest.raises(ValueError, match=rf"{UP}\.(weight_packed|qweight): missing"):
                load(other)
    change_tensors(folder, dict.fromkeys(parts))
    with pytest.raises(ValueError, match=rf"1 of the model's tensors .* first is {UP}\.weight"):
        load(folder)


@pytest.mark.parametrize("shape", [[96], [96, 64, 1], [0, 64], [96, -64], [97, 64], [2**40, 2**40]])
def test_sizes_that_are_none(shape: list[int], tmp_path: Path) -> None:
    folder = make("W4A16", tmp_path / "m")
    change_tensors(folder, {f"{UP}.weight_shape": torch.tensor(shape)})
    with pytest.raises(ValueError, match=rf"{UP}\.weight_(shape|packed): expected"):
        load(folder)


def test_awq_without_zero_points_says_so(tmp_path: Path) -> None:
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": False}
    write(tmp_path / "m", config, lambda layer: foreign.awq(layer, True), symmetric=True)
    assert isinstance(load(tmp_path / "m").get_submodule(UP), QLinear)


def test_activation_order_without_the_order(tmp_path: Path) -> None:
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": True}
    write(tmp_path / "gptq", config, lambda layer: foreign.gptq(layer, 4, "gptq"), act_order=True)
    save(load(tmp_path / "gptq"), tmp_path / "ct")
    for folder, part in ((tmp_path / "gptq", "g_idx"), (tmp_path / "ct", "weight_g_idx")):
        load(folder)
        change_tensors(folder, {f"{UP}.{part}": None})
        with pytest.raises(ValueError, match=rf"{UP}\.{part}: missing"):
            load(folder)


@pytest.mark.parametrize("kind", ["FP8", "W4A16", "W8A8", "FP8_STATIC"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64])
def test_scales_that_are_no_scales(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = make(kind, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    for part in ("weight_scale", "input_scale"):
        if (key := f"{UP}.{part}") in tensors:
            change_tensors(folder, {key: torch.ones(tensors[key].shape).to(dtype)})
            with pytest.raises(ValueError, match=rf"{UP}\.{part}: expected a float dtype"):
                load(folder)
            change_tensors(folder, {key: tensors[key]})
