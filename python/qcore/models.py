"""Hugging Face models: how to build one empty and fill it.

transformers takes seconds to import, and is where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qcore.linears import carry_hooks, is_transposed, matrix_shape
from qcore.nn import QEmbedding, QLinear
from qcore.qweight import QWeight
from qcore.room import Room
from qcore.tensors import persistent_tensors

__all__ = [
    "Places",
    "config_of",
    "dtypes_in",
    "embedding_name",
    "empty_model",
    "head_name",
    "places_of",
    "replace_embedding",
    "replace_linear",
    "scale_of",
    "trusting",
    "understood",
    "untie_quantized_heads",
]


@contextmanager
def trusting(folder: Path, trust_remote_code: bool) -> Iterator[None]:
    """While it lasts, a refusal of transformers to run a folder's own code says how to allow it."""
    try:
        yield
    except ValueError as error:
        if trust_remote_code or "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{folder}: needs Python code of its own (auto_map), which runs only if it is trusted: read it, "
            f"then pass trust_remote_code=True (--trust-remote-code on the command line)"
        ) from error


@contextmanager
def understood(folder: Path, what: str) -> Iterator[None]:
    """Around calls of transformers with a folder's files, which may say anything: whatever it trips over is a
    ValueError."""
    try:
        yield
    except (ImportError, MemoryError, ValueError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # one of the system
            raise
        raise ValueError(f"{folder}: {what}: {type(error).__name__}: {error}") from error


def config_of(folder: Path, trust_remote_code: bool = False) -> Any:
    """The transformers configuration, without its quantization: qcore itself reads the weights.

    Args:
        trust_remote_code: run the code that the folder brings, where transformers has none for it.
    """
    from transformers import AutoConfig

    with understood(folder, "config.json"), trusting(folder, trust_remote_code):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    return config


def empty_model(
    config: Any,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
    room: Room | None = None,
) -> nn.Module:
    """The model of a configuration in evaluation mode: parameters on the meta device, buffers real.

    The model is built in float32, because tables in its buffers (rotary frequencies) are computed in the
    dtype that it is built in; the parameters get the dtype of what is put into them.

    Args:
        room: of the checkpoint that it is built for.

    Raises:
        ValueError: a configuration of which no model can be built, or one for which there is no room.
    """
    from accelerate import init_empty_weights

    stored_dtype = getattr(config, "dtype", None)
    folder = Path(getattr(config, "name_or_path", "") or "")
    with understood(folder, "no model can be built"), trusting(folder, trust_remote_code):
        build = _builder(config, trust_remote_code, dtype)
        if room:
            _expect_room(build, room)
        with init_empty_weights(include_buffers=False):
            model = build()
    model.config.dtype = stored_dtype
    return model.eval()  # type: ignore[no-any-return]


def _builder(config: Any, trust_remote_code: bool, dtype: torch.dtype) -> Callable[[], Any]:
    """What makes a model of a configuration."""
    import transformers

    architecture = (getattr(config, "architectures", None) or [None])[0]
    model_class: Any = getattr(transformers, architecture or "", None)
    auto = getattr(transformers, _auto_class(config, architecture))
    own_code = trust_remote_code and auto.__name__ in (getattr(config, "auto_map", None) or {})
    if not own_code and hasattr(model_class, "_from_config"):
        return partial(model_class._from_config, config, dtype=dtype)
    return partial(auto.from_config, config, dtype=dtype, trust_remote_code=trust_remote_code)


def _expect_room(build: Callable[[], Any], room: Room) -> None:
    """Builds a model without memory, in a tenth of the time, and looks at how large it would be."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # what it has to say comes with the real one
    try:
        with torch.device("meta"), room.building():
            model = build()
    except RuntimeError:  # code that looks at values, which these have not
        return
    finally:
        logging.set_verbosity(before)
    room.expect_size(model)


def dtypes_in(config: Any, dtype: torch.dtype, trust_remote_code: bool = False) -> dict[str, torch.dtype]:
    """The dtype of each of a model's floating point tensors when it computes in `dtype`, as transformers
    loads it: that one, but for what the model's own code keeps in float32."""
    model: Any = empty_model(deepcopy(config), trust_remote_code, dtype)
    plan: dict[str, torch.dtype] = getattr(model, "_get_dtype_plan", lambda _: {})(dtype)
    rules = [(re.compile(part.replace("*", ".*")), kept) for part, kept in plan.items()]
    return {
        name: next((kept for pattern, kept in rules if pattern.search(name)), tensor.dtype)
        for name, tensor in persistent_tensors(model).items()
        if tensor.is_floating_point()
    }


def _auto_class(config: Any, architecture: str | None) -> str:
    """Which of transformers' automatic classes makes the model: that under which the folder lists its own
    class, else that for language models if there is one, else the plain one."""
    import transformers

    listed = getattr(config, "auto_map", None)
    own: Mapping[str, str] = listed if isinstance(listed, Mapping) else {}
    models = [name for name in own if name.startswith("AutoModel") and hasattr(transformers, name)]
    for name in models:
        if str(own[name]).rpartition(".")[2] == architecture:
            return name
    language_model = "AutoModelForCausalLM"
    known = type(config) in transformers.AutoModelForCausalLM._model_mapping
    return language_model if known or language_model in models else (models or ["AutoModel"])[0]


Places = Mapping[nn.Module, Sequence[tuple[nn.Module, str]]]


def places_of(model: nn.Module) -> Places:
    """The owners of each module, and its names in them: one, unless it is shared."""
    places: dict[nn.Module, list[tuple[nn.Module, str]]] = {}
    for owner in model.modules():
        for leaf, child in owner._modules.items():
            if child is not None:
                places.setdefault(child, []).append((owner, leaf))
    return places


def replace_linear(model: nn.Module, name: str, weight: QWeight, places: Places | None = None) -> None:
    """Puts a QLinear in the place of the named linear layer, where it was, under all names that it has.

    Args:
        places: of the model's layers, if many are replaced.

    Raises:
        ValueError: a weight of another shape.
    """
    linear = model.get_submodule(name)
    expected = matrix_shape(linear)
    if tuple(weight.shape) != expected:
        raise ValueError(
            f"{name}: expected a weight of shape {list(expected)}, as the model has it, got "
            f"{list(weight.shape)}"
        )
    old = linear.get_parameter("weight")
    if not old.is_meta:
        weight = weight.to(old.device)
    new = QLinear(weight, linear._parameters.get("bias"))
    carry_hooks(linear, new)
    new.was_transposed = is_transposed(linear)
    for owner, leaf in (places_of(model) if places is None else places)[linear]:
        owner._modules[leaf] = new


def replace_embedding(
    model: nn.Module, name: str, weight: QWeight, dtype: torch.dtype, places: Places | None = None
) -> None:
    """Puts a QEmbedding in the place of the named embedding, where it was, under all names that it has.

    Args:
        dtype: of the rows that it gives.
        places: see `replace_linear`.

    Raises:
        ValueError: a weight of another shape, an embedding that is none of those that are known.
    """
    old: Any = model.get_submodule(name)
    expected = (old.num_embeddings, old.embedding_dim)
    if tuple(weight.shape) != expected:
        raise ValueError(
            f"{name}: expected a weight of shape {list(expected)}, as the model has it, got "
            f"{list(weight.shape)}"
        )
    if not old.weight.is_meta:
        weight = weight.to(old.weight.device)
    new = QEmbedding(weight, dtype, scale_of(name, old)).train(old.training)
    carry_hooks(old, new)
    for owner, leaf in (places_of(model) if places is None else places)[old]:
        owner._modules[leaf] = new


def scale_of(name: str, embedding: nn.Embedding) -> float:
    """What an embedding multiplies its rows by.

    Raises:
        ValueError: it does something else than that to them.
    """
    kind = type(embedding)
    scale = getattr(embedding, "embed_scale", None)  # Gemma's and BART's
    plain = kind.forward is nn.Embedding.forward
    if embedding.max_norm is not None or (not plain and scale is None):
        raise ValueError(f"{name}: is no plain embedding ({kind.__name__}), and cannot be quantized")
    return 1.0 if plain else float(scale)  # type: ignore[arg-type]


def embedding_name(model: nn.Module) -> str | None:
    """The name of the embedding of tokens, whatever its architecture calls it."""
    get = getattr(model, "get_input_embeddings", None)
    try:
        found = None if get is None else get()
    except (NotImplementedError, AttributeError):  # how models say that they have none
        return None
    if not isinstance(found, (nn.Embedding, QEmbedding)):
        return None
    return next((name for name, module in model.named_modules() if module is found), None)


def untie_quantized_heads(model: nn.Module) -> None:
    """Makes configurations say that a head which is quantized no longer is the embedding; one that is
    quantized too has the same codes."""
    for module in model.modules():
        head = head_name(module) if hasattr(module, "config") else None
        if head is None or not isinstance(module.get_submodule(head), QLinear):
            continue
        table = embedding_name(module)
        if table is None or not isinstance(module.get_submodule(table), QEmbedding):
            module.config.tie_word_embeddings = False  # type: ignore[union-attr]


def head_name(model: nn.Module) -> str | None:
    """The name of the layer that makes logits of hidden states, whatever its architecture calls it."""
    get = getattr(model, "get_output_embeddings", None)
    head = get() if get is not None else None
    return next((name for name, module in model.named_modules() if module is head), None)
