"""Bounds of images with and without labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from condvae.errors import UserError
from condvae.models.conditional_vae import ConditionalVAE
from condvae.objectives import OBJECTIVES, takes_unlabelled
from condvae.objectives.semi_supervised import SemiSupervised, agreement, altered


@pytest.fixture
def model() -> ConditionalVAE:
    torch.manual_seed(0)
    return ConditionalVAE(
        (1, 4, 4),
        3,
        network="mlp(widths=[12])",
        likelihood="discretised-logistic",
        latents=3,
        embedding=4,
        label_inference="unnormalised(width=4)",
    )


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    x = torch.randint(
        0, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return x, torch.tensor([0, 2, -1, -1, 1, -1])


def exact(model: ConditionalVAE, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `elbo` be without chance: the posterior's centre instead of a draw."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)


def test_the_bound_is_that_of_its_definition(
    model: ConditionalVAE, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact(model, batch, monkeypatch)
    objective = SemiSupervised(model, alpha=0, consistency=0, labels=3)
    found = objective(model, *batch, 1.0).value
    x, y = batch
    q = model.label_posterior(x)
    assert q is not None
    each = torch.stack([model.elbo(x, torch.full_like(y, k)).value for k in range(3)], 1) - math.log(3)
    unknown = (q * (each - q.log())).sum(1)
    known = each.gather(1, y.clamp(min=0)[:, None])[:, 0]
    assert found.item() == pytest.approx(-torch.where(y >= 0, known, unknown).mean().item(), rel=1e-5)


def test_fewer_labels_give_a_lower_bound(
    model: ConditionalVAE, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of log p(x), which summing over all labels gives where `q` is as good as it can be."""
    exact(model, batch, monkeypatch)
    x, _ = batch
    each = torch.stack([model.elbo(x, torch.full((6,), k)).value for k in range(3)], 1) - math.log(3)
    best = torch.logsumexp(each, 1).mean()
    for labels in (1, 2, 3):
        objective = SemiSupervised(model, alpha=0, consistency=0, labels=labels)
        assert -objective(model, x, torch.full((6,), -1), 1.0).value <= best + 1e-4


def test_labelled_and_unlabelled_images_train_all_parts(
    model: ConditionalVAE, batch: tuple[Tensor, Tensor]
) -> None:
    objective = OBJECTIVES.build("semi-supervised(threshold=0.1)", model=model, images=100)
    loss = objective(model, *batch, 0.5)
    loss.value.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    sides = loss.metrics["log_likelihood"] - loss.metrics["kl"]
    assert torch.allclose(loss.metrics["elbo"], sides) and loss.metrics["believed"] == 0.5


def test_agreement_leaves_out_what_has_no_label() -> None:
    q = torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.25, 0.75]])
    y = torch.tensor([0, -1, 1])
    assert agreement(q, y).item() == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)
    assert agreement(q, torch.full((3,), -1)) == 0


def test_altered_images_are_images_and_others() -> None:
    x = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    for degrade in (False, True):
        seen = altered(x, degrade)
        assert seen.dtype == torch.uint8 and seen.shape == x.shape and not torch.equal(seen, x)


def test_models_that_infer_nothing_are_refused() -> None:
    plain = ConditionalVAE((1, 4, 4), 3, network="mlp")
    with pytest.raises(UserError, match="infers no labels"):
        SemiSupervised(plain)
    assert plain.label_posterior(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)) is None
    assert takes_unlabelled("semi-supervised(labels=2)") and not takes_unlabelled("elbo")
