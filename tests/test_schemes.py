"""Names of schemes, methods and their options, as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import qcore
import tiny
from conftest import REPOSITORY
from gguf_cases import byte_level, make, save, types_in, wrap
from qcore import QLinear
from qcore.checkpoints.gguf import GGUF_SCHEMES
from qcore.checkpoints.stores import STORES
from qcore.cli import app
from qcore.methods import resolve_method
from qcore.schemes import ALIASES, SCHEMES, find_scheme

MODEL = REPOSITORY / "models" / "pydoc-llama-7m"


@pytest.mark.parametrize(
    ("typed", "folder", "gguf"),
    [
        ("int4", "W4A16", "Q4_K_M"),
        ("INT8", "W8A8", "Q8_0"),
        ("fp8", "FP8", None),
        ("w4a16-asym", "W4A16_ASYM", None),
        ("w4a16asym", "W4A16_ASYM", None),
        ("8bit", "W8A16", "Q8_0"),
        ("5-bit", None, "Q5_K_M"),
        ("q4_k_m", None, "Q4_K_M"),
        ("Q4_K", None, "Q4_K_M"),
        ("q4km", None, "Q4_K_M"),
        ("fp16", None, "F16"),
        ("W8A8_FP8", "FP8", None),
    ],
)
def test_what_is_meant(typed: str, folder: str | None, gguf: str | None) -> None:
    for schemes, expected in ((STORES[1].schemes, folder), (STORES[0].schemes, gguf)):
        if expected is None:
            with pytest.raises(ValueError, match="scheme: expected one of"):
                find_scheme(typed, schemes)
        else:
            assert find_scheme(typed, schemes) == expected


def test_names_are_distinct() -> None:
    """However they are typed; and an alias means something."""
    for known in (SCHEMES, GGUF_SCHEMES):
        for name in known:
            assert find_scheme(name.lower().replace("_", ""), known) == name
    for alias, meant in ALIASES.items():
        assert all(name in SCHEMES or name in GGUF_SCHEMES for name in meant), alias


@pytest.mark.parametrize(
    ("typed", "near"), [("W5A16", "W[2-8]A16"), ("Q4_K_X", "Q4_K"), ("fp9", "FP8"), ("nf5", "NF4")]
)
def test_unknown_names_answer_with_the_nearest(typed: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"got '{typed}'; the nearest are .*{near}"):
        qcore.quantize(tiny.make_model("llama"), typed, "rtn")
    with pytest.raises(ValueError, match=r"scheme: expected one of [^;]*, got 'xyzzy'$"):
        find_scheme("xyzzy", SCHEMES)


@pytest.mark.filterwarnings("ignore:the quantized model cannot be saved")  # by folders
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "mistral"])
@pytest.mark.parametrize("scheme", ["Q4_K_M", "q3_k_l", "Q4_K_S"])
@pytest.mark.parametrize("method", ["rtn", "imatrix"])
def test_mixes_in_memory_are_those_of_files(name: str, scheme: str, method: str, tmp_path: Path) -> None:
    """Layer by layer, with a depth at which the rules differ."""
    sizes = {"hidden_size": 256, "intermediate_size": 320, "num_hidden_layers": 8}
    sizes |= {} if name == "qwen2" else {"head_dim": 64}
    sizes |= {"query_pre_attn_scalar": 64} if name == "gemma2" else {}
    model = make(name, vocab_size=320, **sizes)
    source = save(model, tmp_path / "hf", wrap(byte_level(None, 300)))
    ids = tiny.tokens(2, 8)
    qcore.quantize_gguf(source, tmp_path / "model.gguf", scheme, method, ids)
    in_file = types_in(tmp_path / "model.gguf")
    ours = qcore.quantize(model, scheme, method, ids)
    loaded = qcore.load(tmp_path / "model.gguf")
    layers = {n: m for n, m in ours.named_modules() if isinstance(m, QLinear)}
    assert len(layers) == 7 * 8
    for layer, module in layers.items():
        other = loaded.get_submodule(layer)
        assert isinstance(other, QLinear)
        assert module.format == other.format, layer
    used = {module.format.name for module in layers.values()}
    assert used <= set(in_file.values())
    assert len(used) > 1


def test_mixes_for_models_that_have_no_files() -> None:
    model = qcore.quantize(tiny.make_model("gpt-neox"), "Q4_K_M", "rtn")
    formats = {m.format.name for m in model.modules() if isinstance(m, QLinear)}
    assert formats == {"Q5_0", "Q8_0"}  # rows of 64 and 96 are no whole blocks of Q4_K and Q6_K
    with pytest.raises(ValueError, match="group_size: the scheme Q4_K_M has its own, got 32"):
        qcore.quantize(tiny.make_model("llama"), "Q4_K_M", "rtn", group_size=32)


def test_options_of_methods() -> None:
    assert resolve_method("GPTQ", damping=0.1) == qcore.Gptq(damping=0.1)
    assert resolve_method("awq+gptq", damping=0.1, steps=5) == qcore.Awq(
        inner=qcore.Gptq(damping=0.1), steps=5
    )
    assert resolve_method("rtn", search=True) == qcore.Rtn(search=True)
    assert resolve_method(qcore.Gptq(sweeps=0), damping=0.5) == qcore.Gptq(sweeps=0, damping=0.5)
    with pytest.raises(ValueError, match="damping: is no option of method rtn, which has search"):
        resolve_method("rtn", damping=7)
    with pytest.raises(ValueError, match=r"got 'gptg'; the nearest are gptq"):
        resolve_method("gptg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "rtn", "--damping", "7"], "--damping: is no option of method rtn, which has search"),
        (["--method", "rtn", "--act-order"], "--act-order: is no option of method rtn"),
        (["--method", "imatrix", "--no-search"], "--search: is no option of method imatrix"),
        (["--method", "awq", "--damping", "1"], "--damping: is no option of method awq"),
        (["--bits", "5"], "--bits: a folder takes one of 2, 3, 4, 8; got 5"),
        (["--bits", "4", "--scheme", "W4A16"], "--bits: stands for a scheme; got 4 and --scheme W4A16"),
        (["--scheme", "q4_k_m"], "a folder takes one of W2A16"),
    ],
)
def test_errors_of_the_command_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["quantize", str(MODEL), str(tmp_path / "out"), *arguments])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        (["--bits", "3"], "out", "W3A16 by rtn"),
        (["--bits", "6"], "out.gguf", "Q6_K by rtn"),
        (["--scheme", "int8"], "out", "W8A8 by rtn"),
        (["--scheme", "4bit", "--search"], "out", "W4A16 by rtn"),
    ],
)
def test_short_names_on_the_command_line(
    arguments: list[str], name: str, expected: str, tmp_path: Path
) -> None:
    out = str(tmp_path / name)
    result = CliRunner().invoke(app, ["quantize", str(MODEL), out, "--method", "rtn", *arguments])
    assert result.exit_code == 0, result.output
    assert expected in result.stdout


def test_a_wrong_scheme_names_the_nearest(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["quantize", str(MODEL), str(tmp_path / "o"), "--scheme", "W4A61"])
    assert result.exit_code == 2
    assert "nearest" in result.stderr


def test_calibration_that_is_not_read_is_said(tmp_path: Path) -> None:
    calibration = ["--calibration", str(MODEL / "calibration.txt"), "--method", "rtn"]
    result = CliRunner().invoke(app, ["quantize", str(MODEL), str(tmp_path / "out"), *calibration])
    assert result.exit_code == 0
    assert "note: --calibration is not read: W4A16 by rtn needs none" in result.stderr
