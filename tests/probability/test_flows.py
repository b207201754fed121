"""Flows are inverted by their inverses, and their determinants are those of their Jacobians."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.functional import jacobian

from condvae.errors import UserError
from condvae.probability.flows import (
    REACH,
    Autoregressive,
    Composition,
    Coupling,
    Flow,
    Reversed,
    alternating,
)

STEPS = {"autoregressive": Autoregressive, "coupling": Coupling}


def shaken(flow: Flow, std: float = 0.5) -> Flow:
    """The flow in float64, away from the identity that it starts as."""
    torch.manual_seed(0)
    for parameter in flow.double().parameters():
        torch.nn.init.normal_(parameter, std=std)
    return flow


def jacobian_of(flow: Flow, x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    return jacobian(lambda point: flow(point, context)[0], x)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("latents", [2, 5])
def test_a_flow_and_its_inverse(name: str, context: int, latents: int) -> None:
    flow = shaken(alternating(STEPS[name], latents, context, steps=3, hidden=7))
    x = torch.randn(4, 6, latents).double()
    given = torch.randn(6, context).double() if context else None  # the same for all samples
    y, log_det = flow(x, given)
    back, log_det_back = flow.inverse(y, given)
    assert not torch.allclose(x, y, atol=0.1)
    assert torch.allclose(back, x, atol=1e-8)
    assert log_det.shape == (4, 6) and torch.allclose(log_det_back, -log_det, atol=1e-8)
    own = given[5] if given is not None else None
    found = torch.linalg.slogdet(jacobian_of(flow, x[3, 5], own)).logabsdet
    assert float(log_det[3, 5].detach()) == pytest.approx(float(found), abs=1e-8)


@pytest.mark.parametrize("name", STEPS)
def test_a_flow_starts_as_the_identity_but_hears_its_context_at_once(name: str) -> None:
    flow = alternating(STEPS[name], 4, 3, steps=4, hidden=8)
    x, context = torch.randn(5, 4), torch.randn(5, 3, requires_grad=True)
    y, log_det = flow(x, context)
    assert torch.equal(y, x) and not log_det.any()
    y.square().sum().backward()
    for step in flow.flows:
        conditioner = getattr(step, "flow", step).conditioner
        assert conditioner.contexts[-1].weight.grad.any()
    y, _ = shaken(flow)(x.double(), context.double())
    other, _ = flow(x.double(), context.double() + 1)
    assert ((y - other).abs() > 1e-3).any(-1).all()


@pytest.mark.parametrize("hidden", [3, 6, 20])
def test_an_autoregressive_step_sees_what_comes_before_and_all_of_it(hidden: int) -> None:
    step = shaken(Autoregressive(6, 2, hidden))
    x, context = torch.randn(6).double(), torch.randn(2).double()
    there = jacobian_of(step, x, context)
    assert not there.triu(1).any()
    assert (there.diagonal() > 0).all()
    assert not torch.equal(there.diagonal()[0], there.diagonal().new_ones(()))  # the context's doing
    if hidden >= 6:
        below = torch.tril_indices(6, 6, -1)
        assert (there[below[0], below[1]] != 0).all()
    flipped = jacobian_of(Reversed(step), x, context)
    assert not flipped.tril(-1).any() and flipped.triu(1).any()
    both = jacobian_of(Composition([step, Reversed(step)]), x, context)
    assert both.triu(1).any() and both.tril(-1).any()


def test_a_coupling_step_keeps_one_half() -> None:
    step = shaken(Coupling(5, 0, 8))
    x = torch.randn(5).double()
    y, _ = step(x)
    assert torch.equal(y[:2], x[:2]) and (y[2:] != x[2:]).all()
    there = jacobian_of(step, x, None)
    assert (there[2:, :2] != 0).all()
    assert torch.equal(there[2:, 2:], there[2:, 2:].diagonal().diag())


@pytest.mark.parametrize("name", STEPS)
def test_no_weights_latents_or_context_blow_a_flow_up(name: str) -> None:
    flow = alternating(STEPS[name], 6, 3, steps=4, hidden=8)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=10)
    x = (1e4 * torch.randn(50, 6)).requires_grad_()
    context = (1e4 * torch.randn(50, 3)).requires_grad_()
    for way in (flow.forward, flow.inverse):
        y, log_det = way(x, context)
        assert torch.isfinite(y).all() and (log_det.abs() <= 4 * 6 * REACH).all()
        assert log_det.abs().max() > REACH  # at the bounds indeed
        gradients = torch.autograd.grad(y.sum() + log_det.sum(), [x, context, *flow.parameters()])
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_autocast_leaves_a_flow_in_float32() -> None:
    flow = alternating(Autoregressive, 6, 3, steps=2, hidden=8)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter)
    x, context = torch.randn(50, 6), torch.randn(50, 3)
    plain = flow(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = flow(x, context)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_an_impossible_flow_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2 latents"):
        alternating(Coupling, 1, 0, steps=1, hidden=4)
    for steps, hidden in ((0, 4), (1, 0)):
        with pytest.raises(UserError, match="at least 1"):
            alternating(Coupling, 4, 0, steps=steps, hidden=hidden)


def test_one_latent_is_enough_for_an_autoregressive_step() -> None:
    step = shaken(Autoregressive(1, 2, 4))
    x, context = torch.randn(7, 1).double(), torch.randn(7, 2).double()
    y, _ = step(x, context)
    assert torch.allclose(step.inverse(y, context)[0], x) and not torch.allclose(y, x)
