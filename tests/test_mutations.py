"""A folder with one thing wrong loads the same, or is refused by an error that names what is wrong.

Nothing else: no other exception, no model that computes something else. Of each container that is read there
is at least one folder, by its own tool (`tests/fixtures`) where that runs on a CPU.
"""

from __future__ import annotations

import os
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sampling
import tiny
from foreign_layers import write_llama
from mutations import Folder, Mutation, of_config, of_tensors
from qcore import load, quantize, save
from qcore.checkpoints.containers import CONTAINERS
from test_fixtures import FIXTURES, FOLDERS
from test_float8_folders import BLOCKS, blocks, rows, tensorwise

IDS = torch.arange(12).reshape(1, 12) % 32
# How many mutations of a folder a run tries.
PART = 30


def saved(scheme: str, container: str, **options: Any) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        model = tiny.make_model("llama-bias", num_hidden_layers=1, hidden_size=128, intermediate_size=128)
        save(quantize(model, scheme, "rtn", tiny.tokens(2), **options), path, container=container)

    return write


def by_hand(config: dict[str, Any], layer: Callable[..., Any]) -> Callable[[Path], object]:
    return lambda path: write_llama(path, config, layer, num_hidden_layers=1)


FBGEMM = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]}
STATIC = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
# Folders beside those of tests/fixtures, by who writes them.
MADE: dict[str, Callable[[Path], object]] = {
    "compressed-tensors/order": saved("W4A16_ASYM", "compressed-tensors", group_size=32),
    "compressed-tensors/static": saved("W8A8_ASYM", "compressed-tensors"),
    "compressed-tensors/tables": saved("W8A16", "compressed-tensors", group_size=32, quantize_embeddings=8),
    "fp8/block": by_hand({**BLOCKS, "modules_to_not_convert": ["lm_head"]}, blocks),
    "fp8/static": by_hand(STATIC, lambda *a: tensorwise(*a, "weight_scale", "input_scale")),
    "fbgemm_fp8/rows": by_hand(FBGEMM, rows),
}

# Weights that nobody here quantizes: numbers that are none are the writer's business.
PLAIN = ("lm_head.weight", "model.embed_tokens.weight", "norm.weight", "bias")
# Tensors in which any pattern of bits is a code, or several.
ANY_BITS = (".qweight", ".qzeros", ".weight_packed", ".W_q", ".weight", ".absmax", "input_zero_point")
OTHER = "another model"
# What makes another checkpoint of one, as good as the first: nothing else in it says so. By tool.
OTHERS = {
    # Inputs are rounded, or rounded otherwise, by the word of the configuration alone.
    # int8 codes of 8 bits may be anything.
    "llmcompressor": r"input_activations (removed|= None)|input_activations\.(symmetric|type) ",
    "compressed-tensors": r"input_activations (removed|= None)|input_activations\.(symmetric|type) ",
    "torchao/int8": r"_weight_(qdata|zero_point) with 0x7f",
    "torchao/int8_dynamic": r"act_quant_kwargs (removed|= None)|_weight_qdata with 0x7f",
    # Scales in bytes are powers of two.
    "fp8": r"weight_scale(_inv)? torch\.uint8",
}


def loaded(path: Path) -> Tensor:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return load(path, dtype=torch.float32)(IDS).logits  # type: ignore[no-any-return]


def outcome(mutation: Mutation, expected: Tensor, path: Path) -> str | None:
    """What is wrong with how a folder was met; None if nothing is."""
    try:
        found = loaded(mutation.folder.write(path))
    except ValueError as error:
        text = str(error).removeprefix(f"{path}: ")
        names = [mutation.where, *mutation.folder.tensors, *re.split(r"[. ]", mutation.where)]
        layers = {key.rpartition(".")[0] for key in mutation.folder.tensors}
        if any(name in text for name in (*names, *layers) if len(name) > 2):
            return None
        return f"an error that names nothing: {text[:150]}"
    except Exception as error:
        return f"{error!r}"[:200]
    same = found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    return None if same else OTHER


def folder_of(name: str, path: Path) -> Folder:
    if name in MADE:
        MADE[name](path)
    return Folder.read(path if name in MADE else FIXTURES / name)


def all_of(folder: Folder) -> Iterator[Mutation]:
    yield from of_config(folder)
    layers = ("k_proj", "down_proj", "lm_head", "embed_tokens", "input_layernorm")
    keys = [key for key in folder.tensors if any(layer in key for layer in layers)]
    for mutation in of_tensors(folder, keys):
        plain = (
            mutation.where.endswith(PLAIN)
            and mutation.where.removesuffix("weight") + "weight_scale" not in keys
        )
        free = mutation.how == "with 0x7f" and mutation.where.endswith(ANY_BITS)
        if not (free or (plain and mutation.how.startswith("with"))):
            yield mutation


def some_of(folder: Folder, name: str) -> list[Mutation]:
    """Another part of them in each run (`tests/sampling.py`)."""
    mutations = list(all_of(folder))
    if os.environ.get("QCORE_TEST_ALL") == "1":
        return mutations
    random.Random(f"{sampling.seed()} {name}").shuffle(mutations)
    return mutations[:PART]


@pytest.mark.parametrize("name", [*FOLDERS, *MADE])
def test_one_thing_wrong(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / "made")
    expected = loaded(folder.write(tmp_path / "m"))
    wrong = {str(mutation): outcome(mutation, expected, tmp_path / "m") for mutation in some_of(folder, name)}
    known = [OTHERS[key] for key in (name.partition("/")[0], name) if key in OTHERS]
    bad = [
        f"{what}: {how}"
        for what, how in wrong.items()
        if how and not (how == OTHER and any(re.search(pattern, what) for pattern in known))
    ]
    assert not bad, "\n".join(bad)


def test_every_container_is_tried(tmp_path: Path) -> None:
    folders = [folder_of(name, tmp_path / str(i)) for i, name in enumerate([*FOLDERS, *MADE])]
    methods = {folder.config["quantization_config"]["quant_method"] for folder in folders}
    assert methods == {container.method for container in CONTAINERS}
