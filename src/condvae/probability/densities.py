"""Densities on grey values. On 8-bit data they are no probabilities, and no bound is printed of them:

a density can be made as high as one likes on a finite set of values, so its nats can't be compared
with those of a distribution over 256 values, or of another density on another scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from condvae.errors import UserError
from condvae.probability.images import (
    ImageDistribution,
    Images,
    Likelihood,
    Shape,
    centred,
    per_image,
    to_uint8,
    uncentred,
)
from condvae.probability.posteriors import HALF_LOG_2PI
from condvae.probability.ranges import bounded
from condvae.registry import check_choice

# ---------------------------------------------------------------------------------------- Gaussian


@dataclass(frozen=True)
class GaussianImages(ImageDistribution):
    """A normal density over images scaled to -1 to 1."""

    mean: Float[Tensor, "batch c h w"]
    log_scale: Float[Tensor, "#batch #c #h #w"]

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        """Log *density*, in nats an image."""
        standardised = (centred(x) - self.mean) * torch.exp(-self.log_scale)
        return per_image(-0.5 * standardised.square() - self.log_scale - HALF_LOG_2PI)

    def expected(self) -> Float[Tensor, "batch c h w"]:
        return self.mean.clamp(-1, 1)

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return uncentred(self.mean + self.log_scale.exp() * noise)


@dataclass(frozen=True)
class OptimalGaussianImages(ImageDistribution):
    """A normal density whose variance is the best for the image that it is asked about.

    The variance that maximises an image's log density, given the mean, is the mean over its C H W
    values of the squared error, `MSE(x)`; with it the log density is `-CHW/2 (log(2 pi MSE(x)) + 1)`
    (the optimal sigma-VAE of Rybkin et al. 2021). Each image has its own, of `lowest` squared or more.
    Being chosen by the image, it is no part of a distribution over images, and the maximum integrates
    to more than 1.
    """

    mean: Float[Tensor, "batch c h w"]
    lowest: float

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        """The largest log density that a variance gives the image, in nats an image."""
        error = (centred(x) - self.mean).square().mean((1, 2, 3), keepdim=True)
        return GaussianImages(self.mean, error.clamp(min=self.lowest**2).log() / 2).log_prob(x)

    def expected(self) -> Float[Tensor, "batch c h w"]:
        return self.mean.clamp(-1, 1)

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        """The mean image: without an image there is no variance to draw with."""
        return self.mean_image()


class Gaussian(Likelihood):
    """A normal density over images scaled to -1 to 1, with a mean for every pixel and channel.

    Arguments:
        scale: its standard deviation. "learned": one for everything, a weight, as the CIFAR-10
            notebook had it; it starts at 1. "fixed": one for everything, `value`. "pixel": one for
            every pixel and channel, from the decoder, its logarithm kept smoothly between -5 (a
            bin of 8-bit values) and 1. "optimal": the best one for each image (Rybkin et al. 2021);
            see `OptimalGaussianImages`.
        value: the standard deviation where it is fixed.

    Raises:
        UserError: there is no such scale, or its value is not positive.
    """

    is_probability = False
    lowest, highest = -5.0, 1.0

    def __init__(self, shape: Shape, *, scale: str = "learned", value: float = 1.0) -> None:
        super().__init__(shape)
        check_choice("likelihood 'gaussian', scale", scale, ("learned", "fixed", "pixel", "optimal"))
        if value <= 0:
            raise UserError(f"likelihood 'gaussian': value={value} must be greater than 0")
        self.scale = scale
        if scale == "learned":
            self.log_scale: Tensor = nn.Parameter(torch.zeros(()))
        elif scale == "fixed":
            self.register_buffer("log_scale", torch.tensor(math.log(value)), persistent=False)
        elif scale == "pixel":
            self.planes = 2 * shape[0]

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> ImageDistribution:
        parameters = parameters.float()
        if self.scale == "optimal":
            return OptimalGaussianImages(parameters, math.exp(self.lowest))
        if self.scale == "pixel":
            mean, raw = parameters.chunk(2, dim=1)
            return GaussianImages(mean, bounded(raw, self.lowest, self.highest))
        return GaussianImages(parameters, self.log_scale)


# ----------------------------------------------------------------------------- continuous Bernoulli


@dataclass(frozen=True)
class ContinuousBernoulliImages(ImageDistribution):
    """Independent values of 0 to 1 with the density `exp(logit v) / integral of exp(logit v)`.

    In the paper's terms `lambda = sigmoid(logit)`, and the density is `C(lambda) lambda^v
    (1 - lambda)^(1 - v)` (Loaiza-Ganem and Cunningham 2019, proposition 1). About a logit of 0, which
    is `lambda = 1/2`, the formulas are 0/0, and their Taylor series stand in for them.
    """

    logits: Float[Tensor, "batch c h w"]

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        """Log *density* on the scale of 0 to 1, in nats an image."""
        return per_image(self.logits * (x.float() / 255) - self.log_normaliser())

    def log_normaliser(self) -> Float[Tensor, "batch c h w"]:
        """`log((exp(logit) - 1) / logit)`."""
        is_near, near, far = self._near_half()
        size = far.abs()
        exact = torch.relu(far) + torch.log(-torch.expm1(-size)) - torch.log(size)
        series = near / 2 + near**2 / 24 - near**4 / 2880
        return torch.where(is_near, series, exact)

    def mean(self) -> Float[Tensor, "batch c h w"]:
        """The expected value, of 0 to 1: the derivative of the log normaliser. It is not lambda."""
        is_near, near, far = self._near_half()
        exact = -1 / torch.expm1(-far) - 1 / far
        series = 0.5 + near / 12 - near**3 / 720 + near**5 / 30240
        return torch.where(is_near, series, exact)

    def _near_half(self) -> tuple[Tensor, Tensor, Tensor]:
        """Whether a logit is within 1/2 of 0; the logit or 0, for a series; it or 1, for a formula.

        The terms that are left out are below 1e-7 there. What isn't chosen has a finite gradient too.
        """
        is_near = self.logits.abs() < 0.5
        return is_near, self.logits.where(is_near, 0.0), self.logits.where(~is_near, 1.0)

    def expected(self) -> Float[Tensor, "batch c h w"]:
        return 2 * self.mean() - 1

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        """By the inverse of the cumulative distribution, in the half of the logits below 0."""
        u = torch.rand(self.logits.shape, generator=generator, device=self.logits.device)
        size = self.logits.abs().clamp(min=1e-6)
        value = -torch.log1p(u * torch.expm1(-size)) / size
        return to_uint8(255 * torch.where(self.logits > 0, 1 - value, value))


class ContinuousBernoulli(Likelihood):
    """A density on grey values of 0 to 1: the cross-entropy with the normaliser that it lacks.

    (Loaiza-Ganem and Cunningham 2019.) All outputs 0 are the uniform density.
    """

    is_probability = False

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> ContinuousBernoulliImages:
        return ContinuousBernoulliImages(parameters.float())
