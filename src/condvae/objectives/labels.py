"""What makes a model obey its label: a critic that label swaps have to convince, and an adversary that
looks for the label in the latents.

The likelihood alone asks for neither. A label is worth at most `ln K` nats of it, and a model whose
latents tell all of an image has no use for one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from condvae.data.augment import Restyling, degraded, shifted
from condvae.models.classifier import Unnormalised
from condvae.models.protocol import ConditionalModel, Images, Labels, flat, mixed
from condvae.objectives.base import Loss, held, reported, require
from condvae.objectives.elbo import risen
from condvae.probability.images import centred, uncentred


class Counterfactual(nn.Module):
    """`-ELBO + weight * D + nearness * N + equivariance * E + adversary * A`, in nats an image.

    `D` is what a critic says of a label swap and of the reconstruction. It tells 2K kinds apart, real
    images of each class and made ones of each class (Hou et al. 2022), and `D` is the cross-entropy of
    its taking a made image for a real one of the label that it was made for, the mean of both. So a
    swap has to be of the given class and as real as a reconstruction, at once. The critic sees images
    shifted, and most of them blurred, coarsened or with noise, so that fine textures don't convince it.
    A share of the swaps is made of latents from the prior, which makes them samples.

    `N` is the squared distance of a swap from the reconstruction, of pixels of -1 to 1, summed over an
    image: of all images of the class, the swap is to be the one that is nearest.

    `E` is the squared distance, measured likewise, between a swap of a restyled image and the swap
    restyled in the same way: leaner strokes of an input are to be leaner strokes of what becomes of it.

    `A` is the cross-entropy between equal chances for all labels and what a second network reads from
    the latents, less `ln K`: 0 if it can read nothing.

    The encoder isn't told of swaps: their latents are constants. It would otherwise learn to write the
    label into the latents, because a decoder that sees what the image was can satisfy the likelihood by
    one kind of image and the critic by another.

    Both networks are trained with the model's optimiser and kept apart from it: the model sees them as
    constants, and they see its images and latents as such.

    Keyword arguments:
        beta, warmup: of the KL, as in `elbo`.
        weight: of D; 0 does without a critic.
        nearness: of N.
        equivariance: of E; 0 doesn't look for it.
        adversary: of A.
        samples: share of the swaps that are samples.
        share: of a step's images, that are swapped and shown to the critic: with less, more of the time
            goes into the likelihood.
        rise: share of the run over which these four weights rise linearly from 0.
        width: of the critic.
    """

    def __init__(
        self,
        model: ConditionalModel,
        *,
        beta: float = 1.0,
        warmup: float = 0.0,
        weight: float = 30.0,
        nearness: float = 0.0,
        equivariance: float = 0.0,
        adversary: float = 0.0,
        samples: float = 0.25,
        share: float = 1.0,
        rise: float = 0.05,
        width: int = 32,
    ) -> None:
        super().__init__()
        require(
            min(beta, weight, nearness, equivariance, adversary) >= 0,
            "counterfactual",
            "beta, weight, nearness, equivariance and adversary must be at least 0",
        )
        require(
            min(warmup, rise, samples) >= 0 and max(warmup, rise, samples) <= 1,
            "counterfactual",
            "warmup, rise and samples must be within 0 to 1",
        )
        require(
            0 < share <= 1,
            "counterfactual",
            "share must be above 0 and at most 1",
        )
        require(width >= 1, "counterfactual", "width must be at least 1")
        require(model.classes > 1, "counterfactual", "a wrong label needs two classes or more")
        require(model.uses_label, "counterfactual", "the label must reach the model; see label_reaches")
        self.beta, self.warmup, self.rise, self.samples = beta, warmup, rise, samples
        self.weight, self.nearness, self.adversary = weight, nearness, adversary
        self.equivariance, self.share = equivariance, share
        self.classes = model.classes
        self.critic = Unnormalised(model.shape, 2 * model.classes, width=width)
        self.reader = nn.Sequential(
            nn.Linear(model.latents, 256),
            nn.SiLU(),
            nn.Linear(256, 256),
            nn.SiLU(),
            nn.Linear(256, model.classes),
        )

    def forward(self, model: ConditionalModel, x: Images, y: Labels, progress: float | Tensor) -> Loss:
        """The loss on a batch, at a share `progress` of the run."""
        elbo = model.elbo(x, y)
        assert elbo.images is not None
        log_likelihood, kl = elbo.log_likelihood.mean(), elbo.kl.sum(1).mean()
        u = flat(elbo.latents)
        equal = torch.full((len(u), self.classes), 1 / self.classes, device=u.device)
        leaked = F.cross_entropy(held(self.reader, u).float(), equal) - equal[0, 0].log().neg()
        read = F.cross_entropy(self.reader(u.detach()).float(), y)

        some = slice(math.ceil(self.share * len(y)))
        x, y, own = x[some], y[some], tuple(group[some].detach() for group in elbo.latents)
        given = (y + torch.randint_like(y, 1, self.classes)) % self.classes
        drawn = torch.rand(len(y), device=y.device) < self.samples
        moved = mixed(model.draw(given), model.transfer(own, given), drawn)
        swap = model.decode(moved, given).expected()

        near = apart(swap, elbo.images.expected()[some].detach()).where(~drawn, 0.0).mean()
        extra = self.nearness * near + self.adversary * leaked
        others, taught = {"nearness": near, "reader_loss": read}, read
        if self.weight > 0:
            labels = torch.cat([given, y])
            seen = self.view(torch.cat([swap, model.decode(own, y).expected()]))
            convinced = F.cross_entropy(held(self.critic, seen).float(), labels)
            told = F.cross_entropy(self.critic(self.view(centred(x))).float(), y)
            told = told + F.cross_entropy(self.critic(seen.detach()).float(), self.classes + labels)
            others |= {"critic": convinced, "critic_loss": told}
            extra, taught = extra + self.weight * convinced, taught + told
        if self.equivariance > 0:
            restyled = Restyling.drawn(swap, None)
            with torch.no_grad():
                changed = model.encode(uncentred(restyled(centred(x))), y, sample=True)
            other = model.decode(model.transfer(changed, given), given).expected()
            others["equivariance"] = apart(other, restyled(swap)).where(~drawn, 0.0).mean()
            extra = extra + self.equivariance * others["equivariance"]
        value = self.beta * risen(progress, self.warmup) * kl - log_likelihood
        value = value + risen(progress, self.rise) * extra
        return Loss(value + taught, reported(log_likelihood, kl, **others))

    def view(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Images as the critic sees them, in random order of degradation."""
        moved = shifted(images, None, mirror=images.shape[1] == 3)
        order = torch.randperm(len(moved), device=moved.device)
        return degraded(moved[order], None)[order.argsort()]


def apart(a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"]) -> Float[Tensor, "n"]:
    """Squared distances of images, summed over an image."""
    return (a - b).square().flatten(1).sum(1)
