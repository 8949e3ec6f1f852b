"""The SASS gate: what the compiler made of the CUDA kernels in the installed extension.

No GPU is needed. The rules below are the plan of each kernel; a kernel that nobody wrote a rule for fails.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from conftest import REPOSITORY
from qcore import _C
from sass.gate import TARGETS, Kernel, Rule, kernels, missing_tools, ptx_targets, violations

needs_tools = pytest.mark.skipif(
    bool(missing_tools()), reason=f"missing: {', '.join(missing_tools())} (pip install 'qcore[test]')"
)
needs_cuda = pytest.mark.skipif(not _C.cuda_built(), reason="this build has no CUDA kernels")

# No byte of local memory in any of them.
NO_SPILLS = ("LDL", "STL")
GEMM = r"w4a16::Gemm<qcore::ptx::\w+, qcore::w4a16::Variant<"
PIPELINE = (
    r"\bHMMA\.16816\.F32",  # the matrix unit, fp32 sums
    r"\bLDGSTS\.E\.BYPASS\.128",  # global to shared memory, 16 bytes a lane
    r"\bLDSM\.16\.M88\.4",  # ldmatrix, four at once
    r"\bSTG\.E\.128",  # the result
)


def gemm(bits: str = r"\d", flush: str = r"\d", tiles: str = r"\d", warps_k: str = r"\d") -> str:
    """Pattern of the kernels' names; the numbers are those of w4a16::Variant."""
    return GEMM + ", ".join((bits, flush, tiles, warps_k)) + ">"


def kquant(family: str = ".*", tiles: str = r"\d", warps_k: str = r"\d") -> str:
    """The same for the block formats: what begins the template arguments of kquant::Family."""
    family_of = r"kquant::Gemm<qcore::ptx::\w+, qcore::kquant::Variant<qcore::kquant::Family<"
    return family_of + family + rf">, {tiles}, {warps_k}>"


def scaled(types: str, tokens: str = r"\d+") -> str:
    """And for 8-bit activations: the formats of x and of the weight, tokens of scaled::Variant."""
    return rf"scaled::Gemm<{types}, qcore::scaled::Variant<{tokens}, "


def scaled_hopper(types: str, tile: str = ".*", block_scales: str = r"\w+") -> str:
    """The kernel of Hopper's own: groups, blocks and columns of scaled::HopperTile."""
    return rf"scaled::HopperGemm<{types}, qcore::scaled::HopperTile<{tile}>, {block_scales}>"


def w4a16_hopper(bits: str = r"\d", floats: str = r"\w+", blocks: str = r"\d", tokens: str = r"\d+") -> str:
    """Hopper's own kernel for packed weights: the numbers of w4a16::HopperVariant."""
    numbers = f"{bits}, {floats}, {blocks}, {tokens}"
    return rf"w4a16::HopperGemm<qcore::ptx::\w+, qcore::w4a16::HopperVariant<{numbers}>"


INT8 = "qcore::ptx::Int8, qcore::ptx::Int8"
FP8 = r"qcore::ptx::E\dm\d, qcore::ptx::E\dm\d"


# Instructions in the loop of a family with at most 8 tokens, for 64 columns times 32 rows: 64 weights a lane.
KQUANT_LOOPS = {
    r"4, 0, 32, .*, false, false, 8": 190,  # Q4_0
    r"4, 0, 32, .*, true, false, 0": 310,  # Q4_1, Q4_K
    r"4, 0, 32, .*, false, true, 0": 400,  # IQ4_NL, IQ4_XS, MXFP4: values from a table
    r"4, 1, 32, .*, 16": 260,  # Q5_0
    r"4, 1, 32, .*, 0": 390,  # Q5_1, Q5_K
    r"8, 0, 32, .*": 310,  # Q8_0
    r"2, 0, 16, .*": 460,  # Q2_K
    r"2, 1, 16, .*": 380,  # Q3_K
    r"4, 2, 16, .*": 460,  # Q6_K
    r"2, 0, 256, .*": 185,  # TQ1_0, TQ2_0
}

RULES = (
    # Two blocks of 256 threads on a multiprocessor leave 128 registers each, one block 255.
    Rule(gemm(tiles="[124]"), registers=128, must=PIPELINE, must_not=NO_SPILLS),
    Rule(gemm(tiles="8"), registers=255, must=PIPELINE, must_not=NO_SPILLS),
    # Weights come out of shared memory 16 bytes a lane; where registers are short, 8.
    Rule(gemm(tiles="[128]"), must=(r"\bLDS\.128",)),
    Rule(gemm(bits="8"), must=(r"\bLDS\.128",)),
    Rule(gemm(bits="4", flush="[12]", tiles="4"), must=(r"\bLDS\.64",)),
    # Weights are never read from global memory a byte or a word at a time.
    Rule(gemm(), must_not=(r"\bLDG\.E\.U8", r"\bLDG\.E (?!.*U16)")),
    # Decoding is bound by issue slots: a loop of 128 columns times 32 rows is 128 weights a lane, at two
    # instructions each, and some for every tile of tokens and every copy of activations.
    *(
        Rule(
            gemm("4", "4", str(tiles), str(warps_k)),
            loop=(r"\bHMMA", 2 * 128 + 72 + 30 * tiles + 10 * max(1, tiles * warps_k // 2)),
        )
        for tiles in (1, 2)
        for warps_k in (1, 2, 4, 8)
    ),
    # Hopper's own: the warpgroup's matrix unit with A from registers, copies by the copy engine alone, one
    # barrier of the whole block in the beginning.
    Rule(
        w4a16_hopper(),
        registers=168,
        must=(
            r"\bHGMMA\.64x\d+x16\.F32(\.BF16)? R\d+, R\d+, gdesc",
            r"\bUTMALDG\.2D",
            r"\bUTMALDG\.3D",
            r"\bLDS\.128",
            r"\bSYNCS\.PHASECHK",
            r"\bUSETMAXREG\.DEALLOC\.CTAPOOL 0x28\b",  # 40 registers for those that copy
            r"\bUSETMAXREG\.TRY_ALLOC\.CTAPOOL \w+, 0xe8\b",  # 232 for those that multiply
            r"\bSTG\.E\.128",
        ),
        must_not=(*NO_SPILLS, r"\bHMMA", r"\bLDGSTS"),
    ),
    # 128 columns: their products, their decoding, and an addition for each sum after every 32 columns, as
    # groups of 32 need; for longer groups most of these are jumped over.
    *(
        Rule(
            w4a16_hopper(bits, blocks=str(blocks), tokens=str(tokens)),
            loop=(r"\bHGMMA", blocks * (4 * (tokens // 2 + 20) + decoding)),
        )
        for bits, decoding in (("4", 250), ("8", 310))
        for blocks in (1, 2)
        for tokens in (64, 128)
    ),
    Rule(r"w4a16::ReduceShared<", must=(r"\bLDG\.E\.128", r"\bSTG\.E\.128"), must_not=NO_SPILLS),
    Rule(r"tile::Gather", must=(r"\bSTG\.E\.128",), must_not=NO_SPILLS),
    Rule(r"tile::Reduce<", must=(r"\bLDG\.E\.128", r"\bSTG\.E\.128"), must_not=NO_SPILLS),
    Rule(r"w4a16::(Reference|(Unp|P)ack(Codes|Parameters<))", must_not=NO_SPILLS),
    # The same for block formats. Q2_K with 32 tokens takes a multiprocessor for itself.
    Rule(kquant(tiles="[12]"), registers=128, must=PIPELINE, must_not=NO_SPILLS),
    Rule(kquant("(?!2, 0, 16).*", tiles="4"), registers=128, must=PIPELINE, must_not=NO_SPILLS),
    Rule(kquant(tiles="[48]"), registers=255, must=PIPELINE, must_not=NO_SPILLS),
    Rule(kquant("[48], .*"), must=(r"\bLDS\.128",)),
    Rule(kquant("2, .*"), must=(r"\bLDS\.64",)),
    Rule(kquant(), must_not=(r"\bLDG\.E\.U8", r"\bLDG\.E (?!.*U16)")),
    *(Rule(kquant(family, "1"), loop=(r"\bHMMA", most)) for family, most in KQUANT_LOOPS.items()),
    Rule(r"kquant::(Reference|(Unp|P)ack<)", must_not=NO_SPILLS),
    # Global memory is touched 16 bytes at a time; six blocks of 256 threads leave 40 registers each.
    Rule(
        r"kquant::Dequantize<",
        registers=40,
        must=(r"\bLDGSTS\.E\.BYPASS\.128", r"\bLDS\.U8", r"\bSTG\.E\.128"),
        must_not=(*NO_SPILLS, r"\bLDG\b", r"\bLD\b", r"\bSTG\.E(?!\.128)"),
    ),
    # Products of 8-bit activations. On sm_90 and sm_100 a warp's FP8 products are made of fp16 ones (wgmma
    # and tcgen05 have the units for more), and on sm_80 the FP8 kernel is never run.
    Rule(scaled(".*"), must=(r"\bLDGSTS\.E\.BYPASS\.128", r"\bSTG\.E\.128"), must_not=NO_SPILLS),
    Rule(scaled(".*", "(8|16|32)"), registers=128),
    Rule(scaled(INT8), must=(r"\bIMMA\.16832\.S8\.S8", r"\bLDSM\.16\.M88\.4")),
    Rule(
        scaled(FP8),
        "sm_(89|120a)",
        must=(r"\bQMMA\.16832\.F32\.E[45]M[23]\.E[45]M[23]", r"\bLDSM\.16\.M88\.4"),
    ),
    Rule(scaled(FP8), "sm_(90a|100a)", must=(r"\bHMMA\.16816\.F32", r"\bLDSM\.16\.M88\.4")),
    # With few tokens the time is the memory's: a loop for 16 KB of weights leaves issue slots idle. With many
    # it is the matrix unit's: 64 of 256 slots. (For newer targets the short loops are laid out otherwise.)
    Rule(scaled(INT8, "(8|16)"), "sm_(80|89|90a)", loop=(r"\bIMMA", 130)),
    Rule(scaled(INT8, "128"), loop=(r"\bIMMA", 256)),
    Rule(scaled(FP8, "(8|16)"), "sm_(89|120a)", loop=(r"\bQMMA", 150)),
    Rule(scaled(FP8, "128"), "sm_(89|120a)", loop=(r"\bQMMA", 420)),
    # Hopper's own: the warpgroup's matrix unit, fed by the copy engine alone. 384 threads start with 168
    # registers each; those that multiply then take 232. Where one warpgroup multiplies, all stay below 128.
    Rule(
        scaled_hopper(".*"),
        registers=168,
        must=(r"\bUTMALDG\.2D", r"\bSYNCS\.PHASECHK", r"\bSYNCS\.ARRIVE", r"\bSTG\.E\.128"),
        must_not=(*NO_SPILLS, r"\b[HIQ]MMA"),
    ),
    Rule(scaled_hopper(".*", "1, .*"), registers=128, must_not=(r"\bUSETMAXREG",)),
    Rule(scaled_hopper(".*", "2, .*"), must=(r"\bUSETMAXREG\.DEALLOC", r"\bUSETMAXREG\.TRY_ALLOC")),
    Rule(scaled_hopper(INT8), must=(r"\bIGMMA\.64x\d+x32\.S8\.S8",), loop=(r"\bIGMMA", 90)),
    Rule(scaled_hopper(FP8), must=(r"\bQGMMA\.64x\d+x32\.F32\.E[45]M[23]\.E[45]M[23]",)),
    # Beside the instructions that start the products: an addition for each sum, and the scales.
    Rule(scaled_hopper(FP8, "2, 2, 128"), loop=(r"\bQGMMA", 128 + 200)),
    Rule(scaled_hopper(FP8, "2, 1, 128"), loop=(r"\bQGMMA", 64 + 120)),
    Rule(r"scaled::Reduce<", must=(r"\bLDG\.E\.128", r"\bSTG\.E\.128"), must_not=NO_SPILLS),
    Rule(r"scaled::(Reference<|SumRows)", must_not=NO_SPILLS),
    # Rows come to shared memory 16 bytes a lane and leave 8 codes a lane; five blocks of 256 threads leave 48
    # registers each.
    Rule(
        r"quantize::(Quantize<|FindExtremes)",
        registers=48,
        must=(r"\bLDGSTS\.E\.BYPASS\.128", r"\bLDS\.128", r"\bSTG\.E\.64"),
        must_not=NO_SPILLS,
    ),
    # FP8 is converted by an instruction where there is one.
    Rule(
        r"quantize::Quantize<qcore::ptx::E", "sm_(89|90a|100a|120a)", must=(r"\bF2FP\.SATFINITE\.E[45]M[23]",)
    ),
)


OPS = Path(_C.__file__).with_name("libqcore_ops.so")


@pytest.fixture(scope="module")
def compiled() -> list[Kernel]:
    return kernels(OPS)


@needs_cuda
@needs_tools
def test_kernels_are_what_was_planned(compiled: list[Kernel]) -> None:
    assert violations(compiled, RULES) == []


@needs_cuda
@needs_tools
def test_every_kernel_is_there_for_every_target_and_has_a_rule(compiled: list[Kernel]) -> None:
    assert {kernel.target for kernel in compiled} == set(TARGETS)
    for name, count in Counter(kernel.name for kernel in compiled).items():
        targets = 1 if re.search("::HopperGemm<|w4a16::ReduceShared<", name) else len(TARGETS)
        assert count == targets, f"{name} is there for {count} targets"
        assert any(re.search(rule.name, name) for rule in RULES), f"no rule for {name}"
    # For cards that have no code of their own here: 10.3, 11.0, 12.1 and newer ones.
    assert ptx_targets(OPS) == {"sm_90"}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not on PATH")
    compiled = tmp_path_factory.mktemp("sass") / "known_bad.o"
    source = REPOSITORY / "tests" / "sass" / "known_bad.cu"
    command = [nvcc, "-c", "-gencode=arch=compute_90a,code=sm_90a", "-o", str(compiled), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return compiled


@needs_tools
def test_the_gate_can_fail(bad: Path) -> None:
    rule = Rule("known_bad", registers=24, must=PIPELINE, must_not=NO_SPILLS, loop=("FFMA", 20))
    found = "\n".join(violations(kernels(bad), [rule, Rule("a kernel that is not there")]))
    for complaint in (
        "registers: ",
        "stack: ",
        "no instruction \\bHMMA",
        "no instruction \\bLDGSTS",
        "no instruction \\bLDSM",
        "instructions LDL",
        "instructions STL",
        "loop around FFMA: ",
        "no kernel matches a kernel that is not there",
    ):
        assert complaint in found, f"{complaint!r} is not among\n{found}"


@needs_tools
def test_what_is_read_from_a_binary(bad: Path) -> None:
    (kernel,) = kernels(bad)
    assert kernel.name.startswith("void qcore::known_bad<float>(")
    assert (kernel.target, kernel.registers) == ("sm_90a", 32)
    assert kernel.stack > 64 * 4 - 1
    assert kernel.count(r"\bEXIT\b") >= 1
    assert ptx_targets(bad) == set()


def test_the_loop_around_an_instruction() -> None:
    code = [
        (0, "MOV R1, R2"),
        (16, "FFMA R1"),
        (32, "HMMA R1"),
        (48, "@P0 BRA 0x10"),
        (64, "BRA 0x0"),
        (80, "X"),
    ]
    kernel = Kernel("k", "sm_90a", 1, 0, 0, code)
    assert kernel.loop_around("HMMA") == 3
    assert kernel.loop_around("MOV") == 5
    assert kernel.loop_around("X$") == 0
    assert kernel.loop_around("no such") == 0
