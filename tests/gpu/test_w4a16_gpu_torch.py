"""torch.ops.qcore.w4a16_* on a GPU: streams, graphs, devices, compilation, gradients, whole models."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cases import DTYPES, WeightCase, assert_gemm, by_name, make_weight, make_x
from conftest import REPOSITORY
from gpu_cases import KERNELS, MARKS, cuda_weight
from qcore import Float8, Format, IntGroup, QLinear, Rtn, ops

pytestmark = MARKS

MODEL = REPOSITORY / "models" / "pydoc-llama-7m"
HALVES = (torch.float16, torch.bfloat16)
CASE = WeightCase(48, 300, 64, asymmetric=True)
# Much K and few rows: the workspace is used.
DEEP = WeightCase(64, 8192, 128, asymmetric=True)


@pytest.fixture(scope="module")
def packed() -> ops.PackedW4A16:
    return cuda_weight(CASE).pack()


# -- streams and graphs ----------------------------------------------------------------------------


def test_runs_on_the_current_stream() -> None:
    """Work that is queued on another stream is seen, and only there."""
    packed = cuda_weight(DEEP).pack()
    first, second = (make_x(3, DEEP.k, dtype=torch.float16, seed=seed).cuda() for seed in (1, 2))
    expected = ops.w4a16_gemm(second, *packed)
    assert not torch.equal(ops.w4a16_gemm(first, *packed), expected)
    torch.cuda.synchronize()
    stream, x = torch.cuda.Stream(), first.clone()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.copy_(second)
        y = ops.w4a16_gemm(x, *packed)
    stream.synchronize()
    assert torch.equal(y, expected)


def test_packs_on_the_current_stream() -> None:
    weight = cuda_weight(CASE)
    codes, stream = torch.zeros_like(weight.codes), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        codes.copy_(weight.codes)
        packed = ops.w4a16_pack(codes, weight.scales, weight.zeros, 64)
        unpacked = ops.w4a16_unpack(packed)[0]
    stream.synchronize()
    assert torch.equal(unpacked, weight.codes)


@pytest.mark.parametrize("dtype", HALVES, ids=by_name)
def test_two_streams_share_a_weight(dtype: torch.dtype) -> None:
    packed = cuda_weight(DEEP).pack()
    inputs = [[make_x(m, DEEP.k, dtype=dtype, seed=m).cuda() for m in ms] for ms in ((1, 5, 17), (3, 8, 33))]
    expected = [[ops.w4a16_gemm(x, *packed) for x in xs] for xs in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    wrong = [torch.zeros((), dtype=torch.int64, device="cuda") for _ in streams]
    torch.cuda.synchronize()
    for _ in range(100):
        for stream, xs, ys, count in zip(streams, inputs, expected, wrong, strict=True):
            with torch.cuda.stream(stream):
                for x, y in zip(xs, ys, strict=True):
                    count += (ops.w4a16_gemm(x, *packed) != y).sum()
    torch.cuda.synchronize()
    assert [int(count) for count in wrong] == [0, 0]


def capture(function: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = function()
    return graph, y


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("m", [1, 7, 64])
def test_graph_replays_with_other_inputs(m: int, dtype: torch.dtype, batch_invariant: bool) -> None:
    packed = cuda_weight(DEEP).pack()
    perm = torch.randperm(DEEP.k, generator=torch.Generator().manual_seed(3)).cuda()
    bias = make_x(DEEP.n, seed=2).cuda()
    x = make_x(m, DEEP.k, dtype=dtype).cuda()

    def function() -> Tensor:
        y = ops.w4a16_gemm(x, *packed, perm=perm, bias=bias, batch_invariant=batch_invariant)
        return y + ops.w4a16_gemm(x, *packed, batch_invariant=batch_invariant)

    graph, y = capture(function)
    for seed in (4, 5, 6):
        x.copy_(make_x(m, DEEP.k, dtype=dtype, seed=seed))
        y.fill_(torch.nan)
        graph.replay()
        assert torch.equal(y, function())


# Kernels are loaded and their attributes set at the first call, which a capture must allow. The weight is
# packed on the CPU, so that no kernel of ours has run before.
FIRST_CALL = """
import sys
import torch
from cases import WeightCase, assert_gemm, make_weight, make_x
from qcore import ops

dtype, m, batch_invariant = getattr(torch, sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
weight = make_weight(WeightCase(64, 8192, 128, asymmetric=True))
packed = [t.cuda() for t in ops.w4a16_pack(weight.codes, weight.scales, weight.zeros, 128, layout=2)]
x = make_x(m, 8192, dtype=dtype).cuda()
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    y = ops.w4a16_gemm(x, *packed, batch_invariant=batch_invariant)
for seed in (4, 5):
    x.copy_(make_x(m, 8192, dtype=dtype, seed=seed))
    y.fill_(torch.nan)
    graph.replay()
    assert_gemm(y.cpu(), x.cpu(), weight.dense)
print("replayed")
"""


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize(("dtype", "m"), [("float16", 1), ("bfloat16", 64), ("float32", 3)])
def test_the_first_call_of_a_process_may_be_captured(dtype: str, m: int, batch_invariant: bool) -> None:
    command = [sys.executable, "-c", FIRST_CALL, dtype, str(m), str(batch_invariant)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "replayed\n"


# -- devices and dtypes ----------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_a_gpu_that_is_not_the_current_one() -> None:
    weight = cuda_weight(DEEP, device="cuda:1")
    assert torch.cuda.current_device() == 0
    packed = weight.pack()
    assert torch.equal(ops.w4a16_unpack(packed)[0], weight.codes)
    x = make_x(5, DEEP.k, dtype=torch.float16).to("cuda:1")
    y = ops.w4a16_gemm(x, *packed)
    assert y.device == torch.device("cuda:1")
    assert_gemm(y, x, weight.dense)
    assert torch.cuda.current_device() == 0
    with pytest.raises(RuntimeError, match=r"qweight must be on cuda:0 like x, got uint8 .* on cuda:1"):
        ops.w4a16_gemm(x.to("cuda:0"), *packed)


def test_mixed_devices_are_named(packed: ops.PackedW4A16) -> None:
    weight, x = make_weight(CASE), make_x(3, 300)
    assert weight.zeros is not None
    here = weight.pack()
    bad = [
        ((x.cuda(), *here), r"the weight is packed for cpu \(layout panel16\), x is on cuda:0: move it with"),
        ((x, *packed), r"the weight is packed for cuda \(layout fragment16\), x is on cpu: move it with"),
        (
            (x.cuda(), *(t.cpu() for t in packed)),
            r"qweight must be on cuda:0 like x, got uint8 \[\d+\] on cpu",
        ),
        ((x.cuda(), *packed._replace(scales=packed.scales.cpu())), r"scales must be on cuda:0 like qweight"),
        ((x.cuda(), *packed._replace(zeros=packed.zeros.cpu())), r"zeros must be on cuda:0 like qweight"),
        ((x.cuda(), *packed, torch.arange(300)), r"perm must be on cuda:0 like x, got int64 \[300\] on cpu"),
        (
            (x.cuda(), *packed, None, torch.ones(48)),
            r"bias must be on cuda:0 like x, got float32 \[48\] on cpu",
        ),
        ((x.cuda().double(), *packed), r"x must be float32, .* got float64 \[3, 300\] on cuda:0"),
        ((x.cuda()[:, 1:], *packed), r"x must have the sizes \[\.\.\., 300\], got float32 \[3, 299\]"),
        ((x.cuda(), *packed, torch.ones(300).cuda()), r"perm must be int32 or int64, got float32"),
    ]
    for arguments, message in bad:
        with pytest.raises(RuntimeError, match="qcore.w4a16_gemm: " + message):
            ops.w4a16_gemm(*arguments)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"w4a16_unpack: the weight is packed for cpu \(layout panel16\)"):
        ops.w4a16_unpack(ops.PackedW4A16(*(t.cuda() for t in here)))
    with pytest.raises(RuntimeError, match=r"w4a16_pack: scales must be on cuda:0 like codes, got float32"):
        ops.w4a16_pack(weight.codes.cuda(), weight.scales, None, 64)
    with pytest.raises(RuntimeError, match=r"w4a16_pack: layout 1 \(panel16\) is for cpu"):
        ops.w4a16_pack(weight.codes.cuda(), weight.scales.cuda(), None, 64, layout=1)
    y = ops.w4a16_gemm(x.cuda(), *packed)  # all is well afterwards
    assert_gemm(y, x.cuda(), weight.dense.cuda())


def test_a_kernel_of_another_device_is_refused(
    packed: ops.PackedW4A16, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCORE_FORCE_KERNEL", "w4a16_reference")
    with pytest.raises(RuntimeError, match=r"w4a16_reference: the kernel runs on cpu"):
        ops.w4a16_gemm(make_x(3, 300).cuda(), *packed)
    monkeypatch.setenv("QCORE_FORCE_KERNEL", KERNELS[0])
    with pytest.raises(RuntimeError, match=rf"{KERNELS[0]}: the kernel runs on cuda"):
        make_weight(CASE).pack()


def test_a_weight_prepared_on_the_cpu() -> None:
    weight = make_weight(CASE)
    packed = ops.w4a16_pack(weight.codes, weight.scales, weight.zeros, 64, layout=2)
    x = make_x(5, 300, dtype=torch.bfloat16).cuda()
    assert_gemm(ops.w4a16_gemm(x, *(t.cuda() for t in packed)), x, weight.dense.cuda())


# -- opcheck, compilation, gradients ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (0,)], ids=str)
def test_opcheck_gemm(leading: tuple[int, ...], dtype: torch.dtype, packed: ops.PackedW4A16) -> None:
    x, op = make_x(*leading, 300, dtype=dtype).cuda(), torch.ops.qcore.w4a16_gemm.default
    torch.library.opcheck(op, (x, *packed))
    perm = torch.randperm(300, generator=torch.Generator().manual_seed(3)).cuda()
    torch.library.opcheck(op, (x.requires_grad_(), *packed, perm, make_x(48).cuda(), True))


def test_opcheck_packing() -> None:
    weight = cuda_weight(CASE)
    arguments = (weight.codes, weight.scales, weight.zeros, 64)
    torch.library.opcheck(torch.ops.qcore.w4a16_pack.default, arguments)
    torch.library.opcheck(torch.ops.qcore.w4a16_unpack.default, tuple(weight.pack()))
    words = torch.zeros(48, 38, dtype=torch.int32, device="cuda")
    rest = ("compressed_tensors", 48, 300, 64)
    torch.library.opcheck(torch.ops.qcore.w4a16_repack.default, (words, weight.scales, None, *rest))


def test_compiles_whole_and_once(packed: ops.PackedW4A16) -> None:
    def function(x: Tensor) -> Tensor:
        return torch.relu(ops.w4a16_gemm(x, *packed)) + 1

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x = make_x(4, 300, dtype=torch.float16).cuda()
    torch._dynamo.mark_dynamic(x, 0)
    assert torch.equal(compiled(x), function(x))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for m in (2, 3, 17, 64):
            x = make_x(m, 300, dtype=torch.float16).cuda()
            assert torch.equal(compiled(x), function(x))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton")
@pytest.mark.filterwarnings("ignore")  # inductor's own, which differ by machine
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_inductor(mode: str, packed: ops.PackedW4A16) -> None:
    """The second mode captures CUDA graphs."""

    def function(x: Tensor) -> Tensor:
        return torch.relu(ops.w4a16_gemm(x, *packed)) + 1

    compiled = torch.compile(function, fullgraph=True, dynamic=False, mode=mode)
    for seed in range(4):
        x = make_x(4, 300, dtype=torch.float16, seed=seed).cuda()
        torch.testing.assert_close(compiled(x).clone(), function(x), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("leading", [(), (7,), (2, 3), (0,)], ids=str)
def test_gradients(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = cuda_weight(CASE)
    packed = weight.pack()
    shuffled = torch.randperm(300, generator=torch.Generator().manual_seed(5)).cuda()
    for perm in (None, shuffled, torch.arange(300, device="cuda").int() // 2):
        x = make_x(*leading, 300, dtype=dtype).cuda().requires_grad_()
        bias = make_x(48, seed=2).cuda().requires_grad_()
        dy = make_x(*leading, 48, dtype=dtype, seed=3).cuda()
        dx, dbias = torch.autograd.grad(ops.w4a16_gemm(x, *packed, perm=perm, bias=bias), (x, bias), dy)
        assert (dx.dtype, dbias.dtype) == (dtype, torch.float32)
        wide, shift = (t.detach().double().requires_grad_() for t in (x, bias))
        gathered = wide if perm is None else wide[..., perm.long()]
        exact = torch.autograd.grad(gathered @ weight.dense.T + shift, (wide, shift), dy.double())
        tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
        torch.testing.assert_close(dx.double(), exact[0], rtol=tolerance, atol=1e-6)
        torch.testing.assert_close(dbias.double(), exact[1], rtol=1e-5, atol=1e-5)


# -- layers and models -----------------------------------------------------------------------------


FORMATS = [
    *(IntGroup(bits, symmetric, 32) for bits in (2, 3, 4, 8) for symmetric in (True, False)),
    Float8("channel", None),
    Float8("tensor", None),
]


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_layer_moves_without_loss(format: Format) -> None:
    w = torch.randn(40, 96, generator=torch.Generator().manual_seed(0)) * 0.1
    rtn = Rtn().quantize(w, None, format, torch.float32)
    weight = rtn.with_inputs(divisor=torch.linspace(0.5, 2, 96))
    layer, x = QLinear(weight, torch.randn(40)), torch.randn(3, 96)
    before, y = layer.state_dict(), layer(x)
    layer.to("cuda")
    assert {tensor.device.type for tensor in layer.state_dict().values()} == {"cuda"}
    assert layer.packed.shape.shape[1] == 2
    there = layer.to_qweight()
    assert there.tensors.keys() == weight.tensors.keys()
    for name, tensor in weight.tensors.items():
        assert torch.equal(there.tensors[name].cpu().view(torch.uint8), tensor.view(torch.uint8))
    assert torch.equal(there.inputs.divisor.cpu(), weight.inputs.divisor)
    torch.testing.assert_close(layer(x.cuda()).cpu(), y, rtol=1e-5, atol=1e-5)
    half = layer(x.cuda().half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.cpu().float(), y, rtol=1e-2, atol=1e-2)
    layer.cpu()
    assert torch.equal(layer(x), y)
    assert before.keys() == layer.state_dict().keys()
    for name, tensor in layer.state_dict().items():
        assert tensor.shape == before[name].shape
        assert torch.equal(tensor, before[name])


def test_a_layer_moves_and_is_cast_at_once() -> None:
    w = torch.randn(40, 96, generator=torch.Generator().manual_seed(0)) * 0.1
    layer = QLinear(Rtn().quantize(w, None, IntGroup(4, False, 32), torch.float32), torch.randn(40))
    weight = layer.weight
    layer.to("cuda", torch.bfloat16)
    assert layer.scales.dtype == torch.float32
    assert layer.bias is not None
    assert layer.bias.dtype == torch.bfloat16
    assert torch.equal(layer.weight.cpu(), weight)


@pytest.fixture(scope="module", params=["W4A16", "W8A16_FP8"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    from qcore import quantize_folder

    folder = tmp_path_factory.mktemp("model") / "quantized"
    quantize_folder(MODEL, folder, request.param, "rtn")
    return folder


# float32 runs on the reference kernel, the halves on the fast one.
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 8e-2)],
    ids=by_name,
)
def test_a_model_says_the_same_as_on_the_cpu(quantized: Path, dtype: torch.dtype, tolerance: float) -> None:
    from qcore import load
    from qcore.text import token_chunks

    tokens = token_chunks(MODEL, MODEL / "eval.txt", 128, 2)
    with torch.no_grad():
        expected = load(quantized, dtype=torch.float32)(tokens).logits
        model = load(quantized, dtype=dtype, device="cuda")
        logits = model(tokens.cuda()).logits.cpu().float()
    assert any(isinstance(module, QLinear) for module in model.modules())
    assert float((logits - expected).norm() / expected.norm()) < tolerance
    agreement = (logits.argmax(-1) == expected.argmax(-1)).float().mean()
    assert float(agreement) > (0.99 if dtype == torch.float32 else 0.95)
