"""The evidence lower bound, and schedules and thresholds for its KL.

All of them minimise the expected `-log p(x|z,y)` and a function of the KL, in nats an image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from condvae.models.protocol import ConditionalModel, Images, Labels
from condvae.objectives.base import Loss, gaussian, reported, require, require_gaussians
from condvae.probability.divergences import kl_to_standard_normal


def risen(progress: float | Tensor, share: float) -> Tensor:
    """A line from 0 at a run's beginning to 1 once a `share` of it is done; 1 where that is 0."""
    progress = torch.as_tensor(progress)
    return (progress / share).clamp(max=1.0) if share > 0 else torch.ones_like(progress)


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
        require(
            beta >= 0 and 0 <= warmup <= 1,
            "elbo",
            "beta must be at least 0 and warmup within 0 to 1",
        )
        self.beta = beta
        self.warmup = warmup

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch, at a share `progress` of the run."""
        elbo = model.elbo(x, y)
        log_likelihood, kl = elbo.log_likelihood.mean(), elbo.kl.sum(1).mean()
        beta = self.beta * risen(progress, self.warmup)
        return Loss(beta * kl - log_likelihood, reported(log_likelihood, kl))


class Capacity(nn.Module):
    """`-E_q[log p(x|z,y)] + gamma * |KL - C|` (Burgess et al. 2018, equation 8), in nats an image.

    KL is the batch's mean, of all groups together. C, which rises linearly from 0, is a budget that the
    latents are led to use up and not to exceed.

    Keyword arguments:
        nats: value that C rises to (25 in the paper).
        gamma: weight of the distance from C (1000 in the paper, which leaves the likelihood little of a
            gradient that is clipped).
        rise: share of the run over which C rises.
    """

    def __init__(self, *, nats: float = 25.0, gamma: float = 30.0, rise: float = 0.5) -> None:
        super().__init__()
        require(
            nats >= 0 and gamma >= 0 and 0 <= rise <= 1,
            "capacity",
            "nats and gamma must be at least 0 and rise within 0 to 1",
        )
        self.nats, self.gamma, self.rise = nats, gamma, rise

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch, at a share `progress` of the run."""
        elbo = model.elbo(x, y)
        log_likelihood, kl = elbo.log_likelihood.mean(), elbo.kl.sum(1).mean()
        capacity = self.nats * risen(progress, self.rise)
        value = self.gamma * (kl - capacity).abs() - log_likelihood
        return Loss(value, reported(log_likelihood, kl, capacity=capacity))


class FreeBits(nn.Module):
    """`-E_q[log p(x|z,y)] + sum_j max(nats, KL_j)` (Kingma et al. 2016, appendix C.8), nats an image.

    `KL_j` is the batch's mean over images. A part whose KL is below the threshold costs nothing, so
    nothing pushes it further down.

    Keyword arguments:
        nats: the threshold, lambda in the paper.
        per: what a part j is: a "group" of latents, or one "dimension" of a flat model's.
    """

    def __init__(self, model: ConditionalModel, *, nats: float = 0.5, per: str = "group") -> None:
        super().__init__()
        require(nats >= 0, "free-bits", "nats must be at least 0")
        require(per in ("group", "dimension"), "free-bits", f"per={per}: use group or dimension")
        if per == "dimension":
            require_gaussians(model, "free-bits", "per=group")
        self.nats, self.per = nats, per

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch."""
        elbo = model.elbo(x, y)
        log_likelihood, parts = elbo.log_likelihood.mean(), elbo.kl
        if self.per == "dimension":
            posterior = gaussian(elbo)
            parts = kl_to_standard_normal(posterior.mean, posterior.log_scale)
        kept = parts.mean(0).clamp(min=self.nats).sum()
        return Loss(kept - log_likelihood, reported(log_likelihood, elbo.kl.sum(1).mean()))


class KlBalancing(nn.Module):
    """`-E_q[log p(x|z,y)] + b * sum_l w_l KL_l` while b rises to 1; the negative ELBO ever after.

    `w_l` is proportional to `KL_l / s_l` with mean 1 over the groups, a constant to the gradient, where
    `KL_l` is group l's batch mean and `s_l` its number of dimensions (Vahdat and Kautz 2020, appendix
    A, which prints a product; its author has said that the quotient is meant). A group that is hardly
    used is charged little while the model finds out what to use it for. In nats an image; the same as
    `elbo(warmup=...)` with a single group.

    Keyword arguments:
        warmup: share of the run over which b rises linearly from 0.
    """

    sizes: Tensor

    def __init__(self, model: ConditionalModel, *, warmup: float = 0.3) -> None:
        super().__init__()
        require(0 <= warmup <= 1, "kl-balancing", "warmup must be within 0 to 1")
        self.warmup = warmup
        sizes = torch.tensor([float(math.prod(shape)) for shape in model.group_shapes])
        self.register_buffer("sizes", sizes, persistent=False)

    def weights(self, kl: Tensor) -> Tensor:
        """`w_l` for the groups' mean KL, of which none counts as less than 0.01 nats."""
        raw = kl.detach().clamp(min=0.01) / self.sizes
        return raw / raw.mean()

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch, at a share `progress` of the run."""
        elbo = model.elbo(x, y)
        log_likelihood, kl = elbo.log_likelihood.mean(), elbo.kl.mean(0)
        rise = risen(progress, self.warmup)
        weights = torch.where(rise < 1, self.weights(kl), 1.0)
        value = rise * (weights * kl).sum() - log_likelihood
        return Loss(value, reported(log_likelihood, kl.sum()))
