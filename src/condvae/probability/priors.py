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

Where one class's prior is an affine map of another's, that map is in `place`, and `u` is `v`. Where it
is a flow, the decoder sees `v`, and `u` is the standard normal noise at the flow's other end. Where
there is no map between classes (vamp), `u` is `v`, and means the same only to the decoder.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from condvae.errors import UserError
from condvae.probability.flows import Autoregressive, Coupling, alternating
from condvae.probability.posteriors import LatentDistribution, normal_log_prob
from condvae.probability.ranges import tamed
from condvae.registry import Registry

REACH = 3.0
"""Bound of learned log scales, of classes and of components."""


class Prior(nn.Module, ABC):
    """A prior over latents, given the label.

    Arguments:
        latents: dimensions of `z`.
        classes: number of labels.

    Attributes:
        uses_label: whether the label makes a difference to it.
        asks_posterior: it is made of the model's own posterior, whose density it evaluates anywhere.
    """

    uses_label: bool = False
    asks_posterior: ClassVar[bool] = False

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
        """`u` drawn from the prior, its noise times `temperature`."""

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

    def noise(
        self, y: Int[Tensor, "batch"], generator: torch.Generator | None
    ) -> Float[Tensor, "batch z"]:
        """Standard normal noise, as much as drawing needs."""
        return torch.randn(len(y), self.latents, generator=generator, device=y.device)


# --------------------------------------------------------------------------------------- Gaussians


class StandardNormal(Prior):
    """`p(z | y) = N(0, 1)`: the label says nothing about the latents."""

    def log_prob(
        self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        return normal_log_prob(v)

    def draw(
        self, y: Int[Tensor, "batch"], temperature: float, generator: torch.Generator | None
    ) -> Float[Tensor, "batch z"]:
        return temperature * self.noise(y, generator)

    def kl(
        self,
        posterior: LatentDistribution,
        v: Float[Tensor, "batch z"],
        log_prob: Float[Tensor, "batch"],
        y: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch"]:
        closed = posterior.kl_to_standard_normal()
        return super().kl(posterior, v, log_prob, y) if closed is None else closed


class ConditionalGaussian(StandardNormal):
    """`p(z | y) = N(mean_y, diag(scale_y^2))`, a mean and a scale a class, learned."""

    uses_label = True

    def __init__(self, latents: int, classes: int) -> None:
        super().__init__(latents, classes)
        self.location = class_locations(classes, latents)

    def place(self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch z"]:
        return placed(v, self.location(y))


class Mixture(Prior):
    """`p(v | y) = sum_k w_{y,k} N(v; m_k, diag(s_k^2))`, a mixture of Gaussians, learned.

    Classes share the components, have weights of their own, and each puts the whole mixture in its
    own place by an affine map, as one Gaussian a class does. So a swap keeps the component (a style
    that all classes have, some more often) and the place in it.

    Keyword arguments:
        components: of the mixture.
        conditional: whether classes differ in weights and place.
    """

    def __init__(
        self, latents: int, classes: int, *, components: int = 16, conditional: bool = True
    ) -> None:
        super().__init__(latents, classes)
        _need_components(components)
        self.uses_label = conditional
        self.logits = nn.Parameter(torch.zeros(classes if conditional else 1, components))
        self.means = nn.Parameter(0.5 * torch.randn(components, latents))
        self.raw_scales = nn.Parameter(torch.zeros(components, latents))
        self.location = class_locations(classes, latents) if conditional else None

    def _log_weights(self, y: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch k"]:
        return F.log_softmax(self.logits, -1)[y if self.uses_label else torch.zeros_like(y)]

    def log_prob(
        self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        each = normal_log_prob(v[..., None, :], self.means, tamed(self.raw_scales, REACH))
        return torch.logsumexp(self._log_weights(y) + each, -1)

    def draw(
        self, y: Int[Tensor, "batch"], temperature: float, generator: torch.Generator | None
    ) -> Float[Tensor, "batch z"]:
        chosen = torch.multinomial(self._log_weights(y).exp(), 1, generator=generator)[:, 0]
        scale = temperature * tamed(self.raw_scales, REACH)[chosen].exp()
        return self.means[chosen] + scale * self.noise(y, generator)

    def place(self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch z"]:
        return v if self.location is None else placed(v, self.location(y))


def class_locations(classes: int, latents: int) -> nn.Embedding:
    """A mean and a raw log scale a class, for `placed`; near the identity at first."""
    table = nn.Embedding(classes, 2 * latents)
    nn.init.normal_(table.weight, std=0.02)
    return table


def placed(
    v: Float[Tensor, "*batch z"], location: Float[Tensor, "*batch 2*z"]
) -> Float[Tensor, "*batch z"]:
    """`v`, scaled and shifted."""
    mean, raw = location.chunk(2, dim=-1)
    return mean + tamed(raw, REACH).exp() * v


# --------------------------------------------------------------------------------------------- vamp


class Vamp(Prior):
    """`p(v | y) = 1/C sum_k q(v | x_k, y)`, a mixture of posteriors of learned pseudo-images `x_k`.

    The VampPrior (Tomczak and Welling 2018, equation 9), each class with pseudo-images of its own.

    Arguments:
        shape: `(C, H, W)` of the images.
        infer: the model's posterior, given what its encoder sees (images of -1 to 1) and labels.

    Keyword arguments:
        components: pseudo-images, of every class or of all.
        conditional: whether every class has its own. If not, the encoder is given label k mod K with
            pseudo-image k, whatever the label of the latents.
    """

    asks_posterior = True

    def __init__(
        self,
        latents: int,
        classes: int,
        shape: tuple[int, int, int],
        infer: Callable[[Tensor, Tensor], LatentDistribution],
        *,
        components: int = 8,
        conditional: bool = True,
    ) -> None:
        super().__init__(latents, classes)
        _need_components(components)
        self.infer = infer
        self.components = components
        self.uses_label = conditional
        self.pseudo_images = nn.Parameter(torch.randn(classes if conditional else 1, components, *shape))

    def _mixture(
        self, y: Int[Tensor, "*batch"]
    ) -> tuple[LatentDistribution, Int[Tensor, "*batch components"]]:
        """Posteriors of the pseudo-images of all labels in `y`, and the indices of each label's own."""
        every = torch.arange(self.components, device=y.device)
        if self.uses_label:
            labels, which = y.unique(return_inverse=True)
            given = labels.repeat_interleave(self.components)
        else:
            labels, which = torch.zeros_like(every[:1]), torch.zeros_like(y)
            given = every % self.classes
        posteriors = self.infer(torch.tanh(self.pseudo_images[labels]).flatten(0, 1), given)
        return posteriors, self.components * which[..., None] + every

    def log_prob(
        self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        posteriors, own = self._mixture(y)
        each = posteriors.select(own).log_prob(v[..., None, :])
        return torch.logsumexp(each, -1) - math.log(self.components)

    def draw(
        self, y: Int[Tensor, "batch"], temperature: float, generator: torch.Generator | None
    ) -> Float[Tensor, "batch z"]:
        posteriors, own = self._mixture(y)
        chosen = torch.randint(self.components, (len(y), 1), generator=generator, device=y.device)
        posterior = posteriors.select(own.gather(1, chosen)[:, 0])
        return posterior.draw(temperature * self.noise(y, generator))[0]


# --------------------------------------------------------------------------------------------- flows


class FlowPrior(Prior):
    """`u = f(v, y)` with `u ~ N(0, 1)`: a flow from latents to noise, the label being its context.

    Keyword arguments:
        steps: of the flow.
        hidden: units of each of the two hidden layers of a step's network.
        conditional: whether the flow sees the label.
    """

    step: ClassVar[type[Autoregressive] | type[Coupling]]

    def __init__(
        self,
        latents: int,
        classes: int,
        *,
        steps: int = 4,
        hidden: int = 128,
        conditional: bool = True,
    ) -> None:
        super().__init__(latents, classes)
        self.uses_label = conditional
        self.flow = alternating(self.step, latents, classes if conditional else 0, steps, hidden)

    def _context(self, y: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch c"] | None:
        each = torch.arange(self.classes, device=y.device)
        return (y[..., None] == each).float() if self.uses_label else None

    def log_prob(
        self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        u, log_det = self.flow(v, self._context(y))
        return normal_log_prob(u) + log_det

    def draw(
        self, y: Int[Tensor, "batch"], temperature: float, generator: torch.Generator | None
    ) -> Float[Tensor, "batch z"]:
        return temperature * self.noise(y, generator)

    def carry(self, v: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch z"]:
        u: Tensor = self.flow(v, self._context(y))[0]
        return u

    def settle(
        self, u: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch z"]:
        return self.flow.inverse(u, self._context(y))[0]

    def carried_log_prob(
        self, u: Float[Tensor, "*batch z"], y: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        return normal_log_prob(u)


class AutoregressiveFlowPrior(FlowPrior):
    """Masked autoregressive (Papamakarios et al. 2017): a density takes one pass, a sample z passes."""

    step = Autoregressive


class CouplingFlowPrior(FlowPrior):
    """Affine coupling steps (Dinh et al. 2017): densities and samples both take one pass."""

    step = Coupling


def _need_components(number: int) -> None:
    if number < 1:
        raise UserError(f"the prior needs at least 1 component, not {number}")


PRIORS = Registry[Prior](
    "prior",
    {
        "standard-normal": StandardNormal,
        "conditional": ConditionalGaussian,
        "mixture": Mixture,
        "vamp": Vamp,
        "autoregressive-flow": AutoregressiveFlowPrior,
        "coupling-flow": CouplingFlowPrior,
    },
)
