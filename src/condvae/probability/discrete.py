"""Pixels with 256 values that have probabilities of their own: no density stands behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from condvae.probability.images import (
    ImageDistribution,
    Images,
    Likelihood,
    Shape,
    per_image,
    to_uint8,
)
from condvae.probability.ranges import bounded


def draw_index(
    logits: Float[Tensor, "*shape"], dim: int, generator: torch.Generator | None
) -> Int64[Tensor, "*rest"]:
    """Draws from softmax distributions over a dimension, by inverting their cumulative sums."""
    upto = torch.softmax(logits, dim).cumsum(dim)
    shape = list(logits.shape)
    shape[dim] = 1
    u = torch.rand(shape, generator=generator, device=logits.device)
    return (upto <= u * upto.narrow(dim, -1, 1)).sum(dim).clamp(max=logits.shape[dim] - 1)


# --------------------------------------------------------------------------------------- categorical


@dataclass(frozen=True)
class CategoricalImages(ImageDistribution):
    """Independent pixels and channels, with a logit for each of 256 values."""

    logits: Float[Tensor, "batch c 256 h w"]

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        return per_image(torch.log_softmax(self.logits, 2).gather(2, x.long()[:, :, None]))

    def expected(self) -> Float[Tensor, "batch c h w"]:
        values = torch.arange(256.0, device=self.logits.device) / 127.5 - 1
        return torch.einsum("bcvhw,v->bchw", torch.softmax(self.logits, 2), values)

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        return draw_index(self.logits, 2, generator).to(torch.uint8)


class Categorical(Likelihood):
    """A softmax over 256 values for every pixel and channel (van den Oord et al. 2016, section 2.2).

    It can take any shape, and knows nothing of one value lying beside another. The 256 planes of a
    channel lie together. All outputs 0 are the uniform distribution.
    """

    normalised = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.planes = 256 * shape[0]

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> CategoricalImages:
        return CategoricalImages(parameters.float().unflatten(1, (-1, 256)))


# ------------------------------------------------------------------------------------- beta-binomial


@dataclass(frozen=True)
class BetaBinomialImages(ImageDistribution):
    """Independent pixels: of 255 trials, those that succeed with a probability drawn from a beta.

    `p(k) = C(255, k) B(k + alpha, 255 - k + beta) / B(alpha, beta)`. Its logarithm is a small
    difference of large log-gammas, so it is taken in float64.
    """

    alpha: Float64[Tensor, "batch c h w"]
    beta: Float64[Tensor, "batch c h w"]

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        k = x.double()
        choose = -math.log(256) - log_beta(k + 1, 256 - k)
        ratio = log_beta(k + self.alpha, 255 - k + self.beta) - log_beta(self.alpha, self.beta)
        return per_image(choose + ratio)

    def expected(self) -> Float[Tensor, "batch c h w"]:
        return 2 * self.alpha / (self.alpha + self.beta) - 1

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        """Pólya's urn: a trial succeeds with the share of successes so far, alpha and beta included."""
        successes = torch.zeros_like(self.alpha)
        for trial in range(255):
            share = (self.alpha + successes) / (self.alpha + self.beta + trial)
            u = torch.rand(share.shape, generator=generator, device=share.device)
            successes += u < share
        return to_uint8(successes)


def log_beta(a: Float64[Tensor, "*shape"], b: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """Logarithm of the beta function."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


class BetaBinomial(Likelihood):
    """256 values as counts of 255 trials, with an alpha and a beta for every pixel and channel.

    The outputs are log alpha and log beta, kept smoothly between -6 and 9; all outputs 0 are
    (but for those bounds) the uniform distribution. At alpha and beta of `exp(9)` it is nearly a
    binomial, and a binomial's standard deviation, 8 in the middle of the range, is the least that
    it can have.
    """

    normalised = True
    lowest, highest = -6.0, 9.0

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.planes = 2 * shape[0]

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> BetaBinomialImages:
        logs = bounded(parameters.float(), self.lowest, self.highest).double()
        return BetaBinomialImages(*logs.exp().chunk(2, dim=1))
