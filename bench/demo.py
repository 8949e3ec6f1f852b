"""Quantizes the bundled model with each method to 3 bits, where they differ most, and to 8 bits with 8-bit
inputs, and prints what came of it, a line at a time.

    make demo                                 two or three minutes
    make demo DEMO_ARGS=--all                 4, 3 and 2 bits, and awq in front of gptq
    python bench/demo.py --bits 4 --methods gptq awq+gptq

Protocol (models/pydoc-llama-7m/README.md): 64 x 512 calibration tokens, perplexity over the first
48 x 512 tokens of a text that the model never saw, KL divergence and agreement against the float model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from transformers.utils import logging

import qcore
from qcore.checkpoints.stores import inspect_checkpoint
from qcore.methods import METHODS, Method, resolve_method
from qcore.text import token_chunks

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "pydoc-llama-7m"


def tokens_per_second(model: nn.Module, prompt: torch.Tensor, count: int = 48) -> float:
    """Speed of generating one token after another (greedy), the prompt's time included."""
    model.generate(prompt, max_new_tokens=4, do_sample=False)  # type: ignore[operator] - warm up
    start = time.perf_counter()
    made = model.generate(prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False)  # type: ignore[operator]
    return (made.shape[1] - prompt.shape[1]) / (time.perf_counter() - start)


COLUMNS = (("model", 24), ("bits/weight", 11), ("file", 9), ("perplexity", 15), ("KL (nats)", 17),
           ("top-1", 6), ("tokens/s", 8), ("made in", 7))  # fmt: skip


def print_row(cells: Sequence[str]) -> None:
    padded = [f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True)]
    padded[0] = f"{cells[0]:{COLUMNS[0][1]}}"
    print("  ".join(padded), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--all", action="store_true", help="4, 3 and 2 bits, and awq+gptq too")
    parser.add_argument("--bits", type=int, nargs="+", help="3 if not given")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="rtn, awq and gptq if not given")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[128])
    parser.add_argument("--schemes", nargs="*", default=["W8A8", "FP8"], help="rounded to nearest")
    parser.add_argument("--symmetric", action="store_true", help="no zero points")
    parser.add_argument("--out", type=Path, default=ROOT / "demo-output", help="where the models go")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    arguments.bits = arguments.bits or ([4, 3, 2] if arguments.all else [3])
    arguments.methods = arguments.methods or ["rtn", "awq", "gptq", *(["awq+gptq"] if arguments.all else [])]
    logging.disable_progress_bar()

    started = time.perf_counter()
    calibration = token_chunks(MODEL, MODEL / "calibration.txt", 512, 64)
    text = token_chunks(MODEL, MODEL / "eval.txt", 512, 48)
    reference = qcore.load(MODEL, dtype=torch.float32)
    prompt = text[:1, :32]
    figures = []

    def add(name: str, folder: Path, seconds: float | None) -> None:
        model = reference if folder == MODEL else qcore.load(folder, dtype=torch.float32)
        result = qcore.evaluate(model, text, reference)
        rows = [r for r in inspect_checkpoint(folder) if "_proj" in r.tensor]
        bits = sum(r.bytes for r in rows) * 8 / sum(r.weights for r in rows)
        size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        speed = tokens_per_second(model, prompt)
        assert result.kl is not None
        assert result.top1 is not None
        print_row((
            name,
            f"{bits:.2f}",
            f"{size / 1e6:.1f} MB",
            f"{result.perplexity:.3f} ± {result.perplexity_error:.3f}",
            f"{result.kl:.4f} ± {result.kl_error:.4f}",
            f"{result.top1:.1%}",
            f"{speed:.0f}",
            "" if seconds is None else f"{seconds:.0f} s",
        ))  # fmt: skip
        figures.append({"model": name, "bits": bits, "file_bytes": size, "tokens_per_second": speed,
                        "seconds": seconds, **asdict(result)})  # fmt: skip

    def make(name: str, folder: Path, scheme: str, method: str | Method, **options: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        start = time.perf_counter()
        qcore.quantize_folder(MODEL, folder, scheme, method, calibration, **options)
        add(name, folder, time.perf_counter() - start)

    print_row([name for name, _ in COLUMNS])
    add("bfloat16 (original)", MODEL, None)
    for bits in arguments.bits:
        for group_size in arguments.group_sizes:
            print()
            for method in arguments.methods:
                scheme = f"W{bits}A16" + ("" if arguments.symmetric else "_ASYM")
                folder = arguments.out / f"{scheme}-g{group_size}-{method}"
                chosen = resolve_method(method).without_divisors()
                make(f"{scheme} g{group_size} {method}", folder, scheme, chosen, group_size=group_size)
    print()
    for scheme in arguments.schemes:
        folder = arguments.out / scheme
        make(f"{scheme} rtn", folder, scheme, "rtn")
    kernel = next(row["name"] for row in qcore.ops.kernels() if row["device"] == "cpu")
    print(
        f"\n{time.perf_counter() - started:.0f} s in all, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, kernels {kernel} first. "
        f"The models are in {arguments.out}; try: qcore inspect {folder}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
