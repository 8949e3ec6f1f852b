"""Weights in huge pages."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from qcore.nn.huge_pages import in_huge_pages


def test_the_copy_is_the_same_and_its_own() -> None:
    for weight in (
        torch.randint(-128, 128, (3000, 2048), dtype=torch.int8),
        torch.randn(5, 7).to(torch.float8_e4m3fn),
        torch.randint(-128, 128, (64, 40), dtype=torch.int8).t()[::2],
        torch.empty(0, 16, dtype=torch.int8),
    ):
        copy = in_huge_pages(weight)
        assert copy.dtype == weight.dtype
        assert copy.is_contiguous()
        assert torch.equal(copy.view(torch.uint8), weight.contiguous().view(torch.uint8))
        assert copy.numel() == 0 or copy.data_ptr() != weight.data_ptr()


def test_what_has_no_memory_here_stays_as_it_is() -> None:
    meta = torch.empty(4, 4, dtype=torch.int8, device="meta")
    assert in_huge_pages(meta) is meta
    with FakeTensorMode():
        fake = torch.empty(4, 4, dtype=torch.int8)
        assert in_huge_pages(fake) is fake
