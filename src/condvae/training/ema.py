"""An average of the weights whose horizon grows with the run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condvae.training.sharding import divided, own, whole


class WeightAverage:
    """Power-law average (Karras et al. 2024, section 3.1): its width is a share of the steps so far.

    A fixed decay of 0.999 remembers the first steps of a short run and forgets too fast in a long
    one; here step `t` enters with `1 - (1 - 1/t)^(gamma + 1)`, so that the average always covers
    about the last `width` of the run, whatever its length.

    Arguments:
        model: the module whose parameters and floating-point buffers are averaged.
        width: relative standard deviation of the average's window; 0 keeps the newest weights.
    """

    def __init__(self, model: nn.Module, width: float) -> None:
        self.gamma = gamma_of_width(width) if width > 0 else None
        self.live = dict(model.state_dict(keep_vars=False))
        kept = self.gamma is None
        self.average = {name: t if kept else t.clone() for name, t in self.live.items()}

    def share(self, step: int) -> float:
        """The weight with which step number `step` (from 1) enters."""
        return 1.0 if self.gamma is None else 1 - (1 - 1 / step) ** (self.gamma + 1)

    @torch.no_grad()
    def update(self, share: float | Tensor) -> None:
        """Take in the weights as they are now, with the weight that `share` gives for this step."""
        if self.gamma is None:
            return
        floats = [name for name, tensor in self.live.items() if tensor.is_floating_point()]
        average = [own(self.average[name]) for name in floats]
        away = torch._foreach_sub([own(self.live[name]) for name in floats], average)
        torch._foreach_mul_(away, share)
        torch._foreach_add_(average, away)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights (integer buffers as they are now), put together where they are shared."""
        return {
            name: whole(tensor) if tensor.is_floating_point() else self.live[name]
            for name, tensor in self.average.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over averaged weights."""
        for name, tensor in self.average.items():
            tensor.copy_(divided(state[name], tensor))


def gamma_of_width(width: float) -> float:
    """The exponent whose window has this relative standard deviation (Karras et al. 2024, section 3.1).

    `width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))`, solved by bisection.
    """
    low, high = 0.0, 1e6
    for _ in range(100):
        gamma = (low + high) / 2
        wider = (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) > width**2
        low, high = (gamma, high) if wider else (low, gamma)
    return low
