"""How an image is drawn, whatever it shows: latents of their own, which all classes share.

The likelihood alone leaves open what a latent is. In a model that is told the class, "wide" among the 0s
and "wide" among the 7s may be two directions, or anything turned and folded together: every choice is
worth the same number of nats, and a label swap that keeps latents keeps nothing. Here the first few
latents are given their meaning from outside of the bound, and stay latents inside of it: they have the
prior of all others, and their KL is counted.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from condvae.geometry import affine_maps, bends, moved_by, restroked
from condvae.models.protocol import Labels
from condvae.probability.divergences import kl_to_standard_normal
from condvae.probability.ranges import bounded

STYLES = ("stretch", "lean", "strokes", "height", "across", "down")
"""What a template is restyled by, besides being bent."""
UNITS = (0.2, 0.3, 0.6, 0.12, 0.1, 0.1)
"""What a unit of each is: of the logarithm of a factor, columns a row, about pixels on each side of a
stroke, of a logarithm again, and half sides for both moves. About what they vary by among handwritten
digits."""
DEGREE, BEND = 4, 0.04
"""Degree of the polynomials that a template is bent by, and what a unit of each is, in half sides."""
RATE = 0.02
"""Share of the newest batch in what is usual."""


class Congealing(nn.Module):
    """One template a class, and how it has to be restyled to come nearest to an image.

    Bringing all images of a class into line, so that each of them is a template with a style of its own,
    is congealing (Learned-Miller 2006). Here it is a small VAE: `c`, a number for each of the `STYLES`
    and for each way to be bent, is standard normal; a pixel is bright with the probability that the
    restyled template says; and a network that is told the class finds `q(c|x,y)`. Its bound is no part
    of the model's. Bends take up what one template can't have in common with all images of a class, and
    strokes would otherwise make up for.

    Arguments:
        shape: `(C, H, W)` of the images.
        classes: number of labels, K.
        width: channels of the network's first layer.
    """

    bends: Float[Tensor, "bends h w"]
    units: Float[Tensor, "c"]
    usual: Float[Tensor, "classes c"]
    variance: Float[Tensor, "classes c"]

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 24) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(shape[0], width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * width, 256),
        )
        self.see_label = nn.Embedding(classes, 256)
        self.register_buffer("bends", bends(*shape[1:], DEGREE), persistent=False)
        units = torch.tensor([*UNITS, *[BEND] * 2 * len(self.bends)])
        self.register_buffer("units", units, persistent=False)
        self.register_buffer("usual", torch.zeros(classes, len(units)))
        self.register_buffer("variance", torch.ones(classes, len(units)))
        self.tell = nn.Linear(256, 2 * len(units))
        nn.init.zeros_(self.tell.weight)  # every image begins as its class's template
        nn.init.zeros_(self.tell.bias)
        self.template = nn.Parameter(torch.full((classes, math.prod(shape)), -0.1))

    def read(self, images: Float[Tensor, "batch d h w"], y: Labels) -> tuple[Tensor, Tensor]:
        """Mean and log scale of `q(c|x,y)`, `[B, c]` each, for images of -1 to 1."""
        told = self.tell(F.silu(self.see(images) + self.see_label(y))).float()
        mean, raw = told.chunk(2, dim=1)
        return mean, bounded(raw - 1.5, -5.0, 1.0)

    def restyled(
        self, images: Float[Tensor, "batch d h w"], c: Float[Tensor, "batch c"]
    ) -> Float[Tensor, "batch d h w"]:
        """Images of -1 to 1, each restyled by its `c`."""
        styles, bent = (c.float() * self.units).split([len(STYLES), 2 * len(self.bends)], 1)
        stretch, lean, strokes, height, across, down = styles.unbind(1)
        maps = affine_maps(torch.zeros_like(lean), lean, -stretch, -height, across, down)
        field = torch.einsum("ntb,bhw->nhwt", bent.unflatten(1, (2, -1)), self.bends)
        return restroked(moved_by(images, maps, field), strokes.tanh()[:, None, None, None])

    def forward(self, images: Float[Tensor, "batch d h w"], y: Labels) -> Float[Tensor, ""]:
        """The negative bound of images of -1 to 1, in nats an image, the batch's mean; in training it
        takes note of what is usual as well. Images without a label, -1, count for nothing."""
        known, y = y >= 0, y.clamp(min=0)
        mean, log_scale = self.read(images, y)
        if self.training:
            self._take_note(mean.detach(), y, known)
        c = mean + log_scale.exp() * torch.randn_like(mean)
        template = (5 * self.template).tanh()[y].unflatten(1, images.shape[1:])
        bright = ((self.restyled(template, c) + 1) / 2).clamp(0.002, 0.998)
        share = (images.float() + 1) / 2
        fit = share * bright.log() + (1 - share) * (1 - bright).log()
        loss = kl_to_standard_normal(mean, log_scale).sum(1) - fit.flatten(1).sum(1)
        return loss.where(known, 0.0).mean()

    @torch.no_grad()
    def _take_note(self, c: Float[Tensor, "batch c"], y: Labels, known: Tensor) -> None:
        """Move each class's usual style, and how it varies, a little towards this batch's."""
        classes = torch.arange(len(self.usual), device=y.device)
        which = ((y[:, None] == classes) & known[:, None]).to(c.dtype)
        number = which.sum(0)[:, None]
        rate = RATE * (number > 0)
        self.usual.lerp_(which.T @ c / number.clamp(min=1), rate)
        off = (c - self.usual[y]).square()
        self.variance.lerp_(which.T @ off / number.clamp(min=1), rate)

    @property
    def spread(self) -> Float[Tensor, "classes c"]:
        """How far styles are usually from what is usual in a class."""
        return self.variance.sqrt().clamp(min=0.05)

    @torch.no_grad()
    def deviation(self, images: Float[Tensor, "batch d h w"], y: Labels) -> Float[Tensor, "batch c"]:
        """How images of -1 to 1 deviate from what is usual in their class, in standard deviations."""
        return (self.read(images, y)[0] - self.usual[y]) / self.spread[y]


class StyleGroup(nn.Module):
    """A first group of latents that is how an image is drawn.

    The prior is standard normal for every class; the posterior's mean is what congealing says of the
    image, the deviation from what is usual in its class, times a gain, and its scale is the same for all
    images. The bound chooses the gain and the scale, and congealing alone what is said.

    Arguments:
        shape, classes: of the images.
        number: of the `STYLES`, from the first on, that are latents.
        width: of what the latents are told to the rest of the model as.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, number: int, width: int) -> None:
        super().__init__()
        self.congealing = Congealing(shape, classes)
        self.shape = (number, 1, 1)
        self.gain = nn.Parameter(torch.ones(number))
        self.log_scale = nn.Parameter(torch.full((number,), -1.0))
        self.join = nn.Linear(number, width)

    def evidence(
        self, images: Float[Tensor, "batch d h w"], y: Labels
    ) -> Float[Tensor, "batch 2*z 1 1"]:
        """Mean and log scale of the posterior, for images of -1 to 1."""
        mean = self.gain * self.congealing.deviation(images, y)[:, : len(self.gain)]
        log_scale = bounded(self.log_scale, -6.0, 2.0).expand_as(mean)
        return torch.cat([mean, log_scale], 1)[:, :, None, None]

    def forward(
        self,
        given: Float[Tensor, "draws z 1 1"],
        evidence: Float[Tensor, "batch 2*z 1 1"] | None,
    ) -> tuple[Float[Tensor, "draws e"], Tensor, Tensor, Tensor]:
        """What the rest of the model is told; and the latents, the posterior's mean and its log scale,
        as of any other group.

        Arguments:
            given: the posterior's noise, where there is evidence of an image; else the latents.
        """
        if evidence is None:
            u, mean, log_scale = given, torch.zeros_like(given), torch.zeros_like(given)
        else:
            repeated = evidence.repeat(len(given) // len(evidence), 1, 1, 1)
            mean, log_scale = repeated.chunk(2, dim=1)
            u = mean + log_scale.exp() * given
        return self.join(u.flatten(1)), u, mean, log_scale
