"""Tiny random transformers models, one per architecture that the project promises to handle."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from torch import nn

VOCABULARY = 64

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
_GQA = {"num_key_value_heads": 2, "head_dim": 16}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_SIZES, **_GQA}),
    "llama-tied": ("LlamaConfig", {**_SIZES, **_GQA, "tie_word_embeddings": True}),
    "llama-bias": ("LlamaConfig", {**_SIZES, **_GQA, "attention_bias": True, "mlp_bias": True}),
    "qwen2": ("Qwen2Config", {**_SIZES, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", {**_SIZES, **_GQA}),
    "mistral": ("MistralConfig", {**_SIZES, **_GQA, "sliding_window": 8}),
    "gemma": ("GemmaConfig", {**_SIZES, **_GQA}),
    "gemma2": ("Gemma2Config", {**_SIZES, **_GQA, "sliding_window": 8}),
    "gemma3": ("Gemma3TextConfig", {**_SIZES, **_GQA, "sliding_window": 8}),
    "phi": ("PhiConfig", {**_SIZES}),
    "gpt-neox": ("GPTNeoXConfig", {**_SIZES}),
    "bert": ("BertConfig", {**_SIZES}),
    "opt": ("OPTConfig", {**_SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64}),
    # Blocks that return tuples.
    "gptj": ("GPTJConfig", {**_SIZES, "num_hidden_layers": 4, "rotary_dim": 8}),
    "bloom": ("BloomConfig", {**_SIZES, "num_hidden_layers": 4}),
}
# Which of them have norms (or linear layers) that can absorb an input scale everywhere.
FULLY_FOLDABLE = {
    "llama",
    "llama-tied",
    "llama-bias",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3",
}


def make_model(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, **sizes: int) -> nn.Module:
    """A model with weights large enough that quantizing them shows in the output."""
    config_class, arguments = CONFIGS[name]
    config = getattr(tf, config_class)(**{**arguments, **sizes})
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(config, token, None) is not None:
            setattr(config, token, 0)
    torch.manual_seed(seed)
    auto = tf.AutoModelForMaskedLM if name == "bert" else tf.AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval()  # type: ignore[no-any-return]


def tokens(rows: int = 4, length: int = 24, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (rows, length), generator=generator)


@torch.no_grad()
def logits(model: nn.Module, ids: torch.Tensor | None = None) -> torch.Tensor:
    out = model(input_ids=tokens(seed=99) if ids is None else ids).logits
    return out.float()  # type: ignore[no-any-return]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative root-mean-square difference."""
    return float((a - b).double().norm() / b.double().norm())
