"""Annealing against a likelihood in closed form, and from both sides of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from linear_gaussian import K, LinearGaussian, images_of

from condvae.evaluation.annealing import Chains, annealed, sandwiched, schedule
from condvae.evaluation.bounds import bounds
from condvae.models.conditional_vae import ConditionalVAE
from condvae.models.protocol import flat, grouped


def test_the_schedule_rises_from_0_to_1_with_small_steps_at_both_ends() -> None:
    betas = schedule(100)
    steps = np.diff(betas)
    assert (betas[0], betas[-1]) == (0.0, 1.0) and (steps > 0).all()
    assert steps[0] == pytest.approx(steps[-1]) and steps[0] < 0.2 * steps[50]


def test_groups_of_latents_are_taken_apart_and_put_together() -> None:
    row = torch.randn(5, 2)
    groups = grouped(row, LinearGaussian(1.0).group_shapes)
    assert [group.shape for group in groups] == [(5, 1), (5, 1, 1)]
    assert torch.equal(flat(groups), row)


def test_annealing_converges_to_the_exact_likelihood_as_importance_weighting_does() -> None:
    model = LinearGaussian(2.0)
    x, y = images_of(model, 20)
    exact = model.exact(x, y).numpy()
    found = annealed(model, x, y, steps=200, chains=16)  # type: ignore[arg-type]
    weighted = bounds(model, x, y, samples=2000, every_label=False)  # type: ignore[arg-type]
    assert np.abs(found - exact).max() < 0.6
    assert found.mean() == pytest.approx(exact.mean(), abs=0.1)
    assert found.mean() == pytest.approx(weighted.log_likelihood.mean(), abs=0.1)


def test_few_steps_fall_short_of_many() -> None:
    model = LinearGaussian(1.0)
    x, y = images_of(model, 30)
    exact = float(model.exact(x, y).mean())
    short, long = (float(annealed(model, x, y, steps=s, chains=2).mean()) for s in (3, 100))  # type: ignore[arg-type]
    assert short < exact - 1 and short < long < exact + 0.2


def test_the_truth_lies_between_the_two_sides_and_they_close_in() -> None:
    model = LinearGaussian(1.0)
    y = torch.arange(40) % K
    gaps = []
    for steps in (10, 200):
        lower, upper = sandwiched(model, y, steps=steps)  # type: ignore[arg-type]
        gaps.append(float((upper - lower).mean()))
    assert gaps[0] > 3 * abs(gaps[1]) and -0.05 < gaps[1] < 0.1


def test_both_sides_hold_the_exact_likelihood_of_the_images_that_were_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from condvae.evaluation import annealing

    model = LinearGaussian(1.0)
    seen: list[torch.Tensor] = []
    real = annealing._estimate

    def watched(model: object, x: torch.Tensor, *rest: object) -> object:
        seen.append(x)
        return real(model, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(annealing, "_estimate", watched)
    y = torch.arange(40) % K
    lower, upper = sandwiched(model, y, steps=20, chains=4)  # type: ignore[arg-type]
    exact = model.exact(torch.cat(seen), y).numpy()
    assert lower.mean() < exact.mean() < upper.mean()


def test_an_image_is_annealed_alike_whatever_is_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from condvae.evaluation import annealing

    model = LinearGaussian(1.0)
    x, y = images_of(model, 7)
    whole = annealed(model, x, y, steps=30)  # type: ignore[arg-type]
    sides = sandwiched(model, y, steps=30)  # type: ignore[arg-type]
    monkeypatch.setattr(annealing, "IMAGES_AT_ONCE", 3)
    assert np.allclose(whole, annealed(model, x, y, steps=30), atol=1e-9)  # type: ignore[arg-type]
    again = sandwiched(model, y, steps=30)  # type: ignore[arg-type]
    assert all(np.allclose(a, b, atol=1e-9) for a, b in zip(sides, again, strict=True))


def test_transitions_leave_the_posterior_as_it_is() -> None:
    """Chains that start at the exact posterior keep its mean and covariance."""
    model = LinearGaussian(1.0)
    x, y = images_of(model, 1)
    chains = Chains(model, x, y, [0], 4000, seed=3)  # type: ignore[arg-type]
    noise = torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean = model.posterior_mean(x, y)
    state = chains.at(mean + noise @ model.cholesky.T)
    for _ in range(10):
        state, acceptance = chains.step(state, 1.0, torch.tensor([0.25]))
    assert 0.5 < float(acceptance) < 0.999
    assert torch.allclose(state.latents.mean(0), mean[0], atol=0.02)
    assert torch.allclose(state.latents.T.cov(), model.covariance, atol=0.01)


def test_a_real_model_is_annealed_to_its_importance_weighted_bound() -> None:
    torch.manual_seed(0)
    model = ConditionalVAE((1, 6, 6), 3, network="mlp(widths=[16])", latents=3, embedding=4)
    torch.nn.init.normal_(model.network.decoder_rest[-1].weight, std=1.0)  # type: ignore[index,union-attr]
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(8) % 3
    x = model.decode(model.draw(y, 1.0, generator), y).sample_image(generator)
    weighted = bounds(model, x, y, samples=5000, every_label=False)
    found = annealed(model, x, y, steps=150)
    assert math.isfinite(found.sum())
    assert found.mean() == pytest.approx(weighted.log_likelihood.mean(), abs=0.15)
