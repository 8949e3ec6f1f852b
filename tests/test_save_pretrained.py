"""`save_pretrained` and `push_to_hub` of quantized models write what `qcore.save` writes."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn
from typer.testing import CliRunner

import tiny
from qcore import QLinear, load, quantize, quantize_folder, quantize_gguf, save
from qcore.checkpoints import saving
from qcore.cli import app
from test_remote_code import write as write_remote


def contents(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def quantized(name: str = "llama", scheme: str = "W4A16", **options: Any) -> Any:
    options = {"group_size": 32, **options} if "A16" in scheme else options
    return quantize(tiny.make_model(name), scheme, "rtn", tiny.tokens(), **options)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("llama", "W4A16"), ("llama-tied", "W3A16_ASYM"), ("bert", "W8A16"), ("opt", "W8A8"), ("qwen3", "FP8")],
)
def test_the_same_folder_as_save(name: str, scheme: str, tmp_path: Path) -> None:
    model = quantized(name, scheme)
    save(model, tmp_path / "saved")
    model.save_pretrained(tmp_path / "pretrained")
    assert contents(tmp_path / "pretrained") == contents(tmp_path / "saved")
    assert torch.equal(tiny.logits(load(tmp_path / "pretrained")), tiny.logits(model))


def test_transformers_loads_it(tmp_path: Path) -> None:
    model = quantized()
    model.save_pretrained(tmp_path / "m")
    theirs = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert tiny.distance(tiny.logits(theirs), tiny.logits(model)) < 2e-6


def test_after_loading(tmp_path: Path) -> None:
    quantized().save_pretrained(tmp_path / "a")
    model: Any = load(tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a["model.safetensors"] == b["model.safetensors"]
    assert (
        json.loads(a["config.json"])["quantization_config"]
        == json.loads(b["config.json"])["quantization_config"]
    )
    quantize_folder(write_source(tmp_path), tmp_path / "c", "W4A16", "rtn", group_size=32)
    folder_model: Any = load(tmp_path / "c")
    folder_model.save_pretrained(tmp_path / "d")
    assert contents(tmp_path / "c")["model.safetensors"] == contents(tmp_path / "d")["model.safetensors"]


def write_source(tmp_path: Path) -> Path:
    tiny.make_model("llama").save_pretrained(tmp_path / "source")  # type: ignore[operator]
    return tmp_path / "source"


def test_inner_models_too(tmp_path: Path) -> None:
    model = quantized()
    model.model.save_pretrained(tmp_path / "m")
    inner: Any = load(tmp_path / "m")
    assert type(inner) is type(model.model)
    ids = tiny.tokens()
    assert torch.equal(inner(ids).last_hidden_state, model.model(ids).last_hidden_state)

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder: Any = tiny.make_model("bert")

    around = quantize(Around(), "W4A16", "rtn", group_size=32)
    around.encoder.save_pretrained(tmp_path / "inner")  # type: ignore[operator, union-attr]
    assert torch.equal(tiny.logits(load(tmp_path / "inner")), tiny.logits(around.encoder))  # type: ignore[arg-type]


def classifier() -> Any:
    config = tf.LlamaConfig(**tiny.CONFIGS["llama"][1], num_labels=3, pad_token_id=0)
    return tf.LlamaForSequenceClassification(config).eval()


def composite() -> Any:
    text = {**tiny.CONFIGS["llama"][1], "model_type": "llama"}
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 96, "image_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8,
    }  # fmt: skip
    config = tf.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=63,
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    return tf.LlavaForConditionalGeneration(config).eval()


@pytest.mark.filterwarnings("ignore:only .* of the parameters")
@pytest.mark.parametrize(
    ("make", "inner"),
    [
        (classifier, "model"),
        (classifier, "model.layers.1.mlp"),
        (composite, "model.vision_tower"),
        (composite, "model.language_model"),
        (lambda: tiny.make_model("llama"), "model"),
        (lambda: tiny.make_model("bert"), "bert.encoder"),
    ],
)
def test_a_model_of_which_a_part_was_quantized(make: Any, inner: str, tmp_path: Path) -> None:
    """The outer one writes what `save` writes, though nobody told it of its part."""
    torch.manual_seed(0)
    outer: Any = make()
    quantize(outer.get_submodule(inner), "W4A16", "rtn", group_size=32)
    inputs = {"input_ids": tiny.tokens()}
    if make is composite:
        inputs = {"input_ids": tiny.tokens() % 60, "pixel_values": torch.randn(4, 3, 16, 16)}
        inputs["input_ids"][:, :4] = 63
    expected = outer(**inputs).logits
    outer.save_pretrained(tmp_path / "m")
    save(outer, tmp_path / "saved")
    assert contents(tmp_path / "m") == contents(tmp_path / "saved")
    again = load(tmp_path / "m")
    assert type(again) is type(outer)
    assert torch.equal(again(**inputs).logits, expected)
    copy.deepcopy(outer).save_pretrained(tmp_path / "copied")
    assert contents(tmp_path / "copied") == contents(tmp_path / "m")


def test_a_part_that_cannot_be_saved_stops_the_whole(tmp_path: Path) -> None:
    outer: Any = classifier()
    quantize(outer.model, "NF4", "rtn")
    with pytest.raises(ValueError, match="has no format"):
        outer.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_models_without_quantized_layers_are_saved_by_transformers(tmp_path: Path) -> None:
    quantized()
    plain: Any = tiny.make_model("llama")
    plain.save_pretrained(tmp_path / "m", max_shard_size="20KB", variant="fp16")
    assert len(list((tmp_path / "m").glob("model.fp16-*.safetensors"))) > 1


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_save_themselves(how: Any, tmp_path: Path) -> None:
    model = quantized()
    other = how(model)
    with torch.no_grad():
        other.model.norm.weight.mul_(2)
    other.save_pretrained(tmp_path / "m")
    assert torch.equal(load(tmp_path / "m").model.norm.weight, other.model.norm.weight)
    model.save_pretrained(tmp_path / "n")
    assert torch.equal(load(tmp_path / "n").model.norm.weight, model.model.norm.weight)


def test_shards_and_saving_again(tmp_path: Path) -> None:
    """What another save left of weights is gone, what others put there stays."""
    model, other = quantized(), quantized(scheme="W8A16")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("mine")
    for each, size in ((model, "30KB"), (other, "10KB"), (other, 10**6), (model, "20KB"), (other, "30KB")):
        each.save_pretrained(folder, max_shard_size=size)
        found = {p.name for p in folder.iterdir()}
        sharded = size != 10**6
        assert ("model.safetensors" in found) != sharded
        assert ("model.safetensors.index.json" in found) == sharded
        weights = [name for name in found if name.startswith("model-")]
        if sharded:
            index = json.loads((folder / "model.safetensors.index.json").read_text())
            assert set(index["weight_map"].values()) == set(weights)
            assert len(weights) > 1
        assert found - {*weights, "model.safetensors", "model.safetensors.index.json"} == {
            "config.json", "generation_config.json", "tokenizer.json"
        }  # fmt: skip
        assert torch.equal(tiny.logits(load(folder)), tiny.logits(each))
    assert (folder / "tokenizer.json").read_text() == "mine"


def test_where_the_original_is(tmp_path: Path) -> None:
    """Its weights are replaced, as transformers does."""
    source = write_source(tmp_path)
    model: Any = tf.AutoModelForCausalLM.from_pretrained(source)
    quantize(model, "W4A16", "rtn", group_size=32)
    expected = tiny.logits(model)
    model.save_pretrained(source)
    assert torch.equal(tiny.logits(load(source)), expected)


def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized().save_pretrained(tmp_path / "m")
    before = contents(tmp_path / "m")

    def full(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(saving.ShardWriter, "finish", full)
    for folder in ("m", "new"):
        with pytest.raises(OSError, match="no space left"):
            quantized(scheme="W8A16").save_pretrained(tmp_path / folder)
    assert contents(tmp_path / "m") == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    quantized().save_pretrained(tmp_path / "m", is_main_process=False)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state_dict": {}}, "state_dict: a model with quantized layers cannot be saved with it"),
        ({"variant": "fp16"}, "variant: a model"),
        ({"save_original_format": False}, "save_original_format: a model"),
        ({"distributed_checkpoint": True}, "distributed_checkpoint: a model"),
        ({"safe_serialization": False}, "safe_serialization: a model"),
        ({"max_shard_size": "many"}, "max_shard_size: expected a number of bytes"),
        ({"max_shard_size": 0}, "max_shard_size: expected a number of bytes"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        quantized().save_pretrained(tmp_path / "m", **arguments)
    with pytest.raises(TypeError, match="unexpected keyword argument 'shards'"):
        quantized().save_pretrained(tmp_path / "m", shards=3)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"save_directory: expected a folder"):
        quantized().save_pretrained(tmp_path / "file")


def test_what_compressed_tensors_cannot_store(tmp_path: Path) -> None:
    model: Any = quantize(tiny.make_model("llama"), "NF4", "rtn")
    with pytest.raises(ValueError, match="has no format"):
        model.save_pretrained(tmp_path / "m")
    quantize_gguf(write_source(tmp_path), tmp_path / "m.gguf", "Q4_0", "rtn")
    model = load(tmp_path / "m.gguf")
    with pytest.raises(ValueError, match="GGUF file stores"):
        model.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_model_that_brings_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_remote(tmp_path / "source", tmp_path / "ran")
    model: Any = load(source, trust_remote_code=True)
    quantize(model, "W4A16", "rtn", group_size=32)
    model.save_pretrained(tmp_path / "m")
    shutil.rmtree(source)
    again = load(tmp_path / "m", trust_remote_code=True)
    assert type(again).__name__ == "OwnForCausalLM"
    assert torch.equal(tiny.logits(again), tiny.logits(model))


# -- the hub --------------------------------------------------------------------------------------


class Hub:
    """Instead of the network: what would be uploaded is copied."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.calls = folder, []  # type: tuple[Path, list[dict[str, Any]]]

        def upload(model: Any, working_dir: str, repo_id: str, files_timestamps: Any, **kwargs: Any) -> None:
            self.calls.append({"repo_id": repo_id, **kwargs})
            shutil.copytree(working_dir, folder / repo_id)

        class Card:
            def save(self, path: str) -> None:
                Path(path).write_text("a model")

        monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: self)
        monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *a, **k: Card())
        monkeypatch.setattr(tf.PreTrainedModel, "_upload_modified_files", upload)

    def create_repo(self, repo_id: str, **kwargs: Any) -> Any:
        class Repo:
            pass

        made = Repo()
        made.repo_id = repo_id  # type: ignore[attr-defined]
        return made


def test_pushing_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "hub", monkeypatch)
    model = quantized()
    save(model, tmp_path / "saved")
    expected = {**contents(tmp_path / "saved"), "README.md": b"a model"}
    model.push_to_hub("me/model", commit_message="here")
    assert contents(tmp_path / "hub" / "me" / "model") == expected
    assert hub.calls[-1]["commit_message"] == "here"
    model.save_pretrained(tmp_path / "local", push_to_hub=True, commit_message="there", max_shard_size="30KB")
    uploaded = contents(tmp_path / "hub" / "local")
    assert {**contents(tmp_path / "local"), "README.md": b"a model"} == uploaded
    assert "model.safetensors.index.json" in uploaded
    assert hub.calls[-1]["commit_message"] == "there"
    assert torch.equal(tiny.logits(load(tmp_path / "hub" / "local")), tiny.logits(model))


# -- folders of the old private layout -------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["W4A16", "W4A16_ASYM", "W8A8", "FP8", "NF4", "Q4_K", "Q8_0"])
def test_the_private_layout_is_refused(scheme: str, tmp_path: Path) -> None:
    """What transformers' own method wrote of the tensors that kernels read."""
    model: Any = tiny.make_model("llama")
    if scheme.startswith("Q"):
        sizes = {**tiny.CONFIGS["llama"][1], "hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
        model = tf.LlamaForCausalLM(tf.LlamaConfig(**sizes))
    quantize(model, scheme, "rtn", **({"group_size": 32} if "A16" in scheme else {}))
    type(model).save_pretrained.__wrapped__(model, tmp_path / "m")
    with pytest.raises(ValueError, match=r"qweight: belongs to a quantized layer.*no quantization_config"):
        load(tmp_path / "m")
    with pytest.raises(ValueError, match=r"qweight: belongs to a quantized layer"):
        quantize_folder(tmp_path / "m", tmp_path / "out", "W4A16", "rtn", group_size=32)
    ran = CliRunner().invoke(app, ["inspect", str(tmp_path / "m")])
    assert ran.exit_code == 1
    assert "belongs to a quantized layer" in ran.output
    (tmp_path / "text").write_text("some text")
    ran = CliRunner().invoke(app, ["eval", str(tmp_path / "m"), "--text", str(tmp_path / "text")])
    assert ran.exit_code != 0


def test_one_quantized_layer_is_enough(tmp_path: Path) -> None:
    model = quantized(ignore=("re:(?!model.layers.1.mlp.up_proj)",))
    assert sum(isinstance(m, QLinear) for m in model.modules()) == 1
    model.save_pretrained(tmp_path / "m")
    assert torch.equal(tiny.logits(load(tmp_path / "m")), tiny.logits(model))
    type(model).save_pretrained.__wrapped__(model, tmp_path / "old")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="belongs to a quantized layer"):
        load(tmp_path / "old")
