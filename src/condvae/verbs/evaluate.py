"""`condvae evaluate`: what a run is worth, in numbers, with everything needed to repeat them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import condvae
from condvae.data import LabelledImages, wrong_labels
from condvae.errors import UserError
from condvae.evaluation.bounds import Bounds, bits_per_dim, bounds, fixed_binarisation
from condvae.evaluation.judge import judge_for
from condvae.evaluation.labels import drawn_latents, label_measures, probe_accuracy
from condvae.files import write_json
from condvae.progress import ProgressLine
from condvae.run import Run, load
from condvae.verbs.card import write_card
from condvae.verbs.sources import test_images, training_images

PROBE_IMAGES = 10_000


def evaluate(
    run: str | Path | Run,
    *,
    data: str | None = None,
    data_root: str | Path | None = None,
    samples: int = 50,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure likelihood, latents and labels on the whole test set.

    Arguments:
        run: a run directory.
        data: other test images than the run's own.
        data_root: where datasets are looked for.
        samples: importance samples S an image.
        out: the JSON file; by default the run's `evaluation.json`, or, for other images than the run's
            own, `evaluation-NAME.json`.
        seed: of binarisation, noise, wrong labels and samples.
        quiet: show no progress.

    Returns:
        What the JSON file holds. Nats are means over images; `*_stderr` their standard errors.

    Raises:
        UserError: the run, the data or a flag is wrong.
    """
    if samples < 1:
        raise UserError(f"--samples {samples}: must be at least 1")
    loaded = run if isinstance(run, Run) else load(run, device)
    test = test_images(loaded, data, data_root)
    train = training_images(loaded.config.data, data_root)
    model, likelihood = loaded.model, loaded.model.likelihood
    line = ProgressLine(quiet)

    real = torch.tensor(test.images, device=loaded.device)
    y = torch.tensor(test.labels, device=loaded.device)
    observed = fixed_binarisation(model, real, seed)
    result: dict[str, Any] = {
        "run": str(loaded.path),
        "source": test.name,
        "split": test.split,
        "images": len(test),
        "weights": "EMA" if loaded.config.training.ema > 0 else "last",
        "samples": samples,
        "seed": seed,
        "binarisation": f"dynamic, one draw an image, seed {seed}"
        if likelihood.binarisation == "dynamic"
        else likelihood.binarisation,
        "likelihood": loaded.config.model.likelihood,
        "classes": test.classes,
        "training": loaded.training,
        "versions": {"condvae": condvae.__version__, "torch": torch.__version__},
        "seconds": {},
    }
    seconds = result["seconds"]
    with torch.random.fork_rng(devices=[]), line:
        torch.manual_seed(seed)
        with _timed(seconds, "bounds", line):
            proper = likelihood.is_probability
            found = bounds(
                model,
                observed,
                y,
                samples=samples if proper else 1,
                seed=seed,
                every_label=proper,
                progress=line.show,
            )
            result |= likelihood_numbers(found, test.labels, loaded)
        with _timed(seconds, "judge", line):
            judge = judge_for(train, loaded.device, line.show)
        with _timed(seconds, "labels", line):
            given = wrong_labels(test.labels, test.classes, np.random.default_rng(seed))
            wrong = torch.tensor(given, device=loaded.device)
            result |= asdict(label_measures(model, judge, real, observed, y, wrong, seed))
        with _timed(seconds, "probes", line):
            result["latent_probe_accuracy"] = _probes(loaded, train, test, seed)
    result["chance"] = 1 / test.classes
    name = f"evaluation-{Path(test.name).stem}.json" if data else "evaluation.json"
    target = Path(out) if out else loaded.path / name
    write_json(target, result)
    result["file"] = str(target)
    if not out and not data:
        write_card(loaded.path)
    return result


def likelihood_numbers(found: Bounds, labels: NDArray[np.int64], run: Run) -> dict[str, Any]:
    """The bounds' means and standard errors, under names that say what may be claimed of them."""
    numbers: dict[str, Any] = {
        "kl_nats": float(found.kl.sum(1).mean()),
        "kl_nats_by_group": [float(group) for group in found.kl.mean(0)],
        "active_units": found.active_units(),
        "latents": run.model.latents,
    }
    if not run.model.likelihood.is_probability:
        # A loss, or a density on 8-bit values: comparable with nothing but itself.
        return numbers | {
            "objective_nats_no_bound": float(-found.elbo.mean()),
            "elbo_nats": None,
            "log_likelihood_nats": None,
            "marginal_log_likelihood_nats": None,
            "bits_per_dim": None,
        }
    for name, values in (
        ("elbo", found.elbo),
        ("log_likelihood", found.log_likelihood),
        ("marginal_log_likelihood", found.marginal),
    ):
        numbers[f"{name}_nats"] = float(values.mean())
        numbers[f"{name}_nats_stderr"] = float(values.std() / math.sqrt(len(values)))
    shape = run.model.shape
    numbers["bits_per_dim"] = None
    if run.model.likelihood.normalised:
        numbers["bits_per_dim"] = bits_per_dim(numbers["marginal_log_likelihood_nats"], shape)
        numbers["bits_per_dim_given_label"] = bits_per_dim(numbers["log_likelihood_nats"], shape)
        numbers["bits_per_dim_elbo"] = bits_per_dim(numbers["elbo_nats"], shape)
    likeliest = found.label_log_likelihood.argmax(1)
    numbers["generative_accuracy"] = float((likeliest == labels).mean())
    return numbers


def _probes(run: Run, train: LabelledImages, test: LabelledImages, seed: int) -> dict[str, float]:
    """Accuracy of probes from z to y: trained on training images, scored on test images."""
    chosen = np.random.default_rng(seed).permutation(len(train))[:PROBE_IMAGES]
    sides = []
    for images in (train.subset(np.sort(chosen)), test):
        x = torch.tensor(images.images, device=run.device)
        y = torch.tensor(images.labels, device=run.device)
        observed = fixed_binarisation(run.model, x, seed)
        sides.append((drawn_latents(run.model, observed, y, seed).numpy(), images.labels))
    return {kind: probe_accuracy(sides[0], sides[1], kind) for kind in ("linear", "mlp")}


@contextmanager
def _timed(seconds: dict[str, float], name: str, line: ProgressLine) -> Iterator[None]:
    line.start(f"measuring {name}")
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 1)
