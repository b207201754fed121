"""What evaluation.json says: which images it is of, what is claimed of them, and what never is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from condvae.config import ModelConfig
from condvae.data import load as images_named
from condvae.evaluation.bounds import Bounds, bounds, curve_sizes
from condvae.evaluation.numbers import likelihood_numbers, train_numbers
from condvae.models.families import build_model
from condvae.run import Run, load
from condvae.verbs.evaluate import _trained_on
from condvae.verbs.sources import training_images


def untrained(likelihood: str, small_run: Path) -> Run:
    run = load(small_run, "cpu")
    torch.manual_seed(0)
    model = build_model(ModelConfig(network="mlp(widths=[8])", likelihood=likelihood), (1, 8, 8), 10)
    return replace(run, model=model.eval().requires_grad_(False))


def found_by(run: Run, samples: int = 3) -> tuple[Bounds, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (12, 1, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.arange(12) % 10
    return bounds(run.model, run.model.likelihood.observe(x, generator), y, samples=samples), y.numpy()


def test_a_model_that_no_label_reaches_reads_none(small_run: Path) -> None:
    run = untrained("bernoulli", small_run)
    config = ModelConfig(
        network="mlp(widths=[8])", prior="standard-normal", label_reaches=(), likelihood="bernoulli"
    )
    blind = replace(run, model=build_model(config, (1, 8, 8), 10).eval().requires_grad_(False))
    for who, reads in ((run, True), (blind, False)):
        numbers = likelihood_numbers(who.model, *found_by(who))
        assert ("generative_accuracy" in numbers) == reads
        same = numbers["marginal_log_likelihood_nats"] == numbers["log_likelihood_nats"]
        assert same != reads, "p(x|y) is p(x) where no label reaches"


@pytest.mark.parametrize(
    ("likelihood", "proper", "bits"),
    [
        ("bernoulli", True, False),
        ("discretised-logistic", True, True),
        ("grey-cross-entropy", False, False),
        ("gaussian", False, False),
    ],
)
def test_only_what_is_a_probability_has_a_bound_and_only_256_values_have_bits(
    likelihood: str, proper: bool, bits: bool, small_run: Path
) -> None:
    run = untrained(likelihood, small_run)
    found, labels = found_by(run)
    numbers = likelihood_numbers(run.model, found, labels)
    for key in ("elbo_nats", "log_likelihood_nats", "marginal_log_likelihood_nats"):
        assert (numbers[key] is not None) == proper
    assert ("distortion_nats" in numbers) == ("bound_curve" in numbers) == proper
    assert ("objective_nats_no_bound" in numbers) != proper
    assert (numbers["bits_per_dim"] is not None) == ("bits_per_dim_elbo" in numbers) == bits
    if bits:
        expected = -numbers["marginal_log_likelihood_nats"] / (64 * math.log(2))
        assert numbers["bits_per_dim"] == pytest.approx(expected)


def test_numbers_are_means_of_the_images_and_agree_with_one_another(small_run: Path) -> None:
    run = untrained("bernoulli", small_run)
    found, labels = found_by(run, samples=30)
    numbers = likelihood_numbers(run.model, found, labels)
    curve = numbers["bound_curve"]
    assert curve["samples"] == curve_sizes(30)
    assert (curve["nats"][0], curve["nats"][-1]) == (
        numbers["elbo_nats"],
        numbers["log_likelihood_nats"],
    )
    assert curve["nats_stderr"][-1] == numbers["log_likelihood_nats_stderr"]
    assert numbers["log_likelihood_nats_stderr"] == pytest.approx(found.log_likelihood.std() / 12**0.5)
    assert numbers["rate_nats"] == numbers["kl_nats"] == pytest.approx(sum(numbers["kl_nats_by_group"]))
    assert numbers["rate_nats"] + numbers["distortion_nats"] == pytest.approx(-numbers["elbo_nats"])


def test_training_images_are_those_that_were_trained_on_and_no_others(small_run: Path) -> None:
    run = load(small_run, "cpu")
    every = training_images(run.config.data, None)
    seen = _trained_on(run, every, 10**6, seed=0)
    assert len(seen) == run.training["images"] < len(every)
    keys = {image.tobytes() for image in seen.images}
    _, validation = every.split_validation(run.config.data.validation, run.config.training.seed)
    test = images_named("mnist-sample", split="test")
    assert not keys & {image.tobytes() for image in (*validation.images, *test.images)}
    some = _trained_on(run, every, 50, seed=1)
    assert len(some) == 50 and {image.tobytes() for image in some.images} <= keys


def test_the_gap_is_zero_where_the_test_images_are_the_training_images(small_run: Path) -> None:
    from condvae.evaluation.bounds import fixed_binarisation

    run = load(small_run, "cpu")
    images = _trained_on(run, training_images(run.config.data, None), 40, seed=0)
    x, y = torch.tensor(images.images), torch.tensor(images.labels)
    observed = fixed_binarisation(run.model, x, 0)
    test, train = (bounds(run.model, observed, y, samples=s, every_label=False) for s in (60, 50))
    numbers = train_numbers(run.model, train, test)
    assert (numbers["images"], numbers["samples"]) == (40, 50)
    assert numbers["elbo_gap_nats"] == pytest.approx(0, abs=0.5), "60 samples here, 50 there"
    assert numbers["log_likelihood_gap_nats"] == pytest.approx(0, abs=1e-6), "50 samples both"
    assert numbers["elbo_gap_nats_stderr"] > 0
