"""The same bound in float64, float32 and bf16, for every family of models and every likelihood."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import pytest
import torch
from test_pairs import SMALL as SMALL_PARTS
from torch import nn

from condvae.config import ModelConfig
from condvae.models.families import build_model
from condvae.models.networks import NETWORKS
from condvae.probability.likelihoods import LIKELIHOODS
from condvae.probability.posteriors import POSTERIORS
from condvae.probability.priors import PRIORS

SHAPE, CLASSES, IMAGES = (1, 8, 8), 3, 16
SINGLE, HALF = 2e-6, 2e-2
"""Shares of the bound's size (at least 100 nats) by which float32 may differ from float64, and bf16 from
float32."""
GRADIENT = 1e-3
"""Share of a gradient's length by which float32 may differ from float64."""
LADDER = "ladder(groups=[1, 2, 1], channels=[4, 2, 1], widths=[16, 8, 8], blocks=[0, 1, 1])"
SMALL = SMALL_PARTS | {
    "mlp": "mlp(widths=[16])",
    "conv": "conv(width=8, patch=4, hidden=16)",
    "resnet": "resnet(width=4, blocks=1)",
}


def configs() -> Iterator[tuple[str, ModelConfig]]:
    """Every likelihood in both families, and every network, prior and posterior."""

    def flat(**parts: str) -> ModelConfig:
        chosen = {key: SMALL.get(part, part) for key, part in ({"network": "mlp"} | parts).items()}
        return ModelConfig(latents=5, embedding=4, **chosen)  # type: ignore[arg-type]

    for likelihood in LIKELIHOODS.parts:
        yield f"flat, {likelihood}", flat(likelihood=likelihood)
        yield f"ladder, {likelihood}", ModelConfig(family=LADDER, likelihood=likelihood, embedding=4)
    for kind, parts in (("network", NETWORKS), ("prior", PRIORS), ("posterior", POSTERIORS)):
        for part in parts.parts:
            yield f"{kind} {part}", flat(**{kind: part})


def build(config: ModelConfig) -> nn.Module:
    """A model away from where its parts start."""
    torch.manual_seed(0)
    model = build_model(config, SHAPE, CLASSES).eval().requires_grad_(False)
    for parameter in model.parameters():
        each = parameter[0].numel() if parameter.ndim else 1
        parameter.add_(0.3 * torch.randn_like(parameter) / each**0.5)
    return model


def bound(model: nn.Module, noise: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (len(noise), *model.shape), generator=generator).to(torch.uint8)
    if model.likelihood.binary:  # type: ignore[union-attr]
        x = (x > 127).to(torch.uint8) * 255
    y = torch.arange(len(noise)) % CLASSES
    return model.elbo(x, y, noise).value  # type: ignore[operator]


@contextlib.contextmanager
def all_in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the models take in float32 is taken in float64."""
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "config"), list(configs()), ids=lambda given: given if isinstance(given, str) else ""
)
def test_bounds_agree(name: str, config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(config)
    twice = copy.deepcopy(model).double()
    noise = torch.randn(IMAGES, model.latents, generator=torch.Generator().manual_seed(2))
    single = bound(model, noise)
    with torch.autocast("cpu", torch.bfloat16):
        half = bound(model, noise)
    assert single.dtype == half.dtype == torch.float32
    with all_in_float64(monkeypatch):
        double = bound(twice, noise.double())
    assert double.dtype == torch.float64
    size = double.abs().clamp(min=100)
    assert ((single - double).abs() / size).max() < SINGLE, name
    assert ((half - single).abs() / size).max() < HALF, name


@pytest.mark.parametrize(
    "config",
    [ModelConfig(family=LADDER), *(ModelConfig(network=SMALL[part]) for part in NETWORKS.parts)],
    ids=["ladder", *NETWORKS.parts],
)
def test_gradients_agree(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor's kernels may be wrong for some shapes. Smooth units: rounding may switch a ReLU."""
    monkeypatch.setattr(torch.nn.functional, "relu", torch.nn.functional.silu)
    torch.manual_seed(0)
    model = build_model(config, (1, 28, 28), CLASSES)
    twice = copy.deepcopy(model).double()
    noise = torch.randn(64, model.latents)
    for _ in range(20):  # what is written where it shouldn't be may do no harm the first time
        model.zero_grad()
        bound(model, noise).mean().backward()
    with all_in_float64(monkeypatch):
        bound(twice, noise.double()).mean().backward()
    for (name, one), other in zip(model.named_parameters(), twice.parameters(), strict=True):
        if other.grad is not None and other.grad.norm() > 1e-9:
            assert (one.grad - other.grad).norm() < GRADIENT * other.grad.norm(), name
