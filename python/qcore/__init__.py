"""Quantized matrix kernels for CPU and CUDA, and the tools to quantize models with them.

>>> import qcore
>>> qcore.quantize(model, "W4A16", "gptq", calibration=token_ids)
>>> qcore.save(model, "model-w4a16")
>>> model = qcore.load("model-w4a16")
"""

from __future__ import annotations

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

import qcore.library  # noqa: F401 - before all else: registers the ops, and loads what _C links against
from qcore import ops, repack
from qcore.formats import Activations, BlockFormat, Float8, Format, Int8, IntGroup, ScaledFormat, fake_quant
from qcore.ops import kernels
from qcore.qweight import Inputs, QWeight
from qcore.requires import models_for

if TYPE_CHECKING:
    from qcore.checkpoints.saving import save
    from qcore.checkpoints.stores import load
    from qcore.evaluation import EmbeddingEvaluation, Evaluation, evaluate, evaluate_embeddings
    from qcore.methods import Awq, Gptq, Imatrix, Rtn
    from qcore.nn import QLinear
    from qcore.quantization import quantize, quantize_checkpoint, quantize_folder, quantize_gguf
    from qcore.schemes import SCHEMES
    from qcore.text import load_tokenizer

__version__ = _version("qcore")
__all__ = [
    "SCHEMES",
    "Activations",
    "Awq",
    "BlockFormat",
    "EmbeddingEvaluation",
    "Evaluation",
    "Float8",
    "Format",
    "Gptq",
    "Imatrix",
    "Inputs",
    "Int8",
    "IntGroup",
    "QLinear",
    "QWeight",
    "Rtn",
    "ScaledFormat",
    "evaluate",
    "evaluate_embeddings",
    "fake_quant",
    "kernels",
    "load",
    "load_tokenizer",
    "ops",
    "quantize",
    "quantize_checkpoint",
    "quantize_folder",
    "quantize_gguf",
    "repack",
    "save",
]

# Imported on first use, so that a framework that only wants the ops starts fast. Some of it needs the extra
# `models`: transformers and its kin.
_LAZY = {
    "SCHEMES": "qcore.schemes",
    "Awq": "qcore.methods",
    "EmbeddingEvaluation": "qcore.evaluation",
    "Evaluation": "qcore.evaluation",
    "Gptq": "qcore.methods",
    "Imatrix": "qcore.methods",
    "QLinear": "qcore.nn",
    "Rtn": "qcore.methods",
    "evaluate": "qcore.evaluation",
    "evaluate_embeddings": "qcore.evaluation",
    "load": "qcore.checkpoints.stores",
    "load_tokenizer": "qcore.text",
    "quantize": "qcore.quantization",
    "quantize_checkpoint": "qcore.quantization",
    "quantize_folder": "qcore.quantization",
    "quantize_gguf": "qcore.quantization",
    "save": "qcore.checkpoints.saving",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'qcore' has no attribute {name!r}")
    from importlib import import_module

    with models_for(f"qcore.{name}"):
        value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
