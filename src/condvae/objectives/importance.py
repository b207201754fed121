"""Bounds from several draws, and ways to estimate their gradient.

With log importance weights `log w_s = log p(x,z_s|y) - log q(z_s|x,y)` of S draws, every bound here
lies between the ELBO and `log p(x|y)`. Its gradient weighs the draws: by `w_s / sum w` for the
importance-weighted bound. The inference network may be given other weights than the generative model
is, by a hook on the posterior's parameters: see `WeightedDraws.handle`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from condvae.models.protocol import ConditionalModel, Images, Labels, is_weighable
from condvae.objectives.base import Loss, reported, require

LogWeights = Float[Tensor, "samples batch"]

LEAST_SHARE = 1e-12
"""Shares that are divided by are kept above this, which float32 can't tell from 0 in a sum."""


def log_mean_exp(log_weights: Tensor, dim: int = 0) -> Tensor:
    """`log 1/S sum_s w_s` over a dimension."""
    return torch.logsumexp(log_weights, dim) - math.log(log_weights.shape[dim])


class ImportanceWeighted(nn.Module):
    """Minus a bound that several draws give together, averaged over the batch, in nats an image.

    The ELBO is reported as the mean of the log weights, and the bound beside it.

    Arguments:
        draws: draws an image.
    """

    hold_posterior = False
    """Whether `log q(z|x,y)` has a gradient through the draw alone."""

    def __init__(self, draws: int) -> None:
        super().__init__()
        self.draws = draws

    def bound(self, log_weights: LogWeights) -> Float[Tensor, "batch"]:
        """The bound of each image. Its gradient is what the generative model is trained by."""
        raise NotImplementedError

    def factors(self, log_weights: LogWeights) -> LogWeights | None:
        """What each draw's gradient is multiplied by on its way to the inference network, if not 1."""
        return None

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch."""
        noise = torch.randn(self.draws, len(y), model.latents, device=y.device)
        if is_weighable(model):
            drawn = model.weighted_draws(x, y, noise, self.hold_posterior)
            log_weights, log_likelihood = drawn.log_weights, drawn.log_likelihood.mean()
            self._weigh(drawn.handle, self.factors(log_weights.detach()))
        else:
            log_weights = model.log_weights(x, y, noise)
            with torch.no_grad():
                log_likelihood = model.elbo(x, y, noise[0]).log_likelihood.mean()
        bound = self.bound(log_weights).mean()
        kl = log_likelihood - log_weights.mean()
        return Loss(-bound, reported(log_likelihood, kl, bound=bound))

    @staticmethod
    def _weigh(handle: Tensor, factors: LogWeights | None) -> None:
        """Multiply each draw's gradient as it passes through its handle."""
        if factors is not None and handle.requires_grad:
            handle.register_hook(lambda gradient: gradient * factors[..., None].to(gradient.dtype))


def require_handle(model: ConditionalModel, what: str) -> None:
    """Refuse a model whose inference network's gradient can't be weighed a draw.

    Raises:
        UserError: it has several groups of latents, or a posterior with weights of its own.
    """
    require(
        is_weighable(model) and model.posterior.amortised,
        what,
        "weighs the inference network's gradient a draw, so it needs a flat model whose posterior has "
        "no weights of its own, such as diagonal-gaussian; use that, or iwae",
    )


class Iwae(ImportanceWeighted):
    """`-log 1/S sum_s w_s` (Burda et al. 2016, equation 8), averaged over the batch, in nats an image.

    Keyword arguments:
        samples: S.
        gradient: the estimator of the inference network's gradient, `ws = w_s / sum w`:
            "standard": `sum_s ws * d log w_s`, whose signal-to-noise ratio falls with S.
            "sticking-the-landing": without the part of `d log w_s` that is the score of q, which is 0
            on average for S = 1 (Roeder et al. 2017; IWAE-STL in Tucker et al. 2019). It
            vanishes where q is the true posterior. Biased for S above 1.
            "doubly-reparameterised": `ws^2` in the place of `ws` in that; unbiased for every S
            (DReG: Tucker et al. 2019).
    """

    def __init__(self, model: ConditionalModel, *, samples: int = 5, gradient: str = "standard") -> None:
        require(samples >= 1, "iwae", "samples must be at least 1")
        estimators = ("standard", "sticking-the-landing", "doubly-reparameterised")
        require(gradient in estimators, "iwae", f"gradient={gradient!r}: use {' or '.join(estimators)}")
        super().__init__(samples)
        self.hold_posterior = gradient != "standard"
        self.doubly = gradient == "doubly-reparameterised"
        if self.doubly:
            require_handle(model, "iwae(gradient='doubly-reparameterised')")
        elif self.hold_posterior:
            require(
                is_weighable(model) and model.posterior.density_is_quick,
                "iwae(gradient='sticking-the-landing')",
                "asks a posterior held as a constant for the density of its draws, so it needs a flat "
                "model, and not an inverse autoregressive flow; use that, or gradient=standard",
            )

    def bound(self, log_weights: LogWeights) -> Float[Tensor, "batch"]:
        return log_mean_exp(log_weights)

    def factors(self, log_weights: LogWeights) -> LogWeights | None:
        return log_weights.softmax(0) if self.doubly else None


class Miwae(ImportanceWeighted):
    """`-1/M sum_m log 1/K sum_k w_mk`: the mean of M importance-weighted bounds, in nats an image.

    A looser bound than one of `M K` draws, with a better gradient for the inference network (Rainforth
    et al. 2018, section 5). `M = 1` is "iwae", `K = 1` the ELBO of M draws.

    Keyword arguments:
        groups: M.
        samples: K, draws a group.
    """

    def __init__(self, *, groups: int = 4, samples: int = 4) -> None:
        require(groups >= 1 and samples >= 1, "miwae", "groups and samples must be at least 1")
        super().__init__(groups * samples)
        self.groups = groups

    def bound(self, log_weights: LogWeights) -> Float[Tensor, "batch"]:
        return log_mean_exp(log_weights.unflatten(0, (self.groups, -1)), dim=1).mean(0)


class Ciwae(ImportanceWeighted):
    """`-(beta/S sum_s log w_s + (1 - beta) log 1/S sum_s w_s)`, in nats an image.

    A mixture of the ELBO and "iwae" (Rainforth et al. 2018, section 5).

    Keyword arguments:
        samples: S.
        beta: share of the ELBO.
    """

    def __init__(self, *, samples: int = 5, beta: float = 0.5) -> None:
        require(samples >= 1, "ciwae", "samples must be at least 1")
        require(0 <= beta <= 1, "ciwae", "beta must be within 0 to 1")
        super().__init__(samples)
        self.beta = beta

    def bound(self, log_weights: LogWeights) -> Float[Tensor, "batch"]:
        return self.beta * log_weights.mean(0) + (1 - self.beta) * log_mean_exp(log_weights)


class Piwae(ImportanceWeighted):
    """ "iwae" of all `M K` draws for the generative model, "miwae" for the inference network.

    (Rainforth et al. 2018, section 5.) The value is that of "iwae", in nats an image.

    Keyword arguments:
        groups: M.
        samples: K, draws a group.
    """

    def __init__(self, model: ConditionalModel, *, groups: int = 4, samples: int = 4) -> None:
        require(groups >= 1 and samples >= 1, "piwae", "groups and samples must be at least 1")
        require_handle(model, "piwae")
        super().__init__(groups * samples)
        self.groups = groups

    def bound(self, log_weights: LogWeights) -> Float[Tensor, "batch"]:
        # A draw that is nothing beside all others may be much in its group. Its share is what its
        # gradient starts with, so it must not vanish before `factors` lifts it to the group's.
        weighed = (self._shares(log_weights.detach()) * log_weights).sum(0)
        return weighed + (log_mean_exp(log_weights) - weighed).detach()

    def factors(self, log_weights: LogWeights) -> LogWeights:
        within = log_weights.unflatten(0, (self.groups, -1)).softmax(1).flatten(0, 1)
        return within / self.groups / self._shares(log_weights)

    @staticmethod
    def _shares(log_weights: LogWeights) -> LogWeights:
        return log_weights.softmax(0).clamp(min=LEAST_SHARE)
