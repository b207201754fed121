"""Priors `p(z | y)`.

Latents are kept in the prior's own coordinates: `u`, which is standard normal under the prior
whatever the label, and which `place(u, y)` puts where it belongs under label `y`. The change of
coordinates is a bijection, so KL and importance weights are those of `z` itself, while a label swap
means what one wants it to: the same place in the *other* class's prior, not a point that only the
first class ever used. (For one Gaussian a class this is the residual parameterisation of Vahdat and
Kautz 2020, section 3.2, with the label in the place of the latents above.)
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from condvae.probability.divergences import kl_to_standard_normal
from condvae.probability.posteriors import Normal, normal_log_prob
from condvae.registry import Registry


class StandardNormal(nn.Module):
    """`p(z | y) = N(0, 1)`: the label says nothing about the latents."""

    def __init__(self, latents: int, classes: int) -> None:
        super().__init__()
        self.latents = latents

    def place(
        self, u: Float[Tensor, "*samples z"], y: Int[Tensor, "*samples"]
    ) -> Float[Tensor, "*samples z"]:
        """The latents `z` at coordinates `u` of the prior under label `y`."""
        return u

    def log_prob(
        self, u: Float[Tensor, "*samples z"], y: Int[Tensor, "*samples"]
    ) -> Float[Tensor, "*samples"]:
        """Log density in the prior's coordinates, in nats."""
        return normal_log_prob(u)

    def kl(
        self, posterior: Normal, u: Float[Tensor, "batch z"], y: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """`KL(q(z|x,y) || p(z|y))` in nats; `u` is a draw from `q` for priors with no closed form."""
        return kl_to_standard_normal(posterior.mean, posterior.log_scale).sum(-1)


class ConditionalGaussian(StandardNormal):
    """`p(z | y) = N(mean_y, diag(scale_y^2))`, a mean and a scale a class, learned."""

    def __init__(self, latents: int, classes: int) -> None:
        super().__init__(latents, classes)
        self.location = nn.Embedding(classes, 2 * latents)
        nn.init.normal_(self.location.weight, std=0.02)

    def place(
        self, u: Float[Tensor, "*samples z"], y: Int[Tensor, "*samples"]
    ) -> Float[Tensor, "*samples z"]:
        mean, raw = self.location(y).chunk(2, dim=-1)
        return mean + torch.exp(3 * torch.tanh(raw / 3)) * u


PRIORS = Registry[StandardNormal](
    "prior",
    {
        "standard-normal": StandardNormal,
        "conditional": ConditionalGaussian,
    },
)
