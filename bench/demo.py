"""Quantizes the bundled model with every method at 4, 3 and 2 bits, and with 8-bit inputs and weights, and
prints what came of it.

    make demo                                 the whole table
    python bench/demo.py --bits 3 --methods gptq awq+gptq

Protocol (models/pydoc-llama-7m/README.md): 64 x 512 calibration tokens, perplexity over the first
48 x 512 tokens of a text that the model never saw, KL divergence and agreement against the float model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers.utils import logging

import qcore
from qcore.checkpoints.stores import inspect_checkpoint
from qcore.methods import METHODS, Awq, resolve_method
from qcore.text import token_chunks

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "pydoc-llama-7m"


def tokens_per_second(model: nn.Module, prompt: torch.Tensor, count: int = 48) -> float:
    """Speed of generating one token after another (greedy), the prompt's time included."""
    model.generate(prompt, max_new_tokens=4, do_sample=False)  # type: ignore[operator] - warm up
    start = time.perf_counter()
    made = model.generate(prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False)  # type: ignore[operator]
    return (made.shape[1] - prompt.shape[1]) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--methods", nargs="+", default=["rtn", "awq", "gptq", "awq+gptq"], choices=METHODS)
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[128])
    parser.add_argument("--schemes", nargs="*", default=["W8A8", "FP8"], help="rounded to nearest")
    parser.add_argument("--symmetric", action="store_true", help="no zero points")
    parser.add_argument("--out", type=Path, default=ROOT / "demo-output", help="where the models go")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    logging.disable_progress_bar()

    console = Console(width=None if sys.stdout.isatty() else 120)
    started = time.perf_counter()
    calibration = token_chunks(MODEL, MODEL / "calibration.txt", 512, 64)
    text = token_chunks(MODEL, MODEL / "eval.txt", 512, 48)
    reference = qcore.load(MODEL, dtype=torch.float32)
    prompt = text[:1, :32]

    table = Table("model", "bits/weight", "file", "perplexity", "KL (nats)", "top-1", "tokens/s", "made in")
    for column in table.columns[1:]:
        column.justify = "right"
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
        table.add_row(
            name,
            f"{bits:.2f}",
            f"{size / 1e6:.1f} MB",
            f"{result.perplexity:.3f} ± {result.perplexity_error:.3f}",
            f"{result.kl:.4f} ± {result.kl_error:.4f}",
            f"{result.top1:.1%}",
            f"{speed:.0f}",
            "" if seconds is None else f"{seconds:.0f} s",
        )
        figures.append({"model": name, "bits": bits, "file_bytes": size, "tokens_per_second": speed,
                        "seconds": seconds, **asdict(result)})  # fmt: skip

    add("bfloat16 (original)", MODEL, None)
    for bits in arguments.bits:
        for group_size in arguments.group_sizes:
            table.add_section()
            for method in arguments.methods:
                scheme = f"W{bits}A16" + ("" if arguments.symmetric else "_ASYM")
                folder = arguments.out / f"{scheme}-g{group_size}-{method}"
                shutil.rmtree(folder, ignore_errors=True)
                console.print(f"quantizing: {scheme}, groups of {group_size}, {method}", style="dim")
                start = time.perf_counter()
                chosen = resolve_method(method)
                if isinstance(chosen, Awq):
                    chosen = Awq(inner=chosen.inner, keeps_divisors=False)
                qcore.quantize_folder(MODEL, folder, scheme, chosen, calibration, group_size=group_size)
                add(f"{scheme} g{group_size} {method}", folder, time.perf_counter() - start)
    table.add_section()
    for scheme in arguments.schemes:
        folder = arguments.out / scheme
        shutil.rmtree(folder, ignore_errors=True)
        start = time.perf_counter()
        qcore.quantize_folder(MODEL, folder, scheme, "rtn", calibration)
        add(f"{scheme} rtn", folder, time.perf_counter() - start)
    console.print(table)
    kernel = next(row["name"] for row in qcore.ops.kernels() if row["device"] == "cpu")
    console.print(
        f"{time.perf_counter() - started:.0f} s in all, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, kernels {kernel} first. "
        f"The models are in {arguments.out}; try: qcore inspect {folder}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
