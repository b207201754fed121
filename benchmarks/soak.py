"""A million steps of a tiny model: does anything grow that shouldn't?

    python benchmarks/soak.py

A step's cost doesn't depend on how many came before, so a million steps of a tiny model say as much
about leaks as a day of a large one. Memory, open files and threads are noted as it goes, and a line is
added to the log. The exit code is 1 where memory at the end is 5% and 20 MiB above what it was after a
tenth of the steps, or where there are more open files.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import logbook
import psutil
import torch
import tyro

from condvae.config import load_recipe
from condvae.data import load
from condvae.training.trainer import Trainer

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Soak:
    """What to run."""

    steps: int = 1_000_000
    """Steps of the optimiser."""
    notes: int = 20
    """How often memory is looked at."""
    log: Path = HERE / "records" / "soak.jsonl"
    """File that the line is added to."""


def soak(wanted: Soak) -> dict[str, Any]:
    """Train, and note what the process holds; returns the line."""
    process = psutil.Process()
    images = load("mnist-sample").subset(range(256))
    base = load_recipe("mnist-sample")
    config = replace(
        base,
        model=replace(base.model, network="mlp(widths=[16])", latents=2, embedding=4),
        training=replace(
            base.training,
            minutes=0.0,
            epochs=wanted.steps / 32,
            batch_size=8,
            validations=100,
            checkpoint_seconds=5.0,
            device="cpu",
            precision="fp32",
        ),
    )
    torch.set_num_threads(1)
    held: list[dict[str, int]] = []
    every = wanted.steps // wanted.notes

    class Watched(Trainer):
        def train_step(self, *values: Any) -> dict[str, torch.Tensor]:
            if self.step % every == 0:
                held.append(
                    {
                        "step": self.step,
                        "mebibytes": process.memory_info().rss >> 20,
                        "files": process.num_fds(),
                        "threads": process.num_threads(),
                    }
                )
                print(held[-1], flush=True)
            return super().train_step(*values)

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        Watched(config, (images, images.subset(range(32))), Path(folder), quiet=True).fit()
    early, late = held[len(held) // 10], held[-1]
    grown = late["mebibytes"] - early["mebibytes"]
    return {
        "steady": not (grown > 20 and grown > 0.05 * early["mebibytes"])
        and late["files"] <= early["files"],
        "steps": wanted.steps,
        "seconds": round(time.monotonic() - started, 1),
        "held": held,
        **logbook.about(torch.device("cpu")),
    }


if __name__ == "__main__":
    wanted = tyro.cli(Soak, description=__doc__)
    line = soak(wanted)
    logbook.add(line, wanted.log)
    print(json.dumps({key: value for key, value in line.items() if key != "held"}, indent=2))
    sys.exit(not line["steady"])
