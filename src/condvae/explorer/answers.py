"""What the explorer answers: images and numbers, from images and numbers. No page is known of here."""

from __future__ import annotations

import csv
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from condvae.data import LabelledImages
from condvae.data.images import UNREADABLE, fit, open_image
from condvae.errors import UserError
from condvae.evaluation.bounds import fixed_binarisation, weighted_bounds
from condvae.evaluation.judge import Judge, cached_panel, predict
from condvae.evaluation.numbers import softmax
from condvae.evaluation.outputs import sampled, swapped
from condvae.evaluation.probes import inferred_labels
from condvae.models.conditioning import guided
from condvae.models.protocol import flat, grouped
from condvae.run import Run
from condvae.verbs.card import table_rows
from condvae.verbs.journeys import way
from condvae.verbs.sources import on_this_disk, test_images, training_images

Pixels = UInt8[np.ndarray, "c h w"]
Stack = UInt8[np.ndarray, "n c h w"]

MOST_BYTES = 20 * 2**20
"""Size of an image file that is read, at most."""
SAMPLES = 8
"""Importance samples a label: enough to see which labels are likely, quick enough to wait for."""
STUDIED = 2_000
"""Test images on the map, at most."""
SCORED = 500
"""Test images among which the hardest are looked for, at most."""
ISSUES = ("index", "file", "given", "suggested", "score", "rank", "kind")
"""Columns of an audit's issues.csv."""


@dataclass(frozen=True)
class Subject:
    """What is explored.

    Arguments:
        run: a trained model.
        test: its test images; None where they aren't on this disk.
        judges: by name; none where they aren't in the cache.
    """

    run: Run
    test: LabelledImages | None
    judges: Mapping[str, Judge]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names."""
        return self.run.class_names


def subject_of(run: Run, data: str | None = None, data_root: str | Path | None = None) -> Subject:
    """A run with its test images and its judges, as far as they are on this disk: nothing is fetched.

    Raises:
        UserError: test images were named that can't be loaded.
    """
    config = run.config.data
    wanted = data or config.test_source or config.source
    test, judges = None, dict[str, Judge]()
    try:
        if on_this_disk(wanted, data_root):
            test = test_images(run, data, data_root)
        if on_this_disk(config.source, data_root):
            panel = cached_panel(training_images(config, data_root), run.device)
            judges = panel.judges if panel else judges
    except UserError:
        if data and test is None:
            raise
    if data and test is None:
        raise UserError(f"--data {data}: is not on this disk; name the folder above it with --data-root")
    return Subject(run, test, judges)


# ----------------------------------------------------------------------------------- images that come in


def image_of(content: bytes, shape: tuple[int, int, int]) -> Pixels:
    """An image file at a model's size, whatever its own size, mode and orientation.

    Raises:
        UserError: it is too large, or no image.
    """
    if len(content) > MOST_BYTES:
        raise UserError(
            f"the image has {len(content) / 2**20:.0f} MiB; at most {MOST_BYTES >> 20} are read"
        )
    try:
        return fit(open_image(content), shape[1:], shape[0])
    except UNREADABLE as error:
        raise UserError("the file could not be read as an image; is it one, and whole?") from error


def drawing_of(strokes: UInt8[np.ndarray, "h w 4"], ground: int, shape: tuple[int, int, int]) -> Pixels:
    """A drawing as an image of the model's: strokes moved to the middle and laid over the ground.

    Arguments:
        strokes: RGBA, transparent where nothing was drawn.

    Raises:
        UserError: nothing was drawn.
    """
    rows, columns = np.nonzero(strokes[..., 3])
    if not len(rows):
        raise UserError("the drawing pad is empty; draw something first")
    shifts = [
        (size - 1 - int(places.min()) - int(places.max())) // 2
        for size, places in zip(strokes.shape[:2], (rows, columns), strict=True)
    ]
    moved = Image.fromarray(np.ascontiguousarray(np.roll(strokes, shifts, (0, 1))), "RGBA")
    paper = Image.new("RGBA", moved.size, (ground, ground, ground, 255))
    return fit(Image.alpha_composite(paper, moved), shape[1:], shape[0])


def numbered(subject: Subject, number: int) -> tuple[Pixels, int]:
    """A test image, and its label.

    Raises:
        UserError: there is none of that number.
    """
    if subject.test is None:
        raise UserError("the run's test images are not on this disk; name their folder with --data-root")
    if not 0 <= number < len(subject.test):
        raise UserError(f"test image {number}: there are {len(subject.test)}, from 0 on")
    return np.asarray(subject.test.images[number]), int(subject.test.labels[number])


# ------------------------------------------------------------------------------------------- wrong label


@dataclass(frozen=True)
class EveryLabel:
    """An image under all labels.

    Arguments:
        own: the label that it was encoded with; `inferred` if nobody said what it shows.
        images: what the model makes of it under each label.
        nats: bound of `log p(x|y)` of the image under each label; None where the model's likelihood is
            no probability, or no label reaches it.
        share: `p(y|x)`, all labels being equally likely beforehand; None where `nats` is.
        opinions: what each judge reads in each of `images`.
    """

    own: int
    inferred: bool
    images: Stack
    nats: NDArray[np.float64] | None
    share: NDArray[np.float64] | None
    opinions: dict[str, NDArray[np.int64]]


def under_every_label(
    subject: Subject, image: Pixels, label: int | None = None, samples: int = SAMPLES, seed: int = 0
) -> EveryLabel:
    """What a model makes of an image under each label, and how likely it takes the image to be.

    Arguments:
        label: what the image shows; by default what the model takes it for.
        samples: importance samples a label.
    """
    model, device = subject.run.model, subject.run.device
    x = torch.tensor(image, device=device)[None]
    observed = fixed_binarisation(model, x, seed)
    given = torch.arange(model.classes, device=device)
    every = observed.expand(model.classes, -1, -1, -1)
    score = np.zeros(model.classes)
    if model.uses_label:
        places = [0] * model.classes
        score = weighted_bounds(model, every, given, places, sizes=[samples], seed=seed)[0].cpu().numpy()
    proper = model.uses_label and model.likelihood.is_probability
    q = inferred_labels(model, observed) if label is None else None
    likely = int(score.argmax()) if q is None else int(q.argmax())
    own = likely if label is None else label
    made = swapped(model, every, torch.full_like(given, own), given)
    return EveryLabel(
        own,
        label is None,
        made.cpu().numpy(),
        score if proper else None,
        softmax(score[None])[0] if proper else None,
        {name: predict(judge, made) for name, judge in subject.judges.items()},
    )


# ------------------------------------------------------------------------------------------ latent space


@dataclass(frozen=True)
class Study:
    """Where test images lie among the latents.

    Arguments:
        means: posterior means, all groups in a row.
        labels: of the images.
        centre, axes: of the plane of the map: the mean, and the two directions of most variance.
        points: the images on that plane.
        lively: numbers of latents, those whose means vary most first.
    """

    means: Float[np.ndarray, "n z"]
    labels: NDArray[np.int64]
    centre: Float[np.ndarray, "z"]
    axes: Float[np.ndarray, "2 z"]
    points: Float[np.ndarray, "n 2"]
    lively: list[int]

    @property
    def reach(self) -> float:
        """How far the map reaches to all sides."""
        return float(1.05 * np.abs(self.points).max(initial=1e-3))

    def place(self, x: float, y: float) -> Float[np.ndarray, "z"]:
        """The latents at a place on the map."""
        return self.centre + np.array([x, y], np.float32) @ self.axes


def study(subject: Subject, most: int = STUDIED, seed: int = 0) -> Study | None:
    """Posterior means of test images, and their two principal components; None without test images."""
    if subject.test is None:
        return None
    from sklearn.decomposition import PCA

    x, y = some_of(subject, most)
    model = subject.run.model
    observed = fixed_binarisation(model, x, seed)
    with torch.no_grad():
        parts = [
            flat(model.encode(some, labels))
            for some, labels in zip(observed.split(500), y.split(500), strict=True)
        ]
    means = torch.cat(parts).cpu().numpy()
    components = min(2, *means.shape)
    fitted = PCA(components, random_state=0).fit(means)
    axes = np.zeros((2, means.shape[1]), np.float32)
    axes[:components] = fitted.components_
    centre = fitted.mean_.astype(np.float32)
    lively = np.argsort(-means.var(0), kind="stable").tolist()
    return Study(means, y.cpu().numpy(), centre, axes, (means - centre) @ axes.T, lively)


def some_of(subject: Subject, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Test images, evenly spread over all, and their labels."""
    assert subject.test is not None
    number = len(subject.test)
    part = subject.test.subset(np.linspace(0, number - 1, min(most, number)).astype(int))
    device = subject.run.device
    return torch.tensor(part.images, device=device), torch.tensor(part.labels, device=device)


@torch.no_grad()
def latents_of(subject: Subject, number: int, seed: int = 0) -> Float[np.ndarray, "z"]:
    """The posterior mean of a test image, all groups in a row.

    Raises:
        UserError: there is no test image of that number.
    """
    image, label = numbered(subject, number)
    device = subject.run.device
    observed = fixed_binarisation(subject.run.model, torch.tensor(image, device=device)[None], seed)
    groups = subject.run.model.encode(observed, torch.tensor([label], device=device))
    return flat(groups)[0].cpu().numpy()


@torch.no_grad()
def decoded(subject: Subject, latents: Float[np.ndarray, "n z"], labels: Sequence[int]) -> Stack:
    """What latents in a row are decoded to under labels."""
    run = subject.run
    row = torch.tensor(np.asarray(latents, np.float32), device=run.device)
    y = torch.tensor(list(labels), device=run.device)
    return run.model.decode(grouped(row, run.model.group_shapes), y).mean_image().cpu().numpy()


# ------------------------------------------------------------------------------------- between, samples


def journey(
    subject: Subject,
    ends: tuple[Pixels, Pixels],
    labels: tuple[int, int],
    under: Sequence[int],
    steps: int = 9,
) -> UInt8[np.ndarray, "k steps c h w"]:
    """The way from one image to another under each of several labels.

    Arguments:
        labels: what the two images show.
    """
    device = subject.run.device
    x = torch.from_numpy(np.stack(ends)).to(device)
    return way(subject.run, x, torch.tensor(labels, device=device), under, steps)


def made_up(
    subject: Subject,
    labels: Sequence[int],
    count: int,
    temperature: float = 1.0,
    guidance: float = 0.0,
    seed: int = 0,
) -> UInt8[np.ndarray, "k n c h w"]:
    """Images drawn from the prior, a row a label."""
    run = subject.run
    y = torch.tensor(np.repeat(np.array(labels), count), device=run.device)
    with guided(typing.cast(nn.Module, run.model), guidance):
        drawn = sampled(run.model, y, temperature, seed).cpu().numpy()
    return drawn.reshape(len(labels), count, *run.model.shape)


# --------------------------------------------------------------------------------------- numbers, audit


def evaluation_rows(run: Run) -> list[tuple[str, str]]:
    """A run's evaluation as names and numbers; none where it hasn't been evaluated."""
    try:
        found = json.loads((run.path / "evaluation.json").read_text("utf-8"))
        return table_rows(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


@dataclass(frozen=True)
class Hardest:
    """Test images by how badly the model explains them.

    Arguments:
        images, labels, nats: the hardest images, the hardest first, with the ELBO of each.
        by_class: mean ELBO of each class's images; NaN for a class that has none.
        scored: how many images were looked at.
    """

    images: Stack
    labels: NDArray[np.int64]
    nats: NDArray[np.float64]
    by_class: NDArray[np.float64]
    scored: int


def hardest(subject: Subject, count: int = 24, most: int = SCORED, seed: int = 0) -> Hardest:
    """The test images of lowest ELBO, one fixed draw of noise each."""
    x, y = some_of(subject, most)
    model = subject.run.model
    observed = fixed_binarisation(model, x, seed)
    noise = torch.randn(len(y), model.latents, generator=torch.Generator().manual_seed(seed)).to(
        x.device
    )
    with torch.no_grad():
        parts = [
            model.elbo(*part).value.double()
            for part in zip(observed.split(250), y.split(250), noise.split(250), strict=True)
        ]
    nats, labels = torch.cat(parts).cpu().numpy(), y.cpu().numpy()
    order = np.argsort(nats, kind="stable")[:count]
    counts = np.bincount(labels, minlength=model.classes)
    sums = np.bincount(labels, weights=nats, minlength=model.classes)
    by_class = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return Hardest(x.cpu().numpy()[order], labels[order], nats[order], by_class, len(labels))


def audit_rows(folder: str | Path, most: int = 500) -> list[dict[str, Any]]:
    """The suspicious labels that an audit found, the most suspicious first.

    Arguments:
        folder: what `condvae audit` wrote; its issues.csv is read.
        most: rows, at most.

    Raises:
        UserError: there is no issues.csv, or it is no audit's.
    """
    path = Path(folder) / "issues.csv"
    try:
        rows = list(csv.DictReader(StringIO(path.read_text("utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"--audit {folder}: its issues.csv could not be read ({error})") from error
    missing = [name for name in ISSUES if rows and name not in rows[0]]
    if missing:
        raise UserError(f"--audit {folder}: issues.csv has no column {missing[0]!r}; is it an audit's?")
    try:
        rows.sort(key=lambda row: float(row["rank"]))
    except (TypeError, ValueError) as error:
        raise UserError(f"--audit {folder}: issues.csv has a rank that is no number") from error
    return [{name: row[name] or "" for name in ISSUES} for row in rows[:most]]


def audited_picture(
    row: Mapping[str, Any], roots: Sequence[Path], shape: tuple[int, int, int]
) -> Pixels | None:
    """The image of an audit's row, where its file lies in one of some folders; else None."""
    for root in roots:
        file = root / str(row["file"])
        if row["file"] and file.is_file() and file.resolve().is_relative_to(root.resolve()):
            try:
                return image_of(file.read_bytes(), shape)
            except (OSError, UserError):
                return None
    return None
