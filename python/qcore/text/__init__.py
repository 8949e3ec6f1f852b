"""From what users have, files, texts, chats, rows of data sets, to token ids: `files` reads, `records`
recognises, `tokens` turns into ids, `batches` into forward calls."""

from qcore.text.batches import forward_calls
from qcore.text.files import read_texts
from qcore.text.tokenizers import TokenizerOf, load_tokenizer
from qcore.text.tokens import Sequences, read_sequences, token_chunks

__all__ = [
    "Sequences",
    "TokenizerOf",
    "forward_calls",
    "load_tokenizer",
    "read_sequences",
    "read_texts",
    "token_chunks",
]
