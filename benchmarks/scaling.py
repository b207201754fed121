"""How much faster steps get with processes, and whether a model of the cost knew it beforehand.

    python benchmarks/scaling.py mnist-ladder-5 --data-root data

Processes with one thread each take steps of a recipe, alone and together. A step's seconds are foretold
from what one process takes for its part of the batch, and from what summing as many numbers as there
are parameters over all processes takes. Sums can be made while the backward pass goes on, so a step
takes between the larger of the two and both together.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import logbook
import torch
import tyro
from tyro.conf import Positional

from condvae import config as configuration
from condvae.processes import Processes
from condvae.run import choose_device
from condvae.training.stopwatch import Stopwatch
from condvae.training.trainer import Trainer
from condvae.verbs.sources import images_to_train_on

HERE = Path(__file__).parent
WARM_UP = 3


@dataclass(frozen=True)
class Scaling:
    """What to measure."""

    recipe: Positional[str] = "mnist-ladder-5"
    """Name of a shipped recipe."""
    processes: tuple[int, ...] = (2,)
    """Numbers of processes, each beside one process alone."""
    batch_size: int = 0
    """Images a step, if not the recipe's."""
    steps: int = 20
    """Steps that are timed."""
    repeats: int = 3
    """Times that each is run, in turn."""
    shard: bool = False
    """Share the weights out, too."""
    data_root: str | None = None
    """Where datasets are looked for before anything is downloaded."""
    log: Path = HERE / "records" / "scaling.jsonl"
    """File that a line a number of processes is added to."""
    worker: bool = False
    """It is one of those that were launched."""


def traffic(parameters: int, processes: int) -> float:
    """Bytes that each process sends a step, to have the mean of all gradients in float32.

    A ring sends every part but one's own twice (Patarasuk and Yuan 2009).
    """
    return 2 * 4 * parameters * (processes - 1) / processes


def work(wanted: Scaling) -> None:
    """Take the steps; process 0 prints what they took."""
    config = configuration.load_recipe(wanted.recipe)
    training = replace(config.training, shard=wanted.shard, validations=0, checkpoint_seconds=1e9)
    if wanted.batch_size:
        training = replace(training, batch_size=wanted.batch_size)
    config = replace(config, training=training)
    together = Processes(choose_device("auto"))
    with tempfile.TemporaryDirectory() as folder:
        images = images_to_train_on(config, wanted.data_root)
        trainer = Trainer(config, images, Path(folder), quiet=True, processes=together)
        watch, spent = Stopwatch(together.device), []
        for x, y in trainer.batches.epoch(0):
            started = watch.now()
            trainer.train_step(x, y, 0.5)
            spent.append(watch.now() - started)
            if len(spent) == WARM_UP + wanted.steps:
                break
        trainer.monitor.close()
    number = sum(p.numel() for p in trainer.pair.parameters())
    sums = [0.0]
    if together.number > 1:
        gradient, sums = torch.ones(number, device=together.device), []
        for _ in range(10):
            started = watch.now()
            torch.distributed.all_reduce(gradient)
            sums.append(watch.now() - started)
    if together.main:
        found = {"step": statistics.median(spent[WARM_UP:]), "sum": statistics.median(sums)}
        print(json.dumps({**found, "parameters": number, "batch": trainer.batches.batch_size}))
    together.close()


def launched(wanted: Scaling, processes: int, batch_size: int, threads: int = 1) -> dict[str, Any]:
    """What processes take that are launched together, each with so many threads."""
    command = [sys.executable]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += launcher
    command += [__file__, wanted.recipe, "--worker", "--steps", str(wanted.steps)]
    command += ["--batch-size", str(batch_size)]
    command += ["--shard"] if wanted.shard and processes > 1 else []
    if wanted.data_root:
        command += ["--data-root", wanted.data_root]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compared(wanted: Scaling, processes: int) -> dict[str, Any]:
    """So many processes beside one; the line."""
    batch = wanted.batch_size or configuration.load_recipe(wanted.recipe).training.batch_size
    runs = [
        [
            launched(wanted, 1, batch),
            launched(wanted, 1, batch // processes),
            launched(wanted, processes, batch),
            launched(wanted, 1, batch, threads=processes),
        ]
        for _ in range(wanted.repeats)
    ]
    whole, part, step, threaded = (statistics.median(run[k]["step"] for run in runs) for k in range(4))
    summing = statistics.median(run[2]["sum"] for run in runs)
    parameters = runs[0][2]["parameters"]
    sent = traffic(parameters, processes)
    return {
        "recipe": wanted.recipe,
        "processes": processes,
        "batch_size": batch,
        "shard": wanted.shard,
        "parameters": parameters,
        "megabytes_sent_a_step": round(sent / 1e6, 2),
        "megabytes_a_second": round(sent / summing / 1e6),
        "seconds_alone": round(whole, 4),
        "seconds_alone_with_a_part": round(part, 4),
        "seconds_together": round(step, 4),
        "seconds_alone_with_as_many_threads": round(threaded, 4),
        "foretold_seconds": [round(max(part, summing), 4), round(part + summing, 4)],
        "efficiency": round(whole / processes / step, 3),
        "foretold_efficiency": [
            round(whole / processes / (part + summing), 3),
            round(whole / processes / max(part, summing), 3),
        ],
    }


def main() -> None:
    """Measure, print, and add to the log."""
    wanted = tyro.cli(Scaling, description=__doc__)
    if wanted.worker:
        work(wanted)
        return
    about = {"repeats": wanted.repeats, **logbook.about(choose_device("auto"))}
    for processes in wanted.processes:
        logbook.tell(compared(wanted, processes) | about, wanted.log)


if __name__ == "__main__":
    main()
