"""Products with every GGUF block format on the CPU: qcore beside llama.cpp, onnxruntime and torch.

    python bench/kquant.py                 all types, M = 1 to 512, 1 and 2 threads
    python bench/kquant.py --quick         fewer types and rounds, N = 4096
    python bench/kquant.py --types Q4_K --m 1 16 --threads 1 --n 4096

Prints the time of each contender, then the table of targets: what qcore reaches, as a fraction of what the
memory and the integer multiply units give in the same rounds, beside the best other contender. Contenders
take turns; medians. Up to 32 rows of x, the weights rotate over 256 MB. llama.cpp runs plain and repacked;
the results of all are compared with float32 products before they are timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cpu_peers
import timing
import torch
from cpu_peers import Contender, Weight
from cpu_timing import CpuClock, Probes
from ggml import Ggml, Missing
from kquant_quality import TYPES, measure_speeds, of_llama, of_qcore
from kquant_targets import MEMORY, OURS, VNNI, Figure, figure_table, target_table
from rich.console import Console

from qcore import _C

ROTATED_ROWS = 32  # of x: beyond them a product is bound by arithmetic
WRONG = 0.02  # relative error; 8-bit activations cost 0.007
QUICK_TYPES = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q2_K", "Q3_K")

Maker = Callable[[Weight, int], Contender]


def makers_for(type: str, ggml: Ggml | None) -> dict[str, Maker]:
    """Those that know no block formats run beside Q4_K alone."""
    made: dict[str, Maker] = {OURS: cpu_peers.qcore}
    if ggml is not None:
        lib = ggml
        made["llama.cpp"] = lambda w, c: cpu_peers.OfLlama(lib, w, "plain", c)
        made["llama.cpp repacked"] = lambda w, c: cpu_peers.OfLlama(lib, w, "repacked", c)
    if type == "Q4_K":
        made["onnxruntime b32, int8"] = lambda w, c: cpu_peers.OfOnnx(w, c, 32, 4)
        made["onnxruntime b128, int8"] = lambda w, c: cpu_peers.OfOnnx(w, c, 128, 4)
        made["torch int4pack g32"] = cpu_peers.torch_int4
        made["torch bfloat16"] = cpu_peers.torch_bf16
    return made


class Run:
    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        self.arguments, self.console = arguments, console
        self.clock, self.probes = CpuClock(), Probes()
        self.figures: list[Figure] = []
        self.told: set[str] = set()
        try:
            self.ggml: Ggml | None = Ggml.load()
        except Missing as reason:
            self.ggml = None
            self.tell(f"without llama.cpp: {reason}")

    def tell(self, text: str) -> None:
        if text not in self.told:
            self.console.print(text, style="dim")
        self.told.add(text)

    def weight(self, weight: Weight) -> None:
        """All sizes of x and threads for one weight."""
        wanted = self.arguments.m
        for rows in (
            [m for m in wanted if m <= ROTATED_ROWS],
            [m for m in wanted if m > ROTATED_ROWS],
        ):
            if not rows:
                continue
            contenders: dict[str, Contender] = {}
            for name, make in makers_for(weight.type, self.ggml).items():
                size = weight.n * weight.k * 2 if name == "torch bfloat16" else weight.blocks.numel()
                copies = 1 if rows[0] > ROTATED_ROWS else timing.copies_wanted(size, 1 << 40)
                try:
                    contenders[name] = make(weight, copies)
                except Missing as reason:
                    self.tell(f"without {name}: {reason}")
            for threads in self.arguments.threads:
                for m in rows:
                    self.size(weight, contenders, m, threads)
            for contender in contenders.values():
                contender.close()

    def size(self, weight: Weight, contenders: dict[str, Contender], m: int, threads: int) -> None:
        x = torch.randn(m, weight.k, generator=torch.Generator().manual_seed(m))
        entries, amounts = [], {}
        for name, contender in contenders.items():
            calls = contender.calls(x, threads)
            y = contender.result(calls[0]())[:, : cpu_peers.ROWS]
            reference = x @ contender.dense.T
            error = float((y - reference).norm() / reference.norm())
            if not error < WRONG:
                self.tell(f"{name} {weight.type} M={m}: wrong by {error:.1e}, not timed")
                if name == OURS:
                    raise SystemExit(1)
                continue
            flop = 2.0 * m * weight.n * weight.k
            entries.append(timing.Entry(name, list(calls)))
            amounts[name] = (contender.products, contender.nbytes, flop, error)
        for name, (call, amount) in {
            MEMORY: self.probes.memory(threads),
            VNNI: self.probes.vnni(threads),
        }.items():
            entries.append(timing.Entry(name, [call]))  # type: ignore[list-item]
            amounts[name] = (1, amount if name == MEMORY else 0, amount if name == VNNI else 0.0, 0.0)
        for entry in entries:
            timing.prepare(entry, self.clock)  # type: ignore[arg-type]
        times = timing.take_turns(entries, self.clock, self.arguments.rounds)  # type: ignore[arg-type]
        for name, seconds in times.items():
            products, nbytes, flop, error = amounts[name]
            t, least, largest = (s / products for s in timing.summary(seconds))
            self.figures.append(
                Figure(
                    name, weight.type, m, weight.n, weight.k, threads, t * 1e6, least * 1e6, largest * 1e6,
                    nbytes / t / 1e9, flop / t / 1e9, error,
                )
            )  # fmt: skip
        self.console.print(figure_table(self.figures, weight.type, m, weight.n, threads))


def machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--types", nargs="+", choices=TYPES, metavar="TYPE")
    parser.add_argument("--m", type=int, nargs="+", default=[1, 4, 16, 128, 512])
    parser.add_argument("--n", type=int, nargs="+", help=f"multiples of {cpu_peers.ROWS}")
    parser.add_argument("--k", type=int, default=4096)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="fewer types and rounds, one N")
    parser.add_argument("--no-quantizers", action="store_true", help="products alone")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.types = arguments.types or (QUICK_TYPES if quick else TYPES)
    arguments.n = arguments.n or ([4096] if quick else [4096, 14336])
    arguments.rounds = arguments.rounds or (3 if quick else 9)
    console = Console(width=None if sys.stdout.isatty() else 150)

    run = Run(arguments, console)
    for type in arguments.types:
        for n in arguments.n:
            run.weight(Weight(type, n, arguments.k))
    speeds = []
    if not arguments.no_quantizers:
        quantizers = [of_qcore()] + ([of_llama(run.ggml)] if run.ggml else [])
        speeds = measure_speeds(
            quantizers, [t for t in arguments.types if t in ("Q4_K", "Q6_K")], arguments.rounds
        )
    console.print(target_table(run.figures, speeds))
    llama = f"llama-cpp-python {run.ggml.version}, " if run.ggml else ""
    about = (
        f"{machine()}, {_C.cpu_isa()}, {llama}torch {torch.__version__}, K = {arguments.k}, "
        f"medians of {arguments.rounds} rounds"
    )
    console.print(about)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {
            "about": about,
            "products": [asdict(f) for f in run.figures],
            "quantizers": [asdict(f) for f in speeds],
        }
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
