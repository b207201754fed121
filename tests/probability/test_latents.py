"""Divergences against Monte Carlo, posteriors that can't break, priors that move with the label."""

from __future__ import annotations

import pytest
import torch

from condvae.probability.divergences import kl_between_normals, kl_to_standard_normal
from condvae.probability.posteriors import DiagonalGaussian, Normal, normal_log_prob
from condvae.probability.priors import PRIORS


def test_kl_against_monte_carlo() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_scale = torch.tensor([0.7, -1.2, 0.0]), torch.tensor([0.3, -0.9, 0.0])
    other = torch.tensor([-0.5, 0.4, 1.0]), torch.tensor([-0.2, 0.6, 0.1])
    posterior = Normal(mean, log_scale)
    z, _ = posterior.draw(torch.randn(400_000, 3, generator=generator))
    for closed, log_prior in (
        (kl_to_standard_normal(mean, log_scale).sum(), normal_log_prob(z)),
        (kl_between_normals(mean, log_scale, *other).sum(), normal_log_prob(z, *other)),
    ):
        estimate = (posterior.log_prob(z) - log_prior).mean()
        assert float(closed) == pytest.approx(float(estimate), abs=0.02)


def test_kl_vanishes_only_at_the_prior() -> None:
    zero = torch.zeros(5)
    assert float(kl_to_standard_normal(zero, zero).sum()) == 0
    assert (kl_to_standard_normal(zero + 0.1, zero) > 0).all()
    assert (kl_to_standard_normal(zero, zero - 0.1) > 0).all()


def test_log_prob_is_that_of_torch() -> None:
    mean, log_scale, z = torch.randn(3, 4, 5).unbind(0)
    expected = torch.distributions.Normal(mean, log_scale.exp()).log_prob(z).sum(-1)
    assert torch.allclose(normal_log_prob(z, mean, log_scale), expected, atol=1e-4)


def test_posterior_scale_is_bounded_and_keeps_a_gradient() -> None:
    raw = torch.tensor([-1e4, -20.0, -1.0, 0.0, 1.0, 1e4]).reshape(-1, 1)
    raw.requires_grad_()
    posterior = DiagonalGaussian(1)(torch.cat([torch.zeros_like(raw), raw], 1))
    assert (posterior.log_scale >= -6).all() and (posterior.log_scale <= 2.01).all()
    assert torch.isfinite(posterior.log_scale).all()
    posterior.log_scale[1:5].sum().backward()
    assert (raw.grad is not None) and (raw.grad[1:5] > 0).all()


@pytest.mark.parametrize("name", ["standard-normal", "conditional"])
def test_prior_coordinates_are_standard_normal_under_every_label(name: str) -> None:
    """KL and log-density in the prior's coordinates equal those of z itself (change of variables)."""
    torch.manual_seed(0)
    prior = PRIORS.build(name, latents=3, classes=4)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter)
    y = torch.tensor([0, 1, 2, 3])
    posterior = Normal(torch.randn(4, 3), 0.3 * torch.randn(4, 3))
    with torch.no_grad():
        origin = prior.place(torch.zeros(4, 3), y)
        scale = prior.place(torch.ones(4, 3), y) - origin
        in_z = kl_between_normals(
            origin + scale * posterior.mean, posterior.log_scale + scale.log(), origin, scale.log()
        ).sum(-1)
        found = prior.kl(posterior, posterior.mean, posterior.log_prob(posterior.mean), y)
    assert torch.allclose(found, in_z, atol=1e-4)


def test_conditional_prior_puts_classes_in_different_places() -> None:
    prior = PRIORS.build("conditional", latents=3, classes=2)
    u = torch.zeros(2, 3)
    placed = prior.place(u, torch.tensor([0, 1]))
    assert not torch.allclose(placed[0], placed[1])
