"""Fake kernels of the operators, for tracing, and their gradients. Importing this registers them.

A fake gives shapes, dtypes and devices, and makes the checks that need no data.
"""

from qcore.fakes import kquant, w4a16, w8a8

__all__ = ["kquant", "w4a16", "w8a8"]
