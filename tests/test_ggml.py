"""The door to llama.cpp that benches and tests use: what comes out of it is what it should be."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from conftest import REPOSITORY
from qcore import ops

sys.path.insert(0, str(REPOSITORY / "bench"))

from ggml import Ggml, Missing, Products

pytestmark = pytest.mark.peers
TYPES = [block["name"] for block in ops.block_formats()]


@pytest.fixture(scope="module")
def llama() -> Ggml:
    try:
        return Ggml.load()
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("type", TYPES)
def test_blocks_of_llama_decode_to_the_same_bits(llama: Ggml, type: str) -> None:
    w = np.random.RandomState(0).standard_normal((16, 1024)).astype(np.float32)
    blocks = llama.quantize(type, w)
    ours = ops.kquant_dequantize(torch.from_numpy(blocks), type, 1024).numpy()
    np.testing.assert_array_equal(ours, llama.dequantize(type, blocks, 1024))


@pytest.mark.parametrize("memory", ["plain", "repacked"])
@pytest.mark.parametrize("type", TYPES)
def test_products_are_those_of_the_decoded_weight(llama: Ggml, type: str, memory: str) -> None:
    rng = np.random.RandomState(1)
    w = rng.standard_normal((64, 512)).astype(np.float32)
    x = rng.standard_normal((5, 512)).astype(np.float32)
    blocks = llama.quantize(type, w)
    llama.set_threads(1)
    try:
        products = Products(llama, type, blocks, 512, copies=3, memory=memory)
    except Missing as reason:
        assert memory != "plain"
        pytest.skip(str(reason))
    exact = x @ llama.dequantize(type, blocks, 512).T
    for m in (1, 5):
        calls, fetch = products.calls(x[:m])
        assert len(calls) == 3
        for call in calls:
            call()
            # 8-bit activations: the largest of 32 or 256 in 127 steps.
            assert np.linalg.norm(fetch() - exact[:m]) < 0.012 * np.linalg.norm(exact[:m])
    products.close()
