"""GGUF files, which llama.cpp and its relatives run."""

from qcore.checkpoints.gguf.architectures import ARCHITECTURES, Architecture
from qcore.checkpoints.gguf.mixes import GGUF_SCHEMES
from qcore.checkpoints.gguf.reader import GgufFile, GgufTensor, is_gguf

__all__ = ["ARCHITECTURES", "GGUF_SCHEMES", "Architecture", "GgufFile", "GgufTensor", "is_gguf"]
