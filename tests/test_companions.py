"""What lies beside the weights: copied, or left out and said so; names, links and pipes that lead astray."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from qcore import load, load_tokenizer, quantize, quantize_folder, save
from qcore.checkpoints.files import Checkpoint
from qcore.checkpoints.stores import inspect_checkpoint

# What must come along, whoever wrote it.
KEPT = [
    "tokenizer.json",
    "normalizer.json",
    "source.spm",
    "tekken.json",
    "params.json",
    "README.md",
    "LICENSE",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "assets/deep/er/voice.wav",
    "modeling_own.py",
]
LEFT = [
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.fp16.bin",
    "model.safetensors.index.fp32.json",
    "model.fp16.safetensors",
    "consolidated.00.pth",
    "consolidated.safetensors",
    "tf_model.h5",
    "flax_model.msgpack",
    "rust_model.ot",
    "model.onnx",
    "model.onnx_data",
    "model.ckpt",
    "optimizer.pt",
    "model-Q4_K_M.gguf",
    ".gitattributes",
    ".git/config",
    ".cache/huggingface/x.json",
]
LEFT_FOLDERS = ["original/params.json", "original/consolidated.00.pth", "onnx/config.json", "onnx/model.onnx"]
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]
OWN = {"auto_map": {"AutoProcessor": "modeling_own.OwnProcessor"}}
CONTENTS = {"modules.json": json.dumps(MODULES), "preprocessor_config.json": json.dumps(OWN)}


def put(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CONTENTS.get(name, f"content of {name}"))


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    model: Any = tiny.make_model("llama", torch.bfloat16)
    model.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def quantized(source: Path, out: Path) -> Path:
    quantize_folder(source, out, "W4A16", "rtn", group_size=32)
    return out


def saved(source: Path, out: Path) -> Path:
    save(quantize(load(source), "W4A16", "rtn", group_size=32), out)
    return out


@pytest.mark.parametrize("write", [quantized, saved])
def test_everything_but_weights_comes_along(
    source: Path, tmp_path: Path, write: Callable[[Path, Path], Path]
) -> None:
    put(source, [*KEPT, *LEFT, *LEFT_FOLDERS])
    with pytest.warns(UserWarning, match="left out the folders onnx, original, because they hold weights"):
        out = write(source, tmp_path / "out")
    own = {"config.json", "generation_config.json", "model.safetensors"}
    assert files(out) == {*KEPT, *own}
    for name in KEPT:
        assert (out / name).read_bytes() == (source / name).read_bytes()


def test_a_tokenizer_that_is_given_replaces_the_folders(source: Path, tmp_path: Path) -> None:
    put(source, KEPT)

    class Tokenizer:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "tokenizer.json").write_text("new")

    save(quantize(load(source), "W4A16", "rtn", group_size=32), tmp_path / "out", tokenizer=Tokenizer())
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "new"
    old = {"tokenizer.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"}
    assert {*KEPT} - files(tmp_path / "out") == old - {"tokenizer.json"}


def test_a_source_that_holds_the_destination(source: Path) -> None:
    quantized(source, source / "int4")
    with pytest.warns(UserWarning, match="left out the folders int4"):
        quantize_folder(source, source / "int4", "W8A16", "rtn", group_size=32, overwrite=True)
    with pytest.warns(UserWarning, match="left out the folders int4"):
        quantized(source, source / "more")
    assert not (source / "more" / "int4").exists()


# -- which files hold the weights -----------------------------------------------------------------


def stale(source: Path) -> None:
    """A single file, and the index and shards of another model."""
    model: Any = tiny.make_model("llama", torch.bfloat16, seed=1)
    model.save_pretrained(source.parent / "other", max_shard_size="60KB")
    for file in (source.parent / "other").glob("model*"):
        shutil.copy(file, source)
    assert (source / "model.safetensors.index.json").exists()


def test_a_stale_index_is_not_read(source: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    stale(source)
    theirs = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    assert torch.equal(tiny.logits(load(source)), tiny.logits(theirs))
    assert set(Checkpoint(source).files.values()) == {source / "model.safetensors"}
    out = quantized(source, tmp_path / "out")
    expected = quantize(theirs, "W4A16", "rtn", group_size=32)
    assert torch.equal(tiny.logits(load(out)), tiny.logits(expected))
    assert files(out) == {"config.json", "generation_config.json", "model.safetensors"}
    assert [r.tensor for r in inspect_checkpoint(source)]


def test_weights_that_the_configuration_names(source: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    expected = tiny.logits(load(source))
    (source / "model.safetensors").rename(source / "mine.safetensors")
    stale(source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "transformers_weights": "mine.safetensors"}))
    assert torch.equal(tiny.logits(AutoModelForCausalLM.from_pretrained(source, dtype="auto")), expected)
    assert torch.equal(tiny.logits(load(source)), expected)
    out = quantized(source, tmp_path / "out")
    assert tiny.distance(tiny.logits(load(out)), expected) < 0.5
    AutoModelForCausalLM.from_pretrained(out)
    for name in ("../mine.safetensors", "/etc/passwd", "", 7):
        (source / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
        with pytest.raises(
            ValueError, match="transformers_weights: expected the name of a file in the folder"
        ):
            load(source)


# -- what leads astray ----------------------------------------------------------------------------


def with_shard(source: Path, name: Any) -> None:
    keys = load_file(source / "model.safetensors").keys()
    (source / "model.safetensors").rename(source.parent / "x.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(keys, name)}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "a/../../x.safetensors", "ABSOLUTE", "", None, 3, ["a"]]
)
def test_shards_outside_of_the_folder(source: Path, tmp_path: Path, name: Any) -> None:
    with_shard(source, str(tmp_path / "x.safetensors") if name == "ABSOLUTE" else name)
    for call in (load, inspect_checkpoint, lambda path: quantized(path, tmp_path / "out")):
        with pytest.raises(ValueError, match=r"index\.json: expected the name of a file in the folder"):
            call(source)  # type: ignore[operator]
    assert not (tmp_path / "out").exists()


def test_shards_in_a_subfolder(source: Path, tmp_path: Path) -> None:
    with_shard(source, "weights/./x.safetensors")
    (source / "weights").mkdir()
    (tmp_path / "x.safetensors").rename(source / "weights" / "x.safetensors")
    load(source)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(path.parent)  # their names must be short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [a_pipe, a_socket, a_device])
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json",
        "generation_config.json", "notes.txt", "additional_chat_templates/x.jinja",
    ],
)  # fmt: skip
def test_pipes_and_devices_do_not_hang(
    source: Path, tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    path = source / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    for call in (load, inspect_checkpoint, load_tokenizer, lambda path: quantized(path, tmp_path / "out")):
        with pytest.raises(ValueError, match=rf"{path.name}: expected a file, found a (pipe|socket|device)"):
            call(source)  # type: ignore[operator]
    assert not (tmp_path / "out").exists()


def test_links_to_elsewhere_are_refused(source: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    model = quantize(load(source), "W4A16", "rtn", group_size=32)
    for name, target, message in (
        ("tokenizer.json", secret / "key", "is a link to .*secret/key, outside of the folder"),
        ("1_Pooling/config.json", Path("../../secret/key"), "is a link to .*outside of the folder"),
        ("assets", secret, "is a link to a folder"),
        ("1_Pooling/loop", Path(".."), "is a link to a folder"),
        ("tokenizer.json", Path("nowhere"), "is a link to nothing"),
    ):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).symlink_to(target)
        with pytest.raises(ValueError, match=rf"{name}: {message}"):
            quantized(source, tmp_path / "out")
        with pytest.raises(ValueError, match=rf"{name}: {message}"):
            save(model, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        (source / name).unlink()
    (source / "tokenizer.json").symlink_to("config.json")  # a link within
    assert (quantized(source, tmp_path / "out") / "tokenizer.json").is_file()
    assert not (tmp_path / "out" / "tokenizer.json").is_symlink()


def test_the_cache_of_hugging_face(source: Path, tmp_path: Path) -> None:
    """Its snapshots are links to blobs; those of other repositories are elsewhere."""
    put(source, KEPT)
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    for index, name in enumerate(sorted(files(source))):
        (source / name).rename(blobs / str(index))
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        up = "/".join([".."] * (2 + name.count("/")))
        (snapshot / name).symlink_to(f"{up}/blobs/{index}")
    out = quantized(snapshot, tmp_path / "out")
    assert {*KEPT} <= files(out)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    save(quantize(load(snapshot), "W4A16", "rtn", group_size=32), tmp_path / "saved")
    assert files(tmp_path / "saved") == files(out)
    other = tmp_path / "models--c--d" / "blobs"
    other.mkdir(parents=True)
    (other / "0").write_text("theirs")
    (snapshot / "extra.json").symlink_to("../../../models--c--d/blobs/0")
    with pytest.raises(ValueError, match=r"extra\.json: is a link to .*outside of the folder"):
        quantized(snapshot, tmp_path / "again")


def test_a_shard_may_be_a_link(source: Path, tmp_path: Path) -> None:
    """Large files are often kept on another disk; of them only tensors are read."""
    (source / "model.safetensors").rename(tmp_path / "x.safetensors")
    (source / "model.safetensors").symlink_to(tmp_path / "x.safetensors")
    load(quantized(source, tmp_path / "out"))
    save_file({}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="not in the checkpoint"):
        load(source)


def test_what_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights in other forms; but a sentence encoder's modules may be .bin files."""
    import huggingface_hub

    def download(repo: str, ignore_patterns: list[str]) -> str:
        left = {
            name for name in [*KEPT, *LEFT, *LEFT_FOLDERS] if any(fnmatch(name, p) for p in ignore_patterns)
        }
        assert {"pytorch_model.bin", "consolidated.safetensors", "tf_model.h5", "onnx/model.onnx"} <= left
        assert not left & {*KEPT}
        assert not any(fnmatch("2_Dense/pytorch_model.bin", pattern) for pattern in ignore_patterns)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no network"):
        load("a/b")


def test_no_paths_of_this_machine(source: Path, tmp_path: Path) -> None:
    for write in (quantized, saved):
        out = write(source, tmp_path / write.__name__)
        assert str(tmp_path) not in (out / "config.json").read_text()


def test_adapters_are_not_lost(source: Path, tmp_path: Path) -> None:
    (source / "adapter_config.json").write_text("{}")
    for call in (load, inspect_checkpoint, lambda path: quantized(path, tmp_path / "out")):
        with pytest.raises(ValueError, match="source: holds an adapter"):
            call(source)  # type: ignore[operator]


def test_a_model_from_the_hub(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cache has of it goes along; if it has several versions, that is said."""
    put(source, KEPT)
    model: Any = quantize(load(source), "W4A16", "rtn", group_size=32)
    model.name_or_path = "me/model"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    snapshots = tmp_path / "hub" / "models--me--model" / "snapshots"
    snapshots.mkdir(parents=True)
    with pytest.warns(UserWarning, match="me/model: the local cache has 0 snapshots"):
        save(model, tmp_path / "none")
    shutil.copytree(source, snapshots / "0123")
    save(model, tmp_path / "one")
    assert {*KEPT} <= files(tmp_path / "one")
    shutil.copytree(source, snapshots / "4567")
    with pytest.warns(UserWarning, match="me/model: the local cache has 2 snapshots"):
        save(model, tmp_path / "two")
    assert not {*KEPT} & files(tmp_path / "two")
