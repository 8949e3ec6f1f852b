"""An embedding whose table stays quantized."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qcore.formats import Format
from qcore.qweight import QWeight

__all__ = ["QEmbedding"]

_CODES = "codes"


class QEmbedding(nn.Module):
    """Looks up rows of a quantized table [V, K], and decodes only those.

    The table may lie in a mapped file. Casting the module (`.half()`, `.to(dtype)`) changes the dtype of
    what it returns; the table stays as it is. Its buffers are the tensors of the weight; codes of 4 bits and
    less are two in a byte.

    Args:
        weight: the table, in any format that decodes; without anything that happens to inputs.
        dtype: of the rows returned.
        scale: what they are multiplied by.
    """

    like: Tensor

    def __init__(self, weight: QWeight, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> None:
        super().__init__()
        if weight.inputs.tensors():
            raise ValueError(f"weight: a table has no inputs, got {', '.join(weight.inputs.tensors())}")
        self.num_embeddings, self.embedding_dim = weight.shape
        self.format: Format = weight.format
        self.scale = scale
        self._names = tuple(weight.tensors)
        self._halved = _fits_half_bytes(weight)
        for name, tensor in weight.tensors.items():
            self.register_buffer(name, _two_in_a_byte(tensor) if self._halved and name == _CODES else tensor)
        first = next(iter(weight.tensors.values()))
        # Without elements: it only carries the dtype, which casting the module changes.
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=first.device), persistent=False)

    def _apply(self, fn: object, recurse: bool = True) -> QEmbedding:
        """Moves everything, casts `like` alone: scales stay what was chosen."""
        kept = {name: self._buffers[name] for name in self._names}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in kept.items():
            moved = self._buffers[name]
            assert tensor is not None
            assert moved is not None
            if moved.dtype != tensor.dtype:
                self._buffers[name] = tensor.to(moved.device)
        return self

    def tensors(self) -> Mapping[str, Tensor]:
        """The buffers of the table."""
        return {name: self.get_buffer(name) for name in self._names}

    def to_qweight(self) -> QWeight:
        """The table as it was given."""
        tensors = dict(self.tensors())
        if self._halved:
            tensors[_CODES] = _one_in_a_byte(tensors[_CODES])
        return QWeight(self.format, (self.num_embeddings, self.embedding_dim), tensors)

    @property
    def weight(self) -> Tensor:
        """The whole table [V, K], decoded anew at each call, for code that looks at `.weight`."""
        return self.to_qweight().dequantize(self.like.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        flat, tensors = ids.reshape(-1).long(), dict(self.tensors())
        if self._halved:
            chosen = {name: tensor[flat] for name, tensor in tensors.items()}
            rows = self.format.dequantize({**chosen, _CODES: _one_in_a_byte(chosen[_CODES])})
        else:
            rows = self.format.decode_rows(tensors, flat)
        rows = rows.to(self.like.dtype).view(*ids.shape, self.embedding_dim)
        return rows if self.scale == 1.0 else rows * rows.new_tensor(self.scale)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.format}"


def _fits_half_bytes(weight: QWeight) -> bool:
    """Whether codes may be halved: 4 bits in rows of an even length, and all else is by row."""
    scaled, (n, k) = weight.format.scaled, weight.shape
    if scaled is None or k % 2 or scaled.bits > 4 or weight.tensors[_CODES].dtype != torch.uint8:
        return False
    return all(len(tensor) == n for tensor in weight.tensors.values())


def _two_in_a_byte(codes: Tensor) -> Tensor:
    return codes[:, ::2] | codes[:, 1::2] << 4


def _one_in_a_byte(codes: Tensor) -> Tensor:
    return torch.stack((codes & 15, codes >> 4), -1).flatten(-2)
