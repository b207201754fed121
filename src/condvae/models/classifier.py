"""A small convolutional classifier: the judge of labels."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ResidualPair(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        branch = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(branch)))


class Classifier(nn.Module):
    """Images of -1 to 1 to class logits: a residual pair a resolution, from half resolution down.

    Arguments:
        shape: `(C, H, W)` of the images.
        classes: number of classes.
        width: channels at half resolution; they double with every further halving, to 4 pixels or so.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 16) -> None:
        super().__init__()
        channels, height, columns = shape
        halvings = max(0, min(3, int(math.log2(max(1, min(height, columns)) / 8))))
        widths = [width * 2**level for level in range(halvings + 1)]
        self.padding = (0, columns % 2, 0, height % 2)
        self.stem = nn.Conv2d(4 * channels, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.pairs = nn.ModuleList(ResidualPair(channels) for channels in widths)
        self.widen = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.head = nn.Linear(widths[-1], classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch f"]:
        """What the last layer decides by."""
        patches = F.pixel_unshuffle(F.pad(x, self.padding, mode="replicate"), 2)
        patches = patches.contiguous(memory_format=torch.channels_last)
        x = self.pairs[0](F.relu(self.stem_norm(self.stem(patches))))
        for widen, norm, pair in zip(self.widen, self.norms, self.pairs[1:], strict=True):
            x = pair(F.relu(norm(widen(F.max_pool2d(x, 2)))))
        return x.amax((2, 3))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.head(self.features(x))
        return logits
