"""Invertible maps of latents whose Jacobian determinants cost next to nothing.

A map `x -> y` of latents `[*batch, z]` may depend on a context `[*batch, c]` (a label, or numbers from
an encoder), and gives `log |det dy/dx|` in nats with its result. The density of `y` is that of `x`
less that number, and a composition adds the numbers up.

Every map starts as the identity, and none can blow up: log scales lie within `-REACH` to `REACH`, and
hidden units are tanh, so that shifts and scales are bounded functions of the latents, however far out
these may be.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from condvae.errors import UserError
from condvae.probability.ranges import tamed

REACH = 2.0
"""Bound of a step's log scale."""

Latents = Float[Tensor, "*batch z"]
Context = Float[Tensor, "*batch c"]
LogDet = Float[Tensor, "*batch"]
Mask = Bool[Tensor, "outputs inputs"]


class Flow(nn.Module, ABC):
    """An invertible map of latents.

    The context may lack leading dimensions of the latents (those of samples, say).
    """

    @abstractmethod
    def forward(self, x: Latents, context: Context | None = None) -> tuple[Latents, LogDet]:
        """`y` and `log |det dy/dx|`."""

    @abstractmethod
    def inverse(self, y: Latents, context: Context | None = None) -> tuple[Latents, LogDet]:
        """`x` and `log |det dx/dy|`."""


# ---------------------------------------------------------------------------------------- conditioner


class MaskedLinear(nn.Linear):
    """A linear layer some of whose weights are held at zero."""

    mask: Tensor

    def __init__(self, mask: Mask) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


def autoregressive_masks(latents: int, hidden: int) -> list[Mask]:
    """Masks of MADE (Germain et al. 2015, section 4.2) for two hidden layers.

    A hidden unit of degree d sees the first d latents; degrees spread evenly over 0 to z - 1. What is
    put out for latent i, a shift and a log scale, sees hidden units of degree i at most: latents
    before the i-th, and never the i-th itself.
    """
    order = torch.arange(latents)
    degrees = torch.arange(hidden) * latents // hidden
    return [
        order < degrees[:, None],
        degrees <= degrees[:, None],
        (degrees <= order[:, None]).repeat(2, 1),
    ]


class Conditioner(nn.Module):
    """A small network from latents and context to a shift and a bounded log scale.

    The context is added, linearly, to every layer. The last layer starts at zero, hence the map as the
    identity. Products are in float32 under autocast too: an inverse has to undo them exactly.

    Arguments:
        masks: a mask a layer; the last has two outputs for every latent that is moved.
        context: numbers in the context; 0 for none.
    """

    def __init__(self, masks: Sequence[Mask], context: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in masks)
        self.contexts = nn.ModuleList(
            nn.Linear(context, len(mask), bias=False) for mask in masks if context
        )
        for last in (self.layers[-1], *self.contexts[-1:]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, x: Float[Tensor, "*batch inputs"], context: Context | None
    ) -> tuple[Float[Tensor, "*batch moved"], Float[Tensor, "*batch moved"]]:
        with torch.autocast(x.device.type, enabled=False):
            added = [layer(context) for layer in self.contexts] or [0.0] * len(self.layers)
            out = self.layers[0](x) + added[0]
            for layer, more in zip(self.layers[1:], added[1:], strict=True):
                out = layer(torch.tanh(out)) + more
        shift, raw = out.chunk(2, dim=-1)
        return shift, tamed(raw, REACH)


# ----------------------------------------------------------------------------------------------- steps


class Autoregressive(Flow):
    """`y_i = x_i exp(s_i) + m_i`, where `m_i` and `s_i` depend on `x` before i, and on the context.

    From `x` to `y` in one pass, and back in as many passes as there are latents. Draws are quick where
    noise is `x` (inverse autoregressive flow: Kingma et al. 2016, section 4, with a bounded log scale
    in the place of its gate); densities are where noise is `y` (masked autoregressive flow: Papamakarios
    et al. 2017, section 3.1).

    Arguments:
        latents: z.
        context: numbers in the context.
        hidden: units of each of the two hidden layers.
    """

    def __init__(self, latents: int, context: int, hidden: int) -> None:
        super().__init__()
        self.conditioner = Conditioner(autoregressive_masks(latents, hidden), context)

    def forward(self, x: Latents, context: Context | None = None) -> tuple[Latents, LogDet]:
        shift, log_scale = self.conditioner(x, context)
        return x * log_scale.exp() + shift, log_scale.sum(-1)

    def inverse(self, y: Latents, context: Context | None = None) -> tuple[Latents, LogDet]:
        """One more latent is right after every pass, because it hangs only on those before it."""
        x = torch.zeros_like(y)
        for _ in range(y.shape[-1]):
            shift, log_scale = self.conditioner(x, context)
            x = (y - shift) * torch.exp(-log_scale)
        return x, -log_scale.sum(-1)


class Coupling(Flow):
    """The first half stays; the second is scaled and shifted by what the first and the context say.

    An affine coupling layer (RealNVP: Dinh et al. 2017, section 3.2): one pass either way.

    Arguments:
        latents, context, hidden: as in `Autoregressive`.
    """

    def __init__(self, latents: int, context: int, hidden: int) -> None:
        super().__init__()
        if latents < 2:
            raise UserError("a coupling flow needs at least 2 latents: one half of them moves the other")
        self.kept = latents // 2
        widths = [self.kept, hidden, hidden, 2 * (latents - self.kept)]
        masks = [torch.ones(b, a, dtype=torch.bool) for a, b in itertools.pairwise(widths)]
        self.conditioner = Conditioner(masks, context)

    def forward(self, x: Latents, context: Context | None = None) -> tuple[Latents, LogDet]:
        kept, moved = x[..., : self.kept], x[..., self.kept :]
        shift, log_scale = self.conditioner(kept, context)
        return torch.cat([kept, moved * log_scale.exp() + shift], -1), log_scale.sum(-1)

    def inverse(self, y: Latents, context: Context | None = None) -> tuple[Latents, LogDet]:
        kept, moved = y[..., : self.kept], y[..., self.kept :]
        shift, log_scale = self.conditioner(kept, context)
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], -1), -log_scale.sum(-1)


# ----------------------------------------------------------------------------------------- composition


class Reversed(Flow):
    """A flow that sees the latents in reverse order, and puts them back."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Latents, context: Context | None = None) -> tuple[Latents, LogDet]:
        y, log_det = self.flow(x.flip(-1), context)
        return y.flip(-1), log_det

    def inverse(self, y: Latents, context: Context | None = None) -> tuple[Latents, LogDet]:
        x, log_det = self.flow.inverse(y.flip(-1), context)
        return x.flip(-1), log_det


class Composition(Flow):
    """Flows one after another."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)

    def forward(self, x: Latents, context: Context | None = None) -> tuple[Latents, LogDet]:
        total = torch.zeros_like(x[..., 0])
        for flow in self.flows:
            x, log_det = flow(x, context)
            total = total + log_det
        return x, total

    def inverse(self, y: Latents, context: Context | None = None) -> tuple[Latents, LogDet]:
        total = torch.zeros_like(y[..., 0])
        for flow in reversed(self.flows):
            y, log_det = flow.inverse(y, context)  # type: ignore[operator]
            total = total + log_det
        return y, total


def alternating(
    step: type[Autoregressive] | type[Coupling], latents: int, context: int, steps: int, hidden: int
) -> Composition:
    """Steps of one kind, every second one in reverse order, so that each latent gets to see the others.

    Raises:
        UserError: there is no step, or no hidden unit.
    """
    if steps < 1 or hidden < 1:
        raise UserError("a flow needs at least 1 step and at least 1 hidden unit")
    each = [step(latents, context, hidden) for _ in range(steps)]
    return Composition([Reversed(flow) if i % 2 else flow for i, flow in enumerate(each)])
