"""The library of the ops, torch.ops.qcore.*: importing this loads it.

It knows nothing of Python, and a C++ process registers the ops by loading the same file.
"""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["PATH"]

PATH = Path(__file__).with_name("libqcore_ops.so")

torch.ops.load_library(PATH)
