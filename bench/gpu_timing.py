"""The clock of a GPU for `timing`.

All calls over the copies of a weight are captured into one CUDA graph, because at a few microseconds a call
the host cannot launch as fast as the card computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Captured:
    graph: torch.cuda.CUDAGraph
    output: Tensor  # of the last call; replays write it again


class CudaClock:
    """Measures with events on the present GPU."""

    def __init__(self) -> None:
        # Captures share one stream: cuBLAS keeps a workspace for each stream that it has seen.
        self.stream = torch.cuda.Stream()

    def once(self, calls: Sequence[Callable[[], Tensor]]) -> float:
        calls[0]()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    def capture(self, calls: Sequence[Callable[[], Tensor]]) -> Captured:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            calls[0]()  # modules load and handles appear outside the capture
        torch.cuda.current_stream().wait_stream(self.stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            for call in calls:
                output = call()
        return Captured(graph, output)

    def replay(self, captured: Captured, times: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        captured.graph.replay()  # the host runs ahead meanwhile, so that no launch gap is timed
        begin.record()
        for _ in range(times):
            captured.graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3
