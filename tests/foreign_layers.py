"""Layers of other people's checkpoints, written in numpy from the descriptions of their formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import tiny
from qcore.linears import linear_names

# Of one weight [N, K]: its tensors, and what they stand for.
Made = tuple[dict[str, Tensor], np.ndarray]


def bit_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """int32 [R, ceil(C * bits / 32)] of codes [R, C]: their bits one after another, lowest first."""
    single = np.unpackbits(codes[:, :, None], axis=2, bitorder="little")[:, :, :bits]
    stream = single.reshape(len(codes), -1)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    return np.packbits(stream, axis=1, bitorder="little").view("<i4")


def whole_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """int32 words of as many codes as fit without one being cut."""
    each = 32 // bits
    words = np.zeros((len(codes), -(-codes.shape[1] // each)), dtype=np.uint32)
    for row, column in np.ndindex(*codes.shape):
        words[row, column // each] |= np.uint32(codes[row, column]) << np.uint32(column % each * bits)
    return words.view(np.int32)


def awq_words(codes: np.ndarray) -> np.ndarray:
    """int32 [R, C / 8]: nibble i holds column [0, 2, 4, 6, 1, 3, 5, 7][i] of eight."""
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), dtype=np.uint32)
    for i, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        words |= codes[:, column::8].astype(np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


@dataclass
class Layer:
    """What a checkpoint says, before it is written in any format."""

    codes: np.ndarray  # [N, K], in the checkpoint's order of columns
    scales: np.ndarray  # [N, G] float16
    zeros: np.ndarray  # [N, G]
    g_idx: np.ndarray  # [K]
    group_size: int

    @property
    def dense(self) -> np.ndarray:
        zeros = self.zeros[:, self.g_idx].astype(np.float64)
        return self.scales[:, self.g_idx].astype(np.float64) * (self.codes - zeros)


def make_layer(
    n: int,
    k: int,
    group_size: int,
    bits: int,
    symmetric: bool = False,
    act_order: bool = False,
    seed: int = 0,
) -> Layer:
    random = np.random.default_rng(seed)
    groups = -(-k // group_size)
    codes = random.integers(0, 2**bits, (n, k), dtype=np.uint8)
    zeros = random.integers(0, 2**bits, (n, groups), dtype=np.uint8)
    if symmetric:
        zeros[:] = 2 ** (bits - 1)
    scales = random.uniform(0.001, 0.02, (n, groups)).astype(np.float16)
    g_idx = (np.arange(k) // group_size).astype(np.int32)
    return Layer(codes, scales, zeros, random.permutation(g_idx) if act_order else g_idx, group_size)


def less_one(zeros: np.ndarray, bits: int) -> np.ndarray:
    """The words int32 [R, W] of zero points [R, C], stored less one as version 1 stores them."""
    if bits == 3:  # code by code
        return bit_stream((zeros + 7) % 8, 3)
    ones = sum(1 << shift for shift in range(0, 32, bits))
    words = bit_stream(zeros, bits).view(np.uint32).astype(np.int64) - ones  # a 0 borrows from the next code
    return (words % 2**32).astype(np.uint32).view(np.int32)


def gptq(layer: Layer, bits: int, version: str) -> dict[str, Tensor]:
    zeros = layer.zeros.T
    return {
        "qweight": tensor(bit_stream(layer.codes, bits).T),
        "qzeros": tensor(less_one(zeros, bits) if version == "gptq" else bit_stream(zeros, bits)),
        "scales": tensor(layer.scales.T),
        "g_idx": tensor(layer.g_idx),
    }


def awq(layer: Layer, symmetric: bool = False) -> dict[str, Tensor]:
    tensors = {"qweight": tensor(awq_words(layer.codes.T)), "scales": tensor(layer.scales.T)}
    return tensors if symmetric else {**tensors, "qzeros": tensor(awq_words(layer.zeros.T))}


def compressed_tensors(
    layer: Layer, bits: int, symmetric: bool, words: object = bit_stream
) -> dict[str, Tensor]:
    """`pack-quantized`; `words` packs codes, `bit_stream` or `whole_codes`."""
    tensors = {
        "weight_packed": tensor(words(layer.codes, bits)),  # type: ignore[operator]
        "weight_scale": tensor(layer.scales),
        "weight_shape": torch.tensor(layer.codes.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = tensor(words(layer.zeros.T, bits).T)  # type: ignore[operator]
    if not np.array_equal(layer.g_idx, np.arange(len(layer.g_idx)) // layer.group_size):
        tensors["weight_g_idx"] = tensor(layer.g_idx)
    return tensors


def write_llama(
    folder: Path, config: dict[str, Any] | None, make: Callable[..., Made], twin: Any = None, **sizes: Any
) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """A folder whose linear layers but the head are what `make` makes of (n, k, seed); the float model of the
    same weights, and these, by layer.

    Args:
        twin: of hf_quant_config.json, if there is one.
    """
    model = tiny.make_model("llama", **sizes)
    tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = {}
    for seed, name in enumerate(name for name in linear_names(model) if name != "lm_head"):
        n, k = tensors.pop(f"{name}.weight").shape
        made, weights[name] = make(n, k, seed)
        tensors |= {f"{name}.{part}": tensor for part, tensor in made.items()}
        model.get_submodule(name).weight.data = torch.from_numpy(weights[name]).float()  # type: ignore[union-attr]
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    stored = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"]}  # type: ignore[operator, union-attr]
    if config is not None:
        stored["quantization_config"] = config
    (folder / "config.json").write_text(json.dumps(stored))
    if twin is not None:
        (folder / "hf_quant_config.json").write_text(json.dumps(twin))
    return model, weights
