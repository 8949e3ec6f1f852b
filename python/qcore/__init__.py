"""Quantized matrix kernels for CPU and CUDA, and the tools to quantize models with them."""

from importlib.metadata import version as _version

import torch as _torch  # noqa: F401 - loads the libraries that qcore._C links against

from qcore import _C, ops

__version__ = _version("qcore")
__all__ = ["_C", "__version__", "ops"]
