"""How a label enters a network: as an embedding, added to or modulating the features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class LabelEmbedding(nn.Module):
    """A learned vector a class; of width 0 where the label is not to reach the network."""

    guidance = 0.0
    """How far the vector is pushed away from the mean of all classes' vectors; see `guided`."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(classes, width) if width else None

    def forward(self, y: Int[Tensor, "batch"]) -> Float[Tensor, "batch width"]:
        if self.table is None:
            return torch.zeros(*y.shape, 0, device=y.device)
        embedded: Tensor = self.table(y)
        if self.guidance:
            embedded = embedded + self.guidance * (embedded - self.table.weight.mean(0))
        return embedded


@contextmanager
def guided(model: nn.Module, weight: float) -> Iterator[None]:
    """Exaggerate labels for a while: each embedding `e` is `e + weight * (e - mean)`.

    What classifier-free guidance (Ho and Salimans 2022) does to a network's output is done to its input
    here, so it needs neither training with labels left out nor a second pass. 0 changes nothing.
    """
    tables = [part for part in model.modules() if isinstance(part, LabelEmbedding)]
    for table in tables:
        table.guidance = weight
    try:
        yield
    finally:
        for table in tables:
            table.guidance = 0.0


class Shift(nn.Module):
    """Adds a linear map of the condition to features `[B, C]` (nothing, for a condition of width 0)."""

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition, channels) if condition else None

    def forward(
        self, features: Float[Tensor, "batch c"], condition: Float[Tensor, "batch e"]
    ) -> Float[Tensor, "batch c"]:
        return features if self.linear is None else features + self.linear(condition)


class Modulation(nn.Module):
    """Scales and shifts each channel by the condition (FiLM: Perez et al. 2018)."""

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition, 2 * channels) if condition else None

    def forward(
        self, features: Float[Tensor, "batch c h w"], condition: Float[Tensor, "batch e"]
    ) -> Float[Tensor, "batch c h w"]:
        if self.linear is None:
            return features
        scale, shift = self.linear(condition)[:, :, None, None].chunk(2, dim=1)
        modulated: Tensor = torch.addcmul(shift, features, 1 + scale)
        return modulated
