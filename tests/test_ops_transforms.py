"""What torch's transforms make of the products: autograd that costs nothing where nobody asks for it, forward
mode, vmap, torch.func and autocast. Every family of ops, as an op and as a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from cases import WeightCase, make_weight, make_x
from qcore import SCHEMES, QLinear, Rtn, ops
from w8a8_cases import random_float8, random_int8, random_scales

N, K = 48, 256
W = make_weight(WeightCase(N, K, 64, asymmetric=True))
BLOCKS = ops.kquant_pack(ops.kquant_quantize(make_x(N, K), "Q4_K"), "Q4_K", K)
X = make_x(3, K)

# What follows x: op, arguments, wrapper.
PRODUCTS: dict[str, tuple[Any, ...]] = {
    "w4a16_gemm": (*W.pack(),),
    "kquant_gemm": (BLOCKS, "Q4_K", N, K),
    "int8_linear": (random_int8(N, K), random_scales(N)),
    "fp8_linear": (random_float8(N, K), random_scales(N)),
}
Q, Q_SCALE, _ = ops.quantize_int8(X)
F, F_SCALE = ops.quantize_fp8(X)
ROUNDING: dict[str, tuple[Any, ...]] = {
    "quantize_int8": (X,),
    "quantize_fp8": (X,),
    "int8_gemm": (Q, random_int8(N, K), Q_SCALE, random_scales(N)),
    "fp8_gemm": (F, random_float8(N, K), F_SCALE, random_scales(N)),
}
LAYERS = ["W4A16", "W8A16_FP8", "Q4_K", "W8A8", "FP8", "FP8_BLOCK", "NF4"]  # all ops, and none


def layer(scheme: str, bias: bool = True) -> QLinear:
    weight = Rtn().quantize(make_x(N, K), None, SCHEMES[scheme], torch.float32)
    return QLinear(weight, make_x(N) if bias else None)


def op(name: str) -> Callable[..., Any]:
    packet: Callable[..., Any] = getattr(torch.ops.qcore, name)
    return packet


class Called(TorchFunctionMode):
    """The overloads that Python calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "namespace", "") == "qcore":
            self.names.append(func._overloadname)
        return func(*args, **(kwargs or {}))


# -- autograd ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRODUCTS)
def test_only_who_asks_for_gradients_pays(name: str) -> None:
    product, others = getattr(ops, name), PRODUCTS[name]
    with Called() as plain:
        product(X, *others)
        with torch.no_grad():
            product(X.clone().requires_grad_(), *others)
        with torch.inference_mode():
            product(X, *others)
    assert plain.names == ["no_grad"] * 3
    with Called() as asked:
        product(X.clone().requires_grad_(), *others)
        product(X, *others, bias=make_x(N).requires_grad_())
    assert asked.names == ["default"] * 2


@pytest.mark.parametrize("name", PRODUCTS)
def test_overloads_give_the_same(name: str) -> None:
    expected = op(name)(X, *PRODUCTS[name])
    assert torch.equal(op(name).no_grad(X, *PRODUCTS[name]), expected)
    assert not op(name).no_grad(X.clone().requires_grad_(), *PRODUCTS[name]).detach().requires_grad
    y = op(name)(X.clone().requires_grad_(), *PRODUCTS[name])
    assert y.requires_grad
    assert torch.equal(y, expected)


@pytest.mark.parametrize("name", PRODUCTS)
def test_torch_func(name: str) -> None:
    def loss(x: Tensor) -> Tensor:
        return op(name)(x, *PRODUCTS[name]).square().sum()

    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    assert torch.equal(torch.func.grad(loss)(X), expected)
    assert torch.equal(torch.func.vjp(loss, X)[1](torch.ones(()))[0], expected)


@pytest.mark.parametrize("name", {**PRODUCTS, **ROUNDING})
@pytest.mark.parametrize("grad_mode", [True, False])
def test_forward_mode_is_refused(name: str, grad_mode: bool) -> None:
    if name in PRODUCTS:
        x, others, at = X, PRODUCTS[name], 0
    else:
        (x, *others), at = ROUNDING[name], 0
        if not x.dtype.is_floating_point or x.itemsize == 1:  # the floats are the scales
            at, x = 2, ROUNDING[name][2]
            others = [t for i, t in enumerate(ROUNDING[name]) if i != 2]

    def call(function: Callable[..., Any], varied: Tensor) -> Any:
        arguments = list(others)
        arguments.insert(at, varied)
        return function(*arguments)

    for function in (op(name), getattr(ops, name)):
        with torch.set_grad_enabled(grad_mode):
            with (
                forward_ad.dual_level(),
                pytest.raises(NotImplementedError, match=rf"{name}: has no forward"),
            ):
                call(function, forward_ad.make_dual(x, torch.ones_like(x)))
            with pytest.raises(NotImplementedError, match=rf"{name}: has no forward-mode"):
                torch.func.jvp(lambda v, f=function: call(f, v), (x,), (torch.ones_like(x),))
            with forward_ad.dual_level():  # no tangent, no error
                call(function, x)


# -- vmap --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRODUCTS)
def test_vmap_over_x(name: str) -> None:
    x, others = make_x(4, 3, K), PRODUCTS[name]
    expected = op(name)(x, *others)
    for function in (op(name), getattr(ops, name)):
        assert torch.equal(torch.vmap(lambda v, f=function: f(v, *others))(x), expected)
        moved = torch.vmap(lambda v, f=function: f(v, *others), in_dims=1)(x.transpose(0, 1).contiguous())
        assert torch.equal(moved, expected)
        twice = torch.vmap(torch.vmap(lambda v, f=function: f(v, *others)))(x)
        assert torch.equal(twice, expected)


@pytest.mark.parametrize("name", PRODUCTS)
def test_vmap_over_the_weight_is_refused(name: str) -> None:
    weight, *others = PRODUCTS[name]
    with pytest.raises(NotImplementedError, match=rf"{name}: vmap goes over x alone, got a batch of "):
        torch.vmap(lambda w: op(name)(X, w, *others))(torch.stack([weight, weight]))


def test_gradients_of_samples() -> None:
    """torch.func's own recipe: vmap over grad."""

    def loss(x: Tensor) -> Tensor:
        return torch.ops.qcore.w4a16_gemm(x, *PRODUCTS["w4a16_gemm"]).square().sum()

    expected = torch.stack([torch.func.grad(loss)(x) for x in X])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(X), expected)


# -- autocast ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", LAYERS)
@pytest.mark.parametrize("float_activations", [False, True])
def test_autocast_is_that_of_linear(scheme: str, dtype: torch.dtype, float_activations: bool) -> None:
    linear, ours = nn.Linear(K, N), layer(scheme)
    ours.float_activations = float_activations
    for x in (X, X.half(), X.bfloat16()):
        with torch.autocast("cpu", dtype):
            y = ours(x)
            assert y.dtype == linear(x).dtype == dtype
        assert torch.equal(y, ours(x.to(dtype)))
        with torch.autocast("cpu", dtype, enabled=False):
            assert ours(x).dtype == x.dtype
    scales = [t.dtype for name, t in ours.state_dict().items() if name == "scales"]
    assert all(kind == torch.float32 for kind in scales)


@pytest.mark.parametrize("name", PRODUCTS)
def test_autocast_of_ops(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        for function in (op(name), op(name).no_grad, getattr(ops, name)):
            assert torch.equal(function(X, *PRODUCTS[name]), function(X.bfloat16(), *PRODUCTS[name]))
            assert function(X, *PRODUCTS[name]).dtype == torch.bfloat16
        x = X.clone().requires_grad_()
        op(name)(x, *PRODUCTS[name]).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("scheme", LAYERS)
def test_autocast_under_compile(scheme: str) -> None:
    ours = layer(scheme)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        y = compiled(X)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, ours(X))


# -- DTensor -----------------------------------------------------------------------------------------------


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    """Of one process."""
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", PRODUCTS)
def test_dtensors_are_refused_by_name(name: str, mesh: Any) -> None:
    from torch.distributed.tensor import Replicate, distribute_tensor
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    def spread(value: object) -> object:
        if not isinstance(value, Tensor) or (value.dtype.itemsize == 1 and value.dtype.is_floating_point):
            return value
        return distribute_tensor(value, mesh, [Replicate()])

    with pytest.raises((NotImplementedError, RuntimeError), match=rf"qcore.{name}.*(sharding|DTensor)"):
        getattr(ops, name)(*map(spread, (X, *PRODUCTS[name])))
    with pytest.raises(RuntimeError, match=rf"qcore.{name}.*got mixed torch.Tensor and DTensor"):
        getattr(ops, name)(spread(X), *PRODUCTS[name])
    with pytest.raises(NotImplementedError, match="ColwiseParallel"):
        parallelize_module(layer("W4A16"), mesh, ColwiseParallel())
