"""The ends of a language model, its embedding of tokens and its head: quantized only where that is asked, and
tied ones together, as one set of codes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from qcore.calibration.one_layer import quantize_linear
from qcore.calibration.weights import Weights
from qcore.formats import Format, IntGroup
from qcore.linears import is_linear
from qcore.methods import Rtn
from qcore.models import Places, embedding_name, head_name, replace_embedding, replace_linear, scale_of
from qcore.nn import QEmbedding
from qcore.qweight import QWeight
from qcore.tensors import persistent_tensors, shared_names

__all__ = ["END_BITS", "Ends", "Table", "choose_ends", "place_table", "round_tables", "sharing"]

END_BITS = (4, 8)
_GROUP = 128


@dataclass(frozen=True)
class Ends:
    """What is asked of the ends.

    Attributes:
        head: bits of the head, one of END_BITS; None: the scheme and `ignore` decide.
        embeddings: bits of the embedding of tokens; None: it stays as it is.
        group_size: columns that share a scale.
    """

    head: int | None = None
    embeddings: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        for name, bits in (("quantize_head", self.head), ("quantize_embeddings", self.embeddings)):
            if bits is not None and bits not in END_BITS:
                raise ValueError(f"{name}: expected {' or '.join(map(str, END_BITS))} bits, got {bits!r}")

    def format(self, bits: int, k: int) -> tuple[Format, Format]:
        """What is asked for rows of K elements, and what fits them."""
        asked = IntGroup(bits, group_size=_GROUP if self.group_size is None else self.group_size)
        return asked, asked.for_columns(k)


@dataclass(frozen=True)
class Table:
    """A weight that embeddings look up and, if they are tied to it, linear layers multiply by.

    Attributes:
        embeddings: the names of those that have it; it is stored under the first.
        linears: likewise.
    """

    format: Format
    asked: Format
    embeddings: tuple[str, ...]
    linears: tuple[str, ...] = ()


def choose_ends(
    model: nn.Module, ends: Ends, apart: Collection[str] = ()
) -> tuple[tuple[Format, Format] | None, dict[str, Table]]:
    """The format of the head, asked for and chosen, unless it is tied or not asked for; and tables, by name.

    Args:
        apart: names of weights that the model ties, but whose checkpoint holds values of their own.

    Raises:
        ValueError: what is asked for is not there, or not as it is asked for.
    """
    if ends.head is None and ends.embeddings is None:
        return None, {}
    head, name = head_name(model), embedding_name(model)
    if ends.head is not None and head is None:
        raise ValueError(f"quantize_head: {type(model).__name__} has no head that makes logits")
    if name is None:
        if ends.embeddings is not None:
            raise ValueError(f"quantize_embeddings: {type(model).__name__} has no embedding of tokens")
        return _of_head(model, head, ends), {}
    embeddings, linears = sharing(model, name, apart)
    tied = head in linears
    if tied and None not in (ends.head, ends.embeddings) and ends.head != ends.embeddings:
        raise ValueError(
            f"quantize_head, quantize_embeddings: head and embedding are one weight, expected one number of "
            f"bits, got {ends.head} and {ends.embeddings}"
        )
    if ends.embeddings is None and not tied:
        return _of_head(model, head, ends), {}
    for each in embeddings:
        scale_of(each, model.get_submodule(each))  # type: ignore[arg-type]
    bits = ends.embeddings or ends.head
    assert bits is not None
    k = int(model.get_submodule(name).get_parameter("weight").shape[1])
    asked, format = ends.format(bits, k)
    tables = {name: Table(format, asked, embeddings, linears)}
    return (None if tied else _of_head(model, head, ends)), tables


def _of_head(model: nn.Module, head: str | None, ends: Ends) -> tuple[Format, Format] | None:
    if ends.head is None or head is None:
        return None
    return ends.format(ends.head, int(model.get_submodule(head).get_parameter("weight").shape[1]))


def sharing(
    model: nn.Module, name: str, apart: Collection[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The embeddings, itself first, and the linear layers that have the weight of the named embedding."""
    key, tensors = f"{name}.weight", persistent_tensors(model)
    weight = tensors[key]
    if weight.is_meta:
        group = next((group for group in shared_names(model) if key in group), [key])
        names = [each for each in group if each not in apart]
    else:
        where = (weight.data_ptr(), weight.shape)
        names = [n for n, t in tensors.items() if t is weight or (t.data_ptr(), t.shape) == where]
    modules = [each.removesuffix(".weight") for each in names if each != key]
    embeddings = [n for n in modules if isinstance(model.get_submodule(n), nn.Embedding)]
    linears = [n for n in modules if is_linear(model.get_submodule(n))]
    for each in modules:
        if each not in (*embeddings, *linears):
            raise ValueError(f"{name}: its weight is that of {each} too, which cannot be quantized")
    return (name, *embeddings), tuple(linears)


def round_tables(tables: Mapping[str, Table], weights: Weights) -> None:
    """Rounds each table to nearest, with searched ranges: no input says which of its columns matter."""
    for name, table in tables.items():
        with weights.loaded(name):
            w = weights.model.get_submodule(name).get_parameter("weight").detach()
            dtype = weights.stored_dtype(name, "weight")
            weights.emit_table(name, quantize_linear(name, w, None, table.format, Rtn(search=True), dtype))


def place_table(
    model: nn.Module,
    embeddings: Collection[str],
    linears: Collection[str],
    weight: QWeight,
    dtype: torch.dtype,
    places: Places | None = None,
) -> None:
    """Puts the weight into all layers that have it."""
    for name in embeddings:
        if not isinstance(model.get_submodule(name), QEmbedding):  # a module may have several names
            replace_embedding(model, name, weight, dtype, places)
    for name in linears:
        if is_linear(model.get_submodule(name)):
            replace_linear(model, name, weight, places)
