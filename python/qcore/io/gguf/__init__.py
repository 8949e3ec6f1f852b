"""GGUF files, which llama.cpp and its relatives run."""

from qcore.io.gguf.architectures import ARCHITECTURES, Architecture
from qcore.io.gguf.mixes import GGUF_SCHEMES
from qcore.io.gguf.reader import GgufFile, GgufTensor, is_gguf

__all__ = ["ARCHITECTURES", "GGUF_SCHEMES", "Architecture", "GgufFile", "GgufTensor", "is_gguf"]
