"""Likelihoods are probabilities: they sum to 1, stay finite, and own the pixel scale."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condvae.errors import UserError
from condvae.probability.binary import uniforms_of_content
from condvae.probability.densities import ContinuousBernoulliImages, GaussianImages
from condvae.probability.discrete import BetaBinomialImages, draw_index
from condvae.probability.discretised import (
    DiscretisedGaussian,
    DiscretisedLogistic,
    log_normal_cdf,
    normal_bin,
)
from condvae.probability.images import Images, Likelihood
from condvae.probability.likelihoods import LIKELIHOODS

OPTIONS = [
    "bernoulli(binarisation=fixed)",
    "bernoulli(binarisation=threshold)",
    "discretised-logistic(scale=learned)",
    "discretised-gaussian(scale=learned)",
    "discretised-logistic-mixture(components=3)",
    "gaussian(scale=fixed, value=0.2)",
    "gaussian(scale=pixel)",
    "gaussian(scale=optimal)",
]
EVERY = [*LIKELIHOODS.parts, *OPTIONS]


def build(spec: str, shape: tuple[int, int, int] = (1, 1, 1)) -> Likelihood:
    return LIKELIHOODS.build(spec, shape=shape)


NORMALISED = [spec for spec in EVERY if build(spec).normalised]


def every_value() -> Images:
    """256 images of one pixel, one for each value."""
    return torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)


def log_probs(spec: str, parameters: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the 256 values of a grey pixel, given its parameters."""
    found = build(spec)(parameters.reshape(1, -1, 1, 1).expand(256, -1, 1, 1))
    return found.log_prob(every_value()).detach().double()


def random_parameters(spec: str, size: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(build(spec).planes, generator=generator)


# --------------------------------------------------------------------------------------- every family


@pytest.mark.parametrize("spec", NORMALISED)
@given(size=st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0, 1e3, 1e4]), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_256_values_sum_to_one(spec: str, size: float, seed: int) -> None:
    log_prob = log_probs(spec, random_parameters(spec, size, seed))
    assert torch.isfinite(log_prob).all()
    assert float(torch.logsumexp(log_prob, 0)) == pytest.approx(0, abs=3e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spec", EVERY)
def test_extreme_parameters_have_finite_values_and_gradients(spec: str, channels: int) -> None:
    likelihood = build(spec, (channels, 1, 7))
    values = torch.tensor([0, 255, 1, 254, 128, 60, 0], dtype=torch.uint8)
    images = likelihood.observe(values.expand(1, channels, 1, 7))
    torch.manual_seed(0)
    for size, _ in itertools.product((0.0, 1.0, 30.0, 1e3, 1e4), range(8)):
        signs = torch.randint(-1, 2, (1, likelihood.planes, 1, 7))
        parameters = (size * signs).requires_grad_()
        found = likelihood(parameters)
        log_prob = found.log_prob(images)
        log_prob.sum().backward()
        assert torch.isfinite(log_prob).all(), size
        for weight in (parameters, *likelihood.parameters()):
            assert weight.grad is not None and torch.isfinite(weight.grad).all(), size
        for picture in (found.mean_image(), found.sample_image()):
            assert picture.dtype == torch.uint8 and picture.shape == images.shape


@pytest.mark.parametrize("spec", NORMALISED)
def test_an_untrained_decoder_finds_no_image_absurd(spec: str) -> None:
    """All outputs 0 are a broad distribution: at its ends as well, not far below the uniform one."""
    log_prob = log_probs(spec, torch.zeros(build(spec).planes))
    assert -log_prob.mean() < 2 * math.log(256)
    assert log_prob.min() > -15


@pytest.mark.parametrize("spec", NORMALISED)
def test_samples_and_mean_images_agree_with_the_probabilities(spec: str) -> None:
    parameters = random_parameters(spec, 0.5, seed=1)
    probabilities = log_probs(spec, parameters).exp()
    mean = float((probabilities * torch.arange(256)).sum())
    spread = float((probabilities * (torch.arange(256) - mean) ** 2).sum().sqrt())
    found = build(spec)(parameters.reshape(1, -1, 1, 1).expand(20_000, -1, 1, 1))
    drawn = found.sample_image(torch.Generator().manual_seed(0)).double().flatten()
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * spread / math.sqrt(20_000))
    assert float(drawn.std()) == pytest.approx(spread, rel=0.03)
    share = torch.bincount(drawn.long(), minlength=256) / 20_000
    error = (probabilities * (1 - probabilities) / 20_000).sqrt()
    assert ((share - probabilities).abs() <= 5 * error + 2e-4).all()
    # The mean of a broad density is taken before its ends are gathered into the first and last bins.
    tolerance = 12 if spec.startswith("discretised") else 1
    assert float(found.mean_image()[0]) == pytest.approx(mean, abs=tolerance)


def test_samples_follow_the_generator() -> None:
    for spec in EVERY:
        found = build(spec, (1, 4, 4))(torch.zeros(2, build(spec).planes, 4, 4))
        one, same, other = (found.sample_image(torch.Generator().manual_seed(s)) for s in (0, 0, 1))
        assert torch.equal(one, same), spec
        assert torch.equal(one, other) == (spec == "gaussian(scale=optimal)"), spec


@pytest.mark.parametrize("spec", [s for s in EVERY if not build(s).binary])
def test_pictures_are_on_the_scale_of_the_images(spec: str) -> None:
    """The parameters that make an image likeliest give back that image, as uint8 of 0 to 255."""
    torch.manual_seed(0)
    image = torch.randint(20, 230, (4, 1, 3, 3), dtype=torch.uint8)
    likelihood = build(spec, (1, 3, 3))
    parameters = (0.1 * torch.randn(4, likelihood.planes, 3, 3)).requires_grad_()
    optimiser = torch.optim.Adam([parameters], lr=0.2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, total_iters=400)
    for _ in range(400):
        optimiser.zero_grad()
        (-likelihood(parameters).log_prob(image).sum()).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        mean = likelihood(parameters).mean_image()
    assert (mean.int() - image.int()).abs().max() <= 3


def test_pictures_of_binary_pixels_are_on_the_scale_of_the_images() -> None:
    logits = torch.tensor([-50.0, 0.0, 50.0]).reshape(1, 1, 1, 3)
    assert build("bernoulli")(logits).mean_image().flatten().tolist() == [0, 128, 255]


def test_every_family_says_what_it_is() -> None:
    """`(normalised, binary, is_probability)`; a new family is to be added here by hand."""
    expected = {
        "bernoulli": (False, True, True),
        "categorical": (True, False, True),
        "beta-binomial": (True, False, True),
        "discretised-logistic": (True, False, True),
        "discretised-gaussian": (True, False, True),
        "discretised-logistic-mixture": (True, False, True),
        "gaussian": (False, False, False),
        "continuous-bernoulli": (False, False, False),
        "grey-cross-entropy": (False, False, False),
    }
    found = {name: build(name) for name in LIKELIHOODS.parts}
    assert {k: (v.normalised, v.binary, v.is_probability) for k, v in found.items()} == expected
    assert {build(s).binarisation for s in EVERY if build(s).binary} == {"dynamic", "fixed", "threshold"}
    assert {build(s).binarisation for s in EVERY if not build(s).binary} == {None}


@pytest.mark.parametrize(
    ("spec", "channels", "message"),
    [
        ("bernouli", 1, "did you mean 'bernoulli'"),
        ("bernoulli(binarisation=fix)", 1, "did you mean 'fixed'"),
        ("gaussian(scale=learnt)", 1, "did you mean 'learned'"),
        ("gaussian(scale=fixed, value=0)", 1, "greater than 0"),
        ("discretised-logistic(scale=image)", 1, "'image' does not exist .there are: pixel, learned"),
        ("discretised-logistic-mixture", 2, "1 or 3 channels, not 2"),
        ("discretised-logistic-mixture(components=0)", 3, "at least 1"),
    ],
)
def test_what_does_not_exist_is_refused_in_a_sentence(spec: str, channels: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(spec, (channels, 1, 1))


# -------------------------------------------------------------------------------------- binary pixels


def test_bernoulli_sums_to_one_over_both_values() -> None:
    logits = torch.linspace(-40, 40, 33).reshape(-1, 1, 1, 1)
    found = build("bernoulli")(logits)
    both = [found.log_prob(torch.full(logits.shape, v, dtype=torch.uint8)) for v in (0, 255)]
    assert torch.logaddexp(*both).abs().max() < 1e-6


def test_dynamic_binarisation_draws_with_the_grey_value_as_probability() -> None:
    grey = torch.tensor([0, 51, 128, 255], dtype=torch.uint8).reshape(1, 4, 1, 1)
    drawn = build("bernoulli").observe(grey.expand(20_000, 4, 1, 1))
    assert set(drawn.unique().tolist()) == {0, 255}
    share = drawn.double().mean((0, 2, 3)) / 255
    expected = torch.tensor([0, 0.2, 128 / 255, 1.0], dtype=torch.float64)
    assert torch.allclose(share, expected, atol=0.015)
    assert share[0] == 0 and share[3] == 1


@pytest.mark.parametrize("binarisation", ["dynamic", "fixed", "threshold"])
def test_binarising_twice_changes_nothing(binarisation: str) -> None:
    likelihood = build(f"bernoulli(binarisation={binarisation})")
    grey = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8)
    once = likelihood.observe(grey)
    assert set(once.unique().tolist()) == {0, 255}
    assert torch.equal(likelihood.observe(once), once)
    both = torch.randint(0, 2, (50, 3, 8, 8), dtype=torch.uint8) * 255
    assert torch.equal(likelihood.observe(both), both)


def test_fixed_binarisation_depends_on_the_image_alone() -> None:
    likelihood = build("bernoulli(binarisation=fixed)")
    grey = torch.randint(0, 256, (20, 3, 9, 7), dtype=torch.uint8)
    together = likelihood.observe(grey)
    assert torch.equal(together, likelihood.observe(grey, torch.Generator().manual_seed(5)))
    order = torch.randperm(20)
    assert torch.equal(likelihood.observe(grey[order]), together[order])
    for image, binary in zip(grey, together, strict=True):
        assert torch.equal(likelihood.observe(image[None])[0], binary)
    assert torch.equal(likelihood.observe(grey.to(memory_format=torch.channels_last)), together)


def test_fixed_binarisation_is_the_same_on_every_machine() -> None:
    grey = torch.arange(12, dtype=torch.uint8).reshape(1, 1, 3, 4) * 21
    drawn = build("bernoulli(binarisation=fixed)").observe(grey)
    # What was drawn when this was written: other draws would change every number published with them.
    assert (drawn.flatten() // 255).tolist() == [0, 0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1]


def test_numbers_of_content_look_uniform_and_independent() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (400, 1, 10, 10), dtype=torch.uint8)
    images[200:] = images[:200]
    images[200:, 0, 0, 0] += 1  # one pixel is different by one: all numbers are to be different
    images[0] = 0
    found = uniforms_of_content(images).flatten(1).double().numpy()
    assert found.min() >= 0 and found.max() < 1
    assert scipy.stats.kstest(found.flatten(), "uniform").pvalue > 0.01
    for one, other in (
        (found[:200], found[200:]),  # of images that are all but equal
        (found[:, :-1], found[:, 1:]),  # of neighbouring pixels
        (found[:-1], found[1:]),  # of neighbouring images
    ):
        correlation = np.corrcoef(one.flatten(), other.flatten())[0, 1]
        assert abs(correlation) < 4 / math.sqrt(one.size)


def test_fixed_binarisation_draws_with_the_grey_value_as_probability() -> None:
    grey = torch.randint(0, 256, (3000, 1, 8, 8), dtype=torch.uint8)
    drawn = build("bernoulli(binarisation=fixed)").observe(grey)
    for value in (0, 30, 128, 200, 255):
        share = (drawn[grey == value] > 0).double().mean()
        assert float(share) == pytest.approx(value / 255, abs=0.08)
    assert float((drawn.double() - grey).mean()) == pytest.approx(0, abs=4 * 104 / math.sqrt(192_000))


@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-24])
def test_no_number_turns_black_or_white_round(monkeypatch: pytest.MonkeyPatch, extreme: float) -> None:
    def same(x: Images) -> torch.Tensor:
        return torch.full(x.shape, extreme)

    monkeypatch.setattr("condvae.probability.binary.uniforms_of_content", same)
    both = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    assert torch.equal(build("bernoulli(binarisation=fixed)").observe(both), both)


def test_threshold_is_white_from_128_up() -> None:
    drawn = build("bernoulli(binarisation=threshold)").observe(every_value()).flatten()
    assert drawn.tolist() == [0] * 128 + [255] * 128


# ------------------------------------------------------------------------- integrals of a density


def test_discretised_logistic_is_the_difference_of_two_sigmoids() -> None:
    parameters = torch.tensor([0.2, 0.3]).reshape(1, 2, 1, 1)
    image = torch.full((1, 1, 1, 1), 200, dtype=torch.uint8)
    found = DiscretisedLogistic((1, 1, 1))(parameters)
    scale = math.exp(float(found.log_scale))
    value = 200 / 127.5 - 1
    sigmoid = [1 / (1 + math.exp(-(value + d - 0.2) / scale)) for d in (1 / 255, -1 / 255)]
    assert float(found.log_prob(image)) == pytest.approx(math.log(sigmoid[0] - sigmoid[1]), abs=1e-4)


@pytest.mark.parametrize("raw", [-20.0, -3.0, 0.0, 20.0])
@pytest.mark.parametrize("mean", [-1.0, 0.3, 2.0])
def test_discretised_gaussian_is_the_difference_of_two_normal_cdfs(mean: float, raw: float) -> None:
    found = DiscretisedGaussian((1, 1, 1))(torch.tensor([mean, raw]).reshape(1, 2, 1, 1))
    normal = scipy.stats.norm(float(found.mean), math.exp(float(found.log_scale)))
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    # Above the mean by survival: there a difference of cumulative probabilities is one of ones.
    expected = np.where(
        edges[1:] < mean,
        normal.cdf(edges[1:]) - normal.cdf(edges[:-1]),
        normal.sf(edges[:-1]) - normal.sf(edges[1:]),
    )
    probabilities = log_probs("discretised-gaussian", torch.tensor([mean, raw])).exp().numpy()
    assert probabilities == pytest.approx(expected, rel=1e-3, abs=1e-30)


def test_gradients_of_the_discretised_gaussian_are_those_of_float64() -> None:
    values = every_value().flatten()
    for mean, log_scale in itertools.product((-1e4, -3.0, 0.0, 0.5, 1e4), (-7.0, -3.0, 1.0)):
        single = [torch.full((256,), v, requires_grad=True) for v in (mean, log_scale)]
        double = [part.detach().double().requires_grad_() for part in single]
        found = torch.autograd.grad(normal_bin(values, *single).sum(), single)
        expected = torch.autograd.grad(log_integral(values, *double).sum(), double)
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one.double(), other, rtol=1e-3, atol=1e-3)


def log_integral(values: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Log of the normal density, summed over 2001 places in each bin by the trapezoidal rule.

    The two bins without an end are tails, whose function has a test of its own.
    """
    places = torch.linspace(-1, 1, 2001, dtype=torch.float64) / 255
    weights = torch.ones(2001, dtype=torch.float64)
    weights[0] = weights[-1] = 0.5
    at = values.double()[:, None] / 127.5 - 1 + places
    standardised = (at - mean[:, None]) * torch.exp(-log_scale)[:, None]
    inside = torch.logsumexp(weights.log() - standardised.square() / 2, 1) - log_scale
    below = log_normal_cdf(standardised[:, -1]).where(values == 0, inside)
    return log_normal_cdf(-standardised[:, 0]).where(values == 255, below)


def test_log_normal_cdf_and_its_gradient_far_down_the_tail() -> None:
    t = torch.tensor([-1e6, -1e4, -100.0, -3.0, 0.0, 3.0, 100.0, 1e6], requires_grad=True)
    found = log_normal_cdf(t)
    (gradient,) = torch.autograd.grad(found.sum(), t)
    at = t.detach().double().numpy()
    expected = scipy.stats.norm.logcdf(at)
    assert found.detach().double().numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    hazard = np.exp(scipy.stats.norm.logpdf(at) - expected)
    assert gradient[1:].double().numpy() == pytest.approx(hazard[1:], rel=1e-3, abs=1e-7)
    assert float(gradient[0]) == pytest.approx(1e6, rel=1e-3)


# ------------------------------------------------------------------------------ mixture of logistics


def mixture(parameters: torch.Tensor, components: int) -> tuple[np.ndarray, ...]:
    """Weights [k], means [k, 3], scales [k, 3], coefficients [k, 3] of one colour pixel, in float64."""
    each = parameters.double().numpy().reshape(components, 10)
    weights = np.exp(each[:, 0] - each[:, 0].max())
    softplus = lambda v: np.logaddexp(0, v)  # noqa: E731
    log_scale = -7 + softplus(1 - softplus(1 - each[:, 4:7]) + 7)
    return weights / weights.sum(), each[:, 1:4], np.exp(log_scale), np.tanh(each[:, 7:])


def one_channel(value: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Probability of an 8-bit value under a discretised logistic, by its definition."""
    sigmoid = lambda v: 0.5 * (1 + np.tanh(v / 2))  # noqa: E731
    at = value / 127.5 - 1
    upper = np.where(value == 255, 1.0, sigmoid((at + 1 / 255 - mean) / scale))
    return upper - np.where(value == 0, 0.0, sigmoid((at - 1 / 255 - mean) / scale))


def test_the_mixture_is_pixelcnns() -> None:
    """Every channel's conditional probability as in the paper, by its plain formula in float64."""
    rng = np.random.default_rng(0)
    for components in (1, 4):
        parameters = torch.tensor(rng.normal(size=10 * components), dtype=torch.float32)
        x = rng.choice([0, 255, 3, 77, 130, 251], size=(60, 3)).astype(np.float64)
        weights, mean, scale, (a, b, c) = (
            part if i < 3 else part.T for i, part in enumerate(mixture(parameters, components))
        )
        r, g = (x[:, :2] / 127.5 - 1).T[:, :, None]
        means = mean[:, 0] + 0 * r, mean[:, 1] + a * r, mean[:, 2] + b * r + c * g
        each = [one_channel(x[:, i, None], means[i], scale[:, i]) for i in range(3)]
        expected = np.log((weights * each[0] * each[1] * each[2]).sum(1))
        found = build(f"discretised-logistic-mixture(components={components})", (3, 1, 1))(
            parameters.reshape(1, -1, 1, 1).expand(60, -1, 1, 1)
        ).log_prob(torch.tensor(x, dtype=torch.uint8).reshape(60, 3, 1, 1))
        assert found.numpy() == pytest.approx(expected, abs=2e-3)


def test_every_conditional_of_the_colour_mixture_sums_to_one() -> None:
    """`p(r)`, `p(g|r)`, `p(b|r,g)`: sums of the joint, at red values that hold nearly all of red.

    Red's scale is an eighth of a bin, so two components put all of red on 7 values, ends included,
    and the sum over these and over all greens and blues is that over all 2^24 colours.
    """
    each = torch.zeros(2, 10)
    each[:, 0] = torch.tensor([0.4, -0.3])
    each[:, 1] = torch.tensor([-1.0, 100 / 127.5 - 1])
    each[:, 4] = -1e4
    each[:, [2, 3, 5, 6, 7, 8, 9]] = torch.randn(2, 7, generator=torch.Generator().manual_seed(3))
    likelihood = build("discretised-logistic-mixture(components=2)", (3, 256, 256))
    found = likelihood(each.reshape(1, 20, 1, 1).expand(1, 20, 256, 256))
    green, blue = torch.meshgrid(*[torch.arange(256)] * 2, indexing="ij")
    red_sums = []
    for red in (0, 1, 2, 98, 99, 100, 101, 102):
        x = torch.stack([torch.full_like(green, red), green, blue])[None].to(torch.uint8)
        joint = torch.exp(pixel_log_probs(found, x).double())[0]
        by_green = joint.sum(1)
        red_sums.append(by_green.sum())
        (weights, mean, scale, _) = mixture(each.flatten(), 2)
        expected = (weights * one_channel(np.full(2, float(red)), mean[:, 0], scale[:, 0])).sum()
        assert float(by_green.sum()) == pytest.approx(expected, rel=2e-3, abs=1e-9)
    assert float(sum(red_sums)) == pytest.approx(1, abs=2e-3)


def pixel_log_probs(found: object, x: Images) -> torch.Tensor:
    """Log-probabilities of the single pixels `[1, H, W]`: an image of one pixel for each of them."""
    b, _, h, w = x.shape
    move = lambda part: part.movedim((-2, -1), (1, 2)).flatten(0, 2)[..., None, None]  # noqa: E731
    each = type(found)(*(move(part) for part in vars(found).values()))
    return each.log_prob(move(x)).reshape(b, h, w)


def test_colours_of_the_mixture_are_drawn_jointly() -> None:
    """Means, spreads and covariances of drawn colours, and the mean image, by long enumeration."""
    each = torch.zeros(2, 10)
    each[:, 0] = torch.tensor([0.0, 0.5])
    each[:, 1:4] = torch.tensor([[-0.3, 0.1, 0.0], [0.3, -0.1, 0.2]])
    each[:, 4:7] = -3.0
    each[:, 7:] = torch.tensor([[1.0, -0.5, 0.8], [-1.0, 0.3, 0.4]])
    found = build("discretised-logistic-mixture(components=2)", (3, 1, 1))(
        each.reshape(1, 20, 1, 1).expand(40_000, 20, 1, 1)
    )
    drawn = found.sample_image(torch.Generator().manual_seed(0)).double().reshape(-1, 3).numpy()
    weights, mean, scale, coefficients = mixture(each.flatten(), 2)
    moments = [linear_moments(m, s, c) for m, s, c in zip(mean, scale, coefficients, strict=True)]
    centre = sum(w * m for w, (m, _) in zip(weights, moments, strict=True))
    covariance = sum(
        w * (v + np.outer(m - centre, m - centre)) for w, (m, v) in zip(weights, moments, strict=True)
    )
    values = drawn / 127.5 - 1
    assert values.mean(0) == pytest.approx(centre, abs=0.01)
    assert np.cov(values.T) == pytest.approx(covariance, rel=0.05, abs=0.002)
    assert found.mean_image()[0].flatten().numpy() == pytest.approx((centre + 1) * 127.5, abs=1)


def linear_moments(mean: np.ndarray, scale: np.ndarray, coefficients: np.ndarray) -> tuple:
    """Mean and covariance of (r, g, b) = mean + lower r, g, b + noise, of logistic noise."""
    a, b, c = coefficients
    lower = np.array([[0, 0, 0], [a, 0, 0], [b, c, 0]])
    spread = np.linalg.inv(np.eye(3) - lower)
    return spread @ mean, spread @ np.diag((math.pi * scale) ** 2 / 3) @ spread.T


# ------------------------------------------------------------------------- values with probabilities


def test_categorical_gives_every_channel_its_own_256_planes() -> None:
    likelihood = build("categorical", (3, 2, 2))
    parameters = torch.randn(4, likelihood.planes, 2, 2)
    x = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8)
    expected = sum(
        torch.distributions.Categorical(
            logits=parameters[:, 256 * c : 256 * (c + 1)].movedim(1, -1)
        ).log_prob(x[:, c])
        for c in range(3)
    )
    assert torch.allclose(likelihood(parameters).log_prob(x), expected.sum((1, 2)), rtol=1e-5)


def test_an_index_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]).expand(5000, 5)
    drawn = draw_index(logits, 1, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 3}


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.01, 3.0), (8000.0, 0.003), (7e3, 5e3)])
def test_beta_binomial_is_scipys(alpha: float, beta: float) -> None:
    parts = [torch.full((256, 1, 1, 1), v, dtype=torch.float64) for v in (alpha, beta)]
    found = BetaBinomialImages(*parts).log_prob(every_value()).numpy()
    expected = scipy.stats.betabinom(255, alpha, beta).logpmf(np.arange(256))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


# ------------------------------------------------------------------------------------------ densities


def test_gaussian_scales_are_what_they_are_called() -> None:
    x = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    mean = torch.randn(5, 3, 4, 4)
    value = x / 127.5 - 1
    for spec, std in (("gaussian", 1.0), ("gaussian(scale=fixed, value=0.2)", 0.2)):
        found = build(spec, (3, 4, 4))(mean).log_prob(x)
        expected = torch.distributions.Normal(mean, std).log_prob(value).sum((1, 2, 3))
        assert torch.allclose(found, expected, rtol=1e-5), spec
    pixel = build("gaussian(scale=pixel)", (3, 4, 4))(torch.cat([mean, torch.full_like(mean, -2.0)], 1))
    assert isinstance(pixel, GaussianImages)
    std = pixel.log_scale.exp()
    assert torch.allclose(std, torch.tensor(math.exp(-2.0)), rtol=0.1)
    expected = torch.distributions.Normal(mean, std).log_prob(value).sum((1, 2, 3))
    assert torch.allclose(pixel.log_prob(x), expected, rtol=1e-5)
    trained = {s: sum(p.numel() for p in build(s).parameters()) for s in EVERY if "gaussian" in s}
    assert trained == {s: int(s == "gaussian" or "learned" in s) for s in trained}


def test_the_optimal_variance_is_the_best_of_all_fixed_ones() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    mean = (x / 127.5 - 1) + torch.linspace(0.05, 2, 6).reshape(6, 1, 1, 1) * torch.randn(6, 3, 4, 4)
    optimal = build("gaussian(scale=optimal)", (3, 4, 4))(mean).log_prob(x)
    grid = torch.linspace(math.log(0.02), math.log(5), 800)
    fixed = torch.stack([GaussianImages(mean, log_scale).log_prob(x) for log_scale in grid])
    assert (fixed <= optimal + 1e-3).all()
    assert torch.allclose(fixed.max(0).values, optimal, atol=0.01)
    assert fixed.argmax(0).unique().numel() == 6  # each image has a variance of its own


def test_a_perfect_mean_has_a_finite_optimal_density() -> None:
    x = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    mean = (x.float() / 127.5 - 1).requires_grad_()
    found = build("gaussian(scale=optimal)", (1, 4, 4))(mean).log_prob(x)
    found.sum().backward()
    assert found.tolist() == pytest.approx([16 * (5 - 0.5 * math.log(2 * math.pi))] * 2, rel=1e-4)
    assert mean.grad is not None and torch.isfinite(mean.grad).all()


LOGITS = [-1e3, -30.0, -2.0, -0.5001, -0.4999, -1e-3, 0.0, 1e-6, 0.2, 0.5001, 4.0, 100.0, 1e3]


def test_continuous_bernoulli_integrates_to_one_and_has_its_mean() -> None:
    """Against integrals of `exp(logit v)` over 0 to 1, by Gauss-Legendre in 200 pieces."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    v = ((nodes + 1) / 2 + np.arange(200)[:, None]).flatten() / 200
    weight = np.tile(weights, 200) / 400
    found = ContinuousBernoulliImages(torch.tensor(LOGITS).reshape(-1, 1, 1, 1))
    normaliser = found.log_normaliser().double().flatten().numpy()
    for logit, log_normaliser, mean in zip(LOGITS, normaliser, found.mean().flatten(), strict=True):
        density = np.exp(logit * v - log_normaliser)
        assert (weight * density).sum() == pytest.approx(1, abs=1e-4), logit
        assert (weight * density * v).sum() == pytest.approx(float(mean), abs=1e-4, rel=1e-3), logit


def test_continuous_bernoulli_is_torchs_and_its_normaliser_has_the_mean_for_a_slope() -> None:
    logits = torch.linspace(-6, 6, 41).reshape(-1, 1, 1, 1).requires_grad_()
    found = ContinuousBernoulliImages(logits)
    reference = torch.distributions.ContinuousBernoulli(logits=logits)
    for value in (0, 100, 255):
        x = torch.full(logits.shape, value, dtype=torch.uint8)
        expected = reference.log_prob(x / 255).flatten()
        assert torch.allclose(found.log_prob(x), expected, atol=2e-4)
    (slope,) = torch.autograd.grad(found.log_normaliser().sum(), logits)
    assert torch.allclose(slope, found.mean(), atol=1e-5)
    assert torch.allclose(found.mean(), reference.mean, atol=2e-4)
    assert torch.equal(found.mean_image(), (255 * found.mean()).round().to(torch.uint8))


def test_continuous_bernoulli_draws_from_its_density() -> None:
    for logit in (-20.0, -1.0, 0.0, 3.0, 40.0):
        found = ContinuousBernoulliImages(torch.full((20_000, 1, 1, 1), logit))
        drawn = found.sample_image(torch.Generator().manual_seed(0)).flatten().double().numpy() / 255
        # The variance is the second derivative of the log normaliser.
        tail = math.exp(-abs(logit))
        variance = 1 / logit**2 - tail / (1 - tail) ** 2 if logit else 1 / 12
        spread, mean = math.sqrt(variance), float(found.mean()[0])
        assert drawn.mean() == pytest.approx(mean, abs=4 * spread / math.sqrt(20_000) + 1e-4)
        assert drawn.std() == pytest.approx(spread, rel=0.05, abs=1 / 255)
