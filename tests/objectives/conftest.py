"""A model that is known in closed form, one with several groups of latents, and a small real one."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from condvae.models.conditional_vae import ConditionalVAE
from condvae.models.protocol import Elbo, Latents, WeightedDraws
from condvae.probability.divergences import kl_to_standard_normal
from condvae.probability.posteriors import Normal, normal_log_prob


class LinearGaussian(nn.Module):
    """`p(z) = N(0, 1)`, `p(x|z) = N(z + b, 1)`, `q(z|x) = N(a x + c, exp(s)^2)`, in float64.

    The true posterior is `N((x - b) / 2, 1/2)`; `at_the_optimum` makes q that.
    """

    shape, classes, group_shapes, latents, uses_label = (1, 1, 2), 1, ((2,),), 2, False
    likelihood = None
    posterior = SimpleNamespace(amortised=True, density_is_quick=True)

    def __init__(self, at_the_optimum: bool = False) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor([0.3, -0.4]).double())
        if at_the_optimum:
            a, c, s = [0.5, 0.5], (-self.b / 2).tolist(), [-0.5 * math.log(2)] * 2
        else:
            a, c, s = [0.9, 0.2], [-0.2, 0.4], [-0.2, 0.1]
        self.a, self.c, self.s = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (a, c, s))

    def inference(self) -> list[nn.Parameter]:
        return [self.a, self.c, self.s]

    def weighted_draws(
        self, x: Tensor, y: Tensor, noise: Tensor, hold_posterior: bool = False
    ) -> WeightedDraws:
        x = x.flatten(1).double() / 64 - 2
        mean = self.a * x + self.c
        handle = torch.cat([mean, self.s.expand_as(mean)], 1).expand(len(noise), -1, -1)
        posterior = Normal(*handle.chunk(2, -1))
        z, log_prob = posterior.draw(noise.double())
        if hold_posterior:
            log_prob = posterior.held().log_prob(z)
        log_likelihood = normal_log_prob(x - self.b, z)
        log_weights = log_likelihood + normal_log_prob(z) - log_prob
        return WeightedDraws(log_weights, (z,), handle, log_likelihood)

    def elbo(self, x: Tensor, y: Tensor, noise: Tensor | None = None) -> Elbo:
        x = x.flatten(1).double() / 64 - 2
        posterior = Normal(self.a * x + self.c, self.s.expand_as(x))
        z, _ = posterior.draw(torch.randn_like(x) if noise is None else noise.double())
        kl = kl_to_standard_normal(posterior.mean, posterior.log_scale).sum(1, keepdim=True)
        return Elbo(normal_log_prob(x - self.b, z), kl, (z,), posterior)

    def log_weights(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        return self.weighted_draws(x, y, noise).log_weights

    def draw(self, y: Tensor, temperature: float = 1.0, generator: object = None) -> Latents:
        return (torch.randn(len(y), 2),)

    def encode(self, *_: object) -> None: ...
    def transfer(self, *_: object) -> None: ...
    def decode(self, *_: object) -> None: ...
    def log_prior(self, *_: object) -> None: ...
    def sample(self, *_: object) -> None: ...
    def label_posterior(self, *_: object) -> None: ...


class TwoGroups(nn.Module):
    """Two groups of latents, whose posterior is of no family; offers what every model does, no more."""

    classes, group_shapes, latents = 3, ((1, 2, 2), (2,)), 6

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 8), nn.Linear(16, 4)
        self.decoder = nn.Linear(6, 16)

    def parts(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Latents]:
        x = x.flatten(1) / 255
        normals = [Normal(*net(x).chunk(2, -1)) for net in (self.first, self.second)]
        noises = noise.split([4, 2], dim=-1)
        draws = [normal.draw(part) for normal, part in zip(normals, noises, strict=True)]
        kl = torch.stack([log_prob - normal_log_prob(z) for z, log_prob in draws], -1)
        z = torch.cat([z for z, _ in draws], -1)
        latents = draws[0][0].unflatten(-1, (1, 2, 2)), draws[1][0]
        return -(x - self.decoder(z)).square().sum(-1), kl, latents

    def elbo(self, x: Tensor, y: Tensor, noise: Tensor | None = None) -> Elbo:
        return Elbo(*self.parts(x, torch.randn(len(x), 6) if noise is None else noise))

    def log_weights(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        log_likelihood, kl, _ = self.parts(x, noise)
        return log_likelihood - kl.sum(-1)

    def draw(self, y: Tensor, temperature: float = 1.0, generator: object = None) -> Latents:
        return torch.randn(len(y), 1, 2, 2), torch.randn(len(y), 2)


@pytest.fixture
def toy() -> LinearGaussian:
    return LinearGaussian()


@pytest.fixture
def optimal_toy() -> LinearGaussian:
    return LinearGaussian(at_the_optimum=True)


@pytest.fixture
def two_groups() -> TwoGroups:
    torch.manual_seed(0)
    return TwoGroups()


@pytest.fixture
def flat_model() -> ConditionalVAE:
    torch.manual_seed(0)
    return ConditionalVAE(
        (1, 4, 4),
        3,
        network="mlp(widths=[12])",
        likelihood="discretised-logistic",
        latents=3,
        embedding=4,
    )


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return x, torch.arange(6) % 3
