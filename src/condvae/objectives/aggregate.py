"""Objectives that look at the aggregate posterior: all images' posteriors together.

`q(v) = 1/N sum_n q(v|x_n,y_n)`, over images with their labels. It is taken in coordinates in which every
class has the same prior, so that it can match that prior whatever the classes' own places are; with
label-conditional posteriors, what a dimension says of the label counts like anything else it says.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from condvae.models.protocol import ConditionalModel, Images, Labels, flat
from condvae.objectives.base import Loss, gaussian, held, reported, require, require_gaussians
from condvae.probability.posteriors import Normal, normal_log_prob

# ----------------------------------------------------------------------------------- total correlation


class TotalCorrelation(nn.Module):
    """`-E_q[log p(x|z,y)] + alpha * MI + beta * TC + gamma * DW`, in nats an image.

    The KL, taken apart (Chen et al. 2018, equation 2):

    - `MI = KL(q(n,v) || q(n) q(v))`, between an image's number and its latents;
    - `TC = KL(q(v) || prod_j q(v_j))`, the total correlation of the dimensions;
    - `DW = sum_j KL(q(v_j) || p(v_j))`, dimension by dimension.

    Each is estimated by the draw, and `q(v)` by minibatch-stratified sampling (appendix C): an image's
    own posterior with weight 1/N, the rest shared evenly by the others of the batch, which is the mean
    over all orders of the batch. `q(v)` is estimated without bias, its log is not. The three estimates
    sum to that of the KL whatever `q(v)` is estimated as, so the weights are applied as
    `KL + (alpha - 1) MI + ...` with the KL in closed form: with all weights 1 this is "elbo".

    Arguments:
        images: N, the number of training images.

    Keyword arguments:
        alpha, beta, gamma: the weights.
    """

    def __init__(
        self,
        model: ConditionalModel,
        images: int,
        *,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        require(
            min(alpha, beta, gamma) >= 0,
            "total-correlation",
            "alpha, beta and gamma must be at least 0",
        )
        require_gaussians(model, "total-correlation", "the objective factor")
        self.images = images
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch."""
        elbo = model.elbo(x, y)
        log_likelihood, kl = elbo.log_likelihood.mean(), elbo.kl.sum(1).mean()
        mi, tc, dw = decomposition(elbo.latents[0], gaussian(elbo), self.images)
        extra = (self.alpha - 1) * mi + (self.beta - 1) * tc + (self.gamma - 1) * dw
        return Loss(
            kl + extra - log_likelihood,
            reported(log_likelihood, kl, mutual_information=mi, total_correlation=tc, dimension_kl=dw),
        )


def decomposition(
    v: Float[Tensor, "batch z"], posterior: Normal, images: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Estimates of MI, TC and DW, from a draw of each image's posterior; see `TotalCorrelation`."""
    number = len(v)
    others = (images - 1) / (images * max(1, number - 1))
    shares = torch.full((number, number), others, dtype=v.dtype, device=v.device)
    log_shares = shares.fill_diagonal_(1 / images).log()
    # Log density of draw i's dimension d under image j's posterior, [i, j, d].
    mean, log_scale = posterior.mean[None, ..., None], posterior.log_scale[None, ..., None]
    log_densities = normal_log_prob(v[:, None, :, None], mean, log_scale)
    log_joint = torch.logsumexp(log_shares + log_densities.sum(2), dim=1)
    log_product = torch.logsumexp(log_shares[..., None] + log_densities, dim=1).sum(1)
    return (
        (posterior.log_prob(v) - log_joint).mean(),
        (log_joint - log_product).mean(),
        (log_product - normal_log_prob(v)).mean(),
    )


class FactorVae(nn.Module):
    """`-ELBO + gamma * TC`, TC from a discriminator (Kim and Mnih 2018, equation 2), in nats an image.

    The discriminator tells draws of `q(v)` from draws whose dimensions were each permuted over the
    batch, and its logit estimates the log ratio of `q(v)` and `prod_j q(v_j)`, all groups of latents
    together (equation 3; algorithm 2, but with one batch for both). Its cross-entropy is added to the
    value that is minimised. The gradients are kept apart: the model sees the discriminator as constant,
    and the discriminator the latents. It is trained with the model's optimiser.

    Keyword arguments:
        gamma: weight of TC.
        width, layers: of the discriminator (1000 and 6 in the paper).
    """

    def __init__(
        self, model: ConditionalModel, *, gamma: float = 6.0, width: int = 256, layers: int = 4
    ) -> None:
        super().__init__()
        require(gamma >= 0, "factor", "gamma must be at least 0")
        require(width >= 1 and layers >= 1, "factor", "width and layers must be at least 1")
        self.gamma = gamma
        widths = [model.latents] + [width] * layers
        hidden: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            hidden += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*hidden, nn.Linear(width, 1))

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch."""
        elbo = model.elbo(x, y)
        log_likelihood, kl = elbo.log_likelihood.mean(), elbo.kl.sum(1).mean()
        v = flat(elbo.latents)
        tc = held(self.discriminator, v).float().mean()
        own = self.discriminator_loss(v.detach())
        return Loss(
            kl - log_likelihood + self.gamma * tc + own,
            reported(log_likelihood, kl, total_correlation=tc, discriminator_loss=own),
        )

    def discriminator_loss(self, v: Float[Tensor, "batch z"]) -> Float[Tensor, ""]:
        """Cross-entropy of telling draws from permuted ones, in nats a draw: ln 2 where it can't."""
        permuted = v.gather(0, torch.rand_like(v).argsort(0))
        drawn, mixed = self.discriminator(v).float(), self.discriminator(permuted).float()
        return 0.5 * (F.softplus(-drawn) + F.softplus(mixed)).mean()


# ------------------------------------------------------------------------------------- its moments


class DipVae(nn.Module):
    """`-ELBO + off_diagonal * sum_{i!=j} C_ij^2 + diagonal * sum_i (C_ii - 1)^2`, nats an image.

    C is a covariance, estimated from the batch (Kumar et al. 2018, equations 6 and 7): in variant I that
    of the posteriors' means, in variant II that of `q(v)`, the mean of the posteriors' variances added.

    Keyword arguments:
        variant: "I" or "II".
        off_diagonal, diagonal: lambda_od and lambda_d in the paper.
    """

    def __init__(
        self,
        model: ConditionalModel,
        *,
        variant: str = "II",
        off_diagonal: float = 10.0,
        diagonal: float = 10.0,
    ) -> None:
        super().__init__()
        require(variant in ("I", "II"), "dip", f"variant={variant}: use I or II")
        require(min(off_diagonal, diagonal) >= 0, "dip", "off_diagonal and diagonal must be at least 0")
        require_gaussians(model, "dip", "the objective info")
        self.variant, self.off_diagonal, self.diagonal = variant, off_diagonal, diagonal

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch."""
        elbo = model.elbo(x, y)
        log_likelihood, kl = elbo.log_likelihood.mean(), elbo.kl.sum(1).mean()
        penalty = self.penalty(gaussian(elbo))
        return Loss(kl - log_likelihood + penalty, reported(log_likelihood, kl, dip=penalty))

    def penalty(self, posterior: Normal) -> Float[Tensor, ""]:
        """What is added to the negative ELBO."""
        centred = posterior.mean - posterior.mean.mean(0)
        with torch.autocast(centred.device.type, enabled=False):
            covariance = centred.T @ centred / len(centred)
        variances = covariance.diagonal()
        off_diagonal = covariance.square().sum() - variances.square().sum()
        if self.variant == "II":
            variances = variances + torch.exp(2 * posterior.log_scale).mean(0)
        return self.off_diagonal * off_diagonal + self.diagonal * (variances - 1).square().sum()


class InfoVae(nn.Module):
    """`-E_q[log p(x|z,y)] + (1 - alpha) KL + (alpha + weight - 1) MMD^2(q(v), p(v))`.

    (InfoVAE: Zhao et al. 2019.) In nats an image, but for MMD^2, which has no unit. `alpha = 0, weight
    = 1` is the negative ELBO and `alpha = 1` the MMD-VAE. The maximum mean discrepancy is that of the
    batch's latents, all groups together, from as many draws of the prior under the same labels; see
    `mmd`.

    Keyword arguments:
        alpha: share of the KL that is left out; 1 at most.
        weight: lambda in the paper; at least `1 - alpha`.
        kernel: "imq" (inverse multiquadratic) or "rbf".
    """

    def __init__(self, *, alpha: float = 1.0, weight: float = 100.0, kernel: str = "imq") -> None:
        super().__init__()
        require(alpha <= 1, "info", "alpha must be at most 1, or the KL would be driven up")
        require(alpha + weight >= 1, "info", "weight must be at least 1 - alpha")
        require(kernel in KERNELS, "info", f"kernel={kernel}: use {' or '.join(KERNELS)}")
        self.alpha, self.weight, self.kernel = alpha, weight, kernel

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch."""
        elbo = model.elbo(x, y)
        log_likelihood, kl = elbo.log_likelihood.mean(), elbo.kl.sum(1).mean()
        discrepancy = mmd(flat(elbo.latents), flat(model.draw(y)), self.kernel)
        value = (1 - self.alpha) * kl + (self.alpha + self.weight - 1) * discrepancy - log_likelihood
        return Loss(value, reported(log_likelihood, kl, mmd=discrepancy))


KERNELS = {
    "imq": lambda square: 1 / (1 + square),
    "rbf": lambda square: torch.exp(-square),
}
"""Of the squared distance, in units of what it is on average between two draws of N(0, 1)."""


def mmd(a: Float[Tensor, "n z"], b: Float[Tensor, "m z"], kernel: str = "imq") -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy of two samples (Gretton et al. 2012, equation 3).

    `E k(a,a') + E k(b,b') - 2 E k(a,b)`, estimated without bias (no pair of a point with itself), so it
    is 0 on average between two samples of one distribution, and may be negative. 0 for a single point.
    """
    if min(len(a), len(b)) < 2:
        return a.new_zeros(())

    def similarity(one: Tensor, other: Tensor) -> Tensor:
        distance = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
        return KERNELS[kernel](distance.square() / (2 * a.shape[1]))

    def within(points: Tensor) -> Tensor:
        pairs = len(points) * (len(points) - 1)
        matrix = similarity(points, points)
        return (matrix.sum() - matrix.diagonal().sum()) / pairs

    return within(a) + within(b) - 2 * similarity(a, b).mean()
