"""Divergences against Monte Carlo, posteriors that can't break, priors that move with the label."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from condvae.errors import UserError
from condvae.probability.divergences import kl_between_normals, kl_to_standard_normal
from condvae.probability.posteriors import (
    POSTERIORS,
    DiagonalGaussian,
    FullCovariance,
    Normal,
    Posterior,
    normal_log_prob,
)
from condvae.probability.priors import PRIORS, Prior
from condvae.probability.ranges import reined


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


def test_what_runs_away_is_reined_in_and_can_come_back() -> None:
    raw = torch.tensor([-1e6, -8.5, -8.0, -1.0, 0.0, 3.0, 8.0, 8.5, 1e6], requires_grad=True)
    out = reined(raw, 8.0)
    assert torch.equal(out[2:7], raw[2:7]) and (out.diff() > 0).all()
    assert float(out[-1].detach()) < 22 and torch.equal(out, -reined(-raw, 8.0))
    out.sum().backward()
    assert raw.grad is not None and (raw.grad > 0).all()
    assert torch.allclose(raw.grad[[1, 7]], torch.full((2,), 1 / 1.5))


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


# ----------------------------------------------------------------------------------------- priors


LEARNED = [
    "mixture(components=3)",
    "mixture(components=3, conditional=False)",
    "vamp(components=3)",
    "vamp(components=3, conditional=False)",
    "autoregressive-flow(steps=2, hidden=8)",
    "autoregressive-flow(steps=2, hidden=8, conditional=False)",
    "coupling-flow(steps=2, hidden=8)",
    "coupling-flow(steps=2, hidden=8, conditional=False)",
]
FLOWS = [spec for spec in LEARNED if "flow" in spec]


def an_encoder(images: Tensor, y: Tensor) -> Normal:
    """Stands for a model's: a posterior that depends on image and label."""
    features = images.flatten(1)
    return Normal(2 * features[:, :2] + 0.5 * y[:, None], features[:, 2:])


def a_prior(spec: str, latents: int = 2) -> Prior:
    """A prior over latents of three classes, away from where it starts."""
    torch.manual_seed(0)
    prior = PRIORS.build(spec, latents=latents, classes=3, shape=(1, 2, 2), infer=an_encoder)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return prior.requires_grad_(False)


def grid() -> tuple[Tensor, float]:
    """Points of a square grid over the plane, and the area of each."""
    side = torch.linspace(-14, 14, 561)
    return torch.cartesian_prod(side, side), float(side[1] - side[0]) ** 2


@pytest.mark.parametrize("spec", LEARNED)
@pytest.mark.parametrize("label", [0, 2])
def test_a_prior_is_a_density_and_its_draws_follow_it(spec: str, label: int) -> None:
    """The density integrates to 1; draws have its mean, its second moments and its entropy."""
    prior = a_prior(spec)
    v, area = grid()
    log_prob = prior.log_prob(v, torch.full((len(v),), label))
    weight = log_prob.double().exp() * area
    assert float(weight.sum()) == pytest.approx(1, abs=2e-3)

    y = torch.full((60_000,), label)
    drawn = prior.settle(prior.draw(y, 1.0, torch.Generator().manual_seed(1)), y)
    entropy = float((weight * log_prob).sum())
    assert float(prior.log_prob(drawn, y).mean()) == pytest.approx(entropy, abs=0.03)
    mean, square = weight @ v.double(), weight @ v.double().square()
    assert torch.allclose(drawn.double().mean(0), mean, atol=0.04)
    assert torch.allclose(drawn.double().square().mean(0), square, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("spec", LEARNED)
def test_a_prior_without_the_label_is_the_same_under_every_label(spec: str) -> None:
    prior = a_prior(spec)
    v = torch.randn(20, 2)
    zero, one = torch.zeros(20, dtype=torch.long), torch.ones(20, dtype=torch.long)
    sees = "conditional=False" not in spec
    assert prior.uses_label == sees
    assert torch.allclose(prior.log_prob(v, zero), prior.log_prob(v, one)) != sees
    for there in (prior.place, prior.carry):
        if not torch.equal(there(v, zero), v):
            assert torch.allclose(there(v, zero), there(v, one)) != sees


@pytest.mark.parametrize("spec", ["standard-normal", "conditional", *LEARNED])
def test_settle_takes_back_what_carry_carries(spec: str) -> None:
    prior = a_prior(spec)
    v, y = torch.randn(5, 6, 2), torch.randint(3, (6,)).expand(5, -1)
    u = prior.carry(v, y)
    assert torch.allclose(prior.settle(u, y), v, atol=1e-4)
    assert torch.equal(u, v) == (spec not in FLOWS)
    assert prior.log_prob(v, y).shape == prior.carried_log_prob(u, y).shape == (5, 6)
    one_by_one = torch.stack([prior.log_prob(v[:, i], y[:, i]) for i in range(6)], 1)
    assert torch.allclose(prior.log_prob(v, y), one_by_one, atol=1e-5)


@pytest.mark.parametrize("spec", FLOWS)
def test_what_a_flow_prior_carries_is_standard_normal(spec: str) -> None:
    """Whatever the label: by the change of variables, and by the moments under its own density."""
    prior = a_prior(spec)
    v, area = grid()
    for label in range(3):
        y = torch.full((len(v),), label)
        u = prior.carry(v, y)
        weight = prior.log_prob(v, y).double().exp() * area
        assert torch.allclose(weight @ u.double(), torch.zeros(2).double(), atol=0.01)
        covariance = (weight[:, None] * u.double()).T @ u.double()
        assert torch.allclose(covariance, torch.eye(2).double(), atol=0.02)
        assert torch.allclose(prior.carried_log_prob(u, y), normal_log_prob(u))


def test_a_mixture_puts_classes_in_different_places() -> None:
    placed = a_prior("mixture").place(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert not torch.allclose(placed[0], placed[1])
    assert not a_prior("mixture(conditional=False)").place(torch.zeros(2, 2), torch.tensor([0, 1])).any()


def test_vamp_is_the_mean_of_its_pseudo_images_posteriors() -> None:
    prior = a_prior("vamp(components=3)")
    v, y = torch.randn(4, 2), torch.tensor([2, 0, 2, 2])
    images = torch.tanh(prior.pseudo_images)
    for i, label in enumerate(y):
        each = [an_encoder(images[label, k][None], label[None]).log_prob(v[i]) for k in range(3)]
        expected = torch.cat(each).logsumexp(0) - math.log(3)
        assert torch.allclose(prior.log_prob(v, y)[i], expected, atol=1e-5)


@pytest.mark.parametrize("spec", ["standard-normal", "mixture(components=1, conditional=False)"])
def test_temperature_scales_the_noise_alone(spec: str) -> None:
    prior = a_prior(spec)
    y = torch.zeros(4, dtype=torch.long)
    cold = prior.draw(y, 0.0, None)
    assert torch.equal(cold, cold[:1].expand(4, -1))
    many = torch.zeros(20_000, dtype=torch.long)
    full, half = (prior.draw(many, t, torch.Generator().manual_seed(0)) for t in (1.0, 0.5))
    assert torch.allclose(half - cold[0], 0.5 * (full - cold[0]), atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mixture(components=0)", "at least 1 component"),
        ("vamp(components=-1)", "at least 1 component"),
        ("autoregressive-flow(steps=0)", "at least 1 step"),
        ("coupling-flow(conditional=1)", "not of type bool"),
        ("conditional(conditional=False)", "no option"),
    ],
)
def test_an_impossible_prior_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        a_prior(spec)


# ------------------------------------------------------------------------------------- posteriors


FAMILIES = [
    "diagonal-gaussian",
    "full-covariance",
    "inverse-autoregressive-flow(steps=2, hidden=8, context=3)",
    "coupling-flow(steps=2, hidden=8, context=3)",
]


def a_family(spec: str, latents: int = 3) -> Posterior:
    """A family of posteriors whose flow, if it has one, is no longer the identity."""
    torch.manual_seed(0)
    family = POSTERIORS.build(spec, latents=latents)
    for parameter in family.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return family


@pytest.mark.parametrize("spec", FAMILIES)
def test_a_draw_comes_with_its_density(spec: str) -> None:
    """That of the change of variables from the noise, and that of `log_prob`."""
    family = a_family(spec)
    posterior = family(torch.randn(4, family.parameters_needed))
    noise = torch.randn(5, 4, 3)
    z, log_prob = posterior.draw(noise)
    assert z.shape == (5, 4, 3) and log_prob.shape == (5, 4) and posterior.centre.shape == (4, 3)
    assert torch.allclose(posterior.log_prob(z), log_prob, atol=1e-4)
    assert not torch.allclose(posterior.log_prob(z + 0.1), log_prob, atol=1e-2)
    one = family(torch.randn(family.parameters_needed))
    jacobian = torch.autograd.functional.jacobian(lambda point: one.draw(point)[0], noise[0, 0])
    expected = normal_log_prob(noise[0, 0]) - torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(one.draw(noise[0, 0])[1], expected, atol=1e-4)


@pytest.mark.parametrize("spec", FAMILIES)
def test_the_encoder_reaches_all_of_a_posterior(spec: str) -> None:
    """Every number it gives changes the draw, and those of one image change no other's."""
    family = a_family(spec)
    parameters = torch.randn(4, family.parameters_needed, requires_grad=True)
    z, _ = family(parameters).draw(torch.randn(4, 3))
    (gradient,) = torch.autograd.grad(z[1].square().sum(), parameters)
    assert (gradient[1] != 0).all() and not gradient[[0, 2, 3]].any()


@pytest.mark.parametrize("spec", FAMILIES)
def test_a_held_posterior_is_the_same_and_has_a_gradient_only_through_the_latents(spec: str) -> None:
    family = a_family(spec)
    parameters = torch.randn(4, family.parameters_needed, requires_grad=True)
    posterior = family(parameters)
    z = posterior.draw(torch.randn(2, 4, 3))[0].detach().requires_grad_()
    free, held = posterior.log_prob(z), posterior.held().log_prob(z)
    assert torch.equal(free, held)
    everything = [z, parameters, *family.parameters()]
    expected, *_ = torch.autograd.grad(free.sum(), everything)
    found, *others = torch.autograd.grad(held.sum(), everything, allow_unused=True)
    assert torch.allclose(found, expected, atol=1e-6) and found.any()
    assert all(gradient is None for gradient in others)
    assert all(parameter.requires_grad for parameter in family.parameters())


@pytest.mark.parametrize("spec", FAMILIES)
def test_some_of_a_batch_of_posteriors(spec: str) -> None:
    family = a_family(spec)
    posterior = family(torch.randn(4, family.parameters_needed))
    index = torch.tensor([[3, 0], [1, 3], [2, 2]])
    z = torch.randn(3, 1, 3)
    found = posterior.select(index).log_prob(z)
    assert found.shape == (3, 2)
    expected = posterior.log_prob(z[:, 0, None].expand(3, 4, 3)).gather(1, index)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("spec", FAMILIES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_nothing_an_encoder_says_breaks_a_posterior(spec: str, size: float) -> None:
    family = a_family(spec, latents=16)
    for sign in (torch.ones(2, family.parameters_needed), torch.randn(2, family.parameters_needed)):
        parameters = (size * sign).requires_grad_()
        posterior = family(parameters)
        z, log_prob = posterior.draw(torch.randn(2, 16))
        closed = posterior.kl_to_standard_normal()
        for value in (z, log_prob, posterior.log_prob(z.detach()), posterior.centre, closed):
            if value is not None:
                assert torch.isfinite(value).all()
                (gradient,) = torch.autograd.grad(value.sum(), parameters, retain_graph=True)
                assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("spec", FAMILIES)
def test_autocast_leaves_a_posterior_in_float32(spec: str) -> None:
    family = a_family(spec)
    parameters, noise = torch.randn(4, family.parameters_needed), torch.randn(4, 3)
    plain = family(parameters).draw(noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = family(parameters).draw(noise)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_full_covariance_is_torchs_multivariate_normal() -> None:
    posterior = FullCovariance(4)(torch.randn(5, 14))
    peer = torch.distributions.MultivariateNormal(posterior.mean, scale_tril=posterior.factor)
    z = torch.randn(7, 5, 4)
    assert torch.allclose(posterior.log_prob(z), peer.log_prob(z), rtol=1e-4, atol=1e-3)
    standard = torch.distributions.MultivariateNormal(torch.zeros(4), torch.eye(4))
    expected = torch.distributions.kl_divergence(peer, standard.expand((5,)))
    found = posterior.kl_to_standard_normal()
    assert torch.allclose(found, expected, rtol=1e-4)
    drawn, log_prob = posterior.draw(torch.randn(200_000, 5, 4))
    estimate = (log_prob - normal_log_prob(drawn)).mean(0)
    assert torch.allclose(found, estimate, rtol=0.02, atol=0.02)
    assert torch.allclose(drawn[:, 0].T.cov(), peer.covariance_matrix[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("spec", FAMILIES)
@pytest.mark.parametrize("prior", ["standard-normal", "conditional"])
def test_kl_to_a_standard_normal_is_closed_where_it_can_be(spec: str, prior: str) -> None:
    """And in any case its mean over draws is that of log q - log p."""
    family = a_family(spec)
    posterior = family(torch.randn(1, family.parameters_needed).expand(50_000, -1))
    v, log_prob = posterior.draw(torch.randn(50_000, 3))
    kl = a_prior(prior, latents=3).kl(posterior, v, log_prob, torch.zeros(50_000, dtype=torch.long))
    closed = "flow" not in spec
    assert bool((kl.detach().std() < 1e-4).item()) == closed
    expected = (log_prob - normal_log_prob(v)).mean()
    assert torch.allclose(kl.mean(), expected, rtol=0.02, atol=0.02)


def test_only_gaussians_are_amortised_in_full() -> None:
    assert [a_family(spec).amortised for spec in FAMILIES] == [True, True, False, False]
    with pytest.raises(UserError, match="context"):
        POSTERIORS.build("coupling-flow(context=0)", latents=3)
