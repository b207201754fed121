"""Bounds against a model whose likelihood is known in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_gaussian import K, LinearGaussian, Z, images_of
from torch import Tensor

from condvae.evaluation.bounds import (
    NoiseStreams,
    RunningBounds,
    bits_per_dim,
    bounds,
    could_matter,
    curve_sizes,
    weighted_bounds,
)
from condvae.models.conditional_vae import ConditionalVAE
from condvae.run import load


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return images_of(LinearGaussian(1.0))


def test_exact_posterior_gives_the_exact_likelihood_with_any_number_of_samples(
    data: tuple[Tensor, Tensor],
) -> None:
    model = LinearGaussian(1.0)
    for samples in (1, 7, 33):
        found = bounds(model, *data, samples=samples)  # type: ignore[arg-type]
        exact = model.exact(*data).numpy()
        assert np.allclose(found.log_likelihood, exact, atol=1e-6)
        assert np.allclose(found.elbo, exact, atol=1e-6)


def test_marginal_over_labels_equals_brute_force(data: tuple[Tensor, Tensor]) -> None:
    model = LinearGaussian(1.0)
    found = bounds(model, *data, samples=2)  # type: ignore[arg-type]
    every = [model.exact(data[0], torch.full_like(data[1], k)) for k in range(K)]
    brute = torch.logsumexp(torch.stack(every), 0) - math.log(K)
    assert np.allclose(found.marginal, brute.numpy(), atol=1e-5)
    assert (found.marginal <= brute.numpy() + 1e-9).all(), "leaving labels out keeps it a lower bound"
    assert (found.log_likelihood - found.marginal <= math.log(K) + 1e-9).all()


def test_bounds_under_every_label_do_not_depend_on_which_is_the_own(
    data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The more samples, the higher a bound: a label with more of them would be too likely."""
    model, (x, y) = LinearGaussian(6.0), data
    monkeypatch.setattr("condvae.evaluation.bounds.NEGLIGIBLE", 1.0)
    found, other = (
        bounds(model, x, labels, samples=200).label_log_likelihood  # type: ignore[arg-type]
        for labels in (y, (y + 1) % K)
    )
    assert np.isinf(found).any() and (np.isfinite(found).sum(1) > 1).any()
    assert np.allclose(found, other, atol=1e-6)


def test_labels_within_reach_of_the_best_could_matter() -> None:
    first = torch.tensor([[-80.0, -90.0, -99.0], [-99.0, -80.0, -120.0]])
    assert could_matter(first).tolist() == [[True, True, False], [False, True, False]]


def test_without_the_other_labels_nothing_is_said_of_the_marginal(data: tuple[Tensor, Tensor]) -> None:
    model = LinearGaussian(1.0)
    whole, own = (bounds(model, *data, samples=3, every_label=e) for e in (True, False))  # type: ignore[arg-type]
    assert np.isnan(own.marginal).all()
    assert np.allclose(own.elbo, whole.elbo) and np.allclose(own.log_likelihood, whole.log_likelihood)
    assert (np.isfinite(own.label_log_likelihood).sum(1) == 1).all()


def test_bound_rises_with_samples_and_converges(data: tuple[Tensor, Tensor]) -> None:
    model = LinearGaussian(2.5)
    exact = float(model.exact(*data).mean())
    means = [
        float(bounds(model, *data, samples=s).log_likelihood.mean())  # type: ignore[arg-type]
        for s in (1, 5, 2000)
    ]
    assert means == sorted(means)
    assert means[0] < exact - 0.1
    assert means[-1] == pytest.approx(exact, abs=0.02)


def test_elbo_gap_is_the_kl_between_posteriors(data: tuple[Tensor, Tensor]) -> None:
    wider = 2.5
    model = LinearGaussian(wider)
    found = bounds(model, *data, samples=4000)  # type: ignore[arg-type]
    gap = Z * (wider - 1 - math.log(wider)) / 2
    assert float(model.exact(*data).mean() - found.elbo.mean()) == pytest.approx(gap, abs=0.03)


def test_results_depend_neither_on_the_batch_size_nor_on_the_other_images(
    data: tuple[Tensor, Tensor],
) -> None:
    model = LinearGaussian(2.0)
    whole = bounds(model, *data, samples=30)  # type: ignore[arg-type]
    small = bounds(model, *data, samples=30, batch_size=7)  # type: ignore[arg-type]
    first = bounds(model, data[0][:3], data[1][:3], samples=30)  # type: ignore[arg-type]
    for name in ("elbo", "log_likelihood", "curve", "marginal", "kl", "rate", "distortion"):
        assert np.allclose(getattr(whole, name), getattr(small, name), atol=1e-9)
        assert np.allclose(getattr(whole, name)[:3], getattr(first, name), atol=1e-9)
    assert len(small.elbo) == 40, "the last, smaller batch counts"


def test_a_one_sample_bound_is_not_better_than_it_may_be(data: tuple[Tensor, Tensor]) -> None:
    """With the number of samples left out of the mean, the bound would exceed the likelihood."""
    model = LinearGaussian(1.0)
    found = bounds(model, *data, samples=100)  # type: ignore[arg-type]
    assert (found.log_likelihood <= model.exact(*data).numpy() + 1e-6).all()


def test_bits_per_dim_of_uniform_pixels_is_eight() -> None:
    shape = (3, 4, 5)
    assert bits_per_dim(-60 * math.log(256), shape) == pytest.approx(8)


def test_active_units_counts_dimensions_that_vary(data: tuple[Tensor, Tensor]) -> None:
    found = bounds(LinearGaussian(1.0), *data, samples=1)  # type: ignore[arg-type]
    assert found.active_units() == Z
    assert found.active_units(threshold=1e6) == 0


# --------------------------------------------------------------------------- the curve, and the noise


def test_sizes_of_the_curve() -> None:
    assert [curve_sizes(s) for s in (1, 2, 4, 10)] == [[1], [1, 2], [1, 2, 4], [1, 2, 5, 10]]
    assert curve_sizes(500) == [1, 2, 5, 10, 20, 50, 100, 200, 500]
    assert curve_sizes(70)[-2:] == [50, 70]


def test_running_bounds_are_means_over_disjoint_blocks() -> None:
    weights = torch.randn(37, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    running = RunningBounds([1, 2, 5, 20, 37], 4, torch.device("cpu"))
    for part in weights.split(16):
        running.add(part)
    for size, found in zip(running.sizes, running.means(), strict=True):
        blocks = weights[: 37 // size * size].unflatten(0, (-1, size))
        expected = (torch.logsumexp(blocks, 1) - math.log(size)).mean(0)
        assert torch.allclose(found, expected, atol=1e-12)


def test_the_curve_goes_from_the_elbo_up_to_the_bound(data: tuple[Tensor, Tensor]) -> None:
    found = bounds(LinearGaussian(2.5), *data, samples=200)  # type: ignore[arg-type]
    assert found.curve.shape == (40, len(curve_sizes(200)))
    assert (found.curve[:, 0] == found.elbo).all()
    assert (found.curve[:, -1] == found.log_likelihood).all()
    assert (np.diff(found.curve.mean(0)) > 0).all()
    assert (np.diff(found.curve[:, [0, 1, 3]]) >= 0).all(), "exact for blocks that divide each other"


@pytest.mark.parametrize("latents", [1, 3, 32])
def test_the_first_draws_are_the_same_whatever_follows_and_whoever_is_beside(latents: int) -> None:
    def streams(*indices: int) -> NoiseStreams:
        return NoiseStreams(indices, latents, 0, torch.device("cpu"))

    long = streams(3, 8, 5).draw(40)
    assert torch.equal(streams(8).draw(5)[:, 0], long[:5, 1])
    assert torch.equal(torch.cat(list(streams(5, 3).blocks(33)))[:, 1], long[:33, 0])
    assert not torch.equal(long[:, 0], long[:, 1])


def test_rate_distortion_and_elbo_add_up() -> None:
    model = LinearGaussian(1.5)
    x, y = images_of(model, 400)
    found = bounds(model, x, y, samples=20, every_label=False)  # type: ignore[arg-type]
    assert np.allclose(found.rate + found.distortion, -found.elbo)
    noise = torch.randn(200, 400, Z, generator=torch.Generator().manual_seed(5))
    expected = -model.terms(x, y, noise)[0].mean()
    assert found.distortion.mean() == pytest.approx(float(expected), abs=0.25)


# ------------------------------------------------------------------------- mistakes that are kept out


def small_vae(**options: object) -> ConditionalVAE:
    torch.manual_seed(0)
    model = ConditionalVAE((1, 5, 7), 3, latents=2, embedding=4, **options)  # type: ignore[arg-type]
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


def five_by_seven(number: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (number, 1, 5, 7), generator=generator, dtype=torch.uint8) * 255
    return x, torch.arange(number) % 3


def test_batch_statistics_never_reach_a_number() -> None:
    x, y = five_by_seven()
    model = small_vae(network="resnet(width=4, blocks=1)")
    whole = bounds(model, x, y, samples=20)
    alone = bounds(model, x[:1], y[:1], samples=20)
    for name in ("elbo", "log_likelihood", "marginal", "kl"):
        assert np.allclose(getattr(whole, name)[:1], getattr(alone, name), atol=1e-3)
    with pytest.raises(ValueError, match="training mode"):
        bounds(model.train(), x, y, samples=2)


def test_a_loaded_run_is_in_evaluation_mode(small_run: Path) -> None:
    assert not load(small_run, "cpu").model.training  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "network", ["mlp(widths=[8])", "conv(width=8, patch=4, hidden=16)", "resnet(width=4, blocks=1)"]
)
def test_every_pixel_is_scored_once_and_summed_and_padding_never(network: str) -> None:
    """All logits 0: each of the `C H W` pixels, and nothing else, costs ln 2."""
    x, y = five_by_seven()
    model = small_vae(network=network)
    model.network.decode = lambda z, condition: torch.zeros(len(z), 1, 5, 7)  # type: ignore[method-assign]
    decode = small_vae(network=network).network.decode
    assert decode(torch.zeros(1, 2), torch.zeros(1, 4)).shape == (1, 1, 5, 7)
    assert torch.allclose(model.elbo(x, y).log_likelihood, torch.tensor(-35 * math.log(2)))
    found = bounds(model, x, y, samples=500)
    assert np.allclose(found.log_likelihood, -35 * math.log(2), atol=0.3)
    assert found.distortion.mean() == pytest.approx(35 * math.log(2), abs=0.3)


def test_weights_hold_the_posterior_density_of_the_draw_and_no_closed_form_kl() -> None:
    """With a KL in closed form, a weight would not depend on how likely its draw is under q."""
    x, y = five_by_seven(2)
    model = small_vae(network="mlp(widths=[8])", prior="standard-normal")
    posterior = model.infer(x, y)
    noise = torch.randn(50, 2, 2, generator=torch.Generator().manual_seed(0))
    v, log_q = posterior.draw(noise)
    weights = model.log_weights(x, y, noise)
    for sample, weight in enumerate(weights):
        latents = (v[sample],)
        expected = model.decode(latents, y).log_prob(x) + model.log_prior(latents, y) - log_q[sample]
        assert torch.allclose(weight, expected, atol=1e-4)


def test_bf16_networks_give_nearly_the_same_bound_and_no_other_in_another_batch(
    small_run: Path,
) -> None:
    from condvae.data import load as images_named
    from condvae.evaluation.bounds import fixed_binarisation, precision_of

    model = load(small_run, "cpu").model
    test = images_named("mnist-sample", split="test")
    x, y = torch.tensor(test.images[::25]), torch.tensor(test.labels[::25])
    x = fixed_binarisation(model, x, 0)
    found = {}
    for precision in ("fp32", "bf16"):
        with precision_of(precision, x.device):
            found[precision] = weighted_bounds(model, x, y, range(len(y)), sizes=[20])[0]
            alone = weighted_bounds(model, x[3:4], y[3:4], [3], sizes=[20])[0]
        assert torch.allclose(alone, found[precision][3:4], atol=0.02)
    assert float(found["fp32"].mean()) == pytest.approx(float(found["bf16"].mean()), abs=0.3)
    assert not torch.equal(found["fp32"], found["bf16"])
