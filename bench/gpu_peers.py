"""The contenders of bench/gpu_w4a16.py. Each adapter packs a weight for one product and returns how to call
it, or says in one line why it does not take part.

All get the same codes, scales and zero points, so their results are compared with one reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


@dataclass(frozen=True)
class Spec:
    """A weight [N, K] of `bits`-bit codes; dtype is that of x, y and the scales."""

    k: int
    n: int
    dtype: torch.dtype = torch.bfloat16
    bits: int = 4
    group_size: int = 128
    asymmetric: bool = False
    act_order: bool = False
    float8: bool = False  # the codes are e4m3

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Weight:
    """W[n, k] = scales[n, k // group_size] * (codes[n, k] - zero), which meets x[:, perm[k]]. Floats have no
    zero."""

    spec: Spec
    codes: Tensor  # uint8 or float8_e4m3fn [N, K]
    scales: Tensor  # [N, G]
    zeros: Tensor | None  # uint8 [N, G]
    perm: Tensor | None  # int32 [K]

    def rows(self, step: int = 4096) -> Iterator[tuple[slice, Tensor]]:
        """Its values in float32, some rows at a time, so that no float32 copy of all is needed."""
        spec = self.spec
        for begin in range(0, spec.n, step):
            at = slice(begin, min(begin + step, spec.n))
            values = self.codes[at].float().view(-1, spec.k // spec.group_size, spec.group_size)
            center = 0.0 if spec.float8 else float(1 << (spec.bits - 1))
            values -= center if self.zeros is None else self.zeros[at].float().unsqueeze(-1)
            values *= self.scales[at].float().unsqueeze(-1)
            yield at, values.flatten(1)

    def product(self, x: Tensor) -> Tensor:
        """x @ W.T in float32."""
        wide = x.float() if self.perm is None else x.float()[:, self.perm.long()]
        y = wide.new_empty(x.shape[0], self.spec.n)
        for at, values in self.rows():
            y[:, at] = wide @ values.T
        return y


def make_weight(spec: Spec, device: str, seed: int = 0) -> Weight:
    """Random codes, never zeros: a card computes faster on zeros than on data."""
    g = torch.Generator(device).manual_seed(seed)
    groups = spec.k // spec.group_size
    if groups * spec.group_size != spec.k:
        raise ValueError(f"group_size {spec.group_size} must divide K {spec.k} here")

    def codes(*sizes: int) -> Tensor:
        return torch.randint(0, 1 << spec.bits, sizes, dtype=torch.uint8, device=device, generator=g)

    scales = torch.rand(spec.n, groups, device=device, generator=g) * 0.02 + 0.001
    made = codes(spec.n, spec.k)
    if spec.float8:
        made = torch.where(made & 0x7F == 0x7F, 1, made).view(torch.float8_e4m3fn)  # no NaN
    return Weight(
        spec,
        made,
        scales.to(spec.dtype),
        codes(spec.n, groups) if spec.asymmetric else None,
        torch.randperm(spec.k, device=device, generator=g).int() if spec.act_order else None,
    )


@dataclass(frozen=True)
class Contender:
    """`call(state, x)` is the product; copies of `state` rotate. `kernel` names what runs for M tokens."""

    state: Any
    call: Callable[[Any, Tensor], Tensor]
    kernel: Callable[[int], str] = lambda m: ""


Adapter = Callable[[Weight], "Contender | str"]


def qcore(weight: Weight) -> Contender | str:
    from qcore import _C, ops

    spec, perm = weight.spec, weight.perm
    packed = ops.w4a16_pack(weight.codes, weight.scales, weight.zeros, spec.group_size, spec.bits)
    layout = int(packed.shape.shape[1])
    gemm = torch.ops.qcore.w4a16_gemm

    def kernel(m: int) -> str:
        shape = (m, spec.n, spec.k, spec.group_size, spec.bits, spec.asymmetric)
        device = weight.codes.device.type
        try:
            sm = 0
            if device == "cuda":
                major, minor = torch.cuda.get_device_capability()
                sm = major * 10 + minor
            options = {"dtype": spec.dtype_name, "device": device, "layout": layout, "sm": sm}
            return _C.explain("w4a16", *shape, **options)[0]
        except (ValueError, RuntimeError):  # the name is only a remark
            return "?"

    return Contender(tuple(packed), lambda state, x: gemm(x, *state, perm), kernel)


def qcore_invariant(weight: Weight) -> Contender | str:
    """The same, with results that do not depend on M."""
    spec = weight.spec
    if spec.bits != 4 or spec.asymmetric or spec.act_order or spec.dtype != torch.bfloat16:
        return "timed for symmetric 4-bit bfloat16 weights only"
    plain = qcore(weight)
    if isinstance(plain, str):
        return plain
    gemm = torch.ops.qcore.w4a16_gemm
    return Contender(plain.state, lambda state, x: gemm(x, *state, None, None, True))


def torch_dense(weight: Weight) -> Contender | str:
    spec = weight.spec
    dense = torch.empty(spec.n, spec.k, dtype=spec.dtype, device=weight.codes.device)
    order = None if weight.perm is None else torch.argsort(weight.perm.long())
    for at, values in weight.rows():
        dense[at] = values if order is None else values[:, order]
    return Contender(dense, lambda state, x: linear(x, state))


def torch_int4(weight: Weight) -> Contender | str:
    """torch's own tensor-core kernel ("tinygemm"); its weight is scale * (code - 8) + zero."""
    spec = weight.spec
    if spec.bits != 4 or spec.act_order or spec.dtype != torch.bfloat16:
        return "takes 4 bits, bfloat16, no act-order"
    if not hasattr(torch.ops.aten, "_weight_int4pack_mm"):
        return "this torch has no _weight_int4pack_mm"
    codes = weight.codes[:, ::2] << 4 | weight.codes[:, 1::2]
    packed = torch.ops.aten._convert_weight_to_int4pack(codes.contiguous(), 8)
    zeros = torch.zeros_like(weight.scales)
    if weight.zeros is not None:
        zeros = ((8 - weight.zeros.float()) * weight.scales.float()).to(spec.dtype)
    table = torch.stack([weight.scales.T, zeros.T], dim=-1).contiguous()
    mm, group_size = torch.ops.aten._weight_int4pack_mm, spec.group_size
    return Contender((packed, table), lambda state, x: mm(x, state[0], group_size, state[1]))


def gptq_words(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes [N, K] as GPTQ's int32 [K * bits / 32, N], lowest bits first along K."""
    per_word = 32 // bits
    words = torch.zeros(codes.shape[1] // per_word, codes.shape[0], dtype=torch.int32, device=codes.device)
    for i in range(per_word):
        words |= codes[:, i::per_word].T.int() << (bits * i)
    return words


def vllm_marlin(weight: Weight) -> Contender | str:
    if find_spec("vllm") is None:
        return "vllm is not installed"
    from vllm import _custom_ops  # type: ignore[import-not-found]
    from vllm.model_executor.layers.quantization.utils import marlin_utils  # type: ignore[import-not-found]
    from vllm.scalar_type import scalar_types  # type: ignore[import-not-found]

    spec, device = weight.spec, weight.codes.device
    if spec.act_order or spec.float8 or (spec.asymmetric and spec.bits != 4):
        return "not adapted for act-order, float8, nor for asymmetric 8 bits"
    none = torch.empty(0, dtype=torch.int32, device=device)
    groups = spec.k // spec.group_size
    words = _custom_ops.gptq_marlin_repack(
        gptq_words(weight.codes, spec.bits), none, spec.k, spec.n, spec.bits
    )
    scales = marlin_utils.marlin_permute_scales(weight.scales.T.contiguous(), spec.k, spec.n, spec.group_size)
    kind = scalar_types.uint4b8 if spec.bits == 4 else scalar_types.uint8b128
    zeros = none
    if weight.zeros is not None:
        kind = scalar_types.uint4
        table = weight.zeros.T.int().contiguous()
        zeros = marlin_utils.marlin_zero_points(table, groups, spec.n, spec.bits).to(device)
    workspace = marlin_utils.marlin_make_workspace_new(device)

    def call(state: Any, x: Tensor) -> Tensor:
        return marlin_utils.apply_gptq_marlin_linear(  # type: ignore[no-any-return]
            input=x,
            weight=state[0],
            weight_scale=state[1],
            weight_zp=state[2],
            g_idx=none,
            g_idx_sort_indices=none,
            workspace=workspace,
            wtype=kind,
            output_size_per_partition=spec.n,
            input_size_per_partition=spec.k,
            is_k_full=True,
        )

    return Contender((words, scales, zeros), call)


def vllm_machete(weight: Weight) -> Contender | str:
    if find_spec("vllm") is None:
        return "vllm is not installed"
    from vllm import _custom_ops
    from vllm.scalar_type import scalar_types

    spec = weight.spec
    if spec.asymmetric or spec.act_order or spec.float8:
        return "adapted for symmetric integers without act-order only"
    if torch.cuda.get_device_capability() != (9, 0):
        return "takes Hopper only"
    kind = scalar_types.uint4b8 if spec.bits == 4 else scalar_types.uint8b128
    words = gptq_words(weight.codes, spec.bits).t().contiguous().t()  # it wants them column-major
    packed = _custom_ops.machete_prepack_B(words, spec.dtype, kind, spec.dtype)
    scales = weight.scales.T.contiguous()

    def call(state: Any, x: Tensor) -> Tensor:
        return _custom_ops.machete_mm(  # type: ignore[no-any-return]
            a=x, b_q=state[0], b_type=kind, b_group_scales=state[1], b_group_size=spec.group_size
        )

    return Contender((packed, scales), call)


def marlin(weight: Weight) -> Contender | str:
    if find_spec("marlin") is None:
        return "marlin is not installed"
    import marlin as package  # type: ignore[import-not-found]

    spec = weight.spec
    if (spec.dtype, spec.bits, spec.group_size) != (torch.float16, 4, 128):
        return "takes float16, 4 bits, groups of 128"
    if spec.asymmetric or spec.act_order:
        return "takes symmetric weights without act-order"
    device = weight.codes.device
    dense = torch.nn.Linear(spec.k, spec.n, bias=False, dtype=torch.float16, device=device)
    for at, values in weight.rows():
        dense.weight.data[at] = values.half()
    layer = package.Layer(spec.k, spec.n, groupsize=spec.group_size).to(device)
    layer.pack(dense, weight.scales)
    return Contender(layer, lambda state, x: state(x))


def gemlite(weight: Weight) -> Contender | str:
    if find_spec("gemlite") is None:
        return "gemlite is not installed"
    from gemlite.core import DType, GemLiteLinear  # type: ignore[import-not-found]

    spec = weight.spec
    if spec.act_order or spec.float8:
        return "takes no act-order, and is not adapted for float8"
    kind = DType.BF16 if spec.dtype == torch.bfloat16 else DType.FP16
    layer = GemLiteLinear(
        spec.bits,
        group_size=spec.group_size,
        in_features=spec.k,
        out_features=spec.n,
        input_dtype=kind,
        output_dtype=kind,
    )
    zeros = weight.zeros
    if zeros is None:
        zeros = torch.full_like(weight.scales, float(1 << (spec.bits - 1)), dtype=torch.uint8)
    table = zeros.to(spec.dtype).reshape(-1, 1)
    layer.pack(weight.codes.clone(), weight.scales.reshape(-1, 1).clone(), table, None)
    return Contender(layer, lambda state, x: state(x))


def torchao(weight: Weight) -> Contender | str:
    if find_spec("torchao") is None:
        return "torchao is not installed"
    return "its tile-packed int4 layout runs torch's _weight_int4pack_mm, which is timed as torch int4"


# qcore and torch first: the tables read them by these names.
ADAPTERS: dict[str, Adapter] = {
    "qcore": qcore,
    "torch": torch_dense,
    "qcore invariant": qcore_invariant,
    "torch int4": torch_int4,
    "vllm marlin": vllm_marlin,
    "vllm machete": vllm_machete,
    "marlin": marlin,
    "gemlite": gemlite,
    "torchao": torchao,
}


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def build(
    weight: Weight, adapters: dict[str, Adapter] = ADAPTERS
) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders for this weight, and for every other adapter its reason."""
    contenders, reasons = {}, {}
    for name, adapter in adapters.items():
        try:
            made = adapter(weight)
        except Exception as error:  # whatever a foreign package raises, the others go on
            made = first_line(error)
        if isinstance(made, str):
            reasons[name] = made
        else:
            contenders[name] = made
    return contenders, reasons
