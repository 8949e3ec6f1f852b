"""QWeight and QLinear."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from qcore import _C, Inputs, IntGroup, QLinear, QWeight, Rtn


def make(
    n: int = 40, k: int = 96, bits: int = 4, symmetric: bool = False, group_size: int = 32
) -> tuple[QWeight, Tensor]:
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(0)) * 0.1
    return Rtn().quantize(w, None, IntGroup(bits, symmetric, group_size), torch.float32), w


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, 40, -1, 500])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_forward_is_the_dequantized_product(
    bits: int, symmetric: bool, group_size: int, bias: bool, dtype: torch.dtype
) -> None:
    weight, _ = make(bits=bits, symmetric=symmetric, group_size=group_size)
    b = torch.randn(40) if bias else None
    layer = QLinear(weight, b).to(dtype)
    x = torch.randn(2, 3, 96).to(dtype)
    expected = x.double() @ weight.dequantize().double().T + (0 if b is None else b.to(dtype).double())
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(layer(x).double(), expected, rtol=tolerance, atol=tolerance)


# Invariant 8 of calibration: what a method simulates is what the kernel multiplies by.
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fake_quantization_is_the_packed_weight_bit_for_bit(
    bits: int, symmetric: bool, dtype: torch.dtype
) -> None:
    w = torch.randn(24, 96, generator=torch.Generator().manual_seed(1)) * 0.1
    format = IntGroup(bits, symmetric, 32)
    grid = format.fit(w, dtype, search=True)
    fake = grid.points(torch.arange(96)).round(w.T, slice(None))[1].T
    weight = QWeight(format, (24, 96), grid.store(grid.round(w)))
    layer = QLinear(weight)
    assert torch.equal(layer.to_qweight().dequantize(), fake)
    assert torch.equal(layer(torch.eye(96)).T, fake)  # the kernel itself: a column for each unit vector


def test_inputs_are_divided() -> None:
    weight, _ = make()
    s = torch.rand(96) + 0.5
    scaled = QWeight(weight.format, weight.shape, weight.tensors, Inputs(divisor=s))
    layer, x = QLinear(scaled), torch.randn(5, 96)
    torch.testing.assert_close(layer(x), x / s @ weight.dequantize().T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(x), x @ layer.weight.T, rtol=1e-5, atol=1e-5)
    assert layer.half().divisor is not None
    assert layer.divisor is not None
    assert layer.divisor.dtype == torch.float32


def test_state_and_copies() -> None:
    weight, _ = make()
    layer = QLinear(weight, torch.randn(40))
    x = torch.randn(3, 96)
    other = QLinear(make(bits=4)[0], torch.zeros(40))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert "int4 g32 asym, bias=True" in repr(layer)


def test_batch_invariant_reaches_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def gemm(x: Tensor, *packed: Tensor, batch_invariant: bool, **others: Tensor | None) -> Tensor:
        seen.append(batch_invariant)
        return x

    monkeypatch.setattr("qcore.nn.products.ops.w4a16_gemm", gemm)
    layer, x = QLinear(make()[0]), torch.randn(3, 96)
    assert not layer.batch_invariant
    layer(x)
    layer.batch_invariant = True
    layer(x)
    copy.deepcopy(layer)(x)
    assert seen == [False, True, True]
    assert not any("batch_invariant" in name for name in layer.state_dict())


@pytest.mark.parametrize("symmetric", [True, False])
def test_from_meta_and_back(symmetric: bool) -> None:
    weight, _ = make(symmetric=symmetric)
    source = QLinear(weight, torch.randn(40))
    state, x = source.state_dict(), torch.randn(3, 96)
    layer = copy.deepcopy(source).to("meta")
    assert {tensor.device.type for tensor in layer.state_dict().values()} == {"meta"}
    layer.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(layer(x), source(x))


@pytest.mark.parametrize("symmetric", [True, False])
def test_another_kind_of_device_packs_anew(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _C.packed_sizes

    def packed_sizes(*arguments: object) -> tuple[int, int, int, int]:
        """That of a build with CUDA kernels, which this one need not be."""
        *problem, device, layout = arguments
        return real(*problem, device, 2 if device == "cuda" else layout)  # type: ignore[arg-type, call-arg]

    monkeypatch.setattr(_C, "packed_sizes", packed_sizes)
    format = IntGroup(4, symmetric, 32)
    with FakeTensorMode():
        tensors = {
            "codes": torch.empty(40, 96, dtype=torch.uint8, device="cuda"),
            "scales": torch.empty(40, 3, device="cuda"),
        }
        if not symmetric:
            tensors["zeros"] = torch.empty(40, 3, dtype=torch.uint8, device="cuda")
        layer = QLinear(QWeight(format, (40, 96), tensors, Inputs(torch.ones(96, device="cuda"))))
        assert layer.shape.shape[1] == 2
        assert layer(torch.empty(5, 96, device="cuda")).device.type == "cuda"
        assert layer.cpu().shape.shape[1] == 1
        assert {tensor.device.type for tensor in layer.state_dict().values()} == {"cpu"}
        assert layer(torch.empty(5, 96)).device.type == "cpu"
    there = QLinear(make(symmetric=symmetric)[0])
    assert [t.shape for t in layer.packed] == [t.shape for t in there.packed]


@pytest.mark.parametrize("where", ["unpack", "pack"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_that_cannot_be_packed_anew_stays_as_it_was(
    where: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = QLinear(make()[0], torch.randn(40) if bias else None)
    before, parameter, x = layer.state_dict(), layer.bias, torch.randn(3, 96)
    y = layer(x)

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no kernels there")

    # Away to meta and back stands for a device: only from meta to another one is the weight packed anew.
    with monkeypatch.context() as patched:
        patched.setattr(f"qcore.nn.products.ops.w4a16_{where}", fail)
        moved = copy.deepcopy(layer).to("meta")
        with pytest.raises(RuntimeError, match="no kernels there"):
            moved.to_empty(device="cpu")
        assert {tensor.device.type for tensor in moved.state_dict().values()} == {"meta"}
        assert isinstance(moved.bias, nn.Parameter) == bias
    moved.to_empty(device="cpu").load_state_dict(before)
    assert torch.equal(moved(x), y)

    # Half way: some tensors have been replaced when the last one does not fit.
    count = 0

    def double(tensor: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count == len(before):
            raise torch.OutOfMemoryError("no memory there")
        return tensor.clone().fill_(7)

    with pytest.raises(torch.OutOfMemoryError):
        layer._apply(double)
    assert layer.bias is parameter
    for name, tensor in layer.state_dict().items():
        assert tensor.data_ptr() == before[name].data_ptr()
    assert torch.equal(layer(x), y)


def test_compiles_whole() -> None:
    layer = nn.Sequential(QLinear(make()[0]), nn.ReLU())
    x = torch.randn(3, 96)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), layer(x))


def test_stored_bits() -> None:
    weight, _ = make(n=64, k=128, bits=3, group_size=32)
    assert weight.bits_per_weight == 3 + (32 + 3) / 32
    symmetric, _ = make(n=64, k=128, bits=4, symmetric=True, group_size=-1)
    assert symmetric.bits_per_weight == 4 + 32 / 128


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"codes": torch.zeros(40, 96)}, TypeError, "codes: expected uint8"),
        ({"codes": torch.zeros(40, 95).byte()}, ValueError, r"codes: expected shape \(40, 96\).*\(40, 95\)"),
        ({"scales": torch.zeros(40, 4)}, ValueError, r"scales: expected shape \(40, 3\).*got \(40, 4\)"),
        ({"zeros": None}, ValueError, "zeros: expected None exactly when the format is symmetric"),
        ({"zeros": torch.zeros(1, 3, dtype=torch.uint8)}, ValueError, r"zeros: expected shape \(40, 3\)"),
        ({"divisor": torch.ones(3)}, ValueError, r"inputs.divisor: expected shape \(96,\), got \(3,\)"),
    ],
)
def test_bad_weights(change: dict[str, Tensor | None], error: type[Exception], message: str) -> None:
    weight, _ = make()
    tensors = {name: tensor for name, tensor in {**weight.tensors, **change}.items() if tensor is not None}
    inputs = Inputs(tensors.pop("divisor", None))
    with pytest.raises(error, match=message):
        QWeight(weight.format, weight.shape, tensors, inputs)
