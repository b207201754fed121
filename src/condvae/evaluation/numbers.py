"""An evaluation's numbers under their names: means over images, in nats, and their standard errors.

What each name means, and what it may be compared with, is told in docs/likelihood.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condvae.evaluation.bounds import Bounds, bits_per_dim, curve_sizes
from condvae.models.protocol import ConditionalModel


def likelihood_numbers(
    model: ConditionalModel, found: Bounds, labels: NDArray[np.int64]
) -> dict[str, Any]:
    """The bounds' means and standard errors, under names that say what may be claimed of them."""
    likelihood = model.likelihood
    numbers: dict[str, Any] = bound_numbers(found, likelihood.is_probability) | {
        "kl_nats_by_group": [float(group) for group in found.kl.mean(0)],
        "active_units": found.active_units(),
        "latents": model.latents,
        "marginal_log_likelihood_nats": None,
        "bits_per_dim": None,
    }
    if not likelihood.is_probability:
        return numbers
    numbers |= mean("marginal_log_likelihood", found.marginal)
    curve = [mean("bound", column) for column in found.curve.T]
    numbers["bound_curve"] = {
        "samples": curve_sizes(found.samples),
        "nats": [point["bound_nats"] for point in curve],
        "nats_stderr": [point["bound_nats_stderr"] for point in curve],
    }
    shape = model.shape
    if likelihood.normalised:
        numbers["bits_per_dim"] = bits_per_dim(numbers["marginal_log_likelihood_nats"], shape)
        numbers["bits_per_dim_given_label"] = bits_per_dim(numbers["log_likelihood_nats"], shape)
        numbers["bits_per_dim_elbo"] = bits_per_dim(numbers["elbo_nats"], shape)
    if model.uses_label:  # else all labels are equally likely, and only the own one was scored
        likeliest = found.label_log_likelihood.argmax(1)
        numbers["generative_accuracy"] = float((likeliest == labels).mean())
        posterior = softmax(found.label_log_likelihood)
        numbers["generative_calibration_error"] = calibration_error(posterior, labels)
    return numbers


def bound_numbers(found: Bounds, is_probability: bool) -> dict[str, Any]:
    """What test images and training images are both told of."""
    rate: dict[str, Any] = {"kl_nats": float(found.rate.mean())}
    if not is_probability:
        # A loss, or a density on 8-bit values: comparable with nothing but itself.
        loss = {"objective_nats_no_bound": float(-found.elbo.mean())}
        return rate | loss | {"elbo_nats": None, "log_likelihood_nats": None}
    return {
        **mean("elbo", found.elbo),
        **mean("log_likelihood", found.log_likelihood),
        **rate,
        "rate_nats": rate["kl_nats"],
        "distortion_nats": float(found.distortion.mean()),
    }


def train_numbers(model: ConditionalModel, found: Bounds, test: Bounds) -> dict[str, Any]:
    """Bounds of images that were trained on; `*_gap_nats` is how much better they are than the test's.

    Arguments:
        found: of training images, with as many samples as there are on the curve of
        test: test images; the two importance-weighted bounds have equally many.
    """
    proper = model.likelihood.is_probability
    numbers = {"images": len(found.elbo), "samples": found.samples, **bound_numbers(found, proper)}
    if proper:
        numbers |= gap("elbo", found.elbo, test.elbo)
        as_many = test.curve[:, curve_sizes(test.samples).index(found.samples)]
        numbers |= gap("log_likelihood", found.log_likelihood, as_many)
    return numbers


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities in proportion to `exp(logits)`, a row each; -inf is a probability of 0."""
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def calibration_error(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = 15
) -> float:
    """Expected calibration error: how far confidence is from accuracy (Guo et al. 2017, equation 3).

    The likeliest class's probability and whether it is right, over bins of equal width; the mean
    distance, weighed by how many images there are in a bin.

    Arguments:
        probabilities: `[n, K]`, rows that sum to 1.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    off = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(off).sum() / len(labels))


def mean(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    """The mean over images, and its standard error."""
    return {
        f"{name}_nats": float(values.mean()),
        f"{name}_nats_stderr": float(values.std() / math.sqrt(len(values))),
    }


def gap(name: str, train: NDArray[np.float64], test: NDArray[np.float64]) -> dict[str, float]:
    """The mean over training images less that over test images, and its standard error."""
    return {
        f"{name}_gap_nats": float(train.mean() - test.mean()),
        f"{name}_gap_nats_stderr": math.sqrt(train.var() / len(train) + test.var() / len(test)),
    }
