"""Posteriors `q(z | x, y)`: what the encoder's output is read as.

A family says how many numbers it needs (`parameters_needed`) and turns them into a distribution. Its
draws come with their log density, from noise that is given, so that a flow, whose density is known
only along its own draws, serves as well as a Gaussian.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
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


def bounded(raw: Float[Tensor, "*shape"], lowest: float, highest: float) -> Float[Tensor, "*shape"]:
    """`raw`, kept smoothly between two bounds: the identity far from both of them.

    A softplus from above and another from below, so that no step can push a log scale out of range,
    while its gradient never dies at once, as it would with a hard clamp.
    """
    return lowest + F.softplus(highest - F.softplus(highest - raw) - lowest)


class LatentDistribution(ABC):
    """A distribution over latents `[*batch, z]`."""

    @property
    @abstractmethod
    def centre(self) -> Float[Tensor, "*batch z"]:
        """One point that stands for the distribution: the mean, or where a flow takes its base's."""

    @abstractmethod
    def draw(
        self, noise: Float[Tensor, "*batch z"]
    ) -> tuple[Float[Tensor, "*batch z"], Float[Tensor, "*batch"]]:
        """A reparameterised draw for standard normal noise, and its log density in nats.

        Noise may have dimensions of samples before those of the batch.
        """

    @abstractmethod
    def log_prob(self, z: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch"]:
        """Log density of any latents, in nats."""

    @abstractmethod
    def held(self) -> LatentDistribution:
        """The same distribution with its parameters as constants (no gradient reaches them)."""


@dataclass(frozen=True)
class Normal(LatentDistribution):
    """A diagonal normal distribution over latents."""

    mean: Float[Tensor, "*batch z"]
    log_scale: Float[Tensor, "*batch z"]

    @property
    def centre(self) -> Float[Tensor, "*batch z"]:
        return self.mean

    def draw(
        self, noise: Float[Tensor, "*batch z"]
    ) -> tuple[Float[Tensor, "*batch z"], Float[Tensor, "*batch"]]:
        z = self.mean + self.log_scale.exp() * noise
        return z, self.log_prob(z)

    def log_prob(self, z: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch"]:
        return normal_log_prob(z, self.mean, self.log_scale)

    def held(self) -> Normal:
        return Normal(self.mean.detach(), self.log_scale.detach())


class Posterior(nn.Module, ABC):
    """A family of posteriors, indexed by the encoder's output.

    Arguments:
        latents: dimensions of `z`.

    Attributes:
        parameters_needed: numbers that the encoder has to give.
        amortised: all that shapes the distribution comes from the encoder's output; the family has no
            weights of its own. (Estimators that weigh the encoder's gradient need this.)
    """

    amortised: ClassVar[bool] = True

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.latents = latents
        self.parameters_needed = 2 * latents

    @abstractmethod
    def forward(self, parameters: Float[Tensor, "*batch p"]) -> LatentDistribution:
        """Read network outputs `[*batch, parameters_needed]` as a distribution."""


class DiagonalGaussian(Posterior):
    """`N(mean, diag(scale^2))` (Kingma and Welling 2014), the log scale kept within -6 and 2."""

    lowest, highest = -6.0, 2.0

    def forward(self, parameters: Float[Tensor, "*batch p"]) -> Normal:
        mean, raw = parameters.float().chunk(2, dim=-1)
        return Normal(mean, bounded(raw, self.lowest, self.highest))


POSTERIORS = Registry[Posterior](
    "posterior",
    {
        "diagonal-gaussian": DiagonalGaussian,
    },
)
