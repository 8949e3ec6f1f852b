"""What torch makes of the ops besides calling them: autograd, forward mode, vmap, autocast, fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

_Fake = TypeVar("_Fake", bound=Callable[..., Any])

_LIBRARY = torch.library.Library("qcore", "IMPL")

_AUTOCAST = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}
_AUTOCAST_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA
)


def overload(op: Any, *tensors: Tensor | None) -> Any:
    """What a wrapper calls: torch.ops.qcore.<op>.no_grad, unless something may flow through a product of
    these tensors: gradients, or tangents of forward mode."""
    if forward_ad._current_level >= 0:
        return op.default
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return op.default
    return op.no_grad


def differentiable(op: str, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> None:
    """Gives torch.ops.qcore.<op> gradients; arguments as of `torch.library.register_autograd`.

    A call that asks for none goes on to the overload `no_grad`: `register_autograd` would lead it through
    more Python than some products take.
    """
    default, no_grad = (getattr(getattr(torch.ops.qcore, op), name) for name in ("default", "no_grad"))
    defaults = [argument.default_value for argument in default._schema.arguments]
    plain = no_grad._op  # what calling the overload calls

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Any:
            return no_grad(*arguments)

    Product.__name__ = f"qcore_{op}"
    Product.setup_context = staticmethod(setup_context)  # type: ignore[method-assign]
    Product.backward = staticmethod(backward)  # type: ignore[method-assign]

    # Behind the dispatcher torch.func has done its part, which `Product.apply` would do once more.
    apply: Callable[..., Any] = super(torch.autograd.Function, Product).apply

    def run(*arguments: Any) -> Any:
        if forward_ad._current_level >= 0:
            _refuse_tangents(op, arguments)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            # The dispatcher leaves out what has its default value at the end.
            arguments = (*arguments, *defaults[len(arguments) :])
            if torch._C._are_functorch_transforms_active():
                with enable_single_level_autograd_function():
                    return apply(*arguments)
            return apply(*arguments)
        return plain(*arguments)

    _LIBRARY.impl(op, run, "Autograd")
    if "out" in getattr(torch.ops.qcore, op).overloads():
        _refuse_gradients_into(op)


def _refuse_gradients_into(op: str) -> None:
    """As torch refuses them with its own `out=`."""
    out = getattr(torch.ops.qcore, op).out

    def run(*arguments: Any, **given: Any) -> None:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments, **given):
            raise RuntimeError(f"qcore.{op}.out: has no gradients, because out= is given: detach x")
        if forward_ad._current_level >= 0:
            _refuse_tangents(op, (*arguments, *given.values()))
        with torch._C._AutoDispatchBelowAutograd():
            out(*arguments, **given)

    _LIBRARY.impl(out, run, "Autograd")


def _refuse_tangents(op: str, arguments: tuple[Any, ...]) -> None:
    for argument in arguments:
        if isinstance(argument, Tensor) and forward_ad.unpack_dual(argument).tangent is not None:
            raise NotImplementedError(
                f"qcore.{op}: has no forward-mode derivative (jvp): use reverse mode, as torch.func.vjp"
            )


def refuse_gradients(op: str, instead: str) -> None:
    """Makes a backward pass through an op that rounds an error, which says what to do instead."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"qcore.{op}: has no gradients, because it rounds: {instead}")

    differentiable(op, backward, lambda ctx, inputs, output: None)


def follow_linear(op: str) -> None:
    """Makes torch.ops.qcore.<op>, whose first argument is x [..., K] and the others are the weight's, do as
    `torch.nn.functional.linear` does.

    Under autocast x takes the dtype of the region, and so does the result; scales stay as they are. Under
    `torch.vmap` over x alone the batch is one more leading dimension.
    """
    for name in ("default", "no_grad"):
        called = getattr(getattr(torch.ops.qcore, op), name)
        for device, key in _AUTOCAST.items():
            _LIBRARY.impl(called, _in_dtype_of_region(called, device), key)
        torch.library.register_vmap(called, _batch_rows(op, called))


def _in_dtype_of_region(called: Any, device: str) -> Callable[..., Any]:
    def run(x: Tensor, *others: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return called(in_autocast_dtype(x, device), *others)

    return run


def in_autocast_dtype(x: Tensor, device: str) -> Tensor:
    """x in the dtype of the autocast region, where torch's own products would take it so."""
    casts = x.is_floating_point() and x.dtype != torch.float64 and x.device.type == device
    return x.to(torch.get_autocast_dtype(device)) if casts else x


def _batch_rows(op: str, called: Any) -> Callable[..., Any]:
    names = [argument.name for argument in called._schema.arguments]

    def run(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *others: Any) -> tuple[Tensor, int]:
        given = dict(zip(names[1:], others, strict=False))
        batched = [name for name, dim in zip(names[1:], in_dims[1:], strict=False) if dim is not None]
        if batched or given.get("offsets") is not None:
            why = f"got a batch of {', '.join(batched)}" if batched else "got the weight of experts"
            raise NotImplementedError(f"qcore.{op}: vmap goes over x alone, {why}: call it in a loop")
        return called(x.movedim(in_dims[0] or 0, 0), *others), 0

    return run


def register_fakes(op: str) -> Callable[[_Fake], _Fake]:
    """The fake kernels of torch.ops.qcore.<op> and of its other overloads."""
    overloads = getattr(torch.ops.qcore, op).overloads()

    def register(fake: _Fake) -> _Fake:
        torch.library.register_fake(f"qcore::{op}", fake)
        torch.library.register_fake(f"qcore::{op}.no_grad", fake)
        if "out" in overloads:
            torch.library.register_fake(f"qcore::{op}.out", lambda *arguments, **given: None)
        if "workspace_bytes" in overloads:
            torch.library.register_fake(f"qcore::{op}.workspace_bytes", _unknown(op))
        return fake

    return register


def _unknown(op: str) -> Callable[..., int]:
    def fake(*arguments: Any) -> int:
        raise RuntimeError(f"qcore.{op}.workspace_bytes: depends on the card: ask outside of the trace")

    return fake
