"""A model so small that `p(x)` of every image there is can be summed up: no estimate may be above it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from condvae.evaluation.annealing import annealed
from condvae.evaluation.bounds import bounds
from condvae.models.conditional_vae import ConditionalVAE

SHAPE, CLASSES = (1, 2, 3), 2


@pytest.fixture(scope="module")
def model() -> ConditionalVAE:
    """Untrained, with one latent, a decoder that heeds it, and a poor encoder."""
    torch.manual_seed(2)
    model = ConditionalVAE(SHAPE, CLASSES, network="mlp(widths=[16])", latents=1, embedding=4)
    for part in (model.network.decoder_in, model.network.decoder_rest[-1]):
        torch.nn.init.normal_(part.weight, std=1.5)  # type: ignore[arg-type]
    torch.nn.init.normal_(model.decoder_label.table.weight)  # type: ignore[union-attr]
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def every() -> tuple[Tensor, Tensor]:
    """Every image under every label."""
    values = torch.tensor(list(itertools.product((0, 255), repeat=math.prod(SHAPE))), dtype=torch.uint8)
    images = values.reshape(-1, *SHAPE)
    return images.repeat(CLASSES, 1, 1, 1), torch.arange(CLASSES).repeat_interleave(len(images))


@pytest.fixture(scope="module")
def exact(model: ConditionalVAE, every: tuple[Tensor, Tensor]) -> np.ndarray:
    """`log p(x|y)`, the latent integrated away by the trapezium rule: `[classes, images]`."""
    grid = torch.linspace(-8, 8, 2001)
    found = []
    for image, label in zip(*every, strict=True):
        y = label.expand(len(grid))
        joint = model.decode((grid[:, None],), y).log_prob(image.expand(len(grid), *SHAPE))
        joint = (joint + model.log_prior((grid[:, None],), y)).double()
        found.append(torch.logsumexp(joint, 0) + math.log(16 / 2000))
    return torch.stack(found).reshape(CLASSES, -1).numpy()


def test_probabilities_of_all_images_sum_to_one(exact: np.ndarray) -> None:
    assert np.exp(exact).sum(1) == pytest.approx(1, abs=1e-5)
    assert exact.max() - exact.min() > 3, "some images are much likelier than others"


def test_bounds_converge_to_brute_force_for_a_label_and_for_the_sum_over_labels(
    model: ConditionalVAE, every: tuple[Tensor, Tensor], exact: np.ndarray
) -> None:
    found = bounds(model, *every, samples=4000)
    marginal = np.logaddexp.reduce(exact, 0) - math.log(CLASSES)
    for estimate, truth in ((found.log_likelihood, exact), (found.marginal, marginal)):
        difference = np.abs(estimate.reshape(exact.shape) - truth)
        assert difference.mean() < 0.05 and difference.max() < 0.3
    assert np.exp(found.marginal.reshape(exact.shape)).sum(1) == pytest.approx(1, abs=0.03)
    assert found.elbo.mean() < exact.mean() - 0.05, "or nothing was tried"


def test_a_kl_in_closed_form_inside_the_log_would_be_seen(
    model: ConditionalVAE, every: tuple[Tensor, Tensor], exact: np.ndarray
) -> None:
    """`log mean_s p(x|z_s,y) - KL` converges to something else than `log p(x|y)`."""
    x, y = every
    noise = torch.randn(4000, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, len(y), -1)
    posterior = model.infer(x, y)
    z, log_q = posterior.draw(noise)
    kl = model.prior.kl(posterior, z[0], log_q[0], y)
    log_likelihood = model.log_weights(x, y, noise) - model.prior.log_prob(z, y) + log_q
    wrong = torch.logsumexp(log_likelihood, 0) - math.log(4000) - kl
    assert np.abs(wrong.numpy() - exact.flatten()).mean() > 0.1


def test_annealing_converges_to_brute_force(
    model: ConditionalVAE, every: tuple[Tensor, Tensor], exact: np.ndarray
) -> None:
    some = slice(0, None, 7)
    found = annealed(model, every[0][some], every[1][some], steps=100, chains=16)
    assert np.allclose(found, exact.flatten()[some], atol=0.25)
    assert found.mean() == pytest.approx(exact.flatten()[some].mean(), abs=0.05)
