"""What a likelihood is: a family of distributions over 8-bit images. It owns the pixel scale.

A family is a module that says how many planes of numbers it needs (`planes`), turns uint8 images into
what the encoder sees (`network_input`) and into what is being modelled (`observe`), and reads the
decoder's output as a distribution. The distribution takes uint8 images and gives uint8 images back, so
that no other place knows a scale, and none can draw on a wrong one.

Log-likelihoods are in nats an image, summed over all dimensions. The families are in `binary.py`,
`discretised.py`, `discrete.py` and `densities.py`; `likelihoods.py` names them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

Images = UInt8[Tensor, "batch c h w"]
Shape = tuple[int, int, int]


def to_uint8(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Round grey values of 0 to 255 to the nearest 8-bit value."""
    return x.round().clamp(0, 255).to(torch.uint8)


def centred(x: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """8-bit values on the scale of -1 to 1."""
    return x.float() / 127.5 - 1


def uncentred(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The 8-bit values nearest to values on the scale of -1 to 1."""
    return to_uint8((x + 1) * 127.5)


def per_image(x: Float[Tensor, "batch *dimensions"]) -> Float[Tensor, "batch"]:
    """Sum over all dimensions of an image, in float32."""
    return x.float().flatten(1).sum(1)


class ImageDistribution(ABC):
    """A distribution over uint8 images `[B, C, H, W]`."""

    @abstractmethod
    def log_prob(self, x: Images) -> Float[Tensor, "batch"]:
        """Log-probability of the images, in nats an image."""

    @abstractmethod
    def expected(self) -> Float[Tensor, "batch c h w"]:
        """The expected image, as networks see images: -1 to 1, and differentiable."""

    def mean_image(self) -> Images:
        """The expected image."""
        return uncentred(self.expected())

    @abstractmethod
    def sample_image(self, generator: torch.Generator | None = None) -> Images:
        """One drawn image."""


class Likelihood(nn.Module, ABC):
    """A family of distributions over images, indexed by the decoder's output.

    Arguments:
        shape: `(C, H, W)` of the images.

    Attributes:
        planes: numbers a pixel that the decoder has to give.
        binarisation: how `observe` makes binary images of grey ones: "dynamic", "fixed" or
            "threshold"; None where it leaves images as they are.
        normalised: the probabilities of the 256 values of a pixel sum to 1, which bits/dim needs.
        binary: what is modelled is a binarisation of the given image.
        is_probability: false for what is no probability of the images: a density on 8-bit values, or
            a loss that is the log of nothing. No bound is printed from it.
    """

    normalised: ClassVar[bool] = False
    binary: ClassVar[bool] = False
    is_probability: ClassVar[bool] = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.planes = shape[0]
        self.binarisation: str | None = None

    def observe(self, x: Images, generator: torch.Generator | None = None) -> Images:
        """The images being modelled; the same images, unless the family binarises them."""
        return x

    def network_input(self, x: Images) -> Float[Tensor, "batch c h w"]:
        """What a network sees of uint8 images: values of -1 to 1."""
        return centred(x)

    @abstractmethod
    def forward(self, parameters: Float[Tensor, "batch p h w"]) -> ImageDistribution:
        """Read decoder outputs `[B, planes, H, W]` as a distribution."""
