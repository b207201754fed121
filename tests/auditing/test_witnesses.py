"""Each witness says what it should of images that are easy; the generative one's bounds are bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from condvae.auditing import classifier as classifying
from condvae.auditing import generative
from condvae.auditing.classifier import ClassifierWitness
from condvae.auditing.generative import (
    GenerativeWitness,
    affordable,
    candidate_labels,
    first_look,
    label_bounds,
    pictures,
    samples_within,
)
from condvae.auditing.neighbours import NeighboursWitness, voted
from condvae.auditing.task import Pace, Task, Witness
from condvae.auditing.witnesses import WITNESSES, score_names, shares, witnesses_for
from condvae.config import Config
from condvae.data import LabelledImages
from condvae.errors import UserError
from condvae.evaluation.bounds import fixed_binarisation, weighted_bounds
from condvae.models.families import build_model
from condvae.progress import ProgressLine

Maker = Callable[..., LabelledImages]


@pytest.fixture
def task(stripes: Maker, tmp_path: Path) -> Task:
    """Eighty images to train on, of three classes, and forty to judge."""
    data = stripes()
    places = np.arange(80, 120)
    return Task(
        data.subset(np.arange(80)),
        data.subset(places),
        places,
        20.0,
        tmp_path,
        5,
        "fp32",
        torch.device("cpu"),
        ProgressLine(quiet=True),
    )


@pytest.fixture
def quick(small: Config, monkeypatch: pytest.MonkeyPatch) -> GenerativeWitness:
    """A generative witness that takes a second."""
    monkeypatch.setattr(generative, "EPOCHS", 10)
    monkeypatch.setattr(generative, "STEPS", 150)
    model = replace(small.model, network="mlp(widths=[32])", latents=2)
    return GenerativeWitness(replace(small, model=model))


def accuracy(task: Task, log_p: np.ndarray) -> float:
    assert log_p.shape == (len(task.held), task.train.classes)
    assert np.exp(log_p).sum(1) == pytest.approx(1, abs=1e-4)
    return float((log_p.argmax(1) == task.held.labels).mean())


@pytest.mark.parametrize("channels", [1, 3])
def test_the_classifier_reads_what_is_easy(task: Task, stripes: Maker, channels: int) -> None:
    data = stripes(channels=channels)
    task = replace(task, train=data.subset(np.arange(80)), held=data.subset(task.places))
    said = ClassifierWitness().testify(task)
    assert said["log_p"].shape == (40, 3) and (task.folder / classifying.FILE).exists()
    assert said["about_steps"] == 100, "few images, and yet a hundred steps"
    again = ClassifierWitness().testify(task)
    assert (again["log_p"] == said["log_p"]).all()
    if channels == 1:  # in colour it mirrors images, and some stripes are another's mirror image
        assert accuracy(task, said["log_p"]) > 0.8


def test_the_classifiers_time_is_kept(task: Task) -> None:
    said = ClassifierWitness().testify(replace(task, seconds=0.05))
    assert 1 <= said["about_steps"] < 100
    pace = ClassifierWitness().pace(task, 1.0, 60_000, 15_000)
    assert pace.passes == 30 and pace.seconds_a_pass > 0


def test_neighbours_vote(task: Task) -> None:
    said = NeighboursWitness().testify(task)
    assert accuracy(task, said["log_p"]) > 0.9 and said["distance"].shape == (40,)
    votes, labels = np.array([[0, 0, 1], [1, 1, 1]]), np.array([0, 1, 0, 1])
    share = np.array([[2 + 3 / 6, 1 + 3 / 6], [3 / 6, 3 + 3 / 6]]) / 4
    assert np.exp(voted(votes, labels, 2)) == pytest.approx(share, abs=1e-6)
    assert np.isfinite(voted(votes, labels, 5)).all()


def test_the_generative_witness_reads_labels_by_bayes(task: Task, quick: GenerativeWitness) -> None:
    said = quick.testify(task)
    assert accuracy(task, said["log_p"]) > 0.8
    assert (said["log_likelihood"] < 0).all()
    samples, gain, changed = said["about_convergence"]
    assert samples == generative.MOST_SAMPLES and gain >= 0 and 0 <= changed <= 1
    again = quick.testify(task)
    assert (again["log_p"] == said["log_p"]).all(), "what was trained is read, and says the same"
    drawn = pictures(task.folder, task.held.images[:4], np.array([0, 1, 2, 0]), task.device, 0)
    assert drawn.shape == (4, 1, 8, 8) and drawn.dtype == np.uint8
    bright = drawn[:, 0].mean(1).argmax(1)
    assert (bright[:3] == [0, 3, 6]).sum() >= 2, "a label puts its column in"


def test_label_bounds_are_the_bounds_and_do_not_depend_on_the_batch(small: Config) -> None:
    torch.manual_seed(0)
    model = build_model(replace(small.model, network="mlp(widths=[16])"), (1, 8, 8), 4).eval()
    x = torch.randint(0, 256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    x, y = fixed_binarisation(model, x, 0), torch.tensor([0, 1, 2, 3, 0, 1])  # type: ignore[arg-type]
    every = torch.arange(4).repeat(6, 1)
    places = list(range(10, 16))

    def bounds(part: slice, candidates: torch.Tensor) -> generative.LabelBounds:
        images, indices = x[part], places[part]
        first = first_look(model, images, candidates, indices, 2)  # type: ignore[arg-type]
        return label_bounds(model, images, candidates, indices, first, samples=8, seed=2)  # type: ignore[arg-type]

    found = bounds(slice(6), every)
    for label in range(4):
        labels = torch.full((6,), label)
        whole = weighted_bounds(model, x, labels, places, sizes=[2, 4, 8], seed=2)  # type: ignore[arg-type]
        near = (found.every[:, label] - whole[2]).abs() < 1e-3
        assert near.all(), "an untrained model rules nothing out, and all get all samples"
        assert torch.allclose(found.half[:, label], whole[1], atol=1e-3)
    assert torch.allclose(found.gain, (found.every - found.half)[torch.arange(6), found.every.argmax(1)])
    at_first = first_look(model, x, every, places, 2)  # type: ignore[arg-type]
    quickly = label_bounds(model, x, every, places, at_first, samples=2, seed=2)  # type: ignore[arg-type]
    assert (quickly.every == at_first[1]).all() and (quickly.half == at_first[0]).all()
    alone = bounds(slice(2, 3), every[:1])
    assert torch.allclose(alone.every, found.every[2:3], atol=1e-3)
    few = torch.tensor([[0, 2]]).repeat(6, 1)
    few[:, 0] = y
    few[y == 2, 1] = 0
    part = bounds(slice(6), few)
    own = torch.arange(6), y
    assert torch.allclose(part.every[own], found.every[own], atol=1e-3)
    left_out = torch.ones(6, 4, dtype=torch.bool).scatter(1, few, False)
    least = part.half.amin(1, keepdim=True).expand(6, 4)
    assert (part.every[left_out] >= least[left_out] - 1e-3).all()
    assert (part.every[left_out] <= part.every.amax(1, keepdim=True).expand(6, 4)[left_out]).all()


def test_with_very_many_classes_the_likeliest_are_looked_at(task: Task) -> None:
    assert (candidate_labels(task, 3) == np.arange(3)).all()
    classes = generative.CANDIDATES + 30
    names = tuple(map(str, range(classes)))
    hint = np.random.default_rng(0).normal(size=(40, classes)).astype(np.float32)
    many = replace(task, train=replace(task.train, class_names=names), hint=hint)
    found = candidate_labels(many, generative.CANDIDATES)
    assert found.shape == (40, generative.CANDIDATES)
    for row, labels in enumerate(found.tolist()):
        left_out = list(set(range(classes)) - set(labels))
        assert len(set(labels)) == generative.CANDIDATES
        assert hint[row, labels].min() > hint[row, left_out].max()


def test_time_is_kept_by_fewer_labels_and_fewer_samples() -> None:
    assert affordable(1e9, 1000, 10, 1e-3, 1e-3) == (10, pytest.approx(10 + 2 * 16))
    assert affordable(1e-9, 1000, 10, 1e-3, 1e-3) == (2, pytest.approx(2)), "the least there is"
    assert affordable(60, 1000, 10, 1e-3, 1e-3) == (10, pytest.approx(10 + 2 * 8))
    assert affordable(10, 1000, 10, 1e-3, 1e-3) == (5, pytest.approx(5)), "a first look at half of them"
    assert samples_within(20, 2000, 1e-3) == 8, "two labels an image"
    assert samples_within(20, 5000, 1e-3) == 4, "wrong labels rule out fewer labels, and time is kept"
    assert samples_within(-1, 5000, 1e-3) == generative.FIRST, "the first look has been taken"


def test_no_witness_knows_the_label_that_a_held_out_image_is_given(
    task: Task, quick: GenerativeWitness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounds rise with samples: a label that gets more of them because it is given looks likelier."""
    monkeypatch.setattr("condvae.evaluation.bounds.NEGLIGIBLE", 0.0)
    monkeypatch.setattr(generative, "CANDIDATES", 2)
    hint = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    given = replace(task, hint=hint)
    others = replace(given, held=replace(task.held, labels=(task.held.labels + 1) % 3))
    for witness in (ClassifierWitness(), NeighboursWitness(), quick):
        said, again = witness.testify(given), witness.testify(others)
        for name in said.keys() - {"about_steps"}:
            assert (said[name] == again[name]).all(), (witness, name)


def test_a_pace_tells_passes_and_seconds() -> None:
    pace = Pace(seconds_a_pass=2.0, passes=30.0, judging=10.0)
    assert pace.seconds == 70 and pace.passes_within(1000) == 30
    assert pace.passes_within(30) == 10 and pace.passes_within(12) == 3, "half is for training at least"


def test_witnesses_by_name() -> None:
    assert set(witnesses_for("combined")) == set(WITNESSES) == set(score_names()) - {"combined"}
    assert set(witnesses_for("classifier")) == {"classifier", "neighbours"}
    with pytest.raises(UserError, match="did you mean 'classifier'"):
        witnesses_for("clasifier")
    witnesses: dict[str, Witness] = witnesses_for("combined")
    for channels in (1, 3):
        parts = shares(witnesses, channels)
        assert sum(parts.values()) == pytest.approx(1) and parts["neighbours"] == 0
    assert shares(witnesses_for("classifier"), 3)["classifier"] == 1
