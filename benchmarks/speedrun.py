"""The VAE speedrun: seconds of training, from nothing, until MNIST's test set has a given likelihood.

    python benchmarks/speedrun.py 90 --data-root data
    python benchmarks/speedrun.py notebook --data-root data
    python benchmarks/speedrun.py others --data-root data --pythae-python .venv-pythae/bin/python

Each target has an entry: a recipe, and the length that its learning rate is annealed over. A seed counts
where all 10,000 test images, scored after the clock has stopped, are at the target or below it; an entry
holds where every seed counts. To enter, make `ENTRIES` name a recipe or a length that is faster.

Targets in nats are the importance-weighted bound of -log p(x), S = 100, dynamically binarised, one draw
an image. `notebook` is the final test loss of the notebook that condvae began with, 139.26: the
cross-entropy on grey values plus KL, which is no likelihood.

`others` measures what stands beside: the notebook's loop for its 30 epochs, and an epoch of what pythae
0.1.2 publishes a figure of: 89.78 nats, statically binarised, after up to 500 epochs (one hidden layer
of 400 units, batches of 100, a learning rate of 1e-4).
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import logbook
import tyro
from peers import plain_loop, pythae
from table import FIVE, holds

import condvae
from condvae import config as configuration
from condvae.config import Config
from condvae.run import choose_device
from condvae.verbs.sources import training_images

HERE = Path(__file__).parent
SAMPLES = 100


@dataclass(frozen=True)
class Entry:
    """What reaches a target.

    Arguments:
        recipe: its name.
        seconds: of training.
        changes: to the recipe's `[training]` and `[model]`.
    """

    recipe: str
    seconds: float
    training: dict[str, Any] | None = None
    model: dict[str, Any] | None = None

    def config(self, seed: int) -> Config:
        """The recipe to be run."""
        base = configuration.load_recipe(self.recipe)
        length = {"minutes": self.seconds / 60, "epochs": 0.0, "seed": seed, "validations": 0}
        training = replace(base.training, **{**(self.training or {}), **length})
        return replace(base, model=replace(base.model, **(self.model or {})), training=training)


GREY = {
    "network": "mlp(widths=[384], activation=relu)",
    "likelihood": "grey-cross-entropy",
    "latents": 16,
}
ENTRIES = {
    "notebook": Entry(
        "mnist-flat",
        2.6,
        {"optimiser": "adamw", "learning_rate": 6e-3, "warmup_steps": 30, "objective": "elbo"},
        GREY,
    ),
    "90": Entry("mnist-ladder-1", 30.0),
    "85": Entry("mnist-ladder-1", 90.0),
    "82": Entry("mnist-ladder-5", 230.0),
    "80": Entry("mnist-ladder-20", 1500.0),
    "79": Entry("mnist-ladder-90", 5700.0),
}
NATS = {"notebook": 139.26}
NOTEBOOK_EPOCHS, PYTHAE_EPOCHS = 30, 500


@dataclass(frozen=True)
class Speedrun:
    """What to run."""

    target: tyro.conf.Positional[str]
    """notebook, or nats: 90, 85, 82, 80 or 79; or others."""
    seeds: tuple[int, ...] = FIVE
    """An entry holds by all five; some of them show what it is worth."""
    seconds: float = 0.0
    """Another length than the entry's, to try it."""
    data_root: str | None = None
    """Where datasets are looked for before anything is downloaded."""
    pythae_python: str = ""
    """For `others`: the interpreter of an environment with pythae 0.1.2."""
    runs: Path = Path("runs/speedrun")
    """Where the run directories go."""
    log: Path = HERE / "records" / "speedrun.jsonl"
    """File that a line is added to."""


def speedrun(wanted: Speedrun) -> dict[str, Any]:
    """Train and score every seed; returns the line."""
    if wanted.target not in ENTRIES:
        sys.exit(f"{wanted.target}: no such target; use {', '.join(ENTRIES)} or others")
    entry = ENTRIES[wanted.target]
    entry = replace(entry, seconds=wanted.seconds) if wanted.seconds else entry
    target = NATS[wanted.target] if wanted.target in NATS else float(wanted.target)
    tries = []
    for seed in wanted.seeds:
        out = wanted.runs / f"{wanted.target}-{seed}"
        shutil.rmtree(out, ignore_errors=True)
        run = condvae.load(
            condvae.train(entry.config(seed), out, data_root=wanted.data_root, quiet=True)
        )
        found = condvae.evaluate(
            run,
            data_root=wanted.data_root,
            samples=SAMPLES,
            labels=False,
            train_images=0,
            precision=run.training["precision"],
            quiet=True,
        )
        loss = found.get("objective_nats_no_bound") or -found["marginal_log_likelihood_nats"]
        tries.append(
            {
                "seed": seed,
                "seconds": round(run.training["seconds"], 2),
                "nats": round(loss, 3),
                "reached": loss <= target,
            }
        )
        print(tries[-1], flush=True)
    return {
        "target": wanted.target,
        "holds": holds(tries),
        "seconds": round(statistics.mean(each["seconds"] for each in tries), 2),
        "tries": tries,
        "recipe": entry.recipe,
        **logbook.about(choose_device("auto")),
    }


def others(wanted: Speedrun) -> dict[str, Any]:
    """How long the notebook trains, and how long pythae would; returns the line."""
    config = configuration.load_recipe("mnist-notebook")
    data = training_images(config.data, wanted.data_root)
    epoch = plain_loop(config, data)
    notebook = sum(epoch() for _ in range(NOTEBOOK_EPOCHS))
    line = {"target": "others", "notebook": {"epochs": NOTEBOOK_EPOCHS, "seconds": round(notebook, 1)}}
    if wanted.pythae_python:
        epoch = pythae("published", wanted.pythae_python, data)
        seconds = statistics.median(epoch() for _ in range(3))
        line["pythae"] = {
            "seconds_an_epoch": round(seconds, 2),
            "epochs": PYTHAE_EPOCHS,
            "seconds_for_all_of_them": round(PYTHAE_EPOCHS * seconds),
        }
    return line | logbook.about(choose_device("auto"))


if __name__ == "__main__":
    asked = tyro.cli(Speedrun, description=__doc__)
    line = others(asked) if asked.target == "others" else speedrun(asked)
    logbook.add(line, asked.log)
    print(json.dumps({key: value for key, value in line.items() if key != "tries"}, indent=2))
