"""Quantizing: one pipeline, from memory or a folder into memory, a folder or a GGUF file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qcore.calibration.data import Batch, calibration_batches
from qcore.calibration.layers import calibrate, needs_calibration
from qcore.checkpoints.containers import CONTAINERS
from qcore.checkpoints.saving import SHARD_BYTES
from qcore.checkpoints.store import Destination
from qcore.checkpoints.stores import STORES, scheme_in_memory, store_at, store_for
from qcore.checkpoints.streamed import FolderSource
from qcore.choice import choose_formats
from qcore.ends import Ends, round_tables
from qcore.formats import Format
from qcore.in_memory import ModelDestination, ModelSource
from qcore.linears import as_linear, matrix_shape
from qcore.methods import Method, resolve_method
from qcore.nn import QLinear
from qcore.report import QuantizationReport
from qcore.schemes import Scheme, parse_rules
from qcore.text import Sequences, TokenizerOf, forward_calls

__all__ = ["quantize", "quantize_checkpoint", "quantize_folder", "quantize_gguf"]

Calibration = str | os.PathLike[str] | Tensor | Batch | Sequences | Iterable[Any] | None


def quantize(
    model: nn.Module,
    scheme: str | Format | Scheme = "W4A16",
    method: str | Method = "gptq",
    calibration: Calibration = None,
    ignore: Sequence[str] = ("lm_head",),
    group_size: int | None = None,
    sequential: bool = True,
    device: str | torch.device | None = None,
    tokenizer: Any = None,
    overrides: Sequence[str] = (),
    quantize_head: int | None = None,
    quantize_embeddings: int | None = None,
) -> nn.Module:
    """Quantizes a model's linear layers in place and returns it, ready for inference.

    Args:
        model: any module made of linear layers (`qcore.linears.LINEAR_KINDS`): `nn.Linear`, what is derived
            from it without computing anything else, and GPT-2's `Conv1D`; transformers models are calibrated
            block by block. Gates of one row and routers of experts stay as they are.
        scheme: W2A16, W3A16, W4A16, W8A16, each also with _ASYM (zero points); W8A8, FP8 and others of
            `qcore.SCHEMES`, which round inputs too; NF4; a block format of GGUF, as Q4_K, or a mix of them,
            as Q4_K_M; an alias as int4, int8 or 4bit (`qcore.schemes.ALIASES`); a format; or a function that
            gives each layer its own (`qcore.schemes.Scheme`).
        method: rtn, imatrix, gptq, awq, awq+gptq, or a method object with options of its own.
        calibration: token ids int64 [sequences, T], or an iterable of such tensors, of lists of ids, or of
            keyword arguments of the model's forward, as a DataLoader gives them; texts, chats (lists of
            messages with role and content), rows of a data set (`qcore.text.records.ROW_KINDS`), or the path
            of a file of them: JSON lines, CSV, or one text. Texts and chats longer than 2,048 tokens, or than
            the model takes, become several sequences. Not needed for rtn, unless input scales are static.
        ignore: layers to leave as they are: names, last parts of names, or "re:" and an expression.
        group_size: columns per scale, -1 for one scale per row; by default the scheme's, 128. Block
            formats have their own.
        sequential: calibrate each layer behind the already quantized layers of its own block too.
        device: where blocks are calibrated and quantized, one at a time; by default where the model is.
        tokenizer: of the model, for calibration with texts and chats: the special tokens are those that it
            puts around texts, and chats go through its chat template.
        overrides: PATTERN=SCHEME, or PATTERN=float, for layers in whose name the expression is found, ignored
            ones too; the first that fits counts.
        quantize_head: 8 or 4 bits, in groups of group_size columns, for the layer that makes the logits.
        quantize_embeddings: likewise for the embedding of tokens. Where it is tied to the head, either asks
            for both, which get one set of codes, rounded to nearest.

    Returns:
        The model; its `qcore_report` (`qcore.report.QuantizationReport`) says what was chosen, and what was
        left out on the way. Less than 90 % of what could be quantized is a warning too, and
        so are, before calibration, formats that no folder stores.

    Raises:
        ValueError: an argument that does not fit, naming it; NaN or infinite weights, naming the layer.
            The model is unchanged, unless the calibration data itself is at fault.
    """
    _expect_floats(model)
    with as_linear(model):
        ends, chosen = Ends(quantize_head, quantize_embeddings, group_size), resolve_method(method)
        resolved = scheme_in_memory(scheme, group_size, model, chosen.needs_calibration)
        choice = choose_formats(model, resolved, ignore, parse_rules(overrides), ends)
        destination = ModelDestination(model, choice, chosen)
        choice.report.unsavable = unsavable = _unsavable(model, choice.formats)
        if unsavable and chosen.needs_calibration:  # said before hours are spent
            warnings.warn(f"the quantized model cannot be saved: {unsavable}", stacklevel=2)
        report = _run(ModelSource(model), destination, calibration, sequential, device, tokenizer)
    model.qcore_report = report  # type: ignore[assignment]
    return model


def _unsavable(model: nn.Module, formats: Mapping[str, Format]) -> str:
    """Why no container stores a model in these formats; "" if one does."""
    for name, format in formats.items():
        k = matrix_shape(model.get_submodule(name))[1]
        why = [container.why_not(format, k) for container in CONTAINERS]
        if None not in why:
            return f"{name}: {why[0]}"
    return ""


def _expect_floats(model: Any) -> None:
    """A model in memory that is not quantized yet; else the call that was meant."""
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        raise ValueError(
            f"model: expected a model in memory, got {path!r}; call qcore.quantize_folder({path!r}, "
            f"destination), or qcore.quantize(qcore.load({path!r}))"
        )
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a torch.nn.Module, got a {type(model).__name__}")
    done = [name for name, module in model.named_modules() if isinstance(module, QLinear)]
    if done:
        raise ValueError(
            f"model: is quantized already ({len(done)} layers, the first is {done[0]}); quantize the model "
            f"that it was made of, with overrides= where layers shall differ"
        )
    stored = getattr(getattr(model, "config", None), "quantization_config", None)
    if stored is not None:
        raise ValueError(
            "model: is quantized already, by transformers (config.quantization_config); quantize the model "
            "that it was made of, or what model.dequantize() returns"
        )


def quantize_checkpoint(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    scheme: str | Format | Scheme,
    method: str | Method = "gptq",
    calibration: Calibration = None,
    sequential: bool = True,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    tokenizer: Any = None,
    **options: Any,
) -> QuantizationReport:
    """Quantizes a Hugging Face folder, or a GGUF file, into what the destination's name says: a GGUF file if
    it ends in .gguf, else a folder.

    What is quantized in a GGUF file is dequantized and quantized again, with a warning.

    The model is never whole in memory: without calibration one tensor at a time is, with calibration one
    block, besides the embeddings and the hidden states of the calibration text. Nothing appears under the
    destination's name before it is complete.

    Args:
        trust_remote_code: run Python code that the source brings; see `qcore.load`.
        tokenizer: for calibration with texts and chats; by default the source's own.
        options: of the store: `ignore`, `group_size`, `overrides`, `shard_bytes`, `quantize_head` and
            `quantize_embeddings` for a folder (see `quantize_folder`), `overrides` for a GGUF file (see
            `quantize_gguf`). The other arguments are those of `qcore.quantize`.

    Returns:
        What was chosen, and what was left out on the way.
    """
    store = store_for(destination)
    for name in options:
        if name not in store.options:
            known = any(name in other.options for other in STORES)
            raise ValueError(f"{name}: " + (f"is not for {store.noun}" if known else "is no option"))
    if Path(destination).is_file() and Path(source).is_file() and Path(source).samefile(destination):
        raise ValueError(f"{destination}: is the source itself; write to another file")
    tokenizer = TokenizerOf(source, trust_remote_code) if tokenizer is None else tokenizer
    with store_at(source).source(source, trust_remote_code) as origin:
        plan = store.destination(origin, destination, scheme, resolve_method(method), overwrite, **options)
        plan.report.notes += origin.notes
        return _run(origin, plan, calibration, sequential, device, tokenizer)


def quantize_folder(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    scheme: str | Format | Scheme = "W4A16",
    method: str | Method = "gptq",
    calibration: Calibration = None,
    ignore: Sequence[str] = ("lm_head",),
    group_size: int | None = None,
    sequential: bool = True,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    overrides: Sequence[str] = (),
    tokenizer: Any = None,
    quantize_head: int | None = None,
    quantize_embeddings: int | None = None,
) -> QuantizationReport:
    """Quantizes a Hugging Face folder into another one, in compressed-tensors.

    See `quantize_checkpoint`. The arguments are those of `qcore.quantize` and `qcore.save`.
    """
    return quantize_checkpoint(
        source,
        destination,
        scheme,
        method,
        calibration,
        sequential,
        overwrite,
        device,
        trust_remote_code,
        tokenizer,
        ignore=ignore,
        group_size=group_size,
        overrides=overrides,
        shard_bytes=shard_bytes,
        quantize_head=quantize_head,
        quantize_embeddings=quantize_embeddings,
    )


def quantize_gguf(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    scheme: str = "Q4_K_M",
    method: str | Method = "gptq",
    calibration: Calibration = None,
    overrides: Sequence[str] = (),
    sequential: bool = True,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> QuantizationReport:
    """Quantizes a Hugging Face folder into a GGUF file, with its tokenizer; see `quantize_checkpoint`.

    Args:
        scheme: one of `qcore.checkpoints.gguf.GGUF_SCHEMES`: which type each tensor gets.
        method: chooses the codes of the linear layers inside the blocks; the embedding and the head are
            rounded to nearest, as they are by llama.cpp.
        overrides: PATTERN=TYPE, for tensors in whose name (that in the file) the expression is found.

    Raises:
        ValueError: a model or tokenizer that cannot be stored in a GGUF file, or an argument that does not
            fit, with the reason. Nothing is left behind.
    """
    return quantize_checkpoint(
        source,
        destination,
        scheme,
        method,
        calibration,
        sequential,
        overwrite,
        device,
        trust_remote_code,
        overrides=overrides,
    )


def _run(
    source: FolderSource | ModelSource,
    destination: Destination,
    calibration: Calibration,
    sequential: bool,
    device: str | torch.device | None,
    tokenizer: Any,
) -> QuantizationReport:
    """The pipeline: the source's weights, part by part, through the method, into the destination."""
    model, formats, method, report = source.model, destination.formats, destination.method, destination.report
    if report.warning is not None:
        warnings.warn(report.warning, stacklevel=4)
    needed = bool(formats) and needs_calibration(method, formats.values())
    batches = _batches(calibration, model, tokenizer, report) if needed else []
    source.check(formats)
    with source.opened(), destination.opened() as sink, torch.no_grad():
        weights = source.weights(sink, device)
        round_tables(destination.tables, weights)
        if formats:
            calibrate(model, formats, batches, method, weights.emit, weights, sequential, report)
        weights.finish()
        sink.finish()
    return report


def _batches(
    calibration: Calibration, model: nn.Module, tokenizer: Any, report: QuantizationReport
) -> list[Batch]:
    if calibration is None or isinstance(calibration, Tensor):
        return calibration_batches(calibration, model)
    calls, report.calibration = forward_calls(calibration, model, tokenizer)
    return calibration_batches(calls, model)
