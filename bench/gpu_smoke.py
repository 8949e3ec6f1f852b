"""A short check of the CUDA kernels on small shapes; what compute-sanitizer runs.

    python bench/gpu_smoke.py [--few] [--probe]

Inputs are made and results compared on the CPU, in float64: no kernel runs but qcore's own.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

if TYPE_CHECKING:
    from cases import Weight, WeightCase
    from qcore.ops import PackedW4A16

# Relative Frobenius norm. A right result has the rounding of its dtype: 2e-7, 2e-4, 2e-3.
MOST_ERROR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
# The dtype of x, whether there are a perm and a bias, batch_invariant. float32 runs the reference row.
FEW_CALLS = (
    (torch.bfloat16, False, False),
    (torch.float16, True, False),
    (torch.bfloat16, True, True),
    (torch.float32, True, False),
)
ALL_CALLS = tuple(itertools.product(MOST_ERROR, (False, True), (False, True)))


def few_cases() -> tuple[WeightCase, ...]:
    """Nothing large, because racecheck is slow. The second has so few rows and so much K that K is cut and
    the parts are added up by another kernel."""
    from cases import WeightCase

    return (
        WeightCase(136, 400, 64, 4, True, torch.float16),
        WeightCase(64, 4096, 128, 4, False, torch.bfloat16),
        WeightCase(33, 200, -1, 8, True, torch.float32),
        WeightCase(40, 200, 96, 3, True, torch.bfloat16),
    )


def all_cases() -> tuple[WeightCase, ...]:
    from cases import WeightCase

    return (
        *few_cases(),
        WeightCase(256, 512, 128, 4, False, torch.bfloat16),
        WeightCase(64, 256, 32, 4, False, torch.float16),
        WeightCase(1, 1, 1, 4, False, torch.float32),
        WeightCase(40, 1000, 96, 3, True, torch.bfloat16),
        WeightCase(512, 2048, 128, 2, False, torch.bfloat16),
    )


def all_types() -> tuple[str, ...]:
    from qcore import ops

    return tuple(block["name"] for block in ops.block_formats())


@dataclass
class Check:
    """Counts what was compared."""

    device: str = "cuda"
    few: bool = False
    compared: int = 0
    failed: int = 0
    worst: float = 0.0

    def expect(self, right: bool, what: str) -> None:
        self.compared += 1
        if not right:
            self.failed += 1
            print(f"FAILED: {what}")

    def packing(self, weight: Weight) -> PackedW4A16:
        """Packs on the device; what is unpacked there is what was packed."""
        from qcore import ops

        zeros = weight.zeros
        there = replace(
            weight,
            codes=weight.codes.to(self.device),
            scales=weight.scales.to(self.device),
            zeros=None if zeros is None else zeros.to(self.device),
        )
        packed = there.pack()
        for name, got, expected in zip(
            ("codes", "scales", "zeros"),
            ops.w4a16_unpack(packed),
            (weight.codes, weight.scales, zeros),
            strict=True,
        ):
            right = got is expected if got is None or expected is None else torch.equal(got.cpu(), expected)
            self.expect(right, f"{weight.case}: {name} that were unpacked are not what was packed")
        return packed

    def products(self, weight: Weight, packed: PackedW4A16, sizes: tuple[int, ...]) -> None:
        from cases import make_x
        from qcore import ops

        case = weight.case
        perm = torch.randperm(case.k, generator=torch.Generator().manual_seed(2)).int()
        bias = make_x(case.n, seed=3)
        for m, (dtype, extras, invariant) in itertools.product(sizes, FEW_CALLS if self.few else ALL_CALLS):
            if self.few and dtype == torch.float32 and m > 1:
                continue
            x, add = make_x(m, case.k, dtype=dtype), bias.to(dtype)
            wide = (x[:, perm.long()] if extras else x).double()
            expected = wide @ weight.dense.T + (add.double() if extras else 0.0)
            options = {"perm": perm.to(self.device), "bias": add.to(self.device)} if extras else {}
            y = ops.w4a16_gemm(x.to(self.device), *packed, **options, batch_invariant=invariant).cpu()
            error = float((y.double() - expected).norm() / expected.norm().clamp_min(1e-30))
            what = f"{case}, M {m}, {dtype}, perm and bias {extras}, batch_invariant {invariant}"
            self.expect(error <= MOST_ERROR[dtype], f"{what}: off by {error:.2e}")
            self.worst = max(self.worst, error)

    def repacking(self) -> None:
        """The three orders of foreign checkpoints give the same bytes on the device as on the CPU."""
        from qcore import ops

        n, k, group_size = 72, 200, 64
        random = torch.Generator().manual_seed(4)
        scales = torch.rand(4, n, generator=random).t()  # not contiguous, as they come
        perm = torch.randperm(k, generator=random).int()
        sizes = {"gptq": (k // 8, n), "awq": (k, n // 8), "compressed_tensors": (n, k // 8)}
        for (order, words), index in itertools.product(sizes.items(), (None, perm)):
            qweight = torch.randint(-(2**31), 2**31, words, generator=random, dtype=torch.int32)
            zeros = torch.randint(0, 16, (n, 4), generator=random, dtype=torch.uint8)
            tensors = [t.to(self.device) for t in (qweight, scales, zeros)]
            there = None if index is None else index.to(self.device)
            got = ops.w4a16_repack(*tensors, order, n, k, group_size, 4, there)
            layout = got.shape.shape[1]
            expected = ops.w4a16_repack(qweight, scales, zeros, order, n, k, group_size, 4, index, layout)
            right = all(torch.equal(a.cpu(), b) for a, b in zip(got, expected, strict=True))
            self.expect(right, f"repacked in the order of {order}, perm {index is not None}")

    def blocks(self, type: str, sizes: tuple[int, ...]) -> None:
        """A block format: decoding, packing and products. The second weight's K is cut, as above."""
        from cases import make_x
        from qcore import ops

        for n, k in ((70, 512), (33, 4096)):
            blocks = ops.kquant_quantize(make_x(n, k) * 0.05 + 0.01, type)
            there = blocks.to(self.device)
            dense = ops.kquant_dequantize(blocks, type, k)
            same = torch.equal(ops.kquant_dequantize(there, type, k).cpu(), dense)
            self.expect(same, f"{type}: elements that were decoded differ from those of the CPU")
            packed = ops.kquant_pack(there, type, k)
            same = torch.equal(ops.kquant_unpack(packed, type, n, k).cpu(), blocks)
            self.expect(same, f"{type}: blocks that were unpacked are not what was packed")
            for m, dtype in itertools.product(sizes, MOST_ERROR):
                x = make_x(m, k, dtype=dtype)
                expected = x.double() @ dense.double().T
                y = ops.kquant_gemm(x.to(self.device), packed, type, n, k, float_activations=True).cpu()
                error = float((y.double() - expected).norm() / expected.norm())
                self.expect(error <= MOST_ERROR[dtype], f"{type}, M {m}, {dtype}: off by {error:.2e}")
                self.worst = max(self.worst, error)

    def activations_of_8_bits(self, sizes: tuple[int, ...]) -> None:
        """Quantizers and int8 give the bits of the CPU, in one launch and in two; FP8 is close to them. The
        second weight's K is cut, as above, and the last one is left to the reference."""
        from cases import make_x
        from qcore import ops

        def there(*tensors: torch.Tensor) -> list[torch.Tensor]:
            return [t.to(self.device) for t in tensors]

        for (n, k), m in itertools.product(((136, 512), (40, 4096), (33, 100)), sizes):
            x, w, norm = make_x(m, k, dtype=torch.bfloat16), make_x(n, k, seed=2), make_x(k, seed=3)
            int8, int8_scale, _ = ops.quantize_int8(w)
            fp8, fp8_scale = ops.quantize_fp8(w)
            for symmetric, per_token in itertools.product((True, False), (True, False)):
                got = ops.quantize_int8(*there(x), symmetric, per_token)
                q, scale, zero = ops.quantize_int8(x, symmetric, per_token)
                same = all(torch.equal(a.cpu(), b) for a, b in zip(got, (q, scale, zero), strict=True))
                what = f"int8, M {m}, {n} x {k}, symmetric {symmetric}, per token {per_token}"
                self.expect(same, f"{what}: codes or scales differ from those of the CPU")
                zeros = None if symmetric else zero.to(self.device)
                y = ops.int8_gemm(*there(q, int8, scale, int8_scale), zeros).cpu()
                expected = ops.int8_gemm(q, int8, scale, int8_scale, None if symmetric else zero)
                self.expect(torch.equal(y, expected), f"{what}: the product differs from the CPU's")
                if per_token:
                    fused = ops.int8_linear(*there(x, int8, int8_scale), symmetric=symmetric).cpu()
                    same = torch.equal(fused, expected.to(x.dtype))
                    self.expect(same, f"{what}: one launch differs from two")
            ops.int8_linear(*there(x, int8, int8_scale), norm_weight=norm.to(self.device))
            for granularity in ("token", "tensor", "block"):
                q, scale = ops.quantize_fp8(x, None, granularity)
                got = ops.quantize_fp8(*there(x), None, granularity)
                same = torch.equal(got[0].cpu().float(), q.float()) and torch.equal(got[1].cpu(), scale)
                what = f"fp8, M {m}, {n} x {k}, {granularity}"
                self.expect(same, f"{what}: codes or scales differ from those of the CPU")
            self.fp8_product(x, fp8, fp8_scale, f"fp8, M {m}, {n} x {k}")

    def fp8_product(self, x: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, what: str) -> None:
        from qcore import ops

        y = ops.fp8_linear(x.to(self.device), w.to(self.device), w_scale.to(self.device)).cpu()
        q, scale = ops.quantize_fp8(x)
        expected = (q.double() * scale) @ (w.double() * w_scale).T
        error = float((y.double() - expected).norm() / expected.norm())
        self.expect(error <= MOST_ERROR[x.dtype], f"{what}: off by {error:.2e}")
        self.worst = max(self.worst, error)

    def run(self) -> None:
        from cases import make_weight

        for case in few_cases() if self.few else all_cases():
            weight = make_weight(case)
            self.products(weight, self.packing(weight), (1, 17, 70) if self.few else (1, 7, 16, 33, 130))
        self.repacking()
        self.activations_of_8_bits((1, 20) if self.few else (1, 16, 40, 130))
        types = ("Q4_K", "Q6_K", "IQ4_XS", "Q8_0") if self.few else all_types()
        for type in types:
            self.blocks(type, (1, 17) if self.few else (1, 16, 33, 130))


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
    check = Check(few=arguments.few)
    check.run()
    where = torch.cuda.get_device_name()
    print(f"{check.compared} results on {where}, largest error {check.worst:.1e}, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
