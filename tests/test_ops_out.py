"""Products into the caller's memory: the overloads `out`, with `workspace=`, and `workspace_bytes`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cases import WeightCase, make_weight, make_x
from qcore import ops
from w8a8_cases import random_float8, random_int8, random_scales

N, K = 48, 256
X = make_x(2, 3, K)
Q, Q_SCALE, _ = ops.quantize_int8(X)
F, F_SCALE = ops.quantize_fp8(X)
BLOCKS = ops.kquant_pack(ops.kquant_quantize(make_x(N, K), "Q4_K"), "Q4_K", K)
CALLS: dict[str, tuple[Any, ...]] = {
    "w4a16_gemm": (X, *make_weight(WeightCase(N, K, 64, asymmetric=True)).pack(), None, make_x(N)),
    "kquant_gemm": (X, BLOCKS, "Q4_K", N, K),
    "int8_gemm": (Q, random_int8(N, K), Q_SCALE, random_scales(N)),
    "fp8_gemm": (F, random_float8(N, K), F_SCALE, random_scales(N)),
    "int8_linear": (X, random_int8(N, K), random_scales(N)),
    "fp8_linear": (X, random_float8(N, K), random_scales(N)),
}


def op(name: str) -> Any:
    return getattr(torch.ops.qcore, name)


def test_every_product_has_it() -> None:
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("qcore::")}
    assert {name.removeprefix("qcore::") for name in names if name.endswith(".out")} == {
        f"{name}.out" for name in CALLS
    }


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("inference", [False, True])
def test_gives_the_same_bits(name: str, inference: bool) -> None:
    expected = op(name)(*CALLS[name])
    out = torch.full_like(expected, torch.nan)
    bytes = op(name).workspace_bytes(*CALLS[name])
    assert bytes == 0  # on the CPU
    workspace = torch.empty(bytes, dtype=torch.uint8)
    with torch.inference_mode(inference):
        assert op(name).out(*CALLS[name], out=out, workspace=workspace) is None
        assert torch.equal(out, expected)
        out.fill_(torch.nan)
        op(name).out(*CALLS[name], out=out)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda y: y.double(),
        lambda y: y[..., :-1].contiguous(),
        lambda y: y[:1].contiguous(),
        lambda y: torch.empty(*y.shape[:-1], 2 * N)[..., ::2],
    ],
)
def test_out_that_does_not_fit_is_refused(name: str, wrong: Any) -> None:
    out = wrong(op(name)(*CALLS[name]))
    message = rf"{name}: out must be contiguous, float32 \[..., {N}\] with the rows of x, got "
    with pytest.raises(RuntimeError, match=message):
        op(name).out(*CALLS[name], out=out)


def test_no_gradients_into_out() -> None:
    x, *others = CALLS["w4a16_gemm"]
    y = torch.ops.qcore.w4a16_gemm(x, *others)
    with pytest.raises(RuntimeError, match=r"w4a16_gemm.out: has no gradients, because out= is given"):
        torch.ops.qcore.w4a16_gemm.out(x.clone().requires_grad_(), *others, out=torch.empty_like(y))
    with torch.no_grad():
        torch.ops.qcore.w4a16_gemm.out(x.clone().requires_grad_(), *others, out=torch.empty_like(y))


@pytest.mark.parametrize("name", CALLS)
def test_compiles_and_reuses_the_memory(name: str) -> None:
    def twice(out: Tensor, *arguments: Any) -> Tensor:
        op(name).out(*arguments, out=out)
        first = out + 1
        op(name).out(*arguments, out=out)
        return first + out

    expected = op(name)(*CALLS[name])
    out = torch.empty_like(expected)
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(out, *CALLS[name]), expected + 1 + expected)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("name", CALLS)
def test_schema(name: str) -> None:
    """The arguments of `out` are those of the op, and torch knows what is written."""
    default, out = (getattr(op(name), overload)._schema for overload in ("default", "out"))
    assert [a.name for a in out.arguments] == [*(a.name for a in default.arguments), "out", "workspace"]
    assert [a.name for a in out.arguments if a.is_write] == ["out", "workspace"]
    torch.library.opcheck(
        op(name).out,
        CALLS[name],
        {"out": torch.empty_like(op(name)(*CALLS[name]))},
        # What it checks of the schema, it checks by arithmetic that torch does not have for float8.
        test_utils=("test_faketensor",) if name.startswith("fp8") else ("test_schema", "test_faketensor"),
    )


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12),
    reason="libraries cannot name tags before torch 2.12",
)
def test_every_op_is_tagged_as_compliant() -> None:
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("qcore::")]
    assert len(names) > 20
    for name in names:
        packet, _, overload = name.removeprefix("qcore::").partition(".")
        assert torch.Tag.pt2_compliant_tag in getattr(op(packet), overload or "default").tags, name
