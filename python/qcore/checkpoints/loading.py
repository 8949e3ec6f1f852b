"""A model of transformers from a Hugging Face folder, quantized or not: every tensor comes from its files."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from qcore.checkpoints.cache_words import unused_of_cache
from qcore.checkpoints.containers import container_of, expect_plain
from qcore.checkpoints.files import Checkpoint
from qcore.conversion import Conversion, renamer
from qcore.ends import place_table, sharing
from qcore.linears import linear_names
from qcore.models import (
    config_of,
    dtypes_in,
    embedding_name,
    empty_model,
    head_name,
    places_of,
    replace_linear,
    understood,
    untie_quantized_heads,
)
from qcore.nn import QLinear
from qcore.progress import track
from qcore.tensors import (
    fill_computed,
    persistent_tensors,
    set_tensor,
    shared_names,
    stored_names,
    tie_weights,
    unmatched,
)

__all__ = ["FLOATS", "load_folder"]

# What weights may be stored in, as safetensors names it.
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
FLOATS = tuple(_DTYPES)


def load_folder(checkpoint: Checkpoint, dtype: torch.dtype | None, trust_remote_code: bool) -> nn.Module:
    """The model of a checkpoint on the CPU; see `qcore.load`."""
    stored = checkpoint.quantization
    if not stored:
        return _load_plain(checkpoint, dtype, trust_remote_code)
    return _load_quantized(checkpoint, stored, dtype, trust_remote_code)


def _load_plain(checkpoint: Checkpoint, dtype: torch.dtype | None, trust_remote_code: bool) -> nn.Module:
    """An unquantized model, by transformers' own loader."""
    config = config_of(checkpoint.path, trust_remote_code)
    empty: Any = empty_model(config, trust_remote_code, room=checkpoint.room)
    ours = persistent_tensors(empty)
    expect_plain(checkpoint, ours)
    floats = {name for name, tensor in ours.items() if tensor.is_floating_point()}
    for key in checkpoint:
        _expect_floats(checkpoint, key, key, floats)
    try:
        model, info = type(empty).from_pretrained(
            checkpoint.path,
            config=config,
            dtype=dtype or "auto",
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to name them
        )
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:  # how it meets what is damaged
        if "alloc" in str(error):  # no memory
            raise
        raise ValueError(f"{checkpoint.path}: transformers cannot load it: {error!r}") from error
    for name, got, expected in sorted(info["mismatched_keys"]):
        raise ValueError(f"{checkpoint.path}: {name}: expected shape {tuple(expected)}, got {tuple(got)}")
    _expect_all(checkpoint, sorted(info["missing_keys"]))
    _report_unused(checkpoint, sorted(info["unexpected_keys"]))
    return model.eval()  # type: ignore[no-any-return]


def _load_quantized(
    checkpoint: Checkpoint, stored: Mapping[str, Any], dtype: torch.dtype | None, trust_remote_code: bool
) -> nn.Module:
    container = container_of(stored, checkpoint.files)
    layers = container.layers(stored, checkpoint)
    if not layers:
        raise ValueError(
            f"{checkpoint.path}: quantization_config says {container.method}, but no layer is quantized"
        )
    config = config_of(checkpoint.path, trust_remote_code)
    model = empty_model(config, trust_remote_code, room=checkpoint.room)
    parts = {key for layer in layers for key in layer.parts}
    rest = [key for key in checkpoint if key not in parts]
    of_cache = unused_of_cache(stored, rest, str(checkpoint.path))
    keys = [key for key in rest if key not in of_cache]
    model.config.dtype = dtype = dtype or _dtype_of(config, checkpoint, keys)
    linears, rename, places = set(linear_names(model)), renamer(model), places_of(model)
    tables = {n for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, nn.Embedding)}
    apart = {rename(f"{layer.name}.weight") for layer in layers} | {rename(key) for key in checkpoint}
    for layer in track(layers, "loading layers"):
        name = rename(f"{layer.name}.weight").removesuffix(".weight")
        if name not in linears | tables:
            raise ValueError(
                f"{checkpoint.path}: {layer.name} is quantized, but is no linear layer of the model, nor an "
                f"embedding"
            )
        weight = container.read(layer, stored, {key: checkpoint.tensor(key) for key in layer.parts})
        if name in linears:
            replace_linear(model, name, weight, places)
            continue
        shared = sharing(model, name, apart - {f"{name}.weight"})
        place_table(model, *shared, weight, dtype, places)
    untie_quantized_heads(model)
    _untie_apart(model, apart)
    _fill(model, checkpoint, keys, dtype, dtypes_in(config, dtype, trust_remote_code))
    return model


def _untie_apart(model: Any, apart: Collection[str]) -> None:
    """Makes the configuration say so, if a quantized embedding and the head are two."""
    head, table = head_name(model), embedding_name(model)
    if table is not None and f"{head}.weight" in apart and f"{table}.weight" in apart:
        model.config.tie_word_embeddings = False


def _dtype_of(config: Any, checkpoint: Checkpoint, keys: Sequence[str]) -> torch.dtype:
    """What the activations are in, as transformers decides it: the configuration's, else that of the first
    tensor."""
    stated = getattr(config, "dtype", None)
    first = next((checkpoint.dtype(key) for key in keys if checkpoint.dtype(key) in FLOATS), "F32")
    return stated if isinstance(stated, torch.dtype) else _DTYPES[first]


def _fill(
    model: nn.Module,
    checkpoint: Checkpoint,
    keys: Sequence[str],
    dtype: torch.dtype,
    dtypes: Mapping[str, torch.dtype],
) -> None:
    """Everything besides the quantized layers: what these keys hold, each in its dtype."""
    ours = persistent_tensors(model)
    names, floats = ours.keys(), {name for name, tensor in ours.items() if tensor.is_floating_point()}
    conversion = Conversion(model, names, keys, checkpoint.shape)
    groups, stored = shared_names(model), stored_names(model, conversion.same)
    unused = conversion.unused
    missing = [name for name in names if name not in stored and name not in conversion.merges]
    _expect_all(checkpoint, fill_computed(model, missing, dtype))
    _, unknown = unmatched(model, (), unused)
    unknown = [name for name in unknown if not _is_idle(model, checkpoint, unused[name], name)]
    _report_unused(checkpoint, sorted(unused[name] for name in unknown))
    read: set[str] = set()
    for name, key in stored.items():
        if key in read:  # tied below
            continue
        read.add(key)
        _expect_floats(checkpoint, name, key, floats)
        set_tensor(model, name, checkpoint.tensor(key).to(dtypes.get(name)))
    for merge in {id(merge): merge for merge in conversion.merges.values()}.values():
        for name, tensor in merge.made(checkpoint.tensor).items():
            if name in names:
                set_tensor(model, name, tensor.to(dtypes.get(name)))
    tie_weights(model, stored, groups)
    _expect_all(checkpoint, [name for name, p in model.named_parameters() if p.is_meta])
    if (checkpoint.path / "generation_config.json").exists() and model.can_generate():  # type: ignore[operator]
        from transformers import GenerationConfig

        with understood(checkpoint.path, "generation_config.json"):
            model.generation_config = GenerationConfig.from_pretrained(checkpoint.path)
    model.name_or_path = str(checkpoint.path)  # type: ignore[assignment]


def _expect_floats(checkpoint: Checkpoint, name: str, key: str, floats: Collection[str]) -> None:
    """Raises if a tensor is none of floats, but is one of those of the model that are, or a weight."""
    if (name in floats or name.endswith("weight")) and checkpoint.dtype(key) not in FLOATS:
        raise ValueError(
            f"{key}: holds codes ({checkpoint.dtype(key)}), but nothing says what they stand for"
        )


def _is_idle(model: nn.Module, checkpoint: Checkpoint, key: str, name: str) -> bool:
    """Whether a tensor is the bias, of zeros, that AutoGPTQ writes for layers without one. Any other bias of
    a quantized layer that has none is an error."""
    owner, _, leaf = name.rpartition(".")
    if leaf != "bias" or not isinstance(dict(model.named_modules()).get(owner), QLinear):
        return False
    if bool((checkpoint.tensor(key) != 0).any()):
        raise ValueError(f"{checkpoint.path}: {key}: is not zero, but the model has no bias there")
    return True


def _expect_all(checkpoint: Checkpoint, missing: Sequence[str]) -> None:
    if missing:
        raise ValueError(
            f"{checkpoint.path}: {len(missing)} of the model's tensors are not in the checkpoint, "
            f"the first is {missing[0]}"
        )


def _report_unused(checkpoint: Checkpoint, unused: Sequence[str]) -> None:
    if unused:
        warnings.warn(
            f"{checkpoint.path}: {len(unused)} of its tensors are not used, the first is {unused[0]}",
            stacklevel=6,
        )
