"""Folders whose tensors are in several dtypes: one is that of the activations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn

import tiny
from gguf_cases import byte_level, make, wrap
from gguf_cases import save as save_whole
from qcore import QLinear, load, quantize, quantize_folder, quantize_gguf, save
from qcore.tensors import persistent_tensors

# Which tensors of a bfloat16 model are stored in float32.
MIXTURES: dict[str, Callable[[str], bool]] = {
    "norms": lambda key: "norm" in key,
    "head": lambda key: "lm_head" in key,
    "embedding": lambda key: "embed" in key,
    "a layer": lambda key: "layers.1.mlp.up" in key,
    "all but the head": lambda key: "lm_head" not in key,
}


def mixed(
    folder: Path,
    name: str,
    which: Callable[[str], bool],
    most: torch.dtype = torch.bfloat16,
    some: torch.dtype = torch.float32,
) -> None:
    tiny.make_model(name, most).save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = {key: tensor.to(some) if which(key) else tensor for key, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


def state_dtype(folder: Path, dtype: str | None) -> None:
    """Makes config.json state this dtype, or none."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("dtype", None)
    path.write_text(json.dumps(config if dtype is None else {**config, "dtype": dtype}))


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("what", MIXTURES)
def test_what_transformers_runs_runs(what: str, method: str, tmp_path: Path) -> None:
    mixed(tmp_path / "source", "qwen2", MIXTURES[what])
    source = load_file(tmp_path / "source" / "model.safetensors")
    for ignore in ((), ("lm_head",)):
        out = tmp_path / f"out{len(ignore)}"
        ids = tiny.tokens()
        quantize_folder(tmp_path / "source", out, "W8A16", method, ids, ignore=ignore, group_size=32)
        written = load_file(out / "model.safetensors")
        for key in written.keys() & source.keys():  # the file keeps what it had
            assert written[key].dtype == source[key].dtype, key
        model = load(out)
        theirs = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype="auto")
        ids = tiny.tokens(seed=9)
        logits = model(input_ids=ids).logits
        assert logits.dtype == theirs(input_ids=ids).logits.dtype == torch.bfloat16
        assert model.config.dtype == torch.bfloat16
        assert tiny.distance(logits.float(), tiny.logits(theirs, ids)) < 0.05
        for name, tensor in persistent_tensors(model).items():
            assert tensor.dtype == theirs.state_dict()[name].dtype, name
        save(model, tmp_path / f"again{len(ignore)}")
        assert torch.equal(load(tmp_path / f"again{len(ignore)}")(input_ids=ids).logits, logits)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("stated", ["float16", "float64", None])
@pytest.mark.parametrize("what", [*MIXTURES, "everything"])
def test_float64_runs_where_transformers_runs_it(
    what: str, stated: str | None, method: str, tmp_path: Path
) -> None:
    """Kernels have no float64: what is in it goes through them in float32, and comes out as it was."""
    which = MIXTURES.get(what, lambda key: True)
    mixed(tmp_path / "source", "gpt-neox", which, torch.float16, torch.float64)
    state_dtype(tmp_path / "source", stated)
    theirs: Any = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype="auto")
    ids = tiny.tokens(seed=9)
    expected = theirs(input_ids=ids).logits.detach()
    quantize_folder(tmp_path / "source", tmp_path / "out", "W8A16", method, tiny.tokens(), group_size=32)
    in_memory = quantize(theirs, "W8A16", method, tiny.tokens(), group_size=32)
    for model in (load(tmp_path / "out"), in_memory):
        logits = model(input_ids=ids).logits.detach()
        assert logits.dtype == expected.dtype
        assert tiny.distance(logits.double(), expected.double()) < 0.05
    save(in_memory, tmp_path / "saved")
    assert torch.equal(load(tmp_path / "saved")(input_ids=ids).logits, logits)


def test_float64_becomes_a_gguf_file(tmp_path: Path) -> None:
    model: Any = make("llama", vocab_size=320)
    source = save_whole(model, tmp_path / "source", wrap(byte_level(None, 300)))
    path = source / "model.safetensors"
    save_file({key: tensor.double() for key, tensor in load_file(path).items()}, path, {"format": "pt"})
    quantize_gguf(source, tmp_path / "m.gguf", "Q8_0", "rtn")
    ids = tiny.tokens(seed=9)
    assert tiny.distance(tiny.logits(load(tmp_path / "m.gguf"), ids), tiny.logits(model, ids)) < 0.05


@pytest.mark.parametrize("scheme", ["W4A16", "W8A8", "FP8", "Q4_0", "NF4"])
def test_a_layer_given_float64(scheme: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48)).double()
    x = torch.randn(5, 64, dtype=torch.float64)
    quantize(model, scheme, "rtn", group_size=None if scheme != "W4A16" else 32)
    y = model(x)
    assert y.dtype == torch.float64
    assert torch.equal(y, model.float()(x.float()).double())


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, torch.bfloat16), ("auto", torch.bfloat16), ("float32", torch.float32),
        (torch.float16, torch.float16), ("bfloat16", torch.bfloat16),
    ],
)  # fmt: skip
def test_dtypes_that_are_asked_for(asked: Any, expected: torch.dtype, tmp_path: Path) -> None:
    mixed(tmp_path / "source", "llama", MIXTURES["norms"])
    quantize_folder(tmp_path / "source", tmp_path / "out", "W8A16", "rtn", group_size=32)
    for folder in ("source", "out"):
        model = load(tmp_path / folder, dtype=asked)
        assert model(input_ids=tiny.tokens()).logits.dtype == expected
        assert {tensor.dtype for tensor in persistent_tensors(model).values()} == {expected}


@pytest.mark.parametrize("dtype", ["int8", "float64", "nonsense", torch.int32, 16])
def test_dtypes_that_are_none(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype: expected auto, float32, float16 or bfloat16, got"):
        load(tmp_path, dtype=dtype)


def test_a_configuration_that_states_none(tmp_path: Path) -> None:
    mixed(tmp_path / "source", "llama", MIXTURES["head"])
    quantize_folder(tmp_path / "source", tmp_path / "out", "W8A16", "rtn", group_size=32)
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    config.pop("dtype", None)
    config.pop("torch_dtype", None)
    path.write_text(json.dumps(config))
    model = load(tmp_path / "out")
    dtypes = {tensor.dtype for tensor in persistent_tensors(model).values()}
    assert dtypes == {model(input_ids=tiny.tokens()).logits.dtype}  # one of the two, for all


def test_what_a_model_keeps_in_float32_stays(tmp_path: Path) -> None:
    """T5 keeps one layer of its feed-forward in float32 where the rest is float16."""
    torch.manual_seed(0)
    config = tf.T5Config(
        vocab_size=64, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_heads=4, use_cache=False
    )
    tf.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "source")
    quantize_folder(
        tmp_path / "source", tmp_path / "out", "W8A16", "rtn", ignore=("lm_head", "wo"), group_size=32
    )
    model = load(tmp_path / "out", dtype="float16")
    theirs = tf.T5ForConditionalGeneration.from_pretrained(tmp_path / "source", dtype=torch.float16)
    kept = 0
    for name, tensor in persistent_tensors(model).items():
        assert tensor.dtype == theirs.state_dict()[name].dtype, name
        kept += tensor.dtype == torch.float32
    assert kept
    assert any(isinstance(module, QLinear) for module in model.modules())
