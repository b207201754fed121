"""Posteriors `q(z | x, y)`: what the encoder's output is read as.

A family says how many numbers it needs (`parameters`) and turns them into a distribution. Latents
are in the prior's own coordinates (see `priors.py`): the prior of what a posterior gives is always
compared through `Prior.kl` and `Prior.log_prob`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from condvae.registry import Registry

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def normal_log_prob(
    z: Float[Tensor, "*batch z"],
    mean: Float[Tensor, "*batch z"] | float = 0.0,
    log_scale: Float[Tensor, "*batch z"] | float = 0.0,
) -> Float[Tensor, "*batch"]:
    """Log density of a diagonal normal, summed over the last dimension, in nats."""
    log_scale = torch.as_tensor(log_scale, dtype=z.dtype, device=z.device)
    standardised = (z - mean) * torch.exp(-log_scale)
    return (-0.5 * standardised.square() - log_scale - HALF_LOG_2PI).sum(-1)


@dataclass(frozen=True)
class Normal:
    """A diagonal normal distribution over latents `[..., z]`."""

    mean: Float[Tensor, "*batch z"]
    log_scale: Float[Tensor, "*batch z"]

    def sample(self, noise: Float[Tensor, "*samples z"]) -> Float[Tensor, "*samples z"]:
        """The reparameterised draw `mean + scale * noise`, for standard normal noise."""
        return self.mean + self.log_scale.exp() * noise

    def log_prob(self, z: Float[Tensor, "*samples z"]) -> Float[Tensor, "*samples"]:
        """Log density in nats, summed over the latent dimensions."""
        return normal_log_prob(z, self.mean, self.log_scale)


class DiagonalGaussian(nn.Module):
    """`N(mean, diag(scale^2))` with a scale that can neither vanish nor explode.

    The raw log scale `r` is bounded smoothly to (-6, 2): `log_scale = 2 - softplus(2 - r)` above,
    and a softplus again below, so that no step can push a scale to 0 or to infinity while the
    gradient never dies at once, as it would with a hard clamp.
    """

    lowest, highest = -6.0, 2.0

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.latents = latents
        self.parameters_needed = 2 * latents

    def forward(self, parameters: Float[Tensor, "batch p"]) -> Normal:
        """Read `[B, 2 * latents]` network outputs as a distribution."""
        mean, raw = parameters.float().chunk(2, dim=-1)
        softplus = nn.functional.softplus
        raw = self.highest - softplus(self.highest - raw)
        return Normal(mean, self.lowest + softplus(raw - self.lowest))


POSTERIORS = Registry[DiagonalGaussian](
    "posterior",
    {
        "diagonal-gaussian": DiagonalGaussian,
    },
)
