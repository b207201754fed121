"""What everything above the models relies on, and nothing else.

A model that offers this, whatever is inside it, can be trained by any objective and serves every
evaluation and every picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from condvae.probability.likelihoods import ImageDistribution, Likelihood

Images = UInt8[Tensor, "batch c h w"]
Labels = Int[Tensor, "batch"]
Latents = tuple[Tensor, ...]
"""One tensor `[B, ...]` a group, top group first, in coordinates that carry over to other labels."""


@dataclass(frozen=True)
class Elbo:
    """The two sides of the evidence lower bound, in nats an image.

    Arguments:
        log_likelihood: one-sample estimate of `E_q[log p(x|z,y)]`.
        kl: `KL(q(z_l|...) || p(z_l|...))` for every group of latents.
    """

    log_likelihood: Float[Tensor, "batch"]
    kl: Float[Tensor, "batch groups"]

    @property
    def value(self) -> Float[Tensor, "batch"]:
        """`log_likelihood - sum of kl`: a lower bound on `log p(x|y)`."""
        return self.log_likelihood - self.kl.sum(1)


@runtime_checkable
class ConditionalModel(Protocol):
    """A generative model of uint8 images `[B, C, H, W]` given labels `[B]` of 0 to K - 1.

    `likelihood.observe` is applied to every image that comes in: it is the identity, or a random
    binarisation that leaves binarised images as they are.
    """

    shape: tuple[int, int, int]
    classes: int
    latents: int
    likelihood: Likelihood

    def elbo(self, x: Images, y: Labels) -> Elbo:
        """Evidence lower bound of `log p(x|y)`, with one draw from the posterior."""
        ...

    def log_weights(
        self, x: Images, y: Labels, noise: Float[Tensor, "samples batch z"]
    ) -> Float[Tensor, "samples batch"]:
        """Log importance weights `log p(x,z|y) - log q(z|x,y)`, for standard normal noise.

        The noise is given, so that an image's weights don't depend on the batch that it is in, and
        so that several labels can be compared under the same noise.
        """
        ...

    def encode(self, x: Images, y: Labels, sample: bool = False) -> Latents:
        """The posterior's mean, or a draw from it."""
        ...

    def decode(self, latents: Latents, y: Labels) -> ImageDistribution:
        """The distribution over images, given latents and labels."""
        ...

    def sample(
        self, y: Labels, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Images:
        """The mean images of latents drawn from the prior, its scale times `temperature`."""
        ...

    def label_posterior(self, x: Images) -> Float[Tensor, "batch classes"] | None:
        """`q(y|x)`, where the model has one."""
        ...
