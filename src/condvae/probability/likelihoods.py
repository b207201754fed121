"""Likelihoods `p(x | z, y)` over 8-bit images. The likelihood owns the pixel scale.

A family is a module that says how many planes of numbers it needs (`planes`), turns
uint8 images into what the encoder sees (`network_input`) and into what is being modelled
(`observe`), and reads the decoder's output as a distribution. The distribution takes uint8 images
and gives uint8 images back, so that no other place knows a scale, and none can draw on a wrong one.

Log-likelihoods are in nats an image, summed over all dimensions. `normalised` says whether the
probabilities of the 256 values of a pixel sum to 1, which is what bits/dim needs; `binary` says that
the modelled image is a random binarisation of the given one; `is_probability` is false for what is no
probability of the images: a density on 8-bit values, or a loss that is the log of nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from condvae.probability.posteriors import HALF_LOG_2PI
from condvae.registry import Registry

Images = UInt8[Tensor, "batch c h w"]
Shape = tuple[int, int, int]


def to_uint8(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Round grey values of 0 to 255 to the nearest 8-bit value."""
    return x.round().clamp(0, 255).to(torch.uint8)


def per_image(x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch"]:
    """Sum over all dimensions of an image, in float32."""
    return x.float().flatten(1).sum(1)


class ImageDistribution(ABC):
    """A distribution over uint8 images `[B, C, H, W]`."""

    @abstractmethod
    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        """Log-probability of the images, in nats an image."""

    @abstractmethod
    def mean_image(self) -> Images:
        """The expected image."""

    @abstractmethod
    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        """One drawn image."""


class Likelihood(nn.Module, ABC):
    """A family of distributions over images, indexed by the decoder's output.

    Arguments:
        shape: `(C, H, W)` of the images.

    Attributes:
        planes: numbers a pixel that the decoder has to give.
    """

    normalised: ClassVar[bool] = False
    binary: ClassVar[bool] = False
    is_probability: ClassVar[bool] = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.planes = shape[0]

    def observe(self, x: Images, generator: torch.Generator | None = None) -> Images:
        """The images being modelled; the same images, unless the family draws from them."""
        return x

    def network_input(self, x: Images) -> Float[Tensor, "batch c h w"]:
        """What a network sees of uint8 images: values of -1 to 1."""
        return x.float() / 127.5 - 1

    @abstractmethod
    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> ImageDistribution:
        """Read decoder outputs `[B, planes, H, W]` as a distribution."""


# ------------------------------------------------------------------------------------- Bernoulli


@dataclass(frozen=True)
class BernoulliImages(ImageDistribution):
    """Independent pixels that are 0 or 255; `logits` of being 255."""

    logits: Float[Tensor, "batch c h w"]

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        target = x.to(self.logits.dtype) / 255
        return per_image(self.logits * target - F.softplus(self.logits))

    def mean_image(self) -> Images:
        return to_uint8(255 * torch.sigmoid(self.logits))

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        draw = torch.bernoulli(torch.sigmoid(self.logits), generator=generator)
        return to_uint8(255 * draw)


class Bernoulli(Likelihood):
    """Binary pixels, with the data binarised afresh each time it is seen.

    A grey value `v` is read as the probability `v / 255` of a white pixel, and a binary image is
    drawn (dynamic binarisation: Salakhutdinov and Murray 2008; Burda et al. 2016, section 5). The
    drawn image is again uint8, of 0s and 255s, for which drawing changes nothing: images that were
    binarised beforehand stay as they are, which is how an evaluation fixes its binarisation.
    """

    binary = True

    def observe(self, x: Images, generator: torch.Generator | None = None) -> Images:
        uniform = torch.rand(x.shape, generator=generator, device=x.device)
        return (uniform * 255 < x).to(torch.uint8) * 255

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> BernoulliImages:
        return BernoulliImages(parameters.float())


class GreyCrossEntropy(Likelihood):
    """Bernoulli cross-entropy on the grey values themselves: **not a likelihood**.

    `v log p + (1 - v) log(1 - p)` for a grey value `v` between 0 and 1 is the log-probability of
    nothing (it lacks the normaliser of Loaiza-Ganem and Cunningham 2019); it is kept because the
    MNIST notebook minimised it. No bound is ever printed from it.
    """

    is_probability = False

    def network_input(self, x: Images) -> Float[Tensor, "batch c h w"]:
        """Grey values of 0 to 1, as the notebook had them."""
        return x.float() / 255

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> BernoulliImages:
        return BernoulliImages(parameters.float())


# ------------------------------------------------------------------------------ discretised logistic


@dataclass(frozen=True)
class DiscretisedLogisticImages(ImageDistribution):
    """Independent pixels with 256 values: a logistic density, integrated over bins of width 2/255.

    The values lie at -1, -1 + 2/255, ..., 1; the first bin reaches to minus infinity and the last to
    infinity, so the probabilities sum to 1 (Salimans et al. 2017, equation 2).
    """

    mean: Float[Tensor, "batch c h w"]
    log_scale: Float[Tensor, "batch c h w"]

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        value = x.float() / 127.5 - 1
        inverse = torch.exp(-self.log_scale)
        half_bin = inverse / 255
        centre = (value - self.mean) * inverse
        upper, lower = centre + half_bin, centre - half_bin
        # sigmoid(upper) - sigmoid(lower) without cancellation: with both mirrored to the lower tail,
        # log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)).
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-2 * half_bin))
        log_prob = torch.where(x == 0, F.logsigmoid(upper), inside)
        log_prob = torch.where(x == 255, F.logsigmoid(-lower), log_prob)
        return per_image(log_prob)

    def mean_image(self) -> Images:
        """The mean of the underlying density, clipped to the range of pixels."""
        return to_uint8((self.mean + 1) * 127.5)

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        shape, device = self.mean.shape, self.mean.device
        u = torch.rand(shape, generator=generator, device=device).clamp(1e-6, 1 - 1e-6)
        return to_uint8((self.mean + self.log_scale.exp() * torch.logit(u) + 1) * 127.5)


class DiscretisedLogistic(Likelihood):
    """256 values a pixel, a mean and a scale for every pixel and channel (Kingma et al. 2016).

    The log scale is bounded smoothly to (-7, 1): a scale of `exp(-7)` is an eighth of a bin.
    """

    normalised = True
    lowest, highest = -7.0, 1.0

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.planes = 2 * shape[0]

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> DiscretisedLogisticImages:
        mean, raw = parameters.float().chunk(2, dim=1)
        middle = (self.lowest + self.highest) / 2
        reach = (self.highest - self.lowest) / 2
        return DiscretisedLogisticImages(mean, middle + reach * torch.tanh((raw + 0.5) / reach))


# ---------------------------------------------------------------------------------------- Gaussian


@dataclass(frozen=True)
class GaussianImages(ImageDistribution):
    """A density over images scaled to -1 to 1. Not a probability of 8-bit values."""

    mean: Float[Tensor, "batch c h w"]
    log_scale: Float[Tensor, ""]

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        """Log *density*, in nats an image."""
        standardised = (x.float() / 127.5 - 1 - self.mean) * torch.exp(-self.log_scale)
        return per_image(-0.5 * standardised.square() - self.log_scale - HALF_LOG_2PI)

    def mean_image(self) -> Images:
        return to_uint8((self.mean + 1) * 127.5)

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return to_uint8((self.mean + self.log_scale.exp() * noise + 1) * 127.5)


class Gaussian(Likelihood):
    """A normal density with one learned scale for all pixels, as the CIFAR-10 notebook had it.

    A density on 8-bit data is not bounded by the data's entropy, so no bound is printed from it.
    """

    is_probability = False

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> GaussianImages:
        return GaussianImages(parameters.float(), self.log_scale)


LIKELIHOODS = Registry[Likelihood](
    "likelihood",
    {
        "bernoulli": Bernoulli,
        "grey-cross-entropy": GreyCrossEntropy,
        "discretised-logistic": DiscretisedLogistic,
        "gaussian": Gaussian,
    },
)
