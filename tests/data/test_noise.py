"""Label noise is of the kind and the amount that it says, and never leaves a flipped label as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condvae.data import noisy_labels
from condvae.data.noise import (
    KINDS,
    asymmetric,
    class_dependent,
    confused,
    drawn_matrix,
    image_dependent,
    shared_out,
    symmetric,
)
from condvae.errors import UserError


def blobs(number: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of 4 x 4 whose grey value is 25 times their class and some noise; and their classes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    values = 25 * labels[:, None] + generator.integers(0, 20, (number, 1))
    return np.tile(values[:, :, None, None], (1, 1, 4, 4)).astype(np.uint8), labels


@pytest.mark.parametrize("kind", KINDS)
@given(rate=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_the_share_of_flipped_labels_is_exact_and_labels_stay_in_range(
    kind: str, rate: float, seed: int
) -> None:
    images, labels = blobs(230, 5)
    labels[::23] = -1
    before = labels.copy()
    noisy = noisy_labels(kind, labels, 5, rate, np.random.default_rng(seed), images)
    assert (labels == before).all(), "the labels that are given aren't touched"
    assert (noisy[labels == -1] == -1).all() and noisy.max() < 5 and noisy[labels >= 0].min() >= 0
    flipped = int((noisy != labels).sum())
    labelled = int((labels >= 0).sum())
    if kind in ("symmetric", "image-dependent"):
        assert flipped == round(rate * labelled)
    elif kind == "asymmetric":
        for label in range(5):
            members = labels == label
            assert abs((noisy[members] != label).sum() - rate * members.sum()) <= 1
    else:
        assert abs(flipped - rate * labelled) <= 0.3 * rate * labelled + 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides(kind: str) -> None:
    images, labels = blobs(200, 4)
    first, again, other = (
        noisy_labels(kind, labels, 4, 0.3, np.random.default_rng(seed), images) for seed in (1, 1, 2)
    )
    assert (first == again).all() and (first != other).any()


def test_symmetric_noise_goes_to_all_other_labels_alike() -> None:
    labels = np.arange(30_000) % 3
    noisy = symmetric(labels, 3, 0.6, np.random.default_rng(0))
    counts = np.array([[np.sum((labels == a) & (noisy == b)) for b in range(3)] for a in range(3)])
    off = counts[~np.eye(3, dtype=bool)]
    assert (abs(off - 3000) < 250).all()


def test_asymmetric_noise_goes_where_it_is_told() -> None:
    labels = np.arange(100) % 4
    noisy = asymmetric(labels, 4, 0.4, np.random.default_rng(0))
    assert set(((noisy - labels) % 4).tolist()) == {0, 1}
    mapped = asymmetric(labels, 4, 0.4, np.random.default_rng(0), mapping=[1, 1, 0, 3])
    assert (mapped[labels == 1] == 1).all() and (mapped[labels == 3] == 3).all()
    assert (mapped[labels == 0] == 1).sum() == (mapped[labels == 2] == 0).sum() == 10


@given(st.integers(2, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_drawn_matrix_has_rows_that_sum_to_one_and_the_mean_rate(
    classes: int, rate: float, seed: int
) -> None:
    matrix = drawn_matrix(classes, rate, np.random.default_rng(seed))
    assert matrix.min() >= 0
    assert matrix.sum(1) == pytest.approx(1)
    assert 1 - np.diag(matrix).mean() == pytest.approx(rate)


def test_class_dependent_noise_differs_by_class_and_meets_its_matrix() -> None:
    labels = np.arange(5000) % 5
    noisy = class_dependent(labels, 5, 0.3, np.random.default_rng(0))
    rates = [(noisy[labels == label] != label).mean() for label in range(5)]
    assert max(rates) - min(rates) > 0.05 and np.mean(rates) == pytest.approx(0.3, abs=0.002)
    matrix = np.array([[0.75, 0.25], [0.0, 1.0]])
    noisy = confused(np.array([0, 0, 0, 0, 1, 1]), matrix, np.random.default_rng(0))
    assert sorted(noisy[:4].tolist()) == [0, 0, 0, 1] and noisy[4:].tolist() == [1, 1]


@given(st.integers(0, 500), st.lists(st.floats(0.01, 1), min_size=1, max_size=9))
def test_shares_are_met_to_less_than_one_and_add_up(number: int, shares: list[float]) -> None:
    parts = shared_out(number, np.array(shares))
    assert parts.sum() == number and parts.min() >= 0
    assert (abs(parts - number * np.array(shares) / sum(shares)) < 1 + 1e-6).all()


def test_images_that_look_like_another_class_are_flipped_more_often_and_to_that_class() -> None:
    images, labels = blobs(4000, 2)
    grey = images[:, 0, 0, 0].astype(int)
    near = np.where(labels == 0, grey > 15, grey < 30)
    far = np.where(labels == 0, grey < 5, grey > 40)
    noisy = image_dependent(labels, 2, 0.2, np.random.default_rng(0), images)
    flipped = noisy != labels
    assert flipped[near].mean() > 3 * flipped[far].mean()
    images, labels = blobs(900, 3)
    noisy = image_dependent(labels, 3, 0.3, np.random.default_rng(0), images)
    moved = noisy != labels
    assert (abs(noisy[moved] - labels[moved]) == 1).mean() > 0.95, (
        "the darkest isn't taken for the lightest"
    )


def test_impossible_noise_is_refused() -> None:
    generator, labels = np.random.default_rng(0), np.array([0, 1, 0])
    images = np.zeros((3, 1, 2, 2), np.uint8)
    for call, expected in (
        (lambda: symmetric(labels, 1, 0.1, generator), "two classes"),
        (lambda: symmetric(labels, 2, 1.5, generator), "share of 0 to 1"),
        (lambda: asymmetric(labels, 2, 0.1, generator, mapping=[1]), "needs 2 labels"),
        (lambda: asymmetric(labels, 2, 0.1, generator, mapping=[1, 2]), "needs 2 labels"),
        (lambda: confused(labels, np.ones((2, 2)), generator), "sums to 1"),
        (lambda: confused(labels, np.ones((1, 2)), generator), "sums to 1"),
        (lambda: image_dependent(labels * 0, 2, 0.5, generator, images), "two classes"),
        (lambda: noisy_labels("image-dependent", labels, 2, 0.1, generator), "needs the images"),
        (lambda: noisy_labels("symetric", labels, 2, 0.1, generator), "did you mean 'symmetric'"),
    ):
        with pytest.raises(UserError, match=expected):
            call()
