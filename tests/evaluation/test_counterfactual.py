"""The counterfactual score can't be had cheaply."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from condvae.data import LabelledImages, load, wrong_labels
from condvae.evaluation.counterfactual import (
    Counterfactuals,
    Usual,
    alike,
    another_of_class,
    correlation,
    counterfactuals,
    typical,
)
from condvae.evaluation.judge import NeuralJudge, Panel, panel_for, predict
from condvae.probability.images import centred, uncentred


def test_a_swap_counts_only_if_it_is_all_three() -> None:
    read, typical_, alike = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 0]], bool)
    found = Counterfactuals(read, typical_, alike)
    assert found.score == 0.25 and found.shares == {"read": 0.75, "typical": 0.75, "alike": 0.75}


def test_typical_is_within_the_neighbours_of_the_given_class() -> None:
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(400, 2, generator=generator)
    labels = np.arange(400) % 2
    references[labels == 1] += 20
    outputs = torch.tensor([[0.0, 0.0], [20.0, 20.0], [20.0, 20.0], [60.0, 60.0]])
    assert typical(outputs, np.array([0, 0, 1, 1]), references, labels).tolist() == [True, False] * 2


def test_correlation_of_known_columns() -> None:
    a = torch.randn(500, 2)
    assert correlation(a, 3 * a + 1) == pytest.approx(1)
    assert correlation(a, torch.stack([a[:, 0], -a[:, 1]], 1)) == pytest.approx(0, abs=1e-6)
    assert correlation(a, torch.ones(500, 2)) == 0


def test_style_is_relative_to_the_class() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(300) % 3
    own = torch.randn(300, 2, generator=generator)
    values = own * torch.tensor([2.0, 0.5]) + 50 * torch.from_numpy(labels)[:, None]
    usual = Usual.of(values, labels)
    found = usual.deviation(values, labels)
    assert torch.allclose(found, own, atol=0.5)
    for label in range(3):
        part = found[labels == label]
        assert torch.allclose(part.mean(0), torch.zeros(2), atol=1e-4)
        assert torch.allclose(part.std(0), torch.ones(2), atol=1e-4)
    lone = Usual.of(values, np.where(np.arange(300) == 0, 3, labels))
    assert torch.isfinite(lone.spread).all()


def test_a_blur_that_all_reconstructions_have_is_not_held_against_swaps() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(600) % 3
    given = (labels + 1) % 3
    own = torch.randn(600, 3, generator=generator)
    place = torch.tensor([0.0, 5.0, 10.0])
    inputs, swaps = (own + place[torch.from_numpy(of)][:, None] for of in (labels, given))
    assert alike(inputs, swaps, inputs, labels, given).mean() > 0.99
    assert alike(inputs, swaps + 0.8, inputs, labels, given).mean() < 0.6
    assert alike(inputs, swaps + 0.8, inputs + 0.8, labels, given).mean() > 0.99
    faint = 0.01 * own + place[torch.from_numpy(given)][:, None]
    references = 0.01 * own + place[torch.from_numpy(labels)][:, None]
    assert alike(inputs, faint, references, labels, given).mean() < 0.15


def test_another_image_has_the_given_label() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 300)
    given = wrong_labels(labels, 5, np.random.default_rng(1))
    found = another_of_class(labels, given, np.random.default_rng(2))
    assert (labels[found] == given).all() and len(set(found)) > 100


# --------------------------------------------------------------------------- the four cheats, on digits


@pytest.fixture(scope="module")
def digits() -> tuple[LabelledImages, LabelledImages]:
    return load("mnist-sample"), load("mnist-sample", split="test")


@pytest.fixture(scope="module")
def panel(digits: tuple[LabelledImages, LabelledImages]) -> Iterator[Panel]:
    yield panel_for(digits[0], torch.device("cpu"))


def attacked(images: torch.Tensor, given: np.ndarray, judge: NeuralJudge) -> torch.Tensor:
    """Images with the noise that makes a network read the given label (projected gradient ascent)."""
    x, target = centred(images), torch.from_numpy(given)
    start, at = x.clone(), x.clone()
    for _ in range(40):
        at.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(judge.classifier(at), target)
        (slope,) = torch.autograd.grad(loss, at)
        at = (at.detach() - 0.05 * slope.sign()).clamp(start - 0.4, start + 0.4).clamp(-1, 1)
    return uncentred(at)


@pytest.mark.slow
def test_cheats_score_next_to_nothing(
    digits: tuple[LabelledImages, LabelledImages], panel: Panel
) -> None:
    _, test = digits
    inputs, labels = torch.tensor(test.images), test.labels
    given = wrong_labels(labels, 10, np.random.default_rng(0))

    def score(outputs: torch.Tensor) -> Counterfactuals:
        return counterfactuals(panel, inputs, labels, outputs, given, inputs)

    prototypes = torch.stack([inputs[torch.from_numpy(labels == k)][0] for k in range(10)])
    random = another_of_class(labels, given, np.random.default_rng(1))
    networks = list(panel.networks.values())
    assert all(isinstance(judge, NeuralJudge) for judge in networks)
    fooled = attacked(inputs, given, networks[0])  # type: ignore[arg-type]
    assert (predict(networks[0], fooled) == given).mean() > 0.8
    cheats = {
        "label ignored": inputs,
        "a prototype a class": prototypes[torch.from_numpy(given)],
        "a random image of the class": inputs[torch.from_numpy(random)],
        "adversarial noise": fooled,
    }
    found = {name: score(outputs) for name, outputs in cheats.items()}
    assert all(each.score < 0.1 for each in found.values()), {
        name: (each.score, each.shares) for name, each in found.items()
    }


@pytest.mark.slow
def test_the_judges_read_real_digits(
    digits: tuple[LabelledImages, LabelledImages], panel: Panel
) -> None:
    _, test = digits
    for name, judge in panel.judges.items():
        accuracy = (predict(judge, torch.tensor(test.images)) == test.labels).mean()
        assert accuracy > 0.96, (name, accuracy)
