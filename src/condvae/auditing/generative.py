"""The generative model as a witness: `p(y|x)` by Bayes from bounds of `log p(x|y)`.

A flat conditional VAE is trained on other images; then every held-out image's likelihood is bounded
under every label, with the same noise for all of them (`evaluation/bounds.py`). Which labels get more
samples is decided without the one that is given, because more samples make a label look likelier.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from condvae.auditing.scores import log_normalised, log_prior
from condvae.auditing.task import Pace, Task, Testimony
from condvae.config import Config, load_recipe
from condvae.evaluation.bounds import could_matter, fixed_binarisation, precision_of, weighted_bounds
from condvae.evaluation.outputs import swapped
from condvae.models.families import build_model
from condvae.models.protocol import ConditionalModel, Images
from condvae.run import CHECKPOINT, MODEL, Run, load
from condvae.training.trainer import Trainer

RECIPES = {1: "mnist-flat", 3: "folder"}
"""By channels, whose model and settings are used."""
EPOCHS, STEPS = 60, 1500
"""A training ends after as many passes, or as many steps, if that is later and there is time."""
FIRST, MOST_SAMPLES = 2, 16
"""Importance samples for every label, and at most for labels that could matter."""
CANDIDATES, FEWEST_LABELS = 20, 2
"""With more classes, or too little time, only those that the classifier finds likeliest are asked of."""
CHUNK, TRIAL, PAIRS_TIMES_SAMPLES = 256, 32, 512
FOLDER = "generative"


class GenerativeWitness:
    """A conditional VAE, trained by a recipe that suits the number of channels.

    Arguments:
        recipe: another recipe's model and settings.
    """

    share: ClassVar[dict[int, float]] = {1: 0.5, 3: 0.25}

    def __init__(self, recipe: Config | None = None) -> None:
        self.recipe = recipe

    def pace(self, task: Task, seconds: float, train: int, held: int) -> Pace:
        recipe = self._recipe(task)
        labels = most_labels(task)
        first, each = judging_pace(recipe, task, labels)
        _, judging = affordable(seconds, held, labels, first, each)
        passes = most_passes(recipe, train)
        return Pace(training_pace(recipe, task) * train, passes, judging)

    def _recipe(self, task: Task) -> Config:
        return self.recipe or load_recipe(RECIPES[task.train.shape[0]])

    def testify(self, task: Task) -> Testimony:
        began = time.monotonic()
        recipe = self._recipe(task)
        out = task.folder / FOLDER
        most = most_labels(task)
        first, each = judging_pace(recipe, task, most)
        labels, judging = affordable(task.seconds, len(task.held), most, first, each)
        candidates = candidate_labels(task, labels)
        if not (out / MODEL).exists():
            task.line.close()  # the trainer has a line of its own
            config = fold_config(recipe, task, max(task.seconds - judging, task.seconds / 2))
            nothing = task.train.subset(np.arange(0), "validation")
            resume = (out / CHECKPOINT).exists()
            Trainer(config, (task.train, nothing), out, resume, task.line.console.quiet).fit()
        task.line.start("asking the generative model about every label")
        left = max(judging, task.seconds - (time.monotonic() - began))
        return judged(load(out, task.device.type), task, candidates, left, each)


def fold_config(recipe: Config, task: Task, seconds: float) -> Config:
    """The recipe for one fold: smaller batches where images are few, an end by passes and the clock."""
    images = len(task.train)
    batch, passes = batch_size(recipe, images), most_passes(recipe, images)
    training = replace(
        recipe.training,
        batch_size=batch,
        epochs=passes,
        minutes=max(seconds, 0.01) / 60,
        warmup_steps=min(recipe.training.warmup_steps, max(1, int(passes * images / batch) // 10)),
        seed=task.seed,
        device=task.device.type,
        precision=task.precision,
        validations=0,
    )
    data = replace(recipe.data, source=task.train.name)
    return replace(recipe, about="a fold of an audit", data=data, training=training)


def batch_size(recipe: Config, images: int) -> int:
    """The recipe's, or a smaller one where images are few."""
    return min(recipe.training.batch_size, max(8, images // 50))


def most_passes(recipe: Config, images: int) -> float:
    """Passes over the training images after which a training is over."""
    return float(max(EPOCHS, STEPS * batch_size(recipe, images) / images))


def most_labels(task: Task) -> int:
    """How many labels held-out images are looked at under, given the time."""
    return min(CANDIDATES, task.train.classes)


def candidate_labels(task: Task, number: int) -> NDArray[np.int64]:
    """Labels `[n, k]` to look at held-out images under: all, or those that the hint finds likeliest."""
    classes = task.train.classes
    if classes <= number or task.hint is None:
        return np.tile(np.arange(classes), (len(task.held), 1))
    return np.argsort(-task.hint, axis=1, kind="stable")[:, :number]


def judged(
    run: Run, task: Task, candidates: NDArray[np.int64], seconds: float, each: float
) -> Testimony:
    """What the model says of the held-out images.

    After a first look at all labels it is known how many could matter, and these get as many samples as
    there is time for: what learned from many wrong labels rules hardly any out, and the first look may
    have to do.

    Arguments:
        seconds: how long it may take.
        each: seconds of a sample (`judging_pace`).

    Returns:
        `log_p`, by Bayes with the training labels' shares as the prior; `log_likelihood`, the bound of
        `log p(x)` in nats; `about_convergence`: the samples, the nats that the last doubling of them
        was worth, and the share of images whose likeliest label it changed.
    """
    began = time.monotonic()
    parts = [slice(start, start + CHUNK) for start in range(0, len(task.held), CHUNK)]

    def asked(part: slice) -> tuple[Images, Tensor, list[int]]:
        """Images, their candidates, and their places."""
        x = torch.tensor(task.held.images[part], device=task.device)
        observed = fixed_binarisation(run.model, x, task.seed + part.start)
        labels = torch.tensor(candidates[part], device=task.device)
        return observed, labels, task.places[part].tolist()

    looks, pairs = [], 0
    for number, part in enumerate(parts):
        with precision_of(task.precision, task.device):
            looks.append(first_look(run.model, *asked(part), task.seed))
        pairs += int(could_matter(looks[-1][-1]).sum())
        task.line.show(0.5 * (number + 1) / len(parts), "a first look")
    samples = samples_within(seconds - (time.monotonic() - began), pairs, each)
    logs, halves, gains = [], [], []
    for number, (part, look) in enumerate(zip(parts, looks, strict=True)):
        with precision_of(task.precision, task.device):
            found = label_bounds(run.model, *asked(part), look, samples=samples, seed=task.seed)
        gains.append(found.gain.cpu().numpy())
        logs.append(found.every.cpu().numpy())
        halves.append(found.half.cpu().numpy())
        task.line.show(0.5 + 0.5 * (number + 1) / len(parts), f"{samples} samples")
    prior = log_prior(task.train.labels, task.train.classes)
    whole, half = np.concatenate(logs) + prior, np.concatenate(halves) + prior
    changed = float((whole.argmax(1) != half.argmax(1)).mean())
    highest = whole.max(1)
    return {
        "log_p": log_normalised(whole).astype(np.float32),
        "log_likelihood": highest + np.log(np.exp(whole - highest[:, None]).sum(1)),
        "about_convergence": np.array([samples, float(np.concatenate(gains).mean()), changed]),
    }


@dataclass(frozen=True)
class LabelBounds:
    """Importance-weighted bounds of `log p(x|y)` for every label, in nats.

    Arguments:
        every: with all samples.
        half: with half of them.
        gain: how much the second half was worth under the likeliest label.
    """

    every: Float[Tensor, "batch classes"]
    half: Float[Tensor, "batch classes"]
    gain: Float[Tensor, "batch"]


def first_look(
    model: ConditionalModel, x: Images, candidates: Tensor, indices: Sequence[int], seed: int
) -> Float[Tensor, "2 batch k"]:
    """Bounds under every candidate label `[batch, k]` by half of a few samples, and by all of these."""
    images = torch.arange(len(x), device=x.device).repeat_interleave(candidates.shape[1])
    sizes = [FIRST // 2, FIRST]
    found = _bounds(model, x, images, candidates.flatten(), indices, sizes, seed)
    return found.view(2, *candidates.shape)


def label_bounds(
    model: ConditionalModel,
    x: Images,
    candidates: Tensor,
    indices: Sequence[int],
    first: Float[Tensor, "2 batch k"],
    *,
    samples: int,
    seed: int,
) -> LabelBounds:
    """Bounds under every label, all of an image with the same noise.

    Those that could matter get all samples. Other candidates keep what the first look found, and labels
    that are no candidates get the worst candidate's.

    Arguments:
        candidates: labels `[batch, k]`.
        indices: each image's place in the data set, which its noise comes from.
        first: the candidates' bounds by a first look.
    """
    half, every = (
        bounds.amin(1, keepdim=True).repeat(1, model.classes).scatter(1, candidates, bounds)
        for bounds in first
    )
    if samples > FIRST:
        image, column = torch.nonzero(could_matter(first[-1]), as_tuple=True)
        label = candidates[image, column]
        found = _bounds(model, x, image, label, indices, [samples // 2, samples], seed)
        half[image, label], every[image, label] = found[0], found[-1]
    return LabelBounds(every, half, (every - half).gather(1, every.argmax(1, keepdim=True))[:, 0])


@torch.no_grad()
def _bounds(
    model: ConditionalModel,
    x: Images,
    image: Tensor,
    label: Tensor,
    indices: Sequence[int],
    sizes: Sequence[int],
    seed: int,
) -> Float[Tensor, "sizes pairs"]:
    """Bounds for pairs of an image's number and a label."""
    places = [indices[i] for i in image.tolist()]
    at_once = PAIRS_TIMES_SAMPLES // sizes[-1]
    return weighted_bounds(model, x[image], label, places, sizes=sizes, seed=seed, pairs_at_once=at_once)


def pictures(
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], device: torch.device, seed: int
) -> NDArray[np.uint8]:
    """What a fold's model makes of images under labels, encoded and decoded with them."""
    run = load(folder / FOLDER, device.type)
    observed = fixed_binarisation(run.model, torch.tensor(images, device=run.device), seed)
    y = torch.tensor(labels, device=run.device)
    return swapped(run.model, observed, y, y).cpu().numpy()


# --------------------------------------------------------------------------------------------- the clock


def affordable(seconds: float, held: int, labels: int, first: float, each: float) -> tuple[int, float]:
    """Labels that half of the time is enough to look at every image under, and the seconds of judging.

    About two labels an image are worth more than a first look.

    Arguments:
        labels: that every image is looked at under, if there is time.
        first, each: seconds of a pair in the first look, and of a sample afterwards (`judging_pace`).
    """
    labels = max(FEWEST_LABELS, min(labels, int(seconds / 2 / (held * first))))
    looking = held * labels * first
    samples = samples_within(seconds / 2 - looking, 2 * held, each)
    return labels, looking + (2 * held * samples * each if samples > FIRST else 0)


def samples_within(seconds: float, pairs: int, each: float) -> int:
    """Importance samples that there is time for: as many as in the first look, or more.

    Arguments:
        pairs: of an image and a label that could matter.
        each: seconds of a sample.
    """
    samples = MOST_SAMPLES
    while samples > FIRST and pairs * samples * each > seconds:
        samples //= 2
    return samples


def judging_pace(recipe: Config, task: Task, labels: int) -> tuple[float, float]:
    """Seconds of a pair of an image and a label in the first pass, and of a sample in the second.

    By a trial of an untrained model on a few images.
    """
    number = min(TRIAL, len(task.held))
    model = untrained(recipe, task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        x = torch.tensor(task.held.images[:number], device=task.device)
        observed = fixed_binarisation(model, x, 0).repeat(labels, 1, 1, 1)
        y = torch.tensor(task.held.labels[:number], device=task.device).repeat(labels)

    def seconds(pairs: int, samples: int) -> float:
        """Of a pair, the second time: the first time, things are still being set up."""
        times = []
        for _ in range(2):
            began = time.perf_counter()
            with precision_of(task.precision, task.device):
                weighted_bounds(
                    model,
                    observed[:pairs],
                    y[:pairs],
                    range(pairs),
                    sizes=[samples],
                    pairs_at_once=PAIRS_TIMES_SAMPLES // samples,
                )
            times.append(time.perf_counter() - began)
        return min(times) / pairs

    return seconds(len(y), FIRST), seconds(number, MOST_SAMPLES) / MOST_SAMPLES


def training_pace(recipe: Config, task: Task) -> float:
    """Seconds of an image in training, by a trial: an optimiser's step adds little to it."""
    model = untrained(recipe, task)
    x, y = (
        torch.tensor(part[: batch_size(recipe, len(task.train))], device=task.device)
        for part in (task.train.images, task.train.labels)
    )
    times = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(3):
            began = time.perf_counter()
            with precision_of(task.precision, task.device):
                model.elbo(x, y).value.mean().backward()
            times.append(time.perf_counter() - began)
    return min(times) / len(y)


def untrained(recipe: Config, task: Task) -> ConditionalModel:
    """The model of a fold, before its training, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        model = build_model(recipe.model, task.train.shape, task.train.classes)
    return cast(ConditionalModel, model.eval().to(task.device))
