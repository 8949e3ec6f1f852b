"""Exceptions from a scheme, what is said in the end, and calls that meant another one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn
from typer.testing import CliRunner

import gguf_cases
import qcore
import tiny
from qcore import QLinear, load, quantize, quantize_folder
from qcore.cli import app
from test_conversion import mixture


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return str(result.output)


# -- rules --------------------------------------------------------------------------------------

RULES = ("re:layers.0.*up_proj=W8A16_ASYM", "k_proj=float", "lm_head=w8a16", "mlp=W3A16")


def test_rules_count_before_the_scheme_and_before_what_is_ignored(tmp_path: Path) -> None:
    model = tiny.make_model("llama")
    model.save_pretrained(tmp_path / "source")
    report = quantize_folder(
        tmp_path / "source", tmp_path / "out", "W4A16", "rtn", group_size=32, overrides=RULES
    )
    quantize(model, "W4A16", "rtn", group_size=32, overrides=RULES)
    again = load(tmp_path / "out")
    for each in (model, again):
        formats = {n: str(m.format) for n, m in each.named_modules() if isinstance(m, QLinear)}
        first, second = "model.layers.0.", "model.layers.1."
        assert formats[first + "mlp.up_proj"] == "int8 g64 asym"  # a rule has groups of its own
        assert formats[second + "mlp.up_proj"] == "int3 g64 sym"
        assert formats[first + "self_attn.q_proj"] == "int4 g32 sym"
        assert formats["lm_head"] == "int8 g64 sym"
        assert type(each.get_submodule(first + "self_attn.k_proj")) is nn.Linear
    assert torch.equal(tiny.logits(again), tiny.logits(model))
    assert report.left_out["model.layers.0.self_attn.k_proj"].asked


def test_a_rule_reaches_a_router() -> None:
    model = nn.ModuleList([nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(32, 32) for _ in range(4))})])
    model[0]["gate"] = nn.Linear(32, 4)
    quantize(model, "W4A16", "rtn", overrides=("gate=W8A16",))
    assert isinstance(model[0]["gate"], QLinear)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("nonsense", "override: expected PATTERN=SCHEME, got 'nonsense'"),
        ("=W4A16", "override: expected PATTERN=SCHEME"),
        ("mlp=W5A16", "override 'mlp=W5A16': expected float or one of W2A16"),
        ("(=W4A16", r"override '\(=W4A16': no regular expression"),
        ("experts=W4A16", "override experts: fits no linear layer of the model"),
    ],
)
def test_wrong_rules(rule: str, message: str, tmp_path: Path) -> None:
    model = tiny.make_model("llama")
    with pytest.raises(ValueError, match=message):
        quantize(model, "W4A16", "rtn", overrides=(rule,))
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(ValueError, match=message):
        quantize_folder(tmp_path / "source", tmp_path / "out", "W4A16", "rtn", overrides=(rule,))
    assert not any(isinstance(module, QLinear) for module in model.modules())


# -- the command line ---------------------------------------------------------------------------


def test_the_command_ends_with_what_was_chosen(tmp_path: Path) -> None:
    gguf_cases.make("llama", hidden_size=288, intermediate_size=512).save_pretrained(tmp_path / "source")
    out = run(
        "quantize", tmp_path / "source", tmp_path / "out", "--method", "rtn", "--override", "down=W8A16"
    )
    assert "10 x int4 g32 sym, 2 x int4 g64 sym, 2 x int8 g128 sym;" in out
    assert "of the parameters besides embeddings and head are quantized" in out
    assert "int4 g32 sym instead of int4 g128 sym: 2 x model.layers.#.self_attn.q_proj" in out
    assert "warning" not in out
    file = tmp_path / "out.gguf"
    out = run("quantize", tmp_path / "source", file, "--method", "rtn", "--scheme", "Q2_K")
    assert "Q4_0 instead of Q2_K: " in out
    out = run("inspect", file)
    types = list(gguf_cases.types_in(file).values())
    assert "Q2_K, by its metadata; what it holds:" in out
    line = next(line for line in out.splitlines() if "Q4_0" in line and "%" in line)
    assert str(types.count("Q4_0")) in line.split()
    assert not any("Q2_K" in line and "%" in line for line in out.splitlines())
    out = run("inspect", tmp_path / "out")
    assert any("int4 g32 sym" in line and " 10 " in line for line in out.splitlines())


def test_the_command_warns_of_what_stays(tmp_path: Path) -> None:
    mixture("mixtral").save_pretrained(tmp_path / "source")
    with warnings.catch_warnings():
        out = run("quantize", tmp_path / "source", tmp_path / "out", "--method", "rtn")
    assert "warning: only" in out
    assert "2 x model.layers.#.mlp.experts.gate_up_proj" in out
    assert out.count("warning") == 1


# -- other calls that were meant ----------------------------------------------------------------


@pytest.mark.parametrize("make", [str, Path])
def test_a_folder_is_no_model(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model: .* call qcore.quantize_folder\('.*', destination\), or"):
        quantize(make(tmp_path), "W4A16", "rtn")
    with pytest.raises(ValueError, match=r"model: expected a torch.nn.Module, got a dict"):
        quantize({}, "W4A16", "rtn")  # type: ignore[arg-type]


def test_quantizing_twice_says_what_to_do(tmp_path: Path) -> None:
    model = tiny.make_model("llama")
    quantize(model, "W4A16", "rtn")
    before = tiny.logits(model)
    with pytest.raises(ValueError, match=r"is quantized already \(14 layers.*overrides="):
        quantize(model, "W8A16", "rtn")
    assert torch.equal(tiny.logits(model), before)
    qcore.save(model, tmp_path / "out")
    with pytest.raises(ValueError, match="is quantized already"):
        quantize(load(tmp_path / "out"), "W8A16", "rtn")
    with pytest.raises(ValueError, match="is quantized already"):
        quantize_folder(tmp_path / "out", tmp_path / "again", "W8A16", "rtn")
    theirs = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="is quantized already, by transformers"):
        quantize(theirs, "W8A16", "rtn")


def test_what_cannot_be_saved_is_known_at_once() -> None:
    model = tiny.make_model("llama")
    with pytest.warns(UserWarning, match="cannot be saved: model.layers.0.* a GGUF file stores it"):
        quantize(model, "Q8_0", "imatrix", tiny.tokens())
    assert model.qcore_report.unsavable.endswith(
        "compressed-tensors has no format Q8_0; a GGUF file stores it"
    )
    assert "qcore.save will refuse it: " in "\n".join(model.qcore_report.lines())
    model = tiny.make_model("llama")
    quantize(model, "W4A16", "rtn")
    assert model.qcore_report.unsavable == ""
