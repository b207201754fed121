"""Every prior goes with every posterior, unless a sentence says why not."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from condvae.errors import UserError
from condvae.models.conditional_vae import ConditionalVAE
from condvae.probability.posteriors import POSTERIORS
from condvae.probability.priors import PRIORS

SMALL = {
    "vamp": "vamp(components=2)",
    "mixture": "mixture(components=3)",
    "autoregressive-flow": "autoregressive-flow(steps=2, hidden=8)",
    "coupling-flow": "coupling-flow(steps=2, hidden=8)",
    "inverse-autoregressive-flow": "inverse-autoregressive-flow(steps=2, hidden=8, context=4)",
}
REFUSED = ("vamp", "inverse-autoregressive-flow")
PAIRS = [pair for pair in itertools.product(PRIORS.parts, POSTERIORS.parts) if pair != REFUSED]
LATENTS = 5


def build(prior: str, posterior: str, **options: object) -> ConditionalVAE:
    """A tiny model of images (1, 8, 8) in three classes, away from where its parts start."""
    torch.manual_seed(0)
    settings = {"network": "mlp(widths=[16])", "latents": LATENTS, "embedding": 4} | options
    model = ConditionalVAE(
        (1, 8, 8),
        3,
        prior=SMALL.get(prior, prior),
        posterior=SMALL.get(posterior, posterior),
        **settings,
    )
    for part in (model.prior, model.posterior):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def images(number: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 255 * torch.randint(0, 2, (number, 1, 8, 8), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_a_pair_does_all_that_a_model_does(prior: str, posterior: str) -> None:
    model = build(prior, posterior)
    x, y = images(), torch.arange(6) % 3
    elbo = model.elbo(x, y)
    assert elbo.kl.shape == (6, 1) and torch.isfinite(elbo.value).all()
    (-elbo.value.mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name

    noise = torch.randn(3, 6, LATENTS)
    for hold in (False, True):
        draws = model.weighted_draws(x, y, noise, hold_posterior=hold)
        assert draws.log_weights.shape == (3, 6) and draws.latents[0].shape == (3, 6, LATENTS)
        assert torch.allclose(draws.log_weights, model.log_weights(x, y, noise), atol=1e-3)
        draws.log_weights.sum().backward()
    alone = model.log_weights(x[2:3], y[2:3], noise[:, 2:3])
    assert torch.allclose(draws.log_weights[:, 2:3], alone, atol=1e-3)

    model.eval().requires_grad_(False)
    for sample in (False, True):
        latents = model.encode(x, y, sample)
        assert model.decode(latents, y).mean_image().shape == x.shape
        assert model.log_prior(latents, y).shape == (6,)
        assert torch.isfinite(model.log_prior(latents, y)).all()
    cold, again = model.encode(x, y), model.encode(x, y)
    assert torch.equal(cold[0], again[0]) and not torch.equal(cold[0], latents[0])
    first, second = (model.draw(y, 1.0, torch.Generator().manual_seed(1))[0] for _ in range(2))
    assert torch.equal(first, second) and first.shape == (6, LATENTS)
    assert model.sample(y, 0.7).dtype == torch.uint8


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        ("standard-normal", "coupling-flow"),
        ("conditional", "full-covariance"),
        ("mixture", "inverse-autoregressive-flow"),
        ("vamp", "coupling-flow"),
        ("vamp", "full-covariance"),
        ("autoregressive-flow", "diagonal-gaussian"),
        ("autoregressive-flow", "inverse-autoregressive-flow"),
        ("coupling-flow", "coupling-flow"),
    ],
)
def test_densities_and_draws_of_all_parts_are_of_one_model(prior: str, posterior: str) -> None:
    """`log p(x|y)` by weights of the posterior's draws is that by draws from the prior, and bounds are
    below it, further with fewer samples; each by noise of its own."""
    model = build(prior, posterior)
    x, y, many = images(3), torch.tensor([0, 1, 2]), 4096
    inference = [
        parameter
        for name, parameter in model.named_parameters()
        if "encoder" in name or name.startswith("posterior")
    ]
    optimiser = torch.optim.Adam(inference, lr=2e-2)
    for _ in range(100):  # until the posterior covers what the model's own does
        model.zero_grad()
        (-model.elbo(x.repeat(8, 1, 1, 1), y.repeat(8)).value.mean()).backward()
        optimiser.step()
    model.eval().requires_grad_(False)

    def bounds(samples: int) -> torch.Tensor:
        weights = model.log_weights(x, y, torch.randn(many, 3, LATENTS)).double()
        return weights.unflatten(0, (-1, samples)).logsumexp(1) - math.log(samples)

    images_of_each, each = x.repeat(many, 1, 1, 1), y.repeat(many)
    by_prior = model.decode(model.draw(each), each).log_prob(images_of_each).double()
    exact = by_prior.unflatten(0, (many, 3)).logsumexp(0) - math.log(many)
    assert torch.allclose(bounds(many)[0], exact, atol=0.2)

    elbo, one = model.elbo(images_of_each, each).value.double().unflatten(0, (many, 3)), bounds(1)
    error = (one.var(0) / many + elbo.var(0) / many).sqrt()
    assert ((one.mean(0) - elbo.mean(0)).abs() < 4.5 * error).all()
    sixteen = bounds(16).mean(0)
    assert (one.mean(0) < sixteen).all() and (sixteen < exact + 0.2).all()


@pytest.mark.parametrize(
    "part", [{"prior": p} for p in PRIORS.parts] + [{"posterior": p} for p in POSTERIORS.parts]
)
def test_every_part_goes_with_a_convolutional_network_and_colour(part: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = ConditionalVAE(
        (3, 9, 12), 3, network="conv(width=8, hidden=16)", likelihood="discretised-logistic", **part
    )
    x, y = torch.randint(0, 256, (4, 3, 9, 12), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    assert torch.isfinite(model.elbo(x, y).value).all()
    assert model.log_weights(x, y, torch.randn(2, 4, 32)).shape == (2, 4)
    assert model.sample(y).shape == x.shape


@pytest.mark.parametrize("prior", ["mixture", "vamp", "autoregressive-flow", "coupling-flow"])
def test_a_prior_alone_makes_the_label_count(prior: str) -> None:
    name, options = SMALL[prior][:-1], {"label_reaches": ("encoder",) if prior == "vamp" else ()}
    for conditional in (True, False):
        spec = f"{name}, conditional={conditional})"
        model = build(spec, "diagonal-gaussian", **options).eval().requires_grad_(False)
        x, noise = images(), torch.randn(1, 6, LATENTS)
        posterior = model.infer(x, torch.zeros(6, dtype=torch.long))
        v, log_prob = posterior.draw(noise[0])
        zero, one = (
            model._image_distribution(v, y).log_prob(x) - model.prior.kl(posterior, v, log_prob, y)
            for y in (torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long))
        )
        assert torch.allclose(zero, one) != conditional
        assert model.uses_label == (conditional or prior == "vamp")


@pytest.mark.parametrize("prior", ["autoregressive-flow", "coupling-flow"])
def test_a_swap_keeps_the_noise_of_a_flow_prior(prior: str) -> None:
    """What is encoded under one label and decoded under another has the same place in both priors."""
    model = build(prior, "diagonal-gaussian", label_reaches=()).eval().requires_grad_(False)
    x, zero, one = images(), torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long)
    latents = model.encode(x, zero)
    moved = model.prior.settle(latents[0], one)
    assert not torch.allclose(moved, model.prior.settle(latents[0], zero), atol=1e-2)
    assert torch.allclose(model.prior.carry(moved, one), latents[0], atol=1e-4)
    kept, swapped = (model.decode(latents, y).log_prob(x) for y in (zero, one))
    assert not torch.allclose(kept, swapped)
    assert torch.allclose(model._image_distribution(moved, one).log_prob(x), swapped, atol=1e-3)


@pytest.mark.parametrize("posterior", ["full-covariance", "inverse-autoregressive-flow"])
def test_a_held_posterior_leaves_the_gradient_of_the_draw_alone(posterior: str) -> None:
    """With few images, over many draws, both estimators of the encoder's gradient agree."""
    model = build("conditional", posterior)
    x, y = images(2), torch.tensor([0, 2])
    gradients = []
    for hold in (False, True):
        torch.manual_seed(3)
        draws = model.weighted_draws(x, y, torch.randn(3000, 2, LATENTS), hold_posterior=hold)
        weight = model.network.encoder_rest[-1].weight
        gradients.append(torch.autograd.grad(draws.log_weights.mean(), weight)[0][: 2 * LATENTS])
    assert not torch.equal(*gradients)
    assert (gradients[0] - gradients[1]).norm() < 0.15 * gradients[0].norm()


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        ("conditional", "inverse-autoregressive-flow"),
        ("vamp", "coupling-flow"),
        ("autoregressive-flow", "full-covariance"),
        ("coupling-flow", "diagonal-gaussian"),
        ("mixture", "coupling-flow"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_learning_rate_far_too_high_breaks_nothing(prior: str, posterior: str, precision: str) -> None:
    model = build(prior, posterior)
    x, y = images(32), torch.arange(32) % 3
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(200 if precision == "fp32" else 50):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = -model.elbo(x, y).value.mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0] - 5


def test_a_copy_of_a_model_asks_its_own_encoder() -> None:
    model = build("vamp", "diagonal-gaussian")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.network.parameters():
            parameter.zero_()
    v, y = torch.randn(3, LATENTS), torch.arange(3)
    assert not torch.allclose(model.prior.log_prob(v, y), twin.prior.log_prob(v, y))
    assert model.state_dict().keys() == twin.state_dict().keys()
    assert not [name for name in model.state_dict() if name.startswith("prior") and "pseudo" not in name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "vamp", "posterior": "inverse-autoregressive-flow"}, "one latent after another"),
        ({"prior": "vamp", "network": "resnet(width=4, blocks=1)"}, "normalises over a batch"),
        ({"prior": "coupling-flow", "latents": 1}, "at least 2 latents"),
        ({"posterior": "coupling-flow", "latents": 1}, "at least 2 latents"),
    ],
)
def test_what_cannot_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ConditionalVAE((1, 8, 8), 3, **options)
