"""An embedding whose table stays quantized."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcore import ops

__all__ = ["QEmbedding"]


class QEmbedding(nn.Module):
    """Looks up rows of a table [V, K] that is stored in blocks, and decodes only those.

    The table may lie in a mapped file. Casting the module (`.half()`, `.to(dtype)`) changes the dtype of
    what it returns; the table stays as it is.

    Args:
        blocks: uint8 [V, bytes of a row].
        type: how rows are stored, one of `qcore.ops.block_formats`.
        k: elements of a row.
        dtype: of the rows returned.
        scale: what they are multiplied by.
    """

    blocks: Tensor
    like: Tensor

    def __init__(
        self, blocks: Tensor, type: str, k: int, dtype: torch.dtype = torch.float32, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = blocks.shape[0], k
        self.block_type, self.scale = type, scale
        self.register_buffer("blocks", blocks)
        # Without elements: it only carries the dtype, which casting the module changes.
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=blocks.device), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The whole table [V, K], decoded anew at each call, for code that looks at `.weight`."""
        return ops.kquant_dequantize(self.blocks, self.block_type, self.embedding_dim, self.like.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        rows = ops.kquant_dequantize(self.blocks[ids], self.block_type, self.embedding_dim, self.like.dtype)
        return rows if self.scale == 1.0 else rows * rows.new_tensor(self.scale)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, type={self.block_type}"
