"""The model architectures of GGUF files: what their metadata and tensors are called in transformers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH, get_tensor_name_map
from torch import Tensor

__all__ = [
    "ARCHITECTURES",
    "NUMBERS",
    "ROPE_FREQS",
    "YARN",
    "Architecture",
    "attention_scalar",
    "default_window",
    "head_dim",
]

# The tensor of factors by which rotary frequencies are divided.
ROPE_FREQS = "rope_freqs.weight"


@dataclass(frozen=True)
class Architecture:
    """How one architecture of GGUF relates to one of transformers.

    Attributes:
        name: in the file, where it also is the prefix of its metadata keys.
        model_types: of transformers' configurations; the first one is built when a file is read.
        activation: the only one that llama.cpp computes for it.
        permuted: rows of attn_q and attn_k are stored with the two halves of each head interleaved.
        norm_offset: what the file adds to the weights of norms.
        window_period: with a sliding window, every so-many-th layer attends to everything, by default;
            0: a window, if there is one, is that of all layers.
        shared_head: the embedding always makes the logits.
    """

    name: str
    model_types: tuple[str, ...]
    activation: str = "silu"
    permuted: bool = False
    norm_offset: float = 0.0
    window_period: int = 0
    shared_head: bool = False

    def tensor_names(self, names: Iterable[str], layers: int) -> dict[str, str]:
        """The name in the file of each parameter of a transformers model that has one."""
        arch = next(a for a in MODEL_ARCH if a.name.lower() == self.name)
        table = get_tensor_name_map(arch, layers)
        found = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}
        return {name: stored for name, stored in found.items() if stored is not None}

    def row_order(self, stored: str, config: Any) -> Tensor | None:
        """For a tensor whose rows the file has in another order: row i there is row `order[i]` here."""
        if not self.permuted or (".attn_q." not in stored and ".attn_k." not in stored):
            return None
        heads = config.num_attention_heads if ".attn_q." in stored else config.num_key_value_heads
        return torch.arange(heads * head_dim(config)).view(heads, 2, -1).transpose(1, 2).flatten()

    def offset(self, stored: str) -> float:
        """What the file adds to the elements of a tensor."""
        return self.norm_offset if stored.endswith("norm.weight") else 0.0


ARCHITECTURES = {
    a.name: a
    for a in (
        Architecture("llama", ("llama", "mistral"), permuted=True),
        Architecture("qwen2", ("qwen2",)),
        Architecture("qwen3", ("qwen3",)),
        Architecture("gemma", ("gemma",), "gelu_pytorch_tanh", norm_offset=1.0, shared_head=True),
        Architecture(
            "gemma2", ("gemma2",), "gelu_pytorch_tanh", norm_offset=1.0, window_period=2, shared_head=True
        ),
        Architecture("gemma3", ("gemma3_text",), "gelu_pytorch_tanh", norm_offset=1.0, window_period=6),
    )
}

# Keys behind the architecture's name, and the attribute of the configuration that holds the value.
NUMBERS: tuple[tuple[str, str], ...] = (
    ("vocab_size", "vocab_size"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
)

# Options of YaRN, likewise.
YARN: tuple[tuple[str, str], ...] = (
    ("scaling.attn_factor", "attention_factor"),
    ("scaling.yarn_beta_fast", "beta_fast"),
    ("scaling.yarn_beta_slow", "beta_slow"),
)


def head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def attention_scalar(architecture: Architecture, config: Any) -> int:
    """Gemma 2 and 3 scale scores by the root of this, which their files do not say: of the sizes that exist
    only 27B, known by its depth, differs from the head's."""
    depth = {"gemma2": 46, "gemma3": 62}[architecture.name]
    if config.num_hidden_layers == depth:
        return int(config.hidden_size // config.num_attention_heads)
    return head_dim(config)


def default_window(period: int, layers: int) -> list[bool]:
    return [(layer + 1) % period != 0 for layer in range(layers)]
