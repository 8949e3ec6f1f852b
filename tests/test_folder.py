"""Folders: save, load, quantize_folder, agreement with transformers, and everything that can be broken."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import tiny
from qcore import QLinear, load, quantize, quantize_folder, save
from qcore.checkpoints import files as checkpoint_module
from qcore.checkpoints.bits import pack_int32, unpack_int32
from qcore.checkpoints.files import Checkpoint
from qcore.checkpoints.stores import inspect_checkpoint


def write_model(name: str, folder: Path, dtype: torch.dtype = torch.bfloat16, **save: Any) -> nn.Module:
    model = tiny.make_model(name, dtype)
    model.save_pretrained(folder, **save)
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "train.py").write_text("")
    return model


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


# -- codes on disk ------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("rows", "columns"), [(3, 64), (5, 33), (1, 1), (4, 31), (0, 8)])
def test_packed_bits_are_those_of_compressed_tensors(bits: int, rows: int, columns: int) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes = torch.randint(0, 2**bits, (rows, columns), dtype=torch.uint8)
    packed = pack_int32(codes, bits)
    assert torch.equal(unpack_int32(packed, bits, columns), codes)
    if rows:
        signed = (codes.int() - 2 ** (bits - 1)).to(torch.int8)
        assert torch.equal(packed, pack_to_int32(signed, bits))


# -- there and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["W2A16", "W3A16", "W4A16", "W8A16", "W3A16_ASYM", "W4A16_ASYM"])
@pytest.mark.parametrize("group_size", [32, -1])
def test_transformers_reads_what_we_save(scheme: str, group_size: int, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    write_model("llama", tmp_path / "source", torch.float32)
    quantize_folder(tmp_path / "source", tmp_path / "out", scheme, "rtn", group_size=group_size)
    ours = load(tmp_path / "out")
    # Since 0.18 compressed-tensors cannot load its own asymmetric packed weights without this.
    how = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if "ASYM" in scheme else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", **how)
    assert tiny.distance(tiny.logits(ours), tiny.logits(theirs)) < 2e-6
    for name, layer in ours.named_modules():
        if isinstance(layer, QLinear):
            assert torch.equal(layer.weight, theirs.get_submodule(name).weight), name


@pytest.mark.parametrize("method", ["gptq", "awq+gptq"])
def test_streaming_gives_the_same_bytes_as_in_memory(method: str, tmp_path: Path) -> None:
    from qcore.cli.quantize import _method

    for name in ("llama", "qwen2"):
        write_model(name, tmp_path / name)
        chosen = _method(method, {"damping": 0.01, "act_order": True, "search": True})
        out = tmp_path / f"{name}-out"
        quantize_folder(tmp_path / name, out, "W3A16_ASYM", chosen, tiny.tokens(), group_size=32)
        model = quantize(load(tmp_path / name), "W3A16_ASYM", chosen, tiny.tokens(), group_size=32)
        save(model, tmp_path / f"{name}-memory")
        ours = load_file(out / "model.safetensors")
        other = load_file(tmp_path / f"{name}-memory" / "model.safetensors")
        assert ours.keys() == other.keys()
        for key in ours:
            assert torch.equal(ours[key], other[key]), key


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_architecture_there_and_back(name: str, tmp_path: Path) -> None:
    tiny.make_model(name, torch.bfloat16).save_pretrained(tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "streamed", "W4A16_ASYM", "rtn", group_size=32)
    model = load(tmp_path / "source")
    quantize(model, "W4A16_ASYM", "rtn", group_size=32)
    save(model, tmp_path / "saved")
    expected = tiny.logits(model)
    for folder in ("streamed", "saved"):
        assert torch.equal(tiny.logits(load(tmp_path / folder)), expected)


def test_tied_embeddings(tmp_path: Path) -> None:
    model = write_model("llama-tied", tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "kept", "W4A16", "rtn", group_size=32)
    kept = load(tmp_path / "kept")
    assert kept.lm_head.weight is kept.model.embed_tokens.weight
    assert "lm_head.weight" not in Checkpoint(tmp_path / "kept")
    for method in ("rtn", "gptq"):
        out = tmp_path / method
        quantize_folder(tmp_path / "source", out, "W8A16", method, tiny.tokens(), ignore=(), group_size=32)
        head = load(out)
        assert isinstance(head.lm_head, QLinear)
        assert torch.equal(head.model.embed_tokens.weight, model.model.embed_tokens.weight)
        assert tiny.distance(tiny.logits(head), tiny.logits(model)) < 0.05


def test_shards_in_and_out(tmp_path: Path) -> None:
    model = write_model("llama", tmp_path / "source", max_shard_size="40KB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 2
    quantize_folder(tmp_path / "source", tmp_path / "out", "W8A16", "rtn", group_size=32, shard_bytes=40_000)
    shards = list((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    stored = sum(t.numel() * t.itemsize for s in shards for t in load_file(s).values())
    assert index["metadata"]["total_size"] == stored
    assert {s.name for s in shards} == set(index["weight_map"].values())
    assert tiny.distance(tiny.logits(load(tmp_path / "out")), tiny.logits(model)) < 0.05


def test_companions_are_copied_and_strangers_are_not(tmp_path: Path) -> None:
    write_model("llama", tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "out", "W4A16", "rtn", group_size=32)
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json",
    }  # fmt: skip
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_saving_again_changes_nothing(tmp_path: Path) -> None:
    write_model("qwen3", tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "a", "W3A16", "rtn", group_size=32)
    save(load(tmp_path / "a"), tmp_path / "b")
    a, b = load_file(tmp_path / "a/model.safetensors"), load_file(tmp_path / "b/model.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_casting_a_model_keeps_its_quantized_weights(tmp_path: Path) -> None:
    model = tiny.make_model("llama")
    quantize(model, "W4A16", "rtn", group_size=32)
    layer = model.model.layers[0].mlp.up_proj
    before = layer.to_qweight()
    model.to(torch.bfloat16).half().to("cpu")
    after = layer.to_qweight()
    assert torch.equal(before.tensors["codes"], after.tensors["codes"])
    assert torch.equal(before.tensors["scales"], after.tensors["scales"])
    assert torch.isfinite(tiny.logits(model)).all()


def test_act_scales_are_marked_so_that_nobody_else_misreads_them(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tiny.make_model("gpt-neox").save_pretrained(tmp_path / "source")
    model = load(tmp_path / "source")
    quantize(model, "W4A16", "awq", calibration=tiny.tokens(), group_size=32)
    save(model, tmp_path / "out")
    assert torch.equal(tiny.logits(load(tmp_path / "out")), tiny.logits(model))
    # Straight from folder to folder too.
    quantize_folder(tmp_path / "source", tmp_path / "streamed", "W4A16", "awq", tiny.tokens(), group_size=32)
    assert torch.equal(tiny.logits(load(tmp_path / "streamed")), tiny.logits(model))
    for folder in ("out", "streamed"):
        with pytest.raises(Exception, match="qcore-act-scale"):
            AutoModelForCausalLM.from_pretrained(tmp_path / folder)


def test_inspect(tmp_path: Path) -> None:
    write_model("llama", tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "out", "W4A16_ASYM", "rtn", group_size=32)
    rows = {row.tensor: row for row in inspect_checkpoint(tmp_path / "out")}
    assert next(iter(rows)) == "lm_head.weight"
    up = rows["model.layers.0.mlp.up_proj.weight"]
    assert up.format == "int4 g32 asym"
    assert up.shape == (96, 64)
    # codes, bf16 scales and packed zeros, and the two numbers of weight_shape
    assert up.bytes == 96 * 64 // 2 + 96 * 2 * 2 + 96 * 2 // 2 + 16
    assert rows["model.norm.weight"].format == "BF16"
    assert rows["model.norm.weight"].bits_per_weight == 16


# -- what can be broken -------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_model("llama", tmp_path / "source", max_shard_size="60KB")
    return tmp_path / "source"


def fails(source: Path, error: type[Exception], message: str, **arguments: Any) -> None:
    """Quantizing raises, and leaves neither the destination nor anything half-written."""
    arguments = {"scheme": "W4A16", "method": "rtn", "group_size": 32, **arguments}
    before = sorted(p.name for p in source.parent.iterdir())
    with pytest.raises(error, match=message):
        quantize_folder(source, source.parent / "out", **arguments)
    assert sorted(p.name for p in source.parent.iterdir()) == before


def a_shard(source: Path) -> Path:
    return sorted(source.glob("*.safetensors"))[1]


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_truncated_shard(source: Path, keep: float) -> None:
    shard = a_shard(source)
    data = shard.read_bytes()
    shard.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    fails(source, ValueError, f"{shard.name}: no readable safetensors file")
    with pytest.raises(ValueError, match=f"{shard.name}: no readable"):
        load(source)


def test_missing_shard_and_missing_tensor(source: Path) -> None:
    shard = a_shard(source)
    shard.rename(source / "elsewhere")
    fails(
        source,
        FileNotFoundError,
        f"{shard.name}: named by model.safetensors.index.json, but missing",
    )
    tensors = load_file(source / "elsewhere")
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, shard)
    fails(source, ValueError, f"{shard.name}: model.safetensors.index.json promises {name}")
    index_path = source / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    del index["weight_map"][name]
    index_path.write_text(json.dumps(index))
    fails(source, ValueError, f"has no tensor {name}, which the model needs")


def test_wrong_dtype_shape_and_values(source: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    shard = Checkpoint(source).files[name]
    tensors = load_file(shard)
    good = tensors[name]
    for bad, message in (
        (good.to(torch.int32), f"{shard.name}: {name}: expected one of F32, F16, BF16, F64, got I32"),
        (good[:, :32].contiguous(), rf"{name}: expected shape \(96, 64\), got \(96, 32\)"),
        (torch.where(good == good.max(), torch.nan, good), f"{name}: holds NaN or infinity"),
        (torch.where(good == good.max(), -torch.inf, good), f"{name}: holds NaN or infinity"),
    ):
        save_file({**tensors, name: bad}, shard)
        fails(source, ValueError, message)
    fails(source, ValueError, f"{name}: holds NaN", method="gptq", calibration=tiny.tokens())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"group_size": 0}, ValueError, "group_size: expected a positive number, or -1"),
        ({"scheme": "NF4", "group_size": None}, ValueError, "compressed-tensors has no format nf4"),
        ({"method": "gptq"}, ValueError, "calibration: this method needs token ids"),
        ({"method": "gptq", "calibration": torch.zeros(0, 4).long()}, ValueError, "at least one"),
        ({"scheme": "W16A4"}, ValueError, "scheme: expected one of"),
        ({"method": "magic"}, ValueError, "method: expected one of"),
    ],
)
def test_bad_arguments(source: Path, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    fails(source, error, message, **arguments)


def test_bad_folders(tmp_path: Path, source: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        quantize_folder(tmp_path / "nowhere", tmp_path / "out", method="rtn")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config.json: missing"):
        load(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(FileNotFoundError, match=r"expected model.safetensors or .*found neither"):
        load(tmp_path / "empty")
    (source / "config.json").write_text("{ not json")
    fails(source, ValueError, r"config.json: no valid JSON")
    with pytest.raises(ValueError, match="expected a folder with config"):
        load(source / "config.json")


def test_quantizing_twice(source: Path, tmp_path: Path) -> None:
    quantize_folder(source, tmp_path / "out", "W4A16", "rtn", group_size=32)
    with pytest.raises(ValueError, match="is quantized already"):
        quantize_folder(tmp_path / "out", tmp_path / "again", "W4A16", "rtn", group_size=32)


def test_an_existing_destination_is_kept_unless_told_otherwise(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(FileExistsError, match="out: exists already"):
        quantize_folder(source, out, "W4A16", "rtn", group_size=32)
    with pytest.raises(FileExistsError, match="holds something else than a model"):
        quantize_folder(source, out, "W4A16", "rtn", group_size=32, overwrite=True)
    with pytest.raises(ValueError, match="source: is the source itself"):
        quantize_folder(source, source, "W4A16", "rtn", group_size=32, overwrite=True)
    (out / "config.json").write_text("{}")
    # Even with leave to overwrite, a failure leaves the old folder as it was.
    shard = a_shard(source)
    data = shard.read_bytes()
    tensors = load_file(shard)
    name = next(n for n in tensors if n.endswith("proj.weight"))
    save_file({**tensors, name: tensors[name] * torch.inf}, shard)
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize_folder(source, out, "W4A16", "rtn", group_size=32, overwrite=True)
    assert contents(out) == {"config.json": b"{}", "precious": b"x"}
    shard.write_bytes(data)
    quantize_folder(source, out, "W4A16", "rtn", group_size=32, overwrite=True)
    assert "precious" not in contents(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_overwriting_through_a_link_and_a_rename_that_fails(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_folder(source, tmp_path / "out", "W4A16", "rtn", group_size=32)
    (tmp_path / "link").symlink_to("out")
    quantize_folder(source, tmp_path / "link", "W8A16", "rtn", group_size=32, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    before = contents(tmp_path / "out")
    assert b'"num_bits": 8' in before["config.json"]
    rename = os.rename

    def fails_once(a: Any, b: Any) -> None:
        if str(b).endswith("/out") and not str(a).endswith(".old"):
            raise OSError("rename refused")
        rename(a, b)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(OSError, match="rename refused"):
        quantize_folder(source, tmp_path / "out", "W4A16", "rtn", group_size=32, overwrite=True)
    assert contents(tmp_path / "out") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "out", "source"]


def test_saved_models_say_what_they_are(tmp_path: Path) -> None:
    for name in ("bert", "llama"):
        model = tiny.make_model(name)
        quantize(model, "W4A16", "rtn", group_size=32)
        save(model, tmp_path / name)
        again = load(tmp_path / name)
        assert type(again) is type(model)
        assert torch.equal(tiny.logits(again), tiny.logits(model))


def test_a_disk_that_fills_up(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    fails(source, OSError, "No space left on device.*shard-0.safetensors")
    fails(source, OSError, "No space left", method="gptq", calibration=tiny.tokens())


def test_a_disk_that_really_fills_up(source: Path) -> None:
    """The same with a real limit of the operating system on the size of a file."""
    program = (
        "import resource, signal, sys\n"
        "import qcore\n"
        "qcore.load\n"
        "from qcore.quantization import quantize_folder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "quantize_folder(sys.argv[1], sys.argv[2], 'W4A16', 'rtn', group_size=32)\n"
    )
    out = source.parent / "out"
    done = subprocess.run(
        [sys.executable, "-c", program, str(source), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "OSError" in done.stderr
    assert "shard-0.safetensors" in done.stderr
    assert [p.name for p in source.parent.iterdir()] == ["source"]


def test_load_names_what_is_wrong(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize_folder(source, out, "W4A16_ASYM", "rtn", group_size=32)
    path = out / "model.safetensors"
    tensors = load_file(path)
    up = "model.layers.0.mlp.up_proj"
    for change, message in (
        ({f"{up}.weight_scale": None}, f"{up}.weight_scale: missing"),
        ({f"{up}.weight_zero_point": None}, f"{up}.weight_zero_point: missing"),
        ({"model.norm.weight": None}, "not in the checkpoint, the first is model.norm.weight"),
        (
            {f"{up}.weight_packed": torch.zeros(96, 3, dtype=torch.int32)},
            rf"{up}.weight_packed: expected int32 \[96, 8\]",
        ),
        ({f"{up}.weight_scale": torch.zeros(96, 9)}, rf"{up}.weight_scale: expected .* \[96, 2\]"),
        ({f"{up}.weight_scale": torch.full((96, 2), torch.nan)}, f"{up}.weight_scale: holds NaN"),
        ({f"{up}.weight_zero_point": torch.zeros(2, 2).int()}, f"{up}.weight_zero_point: expected 12 words"),
        (
            {f"{up}.weight_g_idx": torch.zeros(64).int()},
            f"{up}.weight_g_idx: expected 32 columns in every group",
        ),
        ({f"{up}.weight_packed": torch.zeros(96, 8)}, "weight_packed: expected torch.int32"),
        ({"model.norm.weight": torch.zeros(3)}, "model.norm.weight: expected shape"),
    ):
        changed = {k: v for k, v in {**tensors, **change}.items() if v is not None}
        save_file(changed, path)
        with pytest.raises(ValueError, match=message):
            load(out)
    save_file(tensors, path)
    config = json.loads((out / "config.json").read_text())
    for key, value, message in (
        ("transform_config", {"a": 1}, "transform_config: not supported"),
        ("config_groups", {"g": {"targets": ["Linear"]}}, "expected integer weights per group or channel"),
        ("config_groups", {}, "none of them targets model.layers.0"),
    ):
        changed = {**config, "quantization_config": {**config["quantization_config"], key: value}}
        (out / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            load(out)
    config["quantization_config"]["config_groups"]["group_0"]["targets"] = ["re:.*_proj"]
    (out / "config.json").write_text(json.dumps(config))
    assert isinstance(load(out).model.layers[0].mlp.up_proj, QLinear)
    config["quantization_config"]["quant_method"] = "unheard-of"
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"quant_method: expected one of 'compressed-tensors', .*got 'unheard-of'"
    ):
        load(out)


def test_save_refuses_what_it_cannot_express(tmp_path: Path) -> None:
    model = tiny.make_model("llama")
    with pytest.raises(ValueError, match="has no quantized layer"):
        save(model, tmp_path / "out")
    quantize(model, "NF4", "rtn")
    with pytest.raises(ValueError, match="compressed-tensors has no format nf4"):
        save(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_header_that_lies(source: Path) -> None:
    shard = a_shard(source)
    data = shard.read_bytes()
    shard.write_bytes(struct.pack("<Q", 1 << 60) + data[8:])
    fails(source, ValueError, f"{shard.name}: no readable safetensors file")
    shard.write_bytes(data)
    with safe_open(shard, framework="pt") as file:
        assert file.keys()
