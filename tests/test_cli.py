"""The command line on the bundled model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import qcore
from conftest import REPOSITORY
from qcore import _C
from qcore.cli import app
from qcore.text import token_chunks

MODEL = REPOSITORY / "models" / "pydoc-llama-7m"
SMALL = ["--samples", "4", "--sequence-length", "128", "--calibration", str(MODEL / "calibration.txt")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "w4"
    result = run("quantize", MODEL, out, "--method", "gptq", *SMALL)
    assert result.exit_code == 0, result.output
    assert "W4A16 by gptq" in result.output
    assert "peak memory" in result.output
    return out


def test_eval(quantized: Path) -> None:
    text = MODEL / "eval.txt"
    arguments = ("eval", quantized, "--text", text, "--chunks", 4, "--chunk", 256, "--reference", MODEL)
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["tokens"] == 4 * 255
    assert 5 < figures["perplexity"] < 15
    assert 0 < figures["kl"] < 0.1
    assert 0.8 < figures["top1"] < 1
    assert "perplexity" in run(*arguments).stdout


@pytest.mark.parametrize(("out", "scheme"), [("q4.gguf", "Q4_0"), ("w8", "W8A8")])
def test_eval_with_float_activations(out: str, scheme: str, tmp_path: Path) -> None:
    """Inputs as they are: the figures of a program that does not round them."""
    path = tmp_path / out
    assert run("quantize", MODEL, path, "--method", "rtn", "--scheme", scheme).exit_code == 0
    text = ["--text", MODEL / "eval.txt", "--chunks", 2, "--chunk", 128, "--json"]
    rounded = json.loads(run("eval", path, *text).stdout)
    got = json.loads(run("eval", path, *text, "--float-activations").stdout)
    assert got["perplexity"] != rounded["perplexity"]
    model = qcore.load(path)
    for module in model.modules():
        if isinstance(module, qcore.QLinear):
            assert not module.float_activations
            dense = torch.nn.Linear(module.in_features, module.out_features, module.bias is not None)
            dense.weight.data = module.to_qweight().dequantize()
            module.forward = dense.forward
    expected = qcore.evaluate(model.float(), token_chunks(MODEL, MODEL / "eval.txt", 128, 2))
    assert got["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)


def test_inspect(quantized: Path) -> None:
    result = run("inspect", quantized)
    assert result.exit_code == 0
    assert "int4 g128 sym" in result.stdout
    assert "7,344,384 weights" in result.stdout
    rows = json.loads(run("inspect", quantized, "--json").stdout)
    total = sum(row["bytes"] for row in rows)
    header = 8 + 8 * 1024
    assert 0 < (quantized / "model.safetensors").stat().st_size - total < 4 * header


@pytest.mark.parametrize("scheme", ["W2A16", "w3a16_asym", "W8A16_ASYM"])
def test_schemes(scheme: str, tmp_path: Path) -> None:
    result = run(
        "quantize", MODEL, tmp_path / "out", "--method", "rtn", "--scheme", scheme, "--group-size", 64
    )
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    weights = config["config_groups"]["group_0"]["weights"]
    assert weights["num_bits"] == int(scheme[1])
    assert weights["symmetric"] == ("ASYM" not in scheme.upper())
    assert weights["group_size"] == 64
    assert config["ignore"] == ["lm_head"]


@pytest.mark.parametrize("scheme", ["W8A8", "fp8", "W8A8_ASYM", "FP8_STATIC", "FP8_BLOCK", "W8A16_FP8"])
def test_schemes_with_8_bits(scheme: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("quantize", MODEL, out, "--method", "rtn", "--scheme", scheme, *SMALL)
    assert result.exit_code == 0, result.output
    assert f"{scheme.upper()} by rtn" in result.output
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["format"] == ("int-quantized" if "W8A8" in scheme else "float-quantized")
    kind = "int8 per row" if "W8A8" in scheme else "e4m3"
    assert kind in run("inspect", out).stdout
    evaluated = run("eval", out, "--text", MODEL / "eval.txt", "--chunks", 1, "--chunk", 64, "--json",
                    "--reference", MODEL)  # fmt: skip
    assert evaluated.exit_code == 0, evaluated.output
    assert 0 < json.loads(evaluated.stdout)["kl"] < 0.1


def test_gguf(tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    override = ["--override", r"re:blk\.[01]\.ffn_down=Q8_0"]
    result = run("quantize", MODEL, out, "--method", "imatrix", *SMALL, *override)
    assert result.exit_code == 0, result.output
    assert "model.gguf: Q4_K_M by imatrix, " in result.output
    types = {row["tensor"]: row["format"] for row in json.loads(run("inspect", out, "--json").stdout)}
    assert types["blk.1.ffn_down.weight"] == "Q8_0"
    assert (types["blk.2.ffn_down.weight"], types["output.weight"]) == ("Q4_K", "Q6_K")
    assert "Q4_K" in run("inspect", out).stdout
    arguments = ("--text", MODEL / "eval.txt", "--chunks", 2, "--chunk", 128, "--reference", MODEL, "--json")
    figures = json.loads(run("eval", out, *arguments).stdout)
    assert figures["tokens"] == 2 * 127
    assert 0 < figures["kl"] < 0.05
    assert run("quantize", MODEL, out, "--method", "rtn").exit_code == 1
    assert run("quantize", MODEL, out, "--method", "rtn", "--scheme", "q8_0", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", MODEL, "OUT"], "--calibration: method gptq needs a text file"),
        (
            ["quantize", MODEL, "OUT", "--method", "rtn", "--scheme", "FP8_STATIC"],
            "--calibration: scheme FP8_STATIC needs a text file",
        ),
        (
            ["quantize", MODEL, "OUT", "--method", "rtn", "--scheme", "W8A8", "--group-size", "64"],
            "group_size: the scheme int8 per row, inputs int8 dynamic per token has its own, got 64",
        ),
        (["quantize", "no/where", "OUT", "--method", "rtn"], "no/where: no such folder"),
        (["quantize", MODEL, "OUT", "--calibration", "missing.txt"], "missing.txt: no such file"),
        (
            ["quantize", MODEL, "OUT", "--method", "rtn", "--group-size", "0"],
            "group_size: expected a positive number",
        ),
        (["quantize", MODEL, "GGUF", "--scheme", "W4A16"], "a GGUF file takes one of F32, F16"),
        (
            ["quantize", MODEL, "OUT", "--scheme", "Q4_K_M"],
            "a folder takes one of W2",
        ),
        (
            ["quantize", MODEL, "OUT", "--method", "rtn", "--device", "cuda"],
            "--device: torch sees no CUDA device",
        ),
        (["quantize", MODEL, "GGUF", "--group-size", "64"], "--group-size: is not for a GGUF file"),
        (["quantize", MODEL, "GGUF", "--ignore", "q_proj"], "--ignore: is not for a GGUF file"),
        (
            ["quantize", MODEL, "OUT", "--method", "rtn", "--override", "a=Q8_0"],
            "compressed-tensors has no format Q8_0; a GGUF file stores it",
        ),
        (["quantize", MODEL, "GGUF", "--method", "rtn", "--override", "x"], "expected PATTERN=TYPE, got 'x'"),
        (["inspect", "BAD"], "bad.gguf: is no GGUF file: it starts with b'too '"),
        (["eval", "BAD", "--text", "SHORT"], "bad.gguf: is no GGUF file"),
        (["eval", MODEL, "--text", "missing.txt"], "missing.txt: no such file"),
        (["eval", MODEL, "--text", "SHORT"], "expected at least 512 tokens, got"),
        (["inspect", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_errors_are_one_line(
    arguments: list[object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    short = tmp_path / "short.txt"
    short.write_text("too short")
    bad = tmp_path / "bad.gguf"
    bad.write_text("too short to be a file of that format")
    places = {"OUT": tmp_path / "out", "SHORT": short, "GGUF": tmp_path / "out.gguf", "BAD": bad}
    result = run(*(places.get(str(a), a) for a in arguments))
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.gguf", "short.txt"]


@pytest.mark.parametrize("arguments", [["--scheme", "W5A16"], ["--method", "magic"]])
def test_unknown_choices_list_the_known_ones(arguments: list[str], tmp_path: Path) -> None:
    result = run("quantize", MODEL, tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert "w4a16_asym" in result.stderr.lower() or "awq+gptq" in result.stderr


def test_as_a_module_and_quiet_when_piped(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qcore", "quantize", MODEL, tmp_path / "out", "--method", "rtn"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    # How large and how fast, what was chosen, and that the ends are large.
    assert done.stdout.count("\n") == 3


def test_explain_names_the_kernel_and_why_no_other() -> None:
    result = run("explain", 300, 512, "--m", 1, "--m", 40)
    assert result.exit_code == 0
    chosen, _, _ = _C.explain("w4a16", 40, 300, 512, 128, dtype="bfloat16")
    assert result.stdout.count(chosen) == 2
    result = run("explain", 300, 512, "--bits", 5)
    assert result.exit_code == 1
    assert "bits: expected 2, 3, 4 or 8, got 5" in result.stderr


@pytest.mark.skipif(not _C.cuda_built(), reason="this build has no CUDA kernels")
def test_explain_needs_no_gpu() -> None:
    result = run("explain", 28672, 8192, "--device", "cuda", "--sm", 90, "--multiprocessors", 132)
    assert result.exit_code == 0
    assert re.search(r"4096.*w4a16_marlin_sm90.*tiles of 256 rows x 128 tokens on 132 blocks", result.stdout)
    assert "not w4a16_marlin_sm90, M = 1: multiplies 33 tokens or more" in result.stdout


@pytest.mark.parametrize("command", [[], ["quantize"], ["eval"], ["inspect"], ["explain"]])
def test_help_teaches(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout) > 400


@pytest.mark.parametrize("name", ["модель-日本", os.fsdecode(b"no-text-\xff.gguf")])
def test_names_that_the_output_cannot_show(tmp_path: Path, name: str) -> None:
    """An ASCII terminal, and the name of a file that is no text at all."""
    out = tmp_path / name
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "qcore", "quantize", MODEL, out, "--method", "rtn"],
        capture_output=True,
        env={**ascii_only, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    assert out.exists()


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"qcore {qcore.__version__}\n")


def test_remote_code_runs_only_if_it_is_trusted(tmp_path: Path) -> None:
    source, ran = tmp_path / "source", tmp_path / "ran"
    shutil.copytree(MODEL, source)
    (source / "own.py").write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own-of-cli'\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((source / "config.json").read_text())
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    config |= {"model_type": "own-of-cli", "auto_map": auto_map, "architectures": ["OwnForCausalLM"]}
    (source / "config.json").write_text(json.dumps(config))
    evaluation = ["eval", source, "--text", MODEL / "eval.txt", "--chunks", 1, "--chunk", 16]
    for command in (["quantize", source, tmp_path / "out", *SMALL], evaluation):
        result = run(*command)
        assert result.exit_code == 1
        assert "--trust-remote-code" in result.stderr
        assert not ran.exists()
    for command in (["quantize", source, tmp_path / "out", *SMALL], evaluation):
        result = run(*command, "--trust-remote-code")
        assert result.exit_code == 0, result.output
        assert ran.exists()
