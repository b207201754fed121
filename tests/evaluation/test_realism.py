"""Distances between sets of features, against closed forms and by hand."""

from __future__ import annotations

import pytest
import torch

from condvae.evaluation.realism import (
    auroc,
    frechet_distance,
    kernel_distance,
    nearest_distance,
    nearness_rank,
)


def draws(number: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(number, size, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_of_shifted_and_scaled_gaussians() -> None:
    a = draws(4000, 5, 0)
    scale = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    b = a * scale + torch.tensor([1.0, 0, 0, -2.0, 0])
    spread = torch.cov(a.T).diagonal()
    # a's covariance is nearly the identity, so the roots nearly commute.
    expected = (b.mean(0) - a.mean(0)).square().sum() + (spread * (scale - 1).square()).sum()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_fewer_points_than_features() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, 40, generator=generator)
    dead = torch.zeros(6, 24)
    wide = [torch.cat([points, dead], 1) for points in (a, b)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a[:1], b[:1]) == pytest.approx(float((a[0] - b[0]).square().sum()))
    turned, _ = torch.linalg.qr(torch.randn(40, 40, generator=generator))
    assert frechet_distance(a @ turned, b @ turned) == pytest.approx(frechet_distance(a, b), rel=1e-4)


def test_kernel_distance_is_that_of_all_pairs_and_nought_between_equals() -> None:
    a, b = draws(6, 3, 0), draws(5, 3, 1)

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((torch.dot(x, y) / 3 + 1) ** 3)

    within = [
        sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j)
        / (len(s) * (len(s) - 1))
        for s in (a, b)
    ]
    across = sum(k(x, y) for x in a for y in b) / 30
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across, rel=1e-5)
    same = [kernel_distance(draws(200, 4, s), draws(200, 4, s + 100)) for s in range(30)]
    assert abs(sum(same) / 30) < 0.02 < kernel_distance(draws(200, 4, 0), draws(200, 4, 1) + 1)


def test_nearest_distance_leaves_a_point_out_of_its_own_neighbours() -> None:
    a = torch.tensor([[0.0], [1.0], [5.0]])
    assert nearest_distance(a, a).tolist() == [0, 0, 0]
    assert nearest_distance(a, a, apart=True).tolist() == [1, 1, 4]


def test_nearness_rank_is_nought_for_the_own_input_and_half_by_chance() -> None:
    inputs = draws(1500, 4, 0)
    assert nearness_rank(inputs + 0.001, inputs).max() == 0
    chance = nearness_rank(draws(1500, 4, 1), inputs)
    assert chance.mean().item() == pytest.approx(0.5, abs=0.03)
    assert (chance <= 0.2).float().mean().item() == pytest.approx(0.2, abs=0.04)
    constant = nearness_rank(torch.zeros(7, 2), torch.ones(7, 2))
    assert constant.tolist() == pytest.approx([0.5] * 7)


def test_auroc() -> None:
    assert auroc(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])) == 1
    assert auroc(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0])) == pytest.approx(0.625)
