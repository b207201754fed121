"""The ladder's numbers are those of a probability model, and its groups do what their names say."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from protocols import lacking
from torch import Tensor

from condvae.config import ModelConfig
from condvae.errors import UserError
from condvae.evaluation.outputs import swapped
from condvae.models.families import build_model
from condvae.models.ladder import Ladder
from condvae.models.protocol import ConditionalModel

SMALL = {
    "groups": (1, 2, 1),
    "channels": (6, 2, 1),
    "widths": (16, 8, 8),
    "blocks": (0, 1, 1),
}


def build(
    shape: tuple[int, int, int] = (1, 12, 12),
    likelihood: str = "bernoulli",
    label_reaches: tuple[str, ...] = ("encoder", "decoder"),
    noise: float = 0.3,
    **options: object,
) -> Ladder:
    torch.manual_seed(0)
    model = Ladder(shape, 5, likelihood, 4, label_reaches, **(SMALL | options))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():  # away from its start, where priors are standard normal
            parameter.add_(torch.randn_like(parameter) * noise / math.sqrt(parameter[0].numel()))
    return model


def images(shape: tuple[int, int, int], number: int = 4) -> Tensor:
    return torch.randint(0, 256, (number, *shape), dtype=torch.uint8)


def tiny() -> Ladder:
    """A ladder of 2x2 images, its posteriors no narrower than its priors, so that weights behave."""
    two = {"groups": (1, 1), "channels": (2, 1), "widths": (8, 8), "blocks": (0, 0)}
    model = build((1, 2, 2), noise=0.8, patch=1, **two)
    with torch.no_grad():
        for group in model.groups:
            group.posterior.weight *= 0.3
            group.posterior.bias *= 0.3
            group.posterior.bias[len(group.posterior.bias) // 2 :] += 0.5
    return model


def every_binary_image() -> Tensor:
    """All 16 images of 2x2 pixels that are 0 or 255."""
    bits = list(itertools.product((0, 255), repeat=4))
    return torch.tensor(bits, dtype=torch.uint8).reshape(16, 1, 2, 2)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 33, 21)], ids=str)
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretised-logistic"])
@pytest.mark.parametrize("style", [0, 1])
def test_every_shape_of_image(
    shape: tuple[int, int, int], patch: int, likelihood: str, style: int
) -> None:
    model = build(shape, likelihood, patch=patch, style=style).eval()
    assert not lacking(model, ConditionalModel)
    x, y = images(shape), torch.tensor([0, 1, 2, 4])
    elbo = model.elbo(x, y)
    assert elbo.log_likelihood.shape == (4,) and elbo.kl.shape == (4, 4 + style)
    assert torch.isfinite(elbo.value).all() and (elbo.kl >= 0).all()
    assert tuple(u.shape[1:] for u in elbo.latents) == model.group_shapes
    assert sum(math.prod(shape) for shape in model.group_shapes) == model.latents
    assert model.sample(y).shape == x.shape
    assert model.log_weights(x, y, torch.randn(3, 4, model.latents)).shape == (3, 4)


def test_levels_go_from_one_position_to_full_resolution() -> None:
    model = build((3, 32, 32), patch=1, **{key: value + value[-1:] * 3 for key, value in SMALL.items()})
    sides = [shape[1] for shape in model.group_shapes]
    assert sorted(set(sides)) == [1, 2, 4, 8, 16, 32]
    assert sides == sorted(sides)


def test_probabilities_of_all_images_sum_to_one() -> None:
    """The importance weights are unbiased for `p(x|y)`, so their means over all x add up to 1."""
    model = tiny()
    x, y = every_binary_image(), torch.full((16,), 3)
    with torch.no_grad():
        parts = [model.log_weights(x, y, torch.randn(5000, 16, model.latents)) for _ in range(4)]
    likelihood = torch.logsumexp(torch.cat(parts).double(), 0).exp() / 20_000
    assert float(likelihood.sum()) == pytest.approx(1, abs=0.02)
    assert likelihood.max() > 1.5 * likelihood.min()


def test_the_prior_gives_images_the_probability_that_the_weights_do() -> None:
    """`p(x|y)` by draws from the prior and by weighted draws from the posterior."""
    model = tiny()
    x, y = every_binary_image(), torch.full((16,), 1)
    with torch.no_grad():
        weights = model.log_weights(x, y, torch.randn(40_000, 16, model.latents))
        latents = model.draw(torch.full((20_000,), 1), generator=torch.Generator().manual_seed(0))
        decoded = model.decode(latents, torch.full((20_000,), 1))
        prior = torch.stack([decoded.log_prob(image.expand(20_000, 1, 2, 2)) for image in x], 1)
    by_posterior, by_prior = (w.double().exp().mean(0) for w in (weights, prior))
    assert torch.allclose(by_posterior, by_prior, rtol=0.1)


@pytest.mark.parametrize("style", [0, 3])
def test_mean_of_log_weights_is_the_elbo(style: int) -> None:
    model = build(style=style).eval()
    x = model.likelihood.observe(images((1, 12, 12), 2))
    y = torch.tensor([1, 3])
    with torch.no_grad():
        weights = model.log_weights(x, y, torch.randn(4000, 2, model.latents)).mean(0)
        many = model.elbo(x.repeat(2000, 1, 1, 1), y.repeat(2000)).value
    assert torch.allclose(weights, many.unflatten(0, (2000, 2)).mean(0), atol=0.5)


@pytest.mark.parametrize("style", [0, 6])
def test_an_image_does_not_depend_on_its_batch(style: int) -> None:
    model = build(likelihood="discretised-logistic", style=style).eval()
    x, y = images((1, 12, 12), 6), torch.arange(6) % 5
    noise = torch.randn(3, 6, model.latents)
    together, alone = model.log_weights(x, y, noise), model.log_weights(x[2:3], y[2:3], noise[:, 2:3])
    assert torch.allclose(together[:, 2:3], alone, rtol=1e-4, atol=1e-3)
    elbos = model.elbo(x, y, noise[0]), model.elbo(x[2:3], y[2:3], noise[0, 2:3])
    assert torch.allclose(elbos[0].kl[2:3], elbos[1].kl, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reaches", [(), ("encoder",), ("decoder",), ("encoder", "decoder")], ids=str)
def test_the_label_reaches_what_it_is_to_reach(reaches: tuple[str, ...]) -> None:
    model = build(label_reaches=reaches).eval()
    x = (images((1, 12, 12)) > 127).to(torch.uint8) * 255
    y, other = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    latents = model.draw(y)
    with torch.no_grad():
        decoded = [model.decode(latents, label).log_prob(x) for label in (y, other)]
        seen = [torch.cat([e.flatten(1) for e in model.up(x, label)], 1) for label in (y, other)]
    assert torch.allclose(*decoded) == ("decoder" not in reaches)
    assert torch.allclose(*seen) == ("encoder" not in reaches)
    assert model.uses_label == bool(reaches)


def test_the_label_moves_every_prior() -> None:
    model = build().eval()
    x = (images((1, 12, 12), 1) > 127).to(torch.uint8) * 255
    looks: list[list[Tensor]] = []
    for label in (0, 1):
        looks.append([])
        hooks = [
            group.prior.register_forward_hook(lambda *call: looks[-1].append(call[2]))
            for group in model.groups
        ]
        with torch.no_grad():
            model.decode(model.draw(torch.tensor([label]), temperature=0.0), torch.tensor([label]))
        for hook in hooks:
            hook.remove()
    assert x.shape[0] == 1 and len(looks[0]) == len(model.groups)
    assert not any(torch.allclose(a, b) for a, b in zip(*looks, strict=True))


def test_priors_start_as_standard_normals() -> None:
    torch.manual_seed(0)
    model = Ladder((1, 12, 12), 5, "bernoulli", 4, ("decoder",), **SMALL)  # type: ignore[arg-type]
    for group in model.groups:
        assert not group.prior.weight.any() and not group.prior.bias.any()


@pytest.mark.parametrize("style", [0, 2])
def test_encoding_and_decoding_meet(style: int) -> None:
    """`decode(encode(x))` is what the posterior's own way down arrives at, group by group."""
    model = build(style=style).eval()
    x = (images((1, 12, 12)) > 127).to(torch.uint8) * 255
    y = torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        noise = torch.randn(4, model.latents)
        elbo = model.elbo(x, y, noise)
        assert torch.allclose(model.decode(elbo.latents, y).log_prob(x), elbo.log_likelihood, atol=1e-3)
        still = model.elbo(x, y, torch.zeros_like(noise)).latents
    for mean, given in zip(model.encode(x, y), still, strict=True):
        assert torch.allclose(mean, given, atol=1e-5)


def test_a_temperature_a_group() -> None:
    model = build()
    y = torch.zeros(500, dtype=torch.long)
    drawn = model.draw(y, [0.0, 0.5, 1.0, 2.0], torch.Generator().manual_seed(0))
    for u, scale in zip(drawn, (0.0, 0.5, 1.0, 2.0), strict=True):
        assert float(u.std()) == pytest.approx(scale, rel=0.05)
    with pytest.raises(UserError, match="2 temperatures for 4 groups"):
        model.draw(y, [1.0, 1.0])


def test_upper_groups_may_be_kept_and_lower_ones_drawn() -> None:
    model = build().eval()
    y = torch.zeros(3, dtype=torch.long)
    kept = model.draw(y)
    same = model.decode(kept, y).log_prob(images((1, 12, 12), 3))
    for keep in range(len(kept)):
        mixed = model.decode((*kept[:keep], *model.draw(y)[keep:]), y).log_prob(images((1, 12, 12), 3))
        assert not torch.allclose(same, mixed)
    assert torch.equal(model.log_prior(kept, y), sum(model.log_prior((u,), y) for u in kept))  # type: ignore[arg-type]


def test_recomputing_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        model = build(recompute=recompute).train()
        torch.manual_seed(1)
        (-model.elbo(images((1, 12, 12)), torch.tensor([0, 1, 2, 3])).value.mean()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert plain is not None and again is not None
        assert torch.allclose(plain, again, atol=1e-4)


def test_padding_is_not_scored() -> None:
    """Under uniform probabilities an image costs `ln 256` for each of its own values, and no more."""
    model = build((3, 5, 7), "categorical")
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)  # type: ignore[arg-type]
    y = torch.zeros(2, dtype=torch.long)
    found = model.decode(model.draw(y), y).log_prob(images((3, 5, 7), 2))
    assert torch.allclose(found, torch.tensor(-3 * 5 * 7 * math.log(256)).expand(2), rtol=1e-4)


def test_a_deep_ladder_starts_with_features_of_a_sane_scale() -> None:
    torch.manual_seed(0)
    deep = {"groups": (4, 12, 12), "channels": (8, 4, 2), "widths": (32, 16, 16), "blocks": (0, 4, 4)}
    model = Ladder((1, 28, 28), 10, "bernoulli", 8, (), **deep)  # type: ignore[arg-type]
    scales: list[float] = []
    model.head.register_forward_hook(lambda module, given, out: scales.append(given[0].std().item()))
    elbo = model.elbo(images((1, 28, 28), 8), torch.zeros(8, dtype=torch.long))
    assert 0.1 < scales[0] < 10
    assert torch.isfinite(elbo.value).all()


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("ladder(groups=[1])", "channels has 3 levels and groups has 1"),
        ("ladder(groups=[1,1,1],widths=[8,8])", "widths has 2 levels"),
        ("ladder(channels=[4,0,1])", "at least 1"),
        ("ladder(width=3)", "did you mean 'widths'"),
        ("ladder(patch=0)", "a patch of at least 1"),
    ],
)
def test_an_impossible_ladder_is_refused_in_a_sentence(family: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(ModelConfig(family=family), (1, 12, 12), 3)


@pytest.mark.parametrize("field", ["network", "prior", "posterior", "latents"])
def test_settings_that_a_ladder_has_no_use_for_are_refused(field: str) -> None:
    values = {"network": "mlp", "prior": "standard-normal", "posterior": "full", "latents": 7}
    with pytest.raises(UserError, match=f"model.{field}"):
        build_model(ModelConfig(family="ladder", **{field: values[field]}), (1, 12, 12), 3)  # type: ignore[arg-type]


def test_a_swap_keeps_the_groups_that_it_is_told_to() -> None:
    model = build(kept=2, fresh=0.5)
    x, y = 255 * (images((1, 12, 12)) > 127).to(torch.uint8), torch.arange(4)
    with torch.no_grad():
        own = model.encode(x, y)
        moved = model.transfer(own, (y + 1) % 5, torch.Generator().manual_seed(0))
        drawn = model.draw((y + 1) % 5, 0.5, torch.Generator().manual_seed(0))
        for index, (a, b, c) in enumerate(zip(own, moved, drawn, strict=True)):
            assert torch.equal(b, a if index < 2 else c)
        made = [swapped(model, x, y, y), swapped(model, x, y, (y + 1) % 5)]
        assert torch.equal(made[0], model.decode(own, y).mean_image())
        assert torch.equal(made[1], model.decode(moved, (y + 1) % 5).mean_image())
    assert build().transfer(own, y) is own
    assert build(style=3).kept == 5
    with pytest.raises(UserError, match="kept must be within 0 and 4"):
        build(kept=5)
