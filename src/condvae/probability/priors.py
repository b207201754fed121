"""Priors `p(z | y)`.

Three sets of coordinates, all the same for the simplest prior:

- `v`, in which posteriors are expressed, and in which `log_prob` is a density;
- `z = place(v, y)`, which the decoder sees. One Gaussian a class is the same standard normal in `v`
  for every class, put in its own place by an affine map (the residual parameterisation of Vahdat and
  Kautz 2020, section 3.2, with the label in the place of the latents above); KL and importance weights
  are those of `z` itself, since a bijection changes neither;
- `u = carry(v, y)`, what `encode` gives and `decode` takes: coordinates that mean the same under every
  label, so that a label swap leads to the same place in the *other* class's prior, and not to a point
  that only the first class ever used. `settle(u, y)` is the inverse.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from condvae.probability.divergences import kl_to_standard_normal
from condvae.probability.posteriors import LatentDistribution, Normal, normal_log_prob
from condvae.registry import Registry


class Prior(nn.Module, ABC):
    """A prior over latents, given the label.

    Arguments:
        latents: dimensions of `z`.
        classes: number of labels.

    Attributes:
        uses_label: whether the label makes a difference to it.
    """

    uses_label: bool = False

    def __init__(self, latents: int, classes: int) -> None:
        super().__init__()
        self.latents = latents
        self.classes = classes

    @abstractmethod
    def log_prob(
        self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """Log density in nats."""

    @abstractmethod
    def draw(
        self, y: Int[Tensor, "batch"], temperature: float, generator: torch.Generator | None
    ) -> Float[Tensor, "batch z"]:
        """`v` drawn from the prior, its noise times `temperature`."""

    def kl(
        self,
        posterior: LatentDistribution,
        v: Float[Tensor, "batch z"],
        log_prob: Float[Tensor, "batch"],
        y: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch"]:
        """`KL(q(z|x,y) || p(z|y))` in nats: in closed form where there is one, else by the draw.

        Arguments:
            posterior: q.
            v, log_prob: a draw from it and its log density under q.
        """
        return log_prob - self.log_prob(v, y)

    def place(self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch z"]:
        """The latents that the decoder sees."""
        return v

    def carry(self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch z"]:
        """Coordinates that mean the same under every label."""
        return v

    def settle(
        self, u: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch z"]:
        """The inverse of `carry`."""
        return u

    def carried_log_prob(
        self, u: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """Log density of `u` in its own coordinates, in nats."""
        return self.log_prob(u, y)


class StandardNormal(Prior):
    """`p(z | y) = N(0, 1)`: the label says nothing about the latents."""

    def log_prob(
        self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        return normal_log_prob(v)

    def draw(
        self, y: Int[Tensor, "batch"], temperature: float, generator: torch.Generator | None
    ) -> Float[Tensor, "batch z"]:
        return temperature * torch.randn(len(y), self.latents, generator=generator, device=y.device)

    def kl(
        self,
        posterior: LatentDistribution,
        v: Float[Tensor, "batch z"],
        log_prob: Float[Tensor, "batch"],
        y: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch"]:
        if isinstance(posterior, Normal):
            return kl_to_standard_normal(posterior.mean, posterior.log_scale).sum(-1)
        return super().kl(posterior, v, log_prob, y)


class ConditionalGaussian(StandardNormal):
    """`p(z | y) = N(mean_y, diag(scale_y^2))`, a mean and a scale a class, learned."""

    uses_label = True

    def __init__(self, latents: int, classes: int) -> None:
        super().__init__(latents, classes)
        self.location = nn.Embedding(classes, 2 * latents)
        nn.init.normal_(self.location.weight, std=0.02)

    def place(self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch z"]:
        mean, raw = self.location(y).chunk(2, dim=-1)
        return mean + torch.exp(3 * torch.tanh(raw / 3)) * v


PRIORS = Registry[Prior](
    "prior",
    {
        "standard-normal": StandardNormal,
        "conditional": ConditionalGaussian,
    },
)
