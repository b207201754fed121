"""A model whose likelihood is known in closed form, behind the protocol that every model serves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from condvae.models.protocol import Elbo
from condvae.probability.likelihoods import Likelihood
from condvae.probability.posteriors import normal_log_prob

K, Z, D = 3, 2, 6


class Plain(Likelihood):
    """Observes images as they are."""

    def forward(self, parameters: Tensor) -> None:  # type: ignore[override]
        raise NotImplementedError


@dataclass(frozen=True)
class Pixels:
    """`x = mean + noise`, on a scale of pixels that are not rounded."""

    mean: Tensor
    noise: float

    def log_prob(self, x: Tensor) -> Tensor:
        residual = real(x) - self.mean
        return normal_log_prob(residual, 0.0, torch.full_like(residual, math.log(self.noise)))

    def sample_image(self, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(self.mean.shape, generator=generator, dtype=torch.float64)
        return pixels(self.mean + self.noise * drawn)


def real(x: Tensor) -> Tensor:
    return x.double().flatten(1) / 25 - 5


def pixels(x: Tensor) -> Tensor:
    return ((x + 5) * 25).reshape(len(x), 1, 2, 3)


class LinearGaussian:
    """Probabilistic PCA with a mean a class: `x = W z + b_y + noise` (Tipping and Bishop 1999).

    `log p(x|y)` is a Gaussian's. The posterior is the exact one, or that widened by `wider`. There are
    two groups of latents, of one dimension each, so that what takes groups apart is tried as well.
    """

    def __init__(self, wider: float) -> None:
        generator = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
        self.w, self.b, self.noise = draw(D, Z), 0.7 * draw(K, D), 0.5
        self.shape, self.classes, self.latents = (1, 2, 3), K, Z
        self.group_shapes, self.uses_label = ((1,), (1, 1)), True
        self.likelihood = Plain(self.shape)
        self.precision = torch.eye(Z, dtype=torch.float64) + self.w.T @ self.w / self.noise**2
        self.covariance = torch.linalg.inv(self.precision)
        self.cholesky = torch.linalg.cholesky(self.covariance * wider)

    def exact(self, x: Tensor, y: Tensor) -> Tensor:
        cov = self.w @ self.w.T + self.noise**2 * torch.eye(D, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(torch.zeros(D, dtype=torch.float64), cov)
        return normal.log_prob(real(x) - self.b[y])

    def posterior_mean(self, x: Tensor, y: Tensor) -> Tensor:
        return (real(x) - self.b[y]) @ self.w @ self.covariance / self.noise**2

    def terms(self, x: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`log p(x|z,y)`, `log p(z|y)` and `log q(z|x,y)` of draws, with or without more samples."""
        z = self.posterior_mean(x, y) + noise.double() @ self.cholesky.T
        q = torch.distributions.MultivariateNormal(self.posterior_mean(x, y), scale_tril=self.cholesky)
        decoded = Pixels(self.b[y] + z @ self.w.T, self.noise)
        return decoded.log_prob(x), normal_log_prob(z), q.log_prob(z)

    def log_weights(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        log_likelihood, log_prior, log_q = self.terms(x, y, noise)
        return log_likelihood + log_prior - log_q

    def elbo(self, x: Tensor, y: Tensor, noise: Tensor) -> Elbo:
        log_likelihood, log_prior, log_q = self.terms(x, y, noise)
        return Elbo(log_likelihood, (log_q - log_prior)[:, None], self.encode(x, y))

    def encode(self, x: Tensor, y: Tensor, sample: bool = False) -> tuple[Tensor, ...]:
        mean = self.posterior_mean(x, y)
        return mean[:, :1], mean[:, 1:, None]

    def decode(self, latents: tuple[Tensor, ...], y: Tensor) -> Pixels:
        z = torch.cat([group.flatten(1) for group in latents], 1)
        return Pixels(self.b[y] + z @ self.w.T, self.noise)

    def log_prior(self, latents: tuple[Tensor, ...], y: Tensor) -> Tensor:
        return normal_log_prob(torch.cat([group.flatten(1) for group in latents], 1))

    def draw(
        self, y: Tensor, temperature: float, generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        z = temperature * torch.randn(len(y), Z, generator=generator, dtype=torch.float64)
        return z[:, :1], z[:, 1:, None]


def images_of(model: LinearGaussian, number: int = 40) -> tuple[Tensor, Tensor]:
    """8-bit images that the model could have made, and their labels."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, K, (number,), generator=generator)
    x = model.decode(model.draw(y, 1.0, generator), y).sample_image(generator)
    return x.round().clamp(0, 255).to(torch.uint8), y
