"""Optimisers by name, and which parameters each of them treats how."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from condvae.config import TrainingConfig
from condvae.errors import UserError
from condvae.training.sharding import divided, own, put_together

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al. 2024)."""
SMALLEST = 16
"""Matrices with fewer rows or columns than this are left to AdamW."""


class Muon(torch.optim.AdamW):
    """Orthogonalised momentum for the matrices of a network, AdamW for all other parameters.

    A matrix's momentum is replaced by about the nearest matrix whose singular values are all 1, found
    by five Newton-Schulz steps (Jordan et al. 2024), and scaled so that its elements are about as large
    as those of AdamW's updates usually are (Liu et al. 2025, equation 4): one learning rate serves both.
    A kernel `[out, in, h, w]` counts as the matrix `[out, in * h * w]`.

    Groups of parameters say by `orthogonal` which of the two they get, and by `bf16` whether the steps
    are taken in bfloat16, whose rounding they don't mind.
    """

    momentum = 0.95

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both kinds."""
        for group in self.param_groups:
            if group["orthogonal"]:
                self._step_matrices(group)
        return super().step(closure)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        usable = 1 - getattr(self, "found_inf", torch.zeros(()))
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for parameters in by_shape.values():
            ahead = torch.stack(self._ahead(parameters, usable)).flatten(2)
            updates = orthogonalised(ahead.bfloat16() if group["bf16"] else ahead)
            rate = group["lr"] * 0.2 * math.sqrt(max(ahead.shape[1:])) * usable
            updates = (updates.to(ahead.dtype) * rate).unflatten(2, parameters[0].shape[1:])
            weights = [own(parameter) for parameter in parameters]
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"] * usable)
            torch._foreach_sub_(
                weights, [own(divided(update, p)) for update, p in zip(updates, parameters, strict=True)]
            )

    def _ahead(self, parameters: list[nn.Parameter], usable: Tensor) -> list[Tensor]:
        """Move the momenta of parameters of one shape, and look ahead (Nesterov 1983); takes their
        gradients, so that AdamW leaves these parameters alone."""
        gradients = [typing.cast(Tensor, parameter.grad) for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["momentum"] = torch.zeros_like(gradient)
            state["step"] += usable
            parameter.grad = None
        states = [self.state[parameter] for parameter in parameters]
        kept = [own(state["momentum"]) for state in states]
        momenta = torch.stack(kept)
        # A gradient of no use is taken for what was expected, which leaves the momentum as it is.
        new = torch.where(usable > 0, torch.stack([own(gradient) for gradient in gradients]), momenta)
        momenta = momenta.lerp(new, 1 - self.momentum)
        torch._foreach_copy_(kept, list(momenta.unbind()))
        ahead = new.lerp(momenta, self.momentum)
        return [put_together(a, gradient) for a, gradient in zip(ahead, gradients, strict=True)]


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices `[n, a, b]` with about the given ones' singular vectors, and singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def clipped(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Cut the gradient to a norm of `limit`, if that is above 0; its norm before (L2, all of them)."""
    if limit > 0:
        return nn.utils.clip_grad_norm_(parameters, limit)
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def step_if(usable: Tensor, optimiser: torch.optim.Optimizer) -> None:
    """One step, unless the gradient is of no use; the device decides, and isn't waited for.

    Arguments:
        usable: a boolean scalar on the parameters' device.
    """
    if optimiser.defaults.get("fused"):
        optimiser.found_inf = (~usable).float()  # type: ignore[attr-defined]
        optimiser.step()
    elif usable:
        optimiser.step()


OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "muon": Muon,
    "adamax": torch.optim.Adamax,
    "adam": torch.optim.Adam,
}


def build_optimiser(
    settings: TrainingConfig, module: nn.Module, precision: str
) -> torch.optim.Optimizer:
    """The optimiser by name; weight decay only on matrices and kernels, never on biases and scales.

    Raises:
        UserError: there is no optimiser of that name.
    """
    name = settings.optimiser
    if name not in OPTIMISERS:
        raise UserError(f"--training.optimiser {name}: unknown (there are: {', '.join(OPTIMISERS)})")
    options: dict[str, Any] = {"lr": settings.learning_rate, "betas": (settings.beta1, settings.beta2)}
    options |= {"foreach": True} if name == "adamax" else {"fused": True}
    options["capturable"] = next(module.parameters()).device.type == "cuda"  # for steps that are graphs
    decay = settings.weight_decay if name in ("adamw", "muon") else 0.0
    matrices = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if name == "muon":
        hidden = _hidden_matrices(module)
        rest = [p for p in matrices if all(p is not matrix for matrix in hidden)]
        groups[0]["params"] = rest
        groups = [group | {"orthogonal": False, "bf16": False} for group in groups if group["params"]]
        if hidden:
            bf16 = precision == "bf16"
            kind = {"orthogonal": True, "bf16": bf16, "weight_decay": decay}
            groups.append({"params": hidden} | kind)
    return OPTIMISERS[name](groups, **options)


def _hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights of layers that lead from features to features: no embeddings, nor anything narrow."""
    layers = (part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d))
    weights = (typing.cast(nn.Parameter, layer.weight) for layer in layers)
    return [weight for weight in weights if min(len(weight), weight.numel() // len(weight)) >= SMALLEST]
