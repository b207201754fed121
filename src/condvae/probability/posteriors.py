"""Posteriors `q(z | x, y)`: what the encoder's output is read as.

A family says how many numbers it needs (`parameters_needed`) and turns them into a distribution. Its
draws come with their log density, from noise that is given, so that a flow, whose density is known
only along its own draws, serves as well as a Gaussian.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from condvae.errors import UserError
from condvae.probability.divergences import full_kl_to_standard_normal, kl_to_standard_normal
from condvae.probability.flows import Autoregressive, Coupling, Flow, alternating
from condvae.probability.ranges import bounded, tamed
from condvae.registry import Registry

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def normal_log_prob(
    z: Float[Tensor, "*batch z"],
    mean: Float[Tensor, "*batch z"] | float = 0.0,
    log_scale: Float[Tensor, "*batch z"] | float = 0.0,
) -> Float[Tensor, "*batch"]:
    """Log density of a diagonal normal, summed over the last dimension, in nats."""
    log_scale = log_scale if isinstance(log_scale, Tensor) else z.new_full((), log_scale)
    standardised = (z - mean) * torch.exp(-log_scale)
    return (-0.5 * standardised.square() - log_scale - HALF_LOG_2PI).sum(-1)


class LatentDistribution(ABC):
    """A distribution over latents `[*batch, z]`."""

    @property
    @abstractmethod
    def centre(self) -> Float[Tensor, "*batch z"]:
        """One point that stands for the distribution: the mean, or where a flow takes its base's."""

    @abstractmethod
    def draw(
        self, noise: Float[Tensor, "*batch z"]
    ) -> tuple[Float[Tensor, "*batch z"], Float[Tensor, "*batch"]]:
        """A reparameterised draw for standard normal noise, and its log density in nats.

        Noise may have dimensions of samples before those of the batch.
        """

    @abstractmethod
    def log_prob(self, z: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch"]:
        """Log density of any latents, in nats."""

    @abstractmethod
    def held(self) -> LatentDistribution:
        """The same distribution with its parameters as constants (no gradient reaches them)."""

    @abstractmethod
    def select(self, index: Int[Tensor, "*chosen"]) -> LatentDistribution:
        """Some of a batch of one dimension, in any order and shape: distributions `[*chosen]`."""

    def kl_to_standard_normal(self) -> Float[Tensor, "*batch"] | None:
        """`KL(q || N(0, 1))` in nats, where it has a closed form."""
        return None


# ------------------------------------------------------------------------------------ distributions


@dataclass(frozen=True)
class Normal(LatentDistribution):
    """A diagonal normal distribution over latents."""

    mean: Float[Tensor, "*batch z"]
    log_scale: Float[Tensor, "*batch z"]

    @property
    def centre(self) -> Float[Tensor, "*batch z"]:
        return self.mean

    def draw(
        self, noise: Float[Tensor, "*batch z"]
    ) -> tuple[Float[Tensor, "*batch z"], Float[Tensor, "*batch"]]:
        z = self.mean + self.log_scale.exp() * noise
        return z, self.log_prob(z)

    def log_prob(self, z: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch"]:
        return normal_log_prob(z, self.mean, self.log_scale)

    def held(self) -> Normal:
        return Normal(self.mean.detach(), self.log_scale.detach())

    def select(self, index: Int[Tensor, "*chosen"]) -> Normal:
        return Normal(self.mean[index], self.log_scale[index])

    def kl_to_standard_normal(self) -> Float[Tensor, "*batch"]:
        return kl_to_standard_normal(self.mean, self.log_scale).sum(-1)


@dataclass(frozen=True)
class FullNormal(LatentDistribution):
    """`N(mean, L L^T)`, L lower triangular with a positive diagonal."""

    mean: Float[Tensor, "*batch z"]
    factor: Float[Tensor, "*batch z z"]

    @property
    def centre(self) -> Float[Tensor, "*batch z"]:
        return self.mean

    def draw(
        self, noise: Float[Tensor, "*batch z"]
    ) -> tuple[Float[Tensor, "*batch z"], Float[Tensor, "*batch"]]:
        with torch.autocast(noise.device.type, enabled=False):
            z = self.mean + (self.factor @ noise[..., None]).squeeze(-1)
        return z, self._density_at(noise)

    def log_prob(self, z: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch"]:
        offset = (z - self.mean)[..., None]
        return self._density_at(torch.linalg.solve_triangular(self.factor, offset, upper=False)[..., 0])

    def _density_at(self, noise: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch"]:
        """Log density of the latents that this noise leads to."""
        return normal_log_prob(noise) - self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def held(self) -> FullNormal:
        return FullNormal(self.mean.detach(), self.factor.detach())

    def select(self, index: Int[Tensor, "*chosen"]) -> FullNormal:
        return FullNormal(self.mean[index], self.factor[index])

    def kl_to_standard_normal(self) -> Float[Tensor, "*batch"]:
        return full_kl_to_standard_normal(self.mean, self.factor)


@dataclass(frozen=True)
class Flowed(LatentDistribution):
    """Where a flow takes a diagonal normal distribution (Rezende and Mohamed 2015, section 3)."""

    base: Normal
    flow: Flow
    context: Float[Tensor, "*batch c"]

    @property
    def centre(self) -> Float[Tensor, "*batch z"]:
        z: Tensor = self.flow(self.base.mean, self.context)[0]
        return z

    def draw(
        self, noise: Float[Tensor, "*batch z"]
    ) -> tuple[Float[Tensor, "*batch z"], Float[Tensor, "*batch"]]:
        start, log_prob = self.base.draw(noise)
        z, log_det = self.flow(start, self.context)
        return z, log_prob - log_det

    def log_prob(self, z: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch"]:
        """By the flow's inverse: for an autoregressive one, as many passes as there are latents."""
        z = z.expand(torch.broadcast_shapes(z.shape, self.base.mean.shape))
        start, log_det = self.flow.inverse(z, self.context)
        return self.base.log_prob(start) + log_det

    def held(self) -> Flowed:
        """The flow's weights are held too: a copy of it shares their memory and takes no gradient."""
        constants = {
            id(p): nn.Parameter(p.detach(), requires_grad=False) for p in self.flow.parameters()
        }
        return Flowed(self.base.held(), copy.deepcopy(self.flow, constants), self.context.detach())

    def select(self, index: Int[Tensor, "*chosen"]) -> Flowed:
        return Flowed(self.base.select(index), self.flow, self.context[index])


# ----------------------------------------------------------------------------------------- families


class Posterior(nn.Module, ABC):
    """A family of posteriors, indexed by the encoder's output.

    Arguments:
        latents: dimensions of `z`.

    Attributes:
        parameters_needed: numbers that the encoder has to give.
        amortised: all that shapes the distribution comes from the encoder's output; the family has no
            weights of its own. (Estimators that weigh the encoder's gradient need this.)
        density_is_quick: the log density of any latents costs about as much as a draw.
    """

    amortised: ClassVar[bool] = True
    density_is_quick: ClassVar[bool] = True

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.latents = latents
        self.parameters_needed = 2 * latents

    @abstractmethod
    def forward(self, parameters: Float[Tensor, "*batch p"]) -> LatentDistribution:
        """Read network outputs `[*batch, parameters_needed]` as a distribution."""


class DiagonalGaussian(Posterior):
    """`N(mean, diag(scale^2))` (Kingma and Welling 2014), the log scale kept within -6 and 2."""

    lowest, highest = -6.0, 2.0

    def forward(self, parameters: Float[Tensor, "*batch p"]) -> Normal:
        mean, raw = parameters.float().chunk(2, dim=-1)
        return Normal(mean, bounded(raw, self.lowest, self.highest))


class FullCovariance(Posterior):
    """`N(mean, L L^T)`, `L = diag(scale) (1 + R)` with R strictly lower triangular.

    (Kingma and Welling 2019, section 2.5.1.) Log scales are kept within -6 and 2 and the elements of R
    within -3 and 3: relative to the scale of their row, so that no row degenerates. The encoder gives
    `z + z (z + 1) / 2` numbers.
    """

    lowest, highest, reach = -6.0, 2.0, 3.0
    rows: Tensor
    columns: Tensor

    def __init__(self, latents: int) -> None:
        super().__init__(latents)
        self.parameters_needed = latents + latents * (latents + 1) // 2
        rows, columns = torch.tril_indices(latents, latents, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, parameters: Float[Tensor, "*batch p"]) -> FullNormal:
        z = self.latents
        mean, raw, below = parameters.float().split([z, z, z * (z - 1) // 2], dim=-1)
        relative = torch.diag_embed(torch.ones_like(mean))
        relative[..., self.rows, self.columns] = tamed(below, self.reach)
        return FullNormal(mean, bounded(raw, self.lowest, self.highest).exp()[..., None] * relative)


class FlowPosterior(Posterior):
    """A diagonal Gaussian, and then a flow with weights of its own and a context from the encoder.

    Keyword arguments:
        steps: of the flow.
        hidden: units of each of the two hidden layers of a step's network.
        context: numbers from the encoder that every step sees.
    """

    amortised = False
    step: ClassVar[type[Autoregressive] | type[Coupling]]

    def __init__(self, latents: int, *, steps: int = 4, hidden: int = 128, context: int = 32) -> None:
        super().__init__(latents)
        if context < 1:
            raise UserError("the posterior's flow needs a context of at least 1 number")
        self.parameters_needed = 2 * latents + context
        self.base = DiagonalGaussian(latents)
        self.flow = alternating(self.step, latents, context, steps, hidden)

    def forward(self, parameters: Float[Tensor, "*batch p"]) -> Flowed:
        base = self.base(parameters[..., : 2 * self.latents])
        return Flowed(base, self.flow, parameters[..., 2 * self.latents :].float())


class InverseAutoregressiveFlow(FlowPosterior):
    """Autoregressive in the noise (Kingma et al. 2016): a draw with its density takes a pass a step."""

    density_is_quick = False
    step = Autoregressive


class CouplingFlow(FlowPosterior):
    """Affine coupling steps (Dinh et al. 2017): draws and densities both take a pass a step."""

    step = Coupling


POSTERIORS = Registry[Posterior](
    "posterior",
    {
        "diagonal-gaussian": DiagonalGaussian,
        "full-covariance": FullCovariance,
        "inverse-autoregressive-flow": InverseAutoregressiveFlow,
        "coupling-flow": CouplingFlow,
    },
)
