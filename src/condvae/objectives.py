"""What is minimised, given a model and a batch.

An objective is a module of its own: it may hold auxiliary networks, which are trained with it and
kept in the checkpoint, and never part of the model file. Whatever it minimises, it reports the true
ELBO beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from condvae.errors import UserError
from condvae.models.protocol import ConditionalModel, Images, Labels
from condvae.registry import Registry


@dataclass(frozen=True)
class Loss:
    """What a step minimises, and what it reports.

    Arguments:
        value: the scalar to be minimised, in nats an image.
        metrics: scalars, in nats an image; "elbo" is among them.
    """

    value: Float[Tensor, ""]
    metrics: Mapping[str, Float[Tensor, ""]]


class NegativeElbo(nn.Module):
    """`-E_q[log p(x|z,y)] + beta * KL`, averaged over the batch, in nats an image.

    With `beta = 1` after the warm-up this is the negative ELBO (Kingma and Welling 2014); any other
    value makes it a trade-off that is no bound (Higgins et al. 2017).

    Keyword arguments:
        beta: weight of the KL.
        warmup: share of the run over which that weight rises linearly from 0 (Bowman et al. 2016).
    """

    def __init__(self, *, beta: float = 1.0, warmup: float = 0.0) -> None:
        super().__init__()
        if beta < 0 or not 0 <= warmup <= 1:
            raise UserError("objective 'elbo': beta must be at least 0 and warmup within 0 to 1")
        self.beta = beta
        self.warmup = warmup

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float) -> Loss:
        """The loss on a batch, at a share `progress` of the run."""
        elbo = model.elbo(x, y)
        log_likelihood, kl = elbo.log_likelihood.mean(), elbo.kl.sum(1).mean()
        beta = self.beta * (min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0)
        metrics = {
            "elbo": (log_likelihood - kl).detach(),
            "log_likelihood": log_likelihood.detach(),
            "kl": kl.detach(),
        }
        return Loss(beta * kl - log_likelihood, metrics)


OBJECTIVES = Registry[nn.Module](
    "objective",
    {
        "elbo": NegativeElbo,
    },
)
