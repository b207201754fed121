"""Learning from labels of which most are missing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from condvae.data.augment import degraded, shifted, warped
from condvae.models.protocol import ConditionalModel, Images, Labels
from condvae.objectives.base import Loss, reported, require
from condvae.objectives.elbo import risen
from condvae.probability.images import centred, uncentred


class SemiSupervised(nn.Module):
    """Bounds of `log p(x, y)` where the label is known and of `log p(x)` where it is not, less
    `alpha * C + consistency * P` (M2: Kingma et al. 2014, equations 6 to 9), in nats an image.

    Known: `ELBO(x, y) - ln K`. Unknown: `sum_y q(y|x) (ELBO(x, y) - ln K) + H(q(y|x))`, over the
    `labels` likeliest labels, `q` renormalised to them: it stays a bound.

    `C` is the cross-entropy of `q(y|x)` on images whose label is known, which are warped. `P` is the
    same on all others, warped and degraded, of the label that `q` gives to the image as it is, where
    it is surer of it than `threshold` (FixMatch: Sohn et al. 2020).

    The reported ELBO, likelihood and KL are of the image given its label, or given those that `q`
    finds likely, weighed.

    Keyword arguments:
        beta, warmup: of the KL, as in `elbo`.
        alpha: of C.
        consistency: of P.
        threshold: probability from which a label that was inferred is believed.
        labels: how many labels an image is tried with.
    """

    takes_unlabelled = True

    def __init__(
        self,
        model: ConditionalModel,
        *,
        beta: float = 1.0,
        warmup: float = 0.0,
        alpha: float = 30.0,
        consistency: float = 30.0,
        threshold: float = 0.95,
        labels: int = 3,
    ) -> None:
        super().__init__()
        require(
            min(beta, alpha, consistency) >= 0 and 0 <= warmup <= 1,
            "semi-supervised",
            "beta, alpha and consistency must be at least 0, and warmup within 0 to 1",
        )
        require(0 < threshold < 1, "semi-supervised", "threshold must be within 0 and 1")
        require(labels >= 1, "semi-supervised", "labels must be at least 1")
        inference = getattr(model, "label_inference", None)
        require(
            inference is not None and getattr(inference, "classifier", None) is not None,
            "semi-supervised",
            "the model infers no labels; give model.label_inference a classifier: unnormalised",
        )
        self.beta, self.warmup = beta, warmup
        self.alpha, self.consistency, self.threshold = alpha, consistency, threshold
        self.labels = min(labels, model.classes)
        self.classes = model.classes

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch, of which labels of -1 are unknown."""
        known = y >= 0
        q = inferred(model, x)
        # Each image under its own label, or under several, with weights that sum to 1.
        likely = q.detach().topk(self.labels, dim=1).indices
        tried = torch.where(known[:, None], y[:, None].clamp(min=0), likely)
        own = torch.zeros_like(tried, dtype=q.dtype)
        own[:, 0] = 1
        chosen = q.gather(1, tried)
        weights = torch.where(known[:, None], own, chosen / chosen.sum(1, keepdim=True))
        rows, columns = torch.nonzero(weights.detach() > 0, as_tuple=True)
        elbo = model.elbo(x[rows], tried[rows, columns])
        share = weights[rows, columns] / len(x)
        log_likelihood = (share * elbo.log_likelihood).sum()
        kl = (share * elbo.kl.sum(1)).sum()
        entropy = -(weights * weights.clamp(min=1e-12).log()).sum(1).mean()

        supervised = agreement(inferred(model, altered(x, degrade=False)), y)
        sure, said = q.detach().max(1)
        believed = torch.where(~known & (sure > self.threshold), said, -1)
        pseudo = agreement(inferred(model, altered(x, degrade=True)), believed)

        beta = self.beta * risen(progress, self.warmup)
        bound = log_likelihood - beta * kl + entropy - math.log(self.classes)
        value = self.alpha * supervised + self.consistency * pseudo - bound
        others = {
            "label_loss": supervised,
            "pseudo_label_loss": pseudo,
            "believed": (believed >= 0).float().mean(),
            "label_entropy": entropy,
        }
        return Loss(value, reported(log_likelihood, kl, **others))


def inferred(model: ConditionalModel, x: Images) -> Float[Tensor, "batch classes"]:
    """`q(y|x)`."""
    q = model.label_posterior(x)
    assert q is not None
    return q


def agreement(q: Float[Tensor, "batch classes"], y: Labels) -> Float[Tensor, ""]:
    """Cross-entropy in nats, the mean over images that have a label; 0 if none has."""
    known = (y >= 0).sum().clamp(min=1)
    return F.nll_loss(q.clamp(min=1e-12).log(), y, ignore_index=-1, reduction="sum") / known


def altered(x: Images, degrade: bool) -> Images:
    """Images warped and shifted (in colour, mirrored), and most of them degraded."""
    seen = warped(shifted(centred(x), None, mirror=x.shape[1] == 3), None)
    return uncentred(degraded(seen, None) if degrade else seen)
