"""The label arrives, the numbers add up, and every network fits every image."""

from __future__ import annotations

import pytest
import torch
from protocols import lacking

from condvae.config import ModelConfig
from condvae.errors import UserError
from condvae.models.conditional_vae import ConditionalVAE
from condvae.models.families import build_model
from condvae.models.networks import Conv
from condvae.models.protocol import ConditionalModel
from condvae.probability.likelihoods import LIKELIHOODS

NETWORKS = [
    "mlp(widths=[16, 8])",
    "conv(width=8, hidden=16)",
    "conv(width=8, patch=4, blocks=[1, 0], hidden=16)",
    "conv(width=8, hidden=16, sees=4, smooth=true)",
    "resnet(width=4, blocks=1)",
]
SHAPES = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 33, 21), (3, 64, 64)]


def build(network: str, shape: tuple[int, int, int] = (1, 12, 12), **options: object) -> ConditionalVAE:
    torch.manual_seed(0)
    model = ConditionalVAE(shape, 5, network=network, latents=6, embedding=4, **options)  # type: ignore[arg-type]
    for parameter in model.parameters():
        if not parameter.any():  # residual branches and biases start at zero
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def images(shape: tuple[int, int, int], number: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (number, *shape), dtype=torch.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretised-logistic"])
def test_every_network_takes_every_shape(
    network: str, shape: tuple[int, int, int], likelihood: str
) -> None:
    model = build(network, shape, likelihood=likelihood).eval()
    assert not lacking(model, ConditionalModel)
    x, y = images(shape), torch.tensor([0, 1, 2, 4])
    elbo = model.elbo(x, y)
    assert elbo.log_likelihood.shape == (4,) and elbo.kl.shape == (4, 1)
    assert torch.isfinite(elbo.value).all() and (elbo.kl >= 0).all()
    assert model.sample(y).shape == x.shape
    assert model.decode(model.encode(x, y), y).mean_image().dtype == torch.uint8
    assert model.log_weights(x, y, torch.randn(3, 4, 6)).shape == (3, 4)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)], ids=str)
@pytest.mark.parametrize(
    "likelihood",
    [
        *LIKELIHOODS.parts,
        "bernoulli(binarisation=fixed)",
        "gaussian(scale=optimal)",
        "gaussian(scale=pixel)",
        "discretised-gaussian(scale=learned)",
    ],
)
def test_every_likelihood_takes_a_step(likelihood: str, shape: tuple[int, int, int]) -> None:
    model = build("conv(width=8, patch=4, blocks=[1, 0], hidden=16)", shape, likelihood=likelihood)
    x, y = images(shape), torch.tensor([0, 1, 2, 4])
    noise = torch.randn(4, 6)
    x = model.likelihood.observe(x)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-5)
    before = model.elbo(x, y, noise).value
    assert torch.isfinite(before).all()
    (-before.mean()).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and torch.isfinite(weight.grad).all(), name
    assert model.network.head.weight.grad.any()
    optimiser.step()
    assert model.elbo(x, y, noise).value.mean() > before.mean()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_label_reaches_encoder_decoder_and_prior(network: str) -> None:
    model = build(network).train()
    x, y = images((1, 12, 12)), torch.tensor([0, 1, 2, 4])
    (-model.elbo(x, y).value.mean()).backward()
    for table in (model.encoder_label.table, model.decoder_label.table, model.prior.location):
        used = table.weight.grad.abs().sum(1)  # type: ignore[union-attr]
        assert (used[[0, 1, 2, 4]] > 0).all() and used[3] == 0


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("place", ["encoder", "decoder"])
def test_changing_the_label_changes_what_it_reaches_and_nothing_else(network: str, place: str) -> None:
    model = build(network, prior="standard-normal", label_reaches=(place,)).eval()
    x = (images((1, 12, 12)) > 127).to(torch.uint8) * 255
    y, other = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    encoded = not torch.allclose(model.encode(x, y)[0], model.encode(x, other)[0])
    latents = model.encode(x, y)
    with torch.no_grad():
        decoded = [model.decode(latents, label).log_prob(x) for label in (y, other)]
    assert encoded == (place == "encoder")
    assert torch.allclose(*decoded) == (place == "encoder")


def test_conditional_prior_alone_makes_the_label_count() -> None:
    model = build("mlp(widths=[16])", label_reaches=()).eval()
    u = (torch.randn(4, 6),)
    x = images((1, 12, 12))
    with torch.no_grad():
        zero, one = (model.decode(u, torch.full((4,), k)).log_prob(x) for k in (0, 1))
    assert not torch.allclose(zero, one)


def test_mean_of_log_weights_is_the_elbo() -> None:
    model = build("conv(width=8, hidden=16)").eval()
    x = model.likelihood.observe(images((1, 12, 12), 2))
    y = torch.tensor([1, 3])
    with torch.no_grad():
        weights = model.log_weights(x, y, torch.randn(4000, 2, 6)).mean(0)
        draws = torch.stack([model.elbo(x, y).value for _ in range(1500)]).mean(0)
    assert torch.allclose(weights, draws, atol=0.6)


def test_an_image_does_not_depend_on_its_batch_in_evaluation() -> None:
    for network in NETWORKS:
        model = build(network, likelihood="discretised-logistic").eval()
        x, y = images((1, 12, 12), 6), torch.arange(6) % 5
        noise = torch.randn(3, 6, 6)
        together = model.log_weights(x, y, noise)
        alone = model.log_weights(x[2:3], y[2:3], noise[:, 2:3])
        assert torch.allclose(together[:, 2:3], alone, rtol=1e-4, atol=1e-3)


def test_conv_never_works_at_full_resolution() -> None:
    network = Conv((3, 32, 32), 6, 8, 16, (4, 4), width=8)
    assert network.bottom[1:] == (8, 8)
    assert network.head.out_channels == 3 * 2 * 2**2


@pytest.mark.parametrize("smooth", [False, True])
def test_what_goes_up_smoothly_has_no_grid_of_dots(smooth: bool) -> None:
    """Of the finest that an image can show, the checkerboard of single pixels, how much is there?"""
    model = build(f"conv(width=32, smooth={smooth})", (3, 32, 32))
    torch.nn.init.normal_(model.network.head.weight)
    pictures = model.network.decode(torch.randn(64, 6), torch.randn(64, 4))
    pixels = (pictures - pictures.mean((2, 3), keepdim=True))[:, :, 8:24, 8:24]
    board = (-1.0) ** torch.arange(16)
    share = (pixels * board * board[:, None]).mean((2, 3)).square().mean() / pixels.square().mean()
    assert (share < 1e-4) == smooth


def test_an_encoder_of_coarse_images_sees_no_more_than_their_means() -> None:
    x = images((1, 16, 16))
    fields = x.unfold(2, 4, 4).unfold(3, 4, 4)
    turned = fields.flip(4).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    assert not torch.equal(x, turned)
    y = torch.zeros(4, dtype=torch.long)
    options = {"shape": (1, 16, 16), "likelihood": "discretised-logistic"}
    coarse, fine = (build(f"conv(width=8{also})", **options) for also in (", sees=4", ""))  # type: ignore[arg-type]
    assert torch.allclose(coarse.encode(x, y)[0], coarse.encode(turned, y)[0], atol=1e-5)
    assert not torch.allclose(fine.encode(x, y)[0], fine.encode(turned, y)[0], atol=1e-3)


def test_the_cifar_notebooks_network_has_twenty_million_parameters() -> None:
    model = ConditionalVAE(
        (3, 32, 32),
        10,
        network="resnet(width=64, blocks=2)",
        likelihood="gaussian",
        prior="standard-normal",
        latents=256,
        label_reaches=(),
    )
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(20.1, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "convv"}, "did you mean 'conv'"),
        ({"network": "conv(wdth=3)"}, "did you mean 'width'"),
        ({"network": "conv(width='x')"}, "not of type int"),
        ({"network": "conv(width=2"}, "not understood"),
        ({"network": "conv(width=__import__('os'))"}, "not understood"),
        ({"latents": 0}, "at least 1"),
        ({"label_reaches": ("prior",)}, "neither encoder nor decoder"),
        ({"family": "gan"}, "does not exist"),
    ],
)
def test_an_impossible_model_is_refused_in_a_sentence(change: dict[str, object], message: str) -> None:
    config = ModelConfig(**change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        build_model(config, (1, 12, 12), 3)
