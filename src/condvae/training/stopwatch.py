"""Where the time of a training step goes, and how near that comes to what the device can do."""

from __future__ import annotations

import contextlib
import itertools
import time
import typing
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

if typing.TYPE_CHECKING:
    from condvae.training.trainer import Trainer

WARM_UP = 5
"""Steps before the clock starts: caches, the allocator, kernels that are chosen at first use."""
FEWEST = 3


class Stopwatch:
    """Seconds that the parts of steps take; a device that works ahead is waited for at each part's end.

    Arguments:
        device: that the steps run on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside it is counted as that part."""
        started = self.now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - started

    def now(self) -> float:
        """The time, once the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def breakdown(trainer: Trainer, seconds: float) -> dict[str, Any]:
    """Take training steps for about so many seconds; where their time went.

    Returns:
        `images_per_second`; `milliseconds` a step, of data, forward, backward, optimiser (the norm of
        the gradient and the average of weights included) and other, or of data and the graph where a
        step is one; `operations_per_image`, which are the floating-point ones of the model's matrix
        products and convolutions; and the share that they are, a second, of what large matrix products
        reach on this device in the precision of the run.
    """
    batches = itertools.chain.from_iterable(map(trainer.batches.epoch, itertools.count()))
    size = trainer.batches.batch_size
    x, y = next(batches)
    operations = _operations(trainer, x, y) / size
    for x, y in itertools.islice(batches, WARM_UP):
        trainer.train_step(x, y, 0.5)
    watch = trainer.stopwatch = Stopwatch(trainer.device)
    started, steps = watch.now(), 0
    try:
        while steps < FEWEST or watch.now() - started < seconds:
            with watch.part("data"):
                x, y = next(batches)
            trainer.train_step(x, y, 0.5)
            steps += 1
    finally:
        trainer.stopwatch = None
    whole = watch.now() - started
    parts = dict(watch.seconds)
    parts["other"] = max(0.0, whole - sum(parts.values()))
    peak = matrix_peak(torch.bfloat16 if trainer.precision == "bf16" else torch.float32, trainer.device)
    rate = size * steps / whole
    return {
        "images_per_second": rate,
        "steps": steps,
        "batch_size": size,
        "milliseconds": {name: 1000 * spent / steps for name, spent in parts.items()},
        "precision": trainer.precision,
        "operations_per_image": operations,
        "operations_per_second": rate * operations,
        "peak_operations_per_second": peak,
        "share_of_peak": rate * operations / peak,
    }


def _operations(trainer: Trainer, x: Tensor, y: Tensor) -> int:
    """Floating-point operations of the loss of a batch and of its gradient."""
    with FlopCounterMode(display=False) as counter:
        loss, _ = trainer.pair(x, y, trainer.now)
        loss.backward()
    trainer.optimiser.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def matrix_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a large square matrix product, the best of several."""
    watch = Stopwatch(device)
    side = 2048 if device.type == "cpu" else 8192
    matrix = torch.randn(side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(8):
        started = watch.now()
        _ = matrix @ matrix
        best = min(best, watch.now() - started)
    return 2 * side**3 / best
