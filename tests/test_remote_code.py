"""Folders that bring Python code of their own (`auto_map`): run only if trusted; nothing is ever asked."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from qcore import QLinear, load, load_tokenizer, quantize_checkpoint, quantize_folder, quantize_gguf
from qcore.checkpoints.stores import inspect_checkpoint

CONFIGURATION = """
from pathlib import Path
from transformers import LlamaConfig

Path({ran!r}).touch()

class OwnConfig(LlamaConfig):
    model_type = {model_type!r}
"""
MODELING = """
from pathlib import Path
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

Path({ran!r}).touch()

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = 2 * out.logits
        return out
"""
TOKENIZATION = """
from pathlib import Path
from transformers import PreTrainedTokenizer

Path({ran!r}).touch()

class OwnTokenizer(PreTrainedTokenizer):
    vocab_size = 256

    def _tokenize(self, text): return list(text)
    def _convert_token_to_id(self, token): return ord(token) % 64
    def _convert_id_to_token(self, index): return chr(index)
    def get_vocab(self): return {{chr(i): i for i in range(64)}}
    def save_vocabulary(self, *args, **kwargs): return ()
"""


@pytest.fixture(autouse=True)
def nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*args: Any) -> str:
        raise AssertionError(f"asked: {args}")

    monkeypatch.setattr(builtins, "input", asked)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that the folder's code makes."""
    return tmp_path / "ran"


@pytest.fixture
def source(tmp_path: Path, ran: Path) -> Path:
    return write(tmp_path / "source", ran)


def write(folder: Path, ran: Path, model_type: str = "own-llama", tokenizer: bool = True) -> Path:
    model: Any = tiny.make_model("llama")
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    config |= {"model_type": model_type, "architectures": ["OwnForCausalLM"], "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    code = {"configuration_own.py": CONFIGURATION, "modeling_own.py": MODELING}
    if tokenizer:
        code["tokenization_own.py"] = TOKENIZATION
        own = {
            "tokenizer_class": "OwnTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]},
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(own))
    for name, text in code.items():
        (folder / name).write_text(text.format(ran=str(ran), model_type=model_type))
    return folder


CALLS: dict[str, Callable[[Path, Path], Any]] = {
    "load": lambda source, out: load(source),
    "tokenizer": lambda source, out: load_tokenizer(source),
    "folder": lambda source, out: quantize_folder(source, out, "W4A16", "rtn", group_size=32),
    "gguf": lambda source, out: quantize_gguf(source, out.with_suffix(".gguf"), "Q8_0", "rtn"),
    "checkpoint": lambda source, out: quantize_checkpoint(source, out, "W4A16", "rtn", group_size=32),
}


@pytest.mark.parametrize("call", CALLS)
def test_code_is_not_run_unless_it_is_trusted(source: Path, ran: Path, tmp_path: Path, call: str) -> None:
    with pytest.raises(ValueError, match=r"source: needs Python code.*trust_remote_code=True"):
        CALLS[call](source, tmp_path / "out")
    assert not ran.exists()
    assert not (tmp_path / "out").exists()
    inspect_checkpoint(source)  # needs no code
    assert not ran.exists()


def test_trusted_code_makes_the_model(source: Path, ran: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = load(source, trust_remote_code=True)
    assert type(model).__name__ == "OwnForCausalLM"
    assert ran.exists()
    assert torch.equal(tiny.logits(model), 2 * tiny.logits(tiny.make_model("llama")))
    assert load_tokenizer(source, trust_remote_code=True)("ab")["input_ids"] == [33, 34]
    out = tmp_path / "out"
    quantize_folder(source, out, "W4A16", "rtn", group_size=32, trust_remote_code=True)
    with pytest.raises(ValueError, match=r"out: needs Python code.*trust_remote_code=True"):
        load(out)
    ours = load(out, trust_remote_code=True)
    assert type(ours).__name__ == "OwnForCausalLM"
    assert isinstance(ours.model.layers[0].mlp.up_proj, QLinear)
    theirs = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    assert tiny.distance(tiny.logits(ours), tiny.logits(theirs)) < 0.05


def test_a_model_that_transformers_knows_needs_no_code(tmp_path: Path, ran: Path) -> None:
    """As in transformers: its own class is taken, unless the folder's is trusted."""
    source = write(tmp_path / "source", ran, "llama", tokenizer=False)
    model = load(source)
    assert type(model).__name__ == "LlamaForCausalLM"
    quantize_folder(source, tmp_path / "out", "W4A16", "rtn", group_size=32)
    assert type(load(tmp_path / "out")).__name__ == "LlamaForCausalLM"
    assert not ran.exists()
    assert type(load(source, trust_remote_code=True)).__name__ == "OwnForCausalLM"
