"""Small convolutional classifiers of different architectures: judges of labels, and their features.

All take images of -1 to 1 to class logits, and show by `features` what their last layer decides by.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from condvae.models.networks import ResidualBlock
from condvae.registry import Registry

Shape = tuple[int, int, int]


class Classifier(nn.Module):
    """What all of them have in common: features, and a linear layer from these to the logits."""

    head: nn.Linear

    def features(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch f"]:
        """What the last layer decides by."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.head(self.features(x))
        return logits


def _conv(a: int, b: int, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel, padding=kernel // 2, groups=groups, bias=False)


def _halvings(shape: Shape, most: int) -> int:
    """How often images of half the size can be halved until their shorter side is 4 or so."""
    return max(0, min(most, int(math.log2(max(1, min(shape[1:])) / 8))))


def _padded(x: Float[Tensor, "batch c h w"], side: int) -> Float[Tensor, "batch c h2 w2"]:
    """Images whose sides divide by `side`: the edges of others are repeated."""
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % side, 0, -height % side), mode="replicate")


def _patches(x: Float[Tensor, "batch c h w"], side: int) -> Float[Tensor, "batch d h2 w2"]:
    """Patches as channels."""
    return F.pixel_unshuffle(_padded(x, side), side).contiguous(memory_format=torch.channels_last)


# -------------------------------------------------------------------------------------------- residual


class ResidualPair(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.first_norm = _conv(channels, channels), nn.BatchNorm2d(channels)
        self.second, self.second_norm = _conv(channels, channels), nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        branch = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(branch)))


class Residual(Classifier):
    """A residual pair a resolution, from half resolution down; what is strongest anywhere decides.

    Arguments:
        shape: `(C, H, W)` of the images.
        classes: number of classes.

    Keyword arguments:
        width: channels at half resolution; they double with every further halving.
    """

    def __init__(self, shape: Shape, classes: int, *, width: int = 16) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(_halvings(shape, 3) + 1)]
        self.stem, self.stem_norm = _conv(4 * shape[0], width), nn.BatchNorm2d(width)
        self.pairs = nn.ModuleList(ResidualPair(channels) for channels in widths)
        self.widen = nn.ModuleList(_conv(a, b) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.head = nn.Linear(widths[-1], classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch f"]:
        x = self.pairs[0](F.relu(self.stem_norm(self.stem(_patches(x, 2)))))
        for widen, norm, pair in zip(self.widen, self.norms, self.pairs[1:], strict=True):
            x = pair(F.relu(norm(widen(F.max_pool2d(x, 2)))))
        return x.amax((2, 3))


# ----------------------------------------------------------------------------------------------- plain


class Plain(Classifier):
    """Convolutions in a row without shortcuts (Simonyan and Zisserman 2015); averages decide.

    Its first layer sees 6x6 pixels at once, and every second convolution is followed by a halving.

    Arguments:
        shape, classes: as in `Residual`.

    Keyword arguments:
        width: as in `Residual`.
    """

    def __init__(self, shape: Shape, classes: int, *, width: int = 16) -> None:
        super().__init__()
        halvings = _halvings(shape, 2)
        widths = [width * 2**level for level in range(halvings + 1)]
        self.stem = nn.Conv2d(shape[0], width, 6, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        pairs = [(width, width), *itertools.pairwise(widths)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                _conv(a, b), nn.BatchNorm2d(b), nn.GELU(), _conv(b, b), nn.BatchNorm2d(b), nn.GELU()
            )
            for a, b in pairs
        )
        self.last = nn.Linear(widths[-1] * 4, 8 * width)
        self.head = nn.Linear(8 * width, classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch f"]:
        x = _padded(x, 2).contiguous(memory_format=torch.channels_last)
        x = F.gelu(self.stem_norm(self.stem(x)))
        for index, stage in enumerate(self.stages):
            x = stage(F.avg_pool2d(x, 2) if index else x)
        return F.gelu(self.last(F.adaptive_avg_pool2d(x, 2).flatten(1)))


# ----------------------------------------------------------------------------------------------- mixer


class Mix(nn.Module):
    """Layers over places and then over channels, each with a shortcut (Tolstikhin et al. 2021)."""

    def __init__(self, places: int, channels: int) -> None:
        super().__init__()
        self.place_norm, self.channel_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.places = nn.Sequential(
            nn.Linear(places, 2 * places), nn.GELU(), nn.Linear(2 * places, places)
        )
        self.channels = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, x: Float[Tensor, "batch p c"]) -> Float[Tensor, "batch p c"]:
        x = x + self.places(self.place_norm(x).mT).mT
        return x + self.channels(self.channel_norm(x))


class Mixer(Classifier):
    """No convolution at all: patches, about eight a side, whose places and channels are mixed in turn.

    Arguments:
        shape, classes: as in `Residual`.

    Keyword arguments:
        width: a quarter of its channels.
    """

    depth = 4

    def __init__(self, shape: Shape, classes: int, *, width: int = 16) -> None:
        super().__init__()
        self.side = max(1, round(min(shape[1:]) / 8))
        places = math.prod(-(-side // self.side) for side in shape[1:])
        channels = 4 * width
        self.stem = nn.Linear(shape[0] * self.side**2, channels)
        self.mixes = nn.ModuleList(Mix(places, channels) for _ in range(self.depth))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)

    def features(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch f"]:
        x = self.stem(_patches(x, self.side).flatten(2).mT)
        for mix in self.mixes:
            x = mix(x)
        return self.norm(x.mean(1))


# ---------------------------------------------------------------------------------------- unnormalised


class Unnormalised(Classifier):
    """Residual blocks without normalisation: what it says of an image depends on no other.

    So it may be held, with its weights as constants, in the middle of a training.

    Arguments:
        shape, classes: as in `Residual`.

    Keyword arguments:
        width: as in `Residual`.
    """

    def __init__(self, shape: Shape, classes: int, *, width: int = 32) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(_halvings(shape, 2) + 1)]
        self.stem = nn.Conv2d(4 * shape[0], width, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, 0, nn.SiLU(), depth=len(widths)) for channels in widths
        )
        self.widen = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch f"]:
        nothing = x.new_zeros(len(x), 0)
        x = self.blocks[0](self.stem(_patches(x, 2)), nothing)
        for widen, block in zip(self.widen, self.blocks[1:], strict=True):
            x = block(widen(F.silu(x)), nothing)
        return F.silu(x).mean((2, 3))


CLASSIFIERS = Registry[Classifier](
    "classifier", {"residual": Residual, "plain": Plain, "mixer": Mixer, "unnormalised": Unnormalised}
)
