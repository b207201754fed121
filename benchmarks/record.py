"""Trains a shipped recipe, evaluates it on the whole test set, and adds a line to a log of records.

    python benchmarks/record.py mnist-ladder-1 --seed 0 --data-root data

Launched by `torchrun --nproc-per-node N`, N processes train and evaluate together.

A line holds all that is needed to believe it or to repeat it: the recipe, the seed, seconds of training,
nats, the number of importance samples, hardware, versions, the commit, and the command. A run that was
cut short is gone on with by the same command, and one that is finished is only evaluated.
"""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import logbook
import tyro

import condvae
from condvae import config as configuration
from condvae.errors import UserError

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Record:
    """What to measure."""

    recipe: tyro.conf.Positional[str]
    """Name of a shipped recipe, or a TOML file."""
    seed: int = 0
    """Seed of the training."""
    minutes: float = 0.0
    """Length of the training, if not the recipe's."""
    samples: int = 1000
    """Importance samples an image."""
    precision: str = "bf16"
    """Of networks while bounds are taken: fp32 or bf16. Either is a bound of the model so run."""
    labels: bool = False
    """Measure too whether the model follows its label."""
    data: str = ""
    """Training images, if not the recipe's."""
    test_data: str = ""
    """Test images, where they are apart."""
    data_root: str | None = None
    """Where datasets are looked for before anything is downloaded."""
    runs: Path = Path("runs/records")
    """Where the run directories go."""
    log: Path = HERE / "records" / "records.jsonl"
    """File that the line is added to."""


def commit(run: Path) -> str:
    """The commit that a run was begun with, marked where the code differed from it."""
    note = run / "commit.txt"
    if note.exists():
        return note.read_text("utf-8").strip()

    now = logbook.commit()
    run.mkdir(parents=True, exist_ok=True)
    note.write_text(now + "\n", "utf-8")
    return now


def record(wanted: Record) -> dict[str, Any]:
    """Train, evaluate and log; returns the line."""
    config = configuration.load_recipe(wanted.recipe)
    name = Path(wanted.recipe).stem
    if wanted.minutes:
        config = replace(config, training=replace(config.training, minutes=wanted.minutes))
        name += f"-{wanted.minutes:g}min"
    if wanted.data:
        source = replace(config.data, source=wanted.data, test_source=wanted.test_data)
        config = replace(config, data=source)
    config = replace(config, training=replace(config.training, seed=wanted.seed))
    run = wanted.runs / f"{name}-{wanted.seed}"
    at = commit(run)
    condvae.train(config, run, data_root=wanted.data_root, resume=True)
    found = condvae.evaluate(
        run,
        samples=wanted.samples,
        precision=wanted.precision,
        labels=wanted.labels,
        data_root=wanted.data_root,
    )
    if not found:  # of several processes, one speaks
        return {}
    training = found["training"]
    line = {
        "date": datetime.date.today().isoformat(),
        "recipe": name,
        "seed": wanted.seed,
        "training_seconds": round(training["seconds"], 1),
        "epochs": round(training["epochs"], 2),
        "parameters": training["parameters"],
        "source": Path(found["source"]).name,
        "split": found["split"],
        "images": found["images"],
        "binarisation": found["binarisation"],
        "samples": found["samples"],
        "elbo_nats": rounded(found["elbo_nats"]),
        "log_p_x_nats": rounded(found["marginal_log_likelihood_nats"]),
        "log_p_x_stderr": rounded(found.get("marginal_log_likelihood_nats_stderr")),
        "bits_per_dim": rounded(found["bits_per_dim"], 4),
        "loss_nats_no_bound": rounded(found.get("objective_nats_no_bound")),
        "train_minus_test_elbo_nats": rounded(found["train"].get("elbo_gap_nats")),
        "kl_nats_by_group": [round(kl, 2) for kl in found["kl_nats_by_group"]],
        "device": training["device"],
        "precision": training["precision"],
        "evaluation_precision": found["precision"],
        "evaluation_device": found["device"],
        "evaluation_seconds": found["seconds"]["bounds"],
        "versions": training["versions"],
        "commit": at,
        "command": f"python benchmarks/record.py {shlex.join(sys.argv[1:])}",
    }
    logbook.add(line, wanted.log)
    return line


def rounded(value: float | None, digits: int = 3) -> float | None:
    """A number, or none: what is no probability has no bound."""
    return None if value is None else round(value, digits)


if __name__ == "__main__":
    try:
        if line := record(tyro.cli(Record, description=__doc__)):
            print(json.dumps(line, indent=1))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
