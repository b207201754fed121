"""Binary pixels: the Bernoulli likelihood, with three ways of binarising, and a loss that is like it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from condvae.probability.images import (
    ImageDistribution,
    Images,
    Likelihood,
    Shape,
    per_image,
    to_uint8,
)
from condvae.registry import check_choice


@dataclass(frozen=True)
class BernoulliImages(ImageDistribution):
    """Independent pixels that are 0 or 255; `logits` of being 255."""

    logits: Float[Tensor, "batch c h w"]

    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        target = x.to(self.logits.dtype) / 255
        return per_image(self.logits * target - F.softplus(self.logits))

    def expected(self) -> Float[Tensor, "batch c h w"]:
        return 2 * torch.sigmoid(self.logits) - 1

    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        draw = torch.bernoulli(torch.sigmoid(self.logits), generator=generator)
        return to_uint8(255 * draw)


class Bernoulli(Likelihood):
    """Binary pixels, of images that are binarised when they are seen.

    A grey value `v` is read as the probability `v / 255` of a white pixel. The binary image is again
    uint8, of 0s and 255s, for which binarising changes nothing: images that were binarised beforehand
    stay as they are, which is how an evaluation fixes its binarisation. Nats under different
    binarisations are of different data, and can't be compared.

    Arguments:
        binarisation: "dynamic" draws a binary image afresh each time (Salakhutdinov and Murray 2008;
            Burda et al. 2016, section 5). "fixed" draws it once and for all: an image has the same
            binary image always, whatever its batch, the seed and the device (the manner of Larochelle
            and Murray 2011, though not their draws). "threshold" draws nothing: white from 128 up.

    Raises:
        UserError: there is no such binarisation.
    """

    binary = True

    def __init__(self, shape: Shape, *, binarisation: str = "dynamic") -> None:
        super().__init__(shape)
        choices = ("dynamic", "fixed", "threshold")
        check_choice("likelihood 'bernoulli', binarisation", binarisation, choices)
        self.binarisation = binarisation

    def observe(self, x: Images, generator: torch.Generator | None = None) -> Images:
        if self.binarisation == "threshold":
            white = x >= 128
        elif self.binarisation == "fixed":
            white = uniforms_of_content(x) * 255 < x
        else:
            white = torch.rand(x.shape, generator=generator, device=x.device) * 255 < x
        return white.to(torch.uint8) * 255

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> BernoulliImages:
        return BernoulliImages(parameters.float())


class GreyCrossEntropy(Likelihood):
    """Bernoulli cross-entropy on the grey values themselves: **not a likelihood**.

    `v log p + (1 - v) log(1 - p)` for a grey value `v` between 0 and 1 is the log-probability of
    nothing (it lacks the normaliser of `continuous-bernoulli`); it is kept because the MNIST notebook
    minimised it. No bound is ever printed from it.
    """

    is_probability = False

    def network_input(self, x: Images) -> Float[Tensor, "batch c h w"]:
        """Grey values of 0 to 1, as the notebook had them."""
        return x.float() / 255

    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> BernoulliImages:
        return BernoulliImages(parameters.float())


# ------------------------------------------------------------------ random numbers without a generator

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
"""2^64 over the golden ratio, as a signed integer: multiples of it are spread evenly."""


def uniforms_of_content(x: Images) -> Float[Tensor, "batch c h w"]:
    """Numbers of [0, 1) that look uniform, and that an image's content alone decides.

    All pixels and their places are hashed to one number an image, and that number and a pixel's place
    to the pixel's. The arithmetic is of integers, so it is the same everywhere and in any order.
    """
    values = x.flatten(1)
    places = torch.arange(values.shape[1], device=x.device) * GOLDEN
    content = scramble(places + values).sum(1, keepdim=True)
    bits = scramble(content + places) >> 40 & 0xFFFFFF
    return (bits.float() / 2**24).reshape(x.shape)


def scramble(x: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """A one-to-one map of 64-bit integers in which every bit hangs on every other.

    The finaliser of SplitMix64 (Steele et al. 2014, "variant 13"); multiplication is modulo 2^64, and
    a right shift of a signed integer has to have its copies of the sign masked out.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * (factor - 2**64)
    return x ^ (x >> 31 & (1 << 33) - 1)
