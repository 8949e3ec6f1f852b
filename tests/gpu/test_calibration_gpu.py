"""Calibration with blocks on the GPU and the model on the CPU."""

from __future__ import annotations

import pytest
import torch

import tiny
from qcore import QLinear, quantize

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("method", ["rtn", "imatrix", "gptq", "awq+gptq"])
@pytest.mark.parametrize("scheme", ["W4A16_ASYM", "W8A8_STATIC", "NF4", "Q4_0"])
def test_blocks_visit_the_gpu(method: str, scheme: str) -> None:
    model, here = tiny.make_model("llama"), tiny.make_model("llama")
    quantize(model, scheme, method, tiny.tokens(), ignore=(), device="cuda")
    quantize(here, scheme, method, tiny.tokens(), ignore=())
    layers = [module for module in model.modules() if isinstance(module, QLinear)]
    assert len(layers) == 15
    assert all(tensor.device.type == "cpu" for tensor in model.state_dict().values())
    assert tiny.distance(tiny.logits(model), tiny.logits(here)) < 0.1  # sums on a GPU have another order
    assert torch.isfinite(tiny.logits(model)).all()
