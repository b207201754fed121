"""Bounds against a model whose likelihood is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from condvae.evaluation.bounds import bits_per_dim, bounds
from condvae.models.protocol import Elbo
from condvae.probability.likelihoods import Likelihood
from condvae.probability.posteriors import Normal, normal_log_prob

K, Z, D = 3, 2, 6


class Plain(Likelihood):
    """Observes images as they are."""

    def forward(self, parameters: Tensor) -> None:  # type: ignore[override]
        raise NotImplementedError


class LinearGaussian:
    """Probabilistic PCA with a mean a class: `x = W z + b_y + noise` (Tipping and Bishop 1999).

    `log p(x|y)` is a Gaussian's. The posterior is the exact one, or that widened by `wider`.
    """

    def __init__(self, wider: float) -> None:
        generator = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
        self.w, self.b, self.noise = draw(D, Z), 0.7 * draw(K, D), 0.5
        self.shape, self.classes, self.latents = (1, 2, 3), K, Z
        self.group_shapes, self.uses_label = ((Z,),), True
        self.likelihood = Plain(self.shape)
        self.precision = torch.eye(Z, dtype=torch.float64) + self.w.T @ self.w / self.noise**2
        self.covariance = torch.linalg.inv(self.precision)
        self.cholesky = torch.linalg.cholesky(self.covariance * wider)

    def real(self, x: Tensor) -> Tensor:
        return x.double().flatten(1) / 25 - 5

    def exact(self, x: Tensor, y: Tensor) -> Tensor:
        cov = self.w @ self.w.T + self.noise**2 * torch.eye(D, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(torch.zeros(D, dtype=torch.float64), cov)
        return normal.log_prob(self.real(x) - self.b[y])

    def posterior_mean(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.real(x) - self.b[y]) @ self.w @ self.covariance / self.noise**2

    def log_weights(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        z = self.posterior_mean(x, y) + noise.double() @ self.cholesky.T
        q = torch.distributions.MultivariateNormal(self.posterior_mean(x, y), scale_tril=self.cholesky)
        residual = self.real(x) - self.b[y] - z @ self.w.T
        scale = torch.full_like(residual, math.log(self.noise))
        return normal_log_prob(residual, 0.0, scale) + normal_log_prob(z) - q.log_prob(z)

    def encode(self, x: Tensor, y: Tensor, sample: bool = False) -> tuple[Tensor, ...]:
        return (self.posterior_mean(x, y),)

    def elbo(self, x: Tensor, y: Tensor, noise: Tensor | None = None) -> Elbo:
        q = Normal(self.posterior_mean(x, y), torch.zeros(len(y), Z))
        return Elbo(torch.zeros(len(y)), normal_log_prob(q.mean)[:, None], (q.mean,))


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    model = LinearGaussian(1.0)
    y = torch.randint(0, K, (40,), generator=generator)
    z = torch.randn(40, Z, generator=generator, dtype=torch.float64)
    x = model.b[y] + z @ model.w.T
    x = x + 0.5 * torch.randn(40, D, generator=generator, dtype=torch.float64)
    pixels = ((x + 5) * 25).round().clamp(0, 255).to(torch.uint8)
    return pixels.reshape(40, 1, 2, 3), y


def test_exact_posterior_gives_the_exact_likelihood_with_any_number_of_samples(
    data: tuple[Tensor, Tensor],
) -> None:
    model = LinearGaussian(1.0)
    for samples in (1, 7, 33):
        found = bounds(model, *data, samples=samples)  # type: ignore[arg-type]
        exact = model.exact(*data).numpy()
        assert np.allclose(found.log_likelihood, exact, atol=1e-6)
        assert np.allclose(found.elbo, exact, atol=1e-6)


def test_marginal_over_labels_equals_brute_force(data: tuple[Tensor, Tensor]) -> None:
    model = LinearGaussian(1.0)
    found = bounds(model, *data, samples=2)  # type: ignore[arg-type]
    every = [model.exact(data[0], torch.full_like(data[1], k)) for k in range(K)]
    brute = torch.logsumexp(torch.stack(every), 0) - math.log(K)
    assert np.allclose(found.marginal, brute.numpy(), atol=1e-5)
    assert (found.marginal <= brute.numpy() + 1e-9).all(), "leaving labels out keeps it a lower bound"
    assert (found.log_likelihood - found.marginal <= math.log(K) + 1e-9).all()


def test_without_the_other_labels_nothing_is_said_of_the_marginal(data: tuple[Tensor, Tensor]) -> None:
    model = LinearGaussian(1.0)
    whole, own = (bounds(model, *data, samples=3, every_label=e) for e in (True, False))  # type: ignore[arg-type]
    assert np.isnan(own.marginal).all()
    assert np.allclose(own.elbo, whole.elbo) and np.allclose(own.log_likelihood, whole.log_likelihood)
    assert (np.isfinite(own.label_log_likelihood).sum(1) == 1).all()


def test_bound_rises_with_samples_and_converges(data: tuple[Tensor, Tensor]) -> None:
    model = LinearGaussian(2.5)
    exact = float(model.exact(*data).mean())
    means = [
        float(bounds(model, *data, samples=s).log_likelihood.mean())  # type: ignore[arg-type]
        for s in (1, 5, 50, 2000)
    ]
    assert means == sorted(means)
    assert means[0] < exact - 0.1
    assert means[-1] == pytest.approx(exact, abs=0.02)


def test_elbo_gap_is_the_kl_between_posteriors(data: tuple[Tensor, Tensor]) -> None:
    wider = 2.5
    model = LinearGaussian(wider)
    found = bounds(model, *data, samples=4000)  # type: ignore[arg-type]
    gap = Z * (wider - 1 - math.log(wider)) / 2
    assert float(model.exact(*data).mean() - found.elbo.mean()) == pytest.approx(gap, abs=0.03)


def test_results_depend_neither_on_the_batch_size_nor_on_the_other_images(
    data: tuple[Tensor, Tensor],
) -> None:
    model = LinearGaussian(2.0)
    whole = bounds(model, *data, samples=30)  # type: ignore[arg-type]
    small = bounds(model, *data, samples=30, batch_size=7)  # type: ignore[arg-type]
    first = bounds(model, data[0][:3], data[1][:3], samples=30)  # type: ignore[arg-type]
    for name in ("elbo", "log_likelihood", "marginal"):
        assert np.allclose(getattr(whole, name), getattr(small, name), atol=1e-9)
        assert np.allclose(getattr(whole, name)[:3], getattr(first, name), atol=1e-9)
    assert len(small.elbo) == 40, "the last, smaller batch counts"


def test_a_one_sample_bound_is_not_better_than_it_may_be(data: tuple[Tensor, Tensor]) -> None:
    """With the number of samples left out of the mean, the bound would exceed the likelihood."""
    model = LinearGaussian(1.0)
    found = bounds(model, *data, samples=100)  # type: ignore[arg-type]
    assert (found.log_likelihood <= model.exact(*data).numpy() + 1e-6).all()


def test_bits_per_dim_of_uniform_pixels_is_eight() -> None:
    shape = (3, 4, 5)
    assert bits_per_dim(-60 * math.log(256), shape) == pytest.approx(8)


def test_active_units_counts_dimensions_that_vary(data: tuple[Tensor, Tensor]) -> None:
    found = bounds(LinearGaussian(1.0), *data, samples=1)  # type: ignore[arg-type]
    assert found.active_units() == Z
    assert found.active_units(threshold=1e6) == 0
