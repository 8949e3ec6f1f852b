"""A short check of the CUDA kernels on small shapes; what compute-sanitizer runs.

    python bench/gpu_smoke.py [--few] [--probe]

Inputs are made and results compared on the CPU, in float64: no kernel runs but qcore's own.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# Relative Frobenius norm. A right result has the rounding of its dtype: 2e-7, 2e-4, 2e-3.
MOST_ERROR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--few", action="store_true", help="a few of the cases: a sanitizer is slow")
    parser.add_argument("--probe", action="store_true", help="only copy to the GPU and back")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench/gpu_smoke.py needs an NVIDIA GPU, and torch sees none", file=sys.stderr)
        return 2
    if arguments.probe:
        return 0 if torch.ones(1000).cuda().cpu().sum() == 1000 else 1

    from cases import WeightCase, make_weight, make_x
    from qcore import ops

    cases: tuple[WeightCase, ...] = (
        WeightCase(256, 512, 128, 4, False, torch.bfloat16),
        WeightCase(136, 400, 64, 4, True, torch.float16),
        WeightCase(33, 200, -1, 8, True, torch.float32),
        WeightCase(64, 256, 32, 4, False, torch.float16),
        WeightCase(1, 1, 1, 4, False, torch.float32),
        WeightCase(40, 1000, 96, 3, True, torch.bfloat16),
        WeightCase(512, 2048, 128, 2, False, torch.bfloat16),
    )
    sizes: tuple[int, ...] = (1, 7, 16, 33, 130)
    if arguments.few:
        cases, sizes = cases[:4], (1, 17, 70)
    worst, failed, count = 0.0, 0, 0
    for case in cases:
        weight = make_weight(case)
        on_gpu = replace(
            weight,
            codes=weight.codes.cuda(),
            scales=weight.scales.cuda(),
            zeros=None if weight.zeros is None else weight.zeros.cuda(),
        )
        packed = on_gpu.pack()
        back = [None if t is None else t.cpu() for t in ops.w4a16_unpack(packed)]
        if not all(map(same, back, (weight.codes, weight.scales, weight.zeros))):
            print(f"FAILED: {case}: what was unpacked is not what was packed")
            failed += 1
        perm = torch.randperm(case.k, generator=torch.Generator().manual_seed(2)).int()
        bias = make_x(case.n, seed=3)
        for m in sizes:
            for dtype in (torch.bfloat16, torch.float16):
                for with_extras in (False, True):
                    x = make_x(m, case.k, dtype=dtype)
                    add = bias.to(dtype)
                    wide = (x[:, perm.long()] if with_extras else x).double()
                    expected = wide @ weight.dense.T + (add.double() if with_extras else 0.0)
                    extras = (perm.cuda(), add.cuda()) if with_extras else (None, None)
                    y = ops.w4a16_gemm(x.cuda(), *packed, *extras).cpu()
                    error = float((y.double() - expected).norm() / expected.norm().clamp_min(1e-30))
                    count += 1
                    if not error <= MOST_ERROR[dtype]:
                        print(f"FAILED: {case}, M {m}, {dtype}, extras {with_extras}: off by {error:.2e}")
                        failed += 1
                    worst = max(worst, error)
    print(f"{count} products on {torch.cuda.get_device_name()}, largest error {worst:.1e}, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
