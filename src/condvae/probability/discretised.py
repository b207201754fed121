"""Pixels with 256 values whose probabilities are integrals of a density on the line.

The values lie at -1, -1 + 2/255, ..., 1. Each has a bin of width 2/255; the first bin reaches to minus
infinity and the last to infinity, so the probabilities of a pixel sum to 1 (Salimans et al. 2017,
equation 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.special import erfcx

from condvae.errors import UserError
from condvae.probability.discrete import draw_index
from condvae.probability.images import (
    ImageDistribution,
    Images,
    Likelihood,
    Shape,
    centred,
    per_image,
    uncentred,
)
from condvae.probability.ranges import bounded
from condvae.registry import check_choice

ROOT_2 = math.sqrt(2)
LOWEST, HIGHEST = -7.0, 1.0
"""Bounds of log scales: a scale of `exp(-7)` is an eighth of a bin, one of `exp(1)` more than all."""


@dataclass(frozen=True)
class DiscretisedImages(ImageDistribution):
    """Independent pixels, with a location and a scale of a density each."""

    mean: Float[Tensor, "batch c h w"]
    log_scale: Float[Tensor, "#batch #c #h #w"]

    def expected(self) -> Float[Tensor, "batch c h w"]:
        """The mean of the underlying density, clipped to the range of pixels."""
        return self.mean.clamp(-1, 1)


class Discretised(Likelihood):
    """A density with its own mean for every pixel and channel.

    Arguments:
        scale: "pixel" for a scale of its own for each too, from the decoder; "learned" for one
            scale in all, a weight. The log scale is kept smoothly between -7 and 1.
    """

    normalised = True

    def __init__(self, shape: Shape, *, scale: str = "pixel") -> None:
        super().__init__(shape)
        check_choice("discretised likelihood, scale", scale, ("pixel", "learned"))
        self.raw_scale = nn.Parameter(torch.zeros(1, 1, 1, 1)) if scale == "learned" else None
        self.planes = shape[0] if scale == "learned" else 2 * shape[0]

    def mean_and_log_scale(
        self, parameters: Float[Tensor, "batch p h w"]
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "#batch #c #h #w"]]:
        """The parameters of the density; an output of 0 is a mean of 0 and a broad scale."""
        if self.raw_scale is not None:
            return parameters.float(), self.log_scale(self.raw_scale)
        mean, raw = parameters.float().chunk(2, dim=1)
        return mean, self.log_scale(raw)

    def log_scale(self, raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return bounded(raw, LOWEST, HIGHEST)


# ----------------------------------------------------------------------------------------- logistic


def logistic_bin(
    x: UInt8[Tensor, "*#shape"], mean: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Log-probabilities of the bins of `x` under logistic densities, in nats a value.

    `sigmoid(upper) - sigmoid(lower)` without cancellation: with both mirrored to the lower tail,
    `log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a))`.
    """
    inverse = torch.exp(-log_scale)
    half_bin = inverse / 255
    centre = (centred(x) - mean) * inverse
    upper, lower = centre + half_bin, centre - half_bin
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-2 * half_bin))
    log_prob = torch.where(x == 0, F.logsigmoid(upper), inside)
    return torch.where(x == 255, F.logsigmoid(-lower), log_prob)


def logistic_draw(
    mean: Float[Tensor, "*shape"],
    log_scale: Float[Tensor, "*#shape"],
    generator: torch.Generator | None,
) -> UInt8[Tensor, "*shape"]:
    """The bins of draws from logistic densities."""
    u = torch.rand(mean.shape, generator=generator, device=mean.device).clamp(1e-6, 1 - 1e-6)
    return uncentred(mean + log_scale.exp() * torch.logit(u))


@dataclass(frozen=True)
class DiscretisedLogisticImages(DiscretisedImages):
    """Independent pixels: a logistic density (Kingma et al. 2016; Salimans et al. 2017)."""

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        return per_image(logistic_bin(x, self.mean, self.log_scale))

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        return logistic_draw(self.mean, self.log_scale, generator)


class DiscretisedLogistic(Discretised):
    """256 values a pixel, from a logistic density (Kingma et al. 2016).

    See `Discretised` for its argument.
    """

    def log_scale(self, raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """A hyperbolic tangent for a bound, at about -2.5 for 0: what trained runs have learned with."""
        middle, reach = (LOWEST + HIGHEST) / 2, (HIGHEST - LOWEST) / 2
        return middle + reach * torch.tanh((raw + 0.5) / reach)

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> DiscretisedLogisticImages:
        return DiscretisedLogisticImages(*self.mean_and_log_scale(parameters))


# ----------------------------------------------------------------------------------------- Gaussian


def normal_bin(
    x: UInt8[Tensor, "*#shape"], mean: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Log-probabilities of the bins of `x` under normal densities, in nats a value.

    A bin from `a = c - h` to `b = c + h` in the standard normal, mirrored so that `c` is not negative,
    has the probability `Phi(-a) - Phi(-b)`. With `Phi(-t) = exp(-t^2 / 2) erfcx(t / sqrt 2) / 2`, and
    `b^2 - a^2 = 4ch`, it is `exp(-a^2 / 2) / 2` times a difference of two ordinary numbers,
    `erfcx(a / sqrt 2) - exp(-2ch) erfcx(b / sqrt 2)`, which are never so near each other as to
    cancel: relative to the first, they differ by 1.6h or more.
    """
    inverse = torch.exp(-log_scale)
    half_bin = inverse / 255
    centre = (centred(x) - mean) * inverse
    distance = centre.abs()
    near, far = distance - half_bin, distance + half_bin
    beyond = torch.exp(-2 * distance * half_bin) * erfcx(far / ROOT_2)
    inside = torch.log((erfcx(near / ROOT_2) - beyond) / 2) - near.square() / 2
    log_prob = torch.where(x == 0, log_normal_cdf(centre + half_bin), inside)
    return torch.where(x == 255, log_normal_cdf(half_bin - centre), log_prob)


def log_normal_cdf(t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`log Phi(t)`, with a gradient that holds far down the tail, where `torch.special`'s does not."""
    below, above = t.clamp(max=0), t.clamp(min=0)
    tail = torch.log(erfcx(-below / ROOT_2) / 2) - below.square() / 2
    return torch.where(t < 0, tail, torch.log1p(-torch.erfc(above / ROOT_2) / 2))


@dataclass(frozen=True)
class DiscretisedGaussianImages(DiscretisedImages):
    """Independent pixels: a normal density."""

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        return per_image(normal_bin(x, self.mean, self.log_scale))

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return uncentred(self.mean + self.log_scale.exp() * noise)


class DiscretisedGaussian(Discretised):
    """256 values a pixel, from a normal density (as in the last step of Ho et al. 2020, equation 13).

    See `Discretised` for its argument.
    """

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> DiscretisedGaussianImages:
        return DiscretisedGaussianImages(*self.mean_and_log_scale(parameters))


# ----------------------------------------------------------------------------- mixture of logistics


@dataclass(frozen=True)
class LogisticMixtureImages(ImageDistribution):
    """Independent pixels, each a mixture of K discretised logistics over all its channels at once.

    A component is drawn for a pixel, not for a channel. In it the mean of a channel is linear in the
    values of the channels before it (red, then green, then blue): `mean_g + a r`, `mean_b + b r + c g`,
    with values on the scale of -1 to 1 (Salimans et al. 2017, section 2.2 and equation 3).
    """

    logits: Float[Tensor, "batch k h w"]
    mean: Float[Tensor, "batch k c h w"]
    log_scale: Float[Tensor, "batch k c h w"]
    coefficients: Float[Tensor, "batch k pairs h w"]

    def mean_given(self, seen: Sequence[Float[Tensor, "batch #k h w"]]) -> Float[Tensor, "batch k h w"]:
        """Every component's mean of the next channel, given the values of the channels before it."""
        channel = len(seen)
        first = channel * (channel - 1) // 2
        pulls = (self.coefficients[:, :, first + i] * value for i, value in enumerate(seen))
        return sum(pulls, start=self.mean[:, :, channel])

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        """`log sum_k weight_k prod_c p_k(x_c | x_<c)`, summed over pixels."""
        channels = centred(x)[:, None].unbind(2)
        mean = torch.stack([self.mean_given(channels[:c]) for c in range(len(channels))], dim=2)
        each = logistic_bin(x[:, None], mean, self.log_scale).sum(2)
        return per_image(torch.logsumexp(F.log_softmax(self.logits, 1) + each, dim=1))

    def expected(self) -> Float[Tensor, "batch c h w"]:
        """The components' means, averaged with their weights.

        In a component, each channel is at its mean given that the channels before it are at theirs:
        the expectation of the underlying densities, because the means are linear. It is clipped to
        the range of pixels at every step.
        """
        channels: list[Tensor] = []
        for _ in range(self.mean.shape[2]):
            channels.append(self.mean_given(channels).clamp(-1, 1))
        weights = torch.softmax(self.logits, 1)[:, :, None]
        return (weights * torch.stack(channels, dim=2)).sum(1)

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        """A component for every pixel; then red, green and blue in turn, each given those drawn."""
        index = draw_index(self.logits, 1, generator)[:, None, None]
        one = LogisticMixtureImages(
            torch.zeros_like(self.logits[:, :1]),
            *(
                part.gather(1, index.expand(-1, -1, part.shape[2], -1, -1))
                for part in (self.mean, self.log_scale, self.coefficients)
            ),
        )
        drawn: list[Tensor] = []
        for c in range(self.mean.shape[2]):
            mean = one.mean_given([centred(channel) for channel in drawn])
            drawn.append(logistic_draw(mean, one.log_scale[:, :, c], generator))
        return torch.cat(drawn, dim=1)


class DiscretisedLogisticMixture(Likelihood):
    """A mixture of discretised logistics a pixel, coupled over red, green and blue: PixelCNN++'s.

    A component needs 3 planes for grey images (a logit, a mean, a log scale) and 10 for colour ones
    (a logit, 3 means, 3 log scales, and 3 coefficients, each the tanh of its output). The log scale is
    kept smoothly between -7 and 1 (Salimans et al. 2017, sections 2.1 and 2.2).

    Arguments:
        components: K, the number of components.

    Raises:
        UserError: the images are neither grey nor of three colours; there is no component.
    """

    normalised = True

    def __init__(self, shape: Shape, *, components: int = 10) -> None:
        super().__init__(shape)
        channels = shape[0]
        if channels not in (1, 3):
            raise UserError(
                "likelihood 'discretised-logistic-mixture' is for images of 1 or 3 channels, "
                f"not {channels}; 'discretised-logistic' takes any number"
            )
        if components < 1:
            raise UserError(
                f"likelihood 'discretised-logistic-mixture': components={components} must be at least 1"
            )
        self.components = components
        self.parts = (1, channels, channels, channels * (channels - 1) // 2)
        self.planes = components * sum(self.parts)

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> LogisticMixtureImages:
        each = parameters.float().unflatten(1, (self.components, -1))
        logit, mean, raw, coefficients = each.split(self.parts, dim=2)
        return LogisticMixtureImages(
            logit.squeeze(2), mean, bounded(raw, LOWEST, HIGHEST), torch.tanh(coefficients)
        )
