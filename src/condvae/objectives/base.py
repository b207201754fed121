"""What every objective gives, and what some of them ask of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from condvae.errors import UserError
from condvae.models.protocol import ConditionalModel, Elbo
from condvae.probability.posteriors import DiagonalGaussian, Normal
from condvae.probability.priors import StandardNormal


@dataclass(frozen=True)
class Loss:
    """What a step minimises, and what it reports.

    Arguments:
        value: the scalar to be minimised, in nats an image.
        metrics: scalars, in nats an image where nothing else is said; "elbo", which is the true one,
            "log_likelihood" and "kl" are among them.
    """

    value: Float[Tensor, ""]
    metrics: Mapping[str, Float[Tensor, ""]]


def reported(
    log_likelihood: Float[Tensor, ""], kl: Float[Tensor, ""], **others: Float[Tensor, ""]
) -> dict[str, Float[Tensor, ""]]:
    """The metrics of a step: the ELBO, its two sides, and what else there is."""
    metrics = {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl, **others}
    return {name: value.detach() for name, value in metrics.items()}


def require(condition: bool, objective: str, demand: str) -> None:
    """Refuse an option's value with a sentence.

    Raises:
        UserError: the condition isn't met.
    """
    if not condition:
        raise UserError(f"objective {objective!r}: {demand}")


def require_gaussians(model: ConditionalModel, objective: str, instead: str) -> None:
    """Refuse all but a diagonal Gaussian posterior with a prior that is standard normal in `v`.

    Only there does a single dimension have a KL, a mean and a variance of its own.

    Raises:
        UserError: the model has another posterior or prior, or several groups of latents.
    """
    prior = getattr(model, "prior", None)
    standard = isinstance(prior, StandardNormal) and type(prior).log_prob is StandardNormal.log_prob
    gaussian = isinstance(getattr(model, "posterior", None), DiagonalGaussian)
    require(
        standard and gaussian,
        objective,
        "looks at single dimensions, so it needs a flat model with the posterior diagonal-gaussian and "
        f"the prior conditional or standard-normal; use those, or {instead}",
    )


def gaussian(elbo: Elbo) -> Normal:
    """The posterior of a model that `require_gaussians` let pass."""
    assert isinstance(elbo.posterior, Normal)
    return elbo.posterior


def held(network: nn.Module, x: Tensor) -> Tensor:
    """What a network makes of `x`, its own weights as constants."""
    constants = {name: weight.detach() for name, weight in network.named_parameters()}
    found: Tensor = functional_call(network, constants, (x,))
    return found
