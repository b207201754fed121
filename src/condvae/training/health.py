"""Whether a step's gradient is of use, and how often it wasn't."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

REMEMBERED = 0.98
"""Weight of what was usual before, in what is usual now."""


class Health:
    """Knows the usual norm of a gradient, and counts those that are beyond it or not finite.

    All of it is on the device, which is not waited for: it works some steps behind.

    Arguments:
        device: where gradients are.
    """

    def __init__(self, device: torch.device) -> None:
        self.usual_norm = torch.full((), math.nan, dtype=torch.float64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.in_a_row = torch.zeros((), dtype=torch.int64, device=device)

    def take(self, norm: Tensor, skip_above: float) -> Tensor:
        """Whether a gradient of this norm is of use: a boolean scalar.

        Arguments:
            skip_above: times the usual norm that are too much.
        """
        norm = norm.double()
        usable = norm.isfinite() & ~(norm > skip_above * self.usual_norm)
        usual = REMEMBERED * self.usual_norm + (1 - REMEMBERED) * norm
        usual = torch.where(self.usual_norm.isnan(), norm, usual)
        self.usual_norm.copy_(torch.where(usable, usual, self.usual_norm))
        self.skipped += ~usable
        self.in_a_row.add_(1).mul_(~usable)
        return usable

    def counters(self) -> dict[str, Any]:
        """All of it as numbers, for a checkpoint."""
        usual = float(self.usual_norm)
        return {
            "skipped": int(self.skipped),
            "skipped_in_a_row": int(self.in_a_row),
            "usual_norm": None if math.isnan(usual) else usual,
        }

    def restore(self, counters: Mapping[str, Any]) -> None:
        """What `counters` gave.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: it isn't that.
        """
        self.skipped.fill_(int(counters["skipped"]))
        self.in_a_row.fill_(int(counters["skipped_in_a_row"]))
        usual = counters["usual_norm"]
        self.usual_norm.fill_(math.nan if usual is None else float(usual))
