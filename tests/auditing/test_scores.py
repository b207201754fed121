"""Scores in closed form, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condvae.auditing import scores
from condvae.auditing.scores import (
    QUALITIES,
    Pool,
    calibrated_joint,
    confident_labels,
    confident_learning,
    doubted,
    log_normalised,
    log_prior,
    log_right,
    noise_of,
    normalised_margin,
    pooled,
    robust_z,
    self_confidence,
)
from condvae.data.noise import confused, symmetric


def judged(
    number: int, classes: int, noise: float, sharpness: float = 4.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A calibrated judge's log probabilities; true labels, drawn from them; noisy labels."""
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(number, classes))
    log_p = log_normalised(logits)
    true = (generator.random((number, 1)) < np.exp(log_p).cumsum(1)).argmax(1)
    return log_p, true, symmetric(true, classes, noise, generator)


def test_qualities_in_closed_form() -> None:
    log_p = np.log([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.05, 0.05, 0.9]])
    labels = np.array([0, 0, 1])
    assert np.exp(self_confidence(log_p, labels)) == pytest.approx([0.7, 0.25, 0.05])
    assert normalised_margin(log_p, labels) == pytest.approx([0.75, 0.375, 0.075])
    pool = Pool((1.0,), np.full((3, 3), 0.05) + 0.85 * np.eye(3), log_p, log_p.argmax(1))
    assert doubted(pool, labels).tolist() == [2, 1], "the first has its likeliest label"
    assert log_prior(np.array([0, 0, 1]), 3) == pytest.approx(np.log([3 / 6, 2 / 6, 1 / 6]))


@given(st.integers(2, 6), st.integers(0, 1000))
def test_names_of_classes_and_shifts_of_rows_mean_nothing(classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    log_p, _, labels = judged(60, classes, 0.3, seed=seed)
    new_name = generator.permutation(classes)
    renamed = np.empty_like(log_p)
    renamed[:, new_name] = log_p
    assert log_normalised(log_p + generator.normal(size=(60, 1))) == pytest.approx(log_p)
    noise = generator.dirichlet(np.ones(classes), classes)
    renamed_noise = np.empty_like(noise)
    renamed_noise[np.ix_(new_name, new_name)] = noise
    for quality in QUALITIES.values():
        found = quality(renamed, new_name[labels], renamed_noise)
        assert found == pytest.approx(quality(log_p, labels, noise))
    before, after = confident_learning(log_p, labels), confident_learning(renamed, new_name[labels])
    assert after.joint[np.ix_(new_name, new_name)] == pytest.approx(before.joint)
    assert after.errors == pytest.approx(before.errors)


def test_a_judge_that_is_too_sure_is_made_as_sure_as_it_should_be() -> None:
    log_p, _, clean = judged(8000, 4, 0.0, sharpness=1.0)
    assert pooled([log_p * 5], clean).weights[0] == pytest.approx(0.2, rel=0.1)
    log_p, _, labels = judged(8000, 4, 0.2, sharpness=3.0)
    pool = pooled([log_p * 5], labels)
    assert pool.weights[0] == pytest.approx(0.2, rel=0.15), "wrong labels make it no less sure"
    assert np.diag(pool.noise) == pytest.approx(0.8, abs=0.04)
    assert pool.noise.sum(1) == pytest.approx(1)
    assert pool.expected_errors(labels) == pytest.approx(1600, rel=0.1)
    assert np.exp(pool.log_p).sum(1) == pytest.approx(1)


def test_the_probability_that_a_label_is_right_is_by_the_image_and_by_the_label() -> None:
    log_p, labels = np.log([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), np.array([0, 1])
    noise = np.array([[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.1, 0.9]])
    right = [1.0, 0.3 / (0.5 * 0.4 + 0.3 + 0.2 * 0.1)]
    assert np.exp(log_right(log_p, labels, noise)) == pytest.approx(right)
    assert log_right(log_p, labels, np.eye(3)) == pytest.approx([0.0, 0.0]), "no noise, no doubt"
    alike = np.full((3, 3), 1 / 3)
    assert log_right(log_p, labels, alike) == pytest.approx(self_confidence(log_p, labels))


def test_what_is_often_mistaken_is_told_from_what_is_hard_to_read() -> None:
    """Judges that learned from the wrong labels expect them of every image of the class."""
    sure, true, _ = judged(8000, 4, 0.0, sharpness=6.0)
    matrix = np.eye(4)
    matrix[0, :2] = 0.7, 0.3
    generator = np.random.default_rng(1)
    labels = confused(true, matrix, generator)
    wrong = labels != true
    expected = np.log(np.exp(sure) @ matrix + 1e-3)
    pool = pooled([expected + 0.3 * generator.normal(size=expected.shape)], labels)
    assert pool.noise[0, 1] > 5 * pool.noise[2, 1]
    precision = {}
    for quality in QUALITIES:
        first = np.argsort(pool.quality(labels, quality), kind="stable")[: wrong.sum()]
        precision[quality] = float(wrong[first].mean())
    assert precision["log_right"] > 0.8 > 0.5 > max(precision["self_confidence"], precision["margin"])


def test_a_pool_listens_to_who_knows_and_not_to_who_does_not() -> None:
    log_p, _, labels = judged(6000, 5, 0.1)
    generator = np.random.default_rng(1)
    junk = generator.normal(size=log_p.shape) * 3
    pool = pooled([junk, log_p], labels)
    assert pool.weights[0] < 0.05 < 0.7 < pool.weights[1]
    halves = generator.normal(size=(2, *log_p.shape))
    both, one = (
        pooled([log_p + halves[0], log_p + halves[1]], labels),
        pooled([log_p + halves[0]], labels),
    )
    right = [(pool.log_p.argmax(1) == log_p.argmax(1)).mean() for pool in (both, one)]
    assert right[0] > right[1], "two errors of their own are less than one"
    assert np.isfinite(pooled([np.zeros((50, 5))], labels[:50]).log_p).all()


def test_noise_of_the_same_seed_is_not_what_a_pool_is_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong labels are where `default_rng(seed).permutation` begins, the obvious way to put some in."""
    monkeypatch.setattr(scores, "FIT_ON", 2000)
    log_p, true, _ = judged(6000, 10, 0.0)
    labels = symmetric(true, 10, 0.4, np.random.default_rng(3))
    pool = pooled([log_p], labels, seed=3)
    assert pool.weights[0] == pytest.approx(1, rel=0.25)
    assert np.diag(pool.noise).mean() == pytest.approx(0.6, abs=0.05)


def test_a_perfect_judge_gives_the_exact_noise_matrix() -> None:
    true = np.arange(1000) % 2
    matrix = np.array([[0.9, 0.1], [0.4, 0.6]])
    given_labels = confused(true, matrix, np.random.default_rng(0))
    log_p = log_normalised(np.log(0.98 * np.eye(2)[true] + 0.01))
    found = confident_learning(log_p, given_labels)
    assert found.noise_matrix == pytest.approx(matrix)
    assert found.errors == pytest.approx((given_labels != true).sum())
    assert found.interval[0] < found.errors < found.interval[1]
    assert found.joint.sum() == pytest.approx(1)
    assert found.noise_error[0, 1] == pytest.approx(np.sqrt(0.1 * 0.9 / 500), rel=0.3)


def test_intervals_narrow_with_more_images_and_hold_the_number_of_errors() -> None:
    widths = []
    for number in (500, 8000):
        log_p, true, labels = judged(number, 4, 0.2, sharpness=12.0)
        found = confident_learning(log_p, labels)
        wrong = (true != labels).sum()
        assert found.interval[0] - 0.02 * number < wrong < found.interval[1] + 0.02 * number
        widths.append((found.interval[1] - found.interval[0]) / number)
    assert widths[1] < widths[0] / 2


def test_confidence_is_held_against_the_class() -> None:
    """A class of which a judge is seldom sure is believed at less than one of which it is."""
    log_p = np.log([[0.9, 0.1], [0.9, 0.1], [0.45, 0.55], [0.4, 0.6], [0.42, 0.58], [0.8, 0.2]])
    labels = np.array([0, 0, 1, 1, 1, 1])
    # Thresholds: 0.9 of class 0; 0.4825 of class 1.
    assert confident_labels(log_p, labels).tolist() == [0, 0, 1, 1, 1, -1]


def test_classes_that_nobody_has_and_labels_that_nobody_believes() -> None:
    joint = calibrated_joint(np.array([[2.0, 2.0, 4.0], [0.0, 0.0, 2.0]]))
    assert joint == pytest.approx(np.array([[0.4, 0.4], [0.0, 0.2]]))
    assert noise_of(np.array([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(np.eye(2))
    log_p, _, labels = judged(40, 3, 0.1)
    wide = np.concatenate([log_p, np.full((40, 2), -30.0)], 1)
    found = confident_learning(wide, labels)
    assert np.isfinite(found.noise_matrix).all() and found.noise_matrix.sum(1) == pytest.approx(1)


def test_odd_values_stand_out_and_a_flat_bulk_has_none() -> None:
    values = np.random.default_rng(0).normal(3, 2, 5000)
    values[7] = 43
    z = robust_z(values)
    assert z[7] == pytest.approx(20, rel=0.1) and z.std() == pytest.approx(1, rel=0.1)
    assert (robust_z(np.ones(5)) == 0).all()
