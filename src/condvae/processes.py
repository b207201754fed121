"""The processes that train or evaluate one model together: usually this one alone."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Value = TypeVar("Value")

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""Variables by which a launcher tells a process its number, how many there are, and its number on this
computer."""
SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables by which launchers, those of MPI too, tell how many there are."""


class Processes:
    """Who is at work, and what they must agree on.

    `accelerate launch` and `torchrun` start several processes, on one computer or on many, and tell each
    its number. All hold the same weights and take their own part of every batch, or of the images to be
    scored. Process 0, which is the main one, alone writes.

    Arguments:
        chosen: the device that one process alone would work on; its kind is that of all.
    """

    def __init__(self, chosen: torch.device) -> None:
        self.number, self.index, self.device = 1, 0, chosen
        if any(os.environ.get(name, "1") != "1" for name in SIZES):
            from accelerate import PartialState  # a second's import, which one process has no use for

            self.state = PartialState(cpu=chosen.type == "cpu")
            self.number, self.index = self.state.num_processes, self.state.process_index
            self.device = self.state.device
        self.main = self.index == 0

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block before the others enter it."""
        with self.state.main_process_first() if self.number > 1 else nullcontext():
            yield

    def agreed(self, value: Value) -> Value:
        """The main process's value."""
        box = [value]
        if self.number > 1:
            torch.distributed.broadcast_object_list(box)
        return box[0]

    def largest(self, *numbers: float) -> list[float]:
        """The largest of each number over all processes."""
        if self.number == 1:
            return list(numbers)
        held = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(held, torch.distributed.ReduceOp.MAX)
        return held.tolist()

    def means(self, numbers: dict[str, float]) -> dict[str, float]:
        """The mean of each number over all processes."""
        if self.number == 1:
            return numbers
        held = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(held)
        return dict(zip(numbers, (held / self.number).tolist(), strict=True))

    def take_over(self, tensors: list[Tensor]) -> None:
        """Every process's tensors become those of the main one."""
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)

    def share(self, whole: int) -> slice:
        """This process's part of so many things; together the parts are all of them, in order."""
        return slice(whole * self.index // self.number, whole * (self.index + 1) // self.number)

    def gathered(self, value: Value) -> list[Value]:
        """The values of all processes, in their order."""
        found = [value] * self.number
        if self.number > 1:
            torch.distributed.all_gather_object(found, value)
        return found

    def close(self, wait: bool = True) -> None:
        """Part, having waited for each other, or at once where nobody needs the others any more.

        The threads that passed messages end here, unless something that is still in use holds on to
        them: one that is at work while Python ends can abort the process.
        """
        if self.number > 1:
            gc.collect()  # modules that were trained together, which are cycles
            if wait:
                self.state.wait_for_everyone()
            from accelerate.state import AcceleratorState

            self.state.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def apart() -> Iterator[tuple[int, int]]:
    """This process's number among those that were launched together, and how many there are.

    Inside the block it is alone, on a device of its own: what is shared out there is whole trainings,
    and not the steps of one.
    """
    hidden = {name: os.environ.pop(name) for name in PLACE if name in os.environ}
    index, number, local = (int(hidden.get(n, d)) for n, d in zip(PLACE, (0, 1, 0), strict=True))
    if number > 1 and torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    try:
        yield index, number
    finally:
        os.environ.update(hidden)


def seed_draws(device: torch.device, seed: int, step: int, part: int) -> None:
    """Make what is drawn for a part of a step depend on the run's seed and their numbers alone.

    So nothing needs to be remembered of what was drawn before, and it doesn't matter whether one process
    takes the parts of a step one after another or several take them at once.

    On a processor only its own generator is seeded: asking for those of absent devices, as
    `torch.manual_seed` does, takes longer than a small network's layer.
    """
    seeded = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    seeded(mixed_seed(seed, step, part))


def mixed_seed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
