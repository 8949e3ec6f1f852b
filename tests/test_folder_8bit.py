"""Folders of 8-bit layers: agreement with transformers, and what other writers make."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny
from qcore import IntGroup, QLinear, load, quantize, quantize_folder, save
from qcore.checkpoints.files import Checkpoint
from qcore.checkpoints.stores import inspect_checkpoint
from qcore.schemes import SCHEMES

NAMES = ["W8A8", "W8A8_STATIC", "W8A8_ASYM", "FP8", "FP8_STATIC", "FP8_BLOCK", "W8A16_FP8"]
UP = "model.layers.0.mlp.up_proj"


def write_model(
    folder: Path, dtype: torch.dtype = torch.float32, tied: bool = False, **how: Any
) -> nn.Module:
    """A Llama whose layers all have a multiple of 128 inputs, as blocks need."""
    import transformers as tf

    config = tf.LlamaConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=256,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model = model.to(dtype).eval()
    model.save_pretrained(folder, **how)
    return model  # type: ignore[no-any-return]


def in_transformers(folder: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(folder)  # type: ignore[no-any-return]


def layers(model: nn.Module) -> dict[str, QLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QLinear)}


@torch.no_grad()
def distance_by_layer(ours: nn.Module, theirs: nn.Module) -> float:
    """The largest relative distance of a layer's outputs, each on the inputs that it has in transformers:
    errors of rounding, which differ wherever inputs do, do not add up."""
    worst, seen = 0.0, 0

    def compare(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            nonlocal worst, seen
            seen += 1
            worst = max(worst, tiny.distance(ours.get_submodule(name)(args[0]), out))

        return hook

    tiny.logits(theirs)  # which decompresses it
    for name in layers(ours):
        theirs.get_submodule(name).register_forward_hook(compare(name))
    tiny.logits(theirs)
    assert seen == len(layers(ours)) == 14
    return worst


# -- transformers with compressed-tensors -------------------------------------------------------


@pytest.mark.parametrize("scheme", NAMES)
def test_transformers_reads_what_we_save(scheme: str, tmp_path: Path) -> None:
    write_model(tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "out", scheme, "rtn", tiny.tokens())
    ours, theirs = load(tmp_path / "out"), in_transformers(tmp_path / "out")
    there = tiny.logits(theirs)
    for name, layer in layers(ours).items():
        assert torch.equal(layer.weight, theirs.get_submodule(name).weight), name
    # compressed-tensors divides by amax / 127.5 where we, as other kernels do, divide by amax / 127: that
    # moves roundings, and each by less than the rounding itself.
    dynamic_int8 = scheme == "W8A8"
    assert distance_by_layer(ours, theirs) < (0.015 if dynamic_int8 else 1e-6)
    # Through the whole model an input on the edge between two codes may fall to either side.
    assert tiny.distance(tiny.logits(ours), there) < (0.05 if dynamic_int8 else 0.01)


@pytest.mark.parametrize("scheme", NAMES)
def test_bfloat16_models_agree(scheme: str, tmp_path: Path) -> None:
    write_model(tmp_path / "source", torch.bfloat16)
    quantize_folder(tmp_path / "source", tmp_path / "out", scheme, "rtn", tiny.tokens())
    ours, theirs = load(tmp_path / "out"), in_transformers(tmp_path / "out")
    there = tiny.logits(theirs)
    for name, layer in layers(ours).items():
        weight = theirs.get_submodule(name).weight
        assert torch.equal(layer.weight, weight), name
        assert weight.dtype == torch.bfloat16
        assert layer.to_qweight().tensors["scales"].dtype == torch.bfloat16
    # compressed-tensors rounds x / scale to bfloat16 before it rounds it to 8 bits, which we do not.
    assert distance_by_layer(ours, theirs) < 0.04
    assert tiny.distance(tiny.logits(ours), there) < 0.12


# -- there and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", NAMES)
def test_there_and_back(scheme: str, tmp_path: Path) -> None:
    original = write_model(tmp_path / "source", torch.bfloat16)
    quantize_folder(tmp_path / "source", tmp_path / "streamed", scheme, "rtn", tiny.tokens())
    model = load(tmp_path / "source")
    quantize(model, scheme, "rtn", tiny.tokens())
    save(model, tmp_path / "saved", shard_bytes=40_000)
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 2
    save(load(tmp_path / "saved"), tmp_path / "again")
    expected = tiny.logits(model)
    for folder in ("streamed", "saved", "again"):
        assert torch.equal(tiny.logits(load(tmp_path / folder)), expected), folder
    a, b = (load_file(tmp_path / folder / "model.safetensors") for folder in ("streamed", "again"))
    assert a.keys() == b.keys()
    for key, tensor in a.items():
        assert tensor.dtype == b[key].dtype
        assert torch.equal(tensor.view(torch.uint8), b[key].view(torch.uint8)), key
    assert tiny.distance(expected, tiny.logits(original)) < (0.08 if "W8A8" in scheme else 0.15)


@pytest.mark.parametrize(
    ("scheme", "weights", "inputs", "format"),
    [
        ("W8A8", ("int", "channel", None), ("int", "token", None, True, True), "int-quantized"),
        ("W8A8_STATIC", ("int", "channel", None), ("int", "tensor", None, True, False), "int-quantized"),
        ("W8A8_ASYM", ("int", "channel", None), ("int", "tensor", None, False, False), "int-quantized"),
        ("FP8", ("float", "channel", None), ("float", "token", None, True, True), "float-quantized"),
        ("FP8_STATIC", ("float", "tensor", None), ("float", "tensor", None, True, False), "float-quantized"),
        ("FP8_BLOCK", ("float", "block", [128, 128]), ("float", "group", 128, True, True), "float-quantized"),
        ("W8A16_FP8", ("float", "channel", None), None, "float-quantized"),
    ],
)
def test_what_is_stored(scheme: str, weights: Any, inputs: Any, format: str, tmp_path: Path) -> None:
    write_model(tmp_path / "source", torch.bfloat16)
    quantize_folder(tmp_path / "source", tmp_path / "out", scheme, "rtn", tiny.tokens())
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (config["format"], config["ignore"]) == (format, ["lm_head"])
    (group,) = config["config_groups"].values()
    assert (group["targets"], group["format"]) == (["Linear"], format)
    w, x = group["weights"], group["input_activations"]
    assert (w["type"], w["strategy"], w.get("block_structure")) == weights
    assert (w["num_bits"], w["symmetric"], w["dynamic"]) == (8, True, False)
    keys = ("type", "strategy", "group_size", "symmetric", "dynamic")
    assert (x if x is None else tuple(x[key] for key in keys)) == inputs
    stored = Checkpoint(tmp_path / "out")
    found = {
        key.removeprefix(f"{UP}."): (stored.dtype(key), stored.shape(key)) for key in stored if UP in key
    }
    scales = {"channel": (256, 1), "tensor": (1,), "block": (2, 1)}[weights[1]]
    expected = {
        "weight": ("I8" if weights[0] == "int" else "F8_E4M3", (256, 128)),
        "weight_scale": ("BF16", scales),
    }
    if inputs is not None and inputs[1] == "tensor":
        expected["input_scale"] = ("BF16", (1,))
        if not inputs[3]:
            expected["input_zero_point"] = ("I8", (1,))
    assert found == expected


def test_tied_embeddings(tmp_path: Path) -> None:
    model = write_model(tmp_path / "source", tied=True)
    quantize_folder(tmp_path / "source", tmp_path / "kept", "W8A8", "rtn")
    kept = load(tmp_path / "kept")
    assert kept.lm_head.weight is kept.model.embed_tokens.weight  # type: ignore[union-attr]
    assert tiny.distance(tiny.logits(in_transformers(tmp_path / "kept")), tiny.logits(kept)) < 0.05
    for scheme in ("W8A8_ASYM", "FP8"):
        out = tmp_path / scheme
        quantize_folder(tmp_path / "source", out, scheme, "rtn", tiny.tokens(), ignore=())
        head = load(out)
        assert isinstance(head.lm_head, QLinear)
        table = head.model.embed_tokens.weight  # type: ignore[union-attr]
        assert torch.equal(table, model.model.embed_tokens.weight)  # type: ignore[union-attr, arg-type]
        assert tiny.distance(tiny.logits(head), tiny.logits(model)) < 0.15
        assert tiny.distance(tiny.logits(in_transformers(out)), tiny.logits(head)) < 0.02


def test_several_formats_in_one_folder(tmp_path: Path) -> None:
    def scheme(layer: Any) -> Any:
        kinds = {"q_proj": IntGroup(4), "down_proj": SCHEMES["W8A16_FP8"], "up_proj": SCHEMES["FP8"]}
        return kinds.get(layer.name.rpartition(".")[2], SCHEMES["W8A8_ASYM"])

    write_model(tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "out", scheme, "rtn", tiny.tokens())
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    ours = load(tmp_path / "out")
    found = {name.rpartition(".")[2]: layer.format for name, layer in layers(ours).items()}
    assert found["q_proj"] == IntGroup(4)
    assert found["k_proj"] == SCHEMES["W8A8_ASYM"]
    assert found["up_proj"] == SCHEMES["FP8"]
    assert found["down_proj"] == SCHEMES["W8A16_FP8"]
    assert distance_by_layer(ours, in_transformers(tmp_path / "out")) < 1e-5


def test_inspect(tmp_path: Path) -> None:
    write_model(tmp_path / "source", torch.bfloat16)
    for scheme, label, size in (
        ("W8A8_ASYM", "int8 per row, inputs int8 static per tensor with zero point", 256 * 128 + 512 + 2 + 1),
        ("FP8_BLOCK", "e4m3 128x128, inputs e4m3 dynamic per block", 256 * 128 + 4),
        ("W8A16_FP8", "e4m3 per row", 256 * 128 + 512),
    ):
        out = tmp_path / scheme
        quantize_folder(tmp_path / "source", out, scheme, "rtn", tiny.tokens())
        rows = {row.tensor: row for row in inspect_checkpoint(out)}
        up = rows[f"{UP}.weight"]
        assert (up.format, up.shape, up.bytes) == (label, (256, 128), size)
        assert not any(name.endswith(("input_scale", "input_zero_point")) for name in rows)


# -- folders of other writers -------------------------------------------------------------------


def changed(folder: Path, tensors: dict[str, Tensor | None], config: Any = None) -> Path:
    """The folder with other tensors (None: without), and what `config` does to its quantization_config."""
    path = folder / "model.safetensors"
    kept = {k: v for k, v in {**load_file(path), **tensors}.items() if v is not None}
    save_file(kept, path, metadata={"format": "pt"})
    if config is not None:
        file = json.loads((folder / "config.json").read_text())
        config(file["quantization_config"])
        (folder / "config.json").write_text(json.dumps(file))
    return folder


def test_compressed_tensors_own_folders(tmp_path: Path) -> None:
    """As llm-compressor writes them: quantized and saved by compressed-tensors itself."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        apply_quantization_config,
        preset_name_to_scheme,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    for preset in ("W8A8", "FP8", "FP8_DYNAMIC", "FP8_BLOCK"):
        model = write_model(tmp_path / "source" / preset, torch.bfloat16)
        groups = {"group_0": preset_name_to_scheme(preset, ["Linear"])}
        apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=["lm_head"]))
        for module in model.modules():
            if (scheme := getattr(module, "quantization_scheme", None)) is None:
                continue
            w = module.weight.data  # type: ignore[union-attr]
            if scheme.weights.strategy == "block":
                blocks = w.unflatten(0, (-1, 128 if len(w) >= 128 else len(w))).unflatten(-1, (-1, 128))
                low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
            else:
                dims = (1,) if scheme.weights.strategy == "channel" else (0, 1)
                low, high = w.amin(dims, keepdim=True), w.amax(dims, keepdim=True)
            scale, zero = calculate_qparams(low, high, scheme.weights)
            module.weight_scale.data = scale.reshape(module.weight_scale.shape)  # type: ignore[union-attr]
            module.weight_zero_point.data = zero.reshape(module.weight_scale.shape)  # type: ignore[union-attr]
            if hasattr(module, "input_scale"):
                module.input_scale.data.fill_(0.02)  # type: ignore[union-attr, operator]
                module.input_zero_point.data.zero_()  # type: ignore[union-attr, operator]
        out = tmp_path / preset
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.save_pretrained(out)  # type: ignore[operator]
        compressor.update_config(str(out))
        ours, theirs = load(out), in_transformers(out)
        there = tiny.logits(theirs)
        for name, layer in layers(ours).items():
            assert torch.equal(layer.weight, theirs.get_submodule(name).weight), name
        assert tiny.distance(tiny.logits(ours), there) < 0.12, preset
        assert len(layers(ours)) == 14


def test_shapes_and_names_of_other_writers(tmp_path: Path) -> None:
    write_model(tmp_path / "source")
    out = tmp_path / "out"
    quantize_folder(tmp_path / "source", out, "FP8_STATIC", "rtn", tiny.tokens())
    expected = tiny.logits(load(out))
    tensors = load_file(out / "model.safetensors")

    def rewritten(quantization: dict[str, Any]) -> None:
        quantization["format"] = "naive-quantized"
        quantization["quantization_status"] = "frozen"
        group = quantization["config_groups"].pop("group_0")
        del group["format"]
        group["weights"]["strategy"] = None  # which the group size, null, says too
        group["targets"] = [r"re:.*_proj$"]
        quantization["config_groups"]["fp8"] = group

    others: dict[str, Tensor | None] = {f"{UP}.weight_zero_point": torch.zeros(1).to(torch.float8_e4m3fn)}
    others |= {f"{UP}.input_zero_point": torch.zeros(1).to(torch.float8_e4m3fn)}
    for key, tensor in tensors.items():
        if key.endswith(("input_scale", "weight_scale")):
            others[key] = tensor.reshape(())
    assert torch.equal(tiny.logits(load(changed(out, others, rewritten))), expected)

    out = tmp_path / "int8"
    quantize_folder(tmp_path / "source", out, "W8A8", "rtn")
    expected = tiny.logits(load(out))
    scale = load_file(out / "model.safetensors")[f"{UP}.weight_scale"]
    assert torch.equal(tiny.logits(load(changed(out, {f"{UP}.weight_scale": scale[:, 0].clone()}))), expected)
    one = load(changed(out, {f"{UP}.weight_scale": torch.tensor(0.5)}))  # one for the whole tensor
    assert (one.get_submodule(UP).to_qweight().tensors["scales"] == 0.5).all()  # type: ignore[operator]


def damage(key: str, value: Any) -> Any:
    """Sets `key`, parts of it joined by dots, in the one group of a quantization_config."""

    def change(config: dict[str, Any]) -> None:
        (group,) = config["config_groups"].values()
        *path, last = key.split(".")
        for part in path:
            group = group[part]
        group[last] = value

    return change


NAN_CODE = torch.full((256, 128), 0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("scheme", "tensors", "config", "message"),
    [
        ("FP8_STATIC", {"input_scale": None}, None, "up_proj.input_scale: missing"),
        ("FP8_STATIC", {"input_scale": torch.zeros(1)}, None, "input_scale: expected one positive number"),
        ("FP8_STATIC", {"input_scale": torch.ones(2)}, None, "input_scale: expected one positive number"),
        ("FP8_STATIC", {"input_scale": torch.full((1,), torch.nan)}, None, "input_scale: holds NaN"),
        ("W8A8_ASYM", {"input_zero_point": None}, None, "input_zero_point: missing"),
        (
            "W8A8_ASYM",
            {"input_zero_point": torch.full((1,), 300)},
            None,
            "expected one int8, got torch.int64",
        ),
        ("W8A8_STATIC", {"input_zero_point": torch.ones(1).char()}, None, "input_zero_point: expected zeros"),
        ("W8A8", {"weight_zero_point": torch.ones(256, 1).char()}, None, "weight_zero_point: expected zeros"),
        ("W8A8", {"weight_scale": torch.ones(4)}, None, r"up_proj: scales: expected shape \(256, 1\)"),
        ("W8A8", {"weight_scale": torch.full((256, 1), torch.inf)}, None, "weight_scale: holds NaN or inf"),
        ("W8A8", {"weight_scale": torch.ones(256, 1).char()}, None, "weight_scale: expected a float dtype"),
        ("W8A8", {"weight": torch.zeros(256, 128)}, None, "weight: expected torch.int8, got torch.float32"),
        ("W8A8", {"weight": None}, None, "up_proj.weight: missing"),
        ("FP8", {"weight": NAN_CODE}, None, "up_proj.weight: holds NaN"),
        ("FP8", {"weight": torch.zeros(256, 128).char()}, None, "weight: expected torch.float8_e4m3fn"),
        ("FP8_BLOCK", {"weight_scale": torch.ones(256, 1)}, None, r"scales: expected shape \(2, 1\)"),
        ("W8A8", {}, ("weights.num_bits", 4), "expected symmetric 8-bit weights .* got num_bits 4"),
        ("W8A8", {}, ("weights.symmetric", False), "expected symmetric 8-bit weights"),
        ("W8A8", {}, ("weights.strategy", "group"), "expected symmetric 8-bit weights .* strategy 'group'"),
        ("W8A8", {}, ("weights.strategy", "block"), "integer per channel with 8-bit activations"),
        ("W8A8", {}, ("input_activations.strategy", "tensor"), "static per tensor; got .* dynamic True"),
        ("W8A8", {}, ("input_activations.type", "float"), "activations: expected int8, got e4m3"),
        ("FP8", {}, ("input_activations.num_bits", 4), "expected 8-bit activations for .* got num_bits 4"),
        ("FP8", {}, ("input_activations.dynamic", "local"), "expected 8-bit activations .* 'local'"),
        ("FP8_BLOCK", {}, ("input_activations", None), "activations: expected per block exactly when"),
        ("FP8_BLOCK", {}, ("weights.block_structure", [64, 64]), "blocks? of 128 x 128; got .*64"),
        ("FP8", {}, ("output_activations", {"num_bits": 8}), "quantized outputs are not supported"),
    ],
)
def test_load_names_what_is_wrong(
    scheme: str, tensors: dict[str, Tensor | None], config: Any, message: str, tmp_path: Path
) -> None:
    write_model(tmp_path / "source")
    out = tmp_path / "out"
    quantize_folder(tmp_path / "source", out, scheme, "rtn", tiny.tokens())
    change = None if config is None else damage(*config)
    changed(out, {f"{UP}.{name}": tensor for name, tensor in tensors.items()}, change)
    with pytest.raises(ValueError, match=message):
        load(out)


def test_blocks_that_do_not_fit(tmp_path: Path) -> None:
    tiny.make_model("llama").save_pretrained(tmp_path / "source")
    report = quantize_folder(tmp_path / "source", tmp_path / "out", "FP8_BLOCK", "rtn")
    # What other readers take instead, in memory and in the folder: scales per row, and said.
    per_row = "e4m3 per row, inputs e4m3 dynamic per token"
    assert report.formats == {per_row: 14}
    assert [len(names) for names in report.narrowed.values()] == [14]
    model = tiny.make_model("llama")
    expected = tiny.logits(model)
    quantize(model, "FP8_BLOCK", "rtn")
    assert tiny.distance(tiny.logits(model), expected) < 0.15
    assert torch.equal(tiny.logits(load(tmp_path / "out")), tiny.logits(model))
