"""The lists of ``libqcore_ops.so``, which :mod:`qcore.library` loads first."""

from typing import TypedDict

class FormatInfo(TypedDict):
    name: str
    summary: str

class BlockFormatInfo(TypedDict):
    name: str
    ggml_type: int
    elements: int
    bytes: int
    group: int
    values: list[int]
    has_min: bool

class KernelInfo(TypedDict):
    name: str
    op: str
    format: str
    device: str
    isa: str
    sm: int
    layout: int

class PackedBlocksInfo(TypedDict):
    layout: int
    name: str
    device: str
    elements: int
    expert_elements: int

class LayoutInfo(TypedDict):
    number: int
    name: str
    format: str
    device: str

def version() -> str: ...
def cuda_built() -> bool: ...
def cpu_isa() -> str: ...
def isas() -> list[str]: ...  # of this machine, weakest first
def formats() -> list[FormatInfo]: ...
def block_formats() -> list[BlockFormatInfo]: ...
def kernels() -> list[KernelInfo]: ...
def layouts() -> list[LayoutInfo]: ...
def explain(
    op: str,
    m: int,
    n: int,
    k: int,
    group_size: int,
    bits: int = 4,
    has_zeros: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
    layout: int = 0,
    sm: int = 0,
    multiprocessors: int = 0,
    batch_invariant: bool = False,
) -> tuple[str, list[tuple[str, str]], str]: ...
def want_huge_pages(address: int, bytes: int) -> None: ...  # of CPU memory about to be written
def explain_kquant(
    type: str,
    m: int,
    n: int,
    k: int,
    dtype: str = "float32",
    device: str = "cpu",
    layout: int = 0,
) -> tuple[str, list[tuple[str, str]], str]: ...
def packed_blocks(type: str, n: int, k: int) -> list[PackedBlocksInfo]: ...
def packed_sizes(
    op: str,
    n: int,
    k: int,
    group_size: int,
    bits: int,
    has_zeros: bool,
    scale_dtype: str,
    device: str,
    layout: int = 0,
) -> tuple[int, int, int, int]: ...
