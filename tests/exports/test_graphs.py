"""ONNX graphs give what PyTorch gives, at any batch size, for flat models and for ladders."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import condvae
from condvae.errors import UserError
from condvae.exports.graphs import as_seen, draws_noise_alone, run_graph, write_graphs
from condvae.models.conditional_vae import ConditionalVAE
from condvae.models.ladder import Ladder
from condvae.models.protocol import ConditionalModel

LADDER = {
    "groups": (1, 1, 1),
    "channels": (4, 2, 1),
    "widths": (16, 8, 8),
    "blocks": (0, 1, 1),
}


def flat(likelihood: str = "bernoulli", **options: object) -> ConditionalVAE:
    torch.manual_seed(0)
    settings: dict[str, object] = {"network": "mlp(widths=[16])", "latents": 5, "embedding": 4}
    return ConditionalVAE((3, 8, 8), 3, likelihood=likelihood, **settings | options).eval()  # type: ignore[arg-type]


def ladder() -> Ladder:
    torch.manual_seed(0)
    return Ladder((1, 10, 10), 3, "bernoulli", 4, ("encoder", "decoder"), **LADDER).eval()  # type: ignore[arg-type]


MODELS = {
    "mlp, bernoulli": flat,
    "conv": lambda: flat("discretised-logistic", network="conv(width=4, patch=2, blocks=[1, 0])"),
    "resnet": lambda: flat("categorical", network="resnet(width=4)"),
    "mixture of logistics": lambda: flat("discretised-logistic-mixture"),
    "flow prior": lambda: flat(prior="coupling-flow(steps=2, hidden=8)"),
    "mixture prior": lambda: flat(prior="mixture(components=3)"),
    "no label": lambda: flat(label_reaches=(), prior="standard-normal"),
    "ladder": ladder,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_graphs_give_what_pytorch_gives(name: str, tmp_path: Path) -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason="ONNX graphs need condvae[export]")
    model: ConditionalModel = MODELS[name]()
    written = write_graphs(model, tmp_path)
    assert set(written) == {"encoder", "decoder", *([] if name == "mixture prior" else ["sampler"])}
    image = 255 * torch.randint(0, 2, (7, *model.shape), dtype=torch.uint8)
    label = torch.arange(7) % 3
    with torch.no_grad():
        groups = model.encode(image, label) if model.likelihood.binary else None
    found = run_graph(written["encoder"], {"image": image.numpy(), "label": label.numpy()})
    assert found.shape == (7, model.latents)
    if groups is not None:
        own = torch.cat([group.flatten(1) for group in groups], 1).numpy()
        assert np.abs(found - own).max() < 1e-3, "a binary image is binarised to itself"
    made = run_graph(written["decoder"], {"latents": found, "label": label.numpy()})
    assert made.shape == (7, *model.shape) and made.dtype == np.uint8


def test_without_the_libraries_it_says_what_to_install(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"condvae\[export\]"):
        condvae.export(small_run, out=tmp_path)


@pytest.mark.parametrize("format", ["onxx", "ONNX"])
def test_unknown_formats_are_refused(small_run: Path, format: str) -> None:
    with pytest.raises(UserError, match="--format"):
        condvae.export(small_run, format=format)
    with pytest.raises(UserError, match="--runtime"):
        condvae.export(small_run, runtime="x")


def test_what_a_prior_draws_from_is_seen() -> None:
    for name, make in MODELS.items():
        assert draws_noise_alone(make()) == (name != "mixture prior"), name


def test_images_are_taken_as_they_are_for_a_while_only() -> None:
    model = flat()
    grey = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    with as_seen(model):
        assert (model.likelihood.observe(grey) == 128).all()
    assert not (model.likelihood.observe(grey) == 128).any()
