"""Modules: the one quantized linear layer and the embedding whose table stays quantized."""

from qcore.nn.embedding import QEmbedding
from qcore.nn.linear import QLinear
from qcore.nn.products import PRODUCTS, Product

__all__ = ["PRODUCTS", "Product", "QEmbedding", "QLinear"]
