"""A training step as one CUDA graph: launched as a whole, where launching its kernels one by one would
take longer than they do."""

from __future__ import annotations

import typing
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], dict[str, Tensor]]

WARM_UP = 3
"""Steps that are taken as they are: kernels are chosen in them, and the optimiser's state is made."""


class StepGraph:
    """Takes steps: the first few as they are, then as a graph, if they can be one.

    A graph does again what the device did, and nothing else. So it can't be made of a step that waits
    for the device, or whose numbers the processor has drawn; the warm-up's last step finds that out.

    Arguments:
        step: takes a batch, and gives numbers. All else that changes from step to step is in tensors
            that stay where they are, and so are weights.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.taken = 0
        self.why_not = ""
        self.made: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """One step; its numbers are overwritten by the next."""
        if self.why_not:
            return self.step(x, y)
        if not self.made:
            self.taken += 1
            if self.taken <= WARM_UP:
                return self._tried(x, y, look=self.taken == WARM_UP)
            if not self._captured(x, y):
                return self.step(x, y)
        self.x.copy_(x)
        self.y.copy_(y)
        typing.cast(torch.cuda.CUDAGraph, self.made).replay()
        return self.numbers

    def _tried(self, x: Tensor, y: Tensor, look: bool) -> dict[str, Tensor]:
        """A step on the stream that the graph will be made on, looking for what no graph can do."""
        drawn = torch.get_rng_state()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that looking is a prototype
            if look:
                torch.cuda.set_sync_debug_mode("error")
            try:
                numbers = self.step(x, y)
            except RuntimeError as error:
                if "synchroniz" not in str(error):
                    raise
                self.why_not = "a step waits for the device"
            finally:
                torch.cuda.set_sync_debug_mode("default")
        torch.cuda.current_stream().wait_stream(self.stream)
        if self.why_not:  # it stopped half way, before any weight had changed
            return self.step(x, y)
        if look and not torch.equal(drawn, torch.get_rng_state()):
            self.why_not = "a step draws random numbers on the processor"
        return numbers

    def _captured(self, x: Tensor, y: Tensor) -> bool:
        self.x, self.y = x.clone(), y.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.numbers = self.step(self.x, self.y)
        except RuntimeError as error:
            self.why_not = str(error).splitlines()[0]
            return False
        self.made = graph
        return True
