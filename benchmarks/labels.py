"""What the label swaps of runs are worth on their validation images, to choose settings by.

    condvae train fashion-mnist --minutes 3 --out runs/critic --training.objective counterfactual
    python benchmarks/labels.py runs/critic

The measures are those of `condvae evaluate`, which has the test images: what was chosen by these
numbers is not to be believed before it was evaluated there. A line a run is added to a log, with what
the run was made of, and printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import logbook
import numpy as np
import torch
import tyro

import condvae
from condvae.data import wrong_labels
from condvae.errors import UserError
from condvae.evaluation.bounds import bounds, fixed_binarisation
from condvae.evaluation.judge import panel_for
from condvae.evaluation.labels import counterfactual_numbers, judged
from condvae.evaluation.outputs import outputs_of
from condvae.evaluation.probes import drawn_latents, probe_accuracy
from condvae.progress import ProgressLine
from condvae.verbs.evaluate import PROBE_IMAGES, some_of
from condvae.verbs.sources import training_images

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Trials:
    """What to measure."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, which set some validation images aside."""
    samples: int = 10
    """Importance samples an image."""
    scored: int = 500
    """Images whose likelihood is bounded."""
    seed: int = 0
    """Of noise, wrong labels and samples."""
    data_root: str | None = None
    """Where datasets are looked for before anything is downloaded."""
    log: Path = HERE / "records" / "labels.jsonl"
    """File that the lines are added to."""


def measured(path: Path, wanted: Trials) -> dict[str, Any]:
    """The line of a run."""
    run = condvae.load(path)
    model, config = run.model, run.config
    seen = training_images(config.data, wanted.data_root)
    train, held = seen.split_validation(config.data.validation, config.training.seed)
    if not len(held):
        raise UserError(f"{path}: sets no validation images aside; train with --data.validation 0.05")
    with ProgressLine() as line:
        line.start("training judges")
        panel = panel_for(seen, run.device, line.show)
    x = torch.tensor(held.images, device=run.device)
    y = torch.tensor(held.labels, device=run.device)
    given = wrong_labels(held.labels, held.classes, np.random.default_rng(wanted.seed))
    torch.manual_seed(wanted.seed)
    observed = fixed_binarisation(model, x, wanted.seed)
    outputs = outputs_of(model, x, observed, y, torch.tensor(given, device=run.device), wanted.seed)
    some = slice(wanted.scored)
    found = bounds(
        model, observed[some], y[some], samples=wanted.samples, seed=wanted.seed, every_label=True
    )
    sides = []
    for images in (train.subset(some_of(len(train), PROBE_IMAGES, wanted.seed)), held):
        pixels = fixed_binarisation(model, torch.tensor(images.images, device=run.device), wanted.seed)
        labels = torch.tensor(images.labels, device=run.device)
        latents = drawn_latents(model, pixels, labels, wanted.seed)
        sides.append((latents.numpy(), images.labels))
    parts = ("family", "network", "likelihood", "prior", "latents", "label_reaches")
    steps = ("optimiser", "learning_rate", "beta1", "batch_size", "ema")
    said = judged(panel, outputs)
    return {
        "run": path.name,
        "source": Path(config.data.source).name,
        "images": len(held),
        "training_seconds": round(run.training["seconds"], 1),
        "epochs": round(run.training["epochs"], 2),
        "objective": config.training.objective,
        "model": {part: getattr(config.model, part) for part in parts},
        "training": {part: getattr(config.training, part) for part in steps},
        "seed": config.training.seed,
        **counterfactual_numbers(panel, outputs, wanted.seed),
        **{name: value for name, value in said.items() if name.endswith("accuracy")},
        "latent_probe_accuracy": {kind: probe_accuracy(*sides, kind) for kind in ("linear", "mlp")},
        "elbo_nats": float(found.elbo.mean()),
        "log_p_x_nats": float(found.marginal.mean()),
        "samples": wanted.samples,
        "scored": len(found.elbo),
        "trained_on": run.training["device"],
        **logbook.about(run.device),
    }


def main(wanted: Trials) -> None:
    """Measure one run after another."""
    for path in wanted.runs:
        logbook.tell(measured(path, wanted), wanted.log)


if __name__ == "__main__":
    try:
        main(tyro.cli(Trials, description=__doc__))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
