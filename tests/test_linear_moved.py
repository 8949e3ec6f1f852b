"""QLinear whose tensors were moved behind its back (a file mapped to another device, a mover that goes tensor
by tensor), and QLinear made empty, to be filled from a state dict."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import Tensor

from qcore import SCHEMES, Inputs, QLinear, QWeight, Rtn, ops

N, K = 40, 256
PACKED = ["W4A16_ASYM", "W8A16_FP8", "Q4_K"]  # schemes with a layout for each device


def make(scheme: str, transforms: bool = False) -> QLinear:
    w = torch.randn(N, K)
    format = SCHEMES[scheme]
    inputs = Inputs()
    if transforms:
        inputs = Inputs(torch.rand(K) + 0.5, torch.randperm(K).int())
    if format.activations is not None and format.activations.static:
        zero = None if format.activations.symmetric else torch.tensor([3], dtype=torch.int32)
        inputs = Inputs(inputs.divisor, inputs.permutation, torch.tensor([0.02]), zero)
    weight = Rtn().quantize(w, None, format, torch.float32)
    return QLinear(QWeight(format, (N, K), weight.tensors, inputs), torch.randn(N))


def as_if_from_cuda(layer: QLinear) -> QLinear:
    """The layer as `torch.load(map_location="cpu")` gives one that was packed for CUDA."""
    weight = layer.to_qweight()
    if "blocks" in weight.tensors:
        type = weight.format.name
        packed = {"qweight": ops.kquant_pack(weight.tensors["blocks"], type, K, layout=4)}
    else:
        scales, width = weight.tensors["scales"], weight.format.scaled.granularity.width(K)  # type: ignore[union-attr]
        codes, zeros = weight.tensors["codes"], weight.tensors.get("zeros")
        bits = weight.format.scaled.bits  # type: ignore[union-attr]
        packed = ops.w4a16_pack(codes, scales, zeros, width, bits, layout=2)._asdict()
    for name, tensor in packed.items():
        layer._buffers[name] = tensor
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded: QLinear = torch.load(file, map_location="cpu", weights_only=False)
    return loaded


@pytest.mark.parametrize("transforms", [False, True])
@pytest.mark.parametrize("scheme", PACKED)
def test_to_packs_by_layout_not_by_device(scheme: str, transforms: bool) -> None:
    layer = make(scheme, transforms)
    x = torch.randn(3, K)
    y, weight = layer(x), layer.weight
    stuck = as_if_from_cuda(layer)
    assert torch.equal(stuck.weight, weight)  # the CPU unpacks every layout
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mend in (lambda m: m.to("cpu"), lambda m: m.cpu(), lambda m: m.float()):
            mended = mend(as_if_from_cuda(make_like(layer)))
            assert torch.equal(mended(x), y)
    assert torch.equal(stuck.to("cpu")(x), y)


def make_like(layer: QLinear) -> QLinear:
    return QLinear(layer.to_qweight(), layer.bias)


@pytest.mark.parametrize("scheme", PACKED)
def test_forward_packs_what_was_moved_tensor_by_tensor(scheme: str) -> None:
    layer = make(scheme)
    x = torch.randn(3, K)
    y = layer(x)
    stuck = as_if_from_cuda(layer)
    with pytest.warns(UserWarning, match=r"packed for another device than cpu.*\.to\('cpu'\)"):
        assert torch.equal(stuck(x), y)
    assert torch.equal(stuck(x), y)  # once: a warning is an error here


def test_other_errors_of_forward_stay() -> None:
    with pytest.raises(RuntimeError, match="x must have the sizes"):
        make("W4A16")(torch.randn(3, K + 1))
    layer = as_if_from_cuda(make("W4A16_ASYM"))
    with pytest.raises(RuntimeError, match="packed for cuda"):
        ops.w4a16_gemm(torch.randn(3, K), *layer.packed)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("transforms", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_empty_is_filled_from_a_state_dict(scheme: str, transforms: bool, device: str) -> None:
    full = make(scheme, transforms)
    names = ("divisor", "permutation") if transforms else ()
    layer = QLinear.empty(N, K, SCHEMES[scheme], bias=True, transforms=names, device=device)
    for name, tensor in layer.state_dict().items():
        expected = full.state_dict()[name]
        assert (tensor.shape, tensor.dtype, tensor.device.type) == (expected.shape, expected.dtype, device)
    if device == "meta":
        layer = layer.to_empty(device="cpu")
    layer.load_state_dict(full.state_dict())
    x = torch.randn(3, K)
    assert torch.equal(layer(x), full(x))
    assert torch.equal(layer.weight, full.weight)


def test_empty_says_what_is_wrong() -> None:
    for n, k in ((0, 32), (32, -1)):
        with pytest.raises(ValueError, match=f"n, k: expected sizes of 1 or more, got {n}, {k}"):
            QLinear.empty(n, k, SCHEMES["W4A16"])
    with pytest.raises(ValueError, match="Q4_K stores rows of a multiple of 256 columns, got 96"):
        QLinear.empty(32, 96, SCHEMES["Q4_K"])
    with pytest.raises(
        ValueError, match=r"transforms: expected some of \['divisor', 'permutation'\], got \['hadamard'\]"
    ):
        QLinear.empty(32, 64, SCHEMES["W4A16"], transforms=["hadamard"])


def test_half_scales() -> None:
    scales: Tensor = QLinear.empty(N, K, SCHEMES["W4A16"], dtype=torch.float16).get_buffer("scales")
    assert scales.dtype == torch.float16
