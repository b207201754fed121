"""The ladder: a top-down hierarchical conditional VAE, its latents in many groups.

Generative model `p(x|z,y) prod_l p(z_l | z_<l, y)`, inference model `prod_l q(z_l | z_<l, x, y)`, both
top group first (Sønderby et al. 2016; Vahdat and Kautz 2020; Child 2021). A bottom-up pass sees the
image once. The top-down pass carries features from 1x1 up to the image; at every group it looks at them
once, for the prior and for the posterior alike, adds the latents to them, and goes on.

Latents are in the prior's coordinates: group `l` is `u_l`, standard normal under the prior whatever
came above it and whatever the label, and `z_l = mean_l + scale_l * u_l` is what joins the features. So
the posterior is a residual one (Vahdat and Kautz 2020, section 3.2), its KL has a closed form, a label
swap keeps each group's *place in its prior*, and drawing some of the groups anew is replacing them by
noise.
"""

from __future__ import annotations

import itertools
import math
import typing
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from condvae.errors import UserError
from condvae.models.conditioning import LabelEmbedding, Modulation, Shift
from condvae.models.label_inference import LabelInference
from condvae.models.networks import ResidualBlock, ResidualBlocks, Shuffled, activation_named
from condvae.models.protocol import Elbo, Images, Labels, Latents, Temperature, for_each_group, grouped
from condvae.models.style import STYLES, StyleGroup
from condvae.probability.divergences import kl_to_standard_normal
from condvae.probability.likelihoods import LIKELIHOODS, ImageDistribution
from condvae.probability.posteriors import normal_log_prob
from condvae.probability.ranges import bounded, reined, tamed

Features = Float[Tensor, "batch c h w"]


class Group(nn.Module):
    """One group of latents on the way down: its prior, its posterior, and what it does to the features.

    Arguments:
        width: channels of the features.
        latents: channels of the latents.
        hidden: channels that the posterior compares image and features in.
        condition: widths of the encoder's and of the decoder's label embedding.
        kernel: side of the convolutions: 1 where the features are 1x1.
        depth: residual branches in a row on the way down, which each of them is scaled by.
    """

    def __init__(
        self,
        width: int,
        latents: int,
        hidden: int,
        condition: tuple[int, int],
        activation: nn.Module,
        kernel: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.look = nn.Conv2d(width, hidden, kernel, padding=kernel // 2)
        self.see = nn.Conv2d(width, hidden, kernel, padding=kernel // 2)
        self.prior = nn.Conv2d(hidden, 2 * latents, 1)
        self.see_label = Modulation(condition[0], hidden)
        self.posterior = nn.Conv2d(hidden, 2 * latents, 1)
        self.join = nn.Conv2d(latents, width, 1)
        self.block = ResidualBlock(width, condition[1], activation, kernel, depth)
        nn.init.zeros_(self.prior.weight)  # the prior starts as a standard normal
        nn.init.zeros_(self.prior.bias)  # type: ignore[arg-type]

    def evidence(self, image: Features, condition: Tensor) -> Features:
        """What the posterior needs of an image, once for all draws: `[B, hidden, H, W]`."""
        seen: Tensor = self.see_label(self.see(self.activation(image)), condition)
        return seen

    def forward(
        self,
        features: Features,
        condition: Tensor,
        given: Float[Tensor, "draws z h w"],
        evidence: Float[Tensor, "batch d h w"] | None,
    ) -> tuple[Features, Float[Tensor, "draws z h w"], Tensor, Tensor]:
        """One step down.

        Arguments:
            features: `[S * B, C, H, W]`.
            given: the posterior's noise, where there is evidence of an image; else the latents `u`.

        Returns:
            The new features, the latents `u`, and the posterior's mean and log scale in their
            coordinates (of a standard normal, where there is no evidence).
        """
        looked = self.look(self.activation(features))
        mean, log_scale = self.prior(looked).float().chunk(2, dim=1)
        if evidence is None:
            u = given
            shift = spread = torch.zeros_like(given)
        else:
            compared = (looked.unflatten(0, (-1, evidence.shape[0])) + evidence).flatten(0, 1)
            far, raw = self.posterior(self.activation(compared)).float().chunk(2, dim=1)
            shift, spread = reined(far, 8.0), bounded(raw, -6.0, 2.0)
            u = shift + spread.exp() * given
        z = mean + torch.exp(tamed(log_scale, 2.0)) * u
        return self.block(features + self.join(z), condition), u, shift, spread


class Ladder(nn.Module):
    """A hierarchical VAE; lists have an entry a level, from the top, which is 1x1, to the finest.

    The finest level has a position for every patch of the image, each level above it half as many a
    side, and the top a single one.

    Arguments:
        shape: `(C, H, W)` of the images.
        classes: number of labels, K.
        likelihood: written as in a recipe.
        embedding: width of the label's embeddings.
        label_reaches: "encoder" is the way up and the posteriors, "decoder" the way down with the
            priors; with neither, the model is unconditional.
        label_inference: a classifier to be `q(y|x)`; empty for none.

    Keyword arguments:
        groups: groups of latents.
        channels: channels of each group's latents.
        widths: channels of the features.
        blocks: residual blocks on the way up.
        hidden: channels that the posteriors compare image and features in; 0 for the features' width.
        patch: side of the patches that become the finest level; 1 works at full resolution.
        passage: channels that features pass through between the 1x1 level and the next.
        activation: relu, silu or gelu.
        style: latents of a group before all others that is how an image is drawn, whatever it shows: the
            first so many of stretch, lean, strokes, height, across and down. 0 for no such group.
        kept: groups of latents that a label swap keeps, from the top; the others are drawn from their
            priors, given these and the new label. 0 keeps all.
        fresh: temperature of those that it draws.
        recompute: keep no group's inner activations for the backward pass but compute them again, for
            a third more time (gradient checkpointing: Chen et al. 2016).

    Raises:
        UserError: lists of different lengths, or a number that makes no sense.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        likelihood: str,
        embedding: int,
        label_reaches: tuple[str, ...],
        label_inference: str = "",
        *,
        groups: tuple[int, ...] = (1, 1, 1),
        channels: tuple[int, ...] = (32, 4, 1),
        widths: tuple[int, ...] = (256, 64, 32),
        blocks: tuple[int, ...] = (0, 1, 1),
        hidden: int = 0,
        patch: int = 2,
        passage: int = 16,
        activation: str = "silu",
        style: int = 0,
        kept: int = 0,
        fresh: float = 1.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        _check(groups, channels, widths, blocks, patch)
        self.shape = shape
        self.classes = classes
        self.likelihood = LIKELIHOODS.build(likelihood, shape=shape)
        self.activation = activation_named(activation)
        number = sum(groups) + (style > 0)
        if not 0 <= kept <= number or fresh < 0:
            raise UserError(
                f"model 'ladder': kept must be within 0 and {number}, the number of groups, "
                "and fresh at least 0"
            )
        self.kept, self.fresh = kept or number, fresh
        self.recompute = recompute
        self.patch = patch
        condition = tuple(embedding if place in label_reaches else 0 for place in ("encoder", "decoder"))
        self.encoder_label, self.decoder_label = (LabelEmbedding(classes, w) for w in condition)
        self.uses_label = bool(label_reaches)
        self.label_inference = LabelInference(shape, classes, label_inference)

        # Sides of the levels, top first; images that don't divide are padded, and cropped at the end.
        scale = patch * 2 ** (len(groups) - 2)
        coarse = [-(-side // scale) for side in shape[1:]]
        sides = [(1, 1), *((coarse[0] * 2**k, coarse[1] * 2**k) for k in range(len(groups) - 1))]
        self.padding = (0, -shape[2] % scale, 0, -shape[1] % scale)
        self.group_shapes = tuple(
            (number, *side)
            for number, side, times in zip(channels, sides, groups, strict=True)
            for _ in range(times)
        )
        self.style = None
        if style:
            _check_style(style, shape, label_reaches)
            self.style = StyleGroup(shape, classes, style, condition[1])
            self.group_shapes = (self.style.shape, *self.group_shapes)
        self.latents = sum(map(math.prod, self.group_shapes))
        self.levels = tuple(level for level, times in enumerate(groups) for _ in range(times))
        kernels = [1] + [3] * (len(groups) - 1)

        # The way up.
        self.stem = nn.Conv2d(shape[0] * patch**2, widths[-1], 3, padding=1)
        self.up_blocks = nn.ModuleList(
            ResidualBlocks(
                ResidualBlock(width, condition[0], self.activation, kernel, sum(blocks))
                for _ in range(number)
            )
            for width, kernel, number in zip(widths, kernels, blocks, strict=True)
        )
        self.shrink = nn.ModuleList(
            nn.Conv2d(4 * fine, wide, 1) for wide, fine in itertools.pairwise(widths[1:])
        )
        self.narrow = nn.Conv2d(widths[1], passage, 1)
        self.flatten = nn.Linear(passage * math.prod(sides[1]), widths[0])

        # The way down.
        self.start = nn.Parameter(torch.zeros(widths[0]))
        self.start_label = Shift(condition[1], widths[0])
        self.groups = nn.ModuleList(
            Group(
                widths[level],
                channels[level],
                hidden or widths[level],
                (condition[0], condition[1]),
                self.activation,
                kernels[level],
                sum(groups),
            )
            for level in self.levels
        )
        self.unflatten = nn.Linear(widths[0], passage * math.prod(sides[1]))
        self.widen = nn.Conv2d(passage, widths[1], 1)
        self.grow = nn.ModuleList(
            Shuffled(wide, fine, 1, 2) for wide, fine in itertools.pairwise(widths[1:])
        )
        self.bottom = (passage, *sides[1])
        self.head = Shuffled(widths[-1], self.likelihood.planes, 3, patch)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    # ---------------------------------------------------------------------------- up, and down

    def up(self, observed: Images, y: Labels) -> list[Tensor]:
        """What every group's posterior needs of the images, top group first."""
        condition = self.encoder_label(y)
        image = self.likelihood.network_input(observed)
        x = F.pixel_unshuffle(F.pad(image, self.padding), self.patch)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        features = [self.up_blocks[-1](x, condition)]
        for shrink, blocks in zip(reversed(self.shrink), reversed(self.up_blocks[1:-1]), strict=True):
            smaller = shrink(F.pixel_unshuffle(features[-1], 2))
            features.append(blocks(smaller, condition))
        top = self.flatten(self.activation(self.narrow(features[-1])).flatten(1))[:, :, None, None]
        features.append(self.up_blocks[0](top, condition))
        features.reverse()
        evidence = [
            typing.cast(Group, group).evidence(features[level], condition)
            for group, level in zip(self.groups, self.levels, strict=True)
        ]
        return [self.style.evidence(image, y), *evidence] if self.style else evidence

    def down(
        self, given: Sequence[Tensor], y: Labels, evidence: Sequence[Tensor] | None = None
    ) -> tuple[ImageDistribution, list[tuple[Tensor, Tensor, Tensor]]]:
        """The way down, drawing from posteriors where there is evidence of images.

        Arguments:
            given: a tensor a group: the posterior's noise, or, without evidence, the latents `u`.
            y: labels `[S * B]`.

        Returns:
            The distribution over images; and for each group the latents, and the posterior's mean and
            log scale, all in the prior's coordinates.
        """
        condition = self.decoder_label(y)
        seen: Sequence[Tensor | None] = evidence or [None] * len(given)
        pairs = list(zip(given, seen, strict=True))
        drawn = []
        if self.style:
            told, *latents = self.style(*pairs.pop(0))
            condition = condition + told
            drawn.append(tuple(latents))
        x = self.start_label(self.start.expand(y.shape[0], -1), condition)[:, :, None, None]
        for index, (group, level) in enumerate(zip(self.groups, self.levels, strict=True)):
            if index and level != self.levels[index - 1]:
                x = self._finer(x, level)
            arguments = (x, condition, *pairs[index])
            if self.recompute and self.training:
                x, *latents = checkpoint(group, *arguments, use_reentrant=False)
            else:
                x, *latents = group(*arguments)
            drawn.append(tuple(latents))
        x = self.head(self.activation(x))
        distribution: ImageDistribution = self.likelihood(x[:, :, : self.shape[1], : self.shape[2]])
        return distribution, drawn

    def _finer(self, x: Features, level: int) -> Features:
        """Features of the level above as features of a level."""
        if level == 1:
            x = self.activation(self.unflatten(self.activation(x).flatten(1)))
            x = x.unflatten(1, self.bottom).contiguous(memory_format=torch.channels_last)
            widened: Tensor = self.widen(x)
            return widened
        finer: Tensor = self.grow[level - 2](x)
        return finer.contiguous(memory_format=torch.channels_last)

    # ------------------------------------------------------------------------------- the protocol

    def elbo(self, x: Images, y: Labels, noise: Float[Tensor, "batch z"] | None = None) -> Elbo:
        observed = self.likelihood.observe(x)
        if noise is None:
            noise = torch.randn(len(x), self.latents, device=x.device)
        images, drawn = self.down(grouped(noise, self.group_shapes), y, self.up(observed, y))
        kl = [kl_to_standard_normal(shift, spread).flatten(1).sum(1) for _, shift, spread in drawn]
        latents = tuple(u for u, _, _ in drawn)
        return Elbo(images.log_prob(observed), torch.stack(kl, 1), latents, images=images)

    def log_weights(
        self, x: Images, y: Labels, noise: Float[Tensor, "samples batch z"]
    ) -> Float[Tensor, "samples batch"]:
        observed = self.likelihood.observe(x)
        samples = len(noise)
        given = grouped(noise.flatten(0, 1), self.group_shapes)
        images, drawn = self.down(given, y.repeat(samples), self.up(observed, y))
        log_weights = images.log_prob(observed.repeat(samples, 1, 1, 1))
        for u, shift, spread in drawn:
            u = u.flatten(1)
            log_ratio = normal_log_prob(u) - normal_log_prob(u, shift.flatten(1), spread.flatten(1))
            log_weights = log_weights + log_ratio
        return log_weights.unflatten(0, (samples, -1))

    def encode(self, x: Images, y: Labels, sample: bool = False) -> Latents:
        evidence = self.up(self.likelihood.observe(x), y)
        shape = (x.shape[0], self.latents)
        noise = (torch.randn if sample else torch.zeros)(shape, device=x.device)
        _, drawn = self.down(grouped(noise, self.group_shapes), y, evidence)
        return tuple(u for u, _, _ in drawn)

    def decode(self, latents: Latents, y: Labels) -> ImageDistribution:
        return self.down(latents, y)[0]

    def transfer(
        self, latents: Latents, given: Labels, generator: torch.Generator | None = None
    ) -> Latents:
        if self.kept == len(latents):
            return latents
        return latents[: self.kept] + self.draw(given, self.fresh, generator)[self.kept :]

    def log_prior(self, latents: Latents, y: Labels) -> Float[Tensor, "batch"]:
        return torch.stack([normal_log_prob(u.flatten(1)) for u in latents]).sum(0)

    def draw(
        self,
        y: Labels,
        temperature: Temperature = 1.0,
        generator: torch.Generator | None = None,
    ) -> Latents:
        """Latents drawn from the prior, its noise times `temperature`.

        Groups of given latents may be put in place of drawn ones: `given[:3] + model.draw(y)[3:]` keeps
        the first three, and draws the rest from their prior given those.
        """
        noise = torch.randn(len(y), self.latents, generator=generator, device=y.device)
        each = for_each_group(temperature, len(self.group_shapes))
        return tuple(t * u for t, u in zip(each, grouped(noise, self.group_shapes), strict=True))

    def sample(
        self,
        y: Labels,
        temperature: Temperature = 1.0,
        generator: torch.Generator | None = None,
    ) -> Images:
        return self.decode(self.draw(y, temperature, generator), y).mean_image()

    def label_posterior(self, x: Images) -> Float[Tensor, "batch classes"] | None:
        return self.label_inference(self.likelihood.network_input(self.likelihood.observe(x)))

    def side_loss(self, x: Images, y: Labels) -> Float[Tensor, ""] | None:
        if self.style is None:
            return None
        found: Tensor = self.style.congealing(
            self.likelihood.network_input(self.likelihood.observe(x)), y
        )
        return found


def _check(
    groups: tuple[int, ...],
    channels: tuple[int, ...],
    widths: tuple[int, ...],
    blocks: tuple[int, ...],
    patch: int,
) -> None:
    lists = {"groups": groups, "channels": channels, "widths": widths, "blocks": blocks}
    for name, values in lists.items():
        if len(values) != len(groups):
            raise UserError(
                f"model 'ladder': {name} has {len(values)} levels and groups has {len(groups)}; give "
                "every list one entry a level, the 1x1 level first"
            )
        lowest = 0 if name in ("blocks", "groups") else 1
        if not all(isinstance(value, int) and value >= lowest for value in values):
            raise UserError(f"model 'ladder': {name} must be whole numbers of at least {lowest}")
    if len(groups) < 2 or sum(groups) < 1 or patch < 1:
        raise UserError("model 'ladder': give at least two levels, one group, and a patch of at least 1")


def _check_style(style: int, shape: tuple[int, int, int], label_reaches: tuple[str, ...]) -> None:
    if not 0 < style <= len(STYLES):
        raise UserError(f"model 'ladder': style must be within 0 to {len(STYLES)}, not {style}")
    if set(label_reaches) != {"encoder", "decoder"}:
        raise UserError("model 'ladder': style needs the label in the encoder and in the decoder")
    if min(shape[1:]) < 8:
        raise UserError("model 'ladder': style needs images of at least 8 pixels a side")
