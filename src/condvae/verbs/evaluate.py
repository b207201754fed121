"""`condvae evaluate`: what a run is worth, in numbers, with everything needed to repeat them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import condvae
from condvae.data import LabelledImages, wrong_labels
from condvae.errors import UserError
from condvae.evaluation.annealing import CHAINS, annealed, sandwiched
from condvae.evaluation.bounds import Bounds, bounds, fixed_binarisation, precision_of
from condvae.evaluation.inception import inception_distance
from condvae.evaluation.judge import Panel, panel_for
from condvae.evaluation.labels import (
    classification_accuracy_score,
    counterfactual_numbers,
    judged,
    realism,
    returned,
)
from condvae.evaluation.numbers import calibration_error, likelihood_numbers, mean, train_numbers
from condvae.evaluation.outputs import outputs_of
from condvae.evaluation.probes import drawn_latents, inferred_labels, probe_accuracy
from condvae.figures import bound_curve
from condvae.files import write_json, write_picture
from condvae.models.protocol import Images, Labels
from condvae.processes import Processes
from condvae.progress import ProgressLine
from condvae.run import Run, choose_device, describe_device, load
from condvae.verbs.card import write_card
from condvae.verbs.sources import test_images, training_images

PROBE_IMAGES = 10_000
TRAIN_SAMPLES = 50
"""Importance samples of a training image, at most: enough to see a gap."""


def evaluate(
    run: str | Path | Run,
    *,
    data: str | None = None,
    data_root: str | Path | None = None,
    samples: int = 50,
    precision: str = "fp32",
    train_images: int = 2_000,
    labels: bool = True,
    cas: bool = False,
    inception: str | Path | None = None,
    ais: int = 0,
    ais_steps: int = 1_000,
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
        precision: "fp32" or "bf16", of networks while bounds are taken.
        train_images: training images scored beside the test images, at most as many as these; 0: none.
        labels: judge swaps and samples, and probe the latents; without, the likelihood alone.
        cas: train a classifier on as many samples as there are training images; test it on real ones.
        inception: file of an Inception network's weights, to measure the samples' FID with.
        ais: test images, and as many made by the model, scored by annealing too; 0: none.
        ais_steps: densities that annealing goes through.
        out: the JSON file; by default the run's `evaluation.json`, or, for other images than the run's
            own, `evaluation-NAME.json`. The picture of the bounds goes to the run's `figures`, or beside
            the file that is named here.
        seed: of binarisation, noise, wrong labels and samples.
        quiet: show no progress.

    Returns:
        What the JSON file holds. Nats are means over images; `*_stderr` their standard errors. Of
        several processes that were launched together, each bounds its share of the test images, and
        only the main one goes on, writes and has something to return.

    Raises:
        UserError: the run, the data or a flag is wrong.
    """
    for flag, value, least in (
        ("samples", samples, 1),
        ("train-images", train_images, 0),
        ("ais", ais, 0),
        ("ais-steps", ais_steps, 2),
    ):
        if value < least:
            raise UserError(f"--{flag} {value}: must be at least {least}")
    if precision not in ("fp32", "bf16"):
        raise UserError(f"--precision {precision}: use fp32 or bf16")
    together = Processes(run.device if isinstance(run, Run) else choose_device(device))
    loaded = run if isinstance(run, Run) else load(run, together.device.type)
    model, likelihood = loaded.model, loaded.model.likelihood
    proper = likelihood.is_probability
    if ais and not proper:
        raise UserError(f"--ais: {loaded.config.model.likelihood} is no probability of the images")
    with together.main_first():
        test = test_images(loaded, data, data_root)
        seen = training_images(loaded.config.data, data_root) if train_images or labels or cas else None
    line = ProgressLine(quiet or not together.main)

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
        "precision": precision,
        "seed": seed,
        "binarisation": f"dynamic, one draw an image, seed {seed}"
        if likelihood.binarisation == "dynamic"
        else likelihood.binarisation,
        "likelihood": loaded.config.model.likelihood,
        "classes": test.classes,
        "training": loaded.training,
        "device": describe_device(loaded.device),
        "versions": {"condvae": condvae.__version__, "torch": torch.__version__},
        "seconds": {},
    }
    seconds = result["seconds"]
    with torch.random.fork_rng(devices=[]), line:
        torch.manual_seed(seed)
        with _timed(seconds, "bounds", line), precision_of(precision, loaded.device):
            part = together.share(len(test))
            own = bounds(
                model,
                observed[part],
                y[part],
                samples=samples if proper else 1,
                seed=seed,
                first=part.start,
                every_label=proper,
                progress=line.show,
            )
            found = Bounds.joined(together.gathered(own))
        together.close(wait=False)
        if not together.main:
            return {}
        result |= likelihood_numbers(model, found, test.labels)
        if (q := inferred_labels(model, observed)) is not None:
            probabilities = q.double().numpy()
            result["inferred_accuracy"] = float((probabilities.argmax(1) == test.labels).mean())
            result["inferred_calibration_error"] = calibration_error(probabilities, test.labels)
        if seen and train_images:
            with _timed(seconds, "train", line), precision_of(precision, loaded.device):
                some = _trained_on(loaded, seen, min(train_images, len(test)), seed)
                result["train"] = _train(loaded, some, found, seed, line)
        if ais:
            with _timed(seconds, "ais", line):
                result["ais"] = _annealing(loaded, observed, y, found, ais, ais_steps, seed, line)
        if seen and labels:
            with _timed(seconds, "judges", line):
                panel = panel_for(seen, loaded.device, line.show)
            with _timed(seconds, "labels", line):
                result |= _labels(loaded, panel, real, observed, y, test, inception, seed)
            with _timed(seconds, "probes", line):
                result["latent_probe_accuracy"] = _probes(loaded, seen, test, seed)
        if seen and cas:
            with _timed(seconds, "cas", line):
                result["classification_accuracy_score"] = classification_accuracy_score(
                    model, (real, y), len(seen), seed, line.show
                )
    result["chance"] = 1 / test.classes
    suffix = f"-{Path(test.name).stem}" if data else ""
    target = Path(out) if out else loaded.results / f"evaluation{suffix}.json"
    write_json(target, result)
    result["file"] = str(target)
    if proper:
        picture = target.with_suffix(".png") if out else loaded.results / f"figures/bounds{suffix}.png"
        result["picture"] = str(write_picture(picture, bound_curve(result, loaded.path.name)))
    if not out and not data and loaded.results == loaded.path:
        write_card(loaded.path)
    return result


def _train(
    run: Run, images: LabelledImages, test: Bounds, seed: int, line: ProgressLine
) -> dict[str, Any]:
    """What the test images were told of, for images that were trained on."""
    x = torch.tensor(images.images, device=run.device)
    y = torch.tensor(images.labels, device=run.device)
    found = bounds(
        run.model,
        fixed_binarisation(run.model, x, seed),
        y,
        samples=min(test.samples, TRAIN_SAMPLES),
        seed=seed,
        every_label=False,
        progress=line.show,
    )
    return train_numbers(run.model, found, test)


def _trained_on(run: Run, train: LabelledImages, number: int, seed: int) -> LabelledImages:
    """Some of the images that the run trained on: validation images were set aside then, as now."""
    config = run.config
    images, _ = train.split_validation(config.data.validation, config.training.seed)
    return images.subset(some_of(len(images), number, seed))


def some_of(images: int, number: int, seed: int) -> NDArray[np.int64]:
    """The places of some images, in order."""
    return np.sort(np.random.default_rng(seed).permutation(images)[:number])


def _annealing(
    run: Run,
    observed: Images,
    y: Labels,
    found: Bounds,
    number: int,
    steps: int,
    seed: int,
    line: ProgressLine,
) -> dict[str, Any]:
    """Annealing on a few test images, and from both sides on as many that the model makes."""
    which = some_of(len(y), number, seed)
    places = torch.tensor(which, device=y.device)
    estimate = annealed(
        run.model, observed[places], y[places], steps=steps, seed=seed, progress=line.show
    )
    weighted = found.log_likelihood[which]
    line.start("measuring ais from both sides")
    lower, upper = sandwiched(run.model, y[places], steps=steps, seed=seed, progress=line.show)
    return {
        "images": len(which),
        "steps": steps,
        "chains": CHAINS,
        **mean("log_likelihood", estimate),
        **mean("importance_weighted", weighted),
        **mean("difference", estimate - weighted),
        "simulated": {**mean("lower", lower), **mean("upper", upper), **mean("gap", upper - lower)},
    }


def _labels(
    run: Run,
    panel: Panel,
    real: Images,
    observed: Images,
    y: Labels,
    test: LabelledImages,
    inception: str | Path | None,
    seed: int,
) -> dict[str, Any]:
    """Swaps to wrong labels, the same for every model, and samples, and what judges say of them."""
    given = wrong_labels(test.labels, test.classes, np.random.default_rng(seed))
    wrong = torch.tensor(given, device=run.device)
    outputs = outputs_of(run.model, real, observed, y, wrong, seed)
    fid: dict[str, Any] = {}
    if inception:
        distance = inception_distance(real, outputs.samples, inception)
        fid["frechet_inception_distance"] = {"fid": distance, "images": len(y)}
    return {
        **judged(panel, outputs),
        **fid,
        **counterfactual_numbers(panel, outputs, seed),
        "realism": realism(panel, outputs, seed),
        "cycle": returned(run.model, outputs, y, wrong, seed),
    }


def _probes(run: Run, train: LabelledImages, test: LabelledImages, seed: int) -> dict[str, Any]:
    """Accuracy of probes from z to y, trained on training images and scored on test images: of all
    latents, and, where there are several groups, `by_group` of each."""
    sides = []
    for images in (train.subset(some_of(len(train), PROBE_IMAGES, seed)), test):
        x = torch.tensor(images.images, device=run.device)
        y = torch.tensor(images.labels, device=run.device)
        observed = fixed_binarisation(run.model, x, seed)
        sides.append((drawn_latents(run.model, observed, y, seed), images.labels))
    (seen, seen_labels), (unseen, labels) = sides

    def probe(columns: slice, kind: str) -> float:
        train_side = (seen[:, columns].numpy(), seen_labels)
        return probe_accuracy(train_side, (unseen[:, columns].numpy(), labels), kind)

    found: dict[str, Any] = {kind: probe(slice(None), kind) for kind in ("linear", "mlp")}
    if len(run.model.group_shapes) > 1:
        ends = np.cumsum([math.prod(shape) for shape in run.model.group_shapes]).tolist()
        groups = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        found["by_group"] = [probe(columns, "linear") for columns in groups]
    return found


@contextmanager
def _timed(seconds: dict[str, float], name: str, line: ProgressLine) -> Iterator[None]:
    line.start(f"measuring {name}")
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 1)
