"""Likelihoods are probabilities: they sum to 1, stay finite, and own the pixel scale."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condvae.errors import UserError
from condvae.probability.likelihoods import LIKELIHOODS, DiscretisedLogistic


def every_value() -> torch.Tensor:
    """256 images of one pixel, one for each value."""
    return torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)


@given(
    mean=st.floats(-30, 30, width=32),
    raw=st.floats(-100, 100, width=32),
)
@settings(max_examples=200, deadline=None)
def test_discretised_logistic_sums_to_one_over_256_values(mean: float, raw: float) -> None:
    parameters = torch.tensor([mean, raw]).reshape(1, 2, 1, 1).expand(256, 2, 1, 1)
    log_prob = DiscretisedLogistic((1, 1, 1))(parameters).log_prob(every_value())
    assert torch.isfinite(log_prob).all()
    assert float(torch.logsumexp(log_prob.double(), 0)) == pytest.approx(0, abs=2e-4)


def test_discretised_logistic_is_the_difference_of_two_sigmoids() -> None:
    mean, raw = 0.2, 0.3
    parameters = torch.tensor([mean, raw]).reshape(1, 2, 1, 1)
    image = torch.full((1, 1, 1, 1), 200, dtype=torch.uint8)
    found = DiscretisedLogistic((1, 1, 1))(parameters)
    scale = math.exp(float(found.log_scale))
    value = 200 / 127.5 - 1
    sigmoid = [1 / (1 + math.exp(-(value + d - mean) / scale)) for d in (1 / 255, -1 / 255)]
    assert float(found.log_prob(image)) == pytest.approx(math.log(sigmoid[0] - sigmoid[1]), abs=1e-4)


def test_bernoulli_sums_to_one_over_both_values() -> None:
    logits = torch.linspace(-40, 40, 33).reshape(-1, 1, 1, 1)
    found = LIKELIHOODS.build("bernoulli", shape=(1, 1, 1))(logits)
    both = [found.log_prob(torch.full(logits.shape, v, dtype=torch.uint8)) for v in (0, 255)]
    assert torch.logaddexp(*both).abs().max() < 1e-6


def test_dynamic_binarisation_draws_with_the_grey_value_as_probability() -> None:
    grey = torch.tensor([0, 51, 128, 255], dtype=torch.uint8).reshape(1, 4, 1, 1)
    drawn = LIKELIHOODS.build("bernoulli", shape=(1, 1, 1)).observe(grey.expand(20_000, 4, 1, 1))
    assert set(drawn.unique().tolist()) == {0, 255}
    share = drawn.double().mean((0, 2, 3)) / 255
    expected = torch.tensor([0, 0.2, 128 / 255, 1.0], dtype=torch.float64)
    assert torch.allclose(share, expected, atol=0.015)
    assert share[0] == 0 and share[3] == 1


def test_binarising_twice_changes_nothing() -> None:
    likelihood = LIKELIHOODS.build("bernoulli", shape=(1, 1, 1))
    once = likelihood.observe(torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8))
    assert torch.equal(likelihood.observe(once), once)


@pytest.mark.parametrize("name", ["bernoulli", "discretised-logistic", "gaussian"])
def test_pictures_are_on_the_scale_of_the_images(name: str) -> None:
    """The parameters that make an image likeliest give back that image, as uint8 of 0 to 255."""
    torch.manual_seed(0)
    image = torch.randint(0, 2, (4, 1, 3, 3), dtype=torch.uint8) * 255
    if name != "bernoulli":
        image = torch.randint(20, 230, (4, 1, 3, 3), dtype=torch.uint8)
    likelihood = LIKELIHOODS.build(name, shape=(1, 3, 3))
    parameters = torch.zeros(4, likelihood.planes, 3, 3, requires_grad=True)
    optimiser = torch.optim.Adam([parameters], lr=0.03)
    for _ in range(1500):
        optimiser.zero_grad()
        (-likelihood(parameters).log_prob(image).sum()).backward()
        optimiser.step()
    with torch.no_grad():
        mean = likelihood(parameters).mean_image()
        drawn = likelihood(parameters).sample_image(torch.Generator().manual_seed(0))
    assert mean.dtype == drawn.dtype == torch.uint8
    assert (mean.int() - image.int()).abs().max() <= 3
    assert drawn.shape == image.shape


def test_samples_have_the_mean_and_scale_of_the_distribution() -> None:
    parameters = torch.tensor([0.1, 1.0]).reshape(1, 2, 1, 1).expand(40_000, 2, 1, 1)
    found = DiscretisedLogistic((1, 1, 1))(parameters)
    drawn = found.sample_image(torch.Generator().manual_seed(0)).double().flatten()
    probabilities = found.log_prob(every_value().expand(256, 1, 1, 1)[:1])
    assert torch.isfinite(probabilities).all()
    one = DiscretisedLogistic((1, 1, 1))(parameters[:1].expand(256, 2, 1, 1))
    weights = one.log_prob(every_value()).double().exp()
    expected = (weights * torch.arange(256)).sum()
    spread = (weights * (torch.arange(256) - expected) ** 2).sum().sqrt()
    assert float(drawn.mean()) == pytest.approx(float(expected), abs=4 * float(spread) / 200)
    assert float(drawn.std()) == pytest.approx(float(spread), rel=0.03)


def test_what_is_no_probability_says_so() -> None:
    assert not LIKELIHOODS.build("grey-cross-entropy", shape=(1, 1, 1)).is_probability
    assert not LIKELIHOODS.build("gaussian", shape=(1, 1, 1)).is_probability
    assert not LIKELIHOODS.build("bernoulli", shape=(1, 1, 1)).normalised
    assert LIKELIHOODS.build("discretised-logistic", shape=(1, 1, 1)).normalised


def test_an_unknown_likelihood_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'bernoulli'"):
        LIKELIHOODS.build("bernouli", shape=(1, 1, 1))
