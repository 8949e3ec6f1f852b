"""Peak memory of `qcore quantize` on a generated Llama of 1.2 billion random parameters.

python bench/memory.py                    round to nearest
python bench/memory.py --method gptq      with calibration (the bundled text), a few blocks are enough:
python bench/memory.py --method gptq --layers 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig

from qcore.checkpoints.companions import companions, copy_companions
from qcore.checkpoints.files import ShardWriter
from qcore.checkpoints.saving import SHARD_BYTES
from qcore.models import empty_model

BUNDLED = Path(__file__).resolve().parents[1] / "models" / "pydoc-llama-7m"


def write_model(folder: Path, layers: int) -> int:
    """Writes a random bfloat16 model tensor by tensor; returns its number of parameters."""
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=65536,
        max_position_embeddings=2048,
        dtype="bfloat16",
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    writer, count = ShardWriter(folder, SHARD_BYTES), 0
    for name, parameter in empty_model(config).named_parameters():
        writer.add(name, (torch.randn(parameter.shape) * 0.02).to(torch.bfloat16))
        count += parameter.numel()
    writer.finish()
    copy_companions(BUNDLED, companions(BUNDLED), folder)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", default="rtn")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        source, out = Path(place) / "model", Path(place) / "out"
        count = write_model(source, arguments.layers)
        print(f"{count:,} parameters", flush=True)
        command = [sys.executable, "-m", "qcore", "quantize", source, out, "--method", arguments.method]
        if arguments.method != "rtn":
            command += ["--calibration", BUNDLED / "calibration.txt", "--samples", str(arguments.samples)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
