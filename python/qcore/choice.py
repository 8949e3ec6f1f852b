"""Which layers of a model are quantized, in which formats, and what is left of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from qcore.calibration.stacks import find_blocks
from qcore.ends import Ends, Table, choose_ends
from qcore.formats import Format
from qcore.linears import gates, holds_experts, linear_names, matrix_shape, never_called
from qcore.models import head_name
from qcore.report import VECTOR, LeftOut, QuantizationReport
from qcore.schemes import Layer, Rule, Scheme

__all__ = ["Choice", "account", "choose_formats", "is_ignored"]


@dataclass(frozen=True)
class Choice:
    """What is decided before anything is computed.

    Attributes:
        formats: of each layer to quantize.
        report: how many of which, and what is left out.
        tables: embeddings to quantize, with the linear layers that are tied to them.
    """

    formats: dict[str, Format]
    report: QuantizationReport
    tables: dict[str, Table] = field(default_factory=dict)


def is_ignored(name: str, ignore: Sequence[str]) -> bool:
    """Whether a layer is named by `ignore`: whole names, their last parts ("lm_head", "down_proj"), or
    regular expressions after "re:", matched from the start of the name."""
    for pattern in ignore:
        if pattern.startswith("re:"):
            if re.match(pattern[3:], name):
                return True
        elif name == pattern or name.endswith("." + pattern):
            return True
    return False


def choose_formats(
    model: nn.Module,
    scheme: Scheme,
    ignore: Sequence[str],
    rules: Sequence[Rule] = (),
    ends: Ends = Ends(),  # noqa: B008
    apart: Collection[str] = (),
) -> Choice:
    """The format of each layer to quantize: of all linear layers but those ignored, what the scheme says.
    Gates and routers (`qcore.linears.gates`), and layers that are never called, stay as they are.

    A layer whose rows are no whole groups, or blocks, of its format gets the nearest format that fits; if
    there is none, it stays as it is.

    "lm_head" in `ignore` stands for the layer that makes the logits, whatever its name.

    Args:
        rules: what they say of a layer counts before all else; the first that fits.
        ends: what is asked of the head, before `ignore` is, and of the embedding.
        apart: see `qcore.ends.choose_ends`.
    """
    names = linear_names(model)
    for each in rules:
        if not any(each.pattern.search(name) for name in names):
            raise ValueError(f"{each}: fits no linear layer of the model")
    head = head_name(model)
    head_ignored = "lm_head" in ignore
    blocks = find_blocks(model, names)
    report = QuantizationReport()
    of_head, tables = choose_ends(model, ends, apart)
    tied = {linear for table in tables.values() for linear in table.linears}
    formats: dict[str, Format] = {}
    reasons: dict[str, tuple[str, bool]] = {
        name: (why, False) for name, why in gates(model, names).items() if name != head
    }
    report.not_called = never_called(model, names)
    reasons |= dict.fromkeys(report.not_called, ("its weight is read, it is never called", False))
    for name in names:
        if name in tied:
            continue
        rule = next((rule for rule in rules if rule.pattern.search(name)), None)
        if rule is None and of_head is not None and name == head:
            formats[name] = of_head[1]
            report.choose(name, str(of_head[0]), str(of_head[1]))
            continue
        if rule is None and ((name == head and head_ignored) or is_ignored(name, ignore)):
            reasons[name] = ("ignored", True)
        if rule is None and name in reasons:
            continue
        n, k = matrix_shape(model.get_submodule(name))
        block = next((i for i, prefix in enumerate(blocks) if name.startswith(prefix + ".")), None)
        asked = scheme(Layer(name, (n, k), block, len(blocks))) if rule is None else rule.format
        format = None if asked is None else asked.for_columns(k)
        if format is not None:
            formats[name] = format
            report.choose(name, str(asked), str(format), 0 if name == head else n * k)
        else:
            fits_not = f"{asked} does not fit rows of {k}"
            reasons[name] = ("the scheme leaves it", True) if asked is None else (fits_not, False)
    if not formats:
        raise ValueError(
            f"model: no linear layer is left to quantize ({len(names)} found, ignore={tuple(ignore)}); "
            f"{_what_there_is(model)}"
        )
    for name, table in tables.items():
        report.choose(name, str(table.asked), str(table.format))
    account(model, formats, reasons, report)
    return Choice(formats, report, tables)


def account(
    model: nn.Module,
    quantized: Mapping[str, object],
    reasons: Mapping[str, tuple[str, bool]],
    report: QuantizationReport,
) -> None:
    """Adds up what is left of all parameters besides the embeddings and the head.

    Args:
        quantized: names of linear layers.
        reasons: why others are not, and whether that was asked for.
    """
    head = head_name(model)
    for owner, leaf, parameter in _parameters(model):
        module = model.get_submodule(owner)
        if owner == head or isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            continue
        size = parameter.numel()
        if owner in quantized and leaf == "weight":
            continue
        name = owner if leaf == "weight" else f"{owner}.{leaf}".lstrip(".")
        if owner in reasons and leaf == "weight":
            report.left_out[name] = LeftOut(size, *reasons[owner])
        else:
            report.left_out[name] = LeftOut(size, _nature(module, parameter))


def _parameters(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Owner, own name and value of every parameter, tied ones once."""
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        yield owner, leaf, parameter


def _nature(module: nn.Module, parameter: nn.Parameter) -> str:
    if parameter.dim() == 1:
        return VECTOR
    if holds_experts(module, parameter):
        return "experts in one tensor"
    kind = type(module).__name__
    if "forward" in module.__dict__:
        return f"of a {kind} whose forward was replaced"
    return f"of {kind}, which is no linear layer"


def _what_there_is(model: nn.Module) -> str:
    """The kinds of modules that hold most parameters."""
    sizes: dict[str, int] = {}
    for owner, _, parameter in _parameters(model):
        kind = type(model.get_submodule(owner)).__name__
        sizes[kind] = sizes.get(kind, 0) + parameter.numel()
    largest = sorted(sizes, key=lambda kind: -sizes[kind])[:3]
    return "most parameters are in " + ", ".join(largest) if largest else "it has no parameters"
