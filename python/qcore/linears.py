"""What a linear layer is: a list of kinds. All else of qcore sees `nn.Linear`s, or is told by name.

A module is judged by what it computes, not by what it is called: a subclass that multiplies as `nn.Linear`
does is one, and one that adds something of its own is not.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "LINEAR_KINDS",
    "LinearKind",
    "StandIn",
    "as_linear",
    "carry_hooks",
    "gates",
    "holds_experts",
    "is_linear",
    "is_transposed",
    "kind_of",
    "linear_names",
    "make_linear",
    "matrix_shape",
    "never_called",
]


@dataclass(frozen=True)
class LinearKind:
    """Modules that compute `x @ W.T + bias` of a weight and, maybe, a bias, and hold nothing else.

    Attributes:
        recognises: whether a module is one of them.
        transposed: its weight is [K, N] instead of [N, K].
    """

    recognises: Callable[[nn.Module], bool]
    transposed: bool = False


def _is_plain(module: nn.Module) -> bool:
    """`nn.Linear`, and what is derived from it without computing anything else."""
    if not isinstance(module, nn.Linear) or not _holds_a_matrix(module):
        return False
    return type(module).forward is nn.Linear.forward or _multiplies(module)


def _is_conv1d(module: nn.Module) -> bool:
    """The layer of GPT-2 and its kin."""
    at = sys.modules.get("transformers.pytorch_utils")  # loaded, if the model has any
    conv1d = getattr(at, "Conv1D", None)
    if conv1d is None or not isinstance(module, conv1d) or not _holds_a_matrix(module):
        return False
    return type(module).forward is conv1d.forward


# Ordered: the first kind that recognises a module is its own.
LINEAR_KINDS = (LinearKind(_is_plain), LinearKind(_is_conv1d, transposed=True))


def kind_of(module: nn.Module) -> LinearKind | None:
    """The kind of a linear layer, or None. One whose `forward` was replaced on the object is none: what it
    computes would be lost with it."""
    if "forward" in module.__dict__:
        return None
    return next((kind for kind in LINEAR_KINDS if kind.recognises(module)), None)


def is_linear(module: nn.Module) -> bool:
    return kind_of(module) is not None


def matrix_shape(module: nn.Module) -> tuple[int, int]:
    """N and K of a linear layer."""
    first, second = module.get_parameter("weight").shape
    kind = kind_of(module)
    return (second, first) if kind is not None and kind.transposed else (first, second)


def linear_names(model: nn.Module) -> list[str]:
    """Names of the model's linear layers, in the order of the model."""
    return [name for name, module in model.named_modules() if is_linear(module)]


def _holds_a_matrix(module: nn.Module) -> bool:
    """Nothing besides weight and bias: what is derived from them (weight norm), or added to them, is another
    layer."""
    parameters = module._parameters
    weight = parameters.get("weight")
    if not parameters.keys() <= {"weight", "bias"} or module._buffers or module._modules:
        return False
    return isinstance(weight, nn.Parameter) and weight.dim() == 2 and weight.is_floating_point()


_PROBE_N, _PROBE_K = 3, 5


def _multiplies(module: nn.Linear) -> bool:
    """Whether the module's own `forward` gives what `nn.Linear`'s would, tried on a few random numbers."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_PROBE_N, _PROBE_K, generator=generator)
    bias = None if module.bias is None else torch.randn(_PROBE_N, generator=generator)
    probe: Any = object.__new__(type(module))
    probe.__dict__.update(module.__dict__, in_features=_PROBE_K, out_features=_PROBE_N, training=False)
    probe.__dict__["_parameters"] = {
        "weight": nn.Parameter(weight, requires_grad=False),
        "bias": None if bias is None else nn.Parameter(bias, requires_grad=False),
    }
    x = torch.randn(2, 4, _PROBE_K, generator=generator)
    try:
        with torch.no_grad():
            y = type(module).forward(probe, x.clone())  # past the module's hooks
    except Exception:  # whatever it needs, nn.Linear does not
        return False
    expected = nn.functional.linear(x, weight, bias)
    same = isinstance(y, Tensor) and y.shape == expected.shape and y.dtype == expected.dtype
    return same and torch.allclose(y, expected, rtol=1e-4, atol=1e-5)


def holds_experts(module: nn.Module, parameter: Tensor) -> bool:
    """Whether a parameter of a module is a stack of matrices, one for each expert."""
    matrices = parameter.dim() == 3 and min(parameter.shape) > 1
    return matrices and not isinstance(module, nn.modules.conv._ConvNd)


def never_called(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the linear layers whose owner reads their weight and does not call them, as the code of its
    class says (`dt_proj` of Mamba, `out_proj` of `nn.MultiheadAttention`): their place is in a product of the
    owner's own."""
    found = []
    for name in names:
        owner, _, leaf = name.rpartition(".")
        code = _code_of(type(model.get_submodule(owner)))  # type: ignore[arg-type]
        if re.search(rf"\bself\.{leaf}\.weight\b", code) and not re.search(rf"\bself\.{leaf}\(", code):
            found.append(name)
    return found


@cache
def _code_of(kind: type) -> str:
    """The source of a class and of those that it is derived from, up to `nn.Module`; empty where it is not
    there."""
    code = ""
    for base in kind.__mro__:
        if base in (nn.Module, object):
            continue
        with suppress(OSError, TypeError):
            code += inspect.getsource(base)
    return code


def gates(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Those of the linear layers that decide instead of compute, and why they are taken for such: rounding
    them sends tokens elsewhere, and they are too small to be worth it.

    A gate has one row; a router has one for each of the experts beside it.
    """
    found = {}
    for name in names:
        rows, _ = matrix_shape(model.get_submodule(name))
        if rows == 1:
            found[name] = "has a single row"
        elif rows in _experts_beside(model, name):
            found[name] = f"chooses among {rows} experts"
    return found


def _experts_beside(model: nn.Module, name: str) -> set[int]:
    """How many experts there are in what stands beside a layer, or beside its owner."""
    path = name.split(".")
    counts: set[int] = set()
    for up in (1, 2):
        if up > len(path):
            break
        owner = model.get_submodule(".".join(path[:-up]))
        if isinstance(owner, (nn.ModuleList, nn.ModuleDict)):
            break  # an expert's own layer
        for child, module in owner.named_children():
            if child == path[-up]:
                continue
            if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                kinds = [type(m) for m in module.children() if next(m.parameters(), None) is not None]
                counts |= {kinds.count(kind) for kind in kinds}
            counts |= {p.shape[0] for p in module.parameters(recurse=False) if holds_experts(module, p)}
    return counts - {0, 1}


def make_linear(model: nn.Module) -> dict[str, nn.Module]:
    """Puts an `nn.Linear` of the same weight, [N, K], in the place of every transposed layer, so that nobody
    who measures or changes weights has to know of them. Returns what was there, by name."""
    replaced: dict[str, nn.Module] = {}
    stand_ins: dict[nn.Module, StandIn] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        kind = kind_of(module)
        if kind is not None and kind.transposed:
            replaced[name] = module
            if module not in stand_ins:
                stand_ins[module] = _stand_in(module)
            _put(model, name, stand_ins[module])
    return replaced


class StandIn(nn.Linear):
    """In the place of a transposed layer."""


def is_transposed(module: nn.Module) -> bool:
    """Whether a layer, or the one in whose place it is, keeps its weight as [K, N]."""
    kind = kind_of(module)
    stands_in = isinstance(module, StandIn) or getattr(module, "was_transposed", False)
    return stands_in or (kind is not None and kind.transposed)


@contextmanager
def as_linear(model: nn.Module) -> Iterator[None]:
    """While it lasts, transposed layers are as `make_linear` makes them. Afterwards those that are still
    there are put back, with what their weight has become."""
    replaced = make_linear(model)
    try:
        yield
    finally:
        for name, module in replaced.items():
            linear = model.get_submodule(name)
            if isinstance(linear, StandIn):
                module.weight.data = linear.weight.data.T.contiguous()
                _put(model, name, module)


def _stand_in(module: nn.Module) -> StandIn:
    n, k = matrix_shape(module)
    linear = StandIn(k, n, bias=False, device="meta")
    weight = module.get_parameter("weight")
    linear.weight = nn.Parameter(weight.data.T.contiguous(), requires_grad=weight.requires_grad)
    weight.data = linear.weight.data.T  # one memory for both
    linear.bias = module._parameters.get("bias")  # type: ignore[assignment]
    carry_hooks(module, linear)
    return linear.train(module.training)


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def carry_hooks(old: nn.Module, new: nn.Module) -> None:
    """The hooks of a module are those of what takes its place; the handles that remove them stay good."""
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)
