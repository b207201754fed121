"""The aggregate posterior's divergences, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions, nn

from condvae.objectives import OBJECTIVES
from condvae.objectives.aggregate import DipVae, FactorVae, decomposition, mmd
from condvae.probability.posteriors import Normal

Batch = tuple[Tensor, Tensor]


def posteriors(number: int = 7, latents: int = 3) -> tuple[Tensor, Normal]:
    torch.manual_seed(0)
    posterior = Normal(torch.randn(number, latents), 0.3 * torch.randn(number, latents) - 0.5)
    return posterior.draw(torch.randn(number, latents))[0], posterior


# ----------------------------------------------------------------------------------- total correlation


def test_over_all_images_the_aggregate_posterior_is_the_mixture_of_their_posteriors() -> None:
    v, posterior = posteriors()
    single = distributions.Normal(posterior.mean.T, posterior.log_scale.T.exp())
    alike = distributions.Categorical(torch.ones(7))
    joint = distributions.MixtureSameFamily(
        alike, distributions.Independent(distributions.Normal(posterior.mean, single.scale.T), 1)
    ).log_prob(v)
    each = distributions.MixtureSameFamily(distributions.Categorical(torch.ones(3, 7)), single)
    product = each.log_prob(v).sum(1)
    prior = distributions.Normal(0.0, 1.0).log_prob(v).sum(1)
    mi, tc, dw = decomposition(v, posterior, images=7)
    assert torch.allclose(mi, (posterior.log_prob(v) - joint).mean(), atol=1e-5)
    assert torch.allclose(tc, (joint - product).mean(), atol=1e-5)
    assert torch.allclose(dw, (product - prior).mean(), atol=1e-5)


@pytest.mark.parametrize("images", [7, 50, 10_000])
def test_the_three_terms_sum_to_the_kl_by_the_draw(images: int) -> None:
    v, posterior = posteriors()
    kl = (posterior.log_prob(v) - Normal(torch.zeros(3), torch.zeros(3)).log_prob(v)).mean()
    assert torch.allclose(sum(decomposition(v, posterior, images), torch.zeros(())), kl, atol=1e-4)


def test_the_aggregate_density_is_estimated_without_bias() -> None:
    """Over all batches that hold an image, its estimated `q(v)` is on average the true one."""
    v, posterior = posteriors(number=6, latents=2)
    truth = torch.logsumexp(Normal(posterior.mean, posterior.log_scale).log_prob(v[:1]), 0).exp() / 6
    estimates = []
    for batch in torch.combinations(torch.arange(1, 6), 3):
        index = torch.cat([torch.zeros(1, dtype=torch.long), batch])
        mine = Normal(posterior.mean[index], posterior.log_scale[index])
        shares = torch.tensor([1 / 6, *[5 / 18] * 3])
        estimates.append((shares * mine.log_prob(v[:1]).exp()).sum())
        mean = decomposition(v[index], mine, images=6)[0]
        draws = mine.log_prob(v[index][:, None]).exp()  # draw i under posterior j
        weights = torch.full((4, 4), 5 / 18).fill_diagonal_(1 / 6)
        expected = mine.log_prob(v[index]) - (weights * draws).sum(1).log()
        assert torch.allclose(mean, expected.mean(), atol=1e-5)
    assert torch.stack(estimates).mean() == pytest.approx(float(truth), rel=1e-5)


def test_independent_dimensions_have_no_total_correlation_and_copies_have_much() -> None:
    torch.manual_seed(0)
    log_scale = torch.full((600, 2), math.log(0.5))
    apart = Normal(math.sqrt(0.75) * torch.randn(600, 2), log_scale)
    copied = Normal(apart.mean[:, :1].expand(-1, 2), log_scale)
    truth = -0.5 * math.log(1 - 0.75**2)  # of two Gaussians whose correlation is 0.75
    for posterior, expected in ((apart, 0.0), (copied, truth)):
        v = posterior.draw(torch.randn(600, 2))[0]
        _, tc, dw = decomposition(v, posterior, images=600)
        assert tc == pytest.approx(expected, abs=0.1) and dw == pytest.approx(0, abs=0.1)


def test_with_all_weights_one_it_is_the_elbo(flat_model: nn.Module, batch: Batch) -> None:
    losses = []
    for spec in ("elbo", "total-correlation(alpha=1, beta=1, gamma=1)"):
        torch.manual_seed(0)
        losses.append(
            OBJECTIVES.build(spec, model=flat_model, images=100)(flat_model, *batch, 1.0).value
        )
    assert torch.equal(*losses)


def test_a_batch_of_one_image_is_no_trouble() -> None:
    v, posterior = posteriors(number=1)
    assert all(torch.isfinite(term) for term in decomposition(v, posterior, images=1))
    assert all(torch.isfinite(term) for term in decomposition(v, posterior, images=9))


# --------------------------------------------------------------------------------------- discriminator


def test_each_part_of_factor_reaches_its_own_parameters(flat_model: nn.Module, batch: Batch) -> None:
    objective = FactorVae(flat_model, gamma=3.0, width=8, layers=2)  # type: ignore[arg-type]
    own, models = list(objective.discriminator.parameters()), list(flat_model.parameters())
    torch.manual_seed(0)
    gradients = torch.autograd.grad(objective(flat_model, *batch, 1.0).value, own + models)

    torch.manual_seed(0)
    elbo = flat_model.elbo(*batch)  # type: ignore[operator]
    v = elbo.latents[0]
    alone = torch.autograd.grad(objective.discriminator_loss(v.detach()), own)
    objective.requires_grad_(False)
    value = -elbo.value.mean() + 3.0 * objective.discriminator(v).mean()
    expected = (*alone, *torch.autograd.grad(value, models))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients, expected, strict=True))


def test_a_discriminator_learns_the_total_correlation(toy: nn.Module) -> None:
    torch.manual_seed(0)
    objective = FactorVae(toy, width=32, layers=2)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.01)
    mix = torch.tensor([[1.0, 0.8], [0.0, 0.6]])  # unit variances, correlation 0.8
    for _ in range(400):
        loss = objective.discriminator_loss(torch.randn(256, 2) @ mix)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        tc = float(objective.discriminator(torch.randn(4000, 2) @ mix).mean())
    assert tc == pytest.approx(-0.5 * math.log(1 - 0.64), abs=0.12)
    assert float(loss.detach()) < math.log(2)


# ------------------------------------------------------------------------------------- moments, kernels


@pytest.mark.parametrize(("variant", "variance"), [("I", 0.0), ("II", 0.25)])
def test_dip_penalises_what_covariances_differ_by(
    variant: str, variance: float, flat_model: nn.Module
) -> None:
    options = {"variant": variant, "off_diagonal": 3.0, "diagonal": 2.0}
    objective = DipVae(flat_model, **options)  # type: ignore[arg-type]
    mean = torch.tensor([[1.0, 2.0], [3.0, 2.0], [1.0, 4.0], [3.0, 8.0]])
    log_scale = torch.full((4, 2), math.log(0.5))  # variances 0.25
    # The means' covariance: variances 1 and 6, covariance 1.
    expected = 3 * (1 + 1) + 2 * ((1 + variance - 1) ** 2 + (6 + variance - 1) ** 2)
    assert objective.penalty(Normal(mean, log_scale)) == pytest.approx(expected)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_mmd_is_nothing_between_like_samples_and_grows_with_a_shift(kernel: str) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 40, 200, 3)
    like = torch.stack([mmd(x, y, kernel) for x, y in zip(a, b, strict=True)])
    assert abs(like.mean()) < 4 * like.std() / math.sqrt(40), "unbiased"
    shifted = [float(mmd(a[0], b[0] + shift, kernel)) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert shifted == sorted(shifted) and shifted[-1] > 0.2
    assert mmd(a[0, :1], b[0, :1], kernel) == 0


def test_mmd_of_two_gaussians_in_closed_form() -> None:
    """`E exp(-|a-b|^2 / C) = (1 + 4/C)^(-d/2) exp(-|shift|^2 / (C + 4))` for unit normals."""
    torch.manual_seed(0)
    d, shift, c = 2, torch.tensor([1.0, -0.5]), 4.0
    truth = 2 * (1 + 4 / c) ** (-d / 2) * (1 - math.exp(-1.25 / (c + 4)))
    found = [float(mmd(torch.randn(300, d), torch.randn(300, d) + shift, "rbf")) for _ in range(40)]
    assert sum(found) / 40 == pytest.approx(truth, abs=0.01)


def test_mmd_has_a_gradient_where_points_coincide() -> None:
    a = torch.zeros(4, 2, requires_grad=True)
    mmd(a, torch.ones(4, 2)).backward()
    assert a.grad is not None and torch.isfinite(a.grad).all() and (a.grad < 0).all()


def test_info_spans_the_elbo_and_the_mmd_vae(flat_model: nn.Module, batch: Batch) -> None:
    def value(spec: str) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(0)
        loss = OBJECTIVES.build(spec, model=flat_model, images=100)(flat_model, *batch, 1.0)
        return loss.value, loss.metrics

    assert torch.allclose(value("info(alpha=0, weight=1)")[0], value("elbo")[0])
    total, told = value("info(alpha=1, weight=50)")
    assert torch.allclose(total, 50 * told["mmd"] - told["log_likelihood"])
    half, told = value("info(alpha=0.5, weight=10)")
    assert torch.allclose(half, 0.5 * told["kl"] + 9.5 * told["mmd"] - told["log_likelihood"])
