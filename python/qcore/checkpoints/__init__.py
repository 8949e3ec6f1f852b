"""Checkpoints: where models are stored, and how.

A *store* is a kind of place, a Hugging Face folder or a GGUF file (`stores.py` lists them); a *container* is
how a folder spells its quantized layers: compressed-tensors, GPTQ, AWQ (`containers.py` lists them).
Importing this imports neither, nor transformers.
"""
