"""Numbers of config.json are not believed: the memory and time of loading are bounded by the files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

import qcore
import tiny
from qcore.room import Room

HUGE = (1 << 31) - 1

# Architecture, what is changed, and the message.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"num_hidden_layers": HUGE}, "num_hidden_layers is 2147483647, but the weights have only"),
    ("qwen3", {"num_hidden_layers": 1 << 40}, "num_hidden_layers is"),
    ("llama", {"num_hidden_layers": 5000}, "many more parameters than the"),
    ("gemma2", {"num_hidden_layers": float(HUGE)}, "num_hidden_layers is"),
    ("llama", {"num_labels": HUGE}, "num_labels is"),
    ("llama", {"num_attention_heads": HUGE}, "num_attention_heads is"),
    ("gptj", {"n_layer": HUGE}, "n_layer is"),
    ("gptj", {"n_positions": 1 << 18, "rotary_dim": 1 << 16}, "whose tables take .* bytes, but"),
    ("bert", {"max_position_embeddings": 1 << 36}, "whose weights take .* bytes, but"),
    ("bloom", {"n_layer": 4000}, "many more parameters than the"),
    ("llama", {"hidden_size": 1 << 40}, "whose weights take|no model can be built"),
    ("llama", {"vocab_size": 1 << 40}, "whose weights take|no model can be built"),
    ("llama", {"intermediate_size": 1 << 62}, "whose weights take|no model can be built"),
    ("llama", {"head_dim": HUGE}, "head_dim is"),
    ("llama", {"hidden_size": 1 << 20}, "whose weights take"),
    ("mistral", {"sliding_window": HUGE}, ""),  # a number of which nothing is made
]  # fmt: skip

PROGRAM = """
import resource, sys, time, warnings
import torch, transformers, qcore
from qcore.checkpoints.stores import inspect_checkpoint
qcore.load(sys.argv[1])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
for folder in sys.argv[2:]:
    start = time.process_time()
    for read in (inspect_checkpoint, qcore.load):
        try:
            read(folder)
            print("loaded")
        except ValueError as error:
            assert folder in str(error), error
            print(str(error).replace(chr(10), " "))
    assert time.process_time() - start < 10, folder
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its memory by way of /proc")
@pytest.mark.parametrize("quantized", [False, True])
def test_counts_are_compared_with_the_files(tmp_path: Path, quantized: bool) -> None:
    """One process with a limit of memory reads them all."""
    whole: dict[str, Path] = {}
    folders = []
    for index, (name, changes, _) in enumerate(CASES):
        if name not in whole:
            whole[name] = tmp_path / name
            model: Any = tiny.make_model(name)
            if quantized:
                qcore.save(qcore.quantize(model, "W8A8", "rtn"), whole[name])
            else:
                model.save_pretrained(whole[name])
        folder = tmp_path / f"{index}"
        folder.mkdir()
        for file in whole[name].iterdir():
            (folder / file.name).symlink_to(file)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(config))
        folders.append(folder)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, whole["llama"], *folders], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for (_, changes, message), line in zip(CASES, lines[1::2], strict=True):
        if message:
            assert re.search(message, line), (changes, line)
        else:
            assert line == "loaded", (changes, line)


def test_a_configuration_inside_another() -> None:
    with pytest.raises(
        ValueError, match=r"c: vision: text: num_layers is 70000, but the weights have only 10"
    ):
        Room(1, 10).expect_counts({"vision": {"text": {"num_layers": 70000}}}, "c")
    Room(1, 10).expect_counts({"rope_theta": 1e9, "max_position_embeddings": 1 << 40, "num": 7}, "c")


def test_parameters_are_counted_as_they_come() -> None:
    made: list[nn.Module] = []
    with pytest.raises(ValueError, match="the 3 tensors"), Room(3, 100).building():
        made.extend(nn.Linear(1, 1) for _ in range(100_000))
    assert len(made) < 1000
    nn.Linear(1, 1)  # no longer


def test_honest_models_have_room() -> None:
    """Every architecture of the tests, and large tables of positions beside little weights."""
    for name in tiny.CONFIGS:
        model = tiny.make_model(name)
        size = sum(p.numel() for p in model.parameters())
        Room(len(model.state_dict()), size).expect_counts(model.config.to_dict(), name)
    config = tf.GPTNeoConfig(max_position_embeddings=2048, hidden_size=8, num_layers=4, num_heads=2,
                             attention_types=[[["global", "local"], 2]], vocab_size=8)  # fmt: skip
    with torch.device("meta"):
        Room(50, 1000).expect_size(tf.GPTNeoForCausalLM(config))
