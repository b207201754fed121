"""What everything above the models relies on, and nothing else.

A model that offers this, whatever is inside it, can be trained by any objective and serves every
evaluation and every picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from condvae.errors import UserError
from condvae.probability.likelihoods import ImageDistribution, Likelihood
from condvae.probability.posteriors import LatentDistribution, Posterior

Images = UInt8[Tensor, "batch c h w"]
Labels = Int[Tensor, "batch"]
Latents = tuple[Tensor, ...]
"""One tensor `[..., *group_shape]` a group, top group first, in coordinates that every label shares."""


def flat(latents: Latents) -> Float[Tensor, "batch z"]:
    """All groups of latents beside each other, in float32 at least."""
    row = torch.cat([group.flatten(1) for group in latents], dim=1)
    return row if row.dtype == torch.float64 else row.float()


def grouped(row: Float[Tensor, "batch z"], shapes: Sequence[tuple[int, ...]]) -> Latents:
    """What `flat` put beside each other, as groups of these shapes."""
    parts = row.split([math.prod(shape) for shape in shapes], dim=1)
    return tuple(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True))


def mixed(one: Latents, other: Latents, which: Bool[Tensor, "batch"]) -> Latents:
    """Latents of `one` where `which` is true, else those of `other`."""
    return tuple(
        torch.where(which.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(one, other, strict=True)
    )


Temperature = float | Sequence[float]
"""Factor of the prior's noise: one for all groups of latents, or one a group, top group first."""


def temperatures(temperature: Temperature) -> list[float]:
    """The temperatures that are given, be it one or several."""
    return [temperature] if isinstance(temperature, float | int) else list(temperature)


def for_each_group(temperature: Temperature, groups: int) -> list[float]:
    """A temperature for every group.

    Raises:
        UserError: there are neither one nor as many as there are groups.
    """
    each = temperatures(temperature)
    if len(each) not in (1, groups):
        raise UserError(
            f"{len(each)} temperatures for {groups} groups of latents; give one, or one each"
        )
    return each * groups if len(each) == 1 else each


@dataclass(frozen=True)
class Elbo:
    """The two sides of the evidence lower bound, in nats an image.

    Arguments:
        log_likelihood: one-sample estimate of `E_q[log p(x|z,y)]`.
        kl: `KL(q(z_l|...) || p(z_l|...))` for every group of latents, in closed form or by the draw.
        latents: the draw, as `encode` would give it.
        posterior: `q(z|x,y)`, for models whose latents have one distribution (flat ones).
        images: `p(x|z,y)`.
    """

    log_likelihood: Float[Tensor, "batch"]
    kl: Float[Tensor, "batch groups"]
    latents: Latents
    posterior: LatentDistribution | None = None
    images: ImageDistribution | None = None

    @property
    def value(self) -> Float[Tensor, "batch"]:
        """`log_likelihood - sum of kl`: a lower bound on `log p(x|y)`."""
        return self.log_likelihood - self.kl.sum(1)


@dataclass(frozen=True)
class WeightedDraws:
    """Draws from the posterior and their importance weights, for objectives that weigh gradients.

    Arguments:
        log_weights: `log p(x,z|y) - log q(z|x,y)`.
        latents: the draws, `[S, B, ...]` a group.
        handle: the posterior's parameters, a copy a draw `[S, B, p]`. All of the gradient that reaches
            the encoder by way of the draws passes through it, so a hook on it may weigh that gradient
            a draw. (A prior made of the encoder, vamp, has a gradient of its own, as any prior.)
        log_likelihood: `log p(x|z,y)`, the images' side of the weights.
    """

    log_weights: Float[Tensor, "samples batch"]
    latents: Latents
    handle: Float[Tensor, "samples batch p"]
    log_likelihood: Float[Tensor, "samples batch"]


class ConditionalModel(Protocol):
    """A generative model of uint8 images `[B, C, H, W]` given labels `[B]` of 0 to K - 1.

    `likelihood.observe` is applied to every image that comes in: it is the identity, or a
    binarisation that leaves binarised images as they are.
    """

    shape: tuple[int, int, int]
    classes: int
    group_shapes: tuple[tuple[int, ...], ...]
    """Shape of each group of latents, top group first."""
    latents: int
    """Dimensions of all groups together."""
    uses_label: bool
    """Whether the label reaches any part of the model; if not, `p(x|y)` is `p(x)`."""
    likelihood: Likelihood

    def elbo(self, x: Images, y: Labels, noise: Float[Tensor, "batch z"] | None = None) -> Elbo:
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

    def transfer(
        self, latents: Latents, given: Labels, generator: torch.Generator | None = None
    ) -> Latents:
        """The latents that a swap to given labels decodes: the image's own, or, of a model that keeps
        only some groups of them in a swap, those, and the others drawn from their priors."""
        ...

    def log_prior(self, latents: Latents, y: Labels) -> Float[Tensor, "batch"]:
        """Log density `log p(z|y)` in nats, in the coordinates that `encode` gives latents in."""
        ...

    def draw(
        self, y: Labels, temperature: Temperature = 1.0, generator: torch.Generator | None = None
    ) -> Latents:
        """Latents drawn from the prior, its noise times `temperature`."""
        ...

    def sample(
        self, y: Labels, temperature: Temperature = 1.0, generator: torch.Generator | None = None
    ) -> Images:
        """The mean images of latents drawn from the prior, as in `draw`."""
        ...

    def label_posterior(self, x: Images) -> Float[Tensor, "batch classes"] | None:
        """`q(y|x)`, where the model has one."""
        ...

    def side_loss(self, x: Images, y: Labels) -> Float[Tensor, ""] | None:
        """The loss of parts that the bound is not to teach, in nats an image, where the model has any.
        Training adds it to whatever the objective minimises."""
        ...


class WeighableModel(ConditionalModel, Protocol):
    """A model whose draws' gradients can be weighed; flat models are."""

    posterior: Posterior

    def weighted_draws(
        self,
        x: Images,
        y: Labels,
        noise: Float[Tensor, "samples batch z"],
        hold_posterior: bool = False,
    ) -> WeightedDraws:
        """Draws and their importance weights; `log q` through the draw alone if it is held."""
        ...


def is_weighable(model: ConditionalModel) -> TypeGuard[WeighableModel]:
    """Whether a model's draws' gradients can be weighed.

    (Not by `isinstance`: from Python 3.12 on it doesn't see what a module keeps as its parts.)
    """
    return hasattr(model, "weighted_draws")
