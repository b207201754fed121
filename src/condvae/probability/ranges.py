"""Ways of keeping what a network gives within a range, smoothly: log scales above all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def bounded(raw: Float[Tensor, "*shape"], lowest: float, highest: float) -> Float[Tensor, "*shape"]:
    """`raw`, kept smoothly between two bounds: the identity far from both of them.

    A softplus from above and another from below, so that no step can push a log scale out of range,
    while its gradient never dies at once, as it would with a hard clamp.
    """
    return lowest + F.softplus(highest - F.softplus(highest - raw) - lowest)


def tamed(raw: Float[Tensor, "*shape"], reach: float) -> Float[Tensor, "*shape"]:
    """`raw`, kept smoothly within `-reach` to `reach`: the identity near 0."""
    return reach * torch.tanh(raw / reach)


def reined(raw: Float[Tensor, "*shape"], reach: float) -> Float[Tensor, "*shape"]:
    """`raw` itself within `-reach` to `reach`, and beyond that growing as its logarithm does.

    Unlike a bound, it never saturates: what has run away is called back by its gradient.
    """
    beyond = (raw.abs() - reach).clamp(min=0)
    return raw.clamp(-reach, reach) + raw.sign() * torch.log1p(beyond)
